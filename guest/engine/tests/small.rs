//! Behaviour that shows on small random models: pooling, cutting, packing, and hostile bytes in any file.

mod common;
#[path = "common/spoil.rs"]
mod spoil;

use common::{Folder, cosine, largest_difference};
use engine::Embedder;
use proptest::prelude::*;
use serde_json::json;

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

fn load(folder: &Folder) -> Embedder {
    Embedder::load(folder.write().path()).unwrap()
}

#[test]
fn no_text_sees_its_neighbours_in_the_batch() {
    let embedder = load(&Folder::random(7));
    let alone = embedder.embed(&owned(&["red b"])).unwrap().vectors;
    for neighbours in [["a", "d d d d d d d d d d d d d d d d"], ["blue blue", ""], ["green , 1", "reds"]] {
        let texts = owned(&[neighbours[0], "red b", neighbours[1]]);
        let together = embedder.embed(&texts).unwrap().vectors;
        assert!(largest_difference(&together[1], &alone[0]) <= 1e-6, "next to {neighbours:?}");
        assert!(largest_difference(&together[0], &alone[0]) > 1e-3, "next to {neighbours:?}");
    }
}

#[test]
fn many_texts_keep_their_order_over_several_passes() {
    let embedder = load(&Folder::random(8));
    let words = ["a", "b", "c", "d", "red", "green", "blue"];
    let texts: Vec<String> = (0..300).map(|i| format!("{} {}", words[i % 7], words[i / 7 % 7])).collect();
    let got = embedder.embed(&texts).unwrap();
    assert_eq!((got.vectors.len(), got.prompt_tokens), (300, 1200));
    for (i, vector) in got.vectors.iter().enumerate().step_by(17) {
        let alone = embedder.embed(&texts[i..=i]).unwrap();
        assert!(largest_difference(vector, &alone.vectors[0]) <= 1e-6, "text {i}");
    }
}

#[test]
fn a_long_text_is_cut_at_max_seq_length() {
    let embedder = load(&Folder::random(9));
    assert_eq!(embedder.max_tokens(), 16);
    let whole = embedder.embed(&owned(&["a b c d a b c d a b c d a b"])).unwrap();
    let longer = embedder.embed(&owned(&["a b c d a b c d a b c d a b red green blue"])).unwrap();
    assert_eq!((whole.prompt_tokens, longer.prompt_tokens), (16, 16));
    assert_eq!(whole.vectors, longer.vectors);
}

#[test]
fn without_a_stated_length_the_position_table_is_the_limit() {
    let mut folder = Folder::random(9);
    folder.limits = json!({});
    assert_eq!(load(&folder).max_tokens(), common::POSITIONS);
    folder.limits = json!({"max_seq_length": 512});
    assert_eq!(load(&folder).max_tokens(), common::POSITIONS);
}

#[test]
fn no_texts_give_no_vectors() {
    let got = load(&Folder::random(1)).embed(&[]).unwrap();
    assert_eq!((got.vectors.len(), got.prompt_tokens), (0, 0));
}

#[test]
fn pooling_and_normalisation_follow_the_folder() {
    let texts = owned(&["a red b"]);
    let mut folder = Folder::random(3);
    let mean = load(&folder).embed(&texts).unwrap().vectors.remove(0);
    folder.pooling = json!({"embedding_dimension": common::WIDTH, "pooling_mode": "cls"});
    let cls = load(&folder).embed(&texts).unwrap().vectors.remove(0);
    assert!(largest_difference(&mean, &cls) > 1e-3);
    folder.modules.as_array_mut().unwrap().pop();
    let plain = load(&folder).embed(&texts).unwrap().vectors.remove(0);
    assert!((cosine(&plain, &cls) - 1.0).abs() < 1e-6);
    assert!((plain.iter().map(|v| v * v).sum::<f32>().sqrt() - 1.0).abs() > 1e-3);
}

#[test]
fn lower_casing_is_done_where_the_folder_asks_for_it() {
    let mut folder = Folder::random(4);
    folder.tokenizer["normalizer"]["lowercase"] = json!(false);
    let texts = owned(&["RED", "red"]);
    let cased = load(&folder).embed(&texts).unwrap().vectors;
    assert!(largest_difference(&cased[0], &cased[1]) > 1e-3);
    folder.limits["do_lower_case"] = json!(true);
    let lowered = load(&folder).embed(&texts).unwrap().vectors;
    assert!(largest_difference(&lowered[0], &lowered[1]) <= 1e-6);
}

const FILES: [&str; 6] = [
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "model.safetensors",
];

/// Loads and uses a folder in which one file holds other bytes; whatever happens, it may not panic.
fn survive(name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let dir = Folder::random(5).write();
    let path = dir.path().join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    let _ = engine::inspect(dir.path());
    if let Ok(embedder) = Embedder::load(dir.path()) {
        let _ = embedder.embed(&owned(&["a red b", "", "zebra , 1 d"]));
    }
}

proptest! {
    #[test]
    fn hostile_files_never_panic(name in prop::sample::select(&FILES[..]), bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        survive(name, |file| *file = bytes);
    }

    #[test]
    fn spoilt_files_never_panic(
        name in prop::sample::select(&FILES[..]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        survive(name, |file| spoil::spoil(file, &edits, cut));
    }

    #[test]
    fn spoilt_numbers_never_panic(
        name in prop::sample::select(&FILES[..5]),
        which in any::<prop::sample::Index>(),
        number in prop::sample::select(&["0", "-1", "3", "7", "999999999", "18446744073709551615", "1e300", "null", "\"x\"", "[]"][..]),
    ) {
        survive(name, |file| spoil::renumber(file, which, number));
    }

    #[test]
    fn any_text_gives_a_finite_vector(text in any::<String>()) {
        let embedder = SMALL.get_or_init(|| load(&Folder::random(6)));
        let got = embedder.embed(&[text]).unwrap();
        prop_assert!(got.vectors[0].iter().all(|v| v.is_finite()));
    }
}

static SMALL: std::sync::OnceLock<Embedder> = std::sync::OnceLock::new();
