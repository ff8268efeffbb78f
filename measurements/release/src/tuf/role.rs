//! What each role's metadata say, read from the canonical bytes that were signed.
//!
//! Fields that this version does not know are left alone, as the specification wants: they are covered by the signature,
//! and nothing is decided by them. `issued` is ours: when the file was signed, which is a lower bound of the time.

use crate::error::ReleaseError;
use crate::json::Value;
use crate::key::PublicKey;
use crate::name;
use measure::Digest256;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Most signed versions anything can have; far from where sums overflow.
const MAX_VERSION: u64 = 1 << 40;

/// A role of TUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Says whose keys the others are. Offline.
    Root,
    /// Says which files there are. Offline.
    Targets,
    /// Says which version of the targets is current.
    Snapshot,
    /// Says often that the snapshot is still current. Online.
    Timestamp,
}

impl Role {
    /// All four.
    pub const ALL: [Role; 4] = [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp];

    /// As metadata name it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Root => "root",
            Role::Targets => "targets",
            Role::Snapshot => "snapshot",
            Role::Timestamp => "timestamp",
        }
    }

    /// Most bytes of its metadata that are read.
    pub fn max_bytes(self) -> usize {
        match self {
            Role::Root => 64 * 1024,
            Role::Targets => 1024 * 1024,
            Role::Snapshot | Role::Timestamp => 16 * 1024,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Role::ALL.into_iter().find(|role| role.name() == text);
        known.ok_or_else(|| format!("role `{text}`: there are root, targets, snapshot and timestamp"))
    }
}

/// Whose signatures count for a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Which role, for messages.
    pub role: Role,
    /// Keys by their ids.
    pub keys: BTreeMap<String, PublicKey>,
    /// How many different ones must sign.
    pub threshold: u32,
}

/// A reference to a file: what is read must be exactly this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Version of metadata; 0 for targets.
    pub version: u64,
    /// Bytes.
    pub length: usize,
    /// Hash.
    pub sha256: Digest256,
}

impl Meta {
    /// Holds bytes against this.
    pub(crate) fn check(&self, what: &str, bytes: &[u8], signed_by: &str) -> Result<(), ReleaseError> {
        let mismatch = |field, found: String, expected: String| {
            Err(ReleaseError::Mismatch {
                what: what.into(),
                field,
                found,
                expected,
                signed_by: signed_by.into(),
            })
        };
        if bytes.len() != self.length {
            return mismatch("length", bytes.len().to_string(), self.length.to_string());
        }
        let found = Digest256::of(bytes);
        if found != self.sha256 {
            return mismatch("SHA-256", found.to_string(), self.sha256.to_string());
        }
        Ok(())
    }
}

/// What all roles have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Counts up.
    pub version: u64,
    /// End, Unix seconds.
    pub expires: u64,
    /// When it was signed, Unix seconds, where it says so.
    pub issued: Option<u64>,
}

#[derive(Deserialize)]
struct HeadJson {
    #[serde(rename = "_type")]
    kind: String,
    spec_version: String,
    version: u64,
    expires: String,
    issued: Option<String>,
}

impl Head {
    pub(crate) fn read(what: &str, role: Role, signed: &Value) -> Result<Self, ReleaseError> {
        let head: HeadJson = signed.read(what)?;
        let bad =
            |field: &str, found: &str, expected: &str| Err(ReleaseError::value(what, field, found, expected));
        if head.kind != role.name() {
            return bad("_type", &head.kind, role.name());
        }
        if !head.spec_version.starts_with("1.") {
            return bad("spec_version", &head.spec_version, "1.0");
        }
        if !(1..=MAX_VERSION).contains(&head.version) {
            return bad("version", &head.version.to_string(), "1 or more, counting up");
        }
        let issued = head.issued.as_deref().map(|text| instant(what, "issued", text)).transpose()?;
        let expires = instant(what, "expires", &head.expires)?;
        if issued.is_some_and(|issued| issued > expires) {
            return bad("issued", &head.issued.unwrap_or_default(), "no later than expires");
        }
        Ok(Head { version: head.version, expires, issued })
    }

    pub(crate) fn check_fresh(&self, what: &str, now: u64) -> Result<(), ReleaseError> {
        if self.expires <= now {
            return Err(ReleaseError::Expired { what: what.into(), expired: self.expires, now });
        }
        Ok(())
    }
}

pub(crate) fn instant(what: &str, field: &str, text: &str) -> Result<u64, ReleaseError> {
    evidence::read_time(text).ok_or_else(|| ReleaseError::value(what, field, text, "YYYY-MM-DDTHH:MM:SSZ"))
}

/// What the root says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Version, end.
    pub head: Head,
    /// Whose signatures count for what.
    pub authorities: BTreeMap<Role, Authority>,
}

#[derive(Deserialize)]
struct RoleJson {
    keyids: Vec<String>,
    threshold: u32,
}

#[derive(Deserialize)]
struct RootJson {
    consistent_snapshot: bool,
    roles: BTreeMap<String, RoleJson>,
}

impl Root {
    pub(crate) fn read(what: &str, signed: &Value) -> Result<Self, ReleaseError> {
        let head = Head::read(what, Role::Root, signed)?;
        let json: RootJson = signed.read(what)?;
        if !json.consistent_snapshot {
            return Err(ReleaseError::value(what, "consistent_snapshot", "false", "true"));
        }
        let keys = keys(what, signed)?;
        let authorities = Role::ALL.into_iter().map(|role| {
            let missing = || ReleaseError::value(what, "roles", format!("without {role}"), "all four roles");
            let named = json.roles.get(role.name()).ok_or_else(missing)?;
            Ok((role, authority(what, role, named, &keys)?))
        });
        Ok(Root { head, authorities: authorities.collect::<Result<_, ReleaseError>>()? })
    }

    /// Whose signatures count for this role.
    pub fn authority(&self, role: Role) -> Option<&Authority> {
        self.authorities.get(&role)
    }

    /// Every key of every role.
    pub fn keys(&self) -> impl Iterator<Item = PublicKey> + '_ {
        self.authorities.values().flat_map(|authority| authority.keys.values().copied())
    }
}

/// Keys of algorithms that we know, by their ids, which must be what the specification makes of them.
fn keys(what: &str, signed: &Value) -> Result<BTreeMap<String, PublicKey>, ReleaseError> {
    let Some(Value::Map(listed)) = signed.get("keys") else {
        return Err(ReleaseError::value(what, "keys", "missing or no object", "keys by their ids"));
    };
    let mut keys = BTreeMap::new();
    for (id, value) in listed {
        let expected = Digest256::of(&value.canonical()).to_string();
        if *id != expected {
            return Err(ReleaseError::value(what, "keys", id, format!("the key's own id, {expected}")));
        }
        keys.extend(PublicKey::from_tuf(value).map(|key| (id.clone(), key)));
    }
    Ok(keys)
}

fn authority(
    what: &str,
    role: Role,
    named: &RoleJson,
    keys: &BTreeMap<String, PublicKey>,
) -> Result<Authority, ReleaseError> {
    let known = named.keyids.iter().filter_map(|id| Some((id.clone(), *keys.get(id)?)));
    let authority = Authority { role, keys: known.collect(), threshold: named.threshold };
    let mut different: Vec<_> = authority.keys.values().collect();
    different.sort();
    different.dedup();
    if named.threshold == 0 || named.threshold as usize > different.len() {
        let expected = format!("1 to {}, as many as it has different Ed25519 keys", different.len());
        return Err(ReleaseError::value(what, &format!("threshold of {role}"), named.threshold, expected));
    }
    Ok(authority)
}

#[derive(Deserialize)]
struct MetaJson {
    #[serde(default)]
    version: u64,
    length: usize,
    hashes: HashesJson,
}

#[derive(Deserialize)]
struct HashesJson {
    sha256: Digest256,
}

impl From<MetaJson> for Meta {
    fn from(json: MetaJson) -> Self {
        Meta { version: json.version, length: json.length, sha256: json.hashes.sha256 }
    }
}

/// Reads the one reference that a timestamp or snapshot holds.
pub(crate) fn reference(what: &str, signed: &Value, to: &str) -> Result<Meta, ReleaseError> {
    let named = signed.get("meta").and_then(|meta| meta.get(to));
    let named = named.ok_or_else(|| ReleaseError::value(what, "meta", format!("without {to}"), to))?;
    let meta = Meta::from(named.read::<MetaJson>(what)?);
    if !(1..=MAX_VERSION).contains(&meta.version) {
        return Err(ReleaseError::value(what, &format!("version of {to}"), meta.version, "1 or more"));
    }
    Ok(meta)
}

/// Reads the names and references of the targets.
pub(crate) fn targets(what: &str, signed: &Value) -> Result<BTreeMap<String, Meta>, ReleaseError> {
    let Some(Value::Map(listed)) = signed.get("targets") else {
        return Err(ReleaseError::value(what, "targets", "missing or no object", "references by name"));
    };
    let mut targets = BTreeMap::new();
    for (target, value) in listed {
        name::check(what, target)?;
        targets.insert(target.clone(), Meta::from(value.read::<MetaJson>(what)?));
    }
    Ok(targets)
}
