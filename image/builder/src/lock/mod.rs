//! The lock files: exactly which packages, by SHA-256.
//!
//! ```text
//! # suite: trixie
//! # snapshot: 20260912T075541Z
//! name version architecture sha256 size pool/main/...
//! ```
//! One line a package, sorted by name. `snapshot` names the moment at which Debian's snapshot archive still has what a
//! mirror has dropped; it is also the image's clock (SOURCE_DATE_EPOCH).

mod fetch;
mod update;

pub use crate::mirror::Sources;
pub use fetch::{FetchError, fetch};
pub(crate) use update::{Apt, SUITE, changes};
pub use update::{Change, Changes, Kind, update};

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// One locked package.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Package {
    /// Binary package name.
    pub name: String,
    /// Debian version, with epoch.
    pub version: String,
    /// `amd64` or `all`.
    pub arch: String,
    /// SHA-256 of the .deb, lower-case hex.
    pub sha256: String,
    /// Size of the .deb in bytes.
    pub size: u64,
    /// Path below a mirror's base URL.
    pub pool: String,
}

/// A whole lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Debian suite, such as `trixie`.
    pub suite: String,
    /// Moment in the snapshot archive, `YYYYMMDDTHHMMSSZ`.
    pub snapshot: String,
    /// Sorted by name.
    pub packages: Vec<Package>,
}

/// Why a lock file was refused.
#[derive(Debug, thiserror::Error)]
#[error(
    "{file}:{line}: {fault}; move the lock again with `chrysalis image lock packages`, `... lock tools` or `... lock gpu`"
)]
pub struct LockError {
    /// Which lock file.
    pub file: String,
    /// Line number from 1, 0 for the whole file.
    pub line: usize,
    /// What was expected and what was found.
    pub fault: String,
}

impl Lock {
    /// Reads a lock file.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        use anyhow::Context;
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "{}: no lock; make one with `chrysalis image lock packages` or `... lock tools`",
                path.display()
            )
        })?;
        Ok(Lock::parse(&path.display().to_string(), &text)?)
    }

    /// Parses a lock file's text; `file` is used in errors.
    pub fn parse(file: &str, text: &str) -> Result<Self, LockError> {
        let fail = |line, fault: String| LockError { file: file.into(), line, fault };
        let (mut suite, mut snapshot, mut packages) = (None, None, Vec::<Package>::new());
        for (i, line) in text.lines().enumerate() {
            if let Some(comment) = line.strip_prefix('#') {
                match comment.trim().split_once(": ") {
                    Some(("suite", value)) => suite = Some(value.to_owned()),
                    Some(("snapshot", value)) => snapshot = Some(value.to_owned()),
                    _ => {}
                }
            } else if !line.trim().is_empty() {
                let package = parse_line(line).map_err(|fault| fail(i + 1, fault))?;
                if packages.last().is_some_and(|last| last.name >= package.name) {
                    return Err(fail(i + 1, format!("`{}` is out of order or twice", package.name)));
                }
                packages.push(package);
            }
        }
        let suite = suite.ok_or_else(|| fail(0, "no `# suite:` line".into()))?;
        let snapshot = snapshot.filter(|s| timestamp(s).is_some());
        let snapshot = snapshot.ok_or_else(|| fail(0, "no `# snapshot: YYYYMMDDTHHMMSSZ` line".into()))?;
        Ok(Lock { suite, snapshot, packages })
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "# Every package by name, version, architecture, SHA-256, size and path below a mirror.\n\
             # Written by `chrysalis image lock packages` or `... lock tools`, which shows what moves; never edited by hand.\n\
             # suite: {}\n# snapshot: {}\n",
            self.suite, self.snapshot
        );
        text.push_str(&self.lines());
        text
    }

    /// Identity: SHA-256 of the package lines. Comments do not count.
    pub fn id(&self) -> String {
        crate::hash::bytes(self.lines().as_bytes())
    }

    /// The package lines.
    pub(crate) fn lines(&self) -> String {
        self.packages.iter().map(Package::line).collect()
    }

    /// Seconds since 1970 of the snapshot: the clock of everything built from this lock.
    pub fn epoch(&self) -> u64 {
        timestamp(&self.snapshot).unwrap_or_default()
    }
}

impl Package {
    fn line(&self) -> String {
        let mut line = String::new();
        let Package { name, version, arch, sha256, size, pool } = self;
        // Writing to a String can't fail.
        let _ = writeln!(line, "{name} {version} {arch} {sha256} {size} {pool}");
        line
    }

    /// Where the .deb lies in the cache.
    pub fn cached(&self, cache: &Path) -> PathBuf {
        cache.join("debs/sha256").join(&self.sha256)
    }
}

/// True for 64 lower-case hex digits.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn parse_line(line: &str) -> Result<Package, String> {
    let fields: Vec<&str> = line.split(' ').collect();
    let &[name, version, arch, sha256, size, pool] = fields.as_slice() else {
        return Err(format!("expected 6 fields, found {}", fields.len()));
    };
    if !is_sha256(sha256) {
        return Err(format!("`{sha256}` is not a SHA-256 in lower-case hex"));
    }
    let plain = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.' | b'~' | b'_' | b':' | b'/' | b'%')
    };
    if !line.bytes().all(|b| b == b' ' || plain(b)) || pool.split('/').any(|part| part == "..") {
        return Err(format!("`{}` has characters that no package has", line.escape_debug()));
    }
    let size = size.parse().map_err(|_| format!("`{size}` is not a size in bytes"))?;
    let owned = str::to_owned;
    Ok(Package {
        name: owned(name),
        version: owned(version),
        arch: owned(arch),
        sha256: owned(sha256),
        size,
        pool: owned(pool),
    })
}

/// `YYYYMMDDTHHMMSSZ` as seconds since 1970 (days from the civil calendar, proleptic Gregorian).
fn timestamp(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let (hour, minute, second) = (number(9..11)?, number(11..13)?, number(13..15)?);
    if year < 1980
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let lengths = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let years: u64 = (1970..year).map(|y| if leap(y) { 366 } else { 365 }).sum();
    let months: u64 = lengths.iter().take(month as usize - 1).sum();
    Some((years + months + day - 1) * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lock() -> Lock {
        let package = |name: &str| Package {
            name: name.into(),
            version: "1:2.0~rc1-3+b1".into(),
            arch: "amd64".into(),
            sha256: "ab".repeat(32),
            size: 7,
            pool: format!("pool/main/x/{name}.deb"),
        };
        Lock {
            suite: "trixie".into(),
            snapshot: "20260912T075541Z".into(),
            packages: vec![package("a"), package("b")],
        }
    }

    #[test]
    fn a_lock_survives_its_text() {
        assert_eq!(Lock::parse("x", &lock().to_text()).unwrap(), lock());
    }

    #[test]
    fn comments_do_not_change_the_identity_and_a_version_does() {
        let mut other = Lock { snapshot: "20270101T000000Z".into(), ..lock() };
        assert_eq!(other.id(), lock().id());
        other.packages[0].version.push('1');
        assert_ne!(other.id(), lock().id());
    }

    #[test]
    fn a_package_out_of_order_is_refused_with_its_line() {
        let mut swapped = lock();
        swapped.packages.swap(0, 1);
        let error = Lock::parse("image/packages.lock", &swapped.to_text()).unwrap_err();
        assert_eq!(error.line, 6);
        assert!(error.to_string().contains("image/packages.lock:6"), "{error}");
    }

    #[test]
    fn the_snapshot_is_the_clock() {
        assert_eq!(timestamp("19800101T000000Z"), Some(315_532_800));
        assert_eq!(lock().epoch(), 1_789_199_741);
        assert_eq!(timestamp("20260912 075541Z"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_kept(text in "(#? ?[a-z:0-9T/.]{0,20}[ \n]){0,40}") {
            if let Ok(lock) = Lock::parse("x", &text) {
                prop_assert_eq!(Lock::parse("x", &lock.to_text()).unwrap(), lock);
            }
        }
    }
}
