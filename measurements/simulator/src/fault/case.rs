//! Evidence that passes, with everything that its appraisal takes.

use super::AT;
use crate::platform::Platform;
use crate::{Identity, SimulatorError, tpm};
use evidence::{Collateral, Reference, Release, Rtmr3, TdReport};
use measure::runtime::{self, Extension, GpuEvidence, RuntimeEvent};
use measure::wire::{EventLog, Evidence, LogFormat};
use measure::{Digest384, Registers};
use std::sync::Arc;

const STATIC_CONFIG: &[u8] = b"schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n";
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
        let log = tpm::sample_log();
        let mut registers = tpm::registers(&log, &tpm::replayed(&log)?)?;
        let mrconfigid = measure::wire::mrconfigid(STATIC_CONFIG);
        let events = runtime_events(&Digest384(mrconfigid));
        registers.rtmr[3] = runtime::fold(&events);
        let td = identity.td_report(&registers, mrconfigid, REPORT_DATA);
        let evidence = Evidence {
            quote: identity.quote(&td),
            event_log: EventLog { format: LogFormat::Tpm, bytes: log },
            static_config: STATIC_CONFIG.to_vec(),
            runtime: runtime::encode(Extension::Extended, &events),
        };
        Ok(Case {
            evidence,
            collateral: platform.collateral()?,
            root_der: platform.root_der()?,
            reference: reference(&registers),
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
    let model = |name: &str, fill| RuntimeEvent::Model { name: name.into(), root: [fill; 32] };
    vec![
        RuntimeEvent::StaticConfig { sha384: *mrconfigid },
        model("one", 1),
        model("two", 2),
        RuntimeEvent::Gpu(GpuEvidence::none()),
        RuntimeEvent::Sealed,
    ]
}

fn reference(registers: &Registers) -> Reference {
    let release = Release {
        name: "simulated release".into(),
        mrtd: registers.mrtd,
        rtmr0: registers.rtmr[0],
        rtmr1: registers.rtmr[1],
        rtmr2: registers.rtmr[2],
        rtmr3: Some(Rtmr3::Events),
    };
    Reference { schema: 1, releases: vec![release], mrconfigid: None }
}
