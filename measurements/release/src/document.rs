//! What the publisher decides about a release: `<release>.release.json`, schema 1.
//!
//! ```json
//! {"schema": 1, "name": "worker", "version": "0.1.0", "status": {"state": "active"},
//!  "measurements": {"sha256": "hex", "size": 4711}, "sbom": {"sha256": "hex", "size": 99},
//!  "valid_from": "2026-11-21T00:00:00Z", "valid_until": "2027-11-21T00:00:00Z",
//!  "tcb": {"accept": ["UpToDate"], "min_evaluation": 0}, "gpu": []}
//! ```
//! It names the measurements by hash and so can change, be deprecated or revoked, while every rebuilder's statement stays
//! good. What it says of platforms and GPUs makes a consumer's own policy stricter where it asks for more, and never looser.

use crate::error::ReleaseError;
use crate::json::Value;
use crate::measurements::SCHEMA;
use crate::tuf::role::instant;
use crate::version::{ReleaseId, Version};
use evidence::Floors;
use evidence::gpu::GpuFloor;
use measure::Digest256;
use serde::{Deserialize, Serialize};

/// Most bytes that are read.
pub const MAX_DOCUMENT: usize = 64 * 1024;
/// Longest reason.
const MAX_REASON: usize = 1024;
/// Statuses of a platform that may be named (Intel's words); `Revoked` is none of them.
const TCB_STATUSES: [&str; 6] = [
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
];

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Always 1.
    pub schema: u32,
    /// Name of the release.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// Whether it is to be used.
    pub status: Status,
    /// Its measurements.
    pub measurements: Pinned,
    /// Its bill of materials (SPDX), where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbom: Option<Pinned>,
    /// Start of its validity, RFC 3339.
    pub valid_from: String,
    /// End of its validity, RFC 3339.
    pub valid_until: String,
    /// What the publisher holds a platform's TCB to.
    pub tcb: TcbAdvice,
    /// What he holds GPUs to, by model.
    pub gpu: Vec<GpuAdvice>,
}

/// Another target, by its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// SHA-256.
    pub sha256: Digest256,
    /// Bytes.
    pub size: u64,
}

impl Pinned {
    /// These bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Pinned { sha256: Digest256::of(bytes), size: bytes.len() as u64 }
    }
}

/// Whether a release is to be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Which.
    pub state: State,
    /// Why, where it is not active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The states of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// To be used.
    Active,
    /// To be left soon.
    Deprecated,
    /// Not to be used, by nobody. There is no way back.
    Revoked,
}

/// What a platform's TCB must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcbAdvice {
    /// Statuses that are fine.
    pub accept: Vec<String>,
    /// Floor of tcbEvaluationDataNumber.
    pub min_evaluation: u32,
}

/// Floors of a GPU's firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuAdvice {
    /// Chip, such as `GH100`.
    pub model: String,
    /// Lowest driver, such as `550.90.07`.
    pub driver_min: String,
    /// Lowest VBIOS, such as `96.00.74.00.1a`.
    pub vbios_min: String,
}

impl Document {
    /// Reads and validates; the bytes must be canonical.
    pub fn parse(what: &str, bytes: &[u8]) -> Result<Self, ReleaseError> {
        let read: Document = Value::read_canonical(what, bytes, MAX_DOCUMENT)?;
        read.check(what)?;
        Ok(read)
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ReleaseError> {
        self.check("release")?;
        Ok(Value::of("release", self)?.canonical())
    }

    /// Name and version.
    pub fn id(&self) -> Result<ReleaseId, ReleaseError> {
        ReleaseId::new(&self.name, self.version)
            .map_err(|why| ReleaseError::value("release", "name", why, "a release's name"))
    }

    /// Start and end of its validity, Unix seconds.
    pub fn window(&self) -> Result<(u64, u64), ReleaseError> {
        let from = instant("release", "valid_from", &self.valid_from)?;
        Ok((from, instant("release", "valid_until", &self.valid_until)?))
    }

    fn check(&self, what: &str) -> Result<(), ReleaseError> {
        let bad = |field: &str, found: String, expected: &str| {
            Err(ReleaseError::value(what, field, found, expected))
        };
        if self.schema != SCHEMA {
            let expected = "1; use the verifier that came with the release";
            return bad("schema", self.schema.to_string(), expected);
        }
        self.id()?;
        let (from, until) = self.window()?;
        if from >= until {
            return bad("valid_until", self.valid_until.clone(), "after valid_from");
        }
        let reason = self.status.reason.as_deref();
        if (self.status.state == State::Active) != reason.is_none_or(str::is_empty) {
            return bad("status", format!("{:?}", self.status), "a reason, unless it is active");
        }
        if reason.is_some_and(|reason| reason.len() > MAX_REASON) {
            return bad("reason", "too long".into(), "at most 1024 bytes");
        }
        let unknown = |status: &&String| !TCB_STATUSES.contains(&status.as_str());
        if let Some(status) = self.tcb.accept.iter().find(unknown) {
            return bad("tcb.accept", status.clone(), &TCB_STATUSES.join(", "));
        }
        match self.floors().gpu.iter().find_map(|floor| floor.check().err()) {
            Some(error) => bad("gpu", error.to_string(), "versions as numbers with dots between them"),
            None => Ok(()),
        }
    }

    /// What it asks for beyond a consumer's policy.
    pub fn floors(&self) -> Floors {
        let gpu = |advice: &GpuAdvice| GpuFloor {
            model: advice.model.clone(),
            driver_min: advice.driver_min.clone(),
            vbios_min: advice.vbios_min.clone(),
        };
        Floors {
            accept: self.tcb.accept.clone(),
            min_evaluation: self.tcb.min_evaluation,
            gpu: self.gpu.iter().map(gpu).collect(),
        }
    }
}
