//! What a worker's record is worth: requests that went well against faults, the older the lighter.
//!
//! Only what no right worker does counts as a fault. A full queue, a client that left and a connection that broke say
//! nothing of who is at the other end.

/// Milliseconds in which a memory fades to half: ten minutes.
const HALF: f64 = 600_000.0;
/// Good requests that everybody begins with, so that one fault does not end a new worker.
const CREDIT: f64 = 2.0;
/// Weight of a fault against that of a good request.
const WEIGHT: f64 = 4.0;
/// Nobody is worth less, so that whoever got better is found out.
const LEAST: f64 = 0.01;

/// Decayed counts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Record {
    good: f64,
    bad: f64,
    at: u64,
}

impl Record {
    /// One more that went well.
    pub fn good(&mut self, ms: u64) {
        self.fade(ms);
        // A long good record is worth no licence to fail: it counts as twenty at most.
        self.good = (self.good + 1.0).min(20.0);
    }

    /// One more fault.
    pub fn bad(&mut self, ms: u64) {
        self.fade(ms);
        self.bad = (self.bad + WEIGHT).min(400.0);
    }

    /// Between [`LEAST`] and 1: the part that went well, squared.
    pub fn worth(&self, ms: u64) -> f64 {
        let left = self.left(ms);
        let (good, bad) = (self.good * left + CREDIT, self.bad * left);
        (good / (good + bad)).powi(2).max(LEAST)
    }

    /// When it changed last.
    pub fn touched(&self) -> u64 {
        self.at
    }

    fn left(&self, ms: u64) -> f64 {
        (-(ms.saturating_sub(self.at) as f64) / HALF).exp2()
    }

    fn fade(&mut self, ms: u64) {
        let left = self.left(ms);
        (self.good, self.bad, self.at) = (self.good * left, self.bad * left, self.at.max(ms));
    }
}
