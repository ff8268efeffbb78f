//! Reference values (RFC 9334): the registers that a right guest shows, one tuple for each release and shape.
//!
//! ```json
//! {"schema": 1, "releases": [{"name": "worker 0.1.0, 2 vCPU, 4 GiB", "mrtd": "hex", "rtmr0": "hex",
//!   "rtmr1": "hex", "rtmr2": "hex", "rtmr3": "events"}], "mrconfigid": "hex, optional"}
//! ```
//! `rtmr3` is `"events"` where the release extends it by the guest's own events, absent where it does not.

use crate::td::named;
use measure::codec::put;
use measure::{Digest384, Registers};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// Most bytes of a reference file that are read.
pub const MAX_REFERENCE: usize = 4 * 1024 * 1024;

/// What the verifier holds the registers against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Always 1.
    pub schema: u32,
    /// Any one of these is right.
    pub releases: Vec<Release>,
    /// SHA-384 of the static configuration that is wanted; without it any configuration that hashes right is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrconfigid: Option<Digest384>,
}

/// The registers of one release on one shape of machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// For people: release and shape.
    pub name: String,
    /// Initial memory.
    pub mrtd: Digest384,
    /// Firmware's configuration.
    pub rtmr0: Digest384,
    /// Boot loader and kernel.
    pub rtmr1: Digest384,
    /// Command line and initrd.
    pub rtmr2: Digest384,
    /// Run time; zeros, nothing extended, when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtmr3: Option<Rtmr3>,
}

/// What a release that uses RTMR3 says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rtmr3 {
    /// `"events"`: the guest extends it by its own events ([`measure::runtime`]), which depend on its configuration, so
    /// that no one value can be named. The check `runtime_events` holds it against the log that the guest shows.
    Events,
    /// Hex: exactly this value.
    Value(Digest384),
}

/// How [`Rtmr3::Events`] is written.
const EVENTS: &str = "events";

impl Serialize for Rtmr3 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Rtmr3::Events => s.serialize_str(EVENTS),
            Rtmr3::Value(value) => value.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Rtmr3 {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        if text == EVENTS {
            return Ok(Rtmr3::Events);
        }
        text.parse().map(Rtmr3::Value).map_err(|e| {
            serde::de::Error::custom(format!(
                "rtmr3: expected `{EVENTS}` or 96 hex digits, found `{text}`: {e}"
            ))
        })
    }
}

/// Why reference values were refused.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// Too many bytes.
    #[error(
        "reference values: expected at most {MAX_REFERENCE} bytes, found {found}; is this the right file?"
    )]
    TooLong {
        /// Length of the input.
        found: usize,
    },
    /// Not the JSON this schema wants; the message carries line and column.
    #[error("reference values: {0}; make them anew with `chrysalis measure`")]
    Syntax(#[from] serde_json::Error),
    /// Another schema.
    #[error("reference values: schema is {found}, expected 1; use the verifier that came with the release")]
    Schema {
        /// What stands there.
        found: u32,
    },
    /// Nothing to compare with.
    #[error("reference values: `releases` is empty, expected one or more; an empty list accepts nothing")]
    Empty,
}

impl Reference {
    /// Reads and validates.
    pub fn parse(json: &[u8]) -> Result<Self, ReferenceError> {
        if json.len() > MAX_REFERENCE {
            return Err(ReferenceError::TooLong { found: json.len() });
        }
        let reference: Reference = serde_json::from_slice(json)?;
        if reference.schema != 1 {
            return Err(ReferenceError::Schema { found: reference.schema });
        }
        if reference.releases.is_empty() {
            return Err(ReferenceError::Empty);
        }
        Ok(reference)
    }

    /// The release that has exactly these registers.
    pub fn matching(&self, registers: &Registers) -> Option<&Release> {
        self.releases.iter().find(|release| release.registers(registers.rtmr[3]) == *registers)
    }

    /// The release that has most of these registers, for the error message.
    pub(crate) fn closest(&self, registers: &Registers) -> Option<&Release> {
        let equal = |release: &&Release| {
            let pairs = named(&release.registers(registers.rtmr[3])).into_iter().zip(named(registers));
            pairs.filter(|(a, b)| a == b).count()
        };
        self.releases.iter().max_by_key(equal)
    }
}

impl Release {
    /// The tuple that a quote must show. Where RTMR3 is that of the guest's events, its place is taken by `replayed`:
    /// what those events come to, or, where the events are checked apart, what the quote shows.
    pub fn registers(&self, replayed: Digest384) -> Registers {
        let rtmr3 = match self.rtmr3 {
            None => Digest384::ZERO,
            Some(Rtmr3::Events) => replayed,
            Some(Rtmr3::Value(value)) => value,
        };
        Registers { mrtd: self.mrtd, rtmr: [self.rtmr0, self.rtmr1, self.rtmr2, rtmr3] }
    }

    /// Names these registers, whatever they are called: SHA-256 over the fields `chrysalis/release/1`, MRTD, RTMR0 to RTMR2
    /// and what is said of RTMR3 (nothing, `events`, or the value), each behind its length as a big-endian `u32`.
    pub fn digest(&self) -> [u8; 32] {
        let mut input = Vec::new();
        put(&mut input, b"chrysalis/release/1");
        for register in [&self.mrtd, &self.rtmr0, &self.rtmr1, &self.rtmr2] {
            put(&mut input, &register.0);
        }
        match &self.rtmr3 {
            None => put(&mut input, &[]),
            Some(Rtmr3::Events) => put(&mut input, EVENTS.as_bytes()),
            Some(Rtmr3::Value(value)) => put(&mut input, &value.0),
        }
        Sha256::digest(&input).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(name: &str, fill: u8) -> Release {
        let r = Digest384([fill; 48]);
        Release { name: name.into(), mrtd: r, rtmr0: r, rtmr1: r, rtmr2: r, rtmr3: None }
    }

    #[test]
    fn registers_of_two_releases_mixed_match_neither() {
        let releases = vec![release("old", 1), release("new", 2)];
        let reference = Reference { schema: 1, releases, mrconfigid: None };
        let mut mixed = reference.releases[0].registers(Digest384::ZERO);
        assert_eq!(reference.matching(&mixed).unwrap().name, "old");
        mixed.rtmr[2] = Digest384([2; 48]);
        assert_eq!(reference.matching(&mixed), None);
        assert_eq!(reference.closest(&mixed).unwrap().name, "old");
    }

    #[test]
    fn a_digest_names_the_registers_and_not_the_name() {
        let base = release("a", 1);
        let other = Digest384([9; 48]);
        assert_eq!(base.digest(), release("b", 1).digest());
        let changed = [
            Release { mrtd: other, ..base.clone() },
            Release { rtmr0: other, ..base.clone() },
            Release { rtmr1: other, ..base.clone() },
            Release { rtmr2: other, ..base.clone() },
            Release { rtmr3: Some(Rtmr3::Events), ..base.clone() },
            Release { rtmr3: Some(Rtmr3::Value(Digest384::ZERO)), ..base.clone() },
        ];
        for changed in changed {
            assert_ne!(base.digest(), changed.digest(), "{changed:?}");
        }
    }

    #[test]
    fn a_digest_is_that_of_the_published_test_vector() {
        // docs/reference/channel.md; computed there by another implementation.
        let page = include_str!("../../../docs/reference/channel.md");
        let stated = page.split("\nrelease:\n").nth(1).and_then(|rest| rest.lines().next()).unwrap();
        let r = |fill| Digest384([fill; 48]);
        let rtmr3 = Some(Rtmr3::Events);
        let release =
            Release { name: String::new(), mrtd: r(1), rtmr0: r(2), rtmr1: r(3), rtmr2: r(4), rtmr3 };
        assert_eq!(hex::encode(release.digest()), stated.trim());
    }

    #[test]
    fn a_used_rtmr3_needs_a_reference() {
        let reference = Reference { schema: 1, releases: vec![release("r", 1)], mrconfigid: None };
        let mut registers = reference.releases[0].registers(Digest384::ZERO);
        registers.rtmr[3] = Digest384([9; 48]);
        assert_eq!(reference.matching(&registers), None);
    }

    #[test]
    fn rtmr3_is_absent_events_or_a_value_and_nothing_else() {
        let parse = |rtmr3: &str| {
            let zeros = "00".repeat(48);
            let registers =
                format!(r#""mrtd":"{zeros}","rtmr0":"{zeros}","rtmr1":"{zeros}","rtmr2":"{zeros}""#);
            let json = format!(r#"{{"schema":1,"releases":[{{"name":"r",{registers}{rtmr3}}}]}}"#);
            Reference::parse(json.as_bytes()).map(|r| {
                assert_eq!(Reference::parse(&serde_json::to_vec(&r).unwrap()).unwrap(), r);
                r.releases[0].rtmr3
            })
        };
        assert_eq!(parse("").unwrap(), None);
        assert_eq!(parse(r#","rtmr3":"events""#).unwrap(), Some(Rtmr3::Events));
        let value = format!(r#","rtmr3":"{}""#, "01".repeat(48));
        assert_eq!(parse(&value).unwrap(), Some(Rtmr3::Value(Digest384([1; 48]))));
        let text = parse(r#","rtmr3":"any""#).unwrap_err().to_string();
        assert!(text.contains("expected `events` or 96 hex digits, found `any`"), "{text}");
    }

    #[test]
    fn an_empty_or_foreign_reference_is_refused() {
        assert!(matches!(Reference::parse(br#"{"schema":1,"releases":[]}"#), Err(ReferenceError::Empty)));
        let foreign = br#"{"schema":2,"releases":[]}"#;
        assert!(matches!(Reference::parse(foreign), Err(ReferenceError::Schema { found: 2 })));
        let unknown = br#"{"schema":1,"releases":[],"rtmr9":"00"}"#;
        assert!(Reference::parse(unknown).unwrap_err().to_string().contains("rtmr9"));
    }
}
