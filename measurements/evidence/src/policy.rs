//! What the relying party accepts, as data (RFC 9334: Appraisal Policy for Evidence).
//!
//! ```toml
//! schema = 1
//! platform = "tdx"                     # or "simulated", with root = "root.der" beside this file
//!
//! [tcb]
//! accept = ["UpToDate"]
//!
//! [td]
//! allow-attributes = []                # of icssd, lass, pks, kl, tpa, perfmon
//! xfam-allowed = 0x6dbe7
//! mrseam = []                          # hex; empty: any module that the collateral vouches for
//! mrowner = "hex"                      # these three: zeros when not given
//! mrownerconfig = "hex"
//! mrservicetd = "hex"
//! ```
//! Every default is the strict one. Two doors are kept apart by type: [`Policy::production`] and a policy with
//! `platform = "tdx"` always end in Intel's root and can't name another; [`Policy::simulated`] can't name Intel's, and
//! its root must carry SIMULATED in its subject, so that a certificate authority of a real vendor can't pass for it.
//! DEBUG, bits that no specification names, and a missing SEPT_VE_DISABLE are refused by every policy.

use crate::td::{XFAM_DEFINED, XFAM_FIXED1, attributes};
use dcap_qvl::TcbStatus;
use measure::Digest384;
use serde::Deserialize;
use sha2::{Digest, Sha256, Sha384};
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
    Simulated { der: Vec<u8>, key_id: String },
}

/// Everything in a policy but its trust root.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) accept: Vec<TcbStatus>,
    pub(crate) allowed_attributes: u64,
    pub(crate) xfam_allowed: u64,
    pub(crate) mrseam: Vec<Digest384>,
    pub(crate) mrowner: Digest384,
    pub(crate) mrownerconfig: Digest384,
    pub(crate) mrservicetd: Digest384,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            accept: vec![TcbStatus::UpToDate],
            allowed_attributes: 0,
            xfam_allowed: XFAM_DEFINED,
            mrseam: Vec::new(),
            mrowner: Digest384::ZERO,
            mrownerconfig: Digest384::ZERO,
            mrservicetd: Digest384::ZERO,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    schema: u32,
    platform: Platform,
    root: Option<String>,
    #[serde(default)]
    tcb: TcbText,
    #[serde(default)]
    td: TdText,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct TcbText {
    accept: Option<Vec<TcbStatus>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TdText {
    allow_attributes: Option<Vec<String>>,
    xfam_allowed: Option<u64>,
    mrseam: Option<Vec<Digest384>>,
    mrowner: Option<Digest384>,
    mrownerconfig: Option<Digest384>,
    mrservicetd: Option<Digest384>,
}

impl PolicyFile {
    /// Reads a policy's text; paths in it are left to the caller.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_POLICY {
            return Err(PolicyError::TooLong { found: text.len() });
        }
        let text: Text = toml::from_str(text).map_err(Box::new)?;
        if text.schema != 1 {
            return Err(value("schema", text.schema.to_string(), "1"));
        }
        match (text.platform, &text.root) {
            (Platform::Tdx, Some(_)) => return Err(PolicyError::ProductionRoot),
            (Platform::Simulated, None) => return Err(PolicyError::NoSimulatedRoot),
            _ => {}
        }
        let settings = Settings::read(text.tcb, text.td)?;
        Ok(PolicyFile { platform: text.platform, root: text.root, settings })
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

    /// SHA-256 of the root certificate, hex.
    pub fn root_fingerprint(&self) -> String {
        match &self.root {
            Root::Intel => INTEL_ROOT_FINGERPRINT.into(),
            Root::Simulated { der, .. } => fingerprint(der),
        }
    }
}

impl Settings {
    fn read(tcb: TcbText, td: TdText) -> Result<Self, PolicyError> {
        let strict = Settings::default();
        let accept = tcb.accept.unwrap_or(strict.accept);
        if accept.contains(&TcbStatus::Revoked) {
            return Err(value(
                "tcb.accept",
                "Revoked".into(),
                "any other status: a revoked platform's keys are known",
            ));
        }
        let mut allowed_attributes = 0;
        for name in td.allow_attributes.unwrap_or_default() {
            allowed_attributes |= attribute(&name)?;
        }
        let xfam_allowed = td.xfam_allowed.unwrap_or(strict.xfam_allowed);
        if xfam_allowed & XFAM_FIXED1 != XFAM_FIXED1 {
            return Err(value(
                "td.xfam-allowed",
                format!("{xfam_allowed:#x}"),
                "bits 0 and 1 set: no TD is without them",
            ));
        }
        Ok(Settings {
            accept,
            allowed_attributes,
            xfam_allowed,
            mrseam: td.mrseam.unwrap_or(strict.mrseam),
            mrowner: td.mrowner.unwrap_or(strict.mrowner),
            mrownerconfig: td.mrownerconfig.unwrap_or(strict.mrownerconfig),
            mrservicetd: td.mrservicetd.unwrap_or(strict.mrservicetd),
        })
    }
}

/// The bit that a policy may allow under this name. A TD that can be migrated, or whose service TDs may change while it
/// runs, is refused by every policy for now: nothing here appraises those service TDs.
fn attribute(name: &str) -> Result<u64, PolicyError> {
    let may = |n: &str| !matches!(n, "migratable" | "servtd-ext");
    if let Some((_, bit)) = attributes::NAMED.iter().find(|(n, _)| *n == name && may(n)) {
        return Ok(*bit);
    }
    let names: Vec<_> = attributes::NAMED.iter().map(|(n, _)| *n).filter(|n| may(n)).collect();
    Err(value("td.allow-attributes", format!("`{name}`"), &format!("one of {}", names.join(", "))))
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
    Ok(Root::Simulated { der, key_id })
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
