//! A small random BERT in Hugging Face's folder layout.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const WIDTH: usize = 8;
pub const INNER: usize = 16;
pub const POSITIONS: usize = 24;
pub const LAYERS: usize = 2;
pub const WORDS: [&str; 14] =
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "red", "green", "blue", "##s", ",", "1"];

/// One tensor: type, shape, little-endian bytes.
pub type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// A model folder that a test may spoil before it is written.
pub struct Folder {
    pub config: Value,
    pub modules: Value,
    pub pooling: Value,
    pub limits: Value,
    pub tokenizer: Value,
    pub tensors: BTreeMap<String, Tensor>,
}

impl Folder {
    /// A sound model with weights drawn from `seed`.
    pub fn random(seed: u64) -> Folder {
        Folder {
            config: json!({
                "architectures": ["BertModel"], "vocab_size": WORDS.len(), "hidden_size": WIDTH,
                "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": INNER,
                "max_position_embeddings": POSITIONS, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
                "hidden_act": "gelu",
            }),
            modules: json!([
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
            ]),
            pooling: json!({
                "word_embedding_dimension": WIDTH, "pooling_mode_cls_token": false,
                "pooling_mode_mean_tokens": true,
            }),
            limits: json!({"max_seq_length": 16, "do_lower_case": false}),
            tokenizer: tokenizer(),
            tensors: tensors(seed),
        }
    }

    /// Replaces one tensor's values.
    pub fn set(&mut self, name: &str, values: &[f32]) {
        let tensor = self.tensors.get_mut(name).expect("a tensor of the small model");
        tensor.2 = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    }

    /// One tensor's values.
    pub fn get(&self, name: &str) -> Vec<f32> {
        let bytes = self.tensors[name].2.as_chunks().0;
        bytes.iter().map(|word| f32::from_le_bytes(*word)).collect()
    }

    /// The bytes of model.safetensors.
    pub fn weights(&self) -> Vec<u8> {
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).expect("a sound tensor"))
        });
        safetensors::serialize(views, None).expect("a sound file")
    }

    /// Writes the folder.
    pub fn write(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).expect("written");
        std::fs::create_dir(dir.path().join("1_Pooling")).expect("a folder");
        file("config.json", self.config.to_string().as_bytes());
        file("modules.json", self.modules.to_string().as_bytes());
        file("1_Pooling/config.json", self.pooling.to_string().as_bytes());
        file("sentence_bert_config.json", self.limits.to_string().as_bytes());
        file("tokenizer.json", self.tokenizer.to_string().as_bytes());
        file("model.safetensors", &self.weights());
        dir
    }
}

fn tokenizer() -> Value {
    let vocab: BTreeMap<&str, usize> = WORDS.iter().enumerate().map(|(id, word)| (*word, id)).collect();
    let special = |id: usize| {
        json!({"id": id, "special": true, "content": WORDS[id], "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false})
    };
    json!({
        "version": "1.0",
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": (0..4).map(special).collect::<Vec<_>>(),
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
            }},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    })
}

fn tensors(seed: u64) -> BTreeMap<String, Tensor> {
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("embeddings.word_embeddings.weight".into(), vec![WORDS.len(), WIDTH]),
        ("embeddings.position_embeddings.weight".into(), vec![POSITIONS, WIDTH]),
        ("embeddings.token_type_embeddings.weight".into(), vec![2, WIDTH]),
        ("embeddings.LayerNorm.weight".into(), vec![WIDTH]),
        ("embeddings.LayerNorm.bias".into(), vec![WIDTH]),
    ];
    for layer in 0..LAYERS {
        let mut linear = |part: &str, outputs: usize, inputs: usize| {
            shapes.push((format!("encoder.layer.{layer}.{part}.weight"), vec![outputs, inputs]));
            shapes.push((format!("encoder.layer.{layer}.{part}.bias"), vec![outputs]));
        };
        for part in ["query", "key", "value"] {
            linear(&format!("attention.self.{part}"), WIDTH, WIDTH);
        }
        linear("attention.output.dense", WIDTH, WIDTH);
        linear("intermediate.dense", INNER, WIDTH);
        linear("output.dense", WIDTH, INNER);
        for norm in ["attention.output.LayerNorm", "output.LayerNorm"] {
            shapes.push((format!("encoder.layer.{layer}.{norm}.weight"), vec![WIDTH]));
            shapes.push((format!("encoder.layer.{layer}.{norm}.bias"), vec![WIDTH]));
        }
    }
    let mut state = seed | 1;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    let fill = |(name, shape): (String, Vec<usize>)| {
        let count = shape.iter().product();
        let bytes: Vec<u8> = (0..count).flat_map(|_| draw().to_le_bytes()).collect();
        (name, (Dtype::F32, shape, bytes))
    };
    shapes.into_iter().map(fill).collect()
}
