//! `chrysalis provenance PATH`: which package or crates, at which version and hash, put a file into the image.

use crate::input::read;
use crate::output::{Outcome, facts};
use crate::release_cmd::sbom::{self, CrateId};
use anyhow::{Context, Result, bail, ensure};
use builder::Artifacts;
use builder::artifacts::names;
use builder::lock::{Lock, Package};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Most symbolic links on the way to a file.
const MAX_LINKS: usize = 16;

/// Options of `provenance`.
#[derive(clap::Args)]
pub struct Args {
    /// Path in the image, such as `/usr/lib/x86_64-linux-gnu/libc.so.6`.
    path: String,
    /// Folder of the build.
    #[arg(long, default_value = "out/worker")]
    build: PathBuf,
    /// The lock of the packages that it was built from.
    #[arg(long, default_value = "image/packages.lock")]
    packages_lock: PathBuf,
    /// The lock of the crates that it was built from.
    #[arg(long, default_value = "Cargo.lock")]
    cargo_lock: PathBuf,
}

/// One line of the build's manifest.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    path: String,
    from: String,
    /// SHA-256, or `-> target` of a symbolic link.
    content: String,
    reason: String,
}

/// Finds the file and says where it is from.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let build = Artifacts::load(&args.build)?;
    let path = build.path(names::MANIFEST);
    let manifest: Vec<Entry> = serde_json::from_slice(&read(&path)?)
        .with_context(|| format!("{}: not what this version writes; build again", path.display()))?;
    let manifest: BTreeMap<_, _> = manifest.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
    let way = way(&manifest, &args.path)?;
    let Some(entry) = way.last() else { bail!("{}: no file", args.path) };
    let (mut package, mut crates) = (None, Vec::new());
    match entry.from.split_once(' ') {
        Some(("package", named)) => package = Some(locked(args, &build, named)?),
        Some(("source", program)) => {
            let program = program.strip_prefix("chrysalis-").unwrap_or(program);
            crates = sbom::crates(&args.cargo_lock, &[program])?;
        }
        _ => {}
    }
    let shown = package.as_ref().map(|package| {
        json!({
            "name": package.name, "version": package.version, "arch": package.arch,
            "sha256": package.sha256, "pool": package.pool,
        })
    });
    let value = json!({ "way": way, "package": shown, "crates": crates, "commit": build.commit });
    facts(json, &value, || human(&way, package.as_ref(), &crates, build.commit.as_deref()))?;
    Ok(Outcome::Fine)
}

/// The links on the way to a file, and the file; the last is what holds bytes.
fn way(manifest: &BTreeMap<String, Entry>, path: &str) -> Result<Vec<Entry>> {
    let mut way = Vec::new();
    let mut path = absolute("/", path);
    for _ in 0..MAX_LINKS {
        // The longest part of the path that the manifest knows: the file itself, or a folder that is a link.
        let mut known = path.as_str();
        let entry = loop {
            match manifest.get(known) {
                Some(entry) => break entry,
                None => known = known.rsplit_once('/').map_or("", |(above, _)| above),
            }
            ensure!(!known.is_empty(), "{path}: not in the image{}", hint(manifest, &path));
        };
        way.push(entry.clone());
        let rest = &path[known.len()..];
        match entry.content.strip_prefix("-> ") {
            Some(target) => {
                let above = known.rsplit_once('/').map_or("", |(above, _)| above);
                path = absolute(above, target) + rest;
            }
            None if rest.is_empty() => return Ok(way),
            None => bail!("{path}: not in the image{}", hint(manifest, &path)),
        }
    }
    bail!("{path}: more than {MAX_LINKS} symbolic links on the way to it")
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

fn hint(manifest: &BTreeMap<String, Entry>, path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let same: Vec<_> =
        manifest.keys().filter(|known| known.rsplit('/').next() == Some(name)).cloned().collect();
    if same.is_empty() {
        "; its manifest lists every file".into()
    } else {
        format!("; there is {}", same.join(", "))
    }
}

/// The package of the lock that the build was made from.
fn locked(args: &Args, build: &Artifacts, named: &str) -> Result<Package> {
    let lock = Lock::load(&args.packages_lock)?;
    ensure!(
        lock.id() == build.packages_lock,
        "{}: not the lock that {} was built from; check out the build's commit",
        args.packages_lock.display(),
        args.build.display()
    );
    let is = |package: &&Package| format!("{} {}", package.name, package.version) == named;
    let found = lock.packages.iter().find(is);
    Ok(found.with_context(|| format!("{}: no {named} in it", args.packages_lock.display()))?.clone())
}

fn human(way: &[Entry], package: Option<&Package>, crates: &[CrateId], commit: Option<&str>) -> String {
    let mut text = String::new();
    for entry in way {
        text += &format!(
            "{}  {}\n  from    {}\n  because {}\n",
            entry.path, entry.content, entry.from, entry.reason
        );
    }
    if let Some(package) = package {
        text += &format!("  package {} {} {}\n", package.name, package.version, package.arch);
        text += &format!("  sha256  {}\n  pool    {}\n", package.sha256, package.pool);
    }
    if !crates.is_empty() {
        let commit = commit.unwrap_or("unknown: the checkout had changes");
        text += &format!(
            "  commit  {commit}\n  built of {} crates or fewer (tests and build scripts are not told apart):\n",
            crates.len()
        );
    }
    for one in crates {
        let sum = one.checksum.as_deref().unwrap_or("of this source");
        text += &format!("    {} {}  {sum}\n", one.name, one.version);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> BTreeMap<String, Entry> {
        let entries = [
            ("/lib", "-> usr/lib"),
            ("/usr/lib/a.so", "-> x/../a.so.1"),
            ("/usr/lib/a.so.1", "00"),
            ("/loop", "-> loop"),
        ];
        let entry = |(path, content): (&str, &str)| {
            let text = |text: &str| text.to_owned();
            (
                text(path),
                Entry {
                    path: text(path),
                    from: text("package a 1"),
                    content: text(content),
                    reason: text("r"),
                },
            )
        };
        entries.map(entry).into()
    }

    fn paths(path: &str) -> Result<Vec<String>> {
        way(&manifest(), path).map(|way| way.into_iter().map(|entry| entry.path).collect())
    }

    #[test]
    fn links_are_followed_to_the_file_that_holds_the_bytes() {
        assert_eq!(paths("/lib/a.so").unwrap(), ["/lib", "/usr/lib/a.so", "/usr/lib/a.so.1"]);
        assert_eq!(paths("usr/lib/./a.so.1").unwrap(), ["/usr/lib/a.so.1"]);
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is() {
        assert!(paths("/bin/a.so").unwrap_err().to_string().contains("there is /usr/lib/a.so"));
        assert!(paths("/usr/lib/a.so.1/b").unwrap_err().to_string().contains("not in the image"));
        assert!(paths("/etc/passwd").unwrap_err().to_string().contains("lists every file"));
        assert!(paths("/loop").unwrap_err().to_string().contains("symbolic links"));
        assert!(paths("").is_err());
    }
}
