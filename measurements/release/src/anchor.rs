//! What a consumer starts from: part of its measured settings, so that nobody can change it unseen.
//!
//! ```toml
//! schema = 1
//! root = "hex"                 # SHA-256 of the first root.json
//! rebuilders = ["hex", ...]    # Ed25519 public keys
//! threshold = 2                # k: how many of them must have come to the same measurements
//! names = ["worker"]           # releases of other names are left alone
//! minimum = { worker = "0.1.0" }   # optional; nothing older
//! not-before = "2026-11-21T00:00:00Z"   # optional; it is no earlier than this
//! refresh-seconds = 3600       # how often the mirror is asked
//! grace-seconds = 0            # how long what was accepted outlives a timestamp that nobody renews
//! accept-deprecated = true
//! ```
//! The rebuilders stand here and not in the publisher's metadata: a delegation of TUF is the publisher's own word, and he
//! could give it to rebuilders of his own.

use crate::error::ReleaseError;
use crate::key::PublicKey;
use crate::tuf::role::instant;
use crate::version::Version;
use measure::Digest256;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most bytes that are read.
const MAX_ANCHOR: usize = 64 * 1024;
/// Most rebuilders.
const MAX_REBUILDERS: usize = 32;
/// Bounds of the refresh interval, seconds.
const REFRESH: std::ops::RangeInclusive<u64> = 5..=7 * 86_400;
/// Longest grace, seconds.
const MAX_GRACE: u64 = 30 * 86_400;

/// Settings of a consumer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Anchor {
    /// Always 1.
    pub schema: u32,
    /// SHA-256 of the first root.
    pub root: Digest256,
    /// Keys of the rebuilders.
    #[serde(default)]
    pub rebuilders: Vec<PublicKey>,
    /// How many of them must agree; 0 trusts the publisher alone, and must be said.
    pub threshold: u32,
    /// Names of releases that matter.
    pub names: Vec<String>,
    /// Lowest version by name.
    #[serde(default)]
    pub minimum: BTreeMap<String, Version>,
    /// A lower bound of the time, RFC 3339.
    #[serde(default)]
    pub not_before: Option<String>,
    /// How often to ask the mirror, seconds.
    #[serde(default = "an_hour")]
    pub refresh_seconds: u64,
    /// How long an accepted set outlives its timestamp, seconds.
    #[serde(default)]
    pub grace_seconds: u64,
    /// Whether deprecated releases are taken.
    #[serde(default = "yes")]
    pub accept_deprecated: bool,
}

fn an_hour() -> u64 {
    3600
}

fn yes() -> bool {
    true
}

impl Anchor {
    /// Reads and validates a file of these settings.
    pub fn parse(text: &str) -> Result<Self, ReleaseError> {
        if text.len() > MAX_ANCHOR {
            let what = "publication settings".into();
            return Err(ReleaseError::TooLong { what, max: MAX_ANCHOR, found: text.len() });
        }
        let read: Anchor = toml::from_str(text).map_err(|e| ReleaseError::Syntax {
            what: "publication settings".into(),
            why: e.to_string().trim_end().to_owned(),
        })?;
        read.check()?;
        Ok(read)
    }

    /// The same settings as a text that [`Anchor::parse`] reads.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// Validates; for settings that are part of others.
    pub fn check(&self) -> Result<(), ReleaseError> {
        let bad = |field: &str, found: String, expected: &str| {
            Err(ReleaseError::value("publication settings", field, found, expected))
        };
        if self.schema != 1 {
            return bad("schema", self.schema.to_string(), "1");
        }
        let different: BTreeSet<_> = self.rebuilders.iter().collect();
        if different.len() != self.rebuilders.len() || different.len() > MAX_REBUILDERS {
            let expected = format!("at most {MAX_REBUILDERS}, each once: a key twice is one rebuilder");
            return bad("rebuilders", format!("{} keys", self.rebuilders.len()), &expected);
        }
        if self.threshold as usize > different.len() {
            let expected = format!("at most {}, the number of rebuilders", different.len());
            return bad("threshold", self.threshold.to_string(), &expected);
        }
        if self.names.is_empty() {
            return bad("names", "empty".into(), "one or more names of releases");
        }
        if !REFRESH.contains(&self.refresh_seconds) {
            let expected = format!("{} to {}", REFRESH.start(), REFRESH.end());
            return bad("refresh-seconds", self.refresh_seconds.to_string(), &expected);
        }
        if self.grace_seconds > MAX_GRACE {
            return bad("grace-seconds", self.grace_seconds.to_string(), "at most 30 days");
        }
        self.not_before().map(|_| ())
    }

    /// The lower bound of the time that the settings give, Unix seconds; 0 where they give none.
    pub fn not_before(&self) -> Result<u64, ReleaseError> {
        let read = |text: &String| instant("publication settings", "not-before", text);
        self.not_before.as_ref().map_or(Ok(0), read)
    }
}
