//! The model as a Hugging Face folder, and what is known of it.

use crate::chat::{TOOLS_HEAD, TOOLS_TAIL};
use crate::network::{Network, Shape, THETA};
use crate::vocabulary::END;
use anyhow::{Context, Result, anyhow, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;
use tokenizers::Tokenizer;

/// `ops::EPSILON`, as it is written in decimal.
const EPSILON_SHOWN: f64 = 1e-6;
/// Name of the weights' file.
pub const WEIGHTS: &str = "model.safetensors";

/// What was seen when the weights were made; `facts.json` beside the folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Commit of the text.
    pub commit: String,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Steps of training.
    pub steps: usize,
    /// Number of weights.
    pub weights: usize,
    /// SHA-256 of the packed text, lower-case hex.
    pub corpus_sha256: String,
    /// SHA-256 of `tokenizer.json`.
    pub tokenizer_sha256: String,
    /// SHA-256 of `model.safetensors`.
    pub weights_sha256: String,
    /// Tokens that were predicted in the held-out text.
    pub held_out_tokens: usize,
    /// Perplexity of the weights as stored, a token of the held-out text.
    pub perplexity: f64,
    /// Perplexity of the bigram baseline on the same tokens.
    pub bigram_perplexity: f64,
}

/// Lower-case hex of a file's SHA-256.
pub fn sha256(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("{}: can't read", path.display()))?;
    Ok(hex::encode(Sha256::digest(bytes)))
}

/// Rounds the weights to bf16, as they are stored, and writes the folder.
pub fn write(folder: &Path, network: &mut Network, tokenizer: &Tokenizer) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("{}: can't make it", folder.display()))?;
    let put = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.join(name), bytes).with_context(|| format!("{name}: can't write"))
    };
    let text = tokenizer.to_string(true).map_err(|error| anyhow!("{error}"))?;
    put("tokenizer.json", (text + "\n").as_bytes())?;
    let id = |token: &str| tokenizer.token_to_id(token).with_context(|| format!("no token {token}"));
    let end = [id("<|im_end|>")?, id(END)?];
    for (name, value) in [
        ("config.json", config(&network.shape, end)),
        ("generation_config.json", generation(end)),
        ("tokenizer_config.json", tokenizer_config()),
    ] {
        put(name, (serde_json::to_string_pretty(&value)? + "\n").as_bytes())?;
    }
    put(WEIGHTS, &weights(network)?)
}

fn weights(network: &mut Network) -> Result<Vec<u8>> {
    let mut stored = Vec::new();
    for tensor in &mut network.tensors {
        let mut bytes = Vec::with_capacity(tensor.value.len() * 2);
        tensor.value.mapv_inplace(|x| {
            ensure_finite(x);
            let bits = round(x);
            bytes.extend_from_slice(&bits.to_le_bytes());
            f32::from_bits(u32::from(bits) << 16)
        });
        let (rows, columns) = tensor.value.dim();
        let shape = if tensor.vector { vec![columns] } else { vec![rows, columns] };
        stored.push((tensor.name.clone(), shape, bytes));
    }
    let mut views = Vec::new();
    for (name, shape, bytes) in &stored {
        views.push((name.as_str(), TensorView::new(Dtype::BF16, shape.clone(), bytes)?));
    }
    let metadata = [("format".to_string(), "pt".to_string())].into();
    Ok(safetensors::serialize(views, Some(metadata))?)
}

fn ensure_finite(x: f32) {
    assert!(x.is_finite(), "a weight is {x}: training diverged");
}

/// The upper half of the nearest `f32` that has no lower one; ties to even.
fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// Reads what [`write`] wrote.
pub fn read(folder: &Path, mut network: Network) -> Result<(Network, Tokenizer)> {
    let bytes =
        std::fs::read(folder.join(WEIGHTS)).with_context(|| format!("{}: can't read", folder.display()))?;
    let file = SafeTensors::deserialize(&bytes)?;
    for tensor in &mut network.tensors {
        let view = file.tensor(&tensor.name)?;
        ensure!(view.dtype() == Dtype::BF16, "{}: expected BF16, found {:?}", tensor.name, view.dtype());
        let values =
            view.data().chunks_exact(2).map(|b| f32::from_bits(u32::from_le_bytes([0, 0, b[0], b[1]])));
        tensor.value = ndarray::Array2::from_shape_vec(tensor.value.dim(), values.collect())
            .with_context(|| format!("{}: another shape", tensor.name))?;
    }
    let tokenizer =
        Tokenizer::from_file(folder.join("tokenizer.json")).map_err(|error| anyhow!("{error}"))?;
    Ok((network, tokenizer))
}

fn config(shape: &Shape, [end, _]: [u32; 2]) -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "eos_token_id": end,
        "head_dim": shape.head,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.inner,
        "max_position_embeddings": shape.context,
        "max_window_layers": shape.layers,
        "model_type": "qwen3",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.groups,
        "rms_norm_eps": EPSILON_SHOWN,
        "rope_scaling": null,
        "rope_theta": THETA,
        "sliding_window": null,
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
        "use_cache": true,
        "use_sliding_window": false,
        "vocab_size": shape.vocabulary,
    })
}

fn generation([end, last]: [u32; 2]) -> Value {
    json!({ "do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.9, "eos_token_id": [end, last], "pad_token_id": last })
}

fn tokenizer_config() -> Value {
    json!({
        "add_bos_token": false,
        "add_prefix_space": false,
        "bos_token": null,
        "chat_template": template(),
        "clean_up_tokenization_spaces": false,
        "eos_token": "<|im_end|>",
        "model_max_length": crate::train::SHAPE.context,
        "pad_token": END,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": null,
    })
}

/// The form of `chat::Exchange` as a template: ChatML, with tools listed in the system's message.
fn template() -> String {
    let (head, tail) = (quoted(TOOLS_HEAD), quoted(TOOLS_TAIL));
    let pieces = [
        "{%- if tools %}",
        "{{- '<|im_start|>system\\n' }}",
        "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}",
        &format!("{{{{- '{head}' }}}}"),
        "{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}",
        &format!("{{{{- '{tail}<|im_end|>\\n' }}}}"),
        "{%- elif messages[0].role == 'system' %}",
        "{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}",
        "{%- endif %}",
        "{%- for message in messages %}",
        "{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}",
        "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}",
        "{%- elif message.role == 'assistant' %}",
        "{{- '<|im_start|>assistant\\n' }}",
        "{%- if message.content %}{{- message.content }}{%- endif %}",
        "{%- for tool_call in message.tool_calls or [] %}",
        "{%- set call = tool_call.function if tool_call.function else tool_call %}",
        "{{- '<tool_call>\\n{\"name\": \"' + call.name + '\", \"arguments\": ' }}",
        "{%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}",
        "{{- '}\\n</tool_call>' }}",
        "{%- endfor %}",
        "{{- '<|im_end|>\\n' }}",
        "{%- elif message.role == 'tool' %}",
        "{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}",
        "{%- endif %}",
        "{%- endfor %}",
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}",
    ];
    pieces.join("\n")
}

/// As a string of the template's language.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_goes_to_the_nearest_and_ties_to_even() {
        let cases =
            [(1.0, 0x3f80), (1.003_906_25, 0x3f80), (1.011_718_75, 0x3f82), (1.004, 0x3f81), (-0.0, 0x8000)];
        for (x, bits) in cases {
            assert_eq!(round(x), bits, "{x}");
        }
    }
}
