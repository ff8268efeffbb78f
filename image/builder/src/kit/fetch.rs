//! Brings a kit from a mirror into a folder: every byte bounded by the index, every object hashed as it arrives.

use super::copy::{Kit, stream};
use super::error::KitError;
use super::index::{Index, MAX_INDEX, Object};
use super::{INDEX, OBJECTS};
use crate::progress::{Report, say};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// Something that serves a kit's files. Nothing of it is trusted.
pub trait Mirror {
    /// Opens a file below the kit's folder. Whoever reads stops after the length that the index tells; time is for the
    /// mirror's own limits.
    fn open(&self, path: &str) -> Result<Box<dyn Read>, KitError>;
}

/// Fetches into `dir`, which may hold objects of an attempt before; returns the kit.
pub fn fetch(mirror: &dyn Mirror, dir: &Path, report: Report<'_>) -> Result<Kit, KitError> {
    let mut bytes = Vec::new();
    let read = mirror.open(INDEX)?.take(MAX_INDEX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| KitError::Mirror { url: INDEX.into(), why: error.to_string() })?;
    let index = Index::parse(INDEX, &bytes)?;
    let objects = dir.join(OBJECTS);
    fs::create_dir_all(&objects).map_err(KitError::io(&objects))?;
    let (total, count) = (index.size(), index.distinct().count());
    let mut done = 0;
    for (number, object) in index.distinct().enumerate() {
        one(mirror, object, &objects)?;
        done += object.size;
        if number % 100 == 99 || number + 1 == count {
            let (done, total) = (done / 1_000_000, total / 1_000_000);
            say(report, "kit", format!("{} of {count} objects, {done} of {total} MB", number + 1));
        }
    }
    let path = dir.join(INDEX);
    fs::write(&path, bytes).map_err(KitError::io(&path))?;
    Kit::open(dir)
}

/// One object, unless it is there already; it gets its name once its hash is right.
fn one(mirror: &dyn Mirror, object: &Object, objects: &Path) -> Result<(), KitError> {
    let to = objects.join(&object.sha256);
    if fs::metadata(&to).is_ok_and(|meta| meta.len() == object.size) {
        return Ok(());
    }
    let new = objects.with_extension("arriving");
    let mut file = File::create(&new).map_err(KitError::io(&new))?;
    let path = format!("{OBJECTS}/{}", object.sha256);
    stream(object, Path::new(&path), &mut *mirror.open(&path)?, &mut file)?;
    fs::rename(&new, &to).map_err(KitError::io(&to))
}
