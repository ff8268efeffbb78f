//! What the flake says it pins, held against the files that pin. The flake reads the same files with a parser of its own, so
//! this finds a line that one of the two reads in another way.

use anyhow::{Context, Result, bail, ensure};
use builder::lock::Lock;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// A download: name in the store and SHA-256.
pub type Pin = (String, String);

/// Downloads below `list` of the flake's pins.
pub fn stated(list: &Value) -> Result<BTreeSet<Pin>> {
    let entries = list.as_array().context("the flake's pins hold no list where one is expected")?;
    let pins: BTreeSet<Pin> = entries.iter().map(pin).collect::<Result<_>>()?;
    ensure!(pins.len() == entries.len(), "the flake pins a download twice");
    Ok(pins)
}

fn pin(entry: &Value) -> Result<Pin> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    text("name").zip(text("sha256")).with_context(|| format!("a pin without name or hash: {entry}"))
}

/// Crates of a Cargo.lock's text.
pub fn crates(lock: &str) -> Result<BTreeSet<Pin>> {
    let table: toml::Table = lock.parse().context("Cargo.lock is not TOML")?;
    let packages =
        table.get("package").and_then(toml::Value::as_array).context("Cargo.lock has no package")?;
    let text = |package: &toml::Value, key: &str| package.get(key)?.as_str().map(str::to_owned);
    let fetched = packages.iter().filter_map(|package| {
        let (name, version) = (text(package, "name")?, text(package, "version")?);
        Some((format!("{name}-{version}.crate"), text(package, "checksum")?))
    });
    Ok(fetched.collect())
}

/// Packages of a Debian lock.
pub fn debian(lock: &Lock) -> BTreeSet<Pin> {
    lock.packages.iter().map(|p| (format!("{}.deb", p.sha256), p.sha256.clone())).collect()
}

/// Fails with the first difference.
pub fn same(what: &str, stated: &BTreeSet<Pin>, locked: &BTreeSet<Pin>) -> Result<()> {
    ensure!(!locked.is_empty(), "{what}: the lock is empty");
    if let Some((name, sha256)) = stated.symmetric_difference(locked).next() {
        let who =
            if stated.contains(&(name.clone(), sha256.clone())) { "only the flake" } else { "only the lock" };
        bail!("{what}: {who} has {name} with SHA-256 {sha256}");
    }
    Ok(())
}

/// Holds the compiler's archives against the channel manifest that rustup keeps in the toolchain; returns how many were
/// compared, or `None` where there is no manifest (a toolchain that rustup did not install).
pub fn compiler(rust: &Value, channel: &str, sysroot: &Path) -> Result<Option<usize>> {
    let version = rust.get("version").and_then(Value::as_str).unwrap_or_default();
    ensure!(version == channel, "the flake pins Rust `{version}`, rust-toolchain.toml {channel}");
    let components = rust.get("components").and_then(Value::as_object).context("no rust.components")?;
    let Ok(manifest) = std::fs::read_to_string(sysroot.join("lib/rustlib/multirust-channel-manifest.toml"))
    else {
        return Ok(None);
    };
    let manifest: toml::Table = manifest.parse().context("rustup's channel manifest is not TOML")?;
    for component in components.values() {
        let (name, sha256) = pin(component)?;
        ensure!(
            archives(&manifest).any(|archive| archive == (name.as_str(), sha256.as_str())),
            "{name} with SHA-256 {sha256} is not in the channel manifest of Rust {channel}; take the hash from there"
        );
    }
    Ok(Some(components.len()))
}

/// File name and hash of every .tar.xz in a channel manifest.
fn archives(manifest: &toml::Table) -> impl Iterator<Item = (&str, &str)> {
    let packages = manifest.get("pkg").and_then(toml::Value::as_table).into_iter().flatten();
    let targets = packages.filter_map(|(_, package)| package.get("target")?.as_table()).flatten();
    targets.filter_map(|(_, target)| {
        let url = target.get("xz_url")?.as_str()?;
        Some((url.rsplit('/').next()?, target.get("xz_hash")?.as_str()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "version = 4\n[[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n\
                        [[package]]\nname = \"a\"\nversion = \"1.0.0+b\"\nsource = \"registry+x\"\nchecksum = \"00ff\"\n";

    fn pins(list: &[(&str, &str)]) -> BTreeSet<Pin> {
        list.iter().map(|(name, hash)| ((*name).to_owned(), (*hash).to_owned())).collect()
    }

    #[test]
    fn crates_of_the_workspace_itself_are_not_downloads() {
        assert_eq!(crates(LOCK).unwrap(), pins(&[("a-1.0.0+b.crate", "00ff")]));
    }

    #[test]
    fn a_difference_names_who_has_what() {
        let (flake, lock) = (pins(&[("a", "1"), ("b", "2")]), pins(&[("a", "1"), ("b", "3")]));
        let error = same("crates", &flake, &lock).unwrap_err().to_string();
        assert_eq!(error, "crates: only the flake has b with SHA-256 2");
        let error = same("crates", &pins(&[("a", "1")]), &lock).unwrap_err().to_string();
        assert_eq!(error, "crates: only the lock has b with SHA-256 3");
        same("crates", &lock, &lock).unwrap();
        same("crates", &pins(&[]), &pins(&[])).unwrap_err();
    }

    #[test]
    fn a_pin_without_a_hash_and_one_that_stands_twice_are_refused() {
        stated(&serde_json::json!([{ "name": "a" }])).unwrap_err();
        let one = serde_json::json!({ "name": "a", "sha256": "1" });
        assert_eq!(stated(&serde_json::json!([one])).unwrap(), pins(&[("a", "1")]));
        stated(&serde_json::json!([one, one])).unwrap_err();
    }

    #[test]
    fn an_archive_with_another_hash_than_the_manifests_is_refused() {
        let sysroot = std::env::temp_dir().join(format!("chrysalis-sysroot-{}", std::process::id()));
        let folder = sysroot.join("lib/rustlib");
        std::fs::create_dir_all(&folder).unwrap();
        let rust = |hash: &str| {
            let archive = serde_json::json!({ "name": "rustc-1.0.tar.xz", "sha256": hash });
            serde_json::json!({ "version": "1.0", "components": { "rustc": archive } })
        };
        assert_eq!(compiler(&rust("1"), "1.0", &sysroot).unwrap(), None);
        let manifest = "[pkg.rustc.target.x]\nxz_url = \"https://x/2/rustc-1.0.tar.xz\"\nxz_hash = \"1\"\n";
        std::fs::write(folder.join("multirust-channel-manifest.toml"), manifest).unwrap();
        assert_eq!(compiler(&rust("1"), "1.0", &sysroot).unwrap(), Some(1));
        compiler(&rust("2"), "1.0", &sysroot).unwrap_err();
        compiler(&rust("1"), "1.1", &sysroot).unwrap_err();
        std::fs::remove_dir_all(&sysroot).unwrap();
    }
}
