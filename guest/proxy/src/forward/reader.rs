//! A client that takes nothing of what is there for it is cut off: its worker's slot, its place and its money are others'.
//!
//! ```text
//! HTTP/2 asks for a piece --> Passing gives one --> ... nobody asks again for PATIENCE --> cut: as if the client had left
//! ```
//! Whoever does not read makes HTTP/2 ask for no more, so nothing that waits within the body would ever be woken: a task
//! of its own looks at each answer now and then.

use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::AbortHandle;
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

struct Held<B> {
    body: B,
    /// Since when nobody asked for more of what is there; none while somebody waits for it.
    since: Option<Instant>,
}

type Shared<B> = Mutex<Held<B>>;

/// A body that is cut off where its reader does not read.
pub struct Reader<B>(Arc<Shared<B>>, AbortHandle);

impl<B: Cut> Reader<B> {
    /// From now on.
    pub fn of(body: B) -> Self {
        let held = Arc::new(Mutex::new(Held { body, since: Some(Instant::now()) }));
        let looking = tokio::spawn(look(Arc::downgrade(&held)));
        Reader(held, looking.abort_handle())
    }
}

impl<B> Drop for Reader<B> {
    fn drop(&mut self) {
        self.1.abort();
    }
}

fn lock<B>(held: &Shared<B>) -> MutexGuard<'_, Held<B>> {
    // A body that panicked is asked for nothing more.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn look<B: Cut>(held: Weak<Shared<B>>) {
    loop {
        sleep(LOOK).await;
        let Some(held) = held.upgrade() else { return };
        let mut held = lock(&held);
        if held.since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            return held.body.cut();
        }
    }
}

impl<B: Cut> Body for Reader<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut held = lock(&self.0);
        let polled = Pin::new(&mut held.body).poll_frame(cx);
        held.since = polled.is_ready().then(Instant::now);
        polled
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0).body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0).body.size_hint()
    }
}
