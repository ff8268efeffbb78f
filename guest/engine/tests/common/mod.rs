//! A small random BERT in Hugging Face's folder layout, and where the real model lies.

#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of this module")]

pub mod decoder;
pub mod folder;

pub use folder::*;
use std::path::{Path, PathBuf};

/// The folder of the real all-MiniLM-L6-v2; tests that need it fail with what to do where it is missing.
pub fn minilm() -> PathBuf {
    let models =
        std::env::var_os("CHRYSALIS_MODELS").map(PathBuf::from).unwrap_or_else(|| cache().join("models"));
    let dir = models.join("all-minilm-l6-v2");
    assert!(
        dir.join("model.safetensors").is_file(),
        "{}: the real model is not there; run `cargo xtask test`, which unpacks it (ci/reference/README.md), or \
         point CHRYSALIS_MODELS at the folder that holds all-minilm-l6-v2",
        dir.display()
    );
    dir
}

fn cache() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let below_home = || var("HOME").unwrap_or_else(|| "/".into()).join(".cache");
    var("CHRYSALIS_CACHE")
        .unwrap_or_else(|| var("XDG_CACHE_HOME").unwrap_or_else(below_home).join("chrysalis"))
}

/// Cosine of the angle between two vectors, in double precision.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Largest difference between two vectors.
pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

/// Loads a folder that must be refused, and gives the words of the refusal.
pub fn refusal(dir: &Path) -> String {
    let loaded = engine::Embedder::load(dir).err().expect("the engine accepted a folder that it must refuse");
    let inspected = engine::inspect(dir).expect_err("inspect accepted a folder that load refuses");
    assert_eq!(loaded.to_string(), inspected.to_string());
    assert!(!loaded.is_request_fault());
    loaded.to_string()
}
