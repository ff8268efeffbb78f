//! The time where the host controls the clock.
//!
//! ```text
//! now = max(what the host says,  each lower bound + what has passed since it was learnt)
//! ```
//! A lower bound is a time that has certainly passed: a date in measured settings, the newest date that a trusted key has
//! signed, the time of a block, the issue of collateral. What has passed is measured by a counter that the host can't turn
//! back (the TSC of a trust domain). So a clock set back ends where the last bound stands and moves on from there; a clock
//! set ahead only makes things expire. Why, and what remains: docs/decisions/0032.

use std::time::Duration;

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instants {
    /// What the host says, Unix seconds.
    pub host: u64,
    /// A counter that only goes forward, from any start.
    pub monotonic: Duration,
}

/// A time that had passed at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    at_least: u64,
    learnt: Duration,
}

impl Bound {
    fn now(self, monotonic: Duration) -> u64 {
        self.at_least.saturating_add(monotonic.saturating_sub(self.learnt).as_secs())
    }
}

/// Lower bounds of the time.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// For good: settings, blocks, collateral.
    lasting: Option<Bound>,
    /// What the publication says; it goes when its keys are replaced.
    issued: Option<(u64, Bound)>,
}

impl Clock {
    /// Learns that it is no earlier than this, from a source that the caller has verified.
    pub fn raise(&mut self, at_least: u64, monotonic: Duration) {
        let bound = Bound { at_least, learnt: monotonic };
        if self.lasting.is_none_or(|held| held.now(monotonic) < at_least) {
            self.lasting = Some(bound);
        }
    }

    /// Learns the newest date in the publication's metadata; `None` forgets it, which follows a change of keys only.
    pub fn published(&mut self, issued: Option<u64>, monotonic: Duration) {
        if self.issued.map(|(date, _)| date) != issued {
            self.issued = issued.map(|date| (date, Bound { at_least: date, learnt: monotonic }));
        }
    }

    /// The time, Unix seconds.
    pub fn now(&self, at: Instants) -> u64 {
        let bounds = [self.lasting, self.issued.map(|(_, bound)| bound)];
        bounds.into_iter().flatten().map(|bound| bound.now(at.monotonic)).fold(at.host, u64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(host: u64, monotonic: u64) -> Instants {
        Instants { host, monotonic: Duration::from_secs(monotonic) }
    }

    #[test]
    fn a_clock_set_back_stops_at_the_newest_bound_and_moves_on() {
        let mut clock = Clock::default();
        clock.raise(1000, Duration::from_secs(5));
        assert_eq!(clock.now(at(10, 5)), 1000);
        assert_eq!(clock.now(at(10, 65)), 1060);
        clock.published(Some(2000), Duration::from_secs(70));
        assert_eq!(clock.now(at(0, 80)), 2010);
        assert_eq!(clock.now(at(9000, 80)), 9000);
    }

    #[test]
    fn an_older_bound_changes_nothing_and_the_same_one_keeps_its_age() {
        let mut clock = Clock::default();
        clock.raise(1000, Duration::from_secs(0));
        clock.raise(900, Duration::from_secs(10));
        clock.raise(1005, Duration::from_secs(10));
        assert_eq!(clock.now(at(0, 20)), 1020);
        clock.published(Some(3000), Duration::from_secs(20));
        clock.published(Some(3000), Duration::from_secs(30));
        assert_eq!(clock.now(at(0, 40)), 3020);
        clock.published(None, Duration::from_secs(40));
        assert_eq!(clock.now(at(0, 40)), 1040);
    }

    proptest! {
        #[test]
        fn time_never_goes_back_whatever_the_host_says(hosts in proptest::collection::vec(any::<u64>(), 1..20), bound: u32) {
            let mut clock = Clock::default();
            clock.raise(bound.into(), Duration::ZERO);
            let mut last = 0;
            for (tick, host) in hosts.into_iter().enumerate() {
                let now = clock.now(at(host % 1000, tick as u64));
                prop_assert!(now >= u64::from(bound) + tick as u64 && now >= host % 1000);
                prop_assert!(now >= last || last < 1000);
                last = now;
            }
        }
    }
}
