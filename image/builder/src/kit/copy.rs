//! A kit in a folder: opened by its index, read object by object, each hashed while it is read.

use super::error::KitError;
use super::index::{Index, Kind, MAX_INDEX, Object};
use super::{INDEX, OBJECTS};
use crate::progress::{Report, say};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Bytes held in memory of an object that is streamed.
const CHUNK: usize = 1 << 20;

/// A kit whose folder holds exactly what its index names. That the bytes are right is checked as they are read.
#[derive(Debug, Clone)]
pub struct Kit {
    dir: PathBuf,
    index: Index,
}

impl Kit {
    /// Reads the index and looks at the folder: nothing may lack, nothing more may be there.
    pub fn open(dir: &Path) -> Result<Self, KitError> {
        let path = dir.join(INDEX);
        let mut bytes = Vec::new();
        let file = File::open(&path).map_err(KitError::io(&path))?;
        file.take(MAX_INDEX as u64 + 1).read_to_end(&mut bytes).map_err(KitError::io(&path))?;
        let index = Index::parse(&path.display().to_string(), &bytes)?;
        let kit = Kit { dir: dir.to_owned(), index };
        kit.look()?;
        Ok(kit)
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Hashes every object.
    pub fn verify(&self, report: Report<'_>) -> Result<(), KitError> {
        let total = self.index.size();
        let (mut done, mut told) = (0, 0);
        for object in self.index.distinct() {
            self.stream(object, &mut std::io::sink())?;
            done += object.size;
            // A line every tenth is enough to see that it moves.
            if done * 10 / total.max(1) > told {
                told = done * 10 / total.max(1);
                say(report, "kit", format!("{} of {} MB verified", done / 1_000_000, total / 1_000_000));
            }
        }
        Ok(())
    }

    /// Copies an object to a new file; what doesn't have its hash is not left there.
    pub fn copy(&self, object: &Object, to: &Path) -> Result<(), KitError> {
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(KitError::io(parent))?;
        }
        let mut file = File::create_new(to).map_err(KitError::io(to))?;
        let copied = self.stream(object, &mut file);
        if copied.is_err() {
            let _ = fs::remove_file(to);
        }
        copied
    }

    /// The whole object; `max` is the most that is read into memory.
    pub(super) fn bytes(&self, object: &Object, max: u64) -> Result<Vec<u8>, KitError> {
        if object.size > max {
            let (name, path) = (object.title(), self.path(object));
            let (found, expected) = (object.size.to_string(), format!("at most {max}"));
            return Err(KitError::Tampered { name, path, field: "size", found, expected });
        }
        let mut bytes = Vec::new();
        self.stream(object, &mut bytes)?;
        Ok(bytes)
    }

    /// The one object of a kind of which there is one.
    pub(super) fn one(&self, kind: Kind) -> Result<&Object, KitError> {
        let why = || format!("no object of kind {kind:?}");
        self.index.of(kind).next().ok_or_else(|| KitError::Index { what: INDEX.into(), why: why() })
    }

    fn path(&self, object: &Object) -> PathBuf {
        self.dir.join(OBJECTS).join(&object.sha256)
    }

    fn stream(&self, object: &Object, to: &mut dyn Write) -> Result<(), KitError> {
        let path = self.path(object);
        let mut from = File::open(&path).map_err(|_| self.missing(object))?;
        stream(object, &path, &mut from, to)
    }

    fn missing(&self, object: &Object) -> KitError {
        KitError::Missing { name: object.title(), path: self.path(object) }
    }

    fn look(&self) -> Result<(), KitError> {
        for object in self.index.distinct() {
            let path = self.path(object);
            let meta = fs::symlink_metadata(&path).map_err(|_| self.missing(object))?;
            let tampered = |field, found: String, expected: String| {
                Err(KitError::Tampered { name: object.title(), path: path.clone(), field, found, expected })
            };
            if !meta.is_file() {
                return tampered("kind", "a link or a folder".into(), "a plain file".into());
            }
            if meta.len() != object.size {
                return tampered("size", meta.len().to_string(), object.size.to_string());
            }
        }
        let named: BTreeSet<&str> = self.index.objects.iter().map(|object| object.sha256.as_str()).collect();
        only(&self.dir, &[INDEX, OBJECTS].into())?;
        only(&self.dir.join(OBJECTS), &named)
    }
}

/// Refuses what is not named.
fn only(dir: &Path, named: &BTreeSet<&str>) -> Result<(), KitError> {
    for entry in fs::read_dir(dir).map_err(KitError::io(dir))? {
        let entry = entry.map_err(KitError::io(dir))?;
        if !entry.file_name().to_str().is_some_and(|name| named.contains(name)) {
            return Err(KitError::Extra { path: entry.path() });
        }
    }
    Ok(())
}

/// Reads exactly an object's bytes and hashes them on the way: bounded in memory, and in length whatever is served.
pub(super) fn stream(
    object: &Object,
    path: &Path,
    from: &mut dyn Read,
    to: &mut dyn Write,
) -> Result<(), KitError> {
    let mut from = from.take(object.size + 1);
    let (mut state, mut buffer, mut size) = (Sha256::new(), vec![0; CHUNK], 0);
    loop {
        let read = match from.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other.map_err(KitError::io(path))?,
        };
        if read == 0 {
            break;
        }
        size += read as u64;
        state.update(&buffer[..read]);
        to.write_all(&buffer[..read]).map_err(KitError::io(path))?;
    }
    let found = hex::encode(state.finalize());
    let (field, found, expected) = match (size == object.size, found == object.sha256) {
        (true, true) => return Ok(()),
        (false, _) if size > object.size => ("size", format!("{size} or more"), object.size.to_string()),
        (false, _) => ("size", size.to_string(), object.size.to_string()),
        (true, false) => ("SHA-256", found, object.sha256.clone()),
    };
    Err(KitError::Tampered { name: object.title(), path: path.to_owned(), field, found, expected })
}
