//! Two SIMULATED machines, a worker and a proxy, each with a platform of its own, and what the other holds it against.

use anyhow::{Context, Result};
use evidence::{Hex, Policy, Reference, Release, Rtmr3, TdReport};
use protocol::channel::Part;
use protocol::evidence::{EventLog, LogFormat};
use protocol::runtime::{Extension, GpuEvidence, RuntimeLog, RuntimeRecord};
use protocol::{AttestError, Attester, Digest384, config};
use ratls::{Acceptor, Attested, Endpoint, QuoteLimits, QuoteQueue, Trust, Verifier, Wanted};
use simulator::{Identity, Platform, tpm};
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
    td: TdReport,
    log: Vec<u8>,
    runtime: Vec<u8>,
}

impl Attester for Machine {
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.identities.len();
        Ok(self.identities[at].quote(&TdReport { report_data: Hex(*report_data), ..self.td.clone() }))
    }

    fn event_log(&self) -> Result<EventLog, AttestError> {
        Ok(EventLog { format: LogFormat::Tpm, bytes: self.log.clone() })
    }

    fn runtime(&self) -> Result<Vec<u8>, AttestError> {
        Ok(self.runtime.clone())
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
        let platform = Platform::generate(AT)?;
        let log = tpm::sample_log();
        let mut registers = tpm::registers(&log, &tpm::replayed(&log)?)?;
        let record = record(&static_config)?;
        registers.rtmr[3] = record.log.rtmr3();
        let identities = match reports {
            QeReports::Same => vec![platform.identity()?],
            QeReports::Fresh => {
                (0..ATTESTATION_KEYS).map(|_| platform.fresh_identity()).collect::<Result<_, _>>()?
            }
        };
        let td = identities[0].td_report(&registers, config::mrconfigid(&static_config), [0; 64]);
        let release = Release {
            name: "simulated release".into(),
            mrtd: registers.mrtd,
            rtmr0: registers.rtmr[0],
            rtmr1: registers.rtmr[1],
            rtmr2: registers.rtmr[2],
            rtmr3: Some(Rtmr3::Events),
        };
        let reference = Reference { schema: 1, releases: vec![release], mrconfigid: None };
        let trust = Trust::new(Policy::simulated(&platform.root_der()?)?, platform.collateral()?, reference);
        let runtime = record.to_bytes();
        let machine = Arc::new(Machine { identities, next: AtomicUsize::new(0), td, log, runtime });
        let queue = QuoteQueue::new(machine, QuoteLimits::default());
        Ok(Side {
            endpoint: Arc::new(Endpoint::attested(part, queue.clone(), static_config)),
            verifier: Arc::new(Verifier::fixed(trust, AT)),
            wanted: Wanted::part(part),
            queue,
        })
    }
}

fn record(static_config: &[u8]) -> Result<RuntimeRecord> {
    let (mut log, _) = RuntimeLog::begin(Digest384(config::mrconfigid(static_config)));
    log.gpu(GpuEvidence::none()).context("an event")?;
    Ok(RuntimeRecord { extension: Extension::Extended, log: log.seal().context("a seal")?.0 })
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
