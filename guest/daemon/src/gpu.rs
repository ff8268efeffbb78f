//! GPU evidence on demand: what this daemon answers to a peer that wants to see its GPUs.
//!
//! ```text
//! record of the gate: accepted? -- no --> none is shown, and a peer that demands it is told so
//!                               \- yes -> driver -> fresh: reports over the peer's nonce
//!                                              \--> cached: reports over a nonce of our own, at most RENEW old
//! ```
//! Taking reports occupies the GPUs for a second or more, so one taking runs at a time and few may wait for it: whoever demands
//! evidence costs this guest no more than that.
//!
//! Deliberately absent: judging one's own evidence (the gate did, before the GPUs were set ready) and setting anything ready.

use evidence::gpu::{DeviceEvidence, GpuCollateral, GpuDriver, MAX_GPU_COLLATERAL};
use protocol::channel::GpuShown;
use protocol::handoff::GPU_COLLATERAL_FILE;
use protocol::runtime::{GpuVerdict, RuntimeEvent, RuntimeRecord};
use ratls::GpuSource;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Reports are taken anew for those who take older ones after this time.
const RENEW: Duration = Duration::from_secs(300);
/// Demands that may wait for the GPUs at one time.
const WAITING: usize = 16;

/// Whether the gate of this guest accepted GPUs: what its measured record says, which travels with every quote. Without that,
/// no program may use one.
pub fn accepted(record: &Path) -> bool {
    let mut bytes = Vec::new();
    let read = File::open(record)
        .and_then(|file| file.take(protocol::runtime::MAX_RECORD as u64 + 1).read_to_end(&mut bytes));
    let record = read.ok().and_then(|_| RuntimeRecord::from_bytes(&bytes).ok());
    let is_accepted = |event: &RuntimeEvent| matches!(event, RuntimeEvent::Gpu(gpu) if matches!(gpu.verdict, GpuVerdict::Accepted(_)));
    record.is_some_and(|record| record.log.events().iter().any(is_accepted))
}

/// What shows this guest's GPUs to its peers, with the collateral that was handed over (`trust` is its folder); none where its
/// gate accepted none.
pub fn source(record: &Path, trust: &Path) -> Option<Arc<dyn GpuSource>> {
    let handed = || {
        let mut bytes = Vec::new();
        let file = File::open(trust.join(GPU_COLLATERAL_FILE)).ok()?;
        file.take(MAX_GPU_COLLATERAL as u64 + 1).read_to_end(&mut bytes).ok()?;
        // The gate read the same and accepted by it.
        GpuCollateral::parse(&bytes).ok()
    };
    let gpus = || Gpus::new(attest::gpu::driver()).handing(handed().unwrap_or_default());
    accepted(record).then(|| Arc::new(gpus()) as Arc<dyn GpuSource>)
}

/// GPU evidence of one driver.
pub struct Gpus {
    driver: Arc<dyn GpuDriver>,
    collateral: GpuCollateral,
    taken: Mutex<Option<(Instant, GpuShown)>>,
    waiting: AtomicUsize,
}

impl Gpus {
    /// Takes it from this driver.
    pub fn new(driver: Arc<dyn GpuDriver>) -> Self {
        let collateral = GpuCollateral::default();
        Gpus { driver, collateral, taken: Mutex::default(), waiting: AtomicUsize::new(0) }
    }

    /// Hands this along with the evidence, so that a peer need not have it.
    #[must_use]
    pub fn handing(self, collateral: GpuCollateral) -> Self {
        Gpus { collateral, ..self }
    }

    fn take(&self, nonce: &[u8; 32]) -> Result<Vec<u8>, String> {
        let devices = self.driver.evidence(nonce).map_err(|error| error.to_string())?;
        Ok(DeviceEvidence::to_envelope_with(&devices, nonce, &self.collateral).into_bytes())
    }

    /// Runs with the GPUs to itself, unless too many wait already.
    fn alone<T>(&self, run: impl FnOnce(&mut Option<(Instant, GpuShown)>) -> T) -> Option<T> {
        let place = Place::of(&self.waiting)?;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let result = run(&mut taken);
        drop((taken, place));
        Some(result)
    }

    /// Reports that were taken at most [`RENEW`] ago, with their age.
    fn recent(&self, taken: &mut Option<(Instant, GpuShown)>) -> Option<GpuShown> {
        if taken.as_ref().is_none_or(|(at, _)| at.elapsed() > RENEW) {
            let nonce = random()?;
            let at = Instant::now();
            let envelope = self.take(&nonce).ok()?;
            *taken = Some((at, GpuShown { envelope, nonce, age_s: 0 }));
        }
        let (at, shown) = taken.as_ref()?;
        let age_s = u32::try_from(at.elapsed().as_secs()).unwrap_or(u32::MAX);
        Some(GpuShown { age_s, ..shown.clone() })
    }
}

impl GpuSource for Gpus {
    fn fresh(&self, nonce: &[u8; 32]) -> Result<Vec<u8>, String> {
        let taken = self.alone(|_| self.take(nonce));
        taken.unwrap_or_else(|| Err(format!("{WAITING} demands wait for the GPUs already")))
    }

    fn cached(&self) -> Option<GpuShown> {
        self.alone(|taken| self.recent(taken)).flatten()
    }
}

fn random() -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).ok()?;
    Some(bytes)
}

/// One of those who wait.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn of(count: &'a AtomicUsize) -> Option<Self> {
        // Made first, so that it is given back however this ends.
        let place = Place(count);
        (count.fetch_add(1, Ordering::Relaxed) < WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Digest384;
    use protocol::runtime::{Extension, GpuEvidence, RuntimeLog};
    use simulator::gpu::{Call, GpuMachine, SimulatedDriver};

    fn driver() -> Arc<SimulatedDriver> {
        Arc::new(SimulatedDriver::new(GpuMachine::Hopper(1).start().unwrap()))
    }

    fn record(gpu: GpuEvidence) -> Vec<u8> {
        let (mut log, _) = RuntimeLog::begin(Digest384([1; 48]));
        log.gpu(gpu).unwrap();
        let (log, _) = log.seal().unwrap();
        RuntimeRecord { extension: Extension::NotExtended, log }.to_bytes()
    }

    #[test]
    fn only_a_sealed_acceptance_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        assert!(!accepted(&path), "no record");
        let policy = Digest384::of(b"count = 1");
        let cases = [
            (record(GpuEvidence::none()), false),
            (record(GpuEvidence { policy, verdict: GpuVerdict::NoGpu }), false),
            (record(GpuEvidence { policy, verdict: GpuVerdict::Accepted(Digest384([2; 48])) }), true),
        ];
        for (bytes, expected) in cases {
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!((accepted(&path), source(&path, dir.path()).is_some()), (expected, expected));
            std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
            assert!(!accepted(&path), "a record that was cut");
        }
    }

    #[test]
    fn fresh_reports_are_over_the_nonce_of_the_demand_and_recent_ones_are_taken_once() {
        let driver = driver();
        let gpus = Gpus::new(driver.clone());
        assert!(!gpus.fresh(&[7; 32]).unwrap().is_empty());
        let (first, second) = (gpus.cached().unwrap(), gpus.cached().unwrap());
        assert_eq!((first.nonce, &first.envelope), (second.nonce, &second.envelope));
        assert_eq!(driver.calls(), [Call::Evidence([7; 32]), Call::Evidence(first.nonce)]);
    }

    #[test]
    fn a_driver_that_fails_shows_nothing_and_says_so_to_this_guest_alone() {
        let driver = SimulatedDriver::new(GpuMachine::Hopper(1).start().unwrap()).failing(|_| true);
        let gpus = Gpus::new(Arc::new(driver));
        assert!(gpus.fresh(&[7; 32]).unwrap_err().contains("GPU driver"));
        assert!(gpus.cached().is_none());
    }

    #[test]
    fn no_more_than_a_few_wait_and_each_gives_its_place_back() {
        let count = AtomicUsize::new(0);
        let places: Vec<_> = (0..WAITING).map(|_| Place::of(&count).unwrap()).collect();
        assert!(Place::of(&count).is_none() && Place::of(&count).is_none());
        drop(places);
        assert!(Place::of(&count).is_some());
        assert_eq!(count.into_inner(), 0);
    }
}
