//! A small random Llama in Hugging Face's folder layout.

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const WIDTH: usize = 16;
pub const LAYERS: usize = 2;
pub const VOCABULARY: usize = 264;
pub const CONTEXT: usize = 96;

/// Elements of hidden states, between gate and down, and of a head; heads of queries, and of keys.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub width: usize,
    pub inner: usize,
    pub queries: usize,
    pub keys: usize,
    pub head: usize,
}

const SMALL: Sizes = Sizes { width: WIDTH, inner: 24, queries: 4, keys: 2, head: WIDTH / 4 };

/// A decoder's folder that a test may spoil before it is written.
pub struct Decoder {
    pub config: Value,
    pub tokenizer: Value,
    pub described: Value,
    pub generation: Value,
    pub tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Decoder {
    pub fn random(seed: u64) -> Decoder {
        Decoder {
            config: json!({
                "architectures": ["LlamaForCausalLM"], "vocab_size": VOCABULARY, "hidden_size": WIDTH,
                "intermediate_size": 24, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
                "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6,
                "hidden_act": "silu", "rope_theta": 10000.0, "eos_token_id": 258,
            }),
            tokenizer: tokenizer(),
            described: json!({"eos_token": "<|end|>", "chat_template":
                "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"}),
            generation: json!({}),
            tensors: tensors(seed, SMALL, false),
        }
    }

    /// A Qwen3 that is wide enough for every loop of a GPU's kernels: heads of 24, three of them for one of keys, normed.
    pub fn wide(seed: u64) -> Decoder {
        Decoder::sized(seed, Sizes { width: 96, inner: 160, queries: 12, keys: 4, head: 24 })
    }

    /// A Qwen3 of these sizes.
    pub fn sized(seed: u64, sizes: Sizes) -> Decoder {
        let mut decoder = Decoder::random(seed);
        let fields = json!({
            "architectures": ["Qwen3ForCausalLM"], "hidden_size": sizes.width, "intermediate_size": sizes.inner,
            "num_attention_heads": sizes.queries, "num_key_value_heads": sizes.keys, "head_dim": sizes.head,
        });
        for (name, value) in fields.as_object().expect("an object") {
            decoder.config[name] = value.clone();
        }
        decoder.tensors = tensors(seed, sizes, true);
        decoder
    }

    /// The bytes of model.safetensors.
    pub fn weights(&self) -> Vec<u8> {
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).expect("a sound tensor"))
        });
        safetensors::serialize(views, None).expect("a sound file")
    }

    /// Replaces one element of a tensor.
    pub fn poke(&mut self, name: &str, element: usize, value: f32) {
        let tensor = self.tensors.get_mut(name).expect("a tensor of the small model");
        tensor.2[element * 4..][..4].copy_from_slice(&value.to_le_bytes());
    }

    /// Writes the folder.
    pub fn write(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).expect("written");
        file("config.json", self.config.to_string().as_bytes());
        file("tokenizer.json", self.tokenizer.to_string().as_bytes());
        file("tokenizer_config.json", self.described.to_string().as_bytes());
        file("generation_config.json", self.generation.to_string().as_bytes());
        file("model.safetensors", &self.weights());
        dir
    }
}

fn letter(byte: u8, others: &mut u32) -> char {
    match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => {
            *others += 1;
            char::from_u32(0xff + *others).expect("a letter")
        }
    }
}

fn tokenizer() -> Value {
    let mut others = 0;
    let mut vocab: BTreeMap<String, usize> =
        (0..=255u8).map(|byte| (letter(byte, &mut others).to_string(), byte as usize)).collect();
    vocab.extend([("th".into(), 256), ("the".into(), 257)]);
    json!({
        "version": "1.0", "normalizer": null, "truncation": null, "padding": null,
        "added_tokens": [{"id": 258, "special": true, "content": "<|end|>", "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": ["t h", ["th", "e"]]},
    })
}

/// Random weights; `normed` ones have norms of heads.
fn tensors(seed: u64, sizes: Sizes, normed: bool) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let Sizes { width, inner, head, .. } = sizes;
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("model.embed_tokens.weight".into(), vec![VOCABULARY, width]),
        ("lm_head.weight".into(), vec![VOCABULARY, width]),
        ("model.norm.weight".into(), vec![width]),
    ];
    let (queries, keys) = (sizes.queries * head, sizes.keys * head);
    for layer in 0..LAYERS {
        let mut tensor = |part: &str, shape: &[usize]| {
            shapes.push((format!("model.layers.{layer}.{part}.weight"), shape.to_vec()));
        };
        tensor("self_attn.q_proj", &[queries, width]);
        tensor("self_attn.k_proj", &[keys, width]);
        tensor("self_attn.v_proj", &[keys, width]);
        tensor("self_attn.o_proj", &[width, queries]);
        tensor("mlp.gate_proj", &[inner, width]);
        tensor("mlp.up_proj", &[inner, width]);
        tensor("mlp.down_proj", &[width, inner]);
        tensor("input_layernorm", &[width]);
        tensor("post_attention_layernorm", &[width]);
        if normed {
            tensor("self_attn.q_norm", &[head]);
            tensor("self_attn.k_norm", &[head]);
        }
    }
    let mut state = seed | 1;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    let fill = |(name, shape): (String, Vec<usize>)| {
        let count = shape.iter().product();
        let bytes: Vec<u8> = (0..count).flat_map(|_| draw().to_le_bytes()).collect();
        (name, (Dtype::F32, shape, bytes))
    };
    shapes.into_iter().map(fill).collect()
}
