//! A publication in a folder, as its publisher opens and changes it.

use crate::trust::now;
use anyhow::{Context, Result, ensure};
use measure::Digest256;
use release::publish::{Edition, Signers, Times};
use release::{Expiry, Folder, Mirror, MirrorError, ReleaseError, Trusted};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::keys::{self, RoleKeys};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// How long what is signed lives.
#[derive(Debug, clap::Args)]
pub struct Lives {
    /// Days that the targets live.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=3650))]
    targets_days: u64,
    /// Days that the snapshot lives.
    #[arg(long, default_value_t = 14, value_parser = clap::value_parser!(u64).range(1..=3650))]
    snapshot_days: u64,
    /// Hours that the timestamp lives: for so long can a mirror hide news.
    #[arg(long, default_value_t = 36, value_parser = clap::value_parser!(u64).range(1..=8760))]
    timestamp_hours: u64,
}

/// What is published in this folder, whether or not it has expired.
pub fn open(repo: &Path) -> Result<Trusted> {
    let path = repo.join("metadata/1.root.json");
    let root = fs::read(&path).with_context(|| {
        format!("{}: no publication here; make one with `chrysalis release init`", path.display())
    })?;
    let mut trusted = Trusted::new(Digest256::of(&root), &root)?;
    match trusted.refresh(&mut Folder::new(repo), now(), Expiry::Ignore) {
        Err(ReleaseError::Missing { what, .. }) if what == "timestamp.json" => {}
        other => other.with_context(|| format!("{}: the publication is damaged", repo.display()))?,
    }
    Ok(trusted)
}

/// The next version of a publication: signed, verified as a consumer would, then written, the timestamp last.
pub fn release(
    repo: &Path,
    before: &Trusted,
    edition: Edition,
    new_root: Option<(String, Vec<u8>)>,
    given: &RoleKeys,
    lives: &Lives,
) -> Result<Trusted> {
    let (targets, snapshot) = (keys::read(&given.targets_key)?, keys::read(&given.snapshot_key)?);
    let timestamp = keys::read(&given.timestamp_key)?;
    let issued = now();
    let times = |seconds: u64| Times { issued, expires: issued + seconds };
    let signers = Signers {
        targets: (!targets.is_empty()).then(|| (&targets[..], times(lives.targets_days * DAY))),
        snapshot: (!snapshot.is_empty()).then(|| (&snapshot[..], times(lives.snapshot_days * DAY))),
        timestamp: (&timestamp[..], times(lives.timestamp_hours * HOUR)),
    };
    let files: Vec<_> = new_root.into_iter().chain(edition.sign(&signers)?).collect();
    let mut overlay = Overlay { over: files.iter().cloned().collect(), base: Folder::new(repo) };
    let mut after = before.clone();
    after
        .refresh(&mut overlay, issued, Expiry::Enforce)
        .context("what was signed would be refused, so nothing was written")?;
    for (path, bytes) in files {
        write(&repo.join(path), &bytes)?;
    }
    Ok(after)
}

/// Writes a file, whole or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let shown = || format!("{}: can't write", path.display());
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(shown)?;
    let new = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&new, bytes).and_then(|()| fs::rename(&new, path)).with_context(shown)
}

/// The files of a folder, by name; only plain files.
pub fn folder(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let shown = || format!("{}: unreadable", path.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(shown)? {
        let entry = entry.with_context(shown)?;
        if entry.file_type().with_context(shown)?.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push((name, fs::read(entry.path()).with_context(shown)?));
        }
    }
    files.sort();
    ensure!(!files.is_empty(), "{}: empty; make a draft with `chrysalis release draft`", path.display());
    Ok(files)
}

/// Refuses to write into a folder that holds something already.
pub fn must_be_new(path: &Path) -> Result<PathBuf> {
    let empty = fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
    ensure!(empty, "{}: not empty; give a new folder", path.display());
    Ok(path.to_owned())
}

/// A folder with files laid over it that are not written yet.
struct Overlay {
    over: BTreeMap<String, Vec<u8>>,
    base: Folder,
}

impl Mirror for Overlay {
    fn fetch(&mut self, path: &str, max: usize) -> Result<Option<Vec<u8>>, MirrorError> {
        match self.over.get(path) {
            Some(bytes) if bytes.len() > max => Err(MirrorError::Endless { path: path.into(), max }),
            Some(bytes) => Ok(Some(bytes.clone())),
            None => self.base.fetch(path, max),
        }
    }
}
