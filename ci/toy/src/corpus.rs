//! The text that the toy reads: the documentation of one commit of this repository, and the comments of its code.
//!
//! It is kept beside the weights, so that both can be held against each other without the history. Whole files are
//! held out, by a hash of their path: what is said in one file is often said again a few lines below.

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// One file in so many is held out.
const ONE_IN: u8 = 16;
/// Most bytes of the unpacked text.
const LIMIT: u64 = 16 << 20;

/// One file's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Path in the checkout.
    pub path: String,
    /// Its prose, paragraphs on one line each.
    pub text: String,
}

impl Document {
    /// Whether the toy never sees it.
    pub fn held_out(&self) -> bool {
        Sha256::digest(self.path.as_bytes())[0] % ONE_IN == 0
    }
}

/// All text, and where it is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Corpus {
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
    /// Files, by path.
    pub documents: Vec<Document>,
}

impl Corpus {
    /// The text of `commit` of the checkout at `root`.
    pub fn gather(root: &Path, commit: &str) -> Result<Self> {
        let mut git = Command::new("git");
        git.arg("-C").arg(root).args(["archive", "--format=tar", commit]).stdout(Stdio::piped());
        let mut child = git.spawn().context("git does not start")?;
        let stdout = child.stdout.take().context("git has no output")?;
        let mut documents = Vec::new();
        for entry in tar::Archive::new(stdout).entries()? {
            let mut entry = entry.context("git archive wrote something that is no archive")?;
            let path = entry.path()?.to_string_lossy().into_owned();
            let read: fn(&str) -> String = match path.rsplit_once('.') {
                Some((_, "md")) => unwrap,
                Some((_, "rs")) => comments,
                _ => continue,
            };
            let mut text = String::new();
            entry.read_to_string(&mut text).with_context(|| format!("{path}: can't read"))?;
            documents.push(Document { path, text: read(&text) });
        }
        ensure!(child.wait()?.success(), "git archive {commit}: failed; is it a commit of this checkout?");
        documents.retain(|document| !document.text.is_empty());
        documents.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Corpus { commit: commit.into(), documents })
    }

    /// Reads what [`Corpus::write`] wrote.
    pub fn read(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).with_context(|| format!("{}: can't open", path.display()))?;
        let text = GzDecoder::new(file).take(LIMIT);
        serde_json::from_reader(text).with_context(|| format!("{}: no corpus", path.display()))
    }

    /// Writes the packed form; the same text gives the same bytes.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        packed.write_all(&serde_json::to_vec(self)?)?;
        std::fs::write(path, packed.finish()?).with_context(|| format!("{}: can't write", path.display()))
    }

    /// What is read.
    pub fn train(&self) -> impl Iterator<Item = &Document> {
        self.documents.iter().filter(|document| !document.held_out())
    }

    /// What is kept back.
    pub fn test(&self) -> impl Iterator<Item = &Document> {
        self.documents.iter().filter(|document| document.held_out())
    }
}

/// The comments of Rust source, a paragraph for each run of them.
fn comments(source: &str) -> String {
    let mut out = String::new();
    for line in source.lines() {
        let line = line.trim_start();
        let marks = ["//!", "///", "//"];
        match marks.iter().find_map(|mark| line.strip_prefix(mark)) {
            Some(text) => out.push_str(text.strip_prefix(' ').unwrap_or(text)),
            None if out.ends_with("\n\n") => continue,
            None => {}
        }
        out.push('\n');
    }
    unwrap(&out)
}

/// Joins the lines of a paragraph; leaves lists, tables, headings and code as they are.
fn unwrap(text: &str) -> String {
    let mut out = String::new();
    let (mut code, mut open) = (false, false);
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        let starts = line.starts_with(['#', '|', '-', '*', '>', ' ', '<'])
            || line.starts_with(|c: char| c.is_ascii_digit());
        let prose =
            !code && !fence && !line.is_empty() && !(starts && !open) && !line.starts_with(['#', '|', '-']);
        code ^= fence;
        match open && prose {
            true => out.push(' '),
            false if !out.is_empty() => out.push('\n'),
            false => {}
        }
        out.push_str(if prose { line.trim() } else { line.trim_end() });
        open = prose || (!code && !fence && line.starts_with(['-', '*']));
    }
    while let Some(at) = out.find("\n\n\n") {
        out.remove(at);
    }
    out.trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_joined_and_tables_and_code_are_not() {
        let text = "# A\n\none\ntwo\n\n- a\n  b\n- c\n\n| x |\n|---|\n\n```\na\nb\n```\nlast\n";
        let expected = "# A\n\none two\n\n- a b\n- c\n\n| x |\n|---|\n\n```\na\nb\n```\nlast";
        assert_eq!(unwrap(text), expected);
    }

    #[test]
    fn only_comments_of_code_are_read() {
        let source =
            "//! Head\n//! of it.\n\nuse a::b;\n\n/// Adds.\nfn add() {\n    // Why.\n    a + b\n}\n";
        assert_eq!(comments(source), "Head of it.\n\nAdds.\n\nWhy.");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let document = |path: &str| Document { path: path.into(), text: "text".into() };
        let corpus = Corpus { commit: "0".repeat(40), documents: vec![document("a.md"), document("b.rs")] };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("corpus.json.gz");
        corpus.write(&file).unwrap();
        assert_eq!(Corpus::read(&file).unwrap(), corpus);
    }
}
