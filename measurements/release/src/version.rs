//! Names and versions of releases.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Longest name.
const MAX_NAME: usize = 32;

/// `MAJOR.MINOR.PATCH`, compared as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub [u32; 3]);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl std::str::FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<u32> = text.split('.').filter_map(|part| part.parse().ok()).collect();
        let version = <[u32; 3]>::try_from(parts).ok().map(Version);
        // Written back: one spelling only, without signs or leading zeros.
        let version = version.filter(|version| version.to_string() == text);
        version.ok_or_else(|| format!("version `{text}`, expected three numbers such as 0.1.0"))
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.to_string())
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Which release: `worker-0.1.0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseId {
    /// `a-z`, digits and `-`, at most 32; no dot, so that the id can be taken apart.
    pub name: String,
    /// Version.
    pub version: Version,
}

impl ReleaseId {
    /// Checks the name.
    pub fn new(name: &str, version: Version) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
        if !starts || name.ends_with('-') || name.len() > MAX_NAME || !name.chars().all(allowed) {
            return Err(format!("release name `{name}`, expected a-z, 0-9 and `-`, at most {MAX_NAME}"));
        }
        Ok(ReleaseId { name: name.to_owned(), version })
    }

    /// The target of this release with that ending, see [`crate::name`].
    pub fn target(&self, end: &str) -> String {
        format!("{self}{end}")
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.name, self.version)
    }
}

impl std::str::FromStr for ReleaseId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("release `{text}`, expected name and version such as worker-0.1.0");
        let (name, version) = text.rsplit_once('-').ok_or_else(bad)?;
        ReleaseId::new(name, version.parse()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers_and_have_one_spelling() {
        let version = |text: &str| text.parse::<Version>();
        assert!(version("0.10.0").unwrap() > version("0.9.9").unwrap());
        for text in ["1", "1.2", "1.2.3.4", "01.2.3", "+1.2.3", "1.2.x", "1..2.3", "1.2.4294967296", ""] {
            assert!(version(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_id_is_taken_apart_as_it_was_put_together() {
        let id: ReleaseId = "gpu-worker-0.1.0".parse().unwrap();
        assert_eq!((id.name.as_str(), id.version), ("gpu-worker", Version([0, 1, 0])));
        assert_eq!(id.to_string(), "gpu-worker-0.1.0");
        for text in ["worker", "-0.1.0", "Worker-0.1.0", "wo.rker-0.1.0", "../w-0.1.0", "9-0.1.0", "w--0.1.0"]
        {
            assert!(text.parse::<ReleaseId>().is_err(), "{text}");
        }
    }
}
