//! The files of a checkout, in memory: what git tracks, and what it would track if it were added.

use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Paths below the root, with `/`, and their bytes.
#[derive(Debug, Default)]
pub struct Tree {
    files: BTreeMap<String, Vec<u8>>,
}

impl Tree {
    /// Reads the checkout. Files that git ignores (outputs, targets) are no part of the house.
    pub fn load(root: &Path) -> anyhow::Result<Self> {
        let output = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("git did not start; tidy asks it which files are part of the project: install git")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("git ls-files failed in {}: {}; run tidy in a clone", root.display(), said.trim());
        }
        let mut files = BTreeMap::new();
        for name in output.stdout.split(|b| *b == 0).filter(|n| !n.is_empty()) {
            let name = String::from_utf8_lossy(name).into_owned();
            let path = root.join(&name);
            let Ok(meta) = path.symlink_metadata() else { continue };
            if meta.is_file() {
                let bytes = std::fs::read(&path).with_context(|| format!("cannot read {name}"))?;
                files.insert(name, bytes);
            } else {
                // A symbolic link or a submodule: its name counts, it has no text of its own.
                files.insert(name, Vec::new());
            }
        }
        Ok(Tree { files })
    }

    /// A tree in memory.
    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Self {
        Tree { files: files.iter().map(|(p, t)| ((*p).to_string(), t.as_bytes().to_vec())).collect() }
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// All files in order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(p, b)| (p.as_str(), b.as_slice()))
    }

    /// All files that are text: UTF-8 without a NUL.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter()
            .filter(|(_, b)| !b.contains(&0))
            .filter_map(|(p, b)| Some((p, std::str::from_utf8(b).ok()?)))
    }

    /// One file as text, if it is there.
    pub fn text(&self, path: &str) -> Option<&str> {
        std::str::from_utf8(self.files.get(path)?).ok()
    }

    /// Whether `path` is a file of the tree or a folder with files in it.
    pub fn has(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        path.is_empty() || self.files.contains_key(path) || self.files.keys().any(|p| p.starts_with(&folder))
    }
}

/// The line (from 1) of the first line of `text` for which `wanted` holds; 1 if there is none.
pub fn line_where(text: &str, wanted: impl Fn(&str) -> bool) -> usize {
    text.lines().position(wanted).map_or(1, |i| i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_there_when_a_file_in_it_is() {
        let tree = Tree::of(&[("guest/init/Cargo.toml", "")]);
        assert!(tree.has("guest") && tree.has("guest/init/") && tree.has("guest/init/Cargo.toml"));
        assert!(!tree.has("guest/ini") && !tree.has("host"));
    }

    #[test]
    fn bytes_with_a_nul_are_no_text() {
        let tree = Tree::of(&[("a.bin", "x\0y"), ("a.txt", "xy")]);
        assert_eq!(tree.texts().map(|(p, _)| p).collect::<Vec<_>>(), ["a.txt"]);
    }
}
