//! Finds the published measurements of a release: a file, a draft, or a publication.

use crate::input::read;
use anyhow::{Context, Result, bail};
use release::{MAX_MEASUREMENTS, ReleaseId, name};
use std::fs;
use std::path::{Path, PathBuf};

/// Path and bytes. A rebuilder trusts nothing of it: he compares it with what he builds.
pub fn find(path: &Path, release: Option<&ReleaseId>) -> Result<(String, Vec<u8>)> {
    let path = if path.is_dir() { in_folder(path, release)? } else { path.to_owned() };
    let size = fs::metadata(&path)
        .with_context(|| format!("{}: no such release; give its *{}", path.display(), name::MEASUREMENTS))?
        .len();
    if size > MAX_MEASUREMENTS as u64 {
        bail!("{}: {size} bytes, expected at most {MAX_MEASUREMENTS}; this is no release", path.display());
    }
    Ok((path.display().to_string(), read(&path)?))
}

/// The one file with measurements in a draft, or below `targets/` of a publication.
fn in_folder(folder: &Path, release: Option<&ReleaseId>) -> Result<PathBuf> {
    let targets = folder.join("targets");
    let folder = if targets.is_dir() { &targets } else { folder };
    let end = release.map_or(name::MEASUREMENTS.to_owned(), |id| id.target(name::MEASUREMENTS));
    let entries = fs::read_dir(folder).with_context(|| format!("{}: can't list", folder.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_it = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // In a publication the hash comes first.
        name == end || name.ends_with(&format!(".{end}")) || (release.is_none() && name.ends_with(&end))
    };
    let mut found: Vec<PathBuf> = paths.filter(is_it).collect();
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => bail!("{}: no *{end} in it; give the folder of a draft or a publication", folder.display()),
        many => {
            let names: Vec<_> = many.iter().filter_map(|path| path.file_name()?.to_str()).collect();
            bail!("{}: several releases ({}); name one with --release", folder.display(), names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("targets")).unwrap();
        names.iter().for_each(|name| fs::write(dir.path().join("targets").join(name), name).unwrap());
        dir
    }

    #[test]
    fn one_of_several_releases_has_to_be_named() {
        let dir = folder(&["aa.worker-0.1.0.measurements.json", "bb.worker-0.2.0.measurements.json"]);
        let error = find(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains("--release") && error.contains("worker-0.2.0"), "{error}");
        let id = "worker-0.2.0".parse().unwrap();
        assert_eq!(find(dir.path(), Some(&id)).unwrap().1, b"bb.worker-0.2.0.measurements.json");
        let missing = "worker-0.3.0".parse().unwrap();
        assert!(find(dir.path(), Some(&missing)).unwrap_err().to_string().contains("worker-0.3.0"));
    }

    #[test]
    fn a_release_is_not_taken_for_one_whose_name_ends_alike() {
        let dir = folder(&["aa.gpu-worker-0.1.0.measurements.json"]);
        let id = "worker-0.1.0".parse().unwrap();
        assert!(find(dir.path(), Some(&id)).is_err());
    }

    #[test]
    fn an_endless_document_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.measurements.json");
        fs::File::create(&path).unwrap().set_len(MAX_MEASUREMENTS as u64 + 1).unwrap();
        assert!(find(&path, None).unwrap_err().to_string().contains("at most"));
    }
}
