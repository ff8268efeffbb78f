//! The time of appraisal inside a guest.
//!
//! A trust domain has no clock of its own: the time of day at boot is the host's word. What it does have is a counter that
//! the TDX module keeps steady (the TSC), so time that passed since is its own. From this follows what a host can do:
//!
//! - *Back*: evidence of a platform that was revoked meanwhile looks fresh again under old collateral. Bounded by the
//!   measured `trust.not_before`, below which this clock never reads; a policy's floor on the TCB evaluation number bounds it
//!   without any clock.
//! - *Forward*: collateral looks expired, and peers are refused. A host can deny service anyway.
//! - *Later*: nothing; the clock is read once.
//!
//! Signed time (a publication's timestamp, a block of the chain) can only raise the floor: [`Clock::raise`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Reads never run backwards and never lie before the floor.
#[derive(Debug)]
pub struct Clock {
    started: Instant,
    /// Unix seconds at `started`.
    base: AtomicU64,
}

impl Clock {
    /// From the machine's clock, but not before `floor` (Unix seconds).
    pub fn new(floor: u64) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Clock::from_wall(wall, floor)
    }

    fn from_wall(wall: u64, floor: u64) -> Self {
        Clock { started: Instant::now(), base: AtomicU64::new(wall.max(floor)) }
    }

    /// Unix seconds, by the guest's reckoning.
    pub fn now(&self) -> u64 {
        self.base.load(Ordering::Relaxed).saturating_add(self.started.elapsed().as_secs())
    }

    /// It is at least `at` now, says somebody who is believed and whose word is signed.
    pub fn raise(&self, at: u64) {
        let base = at.saturating_sub(self.started.elapsed().as_secs());
        self.base.fetch_max(base, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_turned_back_reads_the_measured_floor() {
        let clock = Clock::from_wall(0, 1_790_000_000);
        assert!(clock.now() >= 1_790_000_000);
    }

    #[test]
    fn signed_time_raises_the_clock_and_never_lowers_it() {
        let clock = Clock::from_wall(1_000, 0);
        clock.raise(5_000);
        assert!((5_000..5_100).contains(&clock.now()));
        clock.raise(2_000);
        assert!((5_000..5_100).contains(&clock.now()));
    }
}
