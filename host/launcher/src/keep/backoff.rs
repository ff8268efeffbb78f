//! How long to wait before a machine is started again, and when to give it up.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// A machine that served for so long begins anew.
const STEADY: Duration = Duration::from_secs(600);

/// Failures in a row.
#[derive(Debug)]
pub struct Backoff {
    attempts: u32,
    failures: u32,
    serving: Option<Instant>,
}

impl Backoff {
    /// Gives up at the failure of this number.
    pub fn new(attempts: u32) -> Self {
        Backoff { attempts, failures: 0, serving: None }
    }

    /// The machine serves.
    pub fn serves(&mut self) {
        self.serving = Some(Instant::now());
    }

    /// The machine failed: how long to wait, or `None` to give up.
    pub fn failed(&mut self) -> Option<Duration> {
        let served = self.serving.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.after(served)
    }

    fn after(&mut self, served: Duration) -> Option<Duration> {
        if served >= STEADY {
            self.failures = 0;
        }
        self.failures += 1;
        let doubled = FIRST.saturating_mul(1 << (self.failures - 1).min(16));
        (self.failures < self.attempts).then_some(doubled.min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_end() {
        let mut backoff = Backoff::new(10);
        let waits: Vec<_> = std::iter::from_fn(|| backoff.failed().map(|wait| wait.as_secs())).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn one_attempt_is_one() {
        assert_eq!(Backoff::new(1).failed(), None);
    }

    #[test]
    fn a_steady_machine_begins_anew_and_a_short_life_does_not() {
        let mut backoff = Backoff::new(5);
        backoff.failed();
        assert_eq!(backoff.after(STEADY / 2), Some(Duration::from_secs(2)));
        assert_eq!(backoff.after(STEADY), Some(FIRST));
    }
}
