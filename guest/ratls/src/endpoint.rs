//! Our own end: what it is, its TLS key, and how it proves itself.

use crate::error::{AnswerError, Step};
use crate::link::Link;
use crate::quotes::QuoteQueue;
use crate::tls;
use protocol::channel::{ApplicationKeys, Challenge, GpuDemand, GpuShown, MAX_ENVELOPE, Part, Refuse, Shown};
use protocol::evidence::Evidence;
use rustls::{ClientConfig, ServerConfig};
use std::sync::Arc;

/// GPU evidence, as a guest can take it. Calls may block; they are made on threads for that.
pub trait GpuSource: Send + Sync {
    /// Reports of all devices over this nonce. The error, in words, goes to this guest's log and not to the peer.
    fn fresh(&self, nonce: &[u8; 32]) -> Result<Vec<u8>, String>;

    /// Reports that were taken before, with the nonce they were taken with and their age; `None` if there are none.
    fn cached(&self) -> Option<GpuShown>;
}

/// One end of channels, in either direction. One a process: its TLS key lives as long as it does, in memory alone.
pub struct Endpoint {
    part: Part,
    proof: Option<Proof>,
    pub(crate) client: Arc<ClientConfig>,
    server: Option<Server>,
}

/// What an attested end shows where it is the responder.
struct Server {
    config: Arc<ServerConfig>,
    /// DER of the SubjectPublicKeyInfo in its certificate.
    key: Arc<[u8]>,
}

/// How an attested end proves itself.
struct Proof {
    quotes: QuoteQueue,
    static_config: Vec<u8>,
    keys: ApplicationKeys,
    gpu: Option<Arc<dyn GpuSource>>,
}

impl Endpoint {
    /// A client: verifies others, proves nothing, has no key.
    pub fn anonymous() -> Self {
        Endpoint { part: Part::Client, proof: None, client: client(), server: None }
    }

    /// An end that proves to be `part` by quotes of this queue; makes its TLS key. `static_config` are the exact bytes that
    /// MRCONFIGID commits to. A `part` that is not attested is a mistake of the caller, which no peer would believe.
    pub fn attested(part: Part, quotes: QuoteQueue, static_config: Vec<u8>) -> Self {
        Self::with_identity(part, quotes, static_config, tls::Identity::generate())
    }

    /// With a key from elsewhere in this crate.
    pub(crate) fn with_identity(
        part: Part,
        quotes: QuoteQueue,
        static_config: Vec<u8>,
        identity: tls::Identity,
    ) -> Self {
        let config = tls::server_config(&identity).expect("fixed TLS settings and our own key fit");
        let proof = Proof { quotes, static_config, keys: ApplicationKeys::default(), gpu: None };
        let server = Server { config: Arc::new(config), key: identity.public_key.into() };
        Endpoint { part, proof: Some(proof), client: client(), server: Some(server) }
    }

    /// Names these keys as its own in all its evidence.
    #[must_use]
    pub fn with_keys(mut self, keys: ApplicationKeys) -> Self {
        if let Some(proof) = &mut self.proof {
            proof.keys = keys;
        }
        self
    }

    /// Shows evidence of its GPUs to those who demand it.
    #[must_use]
    pub fn with_gpu(mut self, source: Arc<dyn GpuSource>) -> Self {
        if let Some(proof) = &mut self.proof {
            proof.gpu = Some(source);
        }
        self
    }

    /// What it is.
    pub fn part(&self) -> Part {
        self.part
    }

    /// Whether it proves itself.
    pub fn is_attested(&self) -> bool {
        self.proof.is_some()
    }

    /// The keys that it names as its own.
    pub fn keys(&self) -> Option<&ApplicationKeys> {
        self.proof.as_ref().map(|proof| &proof.keys)
    }

    /// Where its quotes come from.
    pub fn quotes(&self) -> Option<&QuoteQueue> {
        self.proof.as_ref().map(|proof| &proof.quotes)
    }

    /// The key in the certificate that it shows as a responder; empty for a client, which never is one.
    pub(crate) fn key(&self) -> Arc<[u8]> {
        self.server.as_ref().map_or_else(|| Arc::from([]), |server| server.key.clone())
    }

    pub(crate) fn server(&self) -> Option<Arc<ServerConfig>> {
        self.server.as_ref().map(|server| server.config.clone())
    }

    /// Evidence, encoded, in answer to a challenge that came on this connection.
    pub async fn answer(&self, link: &Link, challenge: &[u8]) -> Result<Vec<u8>, AnswerError> {
        let challenge = Challenge::from_bytes(challenge).map_err(AnswerError::Malformed)?;
        let proof = self.willing(link, &challenge)?;
        let digest = challenge.digest();
        let gpu = proof.gpus(challenge.gpu, link.gpu_nonce(link.direction(), &digest)).await?;
        let leaf = link.report_data(link.direction(), &digest, &proof.keys, gpu.as_ref());
        let quoted = proof.quotes.quote(leaf).await.map_err(AnswerError::Quote)?;
        let machine = Evidence {
            quote: quoted.quote,
            event_log: quoted.event_log,
            static_config: proof.static_config.clone(),
            runtime: quoted.runtime,
        };
        Ok(Shown { machine, keys: proof.keys.clone(), gpu, batch: quoted.proof }.to_bytes())
    }

    /// Refuses at once what can't be met, before a quote is paid for it.
    fn willing(&self, link: &Link, challenge: &Challenge) -> Result<&Proof, AnswerError> {
        let unwilling = |reason, wants: String| Err(AnswerError::Unwilling { reason, wants });
        let Some(proof) = self.proof.as_ref().filter(|_| challenge.wants == self.part) else {
            return unwilling(Refuse::Part, format!("a {}", challenge.wants));
        };
        if challenge.from != link.peer_part() {
            return unwilling(Refuse::Part, format!("to be a {} now", challenge.from));
        }
        if let Some(identity) = challenge.identity.as_ref().filter(|key| !proof.keys.contains(key)) {
            return unwilling(Refuse::Identity, format!("another `{}`", identity.name));
        }
        if challenge.gpu != GpuDemand::None && proof.gpu.is_none() {
            return unwilling(Refuse::Gpu, "evidence of GPUs".into());
        }
        Ok(proof)
    }
}

impl Proof {
    /// GPU evidence as demanded: taken now over `nonce`, or from before if that is young enough.
    async fn gpus(&self, demand: GpuDemand, nonce: [u8; 32]) -> Result<Option<GpuShown>, AnswerError> {
        let Some(source) = self.gpu.clone().filter(|_| demand != GpuDemand::None) else { return Ok(None) };
        let taking = tokio::task::spawn_blocking(move || match demand {
            GpuDemand::Cached { max_age_s } => match source.cached() {
                Some(shown) if shown.age_s <= max_age_s => Ok(shown),
                Some(shown) => Err(format!("{} s old, at most {max_age_s} s are wanted", shown.age_s)),
                None => Err("none was taken before".into()),
            },
            GpuDemand::None | GpuDemand::Fresh => {
                source.fresh(&nonce).map(|envelope| GpuShown { envelope, nonce, age_s: 0 })
            }
        });
        let taken = tokio::time::timeout(Step::Quote.deadline(), taking).await;
        let taken = taken.map_err(|_| AnswerError::Gpu("not taken in time".into()))?;
        let shown = taken.map_err(|_| AnswerError::Gpu("the thread that takes it stopped".into()))?;
        match shown {
            Ok(shown) if shown.envelope.len() <= MAX_ENVELOPE => Ok(Some(shown)),
            Ok(shown) => Err(AnswerError::Gpu(format!("{} bytes are too many", shown.envelope.len()))),
            Err(reason) => Err(AnswerError::Gpu(reason)),
        }
    }
}

fn client() -> Arc<ClientConfig> {
    Arc::new(tls::client_config().expect("fixed TLS settings fit together"))
}
