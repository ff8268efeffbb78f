//! Vectors of texts: the real MiniLM, texts in and vectors out, beside onnxruntime and sentence-transformers.

use super::{Clock, Stage, asked, failed};
use crate::report::Number;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

const ROWS: [Row; 5] = [
    Row { name: "embed 16x1, 1 thread", peer: ONNX, threads: 1, texts: SHORT },
    Row { name: "embed 16x1, 2 threads", peer: ONNX, threads: 2, texts: SHORT },
    Row { name: "embed 128x8, 1 thread", peer: ONNX, threads: 1, texts: LONG },
    Row { name: "embed 128x8, 2 threads", peer: ONNX, threads: 2, texts: LONG },
    Row { name: "embed a short text, 1 thread", peer: SENTENCES, threads: 1, texts: SHORT },
];

const ONNX: Peer = Peer { name: "onnxruntime", script: "onnx_embed.py", limit: 1.0 / 1.15 };
const SENTENCES: Peer = Peer { name: "sentence-transformers", script: "sentences.py", limit: 1.0 / 2.0 };
const SHORT: Texts = Texts { count: 1, tokens: 16, repeats: 20 };
const LONG: Texts = Texts { count: 8, tokens: 128, repeats: 1 };

struct Row {
    name: &'static str,
    peer: Peer,
    threads: usize,
    texts: Texts,
}

/// Who is measured beside, and at most how much of its time is wanted.
struct Peer {
    name: &'static str,
    script: &'static str,
    limit: f64,
}

/// What is embedded in one call, and how many calls are a task.
struct Texts {
    count: usize,
    /// Of each text, the two that frame it included.
    tokens: usize,
    repeats: usize,
}

/// All rows that were asked for.
pub fn measure(stage: &mut Stage, wanted: &[String]) -> Vec<Number> {
    let rows = ROWS.iter().filter(|row| asked(wanted, row.name));
    rows.map(|row| taken(stage, row).unwrap_or_else(|error| failed(row.name, Some(row.peer.limit), &error)))
        .collect()
}

fn taken(stage: &mut Stage, row: &Row) -> Result<Number> {
    let Row { peer, threads, texts: Texts { count, tokens, repeats }, .. } = row;
    let file = write_texts(&stage.folder, *count, *tokens)?;
    let model = stage.path("minilm");
    let graph = stage.path("minilm.onnx");
    let mut ours = stage.ours(&model, *threads, 0, &[])?;
    let mut theirs = stage.peer(peer.script, &model, *threads, &graph.display().to_string())?;
    let pairs = stage.turns(&mut ours, &mut theirs, &format!("embed {} {repeats}", file.display()))?;
    let what = format!("a text, {count} of {tokens} tokens at a time, tokenizing included");
    Ok(pairs.number(row.name, peer.name, Clock::of_threads(*threads), Some(peer.limit), &what))
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
