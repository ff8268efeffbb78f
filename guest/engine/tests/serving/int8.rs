//! Folders whose weights lie in blocks of bytes: what they compute, and what is refused.

use crate::common::decoder::Decoder;
use crate::logits;
use engine::{Device, Generator, KNOWN_ANSWERS, Options, Precision, inspect_generator, quantise};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

const INT8: Options =
    Options { precision: Precision::Int8, kv_precision: None, threads: 1, device: Device::Processor };

/// The folder in bytes.
fn converted(dir: &Path) -> TempDir {
    let out = tempfile::tempdir().unwrap();
    quantise(dir, out.path(), &mut |_| {}).unwrap();
    out
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| (path.file_name().unwrap().display().to_string(), std::fs::read(path).unwrap()))
        .collect()
}

/// A model whose head is its word table.
fn tied(mut decoder: Decoder) -> Decoder {
    decoder.config["tie_word_embeddings"] = true.into();
    decoder.tensors.remove("lm_head.weight");
    decoder
}

/// Small models with odd ends: rows that are no whole groups, tables that are no whole blocks.
fn models() -> Vec<Decoder> {
    vec![Decoder::random(6), Decoder::wide(7), tied(Decoder::random(8)), tied(Decoder::wide(9))]
}

#[test]
fn a_folder_in_bytes_computes_what_rounding_at_load_computes_to_the_last_bit() {
    for decoder in models() {
        let dir = decoder.write();
        let out = converted(dir.path());
        let right = logits(dir.path(), INT8);
        assert_eq!(logits(out.path(), Options::default()), right);
        assert_eq!(logits(out.path(), INT8), right);
        let (rounded, stored) =
            (Generator::open_with(dir.path(), INT8).unwrap(), inspect_generator(out.path()).unwrap());
        assert_eq!((rounded.facts(), stored.precision.as_str()), (&stored, "int8"));
        let answers = serde_json::to_string(&rounded.known_answers().unwrap()).unwrap();
        std::fs::write(out.path().join(KNOWN_ANSWERS), answers).unwrap();
        Generator::open(out.path()).unwrap().check_known_answers(out.path()).unwrap();
    }
}

#[test]
fn the_same_folder_gives_the_same_bytes_and_other_files_come_along() {
    let dir = Decoder::random(6).write();
    std::fs::write(dir.path().join(KNOWN_ANSWERS), "of the other form").unwrap();
    std::fs::write(dir.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
    std::fs::write(dir.path().join("pytorch_model.bin"), "something else").unwrap();
    let (first, second) = (converted(dir.path()), converted(dir.path()));
    let found = files(first.path());
    assert_eq!(found, files(second.path()));
    let names = [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ];
    assert_eq!(found.keys().filter(|name| *name != "tokenizer_config.json").collect::<Vec<_>>(), names);
    let config: Value = serde_json::from_slice(&found["config.json"]).unwrap();
    assert_eq!(config["quantization_config"]["quant_method"], "chrysalis-int8");
    assert_eq!(config["hidden_size"], 16);
}

#[test]
fn a_conversion_says_how_far_it_is_and_its_file_is_smaller() {
    let dir = tied(Decoder::wide(4)).write();
    let out = tempfile::tempdir().unwrap();
    let mut seen = vec![];
    quantise(dir.path(), out.path(), &mut |progress| seen.push(progress.clone())).unwrap();
    assert_eq!(seen.len(), 1 + 1 + 2 * 11);
    assert!(seen.windows(2).all(|pair| pair[0].written < pair[1].written && pair[0].total == pair[1].total));
    let size = |dir: &Path| std::fs::metadata(dir.join("model.safetensors")).unwrap().len();
    assert!(size(out.path()) > seen[0].total && size(out.path()) * 3 < size(dir.path()));
}

#[test]
fn a_folder_is_converted_once_and_nothing_is_overwritten() {
    let dir = Decoder::random(6).write();
    let out = converted(dir.path());
    let again = |from: &Path, to: &Path| quantise(from, to, &mut |_| {}).unwrap_err().to_string();
    let other = tempfile::tempdir().unwrap();
    assert!(again(out.path(), other.path()).contains("weights as they were published"));
    assert!(again(dir.path(), out.path()).contains("not empty"));
    let file = out.path().join("config.json");
    assert!(again(dir.path(), &file).contains("cannot be written"));
}

/// Opens a folder in bytes after `spoil`, and gives the refusal without the folder's own path.
fn refused(spoil: impl FnOnce(&mut Value, &mut Vec<u8>)) -> String {
    let dir = Decoder::random(6).write();
    let out = converted(dir.path());
    let at = |name: &str| out.path().join(name);
    let mut config = serde_json::from_slice(&std::fs::read(at("config.json")).unwrap()).unwrap();
    let mut weights = std::fs::read(at("model.safetensors")).unwrap();
    spoil(&mut config, &mut weights);
    std::fs::write(at("config.json"), config.to_string()).unwrap();
    std::fs::write(at("model.safetensors"), weights).unwrap();
    let refusal = Generator::open(out.path()).err().expect("refused").to_string();
    refusal.replace(&format!("{}/", out.path().display()), "")
}

/// Replaces a text of the header by one that is as long.
fn replaced(weights: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let at = weights.windows(from.len()).position(|part| part == from.as_bytes()).expect("it is there");
    weights[at..][..to.len()].copy_from_slice(to.as_bytes());
}

#[test]
fn another_version_and_another_format_are_refused_by_name() {
    let with = |field: &str, value: Value| {
        let field = field.to_owned();
        refused(move |config, _| config["quantization_config"][field] = value)
    };
    let version = with("version", json!(2));
    assert!(
        version.contains("`quantization_config.version` is 2") && version.contains("quantise"),
        "{version}"
    );
    assert!(with("group_size", json!(64)).contains("`quantization_config.group_size` is 64, expected 32"));
    assert!(with("quant_method", json!("awq")).contains("quantization_config `awq` is not supported"));
    assert!(with("bits", json!(8)).contains("unknown field `bits`"));
}

#[test]
fn bytes_without_their_name_and_a_name_without_its_bytes_are_refused() {
    let unnamed = refused(|config, _| {
        config.as_object_mut().unwrap().remove("quantization_config");
    });
    assert!(unnamed.contains("expected F32 or F16 or BF16 [264, 16], found U8 [17, 544]"), "{unnamed}");
    let dir = {
        let mut decoder = Decoder::random(6);
        decoder.config["quantization_config"] = json!({
            "quant_method": "chrysalis-int8", "version": 1, "group_size": 32, "block_outputs": 16,
        });
        decoder.write()
    };
    let bare = Generator::open(dir.path()).err().expect("refused").to_string();
    assert!(bare.contains("expected U8 [17, 544], found F32 [264, 16]"), "{bare}");
}

#[test]
fn sizes_that_are_not_the_models_are_refused_with_their_tensor() {
    let other = refused(|config, _| config["intermediate_size"] = json!(40));
    assert!(other.contains("mlp.") && other.contains("expected U8 [3, 544], found U8 [2, 544]"), "{other}");
    let lying = refused(|_, weights| replaced(weights, "[17,544]", "[34,272]"));
    assert!(lying.contains("expected U8 [17, 544], found U8 [34, 272]"), "{lying}");
    let short = refused(|_, weights| weights.truncate(weights.len() - 1));
    assert!(short.contains("the file holds"), "{short}");
    let stranger = refused(|_, weights| replaced(weights, "mlp.up_proj", "mlp.xx_proj"));
    assert!(stranger.contains("mlp.xx_proj"), "{stranger}");
}

#[test]
fn a_scale_that_is_no_number_is_refused_with_its_block() {
    for scale in [0x7c00u16, 0xfc00, 0x7e01] {
        let message = refused(|_, weights| {
            let start = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
            // Of the first tensor, whichever it is: a group begins with its scales.
            weights[start + 6..][..2].copy_from_slice(&scale.to_le_bytes());
        });
        assert!(message.contains("expected finite scales, found others in block 0"), "{message}");
    }
}

#[test]
fn what_computes_with_other_weights_says_so() {
    let out = converted(Decoder::random(6).write().path());
    let opened = |options| Generator::open_with(out.path(), options).err().expect("refused").to_string();
    for precision in [Precision::Bf16, Precision::F32, Precision::Bf16Rounded] {
        let message = opened(Options { precision, ..INT8 });
        assert!(message.contains("int8"), "{message}");
    }
    let message = opened(Options { device: Device::Reference, ..Options::default() });
    assert!(
        message.contains("weights int8") && message.contains("folder that this one was made of"),
        "{message}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_folders_in_bytes_are_refused_or_computed_with_but_never_panic(
        header in any::<bool>(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let out = converted(Decoder::random(6).write().path());
        let path = out.path().join("model.safetensors");
        let mut weights = std::fs::read(&path).unwrap();
        let end = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
        let text = weights[..end].iter().rposition(|byte| *byte == b'}').unwrap();
        let at = if header { at.index(text) } else { end + at.index(weights.len() - end) };
        weights[at] = byte;
        std::fs::write(&path, weights).unwrap();
        if let Ok(generator) = Generator::open(out.path()) {
            prop_assert!(!header || generator.facts().precision == "int8");
            prop_assert_eq!(generator.logits(&[1, 2, 3]).unwrap().len(), generator.facts().vocabulary);
        }
    }
}
