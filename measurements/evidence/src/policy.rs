//! What the relying party accepts, as data (RFC 9334: Appraisal Policy for Evidence).
//!
//! ```toml
//! schema = 1
//! platform = "tdx"                     # or "simulated", with root = "root.der" beside this file
//!
//! [tcb]
//! accept = ["UpToDate"]
//! grace = { OutOfDate = 30 }           # days; none when not given
//! min-evaluation = 0                   # floor of tcbEvaluationDataNumber
//! reject-advisories = []
//!
//! [td]
//! allow-attributes = []                # of icssd, lass, pks, kl, tpa, perfmon
//! xfam-allowed = 0x6dbe7
//! mrseam = []                          # hex; empty: any module that the collateral vouches for
//! mrowner = "hex"                      # these three: zeros when not given
//! mrownerconfig = "hex"
//! mrservicetd = "hex"
//!
//! [gpu]
//! count = 1                            # GPUs of the machine
//! modes = ["spt", "mpt", "ppcie"]      # the last needs the evidence of every NVSwitch
//! models = ["GH100"]                   # empty: every chip that is known
//! driver-min = "550.90.07"             # floors of firmware; none when not given
//! vbios-min = "96.00.74.00.1a"
//!
//! [[releases]]                         # reference values, where none are given beside the policy
//! name = "worker 0.1.0, 2 vCPU, 4 GiB"
//! mrtd = "hex"                         # and rtmr0, rtmr1, rtmr2, rtmr3 if it is used
//! ```
//! Every default is the strict one. Two doors are kept apart by type: [`Policy::production`] and a policy with
//! `platform = "tdx"` always end in Intel's root and can't name another; [`Policy::simulated`] can't name Intel's, and
//! its root must carry SIMULATED in its subject, so that a certificate authority of a real vendor can't pass for it.
//! DEBUG, bits that no specification names, and a missing SEPT_VE_DISABLE are refused by every policy.

mod settings;
mod tighten;

use crate::gpu::GpuSettings;
use crate::reference::Reference;
use serde::Deserialize;
pub(crate) use settings::Settings;
use sha2::{Digest, Sha256, Sha384};
pub use tighten::Floors;
use x509_cert::der::{Decode, Encode};

/// SHA-384 of the public key (uncompressed point) of Intel's SGX root, which is TDX's as well.
pub const INTEL_ROOT_KEY_ID: &str =
    "46e403bd34f05a3f2817ab9badcaacc7ffc98e0f261008cd30dae936cace18d5dcf58eef31463613de1570d516200993";
/// SHA-256 of Intel's SGX root certificate.
const INTEL_ROOT_FINGERPRINT: &str = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3";
const MAX_POLICY: usize = 256 * 1024;
/// What a simulated root's subject must contain.
pub const SIMULATED_MARK: &str = "SIMULATED";

/// Why a policy was refused.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Too many bytes.
    #[error("policy: expected at most {MAX_POLICY} bytes, found {found}; is this the right file?")]
    TooLong {
        /// Length of the input.
        found: usize,
    },
    /// Not the TOML this schema wants; the message carries line and column.
    #[error("policy: {0}")]
    Syntax(#[from] Box<toml::de::Error>),
    /// A value may not stand there.
    #[error("policy: {field} is {found}, expected {expected}")]
    Value {
        /// Which field.
        field: &'static str,
        /// What stands there.
        found: String,
        /// What may.
        expected: String,
    },
    /// A production policy that brings a trust root.
    #[error(
        "policy: platform \"tdx\" with a root of its own; its root is always Intel's: remove `root`, or say platform = \"simulated\""
    )]
    ProductionRoot,
    /// A simulated policy where only one for hardware may stand.
    #[error(
        "policy: platform \"simulated\", expected \"tdx\": what runs in production is never held against a simulated root; give a policy for hardware"
    )]
    SimulatedInProduction,
    /// A simulated policy without its trust root.
    #[error(
        "policy: platform \"simulated\" needs `root`, a DER certificate; make one with `chrysalis-simulator pki`"
    )]
    NoSimulatedRoot,
    /// The trust root is no certificate.
    #[error("policy: the simulated root is no DER certificate: {0}")]
    BadRoot(String),
    /// The trust root is a vendor's, or doesn't say what it is.
    #[error(
        "policy: the simulated root is `{subject}`, {reason}; real hardware is verified with platform = \"tdx\""
    )]
    NotSimulated {
        /// Subject of the certificate.
        subject: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Which kind of platform a policy speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// Intel TDX hardware.
    Tdx,
    /// The simulated platform of the debug profile: proves nothing about hardware.
    Simulated,
}

impl Platform {
    /// `tdx` or `simulated`.
    pub fn as_str(self) -> &'static str {
        match self {
            Platform::Tdx => "tdx",
            Platform::Simulated => "simulated",
        }
    }
}

/// A policy whose text is read and whose trust root, if it names one, is still to be fetched by the caller.
#[derive(Debug, Clone)]
pub struct PolicyFile {
    platform: Platform,
    root: Option<String>,
    settings: Settings,
}

/// A policy, ready to appraise with. The trust root can't be changed after it was made.
#[derive(Debug, Clone)]
pub struct Policy {
    root: Root,
    pub(crate) settings: Settings,
}

#[derive(Debug, Clone)]
enum Root {
    Intel,
    Simulated { der: Vec<u8>, key_id: String, fingerprint: String },
}

impl PolicyFile {
    /// Reads a policy's text; paths in it are left to the caller.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_POLICY {
            return Err(PolicyError::TooLong { found: text.len() });
        }
        let text: settings::Text = toml::from_str(text).map_err(Box::new)?;
        if text.schema != 1 {
            return Err(value("schema", text.schema.to_string(), "1"));
        }
        match (text.platform, &text.root) {
            (Platform::Tdx, Some(_)) => return Err(PolicyError::ProductionRoot),
            (Platform::Simulated, None) => return Err(PolicyError::NoSimulatedRoot),
            _ => {}
        }
        let (platform, root) = (text.platform, text.root.clone());
        Ok(PolicyFile { platform, root, settings: Settings::read(text)? })
    }

    /// Which kind of platform it speaks of.
    pub fn platform(&self) -> Platform {
        self.platform
    }

    /// The only door of a production program: a policy for hardware, never one that names a simulated root.
    pub fn resolve_production(self) -> Result<Policy, PolicyError> {
        match self.platform {
            Platform::Tdx => self.resolve(None),
            Platform::Simulated => Err(PolicyError::SimulatedInProduction),
        }
    }

    /// The path that a simulated policy names, relative to the policy's own file.
    pub fn root(&self) -> Option<&str> {
        self.root.as_deref()
    }

    /// Joins the policy with the bytes of the root that it names; `None` where it names none.
    pub fn resolve(self, root_der: Option<&[u8]>) -> Result<Policy, PolicyError> {
        let root = match (self.platform, root_der) {
            (Platform::Tdx, None) => Root::Intel,
            (Platform::Tdx, Some(_)) => return Err(PolicyError::ProductionRoot),
            (Platform::Simulated, None) => return Err(PolicyError::NoSimulatedRoot),
            (Platform::Simulated, Some(der)) => simulated_root(der)?,
        };
        Ok(Policy { root, settings: self.settings })
    }
}

impl Policy {
    /// The strict policy for hardware: Intel's root, `UpToDate` only.
    pub fn production() -> Self {
        Policy { root: Root::Intel, settings: Settings::default() }
    }

    /// The strict policy for a simulated platform with this root certificate.
    pub fn simulated(root_der: &[u8]) -> Result<Self, PolicyError> {
        Ok(Policy { root: simulated_root(root_der)?, settings: Settings::default() })
    }

    /// Which kind of platform this policy speaks of.
    pub fn platform(&self) -> Platform {
        match self.root {
            Root::Intel => Platform::Tdx,
            Root::Simulated { .. } => Platform::Simulated,
        }
    }

    /// The simulated root; `None` stands for Intel's.
    pub(crate) fn simulated_root(&self) -> Option<&[u8]> {
        match &self.root {
            Root::Intel => None,
            Root::Simulated { der, .. } => Some(der),
        }
    }

    /// SHA-384 of the root's public key, hex.
    pub(crate) fn root_key_id(&self) -> &str {
        match &self.root {
            Root::Intel => INTEL_ROOT_KEY_ID,
            Root::Simulated { key_id, .. } => key_id,
        }
    }

    /// Reference values that the policy itself brings.
    pub fn reference(&self) -> Option<&Reference> {
        self.settings.reference.as_ref()
    }

    /// What is accepted of GPUs; their roots are NVIDIA's, or named beside the policy of a simulation.
    pub fn gpu(&self) -> &GpuSettings {
        &self.settings.gpu
    }

    /// SHA-256 of the root certificate, hex.
    pub fn root_fingerprint(&self) -> String {
        match &self.root {
            Root::Intel => INTEL_ROOT_FINGERPRINT.into(),
            Root::Simulated { fingerprint, .. } => fingerprint.clone(),
        }
    }
}

fn simulated_root(der: &[u8]) -> Result<Root, PolicyError> {
    let certificate =
        x509_cert::Certificate::from_der(der).map_err(|e| PolicyError::BadRoot(e.to_string()))?;
    let subject = certificate.tbs_certificate().subject().to_string();
    let key_id = key_id(&certificate);
    if key_id == INTEL_ROOT_KEY_ID {
        return Err(PolicyError::NotSimulated { subject, reason: "which has Intel's root key" });
    }
    if !subject.contains(SIMULATED_MARK) {
        return Err(PolicyError::NotSimulated { subject, reason: "which does not say SIMULATED" });
    }
    let der = certificate.to_der().map_err(|e| PolicyError::BadRoot(e.to_string()))?;
    let fingerprint = fingerprint(&der);
    Ok(Root::Simulated { der, key_id, fingerprint })
}

/// SHA-384 of a certificate's public key bits, hex.
pub(crate) fn key_id(certificate: &x509_cert::Certificate) -> String {
    let key = certificate.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes();
    hex::encode(Sha384::digest(key))
}

/// SHA-256 of a certificate, hex: what `openssl x509 -fingerprint -sha256` shows.
pub(crate) fn fingerprint(der: &[u8]) -> String {
    hex::encode(Sha256::digest(der))
}

fn value(field: &'static str, found: String, expected: &str) -> PolicyError {
    PolicyError::Value { field, found, expected: expected.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dcap_qvl::TcbStatus;

    #[test]
    fn an_empty_production_policy_is_the_strict_one() {
        let policy = PolicyFile::parse("schema = 1\nplatform = \"tdx\"\n").unwrap().resolve(None).unwrap();
        assert_eq!(policy.platform(), Platform::Tdx);
        assert_eq!(policy.settings.accept, [TcbStatus::UpToDate]);
        assert_eq!(policy.settings.allowed_attributes, 0);
    }

    #[test]
    fn a_production_policy_with_any_root_is_refused() {
        let text = "schema = 1\nplatform = \"tdx\"\nroot = \"root.der\"\n";
        assert!(matches!(PolicyFile::parse(text), Err(PolicyError::ProductionRoot)));
        let file = PolicyFile::parse("schema = 1\nplatform = \"tdx\"\n").unwrap();
        assert!(matches!(file.resolve(Some(b"root")), Err(PolicyError::ProductionRoot)));
    }

    #[test]
    fn a_simulated_policy_without_a_root_is_refused() {
        let text = "schema = 1\nplatform = \"simulated\"\n";
        assert!(matches!(PolicyFile::parse(text), Err(PolicyError::NoSimulatedRoot)));
        let file = PolicyFile::parse(&format!("{text}root = \"root.der\"\n")).unwrap();
        assert_eq!(file.root(), Some("root.der"));
        assert!(matches!(file.clone().resolve_production(), Err(PolicyError::SimulatedInProduction)));
        assert!(matches!(file.resolve(None), Err(PolicyError::NoSimulatedRoot)));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let text = "schema = 1\nplatform = \"tdx\"\n[td]\nallow-debug = true\n";
        let error = PolicyFile::parse(text).unwrap_err().to_string();
        assert!(error.contains("allow-debug") && error.contains("line 4"), "{error}");
    }

    #[test]
    fn debug_migration_and_revoked_can_not_be_allowed() {
        for bad in [
            "[td]\nallow-attributes = [\"debug\"]",
            "[td]\nallow-attributes = [\"migratable\"]",
            "[tcb]\naccept = [\"Revoked\"]",
        ] {
            let text = format!("schema = 1\nplatform = \"tdx\"\n{bad}\n");
            assert!(matches!(PolicyFile::parse(&text), Err(PolicyError::Value { .. })), "{bad}");
        }
    }

    #[test]
    fn named_attributes_are_allowed_by_name() {
        let text = "schema = 1\nplatform = \"tdx\"\n[td]\nallow-attributes = [\"pks\", \"perfmon\"]\n";
        assert_eq!(PolicyFile::parse(text).unwrap().settings.allowed_attributes, 1 << 30 | 1 << 63);
    }
}
