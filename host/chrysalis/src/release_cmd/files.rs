//! A publication in a folder, as its publisher opens and changes it.
//!
//! ```text
//! new files --> .next.new/ --rename--> .next/ --rename, one by one--> targets, metadata, root, timestamp.json
//!                               |
//!                      from here on it is finished, if need be by the next command
//! ```
//! A new root with other online keys and the timestamp that they sign can't be put in place at one blow. So a break between
//! the two is not undone but finished: whoever opens the folder next has everything that it takes.

use crate::trust::now;
use anyhow::{Context, Result, ensure};
use measure::Digest256;
use release::publish::{Edition, Signers, Times};
use release::{Expiry, Folder, Mirror, MirrorError, ReleaseError, Trusted};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
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

/// Files that are whole and signed, on their way into the publication.
const NEXT: &str = ".next";
/// The same while they are written.
const UNFINISHED: &str = ".next.new";

/// What is published in this folder, whether or not it has expired. What a break left half done is finished first.
pub fn open(repo: &Path) -> Result<Trusted> {
    if repo.join(NEXT).is_dir() {
        eprintln!("{}: finishing a publication that was interrupted", repo.display());
        put_in_place(repo, usize::MAX)?;
    }
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
    stage(repo, &files)?;
    put_in_place(repo, usize::MAX)?;
    Ok(after)
}

/// Writes new files beside the publication, all of them or none.
fn stage(repo: &Path, files: &[(String, Vec<u8>)]) -> Result<()> {
    let (unfinished, next) = (repo.join(UNFINISHED), repo.join(NEXT));
    let shown = || format!("{}: can't write", next.display());
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(shown)?;
    }
    for folder in ["targets", "metadata"] {
        fs::create_dir_all(unfinished.join(folder)).with_context(shown)?;
    }
    for (path, bytes) in files {
        let mut file = fs::File::create(unfinished.join(path)).with_context(shown)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).with_context(shown)?;
    }
    for folder in ["targets", "metadata"] {
        sync(&unfinished.join(folder))?;
    }
    fs::rename(&unfinished, &next).with_context(shown)?;
    sync(repo)
}

/// Moves what was staged to its place: what is named first, the timestamp last and the root right before it. `most` is how
/// many files, for tests of a break.
fn put_in_place(repo: &Path, most: usize) -> Result<()> {
    let next = repo.join(NEXT);
    let shown = || format!("{}: can't publish", next.display());
    let mut files = Vec::new();
    for folder in ["targets", "metadata"] {
        for entry in fs::read_dir(next.join(folder)).with_context(shown)? {
            let name = entry.with_context(shown)?.file_name().to_string_lossy().into_owned();
            files.push(format!("{folder}/{name}"));
        }
    }
    let last = [".targets.json", ".snapshot.json", ".root.json", "timestamp.json"];
    files.sort_by_key(|path| last.iter().position(|end| path.ends_with(end)).map_or(0, |place| place + 1));
    for folder in ["targets", "metadata"] {
        fs::create_dir_all(repo.join(folder)).with_context(shown)?;
    }
    for path in files.iter().take(most) {
        fs::rename(next.join(path), repo.join(path)).with_context(shown)?;
    }
    if files.len() > most {
        return Ok(());
    }
    sync(&repo.join("targets"))?;
    sync(&repo.join("metadata"))?;
    fs::remove_dir_all(&next).with_context(shown)
}

fn sync(folder: &Path) -> Result<()> {
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("{}: can't write", folder.display()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use release::publish::{Holders, RootPlan};
    use release::{Role, samples};

    /// A publication in a folder, and the files of the next edition, whose new root has the timestamp signed by another key.
    fn rotated() -> (tempfile::TempDir, Trusted, Vec<(String, Vec<u8>)>) {
        let at = now();
        let publication = samples::publication(at, 2).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (path, bytes) in &publication.files {
            write(&dir.path().join(path), bytes).unwrap();
        }
        let before = open(dir.path()).unwrap();
        let mut plan = RootPlan::after(&before, at, at + 365 * DAY);
        let other = samples::key(9).unwrap();
        plan.holders.insert(Role::Timestamp, Holders { keys: vec![other.public()], threshold: 1 });
        let mut root = plan.unsigned().unwrap();
        root.sign(&samples::key(1).unwrap());
        let mut edition = Edition::of(&before);
        edition.add("worker-0.1.0.sbom.json", b"{}".to_vec()).unwrap();
        let times = Times { issued: at, expires: at + DAY };
        let (targets, snapshot, timestamp) =
            ([samples::key(2).unwrap()], [samples::key(3).unwrap()], [other]);
        let signed = edition.sign(&Signers {
            targets: Some((&targets, times)),
            snapshot: Some((&snapshot, times)),
            timestamp: (&timestamp, times),
        });
        let root = ("metadata/2.root.json".to_owned(), root.to_bytes().unwrap());
        (dir, before, [root].into_iter().chain(signed.unwrap()).collect())
    }

    #[test]
    fn a_break_at_any_file_is_finished_by_the_next_command() {
        let files = rotated().2.len();
        assert_eq!(files, 5, "a target, targets, snapshot, root, timestamp");
        for done in 0..=files {
            let (dir, before, new) = rotated();
            stage(dir.path(), &new).unwrap();
            put_in_place(dir.path(), done).unwrap();
            // As a consumer sees it: the old edition until the root comes, the new one from the timestamp on.
            let mut consumer = before.clone();
            let seen = consumer.refresh(&mut Folder::new(dir.path()), now(), Expiry::Enforce);
            assert_eq!(seen.is_ok(), done != files - 1, "{done} files: {seen:?}");
            let after = open(dir.path()).unwrap();
            assert_eq!(after.versions(), [2, 2, 2, 2], "{done} files");
            assert!(!dir.path().join(NEXT).exists(), "{done} files");
        }
    }

    #[test]
    fn what_was_not_written_whole_is_as_if_it_had_never_been_begun() {
        let (dir, before, new) = rotated();
        let unfinished = dir.path().join(UNFINISHED).join("metadata");
        fs::create_dir_all(&unfinished).unwrap();
        fs::write(unfinished.join("timestamp.json"), "half of a fi").unwrap();
        assert_eq!(open(dir.path()).unwrap().versions(), before.versions());
        stage(dir.path(), &new).unwrap();
        assert_eq!(open(dir.path()).unwrap().versions(), [2, 2, 2, 2]);
    }
}
