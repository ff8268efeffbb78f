//! The joint verdict: the publisher's signed targets **and** k rebuilders, equal to the byte.
//!
//! ```text
//! for each <release>.release.json of a wanted name in the verified targets:
//!     measurements   the hash in it = the hash in the targets = the hash of the bytes
//!     rebuilders     k different keys of the settings, each over that very hash, none of them a key of the publisher
//!     status         not revoked; versions, dates
//! ```
//! What fails is set aside with its reason; what a mirror withholds fails the whole, so that it can't hide a revocation for
//! longer than the metadata live. Registers of a revoked release are refused wherever else they stand.

use crate::anchor::Anchor;
use crate::document::{Document, MAX_DOCUMENT, State};
use crate::error::ReleaseError;
use crate::key::PublicKey;
use crate::measurements::{MAX_MEASUREMENTS, Measurements, Tuple};
use crate::mirror::Mirror;
use crate::name;
use crate::statement::{MAX_STATEMENT, Statement};
use crate::tuf::{Meta, Trusted, fetch_target};
use crate::version::ReleaseId;
use evidence::{Reference, show_time};
use measure::Digest256;
use serde::Serialize;
use std::collections::BTreeMap;

/// Most releases of the wanted names that are looked at, the newest first.
const MAX_RELEASES: usize = 64;

/// Releases that may be relied on, until their end. Made by verification only.
#[derive(Debug, Clone)]
pub struct AcceptedReleases {
    releases: Vec<Accepted>,
    set_aside: Vec<SetAside>,
    valid_until: u64,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Accepted {
    id: ReleaseId,
    document: Document,
    measurements: Measurements,
    digest: Digest256,
    rebuilders: Vec<PublicKey>,
    window: (u64, u64),
}

/// A release that was not accepted, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetAside {
    /// Name and version, or the target's name.
    pub release: String,
    /// The reason.
    pub why: String,
}

/// Nothing may be relied on any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("accepted releases ended {}, and it is {} or later; refresh them from a mirror", show_time(*.ended), show_time(*.now))]
pub struct Lapsed {
    /// When, Unix seconds.
    pub ended: u64,
    /// The time, Unix seconds.
    pub now: u64,
}

impl AcceptedReleases {
    /// Verifies everything that the trusted targets say of the wanted releases.
    pub fn verify(
        anchor: &Anchor,
        trusted: &Trusted,
        mirror: &mut dyn Mirror,
        now: u64,
    ) -> Result<Self, ReleaseError> {
        let none = || ReleaseError::Missing { what: "targets.json".into(), named_by: "a publication".into() };
        let targets = trusted.targets().ok_or_else(none)?;
        let valid_until = end(anchor, trusted);
        if valid_until <= now {
            return Err(ReleaseError::Expired { what: "the publication".into(), expired: valid_until, now });
        }
        let mut view = View { anchor, trusted, targets, mirror, now, revoked: Vec::new() };
        let (mut releases, mut set_aside) = (Vec::new(), Vec::new());
        for (position, id) in wanted(anchor, targets).into_iter().enumerate() {
            match view.judge(&id, position) {
                Ok(accepted) => releases.push(accepted),
                Err(Judged::Aside(why)) => set_aside.push(SetAside { release: id.to_string(), why }),
                Err(Judged::Failed(error)) => return Err(error),
            }
        }
        let revoked = view.revoked;
        releases.retain(|release| {
            let shared = release.measurements.machines.iter().any(|m| revoked.contains(&m.registers));
            if shared {
                let why = "its registers are those of a revoked release".to_owned();
                set_aside.push(SetAside { release: release.id.to_string(), why });
            }
            !shared
        });
        Ok(AcceptedReleases { releases, set_aside, valid_until })
    }

    /// The releases, the newest first.
    pub fn releases(&self) -> &[Accepted] {
        &self.releases
    }

    /// What was not accepted, and why.
    pub fn set_aside(&self) -> &[SetAside] {
        &self.set_aside
    }

    /// When all of this ends, Unix seconds.
    pub fn valid_until(&self) -> u64 {
        self.valid_until
    }

    /// What appraisal holds a peer against that must run a release of this name. It may be empty and then accepts nothing.
    pub fn reference(&self, name: &str, now: u64) -> Result<Reference, Lapsed> {
        if self.valid_until <= now {
            return Err(Lapsed { ended: self.valid_until, now });
        }
        let holds = |release: &&Accepted| {
            release.id.name == name && release.window.0 <= now && now < release.window.1
        };
        let valid = self.releases.iter().filter(holds);
        let releases = valid.flat_map(|release| release.measurements.releases()).collect();
        Ok(Reference { schema: 1, releases, mrconfigid: None })
    }
}

impl Accepted {
    /// Name and version.
    pub fn id(&self) -> &ReleaseId {
        &self.id
    }

    /// What the publisher says of it.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// What it measures.
    pub fn measurements(&self) -> &Measurements {
        &self.measurements
    }

    /// SHA-256 of its measurements: what the rebuilders signed.
    pub fn digest(&self) -> Digest256 {
        self.digest
    }

    /// The rebuilders that agree.
    pub fn rebuilders(&self) -> &[PublicKey] {
        &self.rebuilders
    }

    /// Start and end of its own validity, Unix seconds.
    pub fn window(&self) -> (u64, u64) {
        self.window
    }
}

/// When what these metadata say ends.
fn end(anchor: &Anchor, trusted: &Trusted) -> u64 {
    let [root, timestamp, snapshot, targets] = trusted.expires();
    let timestamp = timestamp.saturating_add(anchor.grace_seconds);
    root.min(timestamp).min(snapshot).min(targets)
}

/// Releases of wanted names, the newest first.
fn wanted(anchor: &Anchor, targets: &BTreeMap<String, Meta>) -> Vec<ReleaseId> {
    let ids = targets.keys().filter_map(|target| target.strip_suffix(name::RELEASE)?.parse().ok());
    let mut ids: Vec<ReleaseId> = ids.filter(|id: &ReleaseId| anchor.names.contains(&id.name)).collect();
    ids.sort_by(|a, b| b.version.cmp(&a.version).then_with(|| a.name.cmp(&b.name)));
    ids
}

enum Judged {
    Aside(String),
    Failed(ReleaseError),
}

impl From<ReleaseError> for Judged {
    /// What the mirror does not give fails the whole; what is wrong with a release is that release's.
    fn from(error: ReleaseError) -> Self {
        match error {
            ReleaseError::Mirror(_) | ReleaseError::Missing { .. } | ReleaseError::Mismatch { .. } => {
                Judged::Failed(error)
            }
            other => Judged::Aside(other.to_string()),
        }
    }
}

fn aside<T>(why: impl Into<String>) -> Result<T, Judged> {
    Err(Judged::Aside(why.into()))
}

struct View<'a> {
    anchor: &'a Anchor,
    trusted: &'a Trusted,
    targets: &'a BTreeMap<String, Meta>,
    mirror: &'a mut dyn Mirror,
    now: u64,
    revoked: Vec<Tuple>,
}

impl View<'_> {
    fn judge(&mut self, id: &ReleaseId, position: usize) -> Result<Accepted, Judged> {
        if position >= MAX_RELEASES {
            return aside(format!("{MAX_RELEASES} newer releases stand before it"));
        }
        let target = id.target(name::RELEASE);
        let document = Document::parse(&target, &self.fetch(&target, MAX_DOCUMENT)?)?;
        if document.id()? != *id {
            return aside(format!("{target} speaks of {}-{}", document.name, document.version));
        }
        let (measurements, digest) = self.measurements(id, &document)?;
        let reason = document.status.reason.clone().unwrap_or_default();
        match document.status.state {
            State::Revoked => {
                self.revoked.extend(measurements.machines.into_iter().map(|machine| machine.registers));
                return aside(format!("revoked: {reason}"));
            }
            State::Deprecated if !self.anchor.accept_deprecated => {
                return aside(format!("deprecated, which the settings do not accept: {reason}"));
            }
            State::Deprecated | State::Active => {}
        }
        let window = self.window(id, &document)?;
        let rebuilders = self.rebuilders(id, digest)?;
        Ok(Accepted { id: id.clone(), document, measurements, digest, rebuilders, window })
    }

    fn fetch(&mut self, target: &str, max: usize) -> Result<Vec<u8>, ReleaseError> {
        let missing = || ReleaseError::Missing { what: target.into(), named_by: "the release".into() };
        let meta = self.targets.get(target).ok_or_else(missing)?;
        fetch_target(self.mirror, target, meta, max)
    }

    /// The measurements, if release, targets and bytes agree on their hash.
    fn measurements(
        &mut self,
        id: &ReleaseId,
        document: &Document,
    ) -> Result<(Measurements, Digest256), Judged> {
        let target = id.target(name::MEASUREMENTS);
        let Some(meta) = self.targets.get(&target) else {
            return aside(format!("the targets don't have {target}"));
        };
        let (said, signed) = (&document.measurements, meta.sha256);
        if said.sha256 != signed || said.size != meta.length as u64 {
            return aside(format!("its measurements are {}, the targets say {signed}", said.sha256));
        }
        let measurements = Measurements::parse(&target, &self.fetch(&target, MAX_MEASUREMENTS)?)?;
        if measurements.id()? != *id {
            return aside(format!("{target} speaks of {}-{}", measurements.name, measurements.version));
        }
        Ok((measurements, signed))
    }

    fn window(&self, id: &ReleaseId, document: &Document) -> Result<(u64, u64), Judged> {
        let (from, until) = document.window()?;
        if self.now < from {
            return aside(format!("valid from {} only", document.valid_from));
        }
        if until <= self.now {
            return aside(format!("its validity ended {}", document.valid_until));
        }
        match self.anchor.minimum.get(&id.name) {
            Some(minimum) if id.version < *minimum => {
                aside(format!("older than {minimum}, the lowest version that the settings accept"))
            }
            _ => Ok((from, until)),
        }
    }

    /// The rebuilders that came to this hash, if they are enough.
    fn rebuilders(&mut self, id: &ReleaseId, digest: Digest256) -> Result<Vec<PublicKey>, Judged> {
        let anchor = self.anchor;
        let publisher: Vec<_> = self.trusted.root().keys().collect();
        let (mut agree, mut others) = (Vec::new(), Vec::new());
        for key in &anchor.rebuilders {
            let target = statement_target(id, key);
            let short = &key.id().to_string()[..8];
            if publisher.contains(key) {
                others.push(format!("{short} is a key of the publisher"));
                continue;
            }
            if !self.targets.contains_key(&target) {
                others.push(format!("{short} has said nothing"));
                continue;
            }
            let bytes = self.fetch(&target, MAX_STATEMENT)?;
            match Statement::verify(&target, &bytes, std::slice::from_ref(key)) {
                Err(error) => others.push(format!("{short}: {error}")),
                Ok(statement) if statement.release() != id => {
                    others.push(format!("{short} speaks of {}", statement.release()));
                }
                Ok(statement) if statement.measurements() != digest => {
                    others.push(format!("{short} came to {}", statement.measurements()));
                }
                Ok(_) => agree.push(*key),
            }
        }
        if agree.len() < anchor.threshold as usize {
            let (found, wanted) = (agree.len(), anchor.threshold);
            let others = others.join("; ");
            return aside(format!(
                "{found} rebuilders came to its measurements, expected {wanted} ({others})"
            ));
        }
        Ok(agree)
    }
}

/// Name of the target that holds a rebuilder's statement about a release.
pub fn statement_target(id: &ReleaseId, rebuilder: &PublicKey) -> String {
    let key = rebuilder.id().to_string();
    id.target(&format!(".{}{}", &key[..crate::statement::NAME_DIGITS], name::REBUILD))
}
