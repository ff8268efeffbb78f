//! Why a kit was refused: which object, what was expected, what was found, what to do next.

use std::path::PathBuf;

/// What is wrong with a kit.
#[derive(Debug, thiserror::Error)]
pub enum KitError {
    /// A file or folder can't be read or written.
    #[error("{path}: {source}; is this a kit (a folder with index.json and objects/), and may it be read?")]
    Io {
        /// Which.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// The index is not one.
    #[error(
        "{what}: {why}; the kit is damaged or of another version: get it anew, or make it with `chrysalis image kit`"
    )]
    Index {
        /// Which index.
        what: String,
        /// What was expected and found.
        why: String,
    },
    /// An object that the index names is not there.
    #[error(
        "{name} ({path}): not in the kit; the copy is incomplete: get it anew, or leave --kit away to use the mirrors"
    )]
    Missing {
        /// Which object.
        name: String,
        /// Where it should be.
        path: PathBuf,
    },
    /// An object has other bytes.
    #[error(
        "{name} ({path}): {field} is {found}, expected {expected}; the kit was damaged or changed: get it anew"
    )]
    Tampered {
        /// Which object.
        name: String,
        /// Where it lies.
        path: PathBuf,
        /// Size, SHA-256 or kind of file.
        field: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// Something lies in the kit that the index doesn't name.
    #[error("{path}: in the kit, but not in its index; remove it, or get the kit anew")]
    Extra {
        /// Which file.
        path: PathBuf,
    },
    /// The locks of the source want another set of objects.
    #[error("{name}: {fault}; this is no kit of commit {commit}: get another")]
    Locks {
        /// Which object.
        name: String,
        /// Missing from the kit, or not in any lock.
        fault: &'static str,
        /// The kit's commit.
        commit: String,
    },
    /// The source is not that of the commit.
    #[error("{what}: {why}; this is no kit of commit {commit}: get another")]
    Source {
        /// Which part.
        what: &'static str,
        /// What was expected and found.
        why: String,
        /// The kit's commit.
        commit: String,
    },
    /// A mirror did not serve a file.
    #[error("{url}: {why}; is the mirror up, and is this the address of a kit?")]
    Mirror {
        /// Which file.
        url: String,
        /// What went wrong.
        why: String,
    },
}

impl KitError {
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| KitError::Io { path, source }
    }
}
