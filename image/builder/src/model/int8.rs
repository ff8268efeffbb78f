//! Weights in blocks of bytes, as the engine multiplies by them: what a folder says of them, held against its sizes.
//!
//! ```text
//! config.json: quantization_config: quant_method chrysalis-int8, version 1, group_size 32, block_outputs 16
//! a matrix [outputs, inputs]: U8 [outputs / 16, inputs / 32 * 544], both rounded up
//! ```
//! The layout is the engine's (docs/reference/engine.md); nothing here reads the blocks themselves.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

/// What facts call such weights.
pub const NAME: &str = "int8";
/// How facts show them.
pub const SHOWN: &str = "int8, groups of 32";
/// The format's name, its version, and what it must say of groups and blocks.
const METHOD: &str = "chrysalis-int8";
const NUMBERS: [(&str, u64); 3] = [("version", 1), ("group_size", GROUP), ("block_outputs", OUTPUTS)];
const GROUP: u64 = 32;
const OUTPUTS: u64 = 16;
/// Bytes of a group of 16 outputs: weights, and a scale of two bytes for each.
const GROUP_BYTES: u64 = OUTPUTS * (GROUP + 2);
/// Elements of a head of Qwen3 where the configuration says nothing.
const QWEN3_HEAD: u64 = 128;

/// What `config.json` says of a decoder's sizes.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Sizes {
    hidden_size: Option<u64>,
    intermediate_size: Option<u64>,
    num_attention_heads: Option<u64>,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
}

/// A folder in this format, with the sizes that its tensors must have.
#[derive(Debug)]
pub struct Blocks {
    width: u64,
    inner: u64,
    queries: u64,
    keys: u64,
    vocabulary: u64,
}

impl Blocks {
    /// Reads the entry of `config.json`.
    ///
    /// # Errors
    /// Another format or version, by its name, and sizes that are missing or too large.
    pub fn read(entry: &Value, sizes: &Sizes, vocabulary: Option<u64>, architecture: &str) -> Result<Self> {
        let method = entry.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
        let shown: String = method.chars().take(80).collect();
        ensure!(method == METHOD, "expected {METHOD}, found `{shown}`; choose the model as it was published");
        for (field, right) in NUMBERS {
            let found = entry.get(field).unwrap_or(&Value::Null);
            ensure!(
                found.as_u64() == Some(right),
                "{field}: expected {right}, found {found}; make the folder anew with this release's `cargo xtask quantise`"
            );
        }
        let size = |name: &str, found: Option<u64>| {
            found
                .filter(|size| (1..=1 << 22).contains(size))
                .with_context(|| format!("{name}: expected a size"))
        };
        let width = size("hidden_size", sizes.hidden_size)?;
        let heads = size("num_attention_heads", sizes.num_attention_heads)?;
        let kv_heads = size("num_key_value_heads", sizes.num_key_value_heads.or(Some(heads)))?;
        let usual = if architecture == "Qwen3ForCausalLM" { QWEN3_HEAD } else { width / heads };
        let head = size("head_dim", sizes.head_dim.or(Some(usual)))?;
        Ok(Blocks {
            width,
            inner: size("intermediate_size", sizes.intermediate_size)?,
            queries: heads * head,
            keys: kv_heads * head,
            vocabulary: size("vocab_size", vocabulary)?,
        })
    }

    /// Weights of the tensor of this name, whose blocks must have the shape that its sizes make.
    ///
    /// # Errors
    /// A tensor that is not multiplied by, and blocks of other sizes.
    pub fn elements(&self, name: &str, shape: &[u64]) -> Result<u64> {
        let of = |part: &str| name.ends_with(&format!(".{part}.weight"));
        let (outputs, inputs) = match name {
            "model.embed_tokens.weight" | "lm_head.weight" => (self.vocabulary, self.width),
            _ if of("self_attn.q_proj") => (self.queries, self.width),
            _ if of("self_attn.k_proj") || of("self_attn.v_proj") => (self.keys, self.width),
            _ if of("self_attn.o_proj") => (self.width, self.queries),
            _ if of("mlp.gate_proj") || of("mlp.up_proj") => (self.inner, self.width),
            _ if of("mlp.down_proj") => (self.width, self.inner),
            _ => anyhow::bail!(
                "tensor `{name}`: found blocks of bytes where none belong; fetch the file again"
            ),
        };
        let right = [outputs.div_ceil(OUTPUTS), inputs.div_ceil(GROUP) * GROUP_BYTES];
        ensure!(
            shape == right,
            "tensor `{name}`: expected blocks {right:?}, found {shape:?}; config.json and the weights must be of the same model"
        );
        Ok(outputs * inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry() -> Value {
        json!({"quant_method": METHOD, "version": 1, "group_size": 32, "block_outputs": 16})
    }

    fn sizes() -> Sizes {
        serde_json::from_value(json!({
            "hidden_size": 40, "intermediate_size": 100, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
        }))
        .unwrap()
    }

    #[test]
    fn blocks_must_have_the_shape_that_the_sizes_make() {
        let blocks = Blocks::read(&entry(), &sizes(), Some(33), "Qwen3ForCausalLM").unwrap();
        let layer =
            |part: &str, shape: [u64; 2]| blocks.elements(&format!("model.layers.0.{part}.weight"), &shape);
        assert_eq!(blocks.elements("lm_head.weight", &[3, 2 * 544]).unwrap(), 33 * 40);
        assert_eq!(layer("self_attn.q_proj", [2, 2 * 544]).unwrap(), 24 * 40);
        assert_eq!(layer("self_attn.k_proj", [1, 2 * 544]).unwrap(), 12 * 40);
        assert_eq!(layer("self_attn.o_proj", [3, 544]).unwrap(), 40 * 24);
        assert_eq!(layer("mlp.down_proj", [3, 4 * 544]).unwrap(), 40 * 100);
        let refused = layer("mlp.up_proj", [7, 3 * 544]).unwrap_err().to_string();
        assert!(refused.contains("mlp.up_proj") && refused.contains("[7, 1088]"), "{refused}");
        assert!(layer("input_layernorm", [3, 544]).unwrap_err().to_string().contains("none belong"));
    }

    #[test]
    fn another_format_another_version_and_missing_sizes_are_named() {
        let read = |entry: &Value, sizes: &Sizes| {
            Blocks::read(entry, sizes, Some(33), "LlamaForCausalLM").unwrap_err().to_string()
        };
        let with = |field: &str, value: Value| {
            let mut entry = entry();
            entry[field] = value;
            read(&entry, &sizes())
        };
        assert!(with("quant_method", json!("gptq")).contains("found `gptq`"));
        assert!(with("version", json!(2)).contains("version: expected 1, found 2"));
        assert!(with("group_size", json!(64)).contains("group_size"));
        assert!(read(&json!([]), &sizes()).contains("unnamed"));
        assert!(read(&entry(), &Sizes::default()).contains("hidden_size"));
        let huge = Sizes { hidden_size: Some(u64::MAX), ..sizes() };
        assert!(read(&entry(), &huge).contains("hidden_size"));
    }
}
