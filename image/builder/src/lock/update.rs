//! Moves a lock on purpose: resolves what is wanted against a mirror with a scratch apt, and says what changed.
//!
//! The archive's own signature is checked here, once; from then on the hashes in the lock are what is trusted.

use super::{Lock, Package, Sources};
use crate::allow::AllowList;
use crate::checkout::Checkout;
use crate::progress::{Report, say};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const SUITE: &str = "trixie";

/// Kind lock to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `image/packages.lock`: what the image is made of. Moves the measurement.
    Packages,
    /// `image/tools.lock`: what builds and runs it.
    Tools,
    /// `ci/reference/packages.lock`: what computes the reference vectors of the engine's test.
    Reference,
    /// `nix/packages.lock`: what evaluates and builds the flake in tests.
    Nix,
    /// `ci/bench/packages.lock`: the proxies that the bench holds ours against.
    Peers,
}

impl Kind {
    /// The lock file, from the root of the checkout.
    pub fn file(self) -> &'static str {
        match self {
            Kind::Packages => "image/packages.lock",
            Kind::Tools => "image/tools.lock",
            Kind::Reference => "ci/reference/packages.lock",
            Kind::Nix => "nix/packages.lock",
            Kind::Peers => "ci/bench/packages.lock",
        }
    }
}

/// One difference between the old lock and the new.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// Package name.
    pub name: String,
    /// Version before; `None` if it is new.
    pub from: Option<String>,
    /// Version after; `None` if it is gone.
    pub to: Option<String>,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) if from == to => write!(f, "rebuilt {} {to} (other bytes)", self.name),
            (Some(from), Some(to)) => write!(f, "moved   {} {from} -> {to}", self.name),
            (None, Some(to)) => write!(f, "added   {} {to}", self.name),
            (Some(from), None) => write!(f, "removed {} {from}", self.name),
            (None, None) => write!(f, "unchanged {}", self.name),
        }
    }
}

/// All differences, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Changes(pub Vec<Change>);

impl std::fmt::Display for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.is_empty() {
            true => writeln!(f, "nothing moved"),
            false => self.0.iter().try_for_each(|change| writeln!(f, "{change}")),
        }
    }
}

/// Resolves and writes one lock; returns what changed.
pub fn update(checkout: &Checkout, which: Kind, report: Report<'_>) -> Result<Changes> {
    let sources = Sources::of_this_host();
    let path = checkout.root().join(which.file());
    let old = if path.exists() { Lock::load(&path)?.packages } else { Vec::new() };
    let apt = Apt::new(&checkout.cache().join("apt"), sources.mirror()?, "main")?;
    say(report, "packages", format!("reading the package lists of {SUITE}"));
    apt.run("apt-get", &["-q", "update"])?;
    let packages = match which {
        Kind::Tools => apt.closure(&wanted(&checkout.image().join("tools.packages"))?)?,
        Kind::Reference => apt.closure(&wanted(&checkout.root().join("ci/reference/packages.txt"))?)?,
        Kind::Nix => apt.closure(&wanted(&checkout.root().join("nix/packages.txt"))?)?,
        Kind::Peers => apt.closure(&wanted(&checkout.root().join("ci/bench/packages.txt"))?)?,
        Kind::Packages => apt.exactly(&AllowList::load(&checkout.image().join("rootfs.allow"))?)?,
    };
    let new = Lock { suite: SUITE.into(), snapshot: apt.snapshot()?, packages };
    let changes = changes(&old, &new.packages);
    if changes.is_empty() && path.exists() {
        say(report, "packages", format!("{}: nothing moved", which.file()));
        return Ok(Changes(changes));
    }
    fs::write(&path, new.to_text()).with_context(|| format!("{}: can't write", path.display()))?;
    say(
        report,
        "packages",
        format!("{}: {} packages, {} changes", which.file(), new.packages.len(), changes.len()),
    );
    Ok(Changes(changes))
}

/// Package names of a list with `#` comments.
fn wanted(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("{}: can't read", path.display()))?;
    let names = text.lines().filter_map(|line| line.split('#').next()).map(str::trim);
    Ok(names.filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

pub(crate) fn changes(old: &[Package], new: &[Package]) -> Vec<Change> {
    let by_name = |list: &[Package]| -> BTreeMap<String, Package> {
        list.iter().map(|p| (p.name.clone(), p.clone())).collect()
    };
    let (old, new) = (by_name(old), by_name(new));
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differs = |name: &&&String| old.get(**name).map(|p| &p.sha256) != new.get(**name).map(|p| &p.sha256);
    let version = |list: &BTreeMap<String, Package>, name: &String| list.get(name).map(|p| p.version.clone());
    let names = names.iter().filter(differs);
    names
        .map(|&name| Change { name: name.clone(), from: version(&old, name), to: version(&new, name) })
        .collect()
}

/// An apt with nothing installed and one source.
pub(crate) struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Of some parts of the archive, such as `main contrib`.
    pub(crate) fn new(dir: &Path, mirror: &str, parts: &str) -> Result<Self> {
        for sub in ["etc", "state/lists/partial", "cache/archives/partial"] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).with_context(|| format!("{}: can't make", path.display()))?;
        }
        let keyring = ["pgp", "gpg"]
            .map(|end| PathBuf::from(format!("/usr/share/keyrings/debian-archive-keyring.{end}")))
            .into_iter()
            .find(|path| path.exists())
            .context("no Debian archive keyring: apt-get install debian-archive-keyring")?;
        let source = format!("deb [arch=amd64 signed-by={}] {mirror} {SUITE} {parts}\n", keyring.display());
        fs::write(dir.join("etc/sources.list"), source)?;
        fs::write(dir.join("status"), "")?;
        let at = dir.display();
        let config = format!(
            "Dir::State \"{at}/state\";\nDir::State::status \"{at}/status\";\nDir::Cache \"{at}/cache\";\n\
             Dir::Etc::sourcelist \"{at}/etc/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\nAPT::Sandbox::User \"root\";\n\
             APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\nDir::Log \"/dev/null\";\n"
        );
        fs::write(dir.join("apt.conf"), config)?;
        Ok(Apt { dir: dir.to_owned() })
    }

    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = Command::new(program)
            .env("APT_CONFIG", self.dir.join("apt.conf"))
            .env("LC_ALL", "C.UTF-8")
            .args(args)
            .output()
            .with_context(|| format!("{program} did not start; locks are moved on Debian 12 or newer"))?;
        if !output.status.success() {
            let fault = String::from_utf8_lossy(&output.stderr);
            bail!("{program} {}: {}", args.first().unwrap_or(&""), fault.trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The wanted packages, all essential ones, and everything that they depend on.
    fn closure(&self, wanted: &[String]) -> Result<Vec<Package>> {
        let mut args = vec!["-s", "-q", "install", "?and(?essential,?architecture(amd64))"];
        args.extend(wanted.iter().map(String::as_str));
        let plan = self.run("apt-get", &args)?;
        let inst = plan.lines().filter_map(|line| line.strip_prefix("Inst "));
        let pairs = inst.filter_map(|line| {
            let (name, rest) = line.split_once(" (")?;
            Some(format!("{}={}", name.trim(), rest.split(' ').next()?))
        });
        self.show(&pairs.collect::<Vec<_>>())
    }

    /// Exactly the packages that own an allowed file, and the kernel behind its metapackage; nothing they depend on.
    fn exactly(&self, allow: &AllowList) -> Result<Vec<Package>> {
        let meta = &allow.kernel;
        let depends = self.run("apt-cache", &["depends", "--important", meta])?;
        let kernel = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let kernel = kernel.map(str::trim).find(|name| name.starts_with("linux-image-"));
        let kernel = kernel.with_context(|| format!("{meta}: depends on no linux-image package"))?;
        let names = allow.packages().map(str::to_owned).chain([kernel.to_owned()]);
        self.show(&names.collect::<Vec<_>>())
    }

    /// Exactly these packages, in the newest version of the suite.
    pub(crate) fn show(&self, names: &[String]) -> Result<Vec<Package>> {
        let mut args = vec!["show", "--no-all-versions"];
        args.extend(names.iter().map(String::as_str));
        let mut packages = Vec::new();
        for stanza in self.run("apt-cache", &args)?.split("\n\n") {
            let field = |key: &str| {
                let line = stanza.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
                line.map(str::to_owned).with_context(|| format!("package lists: a stanza has no {key}"))
            };
            if stanza.trim().is_empty() {
                continue;
            }
            let size = field("Size")?.parse().context("package lists: Size is no number")?;
            let (name, version, arch) = (field("Package")?, field("Version")?, field("Architecture")?);
            packages.push(Package {
                name,
                version,
                arch,
                sha256: field("SHA256")?,
                size,
                pool: field("Filename")?,
            });
        }
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        packages.dedup();
        if packages.len() != names.len() {
            bail!(
                "apt was asked for {} packages and described {}; is every name right?",
                names.len(),
                packages.len()
            );
        }
        Ok(packages)
    }

    /// A day after the archive's own date (its Release file): by then the snapshot archive has taken that state in.
    pub(crate) fn snapshot(&self) -> Result<String> {
        let lists = self.dir.join("state/lists");
        let release = fs::read_dir(&lists)?.filter_map(|entry| Some(entry.ok()?.path()));
        let mut release = release.filter(|path| path.to_string_lossy().ends_with("Release"));
        let path = release.next().with_context(|| format!("{}: no Release file", lists.display()))?;
        let text = fs::read_to_string(&path)?;
        let date = text.lines().find_map(|line| line.strip_prefix("Date: ")).context("Release: no Date")?;
        let moment = format!("{date} + 1 day");
        let output = Command::new("date").args(["-u", "-d", &moment, "+%Y%m%dT%H%M%SZ"]).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, sha256: &str) -> Package {
        let s = str::to_owned;
        Package {
            name: s(name),
            version: s(version),
            arch: s("amd64"),
            sha256: s(sha256),
            size: 1,
            pool: s("p"),
        }
    }

    #[test]
    fn a_move_says_from_and_to() {
        let old = [package("a", "1", "x"), package("b", "1", "x"), package("c", "1", "x")];
        let new = [package("b", "2", "y"), package("c", "1", "x"), package("d", "1", "x")];
        let said: Vec<String> = changes(&old, &new).iter().map(Change::to_string).collect();
        assert_eq!(said, ["removed a 1", "moved   b 1 -> 2", "added   d 1"]);
    }

    #[test]
    fn the_same_version_with_other_bytes_is_a_change() {
        let said = changes(&[package("a", "1", "x")], &[package("a", "1", "y")]);
        assert_eq!(said[0].to_string(), "rebuilt a 1 (other bytes)");
    }
}
