//! Our changes to the driver's source: `image/gpu.patches`, each a reason, a package, two hashes and a unified diff.
//!
//! ```text
//! why, in words
//! Package: nvidia-open-kernel-dkms
//! Before: SHA-256 of the file that it is for
//! After: SHA-256 of what must come out
//! --- a/nvidia/nv-pci.c
//! +++ b/nvidia/nv-pci.c
//! @@ ...
//! ```
//! The hashes leave no room for a hunk that lands elsewhere, and a new driver version makes itself heard.

use crate::hash;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// One change to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Patch {
    /// File name of the patch.
    pub name: String,
    /// Package whose source it changes.
    pub package: String,
    /// Path below the source.
    pub file: PathBuf,
    before: String,
    after: String,
    diff: String,
}

/// All patches of a folder, in the order of their names; a folder that is not there holds none.
pub(crate) fn load(dir: &Path) -> Result<Vec<Patch>> {
    let names = if dir.is_dir() { hash::walk(dir)? } else { Vec::new() };
    let one = |name: &PathBuf| {
        let path = dir.join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("{}: can't read", path.display()))?;
        Patch::parse(&name.display().to_string(), &text).with_context(|| format!("{}", path.display()))
    };
    names.iter().map(one).collect()
}

impl Patch {
    /// Parses a patch; `name` is used in errors.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        let Some(start) = text.find("\n--- ").map(|at| at + 1) else {
            bail!("no line `--- a/FILE`; give a unified diff after the header");
        };
        let (header, diff) = text.split_at(start);
        let field = |key: &str| {
            let line = header.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            line.map(str::to_owned).with_context(|| format!("no line `{key}: ...` above the diff"))
        };
        let file = diff.lines().next().and_then(|line| line.strip_prefix("--- a/"));
        let file = file.context("the diff does not begin with `--- a/FILE`")?.to_owned();
        ensure!(
            !file.split('/').any(|part| part.is_empty() || part.starts_with('.')),
            "`{file}`: not a path below the source"
        );
        let (package, before, after) = (field("Package")?, field("Before")?, field("After")?);
        for hash in [&before, &after] {
            ensure!(crate::lock::is_sha256(hash), "`{hash}` is not a SHA-256 in lower-case hex");
        }
        Ok(Patch { name: name.into(), package, file: file.into(), before, after, diff: diff.into() })
    }

    /// The changed text of the file, if it is the one that the patch is for.
    pub(crate) fn apply(&self, text: &str) -> Result<String> {
        let (name, file) = (&self.name, self.file.display());
        let found = hash::bytes(text.as_bytes());
        ensure!(
            found == self.before,
            "{name}: is for {file} with SHA-256 {}, found {found}; make it anew for this version of {}, or drop it",
            self.before,
            self.package
        );
        let diff = diffy::Patch::from_str(&self.diff).with_context(|| format!("{name}: not a diff"))?;
        let changed = diffy::apply(text, &diff).with_context(|| format!("{name}: does not fit {file}"))?;
        let found = hash::bytes(changed.as_bytes());
        ensure!(
            found == self.after,
            "{name}: gives {file} with SHA-256 {found}, and says {}; correct the patch",
            self.after
        );
        Ok(changed)
    }

    /// Changes the file below `source`.
    pub(crate) fn apply_in(&self, source: &Path) -> Result<()> {
        let path = source.join(&self.file);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{}: {} is not there to be changed", self.name, path.display()))?;
        fs::write(&path, self.apply(&text)?).with_context(|| format!("{}: can't write", path.display()))
    }

    /// What it changes and how, for the hash over all inputs.
    pub(crate) fn id(&self) -> String {
        format!("{} {} {} {}\n", self.package, self.file.display(), self.before, self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BEFORE: &str = "one\ntwo\nthree\n";
    const AFTER: &str = "one\n2\nthree\n";

    fn text(before: &str, after: &str) -> String {
        let (before, after) = (hash::bytes(before.as_bytes()), hash::bytes(after.as_bytes()));
        format!(
            "Why.\nPackage: p\nBefore: {before}\nAfter: {after}\n--- a/dir/f.c\n+++ b/dir/f.c\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"
        )
    }

    #[test]
    fn a_patch_changes_the_file_that_it_is_for() {
        let patch = Patch::parse("p", &text(BEFORE, AFTER)).unwrap();
        assert_eq!(patch.apply(BEFORE).unwrap(), AFTER);
        let source = tempfile::tempdir().unwrap();
        fs::create_dir(source.path().join("dir")).unwrap();
        fs::write(source.path().join("dir/f.c"), BEFORE).unwrap();
        patch.apply_in(source.path()).unwrap();
        assert_eq!(fs::read_to_string(source.path().join("dir/f.c")).unwrap(), AFTER);
        let again = patch.apply_in(source.path()).unwrap_err().to_string();
        assert!(again.contains("make it anew"), "{again}");
    }

    #[test]
    fn a_file_of_another_version_is_refused_though_the_hunk_would_fit() {
        let patch = Patch::parse("p", &text(BEFORE, AFTER)).unwrap();
        let error = patch.apply("one\ntwo\nthree\nfour\n").unwrap_err().to_string();
        assert!(error.contains("SHA-256") && error.contains("make it anew"), "{error}");
    }

    #[test]
    fn a_patch_that_gives_other_bytes_than_it_says_is_refused() {
        let patch = Patch::parse("p", &text(BEFORE, "x")).unwrap();
        assert!(patch.apply(BEFORE).unwrap_err().to_string().contains("correct the patch"));
    }

    #[test]
    fn a_path_that_leads_elsewhere_and_a_missing_header_are_refused() {
        let good = text(BEFORE, AFTER);
        for (from, to) in [
            ("--- a/dir/f.c", "--- a/../f.c"),
            ("--- a/dir/f.c", "--- a//f.c"),
            ("Before", "Befor"),
            ("Package", "P"),
        ] {
            assert!(Patch::parse("p", &good.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn the_patches_of_this_house_have_reasons_and_hashes() {
        let patches = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../gpu.patches")).unwrap();
        assert!(patches.iter().any(|patch| patch.file == Path::new("nvidia/nv-pci.c")));
    }

    proptest! {
        #[test]
        fn any_patch_is_read_or_refused(header in "\\PC{0,80}", body in "\\PC{0,200}") {
            let _ = Patch::parse("p", &format!("{header}\n--- a/f\n{body}"));
            let _ = Patch::parse("p", &text(BEFORE, AFTER).replace("two", &body)).map(|p| p.apply(BEFORE));
        }
    }
}
