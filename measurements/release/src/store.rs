//! What was verified, kept in a folder: the floor below which nothing is taken after a restart, and a copy to start from.
//!
//! ```text
//! FOLDER/kept/metadata/...  FOLDER/kept/targets/...    a publication's own layout, one version of it
//! ```
//! What is older is removed, so it is a folder inside the one that was given: a publication given by mistake loses nothing.
//! What is read from it is verified like everything from a mirror. So it adds no trust: whoever can write here can make it
//! forget (see docs/decisions/0032), never believe.

use crate::mirror::Folder;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The folder inside.
const KEPT: &str = "kept";

/// Why the store could not be used.
#[derive(Debug, thiserror::Error)]
#[error("kept releases: {path}: {source}; is the folder there, and may it be written?")]
pub struct StoreError {
    /// Which file or folder.
    pub path: PathBuf,
    /// What the file system said.
    pub source: io::Error,
}

/// A folder of verified files.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// Opens the folder, making it where it is missing.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let folder = folder.into().join(KEPT);
        for part in ["metadata", "targets"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(|source| StoreError { path, source })?;
        }
        Ok(Store { folder })
    }

    /// To read from.
    pub fn mirror(&self) -> Folder {
        Folder::new(&self.folder)
    }

    /// Keeps these files and no others, each whole or not at all, in this order: what is older goes first, so that a
    /// break leaves floors that are too low rather than references to nothing.
    pub fn save<'a>(&self, files: impl IntoIterator<Item = (String, &'a [u8])>) -> Result<(), StoreError> {
        let mut kept = BTreeSet::new();
        for (name, bytes) in files {
            let path = self.folder.join(&name);
            if fs::read(&path).ok().as_deref() != Some(bytes) {
                write(&path, bytes).map_err(|source| StoreError { path: path.clone(), source })?;
            }
            kept.insert(path);
        }
        for part in ["metadata", "targets"] {
            let folder = self.folder.join(part);
            prune(&folder, &kept).map_err(|source| StoreError { path: folder, source })?;
        }
        Ok(())
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn prune(folder: &Path, kept: &BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if !kept.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    fs::File::open(folder)?.sync_all()
}
