//! The staged source: a copy of the checkout's files at one place, refreshed by content.
//!
//! Guest binaries are compiled from this copy, bound at `/chrysalis/src` in the tools root, never from the checkout:
//! - what was not added to the checkout (ignored files, `target/`) can't leak into the guest;
//! - modes are normalised, so that a checkout's umask does not matter;
//! - only files whose bytes changed get a new modification time, so any clone under any path shares one warm target
//!   folder, and cargo's time-based freshness can't take one clone's output for another's.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why the source could not be staged.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The checkout's files could not be listed.
    #[error("cannot list the files of {path}: {reason}; run this in a git clone of the project")]
    List {
        /// The checkout.
        path: PathBuf,
        /// What git said.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: std::io::Error,
    },
}

/// Makes `staged` hold exactly the files of `checkout` that git tracks or would track. Returns how many files changed.
pub fn stage(checkout: &Path, staged: &Path) -> Result<usize, SourceError> {
    let files = list(checkout)?;
    let mut changed = 0;
    for file in &files {
        changed += usize::from(copy_if_changed(&checkout.join(file), &staged.join(file))?);
    }
    changed += remove_others(staged, staged, &files)?;
    Ok(changed)
}

/// Relative paths of the regular files that git tracks or would track.
fn list(checkout: &Path) -> Result<BTreeSet<PathBuf>, SourceError> {
    let fail = |reason: String| SourceError::List { path: checkout.to_path_buf(), reason };
    let output = Command::new("git")
        .args(["-c", "safe.directory=*", "-C"])
        .arg(checkout)
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .output()
        .map_err(|e| fail(format!("git does not start: {e}")))?;
    if !output.status.success() {
        return Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let names = output.stdout.split(|b| *b == 0).filter(|name| !name.is_empty());
    let paths = names.map(|name| PathBuf::from(String::from_utf8_lossy(name).into_owned()));
    Ok(paths.filter(|path| checkout.join(path).is_file() || checkout.join(path).is_symlink()).collect())
}

fn copy_if_changed(from: &Path, to: &Path) -> Result<bool, SourceError> {
    if from.is_symlink() {
        return link_if_changed(from, to);
    }
    let bytes = std::fs::read(from).map_err(|source| io("read", from, source))?;
    let executable = mode(from)? & 0o111 != 0;
    let wanted = if executable { 0o755 } else { 0o644 };
    if !to.is_symlink() && std::fs::read(to).is_ok_and(|old| old == bytes) && mode(to)? & 0o777 == wanted {
        return Ok(false);
    }
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(|source| io("create", parent, source))?;
    }
    // A new file under a new inode: a program that is being run from the old one keeps it.
    let _ = std::fs::remove_file(to);
    std::fs::write(to, bytes).map_err(|source| io("write", to, source))?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(wanted))
        .map_err(|source| io("set the mode of", to, source))?;
    Ok(true)
}

/// A symlink stays one: what it points to is content of its own.
fn link_if_changed(from: &Path, to: &Path) -> Result<bool, SourceError> {
    let target = std::fs::read_link(from).map_err(|source| io("read the link", from, source))?;
    if std::fs::read_link(to).is_ok_and(|old| old == target) {
        return Ok(false);
    }
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(|source| io("create", parent, source))?;
    }
    let _ = std::fs::remove_file(to);
    std::os::unix::fs::symlink(&target, to).map_err(|source| io("make the link", to, source))?;
    Ok(true)
}

fn mode(path: &Path) -> Result<u32, SourceError> {
    let metadata = std::fs::metadata(path).map_err(|source| io("look at", path, source))?;
    Ok(metadata.permissions().mode())
}

/// Removes what stands below `folder` and is not among `files`, and folders that this leaves empty.
fn remove_others(staged: &Path, folder: &Path, files: &BTreeSet<PathBuf>) -> Result<usize, SourceError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(source) => return Err(io("list", folder, source)),
    };
    let mut removed = 0;
    for entry in entries {
        let path = entry.map_err(|source| io("list", folder, source))?.path();
        if path.is_dir() && !path.is_symlink() {
            removed += remove_others(staged, &path, files)?;
            // Fails, as it should, while something is left in it.
            let _ = std::fs::remove_dir(&path);
        } else if !path.strip_prefix(staged).is_ok_and(|relative| files.contains(relative)) {
            std::fs::remove_file(&path).map_err(|source| io("remove", &path, source))?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> SourceError {
    SourceError::Io { action, path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkout(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        assert!(Command::new("git").args(["init", "-q"]).arg(dir.path()).status().unwrap().success());
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn ignored_files_are_not_staged() {
        let from = checkout(&[(".gitignore", "/out\n"), ("out/secret", "x"), ("a/b.rs", "fn b() {}")]);
        let to = tempfile::tempdir().unwrap();
        assert_eq!(stage(from.path(), to.path()).unwrap(), 2);
        assert!(to.path().join("a/b.rs").exists() && !to.path().join("out").exists());
    }

    #[test]
    fn an_unchanged_file_keeps_its_time_and_a_removed_one_goes() {
        let from = checkout(&[("a/keep", "1"), ("b/change", "1"), ("c/remove", "1")]);
        let to = tempfile::tempdir().unwrap();
        stage(from.path(), to.path()).unwrap();
        let before = std::fs::metadata(to.path().join("a/keep")).unwrap().modified().unwrap();
        std::fs::write(from.path().join("a/keep"), "1").unwrap();
        std::fs::write(from.path().join("b/change"), "2").unwrap();
        std::fs::remove_file(from.path().join("c/remove")).unwrap();
        assert_eq!(stage(from.path(), to.path()).unwrap(), 2);
        assert_eq!(std::fs::metadata(to.path().join("a/keep")).unwrap().modified().unwrap(), before);
        assert_eq!(std::fs::read(to.path().join("b/change")).unwrap(), b"2");
        assert!(!to.path().join("c").exists());
    }

    #[test]
    fn a_symlink_stays_a_symlink() {
        let from = checkout(&[("a/file", "1")]);
        std::os::unix::fs::symlink("file", from.path().join("a/link")).unwrap();
        let to = tempfile::tempdir().unwrap();
        assert_eq!(stage(from.path(), to.path()).unwrap(), 2);
        assert_eq!(std::fs::read_link(to.path().join("a/link")).unwrap(), Path::new("file"));
        assert_eq!(stage(from.path(), to.path()).unwrap(), 0);
    }

    #[test]
    fn a_folder_that_is_no_clone_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = stage(dir.path(), &dir.path().join("to")).unwrap_err().to_string();
        assert!(error.contains("git clone"), "{error}");
    }
}
