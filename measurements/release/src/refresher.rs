//! The thread that drives a [`Keeper`]: the only place here that reads clocks and waits.

use crate::clock::Instants;
use crate::keeper::{Keeper, Published};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A clock for [`Instants`]: the system's, and the time since it was made.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock(Instant);

impl SystemClock {
    /// Starts the counter.
    pub fn start() -> Self {
        SystemClock(Instant::now())
    }

    /// Both clocks now.
    pub fn now(&self) -> Instants {
        let host = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
        Instants { host, monotonic: self.0.elapsed() }
    }
}

/// Refreshes in the background until it is dropped.
#[derive(Debug)]
pub struct Refresher {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Refresher {
    /// Starts the thread. It refreshes at once, then whenever it is due, and tells `publish` each time: after a refresh,
    /// and when what was held has ended. `clock` must be the one that the keeper was opened with.
    pub fn spawn(
        mut keeper: Keeper,
        clock: SystemClock,
        mut publish: impl FnMut(Published) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::Builder::new().name("releases".into()).spawn(move || {
            loop {
                publish(keeper.refresh(clock.now()));
                let now = clock.now();
                let wait = keeper.due(now).saturating_sub(now.monotonic);
                match stopped.recv_timeout(wait) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
                // Before the mirror is asked, which may take its time.
                publish(keeper.published(clock.now()));
            }
        })?;
        Ok(Refresher { stop: Some(stop), thread: Some(thread) })
    }
}

impl Refresher {
    /// Stops it without waiting: a refresh under way ends by itself, and `publish` may be called once more.
    pub fn leave(mut self) {
        drop(self.stop.take());
        drop(self.thread.take());
    }
}

impl Drop for Refresher {
    /// Waits for a refresh under way, which the mirror's limits bound; unless it is `publish` itself that drops it.
    fn drop(&mut self) {
        drop(self.stop.take());
        let other = |thread: &JoinHandle<()>| thread.thread().id() != std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(other) {
            // A panic in it was told by the panic hook; there is nobody left to tell here.
            let _ = thread.join();
        }
    }
}
