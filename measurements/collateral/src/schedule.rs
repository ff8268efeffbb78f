//! When to ask the service again, as a pure function of times and failures (Unix seconds).
//!
//! ```text
//! fetched ........ due ................. urgent .. expires
//!          1 day, or half of the life      failures: 1, 2, 4 ... minutes, an hour at most
//! ```
//! Intel publishes a TCB recovery at any time, so a copy is looked after daily though it holds for a month.

/// Longest time without a look at the service.
const DAILY: u64 = 24 * 60 * 60;
/// Wait after the first failure.
const FIRST_RETRY: u64 = 60;
/// Longest wait between attempts that fail.
const LAST_RETRY: u64 = 60 * 60;

/// One copy of collateral and how the attempts to renew it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// When it was fetched.
    pub fetched: u64,
    /// When the first of its parts expires.
    pub expires: u64,
    /// Attempts since then that failed.
    pub failures: u32,
    /// When the last of those ended.
    pub failed: u64,
}

impl Copy {
    /// A copy that was fetched now.
    pub fn fresh(fetched: u64, expires: u64) -> Self {
        Copy { fetched, expires, failures: 0, failed: 0 }
    }

    /// Whether it may be used.
    pub fn holds(&self, now: u64) -> bool {
        now < self.expires
    }

    /// When it should be renewed: after a day, or after half of what is left of its life where that is less; after a
    /// failure, when the wait is over.
    pub fn due(&self) -> u64 {
        if self.failures > 0 {
            return self.failed.saturating_add(wait(self.failures));
        }
        let life = self.expires.saturating_sub(self.fetched);
        self.fetched.saturating_add(DAILY.min(life / 2).max(FIRST_RETRY))
    }

    /// The same copy after one more failure.
    pub fn after_failure(self, now: u64) -> Self {
        Copy { failures: self.failures.saturating_add(1), failed: now, ..self }
    }
}

/// Seconds to wait after that many failures in a row.
pub fn wait(failures: u32) -> u64 {
    let doubled = failures.saturating_sub(1).min(16);
    (FIRST_RETRY << doubled).min(LAST_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_lived_copy_is_renewed_daily_and_a_short_lived_one_at_half_of_its_life() {
        assert_eq!(Copy::fresh(1000, 1000 + 30 * DAILY).due(), 1000 + DAILY);
        assert_eq!(Copy::fresh(1000, 1600).due(), 1300);
        // A service that serves what is about to expire is not asked without a pause.
        assert_eq!(Copy::fresh(1000, 1010).due(), 1060);
    }

    #[test]
    fn failures_are_tried_again_ever_later_but_hourly_at_least() {
        let waits: Vec<u64> = [1, 2, 3, 7, 8, u32::MAX].into_iter().map(wait).collect();
        assert_eq!(waits, [60, 120, 240, 3600, 3600, 3600]);
        let copy = Copy::fresh(0, 30 * DAILY).after_failure(5000);
        assert_eq!((copy.due(), copy.after_failure(6000).due()), (5060, 6120));
    }

    #[test]
    fn a_copy_holds_until_it_expires_whatever_failed() {
        let mut copy = Copy::fresh(0, 1000);
        for now in [10, 500, 998] {
            copy = copy.after_failure(now);
        }
        assert!(copy.holds(999) && !copy.holds(1000));
    }

    proptest::proptest! {
        #[test]
        fn due_never_overflows_and_never_precedes_the_fetch(fetched: u64, expires: u64, failures: u32, failed: u64) {
            let copy = Copy { fetched, expires, failures, failed };
            let from = if failures > 0 { failed } else { fetched };
            proptest::prop_assert!(copy.due() >= from);
        }
    }
}
