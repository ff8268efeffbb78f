//! The encoder on any device that burn has.
//!
//! Where it runs on a processor, `native.rs` is faster; `inspect` holds the two against each other.

use super::{BertConfig, Encoder, Inputs, PARTS, Source};
use crate::error::EngineError;
use crate::tokens::{Limits, Packed};
use crate::weights::Weights;
use burn::tensor::activation::gelu;
use burn::tensor::backend::Backend;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Tensor, TensorData, TensorPrimitive};

/// Reads the weights onto a device.
pub(super) fn load<B: Backend>(
    source: &Source<'_>,
    value: &BertConfig,
    device: &B::Device,
) -> Result<Box<dyn Encoder>, EngineError> {
    let reader = Reader::<B> { weights: &source.weights, device, eps: value.layer_norm_eps };
    let inputs = Inputs::load(source, value)?;
    let norm = reader.norm("embeddings.LayerNorm", value.hidden_size)?;
    let layers = (0..value.num_hidden_layers).map(|i| Layer::load(&reader, i, value));
    let layers = layers.collect::<Result<Vec<_>, _>>()?;
    Ok(Box::new(Bert { inputs, norm, layers, device: device.clone() }))
}

struct Bert<B: Backend> {
    inputs: Inputs,
    norm: Norm<B>,
    layers: Vec<Layer<B>>,
    device: B::Device,
}

impl<B: Backend> Encoder for Bert<B> {
    fn encode(&self, batch: &Packed) -> Result<Vec<f32>, EngineError> {
        let rows = self.inputs.rows(batch)?;
        let shape = [batch.ids.len(), self.inputs.width];
        let embedded = Tensor::from_data(TensorData::new(rows, shape), &self.device);
        let start = self.norm.forward(embedded);
        let states = self.layers.iter().fold(start, |x, layer| layer.forward(x, &batch.lengths));
        // Always single precision after that conversion; what is empty is reported by the caller all the same.
        Ok(states.into_data().convert::<f32>().to_vec().unwrap_or_default())
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
