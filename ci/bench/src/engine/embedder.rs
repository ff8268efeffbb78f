//! Vectors of texts: the real MiniLM, texts in and vectors out, beside onnxruntime and sentence-transformers.

use super::{Clock, Stage, asked, failed};
use crate::report::Number;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Rows: name, peer, threads, texts, repeats of a task, limit.
const ROWS: [Row; 5] = [
    row("embed 16x1, 1 thread", ONNX, 1, (1, 16), 20, 1.0 / 1.15),
    row("embed 16x1, 2 threads", ONNX, 2, (1, 16), 20, 1.0 / 1.15),
    row("embed 128x8, 1 thread", ONNX, 1, (8, 128), 1, 1.0 / 1.15),
    row("embed 128x8, 2 threads", ONNX, 2, (8, 128), 1, 1.0 / 1.15),
    row("embed a short text, 1 thread", SENTENCES, 1, (1, 16), 20, 1.0 / 2.0),
];

/// A peer's name and script.
type PeerScript = (&'static str, &'static str);
const ONNX: PeerScript = ("onnxruntime", "onnx_embed.py");
const SENTENCES: PeerScript = ("sentence-transformers", "sentences.py");

struct Row {
    name: &'static str,
    peer: PeerScript,
    threads: usize,
    /// Number of texts, tokens of each.
    texts: (usize, usize),
    repeats: usize,
    limit: f64,
}

const fn row(
    name: &'static str,
    peer: PeerScript,
    threads: usize,
    texts: (usize, usize),
    repeats: usize,
    limit: f64,
) -> Row {
    Row { name, peer, threads, texts, repeats, limit }
}

/// All rows that were asked for.
pub fn measure(stage: &mut Stage, wanted: &[String]) -> Vec<Number> {
    let rows = ROWS.iter().filter(|row| asked(wanted, row.name));
    rows.map(|row| taken(stage, row).unwrap_or_else(|error| failed(row.name, Some(row.limit), &error)))
        .collect()
}

fn taken(stage: &mut Stage, row: &Row) -> Result<Number> {
    let (texts, tokens) = row.texts;
    let file = write_texts(&stage.folder, texts, tokens)?;
    let model = stage.path("minilm");
    let graph = stage.path("minilm.onnx");
    let mut ours = stage.ours(&model, row.threads, 0, &[])?;
    let mut peer = stage.peer(row.peer.1, &model, row.threads, &graph.display().to_string())?;
    let task = format!("embed {} {}", file.display(), row.repeats);
    let pairs = stage.turns(&mut ours, &mut peer, &task)?;
    let what = format!("a text, {texts} of {tokens} tokens at a time, tokenizing included");
    Ok(pairs.number(row.name, row.peer.0, Clock::of_threads(row.threads), Some(row.limit), &what))
}

/// Texts of words that are one token each; the two that frame a text count.
fn write_texts(folder: &Path, texts: usize, tokens: usize) -> Result<PathBuf> {
    const WORDS: [&str; 8] = ["the", "house", "of", "a", "red", "bird", "and", "water"];
    let text = |first: usize| {
        (first..first + tokens - 2).map(|i| WORDS[i * 5 % WORDS.len()]).collect::<Vec<_>>().join(" ")
    };
    let all: Vec<String> = (0..texts).map(text).collect();
    let path = folder.join(format!("texts-{texts}-{tokens}.json"));
    std::fs::write(&path, serde_json::to_vec(&all)?)
        .with_context(|| format!("{}: can't write", path.display()))?;
    Ok(path)
}
