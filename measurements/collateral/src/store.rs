//! Collateral on disk: one file a platform, whole or not at all, with a hash that tells when it was damaged.
//!
//! ```text
//! DIR/<fmspc>-<ca>.json:  "chrysalis-collateral 1 <fetched> <sha256 of the rest>\n" | JSON of QuoteCollateralV3
//! ```
//! The hash is against accidents: whoever can write here could write it too. What is read is verified like everything that
//! came over the network.

use evidence::{Collateral, MAX_COLLATERAL, PlatformId};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: &str = "chrysalis-collateral 1";
/// Longest first line.
const MAX_HEAD: usize = 128;

/// Why the store could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system's word.
    #[error("collateral cache: {path}: {source}; is the folder there, and may it be written?")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("collateral cache: {path}: {why}; it is left aside and will be fetched anew")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// What was kept of one platform.
#[derive(Debug, Clone)]
pub struct Stored {
    /// As it was fetched.
    pub collateral: Collateral,
    /// When, Unix seconds.
    pub fetched: u64,
}

/// A folder with collateral.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens the folder, making it where it is missing.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = dir.into();
        fs::create_dir_all(&dir).map_err(|source| StoreError::Io { path: dir.clone(), source })?;
        Ok(Store { dir })
    }

    fn path(&self, platform: &PlatformId) -> PathBuf {
        self.dir.join(format!("{platform}.json"))
    }

    /// What is kept of this platform; `None` if nothing is. A damaged file is an error once, and is gone after.
    pub fn load(&self, platform: &PlatformId) -> Result<Option<Stored>, StoreError> {
        let path = self.path(platform);
        let bytes = match read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { path, source }),
        };
        parse(&bytes).map(Some).map_err(|why| {
            // It would only be found damaged again; where it can't be removed, that is what happens.
            let _ = fs::remove_file(&path);
            StoreError::Damaged { path, why }
        })
    }

    /// Keeps this, whole or not at all.
    pub fn save(
        &self,
        platform: &PlatformId,
        collateral: &Collateral,
        fetched: u64,
    ) -> Result<(), StoreError> {
        let path = self.path(platform);
        let json = collateral.to_json();
        let head = format!("{MAGIC} {fetched} {}\n", hash(json.as_bytes()));
        let new = self.dir.join(format!(".{platform}.{}.new", std::process::id()));
        let attempt = || -> io::Result<()> {
            let mut file = fs::File::create(&new)?;
            file.write_all(head.as_bytes())?;
            file.write_all(json.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            fs::File::open(&self.dir)?.sync_all()
        };
        attempt().map_err(|source| StoreError::Io { path: path.clone(), source })
    }
}

/// At most what a kept file may have.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take((MAX_HEAD + MAX_COLLATERAL + 1) as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Result<Stored, String> {
    let head_len = bytes.iter().take(MAX_HEAD).position(|b| *b == b'\n').ok_or("no first line")?;
    let (head, json) = (&bytes[..head_len], &bytes[head_len + 1..]);
    let head = std::str::from_utf8(head).map_err(|e| e.to_string())?;
    let rest = head.strip_prefix(MAGIC).ok_or_else(|| format!("its first line is not `{MAGIC} ...`"))?;
    let (fetched, wanted) = rest.trim_start().split_once(' ').ok_or("its first line is cut")?;
    let found = hash(json);
    if found != wanted {
        return Err(format!("its SHA-256 is {found}, written as {wanted}"));
    }
    let fetched = fetched.parse().map_err(|e| format!("time of the fetch: {e}"))?;
    let collateral = Collateral::parse(json).map_err(|e| e.to_string())?;
    Ok(Stored { collateral, fetched })
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    proptest::proptest! {
        #[test]
        fn damaged_files_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            proptest::prop_assert!(super::parse(&bytes).is_err());
        }
    }
}
