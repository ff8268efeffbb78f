//! Bounded reading of the small files of a model folder.

use crate::error::{EngineError, shorten};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Largest configuration file that is read, in bytes.
const MAX_CONFIG: u64 = 1024 * 1024;

/// Opens a regular file and says how long it is.
pub(crate) fn open(path: &Path, purpose: &'static str) -> Result<(File, u64), EngineError> {
    let failed = |source| EngineError::Read { path: path.into(), purpose, source };
    let file = File::open(path).map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    if !facts.is_file() {
        return Err(failed(std::io::Error::other("not a regular file")));
    }
    Ok((file, facts.len()))
}

/// Reads a whole file of at most `max` bytes.
pub(crate) fn read(path: &Path, purpose: &'static str, max: u64) -> Result<Vec<u8>, EngineError> {
    let (file, len) = open(path, purpose)?;
    if len > max {
        return Err(EngineError::TooLarge { path: path.into(), found: len, max });
    }
    let mut bytes = Vec::with_capacity(len as usize);
    // The file may grow while it is read; the bound holds all the same.
    file.take(max).read_to_end(&mut bytes).map_err(|source| EngineError::Read {
        path: path.into(),
        purpose,
        source,
    })?;
    Ok(bytes)
}

/// A parsed configuration file and where it came from.
pub(crate) struct Config<T> {
    /// Where it was read.
    pub path: PathBuf,
    /// What it says.
    pub value: T,
}

impl<T: DeserializeOwned> Config<T> {
    /// Reads one JSON file.
    pub fn read(path: PathBuf, purpose: &'static str) -> Result<Self, EngineError> {
        let bytes = read(&path, purpose, MAX_CONFIG)?;
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Config { path, value }),
            Err(source) => Err(EngineError::Json { path, source }),
        }
    }

    /// Reads one JSON file, or takes the default where there is none.
    pub fn read_or_default(path: PathBuf, purpose: &'static str) -> Result<Self, EngineError>
    where
        T: Default,
    {
        match Self::read(path.clone(), purpose) {
            Err(EngineError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(Config { path, value: T::default() })
            }
            other => other,
        }
    }
}

impl<T> Config<T> {
    /// A field whose value makes no sense.
    pub fn bad(&self, field: &str, found: &str, expected: impl Into<String>) -> EngineError {
        let (path, found) = (self.path.clone(), shorten(found));
        EngineError::Value { path, field: field.into(), found, expected: expected.into() }
    }

    /// Fails unless `found` lies in `range`.
    pub fn in_range(
        &self,
        field: &str,
        found: usize,
        range: RangeInclusive<usize>,
    ) -> Result<usize, EngineError> {
        if range.contains(&found) {
            return Ok(found);
        }
        Err(self.bad(field, &found.to_string(), format!("{} to {}", range.start(), range.end())))
    }

    /// A kind of thing that is not on the closed list.
    pub fn unsupported(&self, what: &'static str, found: &str, supported: &str) -> EngineError {
        let (path, found) = (self.path.clone(), shorten(found));
        EngineError::Unsupported { path, what, found, supported: supported.into() }
    }
}
