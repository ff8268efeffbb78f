//! The verifier's half of an exchange: a question, and the judgement of what comes back.
//!
//! ```text
//! ask -> Question --bytes--> peer --Evidence--> judge: binding -> quote, logs -> role, release, identity -> GPUs -> Peer
//! ```
//! The handshake and re-attestation on a living connection use the very same two functions.

use crate::error::{ChannelError, JudgeError};
use crate::link::Link;
use crate::peer::Proof;
use crate::refusal::Refusal;
use crate::trust::{Trust, Verifier};
use crate::{Peer, tls};
use evidence::gpu::{AppraisedGpus, DeviceEvidence, GpuCollateral, GpuInputs, appraise_gpus};
use evidence::{Appraised, Inputs, Refused, Release};
use protocol::channel::{ApplicationKey, Challenge, GpuDemand, GpuShown, Part, Shown};
use protocol::config::{Role, StaticConfig};
use protocol::evidence::Evidence;
use std::sync::Arc;

/// What a verifier wants of a peer beyond right evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What the peer must be.
    pub part: Part,
    /// The one release that is accepted ([`Release::digest`]); any of the reference values if `None`.
    pub release: Option<[u8; 32]>,
    /// The application key that the peer must show, such as a proxy's session key from the root registry.
    pub identity: Option<ApplicationKey>,
    /// What is wanted of GPUs.
    pub gpu: GpuDemand,
}

impl Wanted {
    /// Any accepted release of this part, whoever it is, without GPUs.
    pub fn part(part: Part) -> Self {
        Wanted { part, release: None, identity: None, gpu: GpuDemand::None }
    }
}

/// A challenge that was made, until its answer is judged. Each is good for one answer.
#[derive(Debug)]
pub struct Question {
    challenge: Challenge,
}

impl Question {
    /// What to send.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.challenge.to_bytes()
    }

    pub(crate) fn nonce(&self) -> &[u8; 32] {
        &self.challenge.nonce
    }

    /// The same question with the work that the responder demanded.
    pub(crate) fn with_solution(mut self, solution: u64) -> Self {
        self.challenge.solution = Some(solution);
        self
    }
}

/// What a peer sent, not yet judged.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Everything that it sent.
    pub shown: Shown,
    /// What its quote must carry to be an answer to this challenge on this connection.
    pub report_data: [u8; 64],
    /// What fresh GPU reports must contain to be such an answer.
    gpu_nonce: [u8; 32],
    challenge: Challenge,
}

impl Claim {
    /// Reads evidence and computes what it must be bound to.
    fn read(question: Question, link: &Link, evidence: &[u8]) -> Result<Self, JudgeError> {
        let shown = Shown::from_bytes(evidence).map_err(JudgeError::Malformed)?;
        let (attester, digest) = (link.direction().other(), question.challenge.digest());
        let binding = link.report_data(attester, &digest, &shown.keys, shown.gpu.as_ref());
        let report_data = shown.batch.report_data(&binding);
        let gpu_nonce = link.gpu_nonce(attester, &digest);
        Ok(Claim { shown, report_data, gpu_nonce, challenge: question.challenge })
    }
}

impl Trust {
    fn appraise(&self, machine: &Evidence, report_data: &[u8; 64], at: u64) -> Result<Appraised, Refused> {
        let Trust { policy, collateral, reference, cache, .. } = self;
        cache.appraise(machine, collateral, policy, reference, report_data, at)
    }

    fn release_of(&self, appraised: &Appraised) -> Option<&Release> {
        self.reference.matching(&appraised.registers())
    }
}

impl Verifier {
    /// A fresh challenge for the peer at the far end of this connection.
    pub fn ask(&self, link: &Link, wanted: &Wanted) -> Result<Question, ChannelError> {
        let Wanted { part, release, identity, gpu } = wanted.clone();
        let challenge = Challenge::new(tls::random()?, link.part(), part);
        Ok(Question { challenge: Challenge { release, identity, gpu, ..challenge } })
    }

    /// Judges the answer to a question on the connection on which it was asked. Takes a few milliseconds of computing.
    pub fn judge(&self, question: Question, link: &Link, evidence: &[u8]) -> Result<Peer, JudgeError> {
        self.judge_showing(question, link, evidence, |_| ())
    }

    /// As [`judge`](Self::judge); `show` sees what came before it is judged.
    pub fn judge_showing(
        &self,
        question: Question,
        link: &Link,
        evidence: &[u8],
        show: impl FnOnce(&Claim),
    ) -> Result<Peer, JudgeError> {
        let claim = Claim::read(question, link, evidence)?;
        show(&claim);
        self.appraise(claim).map_err(|refusal| JudgeError::Refused(Box::new(refusal)))
    }

    fn appraise(&self, claim: Claim) -> Result<Peer, Refusal> {
        let (trust, at) = (self.trust(), self.now());
        let Claim { shown, report_data, gpu_nonce, challenge } = claim;
        let appraised = trust.appraise(&shown.machine, &report_data, at).map_err(Refusal::Evidence)?;
        role(challenge.wants, &shown.machine.static_config)?;
        let release = trust.release_of(&appraised);
        let found = release.map(Release::digest);
        if let Some(wanted) = challenge.release.filter(|wanted| found != Some(*wanted)) {
            let found = release.map(|release| release.name.clone()).unwrap_or_default();
            return Err(Refusal::OtherRelease { wanted, found });
        }
        if let Some(wanted) = challenge.identity.filter(|wanted| !shown.keys.contains(wanted)) {
            let found = shown.keys.get(&wanted.name).map(<[u8]>::to_vec);
            return Err(Refusal::Identity { wanted, found });
        }
        let gpu = gpus(&trust, challenge.gpu, shown.gpu.as_ref(), &gpu_nonce, at)?;
        Ok(Peer::new(Proof {
            appraised,
            part: challenge.wants,
            keys: shown.keys,
            release: found,
            gpu,
            quote: shown.machine.quote.into(),
            report_data,
            static_config: shown.machine.static_config.into(),
            trust: Arc::downgrade(&trust),
        }))
    }

    /// Whether a peer that was right is right under the trust and at the time of now: its release may have been revoked, its
    /// platform's collateral replaced, its proof expired. What its quote fixed for good (binding, logs, configuration)
    /// is not looked at again.
    pub fn still_trusts(&self, peer: &Peer) -> Result<(), Refusal> {
        let (trust, at) = (self.trust(), self.now());
        if let Some(expired) = peer.expires().filter(|expires| *expires <= at) {
            return Err(Refusal::Expired { at, expired });
        }
        let inputs = Inputs {
            quote: peer.quote(),
            collateral: &trust.collateral,
            policy: &trust.policy,
            event_log: None,
            static_config: None,
            runtime: None,
            reference: Some(&trust.reference),
            report_data: Some(peer.report_data()),
            at,
        };
        let verdict = trust.cache.verify(&inputs);
        match verdict.accepted && verdict.release.is_some() {
            true => Ok(()),
            false => Err(Refusal::NoLonger(Box::new(verdict))),
        }
    }
}

/// The role that the guest was configured for, which its quote has measured, is the part that was wanted.
fn role(wanted: Part, static_config: &[u8]) -> Result<(), Refusal> {
    let role = match wanted {
        Part::Client => return Err(Refusal::Role { wanted, found: "a client, which proves nothing".into() }),
        // Its configuration is its own affair, and measured; the reference values can name it.
        Part::Service => return Ok(()),
        Part::Proxy => Role::Proxy,
        Part::Worker => Role::Worker,
    };
    let found = match StaticConfig::parse(static_config) {
        Ok(config) if config.role == role => return Ok(()),
        Ok(config) => format!("{:?}", config.role).to_lowercase(),
        Err(error) => error.to_string(),
    };
    Err(Refusal::Role { wanted, found })
}

/// GPU evidence as it was demanded; what was not asked for is not looked at.
fn gpus(
    trust: &Trust,
    demand: GpuDemand,
    shown: Option<&GpuShown>,
    fresh: &[u8; 32],
    at: u64,
) -> Result<Option<AppraisedGpus>, Refusal> {
    if demand == GpuDemand::None {
        return Ok(None);
    }
    let shown = shown.ok_or(Refusal::GpuMissing)?;
    match demand {
        GpuDemand::Cached { max_age_s } if shown.age_s > max_age_s => {
            return Err(Refusal::GpuTooOld { age_s: shown.age_s, max_age_s });
        }
        GpuDemand::Fresh if shown.nonce != *fresh => return Err(Refusal::GpuNonce),
        GpuDemand::None | GpuDemand::Fresh | GpuDemand::Cached { .. } => {}
    }
    let gpu = trust.gpu.as_ref().ok_or(Refusal::GpuUnknown)?;
    let devices = DeviceEvidence::read_envelope(&shown.envelope).map_err(Refusal::GpuFormat)?;
    // Signed by the vendor and dated, so that it is worth the same from the peer.
    let along = GpuCollateral::of_envelope(&shown.envelope).map_err(Refusal::GpuFormat)?;
    let inputs = GpuInputs {
        devices: &devices,
        nonce: Some(&shown.nonce),
        driver_rims: &both(&gpu.driver_rims, along.driver_rims),
        vbios_rims: &both(&gpu.vbios_rims, along.vbios_rims),
        ocsp: &both(&gpu.ocsp, along.ocsp),
        system: None,
        policy: &gpu.policy,
        at,
    };
    appraise_gpus(&inputs).map(Some).map_err(Refusal::Gpu)
}

/// Ours, then what we did not have.
fn both(ours: &[Vec<u8>], theirs: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let new = theirs.into_iter().filter(|bytes| !ours.contains(bytes));
    ours.iter().cloned().chain(new).collect()
}
