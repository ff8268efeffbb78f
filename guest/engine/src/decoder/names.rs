//! Names of a decoder's tensors.
//!
//! Source: transformers' `modeling_llama.py` and `modeling_qwen3.py`.

use super::Shape;

/// Word table, last norm, head.
pub(super) const OUTER: [&str; 3] = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"];

/// Tensors of one layer, without the prefix and `.weight`.
const PARTS: [&str; 11] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "input_layernorm",
    "post_attention_layernorm",
    "self_attn.q_norm",
    "self_attn.k_norm",
];
/// How many of them are there without norms of heads.
const PLAIN: usize = 9;

/// The name of a part of a layer: queries, keys, values, out, gate, up, down, norms before attention and before the rest,
/// norms of queries and of keys.
pub(super) fn of(layer: usize, part: usize) -> String {
    format!("model.layers.{layer}.{}.weight", PARTS[part])
}

/// Whether a decoder of this shape has a tensor of this name.
pub(super) fn is_known(name: &str, shape: &Shape) -> bool {
    if OUTER.contains(&name) {
        return true;
    }
    let Some(rest) = name.strip_prefix("model.layers.").and_then(|rest| rest.strip_suffix(".weight")) else {
        return false;
    };
    let parts = if shape.head_norms { &PARTS[..] } else { &PARTS[..PLAIN] };
    match rest.split_once('.') {
        Some((index, part)) => index.parse().is_ok_and(|i: usize| i < shape.layers) && parts.contains(&part),
        None => false,
    }
}
