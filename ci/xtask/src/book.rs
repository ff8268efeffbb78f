//! Tests that hold the book to the tasks of the house: what the pages tell people to type parses.

use crate::Args;
use clap::Parser;
use std::path::{Path, PathBuf};

fn pages(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("a folder that reads").path();
        match path.extension() {
            _ if path.is_dir() => pages(&path, out),
            Some(kind) if kind == "md" => out.push(path),
            _ => {}
        }
    }
}

#[test]
fn every_task_that_a_page_tells_people_to_type_parses() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = vec![root.join("README.md")];
    pages(&root.join("docs"), &mut files);
    let (mut seen, mut bad) = (0, Vec::new());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a page that reads");
        for line in text.lines().filter(|line| line.starts_with("cargo xtask ")) {
            let typed = line.split('#').next().unwrap_or_default();
            seen += 1;
            if let Err(why) = Args::try_parse_from(typed.split_whitespace().skip(1)) {
                bad.push(format!("{}: {line}: {why}", file.display()));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(seen >= 5, "only {seen} lines were found");
}
