//! What a verifier holds evidence against, replaceable while connections live.

use evidence::gpu::{GpuCollateral, GpuPolicy};
use evidence::{Cache, Collateral, Policy, Reference};
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// What a verifier holds evidence against.
#[derive(Debug, Clone)]
pub struct Trust {
    /// What is accepted, and the trust root.
    pub policy: Policy,
    /// What is published about the peer's platform.
    pub collateral: Collateral,
    /// Registers of the releases that are accepted.
    pub reference: Reference,
    /// What was verified of platforms already: connections under one trust, and under its clones, pay for a platform's chain
    /// once. It changes no verdict.
    pub cache: Arc<Cache>,
    /// For peers with GPUs; without it no GPU evidence is believed.
    pub gpu: Option<GpuTrust>,
}

/// What GPU evidence is held against.
#[derive(Debug, Clone)]
pub struct GpuTrust {
    /// What is accepted, and the trust roots.
    pub policy: GpuPolicy,
    /// Manifests of drivers, raw.
    pub driver_rims: Vec<Vec<u8>>,
    /// Manifests of VBIOSes, raw.
    pub vbios_rims: Vec<Vec<u8>>,
    /// OCSP responses, DER.
    pub ocsp: Vec<Vec<u8>>,
}

impl GpuTrust {
    /// This policy, and what was handed over.
    pub fn new(policy: GpuPolicy, collateral: GpuCollateral) -> Self {
        let GpuCollateral { driver_rims, vbios_rims, ocsp } = collateral;
        GpuTrust { policy, driver_rims, vbios_rims, ocsp }
    }
}

impl Trust {
    /// With a cache of its own that is empty, and for peers without GPUs.
    pub fn new(policy: Policy, collateral: Collateral, reference: Reference) -> Self {
        Trust { policy, collateral, reference, cache: Arc::default(), gpu: None }
    }
}

/// Judges peers: a trust that can be replaced at run time, and a clock.
pub struct Verifier {
    trust: watch::Sender<Arc<Trust>>,
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Verifier {
    /// `clock` tells Unix seconds.
    pub fn new(trust: Trust, clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Verifier { trust: watch::Sender::new(Arc::new(trust)), clock: Box::new(clock) }
    }

    /// One for which it is always `at`.
    pub fn fixed(trust: Trust, at: u64) -> Self {
        Self::new(trust, move || at)
    }

    /// What counts now.
    pub fn trust(&self) -> Arc<Trust> {
        self.trust.borrow().clone()
    }

    /// From now on this counts: for peers that come, and, through [`changed`](Self::changed), for those that are here.
    pub fn replace(&self, trust: Trust) {
        self.trust.send_replace(Arc::new(trust));
    }

    /// Tells of replacements; ask [`still_trusts`](Self::still_trusts) then.
    pub fn changed(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }

    /// The time, Unix seconds.
    pub fn now(&self) -> u64 {
        (self.clock)()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("trust", &self.trust()).finish_non_exhaustive()
    }
}
