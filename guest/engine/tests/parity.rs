//! The real all-MiniLM-L6-v2 against sentence-transformers' vectors, computed by ci/reference/embed.py in the same run.

mod common;

use common::{cosine, largest_difference, minilm};
use engine::{Embedder, EngineError, MAX_TEXT_BYTES, Pooling, inspect};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// What embed.py writes.
#[derive(Deserialize)]
struct Reference {
    schema: u32,
    weights_sha256: String,
    texts: Vec<String>,
    tokens: Vec<Vec<u32>>,
    vectors: Vec<Vec<f32>>,
}

fn reference() -> Reference {
    let Some(path) = std::env::var_os("CHRYSALIS_REFERENCE_VECTORS").map(PathBuf::from) else {
        panic!(
            "CHRYSALIS_REFERENCE_VECTORS is not set: it names what ci/reference/embed.py wrote; run `cargo xtask \
             test`, which computes it, or follow ci/reference/README.md"
        );
    };
    let bytes = std::fs::read(&path).unwrap_or_else(|e| {
        panic!("{}: {e}; compute it with ci/reference/embed.py (ci/reference/README.md)", path.display())
    });
    let reference: Reference = serde_json::from_slice(&bytes).expect("embed.py's JSON");
    assert_eq!(reference.schema, 1);
    let stale = "the reference was computed for something else; run ci/reference/embed.py again";
    assert_eq!(reference.texts, texts(), "{stale}");
    let weights = std::fs::read(minilm().join("model.safetensors")).expect("the weights");
    assert_eq!(reference.weights_sha256, hex::encode(Sha256::digest(weights)), "{stale}");
    reference
}

fn texts() -> Vec<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../ci/reference/texts.json");
    serde_json::from_slice(&std::fs::read(path).expect("texts.json")).expect("a list of texts")
}

#[test]
fn every_vector_equals_that_of_sentence_transformers() {
    let reference = reference();
    let embedder = Embedder::load(&minilm()).unwrap();
    let got = embedder.embed(&reference.texts).unwrap();
    assert_eq!(got.vectors.len(), reference.vectors.len());
    let mut worst = (1.0f64, 0.0f32);
    for ((text, ours), theirs) in reference.texts.iter().zip(&got.vectors).zip(&reference.vectors) {
        let cosine = cosine(ours, theirs);
        let start: String = text.chars().take(40).collect();
        assert!(cosine >= 0.9999, "cosine {cosine} for {start:?}");
        worst = (worst.0.min(cosine), worst.1.max(largest_difference(ours, theirs)));
    }
    println!(
        "{} texts: smallest cosine {:.9}, largest difference {:.2e}",
        got.vectors.len(),
        worst.0,
        worst.1
    );
}

#[test]
fn every_text_is_cut_into_as_many_tokens() {
    let reference = reference();
    let embedder = Embedder::load(&minilm()).unwrap();
    for (text, tokens) in reference.texts.iter().zip(&reference.tokens) {
        let got = embedder.embed(std::slice::from_ref(text)).unwrap();
        assert_eq!(got.prompt_tokens, tokens.len(), "for {text:?}");
    }
    let longest = reference.tokens.iter().map(Vec::len).max();
    assert_eq!(longest, Some(embedder.max_tokens()), "no text of the list is long enough to be cut");
}

#[test]
fn a_batch_gives_the_vectors_of_its_texts_one_by_one() {
    let embedder = Embedder::load(&minilm()).unwrap();
    let texts = texts();
    let batch = embedder.embed(&texts).unwrap();
    let mut tokens = 0;
    for (text, vector) in texts.iter().zip(&batch.vectors) {
        let alone = embedder.embed(std::slice::from_ref(text)).unwrap();
        tokens += alone.prompt_tokens;
        assert!(largest_difference(vector, &alone.vectors[0]) <= 1e-5, "for {text:?}");
    }
    assert_eq!(batch.prompt_tokens, tokens);
}

#[test]
fn the_real_model_is_what_inspect_says() {
    let facts = inspect(&minilm()).unwrap();
    assert_eq!((facts.architecture.as_str(), facts.dimensions, facts.max_tokens), ("BertModel", 384, 256));
    assert_eq!((facts.pooling, facts.normalised, facts.vocabulary), (Pooling::Mean, true, 30522));
}

#[test]
fn vectors_have_length_one_and_unlike_texts_differ() {
    let embedder = Embedder::load(&minilm()).unwrap();
    let texts =
        ["A man eats pasta.", "Someone is eating noodles.", "The stock market fell."].map(String::from);
    let vectors = embedder.embed(&texts).unwrap().vectors;
    for vector in &vectors {
        assert_eq!(vector.len(), embedder.dimensions());
        assert!((vector.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-5);
    }
    assert!(cosine(&vectors[0], &vectors[1]) > cosine(&vectors[0], &vectors[2]) + 0.3);
}

#[test]
fn a_text_beyond_the_bound_is_the_requests_fault() {
    let embedder = Embedder::load(&minilm()).unwrap();
    let longest = "ab ".repeat(MAX_TEXT_BYTES / 3);
    let cut = embedder.embed(&["ok".into(), longest.clone()]).unwrap();
    assert_eq!(cut.prompt_tokens, 3 + 256);
    let error = embedder.embed(&["ok".into(), longest + "abc"]).unwrap_err();
    assert!(matches!(error, EngineError::Text { index: 1, .. }), "{error}");
    assert!(error.is_request_fault());
}

#[test]
fn one_embedder_serves_several_threads() {
    let embedder = Embedder::load(&minilm()).unwrap();
    let texts: Vec<String> = texts().into_iter().take(12).collect();
    let expected = embedder.embed(&texts).unwrap();
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..4).map(|_| scope.spawn(|| embedder.embed(&texts).unwrap())).collect();
        for call in calls {
            assert_eq!(call.join().unwrap(), expected);
        }
    });
}
