//! Says where two files of a build differ, and what lies at that place.

use crate::artifacts::names;
use crate::hash;
use crate::tools::{Tools, run};
use anyhow::{Context, Result};
use measure::{gpt, pe};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Names listed at most.
const MANY: usize = 20;
/// Bytes shown from each file.
const SHOWN: usize = 16;

/// The first place where two files differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Offset of the first byte that differs.
    pub offset: u64,
    /// Bytes from there, hex; empty if the file ends.
    pub first: String,
    /// The same of the other file.
    pub second: String,
    /// What differs inside: partitions, PE sections, files of the file system.
    pub inside: Vec<String>,
}

impl Difference {
    /// Compares two files byte by byte; `None` if they are equal. `name` says what they are.
    pub(crate) fn find(
        name: &str,
        a: &Path,
        b: &Path,
        tools: &Tools,
        scratch: &Path,
    ) -> Result<Option<Self>> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("{}: can't read", path.display()));
        let (first, second) = (read(a)?, read(b)?);
        let Some(offset) = first_difference(&first, &second) else { return Ok(None) };
        let inside = match name {
            names::DISK => partitions(&first, &second),
            names::UKI => sections(&first, &second),
            names::ROOT => files(a, b, tools, scratch)?,
            names::MANIFEST => lines(&first, &second),
            _ => Vec::new(),
        };
        let show =
            |bytes: &[u8]| hex::encode(&bytes[offset.min(bytes.len())..(offset + SHOWN).min(bytes.len())]);
        Ok(Some(Difference { offset: offset as u64, first: show(&first), second: show(&second), inside }))
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Difference { offset, first, second, inside } = self;
        write!(f, "first at byte {offset} ({offset:#x}): {first} against {second}")?;
        inside.iter().try_for_each(|name| write!(f, "\n      {name}"))
    }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let common = a.iter().zip(b).position(|(x, y)| x != y);
    common.or((a.len() != b.len()).then_some(a.len().min(b.len())))
}

/// Contents of a PE section, without the padding to the file alignment.
pub(crate) fn pe_section<'a>(file: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let image = pe::Image::parse(file).ok()?;
    let section = image.section(name)?;
    let size = section.file.len().min(section.virtual_size as usize);
    file.get(section.file.start..section.file.start + size)
}

fn sections(a: &[u8], b: &[u8]) -> Vec<String> {
    let Ok(image) = pe::Image::parse(a) else { return vec!["the first is no PE image".into()] };
    let differs = |name: &&String| pe_section(a, name) != pe_section(b, name);
    let names: Vec<&String> = image.sections.iter().map(|section| &section.name).filter(differs).collect();
    match names.is_empty() {
        true => vec!["PE headers or padding only".into()],
        false => names.into_iter().map(|name| format!("PE section {name}")).collect(),
    }
}

fn partitions(a: &[u8], b: &[u8]) -> Vec<String> {
    let (Ok(first), Ok(second)) = (gpt::gpt_event(a), gpt::gpt_event(b)) else {
        return vec!["a disk has no partition table".into()];
    };
    let mut found = Vec::new();
    if first.bytes != second.bytes {
        found.push("partition table".to_owned());
    }
    for partition in &first.partitions {
        let (from, to) = (partition.sectors.0 as usize * 512, (partition.sectors.1 as usize + 1) * 512);
        if a.get(from..to) != b.get(from..to) {
            found.push(format!("partition {} (bytes {from} to {to})", partition.index + 1));
        }
    }
    found
}

/// Files that differ between two erofs images.
fn files(a: &Path, b: &Path, tools: &Tools, scratch: &Path) -> Result<Vec<String>> {
    let list = |image: &Path, name: &str| -> Result<BTreeMap<String, String>> {
        let dir = scratch.join(name);
        fs::create_dir_all(scratch).with_context(|| format!("{}: can't make", scratch.display()))?;
        let _ = fs::remove_dir_all(&dir);
        let mut fsck = tools.command("fsck.erofs");
        run("fsck.erofs", fsck.arg(format!("--extract={}", dir.display())).arg(image))?;
        let entry =
            |path: &std::path::PathBuf| Ok((path.display().to_string(), hash::entry(&dir.join(path))?));
        hash::walk(&dir)?.iter().map(entry).collect()
    };
    let (first, second) = (list(a, "first")?, list(b, "second")?);
    let names: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    let differs = |name: &&&String| first.get(**name) != second.get(**name);
    let found: Vec<String> = names.iter().filter(differs).take(MANY).map(|name| format!("/{name}")).collect();
    Ok(if found.is_empty() { vec!["same files; metadata or layout differs".into()] } else { found })
}

fn lines(a: &[u8], b: &[u8]) -> Vec<String> {
    let (a, b) = (String::from_utf8_lossy(a), String::from_utf8_lossy(b));
    let other: BTreeSet<&str> = b.lines().collect();
    a.lines().filter(|line| !other.contains(line)).take(MANY).map(|line| line.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_that_differs_is_found() {
        assert_eq!(first_difference(b"same", b"same"), None);
        assert_eq!(first_difference(b"sane", b"same"), Some(2));
        assert_eq!(first_difference(b"same", b"samesame"), Some(4));
    }

    #[test]
    fn a_changed_file_of_the_root_is_named() {
        let checkout = crate::Checkout::at(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))).unwrap();
        let tools = Tools::open(&checkout, &mut |_| {}).unwrap();
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let image = |name: &str, text: &str| {
            let (tree, image) = (dir.path().join(format!("{name}.d")), dir.path().join(name));
            fs::create_dir(&tree).unwrap();
            fs::write(tree.join("same"), "x").unwrap();
            fs::write(tree.join("other"), text).unwrap();
            run("mkfs.erofs", tools.command("mkfs.erofs").args(["-T0", "-Uclear"]).arg(&image).arg(&tree))
                .unwrap();
            image
        };
        let (a, b) = (image("a", "one"), image("b", "two"));
        let found = Difference::find(names::ROOT, &a, &b, &tools, dir.path()).unwrap().unwrap();
        assert_eq!(found.inside, ["/other"]);
        assert!(Difference::find(names::ROOT, &a, &a, &tools, dir.path()).unwrap().is_none());
    }

    #[test]
    fn a_changed_line_of_a_manifest_is_named() {
        assert_eq!(lines(b"a\n b\n", b"a\n c\n"), ["b"]);
    }
}
