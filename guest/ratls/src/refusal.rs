//! Why a peer that spoke the protocol well is not believed.

use evidence::gpu::{GpuError, GpuVerdict, RefusedGpus};
use evidence::{Refused, Verdict};
use protocol::channel::{ApplicationKey, Part};
use std::fmt;

/// Evidence came, and it is not what was wanted. Always the peer's doing, or that of whoever stands between.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The appraisal of the machine refused it: which checks, and what they found, is in the verdict.
    #[error("{0}")]
    Evidence(#[source] Refused),
    /// A peer that was right before is no longer, under the trust of now.
    #[error("no longer trusted: {}; the peer must be of a release that is accepted now", failed(.0))]
    NoLonger(Box<Verdict>),
    /// The proof is too old.
    #[error(
        "no longer trusted: what the proof rests on expired at {expired}, now is {at} (Unix seconds); attest anew"
    )]
    Expired {
        /// Now.
        at: u64,
        /// The end of the proof.
        expired: u64,
    },
    /// The guest was configured for another role.
    #[error(
        "role: expected a guest configured as {wanted}, found {found}; check the address, or the guest's configuration"
    )]
    Role {
        /// The part that was wanted.
        wanted: Part,
        /// What its configuration says.
        found: String,
    },
    /// A right release, but not the one that was wanted.
    #[error("release: expected the one of digest {}, found `{found}`; name another release, or ask another peer", Hex(.wanted))]
    OtherRelease {
        /// Digest of the release that was wanted.
        wanted: [u8; 32],
        /// Name of the release that is there.
        found: String,
    },
    /// The peer is not who was wanted.
    #[error("identity: expected `{}` to be {}, found {}; ask the peer that the registry lists", .wanted.name,
        Hex(&.wanted.key), .found.as_ref().map_or("no such key".into(), |key| Hex(key).to_string()))]
    Identity {
        /// The key that was wanted.
        wanted: ApplicationKey,
        /// The key that stands under its name.
        found: Option<Vec<u8>>,
    },
    /// GPU evidence was wanted, and none came.
    #[error("GPU: expected evidence, found none; ask a peer with GPUs in confidential mode")]
    GpuMissing,
    /// GPU evidence of another connection or challenge.
    #[error("GPU: expected reports over the nonce of this connection and challenge, found another nonce")]
    GpuNonce,
    /// GPU evidence older than wanted.
    #[error(
        "GPU: expected reports at most {max_age_s} s old, found {age_s} s; demand fresh ones, or allow older ones"
    )]
    GpuTooOld {
        /// Age as the measured guest states it.
        age_s: u32,
        /// Greatest age that was allowed.
        max_age_s: u32,
    },
    /// GPU evidence was demanded by a verifier that has nothing to hold it against.
    #[error("GPU: expected a trust with a GPU policy and manifests, found none; give the verifier one")]
    GpuUnknown,
    /// GPU evidence can't be read.
    #[error("GPU: {0}")]
    GpuFormat(#[source] GpuError),
    /// The appraisal of the GPUs refused them.
    #[error("{0}")]
    Gpu(#[source] RefusedGpus),
}

impl Refusal {
    /// The verdict about the machine, where there is one that refuses it.
    pub fn verdict(&self) -> Option<&Verdict> {
        match self {
            Refusal::Evidence(refused) => Some(refused.verdict()),
            Refusal::NoLonger(verdict) => Some(verdict),
            _ => None,
        }
    }

    /// The verdict about the GPUs, where there is one that refuses them.
    pub fn gpu_verdict(&self) -> Option<&GpuVerdict> {
        match self {
            Refusal::Gpu(refused) => Some(refused.verdict()),
            _ => None,
        }
    }

    /// Why, in names of a closed list: the checks that failed, or the rule that was broken. Nothing that a peer sent is in them.
    pub fn reasons(&self) -> Vec<&'static str> {
        let rule = match self {
            Refusal::Evidence(refused) => return checks(refused.verdict()),
            Refusal::NoLonger(verdict) => return checks(verdict),
            Refusal::Expired { .. } => "expired",
            Refusal::Role { .. } => "role",
            Refusal::OtherRelease { .. } => "other_release",
            Refusal::Identity { .. } => "identity",
            Refusal::GpuMissing => "gpu_missing",
            Refusal::GpuNonce => "gpu_nonce",
            Refusal::GpuTooOld { .. } => "gpu_too_old",
            Refusal::GpuUnknown => "gpu_unknown",
            Refusal::GpuFormat(_) => "gpu_format",
            Refusal::Gpu(refused) => return refused.verdict().reasons(),
        };
        vec![rule]
    }

    /// Whether the peer is to blame: all but a verifier that was not given what it needs.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            Refusal::Evidence(_)
            | Refusal::NoLonger(_)
            | Refusal::Role { .. }
            | Refusal::OtherRelease { .. }
            | Refusal::Identity { .. }
            | Refusal::GpuMissing
            | Refusal::GpuNonce
            | Refusal::GpuTooOld { .. }
            | Refusal::GpuFormat(_)
            | Refusal::Gpu(_) => true,
            Refusal::Expired { .. } | Refusal::GpuUnknown => false,
        }
    }
}

fn checks(verdict: &Verdict) -> Vec<&'static str> {
    verdict.failed().map(|check| check.name.as_str()).collect()
}

fn failed(verdict: &Verdict) -> String {
    let failed = verdict.failed();
    let words = failed.map(|c| format!("{}: expected {}, found {}", c.name.as_str(), c.expected, c.actual));
    words.collect::<Vec<_>>().join("; ")
}

/// Lower-case hex.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
