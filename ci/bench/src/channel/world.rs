//! Two SIMULATED machines, a worker and a proxy, each with a platform of its own, and what the other holds it against.

use anyhow::{Context, Result};
use evidence::Policy;
use protocol::channel::Part;
use protocol::evidence::EventLog;
use protocol::{AttestError, Attester};
use ratls::{Acceptor, Attested, Endpoint, QuoteLimits, QuoteQueue, Trust, Verifier, Wanted};
use simulator::{Guest, Identity, Platform};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncRead, AsyncWrite};

/// When all of it happens, Unix seconds.
const AT: u64 = 1_790_000_000;
/// More than a cache keeps QE reports of a platform.
const ATTESTATION_KEYS: usize = 12;

/// Whether a machine's quotes come with one QE report or with another each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QeReports {
    Same,
    Fresh,
}

struct Machine {
    identities: Vec<Identity>,
    next: AtomicUsize,
    guest: Guest,
}

impl Attester for Machine {
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.identities.len();
        Ok(self.guest.quote_by(&self.identities[at], report_data))
    }

    fn event_log(&self) -> Result<EventLog, AttestError> {
        Ok(self.guest.event_log())
    }

    fn runtime(&self) -> Result<Vec<u8>, AttestError> {
        Ok(self.guest.runtime())
    }
}

/// One end, and how others verify it.
pub struct Side {
    pub endpoint: Arc<Endpoint>,
    pub verifier: Arc<Verifier>,
    pub wanted: Wanted,
    pub queue: QuoteQueue,
}

impl Side {
    fn new(part: Part, role: &str, reports: QeReports) -> Result<Self> {
        let static_config = format!("schema = 1\nrole = \"{role}\"\nnetwork = \"local\"\n").into_bytes();
        Self::of(part, static_config, reports)
    }

    /// With a static configuration of its own.
    pub fn of(part: Part, static_config: Vec<u8>, reports: QeReports) -> Result<Self> {
        let platform = Platform::generate(AT)?;
        let identities = match reports {
            QeReports::Same => vec![platform.identity()?],
            QeReports::Fresh => {
                (0..ATTESTATION_KEYS).map(|_| platform.fresh_identity()).collect::<Result<_, _>>()?
            }
        };
        let guest = Guest::boot(identities[0].clone(), &static_config, &[])?;
        let reference = simulator::reference()?;
        let trust = Trust::new(Policy::simulated(&platform.root_der()?)?, platform.collateral()?, reference);
        let machine = Arc::new(Machine { identities, next: AtomicUsize::new(0), guest });
        let queue = QuoteQueue::new(machine, QuoteLimits::default());
        Ok(Side {
            endpoint: Arc::new(Endpoint::attested(part, queue.clone(), static_config)),
            verifier: Arc::new(Verifier::fixed(trust, AT)),
            wanted: Wanted::part(part),
            queue,
        })
    }
}

/// Both machines.
pub struct World {
    pub worker: Side,
    pub proxy: Side,
    acceptor: Acceptor,
}

impl World {
    pub fn new(reports: QeReports) -> Result<Self> {
        let worker = Side::new(Part::Worker, "worker", reports)?;
        let proxy = Side::new(Part::Proxy, "proxy", reports)?;
        let acceptor = Acceptor::new(worker.endpoint.clone()).context("an attested endpoint")?;
        let acceptor = acceptor.attested(proxy.verifier.clone(), proxy.wanted.clone());
        Ok(World { worker, proxy, acceptor })
    }

    /// The proxy's end of a mutual connection, once it may send.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(&self, io: S) -> Result<Attested<S>> {
        let Side { verifier, wanted, .. } = &self.worker;
        Ok(ratls::connect(io, &self.proxy.endpoint, verifier, wanted).await?)
    }

    /// The worker's end of it.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, io: S) -> Result<Attested<S>> {
        match self.acceptor.accept(io).await? {
            ratls::Accepted::Attested(attested) => Ok(attested),
            ratls::Accepted::Anonymous(_) => anyhow::bail!("the proxy was not attested"),
        }
    }
}
