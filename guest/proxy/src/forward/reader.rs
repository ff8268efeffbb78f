//! A client that takes nothing of what is there for it is cut off: its worker's slot, its place and its money are others'.
//!
//! ```text
//! HTTP/2 asks for a piece --> Passing gives one --> ... nobody asks again for PATIENCE --> cut: as if the client had left
//! ```
//! Whoever does not read makes HTTP/2 ask for no more, so nothing that waits within the body would ever be woken: a task
//! of its own looks at all answers now and then.

use hyper::body::{Body, Frame, SizeHint};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a client may take nothing.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often answers are looked at.
const LOOK: Duration = Duration::from_secs(15);

/// An answer that can be given up while nobody asks for it.
pub trait Cut: Body + Unpin + Send + 'static {
    /// Its reader is as good as gone.
    fn cut(&mut self);
}

/// Answers under way, which one task looks at for as long as there are any.
#[derive(Default)]
pub struct Watch(Mutex<Watched>);

#[derive(Default)]
struct Watched {
    next: u64,
    answers: BTreeMap<u64, Weak<dyn Look>>,
    looks: bool,
}

trait Look: Send + Sync {
    fn look(&self);
}

struct Held<B> {
    body: B,
    /// Since when nobody asked for more of what is there; none while somebody waits for it.
    since: Option<Instant>,
}

/// A body that is cut off where its reader does not read.
pub struct Reader<B> {
    held: Arc<Mutex<Held<B>>>,
    watch: Arc<Watch>,
    id: u64,
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    // A body that panicked is asked for nothing more; a list is never left half changed.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B: Cut> Look for Mutex<Held<B>> {
    fn look(&self) {
        let mut held = lock(self);
        if held.since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            held.since = None;
            held.body.cut();
        }
    }
}

impl Watch {
    /// The body, looked at from now on.
    pub fn over<B: Cut>(self: &Arc<Self>, body: B) -> Reader<B> {
        let held = Arc::new(Mutex::new(Held { body, since: Some(Instant::now()) }));
        let seen: Weak<Mutex<Held<B>>> = Arc::downgrade(&held);
        let mut watched = lock(&self.0);
        let id = watched.next;
        watched.next += 1;
        watched.answers.insert(id, seen);
        if !std::mem::replace(&mut watched.looks, true) {
            tokio::spawn(look(self.clone()));
        }
        Reader { held, watch: self.clone(), id }
    }
}

async fn look(watch: Arc<Watch>) {
    loop {
        sleep(LOOK).await;
        let answers: Vec<Weak<dyn Look>> = {
            let mut watched = lock(&watch.0);
            if watched.answers.is_empty() {
                watched.looks = false;
                return;
            }
            watched.answers.values().cloned().collect()
        };
        // With the list open: what is cut may end, and leave it.
        answers.iter().filter_map(Weak::upgrade).for_each(|answer| answer.look());
    }
}

impl<B> Drop for Reader<B> {
    fn drop(&mut self) {
        lock(&self.watch.0).answers.remove(&self.id);
    }
}

impl<B: Cut> Body for Reader<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut held = lock(&self.held);
        let polled = Pin::new(&mut held.body).poll_frame(cx);
        held.since = polled.is_ready().then(Instant::now);
        polled
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.held).body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.held).body.size_hint()
    }
}
