//! `image/toolchain.lock`: every installed file of the Rust toolchain that compiles the guest, by SHA-256.
//!
//! ```text
//! # channel: 1.95.0
//! sha256 size x|- path
//! ```
//! `rust-toolchain.toml` pins a version, and whoever serves that version decides the bytes; this pins the bytes. Listed is
//! what the manifests of the components `rustc`, `cargo` and `rust-std` name below `bin`, `lib` and `libexec`: what compiles.
//! Documentation, the other components and what the installer notes for itself don't count.

use super::index::{is_hex, is_plain};
use crate::checkout::Checkout;
use crate::guest::Toolchain;
use crate::hash;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The lock file, from the root of the checkout.
pub const FILE: &str = "image/toolchain.lock";
const COMPONENTS: [&str; 3] = ["cargo", "rust-std", "rustc"];
const TARGET: &str = "x86_64-unknown-linux-gnu";
const FOLDERS: [&str; 3] = ["bin/", "lib/", "libexec/"];
/// Most files.
const MAX_FILES: usize = 4096;

/// One installed file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Installed {
    /// Path below the toolchain's folder.
    pub path: String,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// Whether it is a program.
    pub executable: bool,
}

/// The lock.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ToolchainLock {
    /// Version, as `rust-toolchain.toml` names it.
    pub channel: String,
    /// Sorted by path, each once.
    pub files: Vec<Installed>,
}

impl ToolchainLock {
    /// Reads the lock of a checkout.
    pub fn load(root: &Path) -> Result<Self> {
        let path = root.join(FILE);
        let text = fs::read_to_string(&path).with_context(|| {
            format!("{}: no lock; make one with `chrysalis image lock toolchain`", path.display())
        })?;
        ToolchainLock::parse(&text).with_context(|| format!("{}", path.display()))
    }

    /// Parses the lock's text.
    pub fn parse(text: &str) -> Result<Self> {
        let (mut channel, mut files) = (None, Vec::<Installed>::new());
        for (number, line) in text.lines().enumerate() {
            if let Some(comment) = line.strip_prefix('#') {
                channel = comment.trim().strip_prefix("channel: ").map(str::to_owned).or(channel);
                continue;
            }
            let file = parse_line(line).with_context(|| format!("line {}", number + 1))?;
            ensure!(files.len() < MAX_FILES, "more than {MAX_FILES} files");
            if files.last().is_some_and(|last| last.path >= file.path) {
                bail!("line {}: `{}` is out of order or twice", number + 1, file.path);
            }
            files.push(file);
        }
        let channel = channel.context("no `# channel:` line")?;
        ensure!(!files.is_empty(), "it lists no file");
        Ok(ToolchainLock { channel, files })
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "# Every installed file of the Rust toolchain that compiles the guest: SHA-256, size, program or not, path.\n\
             # Written by `chrysalis image lock toolchain`; never edited by hand.\n# channel: {}\n",
            self.channel
        );
        for Installed { path, sha256, size, executable } in &self.files {
            // Writing to a String can't fail.
            let _ = writeln!(text, "{sha256} {size} {} {path}", if *executable { 'x' } else { '-' });
        }
        text
    }

    /// Reads an installation.
    pub fn of(sysroot: &Path, channel: &str) -> Result<Self> {
        let one = |path: String| -> Result<Installed> {
            let file = sysroot.join(&path);
            let meta = fs::metadata(&file).with_context(|| format!("{}: can't read", file.display()))?;
            let executable = meta.permissions().mode() & 0o100 != 0;
            Ok(Installed { sha256: hash::file(&file)?, size: meta.len(), executable, path })
        };
        let files = listed(sysroot)?.into_iter().map(one).collect::<Result<_>>()?;
        Ok(ToolchainLock { channel: channel.to_owned(), files })
    }

    /// Compares an installation with the lock.
    pub fn check(&self, sysroot: &Path) -> Result<()> {
        for file in &self.files {
            let path = sysroot.join(&file.path);
            let found = hash::file(&path)
                .with_context(|| format!("install it anew: rustup toolchain install {}", self.channel))?;
            ensure!(
                found == file.sha256,
                "{}: SHA-256 {found}, {FILE} says {}; install it anew: rustup toolchain install {}",
                path.display(),
                file.sha256,
                self.channel
            );
        }
        Ok(())
    }
}

/// Writes the lock of a checkout from the installed toolchain; returns it.
pub fn update(checkout: &Checkout) -> Result<ToolchainLock> {
    let toolchain = Toolchain::find(checkout)?;
    let channel = toolchain.version.split(' ').nth(1).unwrap_or_default();
    let lock = ToolchainLock::of(&toolchain.sysroot, channel)?;
    let path = checkout.root().join(FILE);
    fs::write(&path, lock.to_text()).with_context(|| format!("{}: can't write", path.display()))?;
    Ok(lock)
}

/// Paths that the components' manifests name, sorted.
fn listed(sysroot: &Path) -> Result<Vec<String>> {
    let mut paths = BTreeSet::new();
    for component in COMPONENTS {
        let path: PathBuf = sysroot.join(format!("lib/rustlib/manifest-{component}-{TARGET}"));
        let text = fs::read_to_string(&path).with_context(|| {
            format!("{}: no such component; install the toolchain with rustup", path.display())
        })?;
        let files = text.lines().filter_map(|line| line.strip_prefix("file:"));
        paths.extend(files.filter(|file| FOLDERS.iter().any(|dir| file.starts_with(dir))).map(str::to_owned));
    }
    Ok(paths.into_iter().collect())
}

fn parse_line(line: &str) -> Result<Installed> {
    let mut fields = line.splitn(4, ' ');
    let mut next = || fields.next().unwrap_or_default();
    let (sha256, size, mode, path) = (next(), next(), next(), next());
    ensure!(is_hex(sha256, 64), "`{}` is no SHA-256 in lower-case hex", sha256.escape_debug());
    let size = size.parse().with_context(|| format!("`{}` is no size", size.escape_debug()))?;
    ensure!(matches!(mode, "x" | "-"), "`{}` is neither x nor -", mode.escape_debug());
    let inside = is_plain(path) && FOLDERS.iter().any(|dir| path.starts_with(dir));
    ensure!(inside, "`{}` is no path in bin, lib or libexec", path.escape_debug());
    Ok(Installed { path: path.into(), sha256: sha256.into(), size, executable: mode == "x" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lock() -> ToolchainLock {
        let file = |path: &str| Installed {
            path: path.into(),
            sha256: "ab".repeat(32),
            size: 7,
            executable: path.starts_with("bin"),
        };
        ToolchainLock { channel: "1.95.0".into(), files: vec![file("bin/rustc"), file("lib/a file.so")] }
    }

    #[test]
    fn a_lock_survives_its_text() {
        assert_eq!(ToolchainLock::parse(&lock().to_text()).unwrap(), lock());
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_refused() {
        for path in ["bin/../../etc/passwd", "/bin/sh", "bin//sh", "etc/passwd", "lib/a\\b", "", "bin/"] {
            let text = format!("# channel: 1\n{} 1 x {path}\n", "ab".repeat(32));
            assert!(ToolchainLock::parse(&text).is_err(), "{path}");
        }
    }

    #[test]
    fn a_changed_compiler_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("bin/rustc"), "another").unwrap();
        let error = format!("{:#}", lock().check(dir.path()).unwrap_err());
        assert!(error.contains("bin/rustc") && error.contains("rustup toolchain install 1.95.0"), "{error}");
    }

    #[test]
    fn the_pinned_toolchain_of_this_host_is_the_locked_one() {
        let checkout = Checkout::at(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))).unwrap();
        let toolchain = Toolchain::find(&checkout).unwrap();
        let mut lock = ToolchainLock::load(checkout.root()).unwrap();
        // The few large ones take a minute to hash without optimisation; making a kit hashes them all.
        lock.files.retain(|file| file.size < 1 << 24);
        assert!(lock.files.len() > 50);
        lock.check(&toolchain.sysroot).unwrap();
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_kept(text in "(#? ?[a-f0-9]{0,64}( [0-9]{1,9} [x-] (bin|lib)/[a-z.]{1,9})?\n){0,9}") {
            if let Ok(lock) = ToolchainLock::parse(&text) {
                prop_assert_eq!(ToolchainLock::parse(&lock.to_text()).unwrap(), lock);
            }
        }
    }
}
