//! Names of a decoder's tensors.
//!
//! Source: transformers' `modeling_llama.py` and `modeling_qwen3.py`.

use super::Shape;

/// What a tensor is for, in the order in which a file of bytes has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// It is multiplied by.
    Matrix,
    /// Its rows are words, and it is no head.
    Words,
    /// It scales.
    Norm,
}

/// A tensor of a decoder.
#[derive(Debug, Clone)]
pub(crate) struct TensorOf {
    pub name: String,
    /// `[outputs, inputs]` of a matrix.
    pub shape: Vec<usize>,
    pub role: Role,
}

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
/// How many of them are matrices; the others are norms.
const MATRICES: usize = 7;
/// How many of them are there without norms of heads.
const PLAIN: usize = 9;

/// The name of a part of a layer: queries, keys, values, out, gate, up, down, norms before attention and before the rest,
/// norms of queries and of keys.
pub(super) fn of(layer: usize, part: usize) -> String {
    format!("model.layers.{layer}.{}.weight", PARTS[part])
}

impl Shape {
    /// All tensors, the layers' one after the other. A head that a tied model carries all the same is none of them.
    pub fn tensors(&self) -> Vec<TensorOf> {
        let table = vec![self.vocabulary, self.width];
        let words = if self.tied { Role::Matrix } else { Role::Words };
        let of = |name: &str, shape, role| TensorOf { name: name.into(), shape, role };
        let mut all = vec![of(OUTER[0], table.clone(), words), of(OUTER[1], vec![self.width], Role::Norm)];
        all.extend((!self.tied).then(|| of(OUTER[2], table, Role::Matrix)));
        for layer in 0..self.layers {
            let parts = if self.head_norms { PARTS.len() } else { PLAIN };
            all.extend((0..parts).map(|part| {
                let role = if part < MATRICES { Role::Matrix } else { Role::Norm };
                TensorOf { name: self::of(layer, part), shape: self.part(part), role }
            }));
        }
        all
    }

    /// The shape of a part of a layer.
    fn part(&self, part: usize) -> Vec<usize> {
        let (width, queries, keys) = (self.width, self.heads * self.head, self.kv_heads * self.head);
        match part {
            0 => vec![queries, width],
            1 | 2 => vec![keys, width],
            3 => vec![width, queries],
            4 | 5 => vec![self.inner, width],
            6 => vec![width, self.inner],
            7 | 8 => vec![width],
            _ => vec![self.head],
        }
    }

    /// Elements of all tensors.
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum()
    }

    /// Whether this decoder has a tensor of this name.
    pub fn is_known(&self, name: &str) -> bool {
        is_known(name, self)
    }
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
