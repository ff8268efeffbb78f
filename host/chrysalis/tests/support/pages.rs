//! Fenced blocks of the book's pages, for tests that hold the book to the program.
//!
//! In a how-to, commands stand in `sh` blocks, and nowhere else. Each is one of two:
//!
//! | block | what a test does with it |
//! |---|---|
//! | info string `sh run`, or `sh run exits=N` | runs it; the `text shows` block behind it is looked for in what it prints |
//! | first line `# needs: ...` | runs nothing, since what it needs is not at hand; the commands must parse |
//!
//! A block `toml file=NAME` is the file that the commands behind it read.

use std::path::{Path, PathBuf};

/// One fenced block.
#[derive(Debug, Clone)]
pub struct Block {
    /// Line of the fence, from 1.
    pub line: usize,
    /// Words behind the fence: language, then marks.
    pub info: Vec<String>,
    /// What stands in it.
    pub text: String,
}

impl Block {
    /// Language of the block; empty where none is named.
    pub fn language(&self) -> &str {
        self.info.first().map_or("", String::as_str)
    }
}

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Names and texts of the how-tos, in the order of their names.
pub fn how_tos() -> Vec<(String, String)> {
    let folder = root().join("docs/how-to");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut pages: Vec<_> = entries
        .map(|entry| entry.expect("a folder that reads").path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "md"))
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).expect("a page that reads"))
        })
        .collect();
    pages.sort();
    pages
}

/// The fenced blocks of a page.
pub fn blocks(page: &str) -> Vec<Block> {
    let (mut out, mut open) = (Vec::new(), None::<Block>);
    for (i, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                let info = info.split_whitespace().map(str::to_owned).collect();
                open = Some(Block { line: i + 1, info, text: String::new() });
            }
            (Some(_), Some(_)) => out.extend(open.take()),
            (None, Some(block)) => block.text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence is not closed: {open:?}");
    out
}
