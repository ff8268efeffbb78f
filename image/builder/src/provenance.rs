//! Which package or crate put a file into the image, at which version and hash, and why it is there.
//!
//! ```text
//! PATH -> manifest.json (origin, hash, reason) -> packages.lock (.deb, SHA-256, pool)
//!                                              -> cargo tree of the program -> Cargo.lock (crates, SHA-256)
//! ```
//! A path that a locked package has, and that is not on the allow list, is told apart from one that nobody knows.
//! A crate counts as linked if cargo would link it into the program; what the linker dropped again is not looked into.

use crate::artifacts::names;
use crate::checkout::Checkout;
use crate::guest::{self, TARGET, Toolchain};
use crate::lock::{Kind, Lock, Package};
pub use crate::rootfs::Origin;
use crate::tools::run;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Most symbolic links on the way to a file.
const MAX_LINKS: usize = 16;
/// Names that are suggested at most.
const NEAREST: usize = 3;

/// Where a file comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Provenance {
    /// Path, hash, reason, as the image's manifest has them.
    #[serde(flatten)]
    pub origin: Origin,
    /// What put it there.
    pub source: Source,
}

/// What puts files into an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Source {
    /// A Debian package.
    Package(Package),
    /// A program of ours.
    Program {
        /// The package of this workspace that it is built from.
        #[serde(rename = "crate")]
        name: String,
        /// Commit of the source; `None` if the checkout was not clean.
        commit: Option<String>,
        /// Compiler.
        toolchain: String,
        /// Crates of a registry that are linked.
        linked: Vec<CrateHash>,
        /// Crates that only run while it is built: build scripts, procedural macros and what these use.
        build: Vec<CrateHash>,
    },
    /// The recipe in `image/`.
    Recipe,
    /// Written by mkosi.
    Mkosi,
}

/// A crate by its hash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct CrateHash {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SHA-256 of the .crate, as Cargo.lock has it.
    pub sha256: String,
}

/// The answer to a question after a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// In the image.
    InImage {
        /// The file, after the links on the way to it; several where a bare file name was asked for.
        files: Vec<Provenance>,
    },
    /// In a locked package, and not on the allow list: not in the image.
    NotAllowed {
        /// Its path.
        path: String,
        /// The package.
        package: Package,
    },
    /// Nobody knows it.
    Unknown {
        /// What was asked for.
        path: String,
        /// Paths of the image that are spelled alike.
        nearest: Vec<String>,
    },
}

/// The manifest of a build.
pub fn manifest(dir: &Path) -> Result<Vec<Origin>> {
    let path = dir.join(names::MANIFEST);
    let text = fs::read_to_string(&path).with_context(|| {
        format!("{}: no build here; make one with `chrysalis image build`", path.display())
    })?;
    serde_json::from_str(&text).with_context(|| format!("{}: no manifest; build again", path.display()))
}

/// Answers for a path in the root (`/usr/...`), in the initrd (`initrd:/...`) or a part of the UKI (`uki:...`), of the
/// build in `dir`. Links are followed and listed. A bare file name stands for every path that ends in it.
pub fn ask(checkout: &Checkout, dir: &Path, path: &str) -> Result<Answer> {
    let manifest = manifest(dir)?;
    let bare = !path.contains(['/', ':']);
    let tail = format!("/{path}");
    let found: Vec<&Origin> = match bare {
        true => manifest.iter().filter(|origin| origin.path.ends_with(&tail)).collect(),
        false => way(&manifest, path),
    };
    if found.is_empty() {
        return not_in_image(checkout, &manifest, path);
    }
    let one = |origin: &&Origin| {
        Ok(Provenance { origin: (*origin).clone(), source: source(checkout, dir, origin)? })
    };
    Ok(Answer::InImage { files: found.iter().map(one).collect::<Result<_>>()? })
}

/// The links on the way to a file, and the file itself, which comes last; empty where there is none.
fn way<'a>(manifest: &'a [Origin], path: &str) -> Vec<&'a Origin> {
    let by_path = |wanted: &str| manifest.iter().find(|origin| origin.path == wanted);
    if path.contains(':') {
        return by_path(path).into_iter().collect();
    }
    let (mut way, mut path) = (Vec::new(), absolute("/", path));
    for _ in 0..MAX_LINKS {
        // The longest part of the path that the manifest knows: the file itself, or a folder that is a link.
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let known = ends.filter(|end| *end > 0).filter_map(|end| by_path(&path[..end])).last();
        let Some(origin) = known else { return Vec::new() };
        way.push(origin);
        let rest = path[origin.path.len()..].to_owned();
        match origin.content.strip_prefix("-> ") {
            Some(target) => {
                let above = origin.path.rsplit_once('/').map_or("", |(above, _)| above);
                path = absolute(above, target) + &rest;
            }
            None if rest.is_empty() => return way,
            None => return Vec::new(),
        }
    }
    Vec::new()
}

/// A path from the root, without `.` and `..`.
fn absolute(folder: &str, path: &str) -> String {
    let base = if path.starts_with('/') { "" } else { folder };
    let mut parts = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn not_in_image(checkout: &Checkout, manifest: &[Origin], path: &str) -> Result<Answer> {
    let lock = Lock::load(&checkout.root().join(Kind::Packages.file()))?;
    let relative = path.trim_start_matches('/');
    let inside = !relative.is_empty() && !relative.split('/').any(|part| part == "..");
    let owns = |package: &&Package| {
        let file = checkout.cache().join("unpacked").join(&package.sha256).join(relative);
        inside && fs::symlink_metadata(file).is_ok_and(|meta| !meta.is_dir())
    };
    if let Some(package) = lock.packages.iter().find(owns) {
        return Ok(Answer::NotAllowed { path: format!("/{relative}"), package: package.clone() });
    }
    let names = manifest.iter().map(|origin| origin.path.as_str());
    Ok(Answer::Unknown { path: path.to_owned(), nearest: nearest(path, names) })
}

fn source(checkout: &Checkout, dir: &Path, origin: &Origin) -> Result<Source> {
    let artifacts = crate::Artifacts::load(dir)?;
    let words: Vec<&str> = origin.from.split(' ').collect();
    match words.as_slice() {
        ["package", name, version] => {
            let same = |package: &Package| package.name == *name && package.version == *version;
            // None of a lock that has moved on: the same version may have been built again, with other bytes.
            let package = of_build(checkout, &artifacts)?.into_iter().find(same).with_context(|| {
                format!(
                    "{name} {version}: built in, but the lock has moved on; check out the build's own commit"
                )
            })?;
            Ok(Source::Package(package))
        }
        ["source", program] => self::program(checkout, artifacts, program),
        ["recipe", ..] => Ok(Source::Recipe),
        ["mkosi"] => Ok(Source::Mkosi),
        _ => bail!("{}: `{}` is no origin that this version knows; build again", origin.path, origin.from),
    }
}

/// The locked packages of a build, as far as the locks of the checkout are still those that it was built from.
fn of_build(checkout: &Checkout, artifacts: &crate::Artifacts) -> Result<Vec<Package>> {
    let mut all = Vec::new();
    let lock = Lock::load(&checkout.root().join(Kind::Packages.file()))?;
    if lock.id() == artifacts.packages_lock {
        all.extend(lock.packages);
    }
    if let Some(built) = &artifacts.gpu_lock {
        let (id, packages) = crate::gpu::locked(&checkout.root().join(crate::gpu::FILE))?;
        all.extend(packages.into_iter().filter(|_| id == *built));
    }
    Ok(all)
}

fn program(checkout: &Checkout, artifacts: crate::Artifacts, program: &str) -> Result<Source> {
    let name = program.trim_start_matches("chrysalis-").to_owned();
    let toolchain = Toolchain::find(checkout)?;
    let cargo = checkout.cache().join("cargo");
    fs::create_dir_all(&cargo).with_context(|| format!("{}: can't make", cargo.display()))?;
    if checkout.toolchain().is_none() {
        guest::fetch(&toolchain, checkout.root(), &cargo)?;
    }
    let hashes = hashes(&checkout.root().join("Cargo.lock"))?;
    let list = |edges: &str| -> Result<Vec<CrateHash>> {
        let mut tree = Command::new(toolchain.sysroot.join("bin/cargo"));
        tree.args(["tree", "--locked", "--offline", "--quiet", "--target", TARGET, "--package", &name]);
        tree.args(["--prefix", "none", "--format", "{p}", "--edges", edges]).current_dir(checkout.root());
        let features = guest::features(artifacts.profile, &name);
        tree.args(features.iter().flat_map(|feature| ["--features", feature]));
        tree.env("CARGO_HOME", &cargo).env("RUSTC", toolchain.sysroot.join("bin/rustc"));
        tree.env("CARGO_TERM_COLOR", "never");
        let text = String::from_utf8(run(&format!("cargo tree --package {name}"), &mut tree)?)?;
        Ok(listed(&text, &hashes))
    };
    let linked = list("normal,no-proc-macro")?;
    let mut build = list("normal,build")?;
    build.retain(|one| !linked.contains(one));
    let (commit, toolchain) = (artifacts.commit, artifacts.toolchain);
    Ok(Source::Program { name, commit, toolchain, linked, build })
}

/// Checksums of Cargo.lock by name and version.
fn hashes(path: &Path) -> Result<BTreeMap<(String, String), String>> {
    let text = fs::read_to_string(path).with_context(|| format!("{}: can't read", path.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("{}: not TOML", path.display()))?;
    let packages = table.get("package").and_then(|list| list.as_array()).into_iter().flatten();
    let text = |package: &toml::Value, key: &str| Some(package.get(key)?.as_str()?.to_owned());
    let entry =
        |package| Some(((text(package, "name")?, text(package, "version")?), text(package, "checksum")?));
    Ok(packages.filter_map(entry).collect())
}

/// Crates of a registry in the output of `cargo tree`, sorted, each once.
fn listed(tree: &str, hashes: &BTreeMap<(String, String), String>) -> Vec<CrateHash> {
    let one = |line: &str| {
        let (name, rest) = line.split_once(" v")?;
        let version = rest.split(' ').next()?;
        let sha256 = hashes.get(&(name.to_owned(), version.to_owned()))?.clone();
        Some(CrateHash { name: name.to_owned(), version: version.to_owned(), sha256 })
    };
    let found: std::collections::BTreeSet<CrateHash> = tree.lines().filter_map(one).collect();
    found.into_iter().collect()
}

/// The names that are spelled most like `wanted`: by their last component, then as a whole.
fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let key = |name: &str| {
        let whole = distance(wanted, name);
        // Another folder is a smaller mistake than another name.
        (whole.min(distance(&last(wanted), &last(name))), whole)
    };
    let mut found: Vec<_> = names.map(|name| (key(name), name)).collect();
    found.sort();
    found.into_iter().take(NEAREST).map(|(_, name)| name.to_owned()).collect()
}

/// Levenshtein's distance, in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let cost = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Answer::InImage { files } => files.iter().try_for_each(|one| one.fmt(f)),
            Answer::NotAllowed { path, package } => writeln!(
                f,
                "{path}: in {} {}, but on no allow list: it is not in the image",
                package.name, package.version
            ),
            Answer::Unknown { path, nearest } => {
                writeln!(f, "{path}: neither in the image nor in a package of it. Spelled alike:")?;
                nearest.iter().try_for_each(|name| writeln!(f, "  {name}"))
            }
        }
    }
}

impl std::fmt::Display for Provenance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Origin { path, content, reason, from } = &self.origin;
        writeln!(f, "{path}\n  contents  {content}\n  why       {reason}")?;
        match &self.source {
            Source::Package(Package { name, version, arch, sha256, pool, .. }) => {
                writeln!(
                    f,
                    "  package   {name} {version} {arch}\n  .deb      sha256 {sha256}\n            {pool}"
                )
            }
            Source::Program { name, commit, toolchain, linked, build } => {
                let commit = commit.as_deref().unwrap_or("none: the checkout had changes");
                writeln!(f, "  program   crate {name} of commit {commit}\n  compiler  {toolchain}")?;
                for (what, crates) in [("linked", linked), ("build", build)] {
                    writeln!(f, "  {what:<9} {} crates", crates.len())?;
                    for CrateHash { name, version, sha256 } in crates {
                        writeln!(f, "            {name} {version} sha256 {sha256}")?;
                    }
                }
                Ok(())
            }
            Source::Recipe | Source::Mkosi => writeln!(f, "  from      {from}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(path: &str) -> Vec<String> {
        let entries = [
            ("/lib", "-> usr/lib"),
            ("/usr/lib/a.so", "-> x/../a.so.1"),
            ("/usr/lib/a.so.1", "00"),
            ("/loop", "-> loop"),
            ("initrd:/init", "00"),
        ];
        let text = str::to_owned;
        let manifest = entries.map(|(path, content)| Origin {
            path: text(path),
            from: text("package a 1"),
            content: text(content),
            reason: text("r"),
        });
        way(&manifest, path).into_iter().map(|origin| origin.path.clone()).collect()
    }

    #[test]
    fn links_are_followed_to_the_file_that_holds_the_bytes() {
        assert_eq!(ways("/lib/a.so"), ["/lib", "/usr/lib/a.so", "/usr/lib/a.so.1"]);
        assert_eq!(ways("usr/lib/./a.so.1"), ["/usr/lib/a.so.1"]);
        assert_eq!(ways("initrd:/init"), ["initrd:/init"]);
    }

    #[test]
    fn what_leads_nowhere_is_not_found() {
        for path in
            ["/bin/a.so", "/usr/lib/a.so.1/b", "/etc/passwd", "/loop", "", "/", "initrd:/x", "/usr/lib"]
        {
            assert!(ways(path).is_empty(), "{path}");
        }
    }

    #[test]
    fn a_misspelled_path_finds_its_neighbours() {
        let names = ["/usr/lib/systemd/systemd", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/etc/passwd"];
        let found = nearest("/usr/lib/libc.so.6", names.into_iter());
        assert_eq!(found[0], "/usr/lib/x86_64-linux-gnu/libc.so.6");
        assert_eq!(nearest("/usr/lib/systemd/sytemd", names.into_iter())[0], "/usr/lib/systemd/systemd");
    }

    #[test]
    fn distances_are_those_of_levenshtein() {
        for (a, b, expected) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("flaw", "lawn", 2)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn crates_of_the_tree_get_the_locks_hash_and_ours_are_left_out() {
        let key = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        let hashes =
            [(key("serde", "1.0.1"), "aa".to_owned()), (key("serde", "2.0.0"), "bb".to_owned())].into();
        let tree = "init v0.1.0 (/somewhere/guest/init)\nserde v1.0.1\nserde v1.0.1 (*)\n\nserde v2.0.0\n";
        let found = listed(tree, &hashes);
        let said: Vec<_> = found.iter().map(|c| (c.version.as_str(), c.sha256.as_str())).collect();
        assert_eq!(said, [("1.0.1", "aa"), ("2.0.0", "bb")]);
    }
}
