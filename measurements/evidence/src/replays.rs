//! What event logs come to, for those that were seen before: machines of one shape and release send the same one again and
//! again.
//!
//! ```text
//! log --the very same bytes, format and platform?--> what it replays to
//!     '--else--> replayed; kept if it explained the registers of a quote whose signatures hold
//! ```
//! What a log comes to is a function of its bytes, its format and the platform. It is held against each quote anew, so
//! nothing of a verdict is kept here. Logs are compared and not hashed: that is cheaper, and leaves nothing to collide.

use crate::policy::Platform;
use measure::wire::EventLog;
use measure::{Register, Registers};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Logs that are kept, each of at most [`measure::wire::MAX_EVENT_LOG`] bytes.
const MAX_LOGS: usize = 8;

/// What a log comes to, and for which registers it speaks.
#[derive(Debug)]
pub(crate) struct Replayed {
    /// MRTD only where it is covered.
    pub(crate) registers: Registers,
    pub(crate) covers: Vec<Register>,
    pub(crate) events: usize,
}

#[derive(Debug)]
struct Known {
    log: EventLog,
    platform: Platform,
    replayed: Arc<Replayed>,
}

/// Logs that were replayed, the oldest first out.
#[derive(Debug)]
pub(crate) struct Replays {
    known: Mutex<VecDeque<Arc<Known>>>,
    max: usize,
    found: AtomicU64,
}

impl Replays {
    /// Keeps [`MAX_LOGS`], or as many as there may be platforms if that is less.
    pub(crate) fn new(platforms: usize) -> Self {
        Replays { known: Mutex::default(), max: platforms.min(MAX_LOGS), found: AtomicU64::new(0) }
    }

    /// What this log comes to, if it was kept.
    pub(crate) fn find(&self, log: &EventLog, platform: Platform) -> Option<Arc<Replayed>> {
        // Compared with the lock open.
        let known = self.lock().clone();
        let found = known.iter().rev().find(|known| known.platform == platform && known.log == *log)?;
        self.found.fetch_add(1, Ordering::Relaxed);
        Some(found.replayed.clone())
    }

    /// Keeps what a log came to that was not found.
    pub(crate) fn keep(&self, log: &EventLog, platform: Platform, replayed: &Arc<Replayed>) {
        if self.max == 0 {
            return;
        }
        let known = Arc::new(Known { log: log.clone(), platform, replayed: replayed.clone() });
        let mut all = self.lock();
        if all.len() >= self.max {
            all.pop_front();
        }
        all.push_back(known);
    }

    /// How often a log was known, and how many are kept.
    pub(crate) fn stats(&self) -> (u64, usize) {
        (self.found.load(Ordering::Relaxed), self.lock().len())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Known>>> {
        // Nothing is left half done under the lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
