//! A publication in one piece, for whoever has no mirror at hand yet: what a consumer with given settings asks for, and no more.
//!
//! ```text
//! "CHRYPB01" | u32 number of files | field path, field bytes of each
//! ```
//! It is a [`Mirror`] like any other: everything in it is verified by whoever reads it, so it may come from anywhere.

use crate::anchor::Anchor;
use crate::clock::Instants;
use crate::error::ReleaseError;
use crate::keeper::{Keeper, Published};
use crate::mirror::{Mirror, MirrorError};
use measure::codec::{CodecError, Reader, put};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

const MAGIC: &[u8; 8] = b"CHRYPB01";
/// Most files.
const MAX_FILES: usize = 1024;
/// Longest path.
const MAX_PATH: usize = 256;
/// Largest file.
const MAX_FILE: usize = 1024 * 1024;
/// Where the first root stands.
const FIRST_ROOT: &str = "metadata/1.root.json";
/// Most bytes of it.
const MAX_ROOT: usize = 64 * 1024;

/// Files of a publication by their path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle(BTreeMap<String, Vec<u8>>);

impl Bundle {
    /// Asks a mirror as a consumer with these settings does, and keeps what it was given. Beside it: what that consumer may
    /// rely on now.
    pub fn gather(
        anchor: &Anchor,
        mut mirror: Box<dyn Mirror>,
        at: Instants,
    ) -> Result<(Self, Published), ReleaseError> {
        let root = first_root(mirror.as_mut())?;
        let seen = Arc::new(Mutex::new(BTreeMap::from([(FIRST_ROOT.to_owned(), root.clone())])));
        let recording = Recording { mirror, seen: seen.clone() };
        let mut keeper = Keeper::open(anchor.clone(), &root, Box::new(recording), None, at)?;
        let published = keeper.try_refresh(at)?;
        drop(keeper);
        let files = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((Bundle(files), published))
    }

    /// The bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        // More than fit are refused by every reader.
        out.extend_from_slice(&u32::try_from(self.0.len()).unwrap_or(u32::MAX).to_be_bytes());
        for (path, bytes) in &self.0 {
            put(&mut out, path.as_bytes());
            put(&mut out, bytes);
        }
        out
    }

    /// Reads them back. Memory is bounded by what is read.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReleaseError> {
        let read = || -> Result<Option<Self>, CodecError> {
            let mut r = Reader::new(bytes);
            r.expect("magic", MAGIC)?;
            let count = r.u32("number of files")?;
            if count as usize > MAX_FILES {
                return Ok(None);
            }
            let mut files = BTreeMap::new();
            for _ in 0..count {
                let path = String::from_utf8_lossy(r.field("path", MAX_PATH)?).into_owned();
                files.insert(path, r.field("file", MAX_FILE)?.to_vec());
            }
            r.finish()?;
            Ok(Some(Bundle(files)))
        };
        let syntax = |why: String| ReleaseError::Syntax { what: "handed publication".into(), why };
        let read = read().map_err(|error| syntax(error.to_string()))?;
        read.ok_or_else(|| syntax(format!("more than {MAX_FILES} files")))
    }

    /// The first root, which settings pin by its hash.
    pub fn first_root(&self) -> Result<Vec<u8>, ReleaseError> {
        first_root(&mut self.clone())
    }
}

/// The first root of a publication; the settings pin its hash, so it may come from anywhere.
pub fn first_root(mirror: &mut dyn Mirror) -> Result<Vec<u8>, ReleaseError> {
    mirror.begin();
    let missing =
        || ReleaseError::Missing { what: "1.root.json".into(), named_by: "every publication".into() };
    mirror.fetch(FIRST_ROOT, MAX_ROOT)?.ok_or_else(missing)
}

impl Mirror for Bundle {
    fn fetch(&mut self, path: &str, max: usize) -> Result<Option<Vec<u8>>, MirrorError> {
        match self.0.get(path) {
            Some(bytes) if bytes.len() > max => Err(MirrorError::Endless { path: path.into(), max }),
            found => Ok(found.cloned()),
        }
    }
}

/// Passes on, and remembers what was given.
struct Recording {
    mirror: Box<dyn Mirror>,
    seen: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

impl Mirror for Recording {
    fn begin(&mut self) {
        self.mirror.begin();
    }

    fn fetch(&mut self, path: &str, max: usize) -> Result<Option<Vec<u8>>, MirrorError> {
        let found = self.mirror.fetch(path, max)?;
        if let Some(bytes) = &found {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.insert(path.to_owned(), bytes.clone());
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use proptest::prelude::*;
    use std::time::Duration;

    const NOW: u64 = 1_800_000_000;

    fn at(passed: u64) -> Instants {
        Instants { host: NOW + passed, monotonic: Duration::from_secs(passed) }
    }

    #[test]
    fn a_bundle_is_enough_to_start_from_and_holds_nothing_that_is_not_asked_for() {
        let mut publication = samples::publication(NOW, 2).unwrap();
        publication.files.insert("targets/other".into(), vec![1; 1000]);
        let (bundle, published) =
            Bundle::gather(&publication.anchor, Box::new(publication.clone()), at(0)).unwrap();
        assert_eq!(published.reference("worker").releases.len(), 2);
        assert!(!bundle.0.contains_key("targets/other"));
        let read = Bundle::from_bytes(&bundle.to_bytes()).unwrap();
        assert_eq!(read, bundle);
        let (root, anchor) = (read.first_root().unwrap(), publication.anchor);
        let mut keeper = Keeper::open(anchor, &root, Box::new(read), None, at(0)).unwrap();
        assert_eq!(keeper.refresh(at(5)).reference("worker").releases.len(), 2);
        assert_eq!(keeper.refresh(at(24 * 3600)).reference("worker").releases.len(), 0, "it ends");
    }

    #[test]
    fn what_is_gathered_of_a_mirror_that_is_not_whole_or_another_is_refused() {
        let publication = samples::publication(NOW, 1).unwrap();
        let mut hole = publication.clone();
        hole.files.remove("metadata/timestamp.json");
        let error = Bundle::gather(&publication.anchor, Box::new(hole), at(0)).unwrap_err();
        assert!(matches!(error, ReleaseError::Missing { .. }), "{error}");
        let late = Bundle::gather(&publication.anchor, Box::new(publication.clone()), at(2 * 24 * 3600));
        assert!(matches!(late, Err(ReleaseError::Expired { .. })));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic_and_a_right_bundle_survives(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..100_000) {
            let _ = Bundle::from_bytes(&bytes);
            let _ = Bundle::from_bytes(&[MAGIC.as_slice(), &bytes].concat());
            let files = (0..4).map(|n| (format!("targets/{n}"), bytes.clone()));
            let whole = Bundle(files.collect()).to_bytes();
            let cut = cut % whole.len();
            prop_assert!(Bundle::from_bytes(&whole[..cut]).is_err());
            prop_assert!(Bundle::from_bytes(&whole).is_ok());
        }
    }
}
