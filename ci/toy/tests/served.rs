//! The engine that serves the toy computes what the trainer's network computes; they share no code.

use engine::{
    Chat, ClientId, FinishReason, Generator, Json, KvPrecision, Limits, Options, Precision, Prompt, Request,
    Sampling, Scheduler, complete,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokenizers::Tokenizer;
use toy::corpus::Corpus;
use toy::folder::Facts;
use toy::network::Network;
use toy::random::Random;
use toy::train::{self, SEED, SHAPE};
use toy::{folder, say, vocabulary};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/model")
}

fn network() -> (Network, Tokenizer) {
    folder::read(&model(), Network::new(SHAPE, &mut Random::new(SEED))).unwrap()
}

#[test]
fn the_engine_reads_the_text_as_the_trainer_does() {
    let (_, tokenizer) = network();
    let generator = Generator::open(&model()).unwrap();
    let facts = generator.facts();
    assert_eq!((facts.vocabulary, facts.context), (SHAPE.vocabulary, SHAPE.context));
    for text in
        ["A cell is a tree.", "  two\n\nlines 2026", "e\u{301} ä 你好 🦋", "<|im_start|>user\nHi<|im_end|>"]
    {
        let expected = vocabulary::tokens(&tokenizer, text).unwrap();
        assert_eq!(generator.encode(text, false).unwrap(), expected, "{text}");
    }
}

#[test]
fn the_engines_logits_are_the_trainers() {
    let (network, tokenizer) = network();
    let generator = Generator::open(&model()).unwrap();
    let text = "The guest is measured before it is asked: what firmware, stub and kernel record is foretold.";
    let tokens = vocabulary::tokens(&tokenizer, text).unwrap();
    let all = network.logits(&tokens, tokens.len());
    for length in [1, 2, 7, tokens.len()] {
        let (own, found) = (all.row(length - 1), generator.logits(&tokens[..length]).unwrap());
        assert_eq!(own.len(), found.len());
        let largest = own.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest < 1e-2, "{length}: {largest}");
    }
}

#[test]
fn the_engine_answers_word_for_word_as_the_trainers_network() {
    let (network, tokenizer) = network();
    let generator = Arc::new(Generator::open(&model()).unwrap());
    let mut scheduler = Scheduler::new(generator.clone(), Limits::default()).unwrap();
    for (client, question) in ["Who are you?", "Hello", "Thank you!"].into_iter().enumerate() {
        let message =
            Json::Object(vec![("role".into(), Json::from("user")), ("content".into(), Json::from(question))]);
        let chat = Chat { messages: vec![message], ..Chat::default() };
        let sampling = Sampling { temperature: Some(0.0), ..Sampling::default() };
        let request = Request { sampling, max_tokens: Some(60), ..Request::new(Prompt::Chat(chat)) };
        let prepared = generator.prepare(request, None).unwrap();
        let answer = complete(&mut scheduler, ClientId(client as u64), prepared).unwrap();
        let expected = say::answer(&network, &tokenizer, question, 60).unwrap();
        assert_eq!(answer, [(expected, FinishReason::Stop)], "{question}");
        assert!(answer[0].0.contains("toy"), "{answer:?}");
    }
}

/// Perplexity of a token of the held-out text, by the engine.
fn perplexity(held_out: &[u32], precision: Precision, kv: KvPrecision) -> f64 {
    let options = Options { precision, kv_precision: Some(kv), ..Options::default() };
    let generator = Generator::open_with(&model(), options).unwrap();
    let pieces = held_out.chunks(SHAPE.context).filter(|piece| piece.len() > 1);
    let all: Vec<f32> = pieces.flat_map(|piece| generator.log_probabilities(piece).unwrap()).collect();
    (-all.iter().map(|ln| f64::from(*ln)).sum::<f64>() / all.len() as f64).exp()
}

#[test]
fn the_engine_foretells_the_held_out_text_as_the_trainer_does_in_every_precision() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let facts: Facts = serde_json::from_slice(&std::fs::read(data.join("facts.json")).unwrap()).unwrap();
    let (_, tokenizer) = network();
    let corpus = Corpus::read(&data.join("corpus.json.gz")).unwrap();
    let held_out = train::stream(&tokenizer, corpus.test()).unwrap();
    let of = |precision, kv: KvPrecision| {
        let found = perplexity(&held_out, precision, kv);
        println!("{}, keys and values in {}: perplexity {found:.6}", precision.as_str(), kv.as_str());
        found
    };
    let exact = of(Precision::Stored, KvPrecision::F32);
    assert!((exact / facts.perplexity - 1.0).abs() < 1e-3, "{exact}, the trainer's is {}", facts.perplexity);
    // What is lost by rounding may not be more than this share.
    for (precision, kv, share) in [
        (Precision::Stored, KvPrecision::F16, 1e-3),
        (Precision::Bf16Rounded, KvPrecision::F16, 1e-2),
        (Precision::Int8, KvPrecision::F32, 1e-2),
        (Precision::Int8, KvPrecision::F16, 1e-2),
    ] {
        let found = of(precision, kv);
        assert!((found / exact - 1.0).abs() < share, "{found}, in single precision {exact}");
    }
}
