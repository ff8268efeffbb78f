//! Where published files come from: a folder, or a web server ([`crate::Http`]). Nothing of it is trusted.
//!
//! ```text
//! metadata/N.root.json  metadata/timestamp.json  metadata/N.snapshot.json  metadata/N.targets.json
//! targets/<sha256>.<name>
//! ```

use std::io::Read;
use std::path::{Path, PathBuf};

/// Why a mirror gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// It can't be reached, broke off, or took too long.
    #[error("{path}: {why}; is the mirror up, and is this its address?")]
    Unreachable {
        /// Which file, with its address.
        path: String,
        /// What went wrong.
        why: String,
    },
    /// It answered, but neither with the file nor with its absence.
    #[error(
        "{path}: HTTP {status}, expected 200, or 404 where there is none; is this the folder of a publication?"
    )]
    Status {
        /// Which file, with its address.
        path: String,
        /// What it said.
        status: u16,
    },
    /// It sends more than the file may have.
    #[error("{path}: more than {max} bytes; the mirror serves something else: try another")]
    Endless {
        /// Which file, with its address.
        path: String,
        /// Most that is read.
        max: usize,
    },
    /// One refresh asked for more than it may.
    #[error(
        "{path}: this refresh has used up its {what}; the mirror is too slow, or serves too much: try another"
    )]
    Budget {
        /// Which file, with its address.
        path: String,
        /// Seconds, or bytes.
        what: String,
    },
}

impl MirrorError {
    /// Whether the mirror is at fault, rather than the way to it.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            MirrorError::Status { .. } | MirrorError::Endless { .. } | MirrorError::Budget { .. } => true,
            MirrorError::Unreachable { .. } => false,
        }
    }
}

/// Something that has published files.
pub trait Mirror: Send {
    /// A refresh begins: budgets start anew.
    fn begin(&mut self) {}

    /// The file at this path below the publication's folder; `None` where there is none. More than `max` bytes are an
    /// error, and not kept in memory.
    fn fetch(&mut self, path: &str, max: usize) -> Result<Option<Vec<u8>>, MirrorError>;
}

/// A publication in a folder.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Nothing is read yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Folder { root: root.into() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.root
    }
}

impl Mirror for Folder {
    fn fetch(&mut self, path: &str, max: usize) -> Result<Option<Vec<u8>>, MirrorError> {
        let path = self.root.join(path);
        let shown = || path.display().to_string();
        let unreachable =
            |error: std::io::Error| MirrorError::Unreachable { path: shown(), why: error.to_string() };
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreachable(error)),
        };
        let mut bytes = Vec::new();
        file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(unreachable)?;
        if bytes.len() > max {
            return Err(MirrorError::Endless { path: shown(), max });
        }
        Ok(Some(bytes))
    }
}
