//! `BertModel`: the encoder of MiniLM, BGE and their kin.
//!
//! ```text
//! x = LayerNorm(word[id] + position[i] + segment[0])
//! each layer:  x = LayerNorm(x + O(attention(Q x, K x, V x)))
//!              x = LayerNorm(x + down(gelu(up x)))
//! ```
//! Texts are packed, so the linear layers see one matrix of all tokens and attention runs text by text; a mask would
//! only undo padding that was never made. The pooler's weights are known and not read: sentence embeddings don't use it.
//!
//! This file reads it; `native.rs` computes it on the processor with the kernels of this crate, `portable.rs` on any device
//! of burn ([`Body`]).
//!
//! Source: Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>; tensor names of transformers' `modeling_bert.py`.

mod native;
mod portable;

use super::{Encoder, Source};
use crate::error::EngineError;
use crate::files::Config;
use crate::kernels::Machine;
use crate::tokens::{Limits, Packed};
use crate::weights::{Table, Weights};
use burn::tensor::backend::Backend;
use native::Native;
use portable::Portable;
use serde::Deserialize;

/// Name in `config.json`.
pub(super) const ARCHITECTURE: &str = "BertModel";
/// Tensors that a checkpoint may carry and this engine does not read.
const UNREAD: [&str; 3] = ["embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"];

#[derive(Deserialize)]
struct BertConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f64,
    hidden_act: String,
    #[serde(default = "absolute")]
    position_embedding_type: String,
    #[serde(default)]
    is_decoder: bool,
}

fn absolute() -> String {
    "absolute".into()
}

/// Shapes, all within sensible bounds.
fn check(config: &Config<BertConfig>) -> Result<(), EngineError> {
    let value = &config.value;
    config.in_range("vocab_size", value.vocab_size, 1..=1 << 22)?;
    config.in_range("hidden_size", value.hidden_size, 1..=1 << 14)?;
    config.in_range("num_hidden_layers", value.num_hidden_layers, 1..=256)?;
    config.in_range("num_attention_heads", value.num_attention_heads, 1..=1024)?;
    config.in_range("intermediate_size", value.intermediate_size, 1..=1 << 16)?;
    config.in_range("max_position_embeddings", value.max_position_embeddings, 1..=1 << 17)?;
    config.in_range("type_vocab_size", value.type_vocab_size, 1..=1 << 10)?;
    if !value.hidden_size.is_multiple_of(value.num_attention_heads) {
        let expected = format!("a divisor of hidden_size {}", value.hidden_size);
        return Err(config.bad("num_attention_heads", &value.num_attention_heads.to_string(), expected));
    }
    let eps = value.layer_norm_eps;
    if !(0.0..=0.1).contains(&eps) || eps == 0.0 {
        return Err(config.bad("layer_norm_eps", &eps.to_string(), "above 0 and at most 0.1"));
    }
    if value.hidden_act != "gelu" {
        return Err(config.unsupported("hidden_act", &value.hidden_act, "gelu"));
    }
    if value.position_embedding_type != "absolute" {
        let found = &value.position_embedding_type;
        return Err(config.unsupported("position_embedding_type", found, "absolute"));
    }
    if value.is_decoder {
        return Err(config.unsupported("is_decoder", "true", "false"));
    }
    Ok(())
}

/// Reads configuration and weights, for the processor.
pub(super) fn load(source: Source<'_>) -> Result<Box<dyn Encoder>, EngineError> {
    Bert::load(&source, Native::new(Machine::new(source.threads)))
}

/// The same, for a device that burn has.
pub(super) fn portable<B: Backend>(
    source: Source<'_>,
    device: &B::Device,
) -> Result<Box<dyn Encoder>, EngineError> {
    Bert::load(&source, Portable::<B>(device.clone()))
}

/// Shapes within bounds, and no tensor that is not known.
fn read(source: &Source<'_>) -> Result<BertConfig, EngineError> {
    let config: Config<BertConfig> = Config::read(source.config.into(), "the model's shapes")?;
    check(&config)?;
    let depth = config.value.num_hidden_layers;
    source.weights.refuse_strangers(|name| is_known(name, depth))?;
    Ok(config.value)
}

/// Position rows with the row of segment 0 added: a single text has no other segment.
fn positions(weights: &Weights, config: &BertConfig) -> Result<Vec<f32>, EngineError> {
    let width = config.hidden_size;
    let shape = [config.type_vocab_size, width];
    let segments = weights.read("embeddings.token_type_embeddings.weight", &shape)?;
    let shape = [config.max_position_embeddings, width];
    let mut rows = weights.read("embeddings.position_embeddings.weight", &shape)?;
    for row in rows.chunks_exact_mut(width) {
        row.iter_mut().zip(&segments).for_each(|(value, segment)| *value += segment);
    }
    Ok(rows)
}

/// Tensors of one layer, without their `.weight` or `.bias`.
const PARTS: [&str; 8] = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
];

fn is_known(name: &str, depth: usize) -> bool {
    if UNREAD.contains(&name) {
        return true;
    }
    let Some((stem, "weight" | "bias")) = name.rsplit_once('.') else { return false };
    match stem.strip_prefix("encoder.layer.").and_then(|rest| rest.split_once('.')) {
        Some((index, part)) => index.parse().is_ok_and(|i: usize| i < depth) && PARTS.contains(&part),
        None => match stem.strip_prefix("embeddings.") {
            Some("LayerNorm") => true,
            Some("word_embeddings" | "position_embeddings" | "token_type_embeddings") => {
                name.ends_with(".weight")
            }
            _ => false,
        },
    }
}

/// What goes into the first layer: sums of rows of three tables.
struct Inputs {
    words: Table,
    /// `[max_position_embeddings, width]`, row after row, the segment's row added.
    positions: Vec<f32>,
    width: usize,
}

impl Inputs {
    fn load(source: &Source<'_>, value: &BertConfig) -> Result<Self, EngineError> {
        let width = value.hidden_size;
        let words = source.weights.table("embeddings.word_embeddings.weight", value.vocab_size, width)?;
        Ok(Inputs { words, positions: positions(&source.weights, value)?, width })
    }

    /// Sums of word, position and segment rows, `[tokens, width]`.
    fn rows(&self, batch: &Packed) -> Result<Vec<f32>, EngineError> {
        let mut out = Vec::with_capacity(batch.ids.len() * self.width);
        let positions = batch.lengths.iter().flat_map(|len| 0..*len);
        for (id, position) in batch.ids.iter().zip(positions) {
            let start = out.len();
            self.words.append_row(*id as usize, &mut out)?;
            let row = &self.positions[position * self.width..][..self.width];
            out[start..].iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        Ok(out)
    }

    fn limits(&self) -> Limits {
        Limits { tokens: self.positions.len() / self.width, vocabulary: self.words.rows() }
    }
}

/// Where the layers are computed: how weights are held there, and what is done with them.
trait Body: Sized + Send + Sync + 'static {
    type Linear: Send + Sync;
    type Norm: Send + Sync;

    /// Of weights as they lie in the file, `[outputs, inputs]`, and a bias for each output.
    fn linear(&self, weight: Vec<f32>, inputs: usize, bias: Vec<f32>) -> Self::Linear;

    fn norm(&self, gamma: Vec<f32>, beta: Vec<f32>, eps: f64) -> Self::Norm;

    /// From what goes into the first layer to what comes out of the last, both `[tokens, width]`.
    fn encode(&self, bert: &Bert<Self>, rows: Vec<f32>, lengths: &[usize]) -> Vec<f32>;
}

struct Bert<B: Body> {
    body: B,
    inputs: Inputs,
    norm: B::Norm,
    layers: Vec<Layer<B>>,
    heads: usize,
}

impl<B: Body> Bert<B> {
    fn load(source: &Source<'_>, body: B) -> Result<Box<dyn Encoder>, EngineError> {
        let config = read(source)?;
        let reader = Reader { weights: &source.weights, body: &body, config: &config };
        let norm = reader.norm("embeddings.LayerNorm")?;
        let layers = (0..config.num_hidden_layers).map(|i| reader.layer(i)).collect::<Result<_, _>>()?;
        let inputs = Inputs::load(source, &config)?;
        Ok(Box::new(Bert { body, inputs, norm, layers, heads: config.num_attention_heads }))
    }
}

impl<B: Body> Encoder for Bert<B> {
    fn encode(&self, batch: &Packed) -> Result<Vec<f32>, EngineError> {
        Ok(self.body.encode(self, self.inputs.rows(batch)?, &batch.lengths))
    }

    fn width(&self) -> usize {
        self.inputs.width
    }

    fn limits(&self) -> Limits {
        self.inputs.limits()
    }

    fn scan(&self) -> Result<(), EngineError> {
        self.inputs.words.scan()
    }
}

struct Layer<B: Body> {
    /// Query, key and value side by side: one multiplication instead of three.
    qkv: B::Linear,
    attention_out: B::Linear,
    attention_norm: B::Norm,
    up: B::Linear,
    down: B::Linear,
    output_norm: B::Norm,
}

/// Reads weights by their names.
struct Reader<'a, B> {
    weights: &'a Weights,
    body: &'a B,
    config: &'a BertConfig,
}

impl<B: Body> Reader<'_, B> {
    fn layer(&self, index: usize) -> Result<Layer<B>, EngineError> {
        let (width, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let name = |part: usize| format!("encoder.layer.{index}.{}", PARTS[part]);
        Ok(Layer {
            qkv: self.linear(&[&name(0), &name(1), &name(2)], width, width)?,
            attention_out: self.linear(&[&name(3)], width, width)?,
            attention_norm: self.norm(&name(4))?,
            up: self.linear(&[&name(5)], width, inner)?,
            down: self.linear(&[&name(6)], inner, width)?,
            output_norm: self.norm(&name(7))?,
        })
    }

    /// Linear layers of equal shape, stacked along their outputs.
    fn linear(&self, stems: &[&str], inputs: usize, outputs: usize) -> Result<B::Linear, EngineError> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        weight.reserve_exact(stems.len() * inputs * outputs);
        for stem in stems {
            self.weights.append(&format!("{stem}.weight"), &[outputs, inputs], &mut weight)?;
            self.weights.append(&format!("{stem}.bias"), &[outputs], &mut bias)?;
        }
        Ok(self.body.linear(weight, inputs, bias))
    }

    fn norm(&self, stem: &str) -> Result<B::Norm, EngineError> {
        let vector = |name: &str| self.weights.read(&format!("{stem}.{name}"), &[self.config.hidden_size]);
        Ok(self.body.norm(vector("weight")?, vector("bias")?, self.config.layer_norm_eps))
    }
}
