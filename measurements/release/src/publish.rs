//! The publisher's side: metadata as values, from unsigned to signed. Bytes out, no I/O, no clock.
//!
//! ```text
//! RootPlan --unsigned--> Unsigned --sign (each holder of a key, anywhere)--> Unsigned --complete--> bytes of N.root.json
//! Edition (of a publication, targets added) --sign--> files of the next version, the timestamp last
//! ```
//! Guests link none of this: nothing on their side calls it.

use crate::document::Pinned;
use crate::error::ReleaseError;
use crate::json::Value;
use crate::key::{PublicKey, SigningKey};
use crate::name;
use crate::tuf::envelope::Envelope;
use crate::tuf::{Role, Trusted};
use evidence::show_time;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;

/// What the files say of the specification that they follow.
const SPEC_VERSION: &str = "1.0.31";

/// Metadata with the signatures that were gathered so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsigned {
    signed: Value,
    signatures: BTreeMap<String, Vec<u8>>,
}

#[derive(Serialize)]
struct SignatureJson {
    keyid: String,
    sig: String,
}

impl Unsigned {
    fn of(signed: &serde_json::Value) -> Result<Self, ReleaseError> {
        Ok(Unsigned { signed: Value::of("metadata", signed)?, signatures: BTreeMap::new() })
    }

    /// Reads metadata that others may have signed already.
    pub fn parse(what: &str, bytes: &[u8]) -> Result<Self, ReleaseError> {
        let envelope = Envelope::parse(what, bytes, Role::Targets.max_bytes())?;
        let signatures = envelope.signatures().map(|(id, sig)| (id.to_owned(), sig));
        Ok(Unsigned { signatures: signatures.collect(), signed: envelope.unverified().clone() })
    }

    /// Adds a signature; the same key again replaces its own.
    pub fn sign(&mut self, key: &SigningKey) {
        self.signatures.insert(key.public().id().to_string(), key.sign(&self.signed.canonical()));
    }

    /// Ids of the keys that signed.
    pub fn signers(&self) -> impl Iterator<Item = &str> {
        self.signatures.keys().map(String::as_str)
    }

    /// The file, as far as it is signed.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ReleaseError> {
        let one =
            |(keyid, sig): (&String, &Vec<u8>)| SignatureJson { keyid: keyid.clone(), sig: hex::encode(sig) };
        let signatures: Vec<_> = self.signatures.iter().map(one).collect();
        let signatures = Value::of("metadata", &signatures)?;
        let whole = [("signatures".to_owned(), signatures), ("signed".to_owned(), self.signed.clone())];
        Ok(Value::Map(whole.into()).canonical())
    }
}

/// Keys of a role, and how many of them must sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holders {
    /// Public keys.
    pub keys: Vec<PublicKey>,
    /// How many.
    pub threshold: u32,
}

/// What a root shall say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootPlan {
    /// Version: one more than the last.
    pub version: u64,
    /// Now, Unix seconds.
    pub issued: u64,
    /// End, Unix seconds.
    pub expires: u64,
    /// Whose signatures count.
    pub holders: BTreeMap<Role, Holders>,
}

impl RootPlan {
    /// The plan that follows the current root and changes nothing yet.
    pub fn after(trusted: &Trusted, issued: u64, expires: u64) -> Self {
        let root = trusted.root();
        let holders = root.authorities.iter().map(|(role, authority)| {
            let keys = authority.keys.values().copied().collect();
            (*role, Holders { keys, threshold: authority.threshold })
        });
        RootPlan { version: root.head.version + 1, issued, expires, holders: holders.collect() }
    }

    /// The metadata, to be signed by the holders of the last root and of this.
    pub fn unsigned(&self) -> Result<Unsigned, ReleaseError> {
        let mut keys = serde_json::Map::new();
        let mut roles = serde_json::Map::new();
        for (role, holders) in &self.holders {
            let ids: Vec<_> = holders.keys.iter().map(|key| key.id().to_string()).collect();
            for (key, id) in holders.keys.iter().zip(&ids) {
                let text = String::from_utf8_lossy(&key.to_tuf().canonical()).into_owned();
                let value = serde_json::from_str(&text)
                    .map_err(|e| ReleaseError::Syntax { what: "root".into(), why: e.to_string() })?;
                keys.insert(id.clone(), value);
            }
            roles.insert(role.name().into(), json!({ "keyids": ids, "threshold": holders.threshold }));
        }
        let mut signed = head(Role::Root, self.version, Times { issued: self.issued, expires: self.expires });
        signed["consistent_snapshot"] = true.into();
        signed["keys"] = keys.into();
        signed["roles"] = roles.into();
        Unsigned::of(&signed)
    }
}

/// When metadata are signed and when they end, Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Now.
    pub issued: u64,
    /// End.
    pub expires: u64,
}

fn head(role: Role, version: u64, times: Times) -> serde_json::Value {
    json!({
        "_type": role.name(),
        "spec_version": SPEC_VERSION,
        "version": version,
        "issued": show_time(times.issued),
        "expires": show_time(times.expires),
    })
}

/// Whose keys are at hand for the next version, and how long it shall live.
#[derive(Debug)]
pub struct Signers<'a> {
    /// Of targets; none leaves the targets as they are.
    pub targets: Option<(&'a [SigningKey], Times)>,
    /// Of the snapshot; none leaves it as it is, if the targets are.
    pub snapshot: Option<(&'a [SigningKey], Times)>,
    /// Of the timestamp.
    pub timestamp: (&'a [SigningKey], Times),
}

/// The next version of a publication.
#[derive(Debug)]
pub struct Edition {
    versions: [u64; 4],
    targets: BTreeMap<String, Pinned>,
    added: BTreeMap<String, Vec<u8>>,
    current: BTreeMap<Role, Vec<u8>>,
}

impl Edition {
    /// Follows what is published; after a first root alone, nothing is.
    pub fn of(trusted: &Trusted) -> Self {
        let listed = trusted.targets().into_iter().flatten();
        let pin = |meta: &crate::Meta| Pinned { sha256: meta.sha256, size: meta.length as u64 };
        let targets = listed.map(|(name, meta)| (name.clone(), pin(meta))).collect();
        let current = [Role::Targets, Role::Snapshot]
            .into_iter()
            .filter_map(|role| Some((role, trusted.bytes_of(role)?.to_vec())));
        Edition { versions: trusted.versions(), targets, added: BTreeMap::new(), current: current.collect() }
    }

    /// Adds a target, or replaces it.
    pub fn add(&mut self, target: &str, bytes: Vec<u8>) -> Result<(), ReleaseError> {
        name::check("the new target", target)?;
        let pinned = Pinned::of(&bytes);
        self.added.insert(format!("targets/{}.{target}", pinned.sha256), bytes);
        self.targets.insert(target.to_owned(), pinned);
        Ok(())
    }

    /// The files to write below the publication's folder, in this order, so that it is whole at every moment.
    pub fn sign(self, signers: &Signers<'_>) -> Result<Vec<(String, Vec<u8>)>, ReleaseError> {
        let [_, timestamp, snapshot, targets] = self.versions;
        let missing = |role: Role, why: &str| {
            ReleaseError::value("the next version", "keys", format!("none of {role}"), format!("one: {why}"))
        };
        let mut files: Vec<_> = self.added.into_iter().collect();
        let (mut snapshot_version, mut targets_version) = (snapshot, targets);
        let targets_bytes = match (&signers.targets, self.current.get(&Role::Targets)) {
            (Some((keys, times)), _) => {
                targets_version += 1;
                let bytes = targets_json(targets_version, *times, &self.targets, keys)?;
                files.push((format!("metadata/{targets_version}.targets.json"), bytes.clone()));
                bytes
            }
            (None, Some(bytes)) if files.is_empty() => bytes.clone(),
            (None, _) => return Err(missing(Role::Targets, "targets change")),
        };
        let snapshot_bytes = match (&signers.snapshot, self.current.get(&Role::Snapshot)) {
            (Some((keys, times)), _) => {
                snapshot_version += 1;
                let meta = (("targets.json", targets_version), &targets_bytes[..]);
                let bytes = reference_json(Role::Snapshot, snapshot_version, *times, meta, keys)?;
                files.push((format!("metadata/{snapshot_version}.snapshot.json"), bytes.clone()));
                bytes
            }
            (None, Some(bytes)) if targets_version == targets => bytes.clone(),
            (None, _) => return Err(missing(Role::Snapshot, "the targets change")),
        };
        let (keys, times) = signers.timestamp;
        let meta = (("snapshot.json", snapshot_version), &snapshot_bytes[..]);
        let bytes = reference_json(Role::Timestamp, timestamp + 1, times, meta, keys)?;
        files.push(("metadata/timestamp.json".to_owned(), bytes));
        Ok(files)
    }
}

fn targets_json(
    version: u64,
    times: Times,
    targets: &BTreeMap<String, Pinned>,
    keys: &[SigningKey],
) -> Result<Vec<u8>, ReleaseError> {
    let mut signed = head(Role::Targets, version, times);
    let one = |(name, pinned): (&String, &Pinned)| {
        (name.clone(), json!({ "length": pinned.size, "hashes": { "sha256": pinned.sha256 } }))
    };
    signed["targets"] = targets.iter().map(one).collect::<serde_json::Map<_, _>>().into();
    signed_by(&signed, keys)
}

fn reference_json(
    role: Role,
    version: u64,
    times: Times,
    ((to, to_version), bytes): ((&str, u64), &[u8]),
    keys: &[SigningKey],
) -> Result<Vec<u8>, ReleaseError> {
    let pinned = Pinned::of(bytes);
    let meta = json!({ "version": to_version, "length": pinned.size, "hashes": { "sha256": pinned.sha256 } });
    let mut signed = head(role, version, times);
    signed["meta"] = json!({ to: meta });
    signed_by(&signed, keys)
}

fn signed_by(signed: &serde_json::Value, keys: &[SigningKey]) -> Result<Vec<u8>, ReleaseError> {
    let mut unsigned = Unsigned::of(signed)?;
    keys.iter().for_each(|key| unsigned.sign(key));
    unsigned.to_bytes()
}
