//! A SIMULATED platform in this process: real quotes under a root of its own, and what a verifier needs to hold them
//! against.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use evidence::{Collateral, Policy, Reference};
use protocol::channel::Part;
use protocol::evidence::EventLog;
use protocol::runtime::RuntimeRecord;
use protocol::{AttestError, Attester};
use ratls::{Acceptor, Endpoint, QuoteLimits, QuoteQueue, Trust, Verifier, Wanted};
use simulator::{Guest, Platform};
use std::sync::Arc;

/// When all of this happens, Unix seconds.
pub const AT: u64 = 1_790_000_000;
/// What the simulated guest was configured with.
pub const STATIC_CONFIG: &[u8] = b"schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n";

/// The guest's side.
pub struct Simulated(Guest);

impl Attester for Simulated {
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        Ok(self.0.quote(report_data))
    }

    fn event_log(&self) -> Result<EventLog, AttestError> {
        Ok(self.0.event_log())
    }

    fn runtime(&self) -> Result<Vec<u8>, AttestError> {
        Ok(self.0.runtime())
    }
}

/// What a guest of this configuration that opened these models has measured and extended.
pub fn runtime_record(static_config: &[u8], models: &[&str]) -> RuntimeRecord {
    let models: Vec<_> = models.iter().map(|name| (*name, [7; 32])).collect();
    simulator::record(static_config, &models).unwrap()
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
    let guest = Guest::boot(platform.identity().unwrap(), static_config, &[]).unwrap();
    World {
        static_config: static_config.to_vec(),
        policy: Policy::simulated(&platform.root_der().unwrap()).unwrap(),
        collateral: platform.collateral().unwrap(),
        reference: simulator::reference().unwrap(),
        attester: Arc::new(Simulated(guest)),
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
