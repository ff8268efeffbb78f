//! Gets exactly the locked packages: from the cache, else the mirror, else the snapshot archive, always by SHA-256.

use super::{Lock, Package, Sources};
use crate::mirror::{self, Download};
use crate::progress::{Report, say};
use std::fs;
use std::path::{Path, PathBuf};

/// Files a call to the downloader: enough to keep one connection busy, few enough to show progress.
const BATCH: usize = 25;

/// Why a locked package could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Neither place has it any more.
    #[error(
        "{name} {version} (SHA-256 {sha256}) is nowhere to be had: tried {tried}. If the mirror has moved on, name \
         a snapshot archive in $CHRYSALIS_DEBIAN_SNAPSHOT, or move the lock on purpose with `chrysalis image lock packages` \
         (the measurement moves with it)"
    )]
    Gone {
        /// Package name.
        name: String,
        /// Locked version.
        version: String,
        /// Locked hash.
        sha256: String,
        /// The addresses that were tried, and what each gave.
        tried: String,
    },
    /// The cache folder can't be used.
    #[error("{path}: {source}; check the cache folder's permissions and free space")]
    Cache {
        /// File or folder.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// The downloader did not run, or the cache could not be locked.
    #[error("{0:#}")]
    Downloader(anyhow::Error),
}

/// Makes sure that every package of the lock lies in `cache` with the right hash.
pub fn fetch(lock: &Lock, cache: &Path, sources: &Sources, report: Report<'_>) -> Result<(), FetchError> {
    let _lock = crate::checkout::exclusive(&cache.join("debs/lock")).map_err(FetchError::Downloader)?;
    let mut missing: Vec<&Package> = Vec::new();
    for package in &lock.packages {
        if !is_cached(package, cache)? {
            missing.push(package);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let total: u64 = missing.iter().map(|p| p.size).sum();
    say(report, "packages", format!("{} to download, {} MB", missing.len(), total / 1_000_000));
    let mirror = sources.mirror.iter().cloned();
    let snapshot = format!("{}/{}", sources.snapshot, lock.snapshot);
    let mut tried = String::new();
    for base in mirror.chain([snapshot]) {
        missing = from_one_place(missing, &base, cache, report)?;
        let Some(first) = missing.first() else { return Ok(()) };
        let sep = if tried.is_empty() { "" } else { ", then " };
        tried.push_str(&format!("{sep}{base}/{} (not there, or another hash)", first.pool));
    }
    match missing.first() {
        None => Ok(()),
        Some(p) => Err(FetchError::Gone {
            name: p.name.clone(),
            version: p.version.clone(),
            sha256: p.sha256.clone(),
            tried,
        }),
    }
}

/// Tries one base URL for all; returns what it does not have.
fn from_one_place<'a>(
    wanted: Vec<&'a Package>,
    base: &str,
    cache: &Path,
    report: Report<'_>,
) -> Result<Vec<&'a Package>, FetchError> {
    let scratch = cache.join("debs/incoming");
    make_folder(&scratch)?;
    make_folder(&cache.join("debs/sha256"))?;
    let mut missing = Vec::new();
    let (mut done, total) = (0, wanted.len());
    for batch in wanted.chunks(BATCH) {
        let files: Vec<Download> = batch
            .iter()
            .map(|p| Download { url: format!("{base}/{}", p.pool), to: scratch.join(&p.sha256) })
            .collect();
        mirror::download(&files).map_err(FetchError::Downloader)?;
        for package in batch {
            if !accept(package, &scratch.join(&package.sha256), cache)? {
                missing.push(*package);
            }
        }
        done += batch.len();
        say(report, "packages", format!("{done} of {total} asked for, {} not there", missing.len()));
    }
    // Leftovers are only failed downloads; a later run starts afresh.
    let _ = fs::remove_dir_all(&scratch);
    Ok(missing)
}

/// Moves a download into the cache if its hash is the locked one.
fn accept(package: &Package, file: &Path, cache: &Path) -> Result<bool, FetchError> {
    if !file.is_file() || crate::hash::file(file).map_err(FetchError::Downloader)? != package.sha256 {
        return Ok(false);
    }
    let to = package.cached(cache);
    fs::rename(file, &to).map_err(|source| FetchError::Cache { path: to, source })?;
    Ok(true)
}

/// True if the cache has it; a file with another hash is removed, not used.
fn is_cached(package: &Package, cache: &Path) -> Result<bool, FetchError> {
    let path = package.cached(cache);
    if !path.is_file() {
        return Ok(false);
    }
    if crate::hash::file(&path).map_err(FetchError::Downloader)? == package.sha256 {
        return Ok(true);
    }
    fs::remove_file(&path).map_err(|source| FetchError::Cache { path, source })?;
    Ok(false)
}

fn make_folder(path: &Path) -> Result<(), FetchError> {
    fs::create_dir_all(path).map_err(|source| FetchError::Cache { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    /// An archive that has exactly one file; answers until the test ends.
    fn archive(path: &'static str, body: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let request = lines.next().unwrap_or(Ok(String::new())).unwrap();
                while lines.next().is_some_and(|line| line.is_ok_and(|l| !l.is_empty())) {}
                let found = request.split(' ').nth(1) == Some(path);
                let (status, body) = if found { ("200 OK", body) } else { ("404 Not Found", &b""[..]) };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
            }
        });
        url
    }

    fn one_package(body: &[u8]) -> Lock {
        let package = Package {
            name: "hello".into(),
            version: "2.10-5".into(),
            arch: "amd64".into(),
            sha256: crate::hash::bytes(body),
            size: body.len() as u64,
            pool: "pool/main/h/hello/hello_2.10-5_amd64.deb".into(),
        };
        Lock { suite: "trixie".into(), snapshot: "20260912T075541Z".into(), packages: vec![package] }
    }

    #[test]
    fn a_package_that_the_mirror_dropped_comes_from_the_snapshot() {
        let cache = tempfile::tempdir().unwrap();
        let lock = one_package(b"the package");
        let path = "/20260912T075541Z/pool/main/h/hello/hello_2.10-5_amd64.deb";
        let sources =
            Sources { mirror: Some(archive("/nothing", b"")), snapshot: archive(path, b"the package") };
        fetch(&lock, cache.path(), &sources, &mut |_| {}).unwrap();
        assert_eq!(fs::read(lock.packages[0].cached(cache.path())).unwrap(), b"the package");
    }

    #[test]
    fn other_bytes_under_the_right_name_are_refused() {
        let cache = tempfile::tempdir().unwrap();
        let lock = one_package(b"the package");
        let bad = archive("/pool/main/h/hello/hello_2.10-5_amd64.deb", b"bad package");
        let sources = Sources { mirror: Some(bad), snapshot: archive("/nothing", b"") };
        let error = fetch(&lock, cache.path(), &sources, &mut |_| {}).unwrap_err();
        assert!(matches!(error, FetchError::Gone { .. }));
        assert!(!lock.packages[0].cached(cache.path()).exists());
    }

    #[test]
    fn a_package_that_is_gone_names_itself_and_the_way_out() {
        let cache = tempfile::tempdir().unwrap();
        let nowhere = archive("/nothing", b"");
        let sources = Sources { mirror: Some(nowhere.clone()), snapshot: nowhere };
        let error = fetch(&one_package(b"x"), cache.path(), &sources, &mut |_| {}).unwrap_err().to_string();
        for word in ["hello 2.10-5", "$CHRYSALIS_DEBIAN_SNAPSHOT", "chrysalis image lock"] {
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_spoiled_cache_entry_is_fetched_again() {
        let cache = tempfile::tempdir().unwrap();
        let lock = one_package(b"the package");
        let cached = lock.packages[0].cached(cache.path());
        fs::create_dir_all(cached.parent().unwrap()).unwrap();
        fs::write(&cached, b"spoiled").unwrap();
        let good = archive("/pool/main/h/hello/hello_2.10-5_amd64.deb", b"the package");
        let sources = Sources { mirror: Some(good), snapshot: archive("/nothing", b"") };
        fetch(&lock, cache.path(), &sources, &mut |_| {}).unwrap();
        assert_eq!(fs::read(cached).unwrap(), b"the package");
    }
}
