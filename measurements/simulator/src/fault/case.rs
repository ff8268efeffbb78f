//! Evidence that passes, with everything that its appraisal takes.

use super::AT;
use crate::platform::Platform;
use crate::{Guest, Identity, SimulatorError};
use evidence::{Collateral, Hex, Reference, TdReport};
use measure::Digest384;
use measure::runtime::{GpuEvidence, RuntimeEvent};
use measure::wire::Evidence;
use std::sync::Arc;

const STATIC_CONFIG: &[u8] = b"schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n";
const MODELS: [(&str, [u8; 32]); 2] = [("one", [1; 32]), ("two", [2; 32])];
const REPORT_DATA: [u8; 64] = [0x5a; 64];

/// Everything that an appraisal takes.
#[derive(Clone)]
pub struct Case {
    /// What the guest sends.
    pub evidence: Evidence,
    /// What is published about its platform.
    pub collateral: Collateral,
    /// Root for the policy.
    pub root_der: Vec<u8>,
    /// Registers that are accepted.
    pub reference: Reference,
    /// What the quote was asked to contain.
    pub report_data: [u8; 64],
    /// When, Unix seconds.
    pub at: u64,
    pub(super) td: TdReport,
    identity: Identity,
    platform: Arc<Platform>,
}

impl Case {
    /// Another quote of the same platform, over the same TD but for what `change` does to it.
    pub fn requote(&self, change: impl FnOnce(&mut TdReport)) -> Vec<u8> {
        let mut td = self.td.clone();
        change(&mut td);
        self.identity.quote(&td)
    }

    /// A quote of the same TD and platform whose quoting enclave made itself another attestation key.
    pub fn requote_with_new_key(&self) -> Result<Vec<u8>, SimulatorError> {
        Ok(self.platform.fresh_identity()?.quote(&self.td))
    }

    pub(super) fn good(platform: &Arc<Platform>, identity: &Identity) -> Result<Self, SimulatorError> {
        let guest = Guest::boot(identity.clone(), STATIC_CONFIG, &MODELS)?;
        let td = TdReport { report_data: Hex(REPORT_DATA), ..guest.td().clone() };
        let evidence = Evidence {
            quote: guest.quote(&REPORT_DATA),
            event_log: guest.event_log(),
            static_config: STATIC_CONFIG.to_vec(),
            runtime: guest.runtime(),
        };
        Ok(Case {
            evidence,
            collateral: platform.collateral()?,
            root_der: platform.root_der()?,
            reference: crate::reference()?,
            report_data: REPORT_DATA,
            at: AT,
            td,
            identity: identity.clone(),
            platform: platform.clone(),
        })
    }
}

/// What a guest with two models measures.
pub(super) fn runtime_events(mrconfigid: &Digest384) -> Vec<RuntimeEvent> {
    let models = MODELS.map(|(name, root)| RuntimeEvent::Model { name: name.into(), root });
    let mut events = vec![RuntimeEvent::StaticConfig { sha384: *mrconfigid }];
    events.extend(models);
    events.extend([RuntimeEvent::Gpu(GpuEvidence::none()), RuntimeEvent::Sealed]);
    events
}
