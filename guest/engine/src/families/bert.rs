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
//! Source: Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>; tensor names of transformers' `modeling_bert.py`.

use super::{Encoder, Source};
use crate::error::EngineError;
use crate::files::Config;
use crate::tokens::{Limits, Packed};
use crate::weights::{Table, Weights};
use burn::tensor::activation::gelu;
use burn::tensor::backend::Backend;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Tensor, TensorData, TensorPrimitive};
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

/// Reads configuration and weights.
pub(super) fn load<B: Backend>(source: Source<'_, B>) -> Result<Box<dyn Encoder<B>>, EngineError> {
    let config: Config<BertConfig> = Config::read(source.config.into(), "the model's shapes")?;
    check(&config)?;
    let value = &config.value;
    let depth = value.num_hidden_layers;
    source.weights.refuse_strangers(|name| is_known(name, depth))?;
    let reader = Reader { weights: &source.weights, device: source.device, eps: value.layer_norm_eps };
    let width = value.hidden_size;
    let embeddings = Embeddings {
        words: source.weights.table("embeddings.word_embeddings.weight", value.vocab_size, width)?,
        positions: positions(&source.weights, value)?,
        norm: reader.norm("embeddings.LayerNorm", width)?,
        width,
    };
    let layers = (0..depth).map(|i| Layer::load(&reader, i, value)).collect::<Result<Vec<_>, _>>()?;
    Ok(Box::new(Bert { embeddings, layers, device: source.device.clone() }))
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

struct Bert<B: Backend> {
    embeddings: Embeddings<B>,
    layers: Vec<Layer<B>>,
    device: B::Device,
}

impl<B: Backend> Encoder<B> for Bert<B> {
    fn encode(&self, batch: &Packed) -> Result<Tensor<B, 2>, EngineError> {
        let rows = self.embeddings.rows(batch)?;
        let shape = [batch.ids.len(), self.embeddings.width];
        let embedded = Tensor::from_data(TensorData::new(rows, shape), &self.device);
        let start = self.embeddings.norm.forward(embedded);
        Ok(self.layers.iter().fold(start, |x, layer| layer.forward(x, &batch.lengths)))
    }

    fn width(&self) -> usize {
        self.embeddings.width
    }

    fn limits(&self) -> Limits {
        Limits {
            tokens: self.embeddings.positions.len() / self.embeddings.width,
            vocabulary: self.embeddings.words.rows(),
        }
    }

    fn scan(&self) -> Result<(), EngineError> {
        self.embeddings.words.scan()
    }
}

struct Embeddings<B: Backend> {
    words: Table,
    /// `[max_position_embeddings, width]`, row after row, the segment's row added.
    positions: Vec<f32>,
    norm: Norm<B>,
    width: usize,
}

impl<B: Backend> Embeddings<B> {
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
}

struct Layer<B: Backend> {
    heads: usize,
    /// Query, key and value side by side: one multiplication instead of three.
    qkv: Linear<B>,
    attention_out: Linear<B>,
    attention_norm: Norm<B>,
    up: Linear<B>,
    down: Linear<B>,
    output_norm: Norm<B>,
}

impl<B: Backend> Layer<B> {
    fn load(reader: &Reader<'_, B>, index: usize, config: &BertConfig) -> Result<Self, EngineError> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let name = |part: usize| format!("encoder.layer.{index}.{}", PARTS[part]);
        Ok(Layer {
            heads: config.num_attention_heads,
            qkv: reader.linear(&[&name(0), &name(1), &name(2)], width, width)?,
            attention_out: reader.linear(&[&name(3)], width, width)?,
            attention_norm: reader.norm(&name(4), width)?,
            up: reader.linear(&[&name(5)], width, inner)?,
            down: reader.linear(&[&name(6)], inner, width)?,
            output_norm: reader.norm(&name(7), width)?,
        })
    }

    fn forward(&self, x: Tensor<B, 2>, lengths: &[usize]) -> Tensor<B, 2> {
        let seen = self.attend(self.qkv.forward(x.clone()), lengths);
        let x = self.attention_norm.forward(x + self.attention_out.forward(seen));
        let inner = gelu(self.up.forward(x.clone()));
        self.output_norm.forward(x + self.down.forward(inner))
    }

    /// Attention of each text over itself; `qkv` is `[tokens, 3 * width]`, the result `[tokens, width]`.
    fn attend(&self, qkv: Tensor<B, 2>, lengths: &[usize]) -> Tensor<B, 2> {
        let width = qkv.dims()[1] / 3;
        let mut start = 0;
        let texts: Vec<Tensor<B, 2>> = lengths
            .iter()
            .map(|&len| {
                let rows = qkv.clone().narrow(0, start, len);
                start += len;
                let heads = |part: usize| {
                    let columns = rows.clone().narrow(1, part * width, width);
                    columns.reshape([1, len, self.heads, width / self.heads]).swap_dims(1, 2)
                };
                let options = AttentionModuleOptions::default();
                let seen = attention(heads(0), heads(1), heads(2), None, None, options);
                seen.swap_dims(1, 2).reshape([len, width])
            })
            .collect();
        Tensor::cat(texts, 0)
    }
}

/// `x W^T + b`; the weight is kept as it lies in the file, `[out, in]`, and used through a transposed view.
struct Linear<B: Backend> {
    weight: Tensor<B, 2>,
    bias: Tensor<B, 2>,
}

impl<B: Backend> Linear<B> {
    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        x.matmul(self.weight.clone()) + self.bias.clone()
    }
}

struct Norm<B: Backend> {
    gamma: Tensor<B, 1>,
    beta: Tensor<B, 1>,
    eps: f64,
}

impl<B: Backend> Norm<B> {
    /// Over the last dimension. burn offers its fused operation on primitives only.
    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let gamma = self.gamma.clone().into_primitive().tensor();
        let beta = self.beta.clone().into_primitive().tensor();
        let out = B::layer_norm(x.into_primitive().tensor(), gamma, Some(beta), self.eps);
        Tensor::from_primitive(TensorPrimitive::Float(out))
    }
}

/// Reads weights into tensors of a device.
struct Reader<'a, B: Backend> {
    weights: &'a Weights,
    device: &'a B::Device,
    eps: f64,
}

impl<B: Backend> Reader<'_, B> {
    /// Linear layers of equal shape, stacked along their outputs.
    fn linear(&self, stems: &[&str], inputs: usize, outputs: usize) -> Result<Linear<B>, EngineError> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        weight.reserve_exact(stems.len() * inputs * outputs);
        for stem in stems {
            self.weights.append(&format!("{stem}.weight"), &[outputs, inputs], &mut weight)?;
            self.weights.append(&format!("{stem}.bias"), &[outputs], &mut bias)?;
        }
        let outputs = stems.len() * outputs;
        let weight: Tensor<B, 2> = Tensor::from_data(TensorData::new(weight, [outputs, inputs]), self.device);
        let bias = Tensor::from_data(TensorData::new(bias, [1, outputs]), self.device);
        Ok(Linear { weight: weight.transpose(), bias })
    }

    fn norm(&self, stem: &str, width: usize) -> Result<Norm<B>, EngineError> {
        let vector = |name: &str| -> Result<Tensor<B, 1>, EngineError> {
            let values = self.weights.read(&format!("{stem}.{name}"), &[width])?;
            Ok(Tensor::from_data(TensorData::new(values, [width]), self.device))
        };
        Ok(Norm { gamma: vector("weight")?, beta: vector("bias")?, eps: self.eps })
    }
}
