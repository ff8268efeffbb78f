//! The committed weights are those that were measured, and are better than counting pairs.

use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;
use toy::bigram::Bigram;
use toy::corpus::Corpus;
use toy::folder::{self, Facts, WEIGHTS};
use toy::measure;
use toy::network::Network;
use toy::random::Random;
use toy::train::{self, SEED, SHAPE, Text};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

fn facts() -> Facts {
    serde_json::from_slice(&std::fs::read(data().join("facts.json")).unwrap()).unwrap()
}

fn model() -> (Network, Tokenizer) {
    folder::read(&data().join("model"), Network::new(SHAPE, &mut Random::new(SEED))).unwrap()
}

#[test]
fn the_committed_files_are_those_that_were_measured() {
    let (data, facts) = (data(), facts());
    for (file, expected) in [
        ("corpus.json.gz".to_string(), &facts.corpus_sha256),
        ("model/tokenizer.json".to_string(), &facts.tokenizer_sha256),
        (format!("model/{WEIGHTS}"), &facts.weights_sha256),
    ] {
        assert_eq!(&folder::sha256(&data.join(&file)).unwrap(), expected, "{file}");
    }
    let corpus = Corpus::read(&data.join("corpus.json.gz")).unwrap();
    assert_eq!(corpus.commit, facts.commit);
    assert!(corpus.test().count() >= 20 && corpus.train().count() > 10 * corpus.test().count());
}

#[test]
fn the_toy_foretells_the_held_out_text_better_than_a_bigram() {
    let ((network, tokenizer), facts) = (model(), facts());
    let corpus = Corpus::read(&data().join("corpus.json.gz")).unwrap();
    let text = Text::new(&tokenizer, &corpus).unwrap();
    let bigram = Bigram::count(SHAPE.vocabulary, text.stream());
    let held_out = train::stream(&tokenizer, corpus.test()).unwrap();
    let own = |piece: &[u32]| measure::own(&network, piece);
    let measured = measure::measure(&held_out, SHAPE.context, &bigram, own);
    let (toy, baseline) = measured.perplexities();
    println!("held-out perplexity over {} tokens: toy {toy:.2}, bigram {baseline:.2}", measured.tokens);
    assert_eq!(measured.tokens, facts.held_out_tokens);
    assert!(toy < baseline, "toy {toy:.2}, bigram {baseline:.2}");
    assert!((toy / facts.perplexity - 1.0).abs() < 1e-3, "{toy} is not what was seen: {}", facts.perplexity);
    assert!((baseline / facts.bigram_perplexity - 1.0).abs() < 1e-9);
}
