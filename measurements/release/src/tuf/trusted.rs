//! What is trusted now, and the one order in which it may change (TUF specification 1.0, section 5).
//!
//! ```text
//! refresh: 5.3 roots, one by one, each signed by the last and by itself
//!          5.4 timestamp   5.5 snapshot   5.6 targets      none may be older than what was seen
//! ```
//! Files that are signed but have expired still raise the floor below which nothing is taken: [`Expiry::Ignore`] is for
//! what was kept from an earlier run. Whoever then wants to act on it asks [`Trusted::check_fresh`].

use super::envelope::Envelope;
use super::role::{self, Head, Meta, Role, Root};
use crate::error::ReleaseError;
use crate::json::Value;
use crate::mirror::Mirror;
use measure::Digest256;
use std::collections::BTreeMap;

/// Most roots that one refresh walks through.
const MAX_ROOTS: u64 = 256;

/// Whether expired metadata stop a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// They do.
    Enforce,
    /// They only set floors.
    Ignore,
}

/// One role's file, verified.
#[derive(Debug, Clone)]
struct Held<T> {
    head: Head,
    says: T,
    bytes: Vec<u8>,
}

/// Everything that was verified so far.
#[derive(Debug, Clone)]
pub struct Trusted {
    /// The chain from the pinned root to the current one, with their bytes.
    roots: Vec<(u64, Vec<u8>)>,
    root: Root,
    timestamp: Option<Held<Meta>>,
    snapshot: Option<Held<Meta>>,
    targets: Option<Held<BTreeMap<String, Meta>>>,
}

impl Trusted {
    /// Starts from a root with this hash, which comes from measured settings. The bytes may come from anywhere.
    pub fn new(pinned: Digest256, first_root: &[u8]) -> Result<Self, ReleaseError> {
        let what = "the first root";
        let found = Digest256::of(first_root);
        if found != pinned {
            return Err(ReleaseError::Mismatch {
                what: what.into(),
                field: "SHA-256",
                found: found.to_string(),
                expected: pinned.to_string(),
                signed_by: "the consumer's settings".into(),
            });
        }
        let envelope = Envelope::parse(what, first_root, Role::Root.max_bytes())?;
        let root = Root::read(what, envelope.unverified())?;
        envelope.verified(&root.authorities[&Role::Root])?;
        let roots = vec![(root.head.version, first_root.to_vec())];
        Ok(Trusted { roots, root, timestamp: None, snapshot: None, targets: None })
    }

    /// Takes what the mirror has that is newer. On an error, what was verified before it stays.
    pub fn refresh(&mut self, mirror: &mut dyn Mirror, now: u64, expiry: Expiry) -> Result<(), ReleaseError> {
        self.roots(mirror)?;
        self.fresh(&format!("{}.root.json", self.root.head.version), &self.root.head, now, expiry)?;
        let bytes = must(mirror, "timestamp.json", Role::Timestamp.max_bytes(), "a publication")?;
        let meta = self.take_timestamp(&bytes, now, expiry)?;
        let what = format!("{}.snapshot.json", meta.version);
        let bytes = must(mirror, &what, meta.length.min(Role::Snapshot.max_bytes()), "timestamp.json")?;
        let meta = self.take_snapshot(&what, &bytes, &meta, now, expiry)?;
        let what = format!("{}.targets.json", meta.version);
        let bytes = must(mirror, &what, meta.length.min(Role::Targets.max_bytes()), "the snapshot")?;
        self.take_targets(&what, &bytes, &meta, now, expiry)
    }

    fn fresh(&self, what: &str, head: &Head, now: u64, expiry: Expiry) -> Result<(), ReleaseError> {
        if expiry == Expiry::Enforce { head.check_fresh(what, now) } else { Ok(()) }
    }

    /// 5.3: every root after the current one, in turn.
    fn roots(&mut self, mirror: &mut dyn Mirror) -> Result<(), ReleaseError> {
        for _ in 0..MAX_ROOTS {
            let version = self.root.head.version + 1;
            let what = format!("{version}.root.json");
            let Some(bytes) = mirror.fetch(&format!("metadata/{what}"), Role::Root.max_bytes())? else {
                return Ok(());
            };
            self.take_root(&what, version, &bytes)?;
        }
        Err(ReleaseError::value("the mirror", "roots", format!("{MAX_ROOTS} new ones"), "fewer"))
    }

    fn take_root(&mut self, what: &str, version: u64, bytes: &[u8]) -> Result<(), ReleaseError> {
        let envelope = Envelope::parse(what, bytes, Role::Root.max_bytes())?;
        envelope.verified(&self.root.authorities[&Role::Root])?;
        let root = Root::read(what, envelope.unverified())?;
        envelope.verified(&root.authorities[&Role::Root])?;
        if root.head.version != version {
            return Err(mismatch(what, root.head.version, version, "its name"));
        }
        // 5.3.11: whoever stole an online key may have signed versions beyond any; new keys begin anew.
        let changed = |role| self.root.authorities.get(role) != root.authorities.get(role);
        if changed(&Role::Timestamp) || changed(&Role::Snapshot) {
            self.timestamp = None;
            self.snapshot = None;
        }
        self.roots.push((version, bytes.to_vec()));
        self.root = root;
        Ok(())
    }

    /// 5.4
    fn take_timestamp(&mut self, bytes: &[u8], now: u64, expiry: Expiry) -> Result<Meta, ReleaseError> {
        let what = "timestamp.json";
        let (head, signed) = self.verified(what, Role::Timestamp, bytes)?;
        let says = role::reference(what, &signed, "snapshot.json")?;
        if let Some(held) = &self.timestamp {
            not_older(what, "version", head.version, held.head.version)?;
            not_older(what, "version of snapshot.json", says.version, held.says.version)?;
            if head.version == held.head.version && bytes != held.bytes {
                return Err(mismatch(what, "other bytes", "those seen before", "the same version"));
            }
        }
        self.fresh(what, &head, now, expiry)?;
        self.timestamp = Some(Held { head, says: says.clone(), bytes: bytes.to_vec() });
        Ok(says)
    }

    /// 5.5
    fn take_snapshot(
        &mut self,
        what: &str,
        bytes: &[u8],
        meta: &Meta,
        now: u64,
        expiry: Expiry,
    ) -> Result<Meta, ReleaseError> {
        let (head, signed) = self.named(what, Role::Snapshot, bytes, meta)?;
        let says = role::reference(what, &signed, "targets.json")?;
        if let Some(held) = &self.snapshot {
            not_older(what, "version of targets.json", says.version, held.says.version)?;
        }
        self.fresh(what, &head, now, expiry)?;
        self.snapshot = Some(Held { head, says: says.clone(), bytes: bytes.to_vec() });
        Ok(says)
    }

    /// 5.6
    fn take_targets(
        &mut self,
        what: &str,
        bytes: &[u8],
        meta: &Meta,
        now: u64,
        expiry: Expiry,
    ) -> Result<(), ReleaseError> {
        let (head, signed) = self.named(what, Role::Targets, bytes, meta)?;
        let says = role::targets(what, &signed)?;
        self.fresh(what, &head, now, expiry)?;
        self.targets = Some(Held { head, says, bytes: bytes.to_vec() });
        Ok(())
    }

    /// A signed file that is the one which another names, by hash, length and version.
    fn named(
        &self,
        what: &str,
        role: Role,
        bytes: &[u8],
        meta: &Meta,
    ) -> Result<(Head, Value), ReleaseError> {
        let by = if role == Role::Snapshot { "timestamp.json" } else { "the snapshot" };
        meta.check(what, bytes, by)?;
        let (head, signed) = self.verified(what, role, bytes)?;
        if head.version != meta.version {
            return Err(mismatch(what, head.version, meta.version, by));
        }
        Ok((head, signed))
    }

    fn verified(&self, what: &str, role: Role, bytes: &[u8]) -> Result<(Head, Value), ReleaseError> {
        let envelope = Envelope::parse(what, bytes, role.max_bytes())?;
        let signed = envelope.verified(&self.root.authorities[&role])?;
        Ok((Head::read(what, role, signed)?, signed.clone()))
    }

    /// The targets, once timestamp, snapshot and targets were verified.
    pub fn targets(&self) -> Option<&BTreeMap<String, Meta>> {
        self.targets.as_ref().map(|held| &held.says)
    }

    /// The file of targets, snapshot or timestamp that is held.
    pub(crate) fn bytes_of(&self, role: Role) -> Option<&[u8]> {
        match role {
            Role::Root => self.roots.last().map(|(_, bytes)| &bytes[..]),
            Role::Targets => self.targets.as_ref().map(|held| &held.bytes[..]),
            Role::Snapshot => self.snapshot.as_ref().map(|held| &held.bytes[..]),
            Role::Timestamp => self.timestamp.as_ref().map(|held| &held.bytes[..]),
        }
    }

    /// The current root.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Versions of root, timestamp, snapshot and targets; 0 where there is none yet.
    pub fn versions(&self) -> [u64; 4] {
        let [timestamp, snapshot, targets] = self.heads().map(|head| head.map_or(0, |head| head.version));
        [self.root.head.version, timestamp, snapshot, targets]
    }

    /// Ends of root, timestamp, snapshot and targets, Unix seconds; 0 where there is none yet.
    pub fn expires(&self) -> [u64; 4] {
        let [timestamp, snapshot, targets] = self.heads().map(|head| head.map_or(0, |head| head.expires));
        [self.root.head.expires, timestamp, snapshot, targets]
    }

    /// When the newest of what is held was signed: it can't be earlier now.
    pub fn newest_issued(&self) -> Option<u64> {
        let heads = self.heads().into_iter().flatten().chain([&self.root.head]);
        heads.filter_map(|head| head.issued).max()
    }

    fn heads(&self) -> [Option<&Head>; 3] {
        [
            self.timestamp.as_ref().map(|held| &held.head),
            self.snapshot.as_ref().map(|held| &held.head),
            self.targets.as_ref().map(|held| &held.head),
        ]
    }

    /// Everything that was verified, by its path in a publication, for whoever keeps it.
    pub fn files(&self) -> Vec<(String, &[u8])> {
        let roots = self.roots.iter().map(|(version, bytes)| (format!("{version}.root.json"), &bytes[..]));
        let mut files: Vec<_> = roots.collect();
        if let Some(held) = &self.targets {
            files.push((format!("{}.targets.json", held.head.version), &held.bytes));
        }
        if let Some(held) = &self.snapshot {
            files.push((format!("{}.snapshot.json", held.head.version), &held.bytes));
        }
        files.extend(self.timestamp.as_ref().map(|held| ("timestamp.json".to_owned(), &held.bytes[..])));
        files.into_iter().map(|(name, bytes)| (format!("metadata/{name}"), bytes)).collect()
    }
}

/// The bytes of a target, exactly those that the targets role signed for.
pub fn fetch_target(
    mirror: &mut dyn Mirror,
    name: &str,
    meta: &Meta,
    max: usize,
) -> Result<Vec<u8>, ReleaseError> {
    if meta.length > max {
        return Err(ReleaseError::TooLong { what: name.into(), max, found: meta.length });
    }
    let path = format!("targets/{}.{name}", meta.sha256);
    let missing = || ReleaseError::Missing { what: name.into(), named_by: "the targets role".into() };
    let bytes = mirror.fetch(&path, meta.length)?.ok_or_else(missing)?;
    meta.check(name, &bytes, "the targets role")?;
    Ok(bytes)
}

fn must(mirror: &mut dyn Mirror, name: &str, max: usize, by: &str) -> Result<Vec<u8>, ReleaseError> {
    let missing = || ReleaseError::Missing { what: name.into(), named_by: by.into() };
    mirror.fetch(&format!("metadata/{name}"), max)?.ok_or_else(missing)
}

fn not_older(what: &str, field: &str, found: u64, seen: u64) -> Result<(), ReleaseError> {
    if found < seen {
        return Err(ReleaseError::Rollback { what: what.into(), field: field.into(), found, seen });
    }
    Ok(())
}

fn mismatch(what: &str, found: impl ToString, expected: impl ToString, signed_by: &str) -> ReleaseError {
    ReleaseError::Mismatch {
        what: what.into(),
        field: "version",
        found: found.to_string(),
        expected: expected.to_string(),
        signed_by: signed_by.into(),
    }
}
