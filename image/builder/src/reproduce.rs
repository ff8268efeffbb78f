//! Rebuilds a release from its kit in a clean root, and says where another build of it differs.
//!
//! ```text
//! Kit --unpack--> clean root --build--> Artifacts --compare--> equal, or which file, which bytes, which package
//! ```
//! The clean root begins empty and gets nothing but the kit: no cache of this host, no toolchain of this host, and the
//! programs that compile see no network. Shared with everything else on this host are its kernel, the tools that make the
//! tools root (see `tools`), git, and this program.
//!
//! Deliberately absent: registers (`measure` foretells them from the artifacts) and signing.

use crate::artifacts::{Artifacts, Profile, names};
use crate::checkout::Checkout;
use crate::diff::Difference;
use crate::kit::{self, Kit};
use crate::progress::{Report, say};
use crate::recipe;
use crate::rootfs::Origin;
use crate::tools::Tools;
use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a rebuild left.
#[derive(Debug)]
pub struct Rebuild {
    /// The artifacts.
    pub artifacts: Artifacts,
    /// The tools root that made them, in the clean root.
    pub tools: Tools,
    /// The source.
    pub checkout: Checkout,
    /// Time to unpack the kit.
    pub unpacking: Duration,
    /// Time to build: tools root, programs, image.
    pub building: Duration,
}

/// Rebuilds in `root`, a new or empty folder.
pub fn rebuild(kit: &Kit, root: &Path, profile: Profile, report: Report<'_>) -> Result<Rebuild> {
    let root = clean(root)?;
    let began = Instant::now();
    let checkout = kit::unpack(kit, &root, report)?;
    let unpacking = began.elapsed();
    say(report, "rebuild", format!("kit unpacked in {:.1} s; nothing else is used", unpacking.as_secs_f32()));
    let began = Instant::now();
    let artifacts = recipe::build(&checkout, profile, report)?;
    let building = began.elapsed();
    say(report, "rebuild", format!("built in {:.1} s", building.as_secs_f32()));
    let tools = Tools::open(&checkout, report)?;
    Ok(Rebuild { artifacts, tools, checkout, unpacking, building })
}

/// A folder that is new or empty, made if need be.
pub fn clean(root: &Path) -> Result<PathBuf> {
    fs::create_dir_all(root).with_context(|| format!("{}: can't make", root.display()))?;
    let mut entries = fs::read_dir(root).with_context(|| format!("{}: can't list", root.display()))?;
    ensure!(
        entries.next().is_none(),
        "{}: not empty, and what is there could leak into the rebuild; give a new folder",
        root.display()
    );
    let root = root.canonicalize().with_context(|| format!("{}: unreadable", root.display()))?;
    // In a list of sources an address ends at white space, and brackets and % mean something there.
    let bad = |c: char| c.is_whitespace() || matches!(c, '[' | ']' | '%' | '#');
    ensure!(
        !root.to_string_lossy().contains(bad),
        "{}: apt reads its packages from below this folder, and can't from a path with white space, brackets, `%` or `#`; give \
         another folder",
        root.display()
    );
    Ok(root)
}

/// One artifact that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Differs {
    /// Its name.
    pub name: String,
    /// Where, and what lies there.
    pub difference: Difference,
    /// What put the files in question into the image, by path: package or program of either build.
    pub origins: Vec<String>,
}

/// Compares a rebuild with the files of another build in `theirs`; missing files are named in an error.
pub fn compare(ours: &Artifacts, theirs: &Path, tools: &Tools, scratch: &Path) -> Result<Vec<Differs>> {
    let (mine, other) = (origins(ours.dir())?, origins(theirs)?);
    let mut found = Vec::new();
    for file in &ours.files {
        let path = theirs.join(&file.name);
        if !path.is_file() {
            bail!("{}: not there; give the folder with all files of the published build", path.display());
        }
        let difference = Difference::find(&file.name, &ours.path(&file.name), &path, tools, scratch)?;
        let Some(difference) = difference else { continue };
        let origins = match file.name == names::ROOT || file.name == names::MANIFEST {
            true => differing(&mine, &other),
            false => Vec::new(),
        };
        found.push(Differs { name: file.name.clone(), difference, origins });
    }
    Ok(found)
}

impl std::fmt::Display for Differs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:<14} {}", self.name, self.difference)?;
        self.origins.iter().try_for_each(|line| write!(f, "\n      {line}"))
    }
}

fn origins(dir: &Path) -> Result<BTreeMap<String, Origin>> {
    let list = crate::provenance::manifest(dir)?;
    Ok(list.into_iter().map(|origin| (origin.path.clone(), origin)).collect())
}

/// Files whose contents or origin differ between two manifests, with both origins.
fn differing(ours: &BTreeMap<String, Origin>, theirs: &BTreeMap<String, Origin>) -> Vec<String> {
    let paths: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let say = |origin: Option<&Origin>| match origin {
        Some(Origin { from, content, .. }) => format!("{from} ({content:.16})"),
        None => "not there".to_owned(),
    };
    let pairs = paths.into_iter().map(|path| (path, ours.get(path), theirs.get(path)));
    pairs
        .filter(|(_, ours, theirs)| ours != theirs)
        .map(|(path, ours, theirs)| {
            format!("{path}: rebuilt from {}, published from {}", say(ours), say(theirs))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(path: &str, from: &str, content: &str) -> (String, Origin) {
        let text = str::to_owned;
        (text(path), Origin { path: text(path), from: text(from), content: text(content), reason: text("r") })
    }

    #[test]
    fn a_root_that_is_not_empty_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("leftover"), "x").unwrap();
        let error = clean(dir.path()).unwrap_err().to_string();
        assert!(error.contains("not empty") && error.contains("new folder"), "{error}");
    }

    #[test]
    fn a_root_whose_path_apt_would_cut_is_refused_before_anything_long_begins() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["my rebuilds", "a[b]", "a%20b"] {
            let error = clean(&dir.path().join(bad)).unwrap_err().to_string();
            assert!(error.contains("another folder"), "{bad}: {error}");
        }
        assert!(clean(&dir.path().join("Dave_1.2-r")).is_ok());
    }

    #[test]
    fn a_differing_file_names_both_packages() {
        let ours = [origin("/a", "package x 1", "aa"), origin("/b", "package y 1", "bb")].into();
        let theirs = [origin("/a", "package x 2", "ac"), origin("/b", "package y 1", "bb")].into();
        let said = differing(&ours, &theirs);
        assert_eq!(said, ["/a: rebuilt from package x 1 (aa), published from package x 2 (ac)"]);
    }
}
