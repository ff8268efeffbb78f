//! The bill of materials of a release: SPDX 2.3 (JSON) from the two locks, the same bytes for everybody.
//!
//! Crates are those that the guest's programs reach in `Cargo.lock`. The lock doesn't tell what is for tests or for building
//! from what is linked, so the list may be too long, never too short.

use crate::input::read;
use anyhow::{Context, Result, ensure};
use builder::Profile;
use builder::lock::Lock;
use evidence::show_time;
use measure::Digest256;
use release::ReleaseId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

#[derive(Deserialize)]
struct CargoLock {
    package: Vec<Crate>,
}

#[derive(Deserialize)]
struct Crate {
    name: String,
    version: String,
    checksum: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

/// A crate as the lock pins it.
#[derive(Debug, Clone, Serialize)]
pub struct CrateId {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SHA-256 of its archive; none for crates of this source.
    pub checksum: Option<String>,
}

/// Crates whose programs are in an image.
fn programs(profile: Profile) -> &'static [&'static str] {
    match profile {
        Profile::Worker | Profile::WorkerGpu => &["initrd", "init", "worker"],
        Profile::Proxy => &["initrd", "init", "proxy"],
        Profile::Debug | Profile::DebugGpu => &["initrd", "init", "worker", "proxy", "simulator"],
    }
}

/// The document's bytes.
pub fn spdx(id: &ReleaseId, profile: Profile, lock: &Lock, crates: &Path) -> Result<Vec<u8>> {
    let mut listed: Vec<Value> = lock.packages.iter().map(locked).collect();
    listed.extend(self::crates(crates, programs(profile))?.iter().map(of_crate));
    let contains = |package: &Value| json!({ "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": package["SPDXID"] });
    let relationships: Vec<_> = listed.iter().map(contains).collect();
    let namespace = Digest256::of(&serde_json::to_vec(&listed)?);
    let document = json!({
        "SPDXID": "SPDXRef-DOCUMENT",
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "name": id.to_string(),
        "documentNamespace": format!("urn:chrysalis:sbom:{id}:{namespace}"),
        "creationInfo": { "created": show_time(lock.epoch()), "creators": ["Tool: chrysalis"] },
        "packages": listed,
        "relationships": relationships,
    });
    Ok(serde_json::to_vec(&document)?)
}

/// Everything that these crates of ours reach in a `Cargo.lock`, themselves included.
pub fn crates(lock: &Path, programs: &[&str]) -> Result<Vec<CrateId>> {
    let shown = lock.display();
    let text = String::from_utf8(read(lock)?).with_context(|| format!("{shown}: not text"))?;
    let cargo: CargoLock = toml::from_str(&text).with_context(|| format!("{shown}"))?;
    let reached = reached(&cargo, programs);
    ensure!(!reached.is_empty(), "{shown}: none of {} in it", programs.join(", "));
    let id = |package: &Crate| CrateId {
        name: package.name.clone(),
        version: package.version.clone(),
        checksum: package.checksum.clone(),
    };
    Ok(reached.into_iter().map(id).collect())
}

fn locked(package: &builder::lock::Package) -> Value {
    let version = package.version.replace(':', "%3A").replace('+', "%2B").replace('~', "%7E");
    if package.pool.ends_with(".whl") {
        let url = format!("pkg:pypi/{}@{version}", package.name);
        return entry("wheel", &package.name, &package.version, Some(&package.sha256), &url);
    }
    let url = format!("pkg:deb/debian/{}@{version}?arch={}", package.name, package.arch);
    entry("deb", &package.name, &package.version, Some(&package.sha256), &url)
}

fn of_crate(package: &CrateId) -> Value {
    let url = format!("pkg:cargo/{}@{}", package.name, package.version.replace('+', "%2B"));
    entry("crate", &package.name, &package.version, package.checksum.as_deref(), &url)
}

fn entry(kind: &str, name: &str, version: &str, sha256: Option<&str>, url: &str) -> Value {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let id: String = format!("{kind}-{name}-{version}").chars().map(allowed).collect();
    let sums: Vec<_> =
        sha256.iter().map(|sum| json!({ "algorithm": "SHA256", "checksumValue": sum })).collect();
    json!({
        "SPDXID": format!("SPDXRef-{id}"),
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "checksums": sums,
        "externalRefs": [
            { "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": url }
        ],
    })
}

/// Everything that these crates reach, themselves included, by name and version.
fn reached<'a>(lock: &'a CargoLock, programs: &[&str]) -> Vec<&'a Crate> {
    let mut by_name: BTreeMap<&str, Vec<&Crate>> = BTreeMap::new();
    for package in &lock.package {
        by_name.entry(&package.name).or_default().push(package);
    }
    let find = |reference: &str| {
        // `name`, or `name version` where there are several.
        let (name, version) = reference.split_once(' ').map_or((reference, None), |(n, v)| (n, Some(v)));
        let version = version.map(|v| v.split(' ').next().unwrap_or(v));
        let named = by_name.get(name).into_iter().flatten();
        named.copied().find(|package| version.is_none_or(|version| version == package.version))
    };
    let mut found = BTreeMap::new();
    let mut open: Vec<&Crate> = programs.iter().filter_map(|program| find(program)).collect();
    let mut seen = BTreeSet::new();
    while let Some(package) = open.pop() {
        if seen.insert((&package.name, &package.version)) {
            found.insert((package.name.clone(), package.version.clone()), package);
            open.extend(package.dependencies.iter().filter_map(|dependency| find(dependency)));
        }
    }
    found.into_values().collect()
}
