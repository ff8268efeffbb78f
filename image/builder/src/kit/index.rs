//! `index.json`: one spelling, sorted, bounded. Its SHA-256 is the kit's name.

use super::error::KitError;
use serde::{Deserialize, Serialize};

/// Longest index, in bytes.
pub const MAX_INDEX: usize = 4 << 20;
/// Most objects.
const MAX_OBJECTS: usize = 20_000;
/// Largest object, in bytes.
const MAX_OBJECT: u64 = 2 << 30;
/// Largest kit, in bytes.
const MAX_KIT: u64 = 16 << 30;
/// Longest name, in bytes.
const MAX_NAME: usize = 256;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The git commit object, without git's header.
    Commit,
    /// `git archive` of the commit, tar.
    Source,
    /// A crate as the registry serves it, `NAME-VERSION`.
    Crate,
    /// A .deb, `NAME VERSION ARCHITECTURE`.
    Package,
    /// An installed file of the toolchain, by its path.
    Toolchain,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its name among its kind; never used as a path before a lock confirmed it.
    pub name: String,
    /// SHA-256, lower-case hex; also its file's name.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// The index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Always 1.
    pub schema: u32,
    /// The commit that is built, 40 hex digits.
    pub commit: String,
    /// Sorted by kind and name, each once.
    pub objects: Vec<Object>,
}

impl Object {
    /// For people: `crate serde-1.0.1`.
    pub fn title(&self) -> String {
        format!("{:?} {}", self.kind, self.name).to_lowercase()
    }
}

impl Index {
    /// Sorts and validates.
    pub fn new(commit: String, mut objects: Vec<Object>) -> Result<Self, KitError> {
        objects.sort();
        objects.dedup();
        let index = Index { schema: 1, commit, objects };
        index.check().map_err(|why| KitError::Index { what: "the new index".into(), why })?;
        Ok(index)
    }

    /// Reads and validates; `what` names it in errors.
    pub fn parse(what: &str, bytes: &[u8]) -> Result<Self, KitError> {
        let refuse = |why: String| KitError::Index { what: what.into(), why };
        if bytes.len() > MAX_INDEX {
            return Err(refuse(format!("{} bytes or more, expected at most {MAX_INDEX}", bytes.len())));
        }
        let index: Index = serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
        index.check().map_err(refuse)?;
        match index.to_bytes() == bytes {
            true => Ok(index),
            false => {
                Err(refuse("not in its one spelling, expected what `chrysalis image kit` writes".into()))
            }
        }
    }

    /// The bytes that the kit is named by.
    pub fn to_bytes(&self) -> Vec<u8> {
        // A struct of strings and numbers can't fail.
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// SHA-256 of the bytes, lower-case hex: the kit's name.
    pub fn id(&self) -> String {
        crate::hash::bytes(&self.to_bytes())
    }

    /// Bytes of all different objects.
    pub fn size(&self) -> u64 {
        self.distinct().map(|object| object.size).sum()
    }

    /// Every object, those with the same bytes once.
    pub fn distinct(&self) -> impl Iterator<Item = &Object> {
        let mut seen = std::collections::HashSet::new();
        self.objects.iter().filter(move |object| seen.insert(&object.sha256))
    }

    /// Objects of one kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        self.objects.iter().filter(move |object| object.kind == kind)
    }

    fn check(&self) -> Result<(), String> {
        if self.schema != 1 {
            return Err(format!("schema {}, expected 1", self.schema));
        }
        if !is_hex(&self.commit, 40) {
            return Err(format!("commit `{}`, expected 40 hex digits", self.commit.escape_debug()));
        }
        if self.objects.len() > MAX_OBJECTS {
            return Err(format!("{} objects, expected at most {MAX_OBJECTS}", self.objects.len()));
        }
        for object in &self.objects {
            object.check()?;
        }
        let key = |object: &Object| (object.kind, object.name.clone());
        if let Some(pair) = self.objects.windows(2).find(|pair| key(&pair[0]) >= key(&pair[1])) {
            return Err(format!("{} is out of order or twice", pair[1].title()));
        }
        let total = self.objects.iter().map(|object| object.size).sum::<u64>();
        if total > MAX_KIT {
            return Err(format!("{total} bytes in all, expected at most {MAX_KIT}"));
        }
        for kind in [Kind::Commit, Kind::Source] {
            let found = self.of(kind).count();
            if found != 1 {
                return Err(format!("{found} objects of kind {kind:?}, expected 1"));
            }
        }
        Ok(())
    }
}

impl Object {
    fn check(&self) -> Result<(), String> {
        let name = self.name.escape_debug();
        if !is_hex(&self.sha256, 64) {
            return Err(format!(
                "`{name}`: `{}` is no SHA-256 in lower-case hex",
                self.sha256.escape_debug()
            ));
        }
        if self.size > MAX_OBJECT {
            return Err(format!("`{name}`: {} bytes, expected at most {MAX_OBJECT}", self.size));
        }
        if !is_plain(&self.name) {
            return Err(format!(
                "`{name}`: a name that could be a path elsewhere, or is not printable ASCII"
            ));
        }
        Ok(())
    }
}

/// A relative path without tricks, or a word.
pub(super) fn is_plain(name: &str) -> bool {
    let printable = name.bytes().all(|b| (b.is_ascii_graphic() && b != b'\\') || b == b' ');
    let parts = || name.split('/');
    !name.is_empty() && name.len() <= MAX_NAME && printable && parts().all(|p| !matches!(p, "" | "." | ".."))
}

pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
