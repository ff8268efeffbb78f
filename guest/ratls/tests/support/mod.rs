//! A SIMULATED platform in this process: real quotes under a root of its own, and what a verifier needs to hold them
//! against.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use evidence::{Collateral, Hex, Policy, Reference, Release, TdReport};
use protocol::evidence::{EventLog, LogFormat};
use protocol::{AttestError, Attester};
use simulator::{Identity, Platform, tpm};
use std::sync::Arc;

/// When all of this happens, Unix seconds.
pub const AT: u64 = 1_790_000_000;
/// What the simulated guest was configured with.
pub const STATIC_CONFIG: &[u8] = b"schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n";

/// The guest's side.
pub struct Simulated {
    identity: Identity,
    td: TdReport,
    log: Vec<u8>,
}

impl Attester for Simulated {
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        let td = TdReport { report_data: Hex(*report_data), ..self.td.clone() };
        Ok(self.identity.quote(&td))
    }

    fn event_log(&self) -> Result<EventLog, AttestError> {
        Ok(EventLog { format: LogFormat::Tpm, bytes: self.log.clone() })
    }
}

/// Both sides: a guest, and what its verifier holds its evidence against.
pub struct World {
    pub attester: Arc<Simulated>,
    pub policy: Policy,
    pub collateral: Collateral,
    pub reference: Reference,
}

/// A world of its own, with its own root.
pub fn world() -> World {
    world_with(STATIC_CONFIG)
}

/// One whose guest was configured with these bytes.
pub fn world_with(static_config: &[u8]) -> World {
    let platform = Platform::generate(AT).unwrap();
    let log = tpm::sample_log();
    let registers = tpm::registers(&log, &tpm::replayed(&log).unwrap()).unwrap();
    let release = Release {
        name: "simulated release".into(),
        mrtd: registers.mrtd,
        rtmr0: registers.rtmr[0],
        rtmr1: registers.rtmr[1],
        rtmr2: registers.rtmr[2],
        rtmr3: None,
    };
    let identity = platform.identity().unwrap();
    let td = identity.td_report(&registers, protocol::config::mrconfigid(static_config), [0; 64]);
    World {
        policy: Policy::simulated(&platform.root_der().unwrap()).unwrap(),
        collateral: platform.collateral().unwrap(),
        reference: Reference { schema: 1, releases: vec![release], mrconfigid: None },
        attester: Arc::new(Simulated { identity, td, log }),
    }
}
