//! The layers on any device that burn has.
//!
//! Where it runs on a processor, `native.rs` is faster; `inspect` holds the two against each other.

use super::{Bert, Body, Layer};
use burn::tensor::activation::gelu;
use burn::tensor::backend::Backend;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Tensor, TensorData, TensorPrimitive};

/// A device of burn.
pub(super) struct Portable<B: Backend>(pub B::Device);

impl<B: Backend> Body for Portable<B> {
    type Linear = Linear<B>;
    type Norm = Norm<B>;

    fn linear(&self, weight: Vec<f32>, inputs: usize, bias: Vec<f32>) -> Linear<B> {
        let outputs = bias.len();
        let weight: Tensor<B, 2> = Tensor::from_data(TensorData::new(weight, [outputs, inputs]), &self.0);
        let bias = Tensor::from_data(TensorData::new(bias, [1, outputs]), &self.0);
        Linear { weight: weight.transpose(), bias }
    }

    fn norm(&self, gamma: Vec<f32>, beta: Vec<f32>, eps: f64) -> Norm<B> {
        let vector = |values: Vec<f32>| {
            let width = values.len();
            Tensor::from_data(TensorData::new(values, [width]), &self.0)
        };
        Norm { gamma: vector(gamma), beta: vector(beta), eps }
    }

    fn encode(&self, bert: &Bert<Self>, rows: Vec<f32>, lengths: &[usize]) -> Vec<f32> {
        let width = bert.inputs.width;
        let shape = [rows.len() / width, width];
        let embedded = Tensor::from_data(TensorData::new(rows, shape), &self.0);
        let start = bert.norm.forward(embedded);
        let states = bert.layers.iter().fold(start, |x, layer| forward(layer, x, bert.heads, lengths));
        // Always single precision after that conversion; what is empty is reported by the caller all the same.
        states.into_data().convert::<f32>().to_vec().unwrap_or_default()
    }
}

fn forward<B: Backend>(
    layer: &Layer<Portable<B>>,
    x: Tensor<B, 2>,
    heads: usize,
    lengths: &[usize],
) -> Tensor<B, 2> {
    let seen = attend(layer.qkv.forward(x.clone()), heads, lengths);
    let x = layer.attention_norm.forward(x + layer.attention_out.forward(seen));
    let inner = gelu(layer.up.forward(x.clone()));
    layer.output_norm.forward(x + layer.down.forward(inner))
}

/// Attention of each text over itself; `qkv` is `[tokens, 3 * width]`, the result `[tokens, width]`.
fn attend<B: Backend>(qkv: Tensor<B, 2>, heads: usize, lengths: &[usize]) -> Tensor<B, 2> {
    let width = qkv.dims()[1] / 3;
    let mut start = 0;
    let texts: Vec<Tensor<B, 2>> = lengths
        .iter()
        .map(|&len| {
            let rows = qkv.clone().narrow(0, start, len);
            start += len;
            let split = |part: usize| {
                let columns = rows.clone().narrow(1, part * width, width);
                columns.reshape([1, len, heads, width / heads]).swap_dims(1, 2)
            };
            let options = AttentionModuleOptions::default();
            let seen = attention(split(0), split(1), split(2), None, None, options);
            seen.swap_dims(1, 2).reshape([len, width])
        })
        .collect();
    Tensor::cat(texts, 0)
}

/// `x W^T + b`; the weight is kept as it lies in the file, `[out, in]`, and used through a transposed view.
pub(super) struct Linear<B: Backend> {
    weight: Tensor<B, 2>,
    bias: Tensor<B, 2>,
}

impl<B: Backend> Linear<B> {
    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        x.matmul(self.weight.clone()) + self.bias.clone()
    }
}

pub(super) struct Norm<B: Backend> {
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
