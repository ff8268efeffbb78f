//! A SIMULATED platform in this process: real quotes under a root of its own, and what a verifier needs to hold them
//! against.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use evidence::{Collateral, Hex, Policy, Reference, Release, Rtmr3, TdReport};
use protocol::channel::Part;
use protocol::evidence::{EventLog, LogFormat};
use protocol::runtime::{Extension, GpuEvidence, RuntimeLog, RuntimeRecord};
use protocol::{AttestError, Attester, Digest384};
use ratls::{Acceptor, Endpoint, QuoteLimits, QuoteQueue, Trust, Verifier, Wanted};
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
    runtime: Vec<u8>,
}

impl Attester for Simulated {
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        let td = TdReport { report_data: Hex(*report_data), ..self.td.clone() };
        Ok(self.identity.quote(&td))
    }

    fn event_log(&self) -> Result<EventLog, AttestError> {
        Ok(EventLog { format: LogFormat::Tpm, bytes: self.log.clone() })
    }

    fn runtime(&self) -> Result<Vec<u8>, AttestError> {
        Ok(self.runtime.clone())
    }
}

/// What a guest of this configuration that opened these models has measured and extended.
pub fn runtime_record(static_config: &[u8], models: &[&str]) -> RuntimeRecord {
    let (mut log, _) = RuntimeLog::begin(Digest384(protocol::config::mrconfigid(static_config)));
    for name in models {
        log.model(name, [7; 32]).unwrap();
    }
    log.gpu(GpuEvidence::none()).unwrap();
    RuntimeRecord { extension: Extension::Extended, log: log.seal().unwrap().0 }
}

/// Both sides: a guest, and what its verifier holds its evidence against.
pub struct World {
    pub static_config: Vec<u8>,
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
    world_at(static_config, AT)
}

/// One whose platform was made at another time.
pub fn world_at(static_config: &[u8], at: u64) -> World {
    let platform = Platform::generate(at).unwrap();
    let log = tpm::sample_log();
    let mut registers = tpm::registers(&log, &tpm::replayed(&log).unwrap()).unwrap();
    let record = runtime_record(static_config, &[]);
    registers.rtmr[3] = record.log.rtmr3();
    let release = Release {
        name: "simulated release".into(),
        mrtd: registers.mrtd,
        rtmr0: registers.rtmr[0],
        rtmr1: registers.rtmr[1],
        rtmr2: registers.rtmr[2],
        rtmr3: Some(Rtmr3::Events),
    };
    let identity = platform.identity().unwrap();
    let td = identity.td_report(&registers, protocol::config::mrconfigid(static_config), [0; 64]);
    World {
        static_config: static_config.to_vec(),
        policy: Policy::simulated(&platform.root_der().unwrap()).unwrap(),
        collateral: platform.collateral().unwrap(),
        reference: Reference { schema: 1, releases: vec![release], mrconfigid: None },
        attester: Arc::new(Simulated { identity, td, log, runtime: record.to_bytes() }),
    }
}

impl World {
    /// What the verifier holds evidence against.
    pub fn trust(&self) -> Trust {
        Trust::new(self.policy.clone(), self.collateral.clone(), self.reference.clone())
    }

    /// A verifier for which it is always [`AT`].
    pub fn verifier(&self) -> Verifier {
        Verifier::fixed(self.trust(), AT)
    }

    /// Lets clients in, as a worker of this world.
    pub fn acceptor(&self) -> Acceptor {
        acceptor(self.attester.clone(), &self.static_config)
    }
}

/// A worker's end on this platform.
pub fn endpoint(attester: Arc<dyn Attester>, static_config: &[u8]) -> Endpoint {
    let quotes = QuoteQueue::new(attester, QuoteLimits::default());
    Endpoint::attested(Part::Worker, quotes, static_config.to_vec())
}

/// A worker's end on this platform that lets clients in.
pub fn acceptor(attester: Arc<dyn Attester>, static_config: &[u8]) -> Acceptor {
    Acceptor::new(Arc::new(endpoint(attester, static_config))).unwrap().anonymous()
}

/// Connects as a client that wants a worker.
pub async fn connect<S>(io: S, verifier: &Verifier) -> Result<ratls::Attested<S>, ratls::ConnectError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    ratls::connect(io, &Endpoint::anonymous(), verifier, &Wanted::part(Part::Worker)).await
}
