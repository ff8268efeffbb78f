//! How much of a root each part takes: what a byte is for, when an image has grown.
//!
//! The finished root is read back, so the numbers are those of its files, before the file system packs them.

use crate::artifacts::{Artifacts, names};
use crate::provenance::manifest;
use crate::tools::{Tools, run};
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Bytes and files of every part, the largest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Always 1.
    pub schema: u32,
    /// Bytes of the root as it is stored.
    pub root: u64,
    /// Package, program or recipe.
    pub parts: Vec<Part>,
}

/// One origin of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// As the manifest says it; modules apart from the package that they come from.
    pub from: String,
    /// Sum of its files' lengths.
    pub bytes: u64,
    /// How many.
    pub files: usize,
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
        let all: u64 = self.parts.iter().map(|part| part.bytes).sum();
        for part in &self.parts {
            writeln!(f, "  {:9.2} MiB {:5} files  {}", mib(part.bytes), part.files, part.from)?;
        }
        writeln!(f, "  {:9.2} MiB in all; the root takes {:.2} MiB packed", mib(all), mib(self.root))
    }
}

/// Of the build in `dir`.
pub fn of(dir: &Path, tools: &Tools) -> Result<Sizes> {
    let artifacts = Artifacts::load(dir)?;
    let root = artifacts.path(names::ROOT);
    // Below /tmp, which the tools root shares.
    let scratch = Path::new("/tmp").join(format!("chrysalis-sizes-{}", std::process::id()));
    let _ = fs::remove_dir_all(&scratch);
    let dir_of = root.parent().context("a root without a folder")?.canonicalize()?;
    let tools = tools.clone().bind(&dir_of, Path::new("/chrysalis/sizes"));
    let mut fsck = tools.command("fsck.erofs");
    fsck.arg(format!("--extract={}", scratch.display())).arg(format!("/chrysalis/sizes/{}", names::ROOT));
    let summed = run("fsck.erofs", &mut fsck).and_then(|_| sum(dir, &scratch));
    let _ = fs::remove_dir_all(&scratch);
    let size = fs::metadata(&root).with_context(|| format!("{}: can't look at it", root.display()))?.len();
    Ok(Sizes { schema: 1, root: size, parts: summed? })
}

fn sum(dir: &Path, extracted: &Path) -> Result<Vec<Part>> {
    let mut parts: BTreeMap<String, (u64, usize)> = BTreeMap::new();
    for origin in manifest(dir)?.iter().filter(|origin| origin.path.starts_with('/')) {
        let file = extracted.join(&origin.path[1..]);
        let meta =
            fs::symlink_metadata(&file).with_context(|| format!("{}: not in the root", origin.path))?;
        let part = parts.entry(part_of(&origin.from, &origin.path)).or_default();
        part.0 += if meta.is_file() { meta.len() } else { 0 };
        part.1 += 1;
    }
    let named = parts.into_iter().map(|(from, (bytes, files))| Part { from, bytes, files });
    let mut parts: Vec<Part> = named.collect();
    parts.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.from.cmp(&b.from)));
    Ok(parts)
}

fn part_of(from: &str, path: &str) -> String {
    let module = path.ends_with(".ko");
    if module { format!("{from}: modules") } else { from.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_summed_by_origin_modules_apart() {
        let (dir, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let origin = |path: &str, from: &str| serde_json::json!({ "path": path, "from": from, "content": "x", "reason": "r" });
        let list = [
            origin("/a", "package p 1"),
            origin("/b", "package p 1"),
            origin("/m.ko", "package p 1"),
            origin("uki:stub", "package q 1"),
        ];
        fs::write(dir.path().join(names::MANIFEST), serde_json::to_string(&list).unwrap()).unwrap();
        for (name, text) in [("a", "12"), ("b", "345"), ("m.ko", "1234567")] {
            fs::write(root.path().join(name), text).unwrap();
        }
        let parts = sum(dir.path(), root.path()).unwrap();
        let said: Vec<_> = parts.iter().map(|p| (p.from.as_str(), p.bytes, p.files)).collect();
        assert_eq!(said, [("package p 1: modules", 7, 1), ("package p 1", 5, 2)]);
        fs::remove_file(root.path().join("a")).unwrap();
        assert!(sum(dir.path(), root.path()).unwrap_err().to_string().contains("not in the root"));
    }
}
