//! One layer of a decoder, and the reading of its weights.
//!
//! Source: tensor names and order of operations of transformers' `modeling_llama.py` and `modeling_qwen3.py`.

use super::attention::{LayerCache, Plan, attend};
use super::{Shape, names};
use crate::error::EngineError;
use crate::shards::Shards;
use burn::tensor::activation::silu;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

pub(super) struct Layer<B: Backend> {
    /// Query, key and value side by side, `[width, (heads + 2 kv_heads) * head]`.
    qkv: Tensor<B, 2>,
    out: Tensor<B, 2>,
    /// Gate and up side by side, `[width, 2 * inner]`.
    gate_up: Tensor<B, 2>,
    down: Tensor<B, 2>,
    before_attention: Norm<B>,
    before_mlp: Norm<B>,
    /// Of queries and of keys.
    head_norms: Option<(Norm<B>, Norm<B>)>,
}

impl<B: Backend> Layer<B> {
    pub fn load(reader: &Reader<'_, B>, index: usize, shape: &Shape) -> Result<Self, EngineError> {
        let name = |part: usize| names::of(index, part);
        let (width, inner, head) = (shape.width, shape.inner, shape.head);
        let (queries, keys) = (shape.heads * head, shape.kv_heads * head);
        let (q, k, v) = (name(0), name(1), name(2));
        let norm = |part: usize| reader.norm(&name(part), head, shape.eps);
        Ok(Layer {
            qkv: reader.matrix(&[(&q, queries), (&k, keys), (&v, keys)], width)?,
            out: reader.matrix(&[(&name(3), width)], queries)?,
            gate_up: reader.matrix(&[(&name(4), inner), (&name(5), inner)], width)?,
            down: reader.matrix(&[(&name(6), width)], inner)?,
            before_attention: reader.norm(&name(7), width, shape.eps)?,
            before_mlp: reader.norm(&name(8), width, shape.eps)?,
            head_norms: if shape.head_norms { Some((norm(9)?, norm(10)?)) } else { None },
        })
    }

    /// `x` is `[tokens, width]`, and so is the result.
    pub fn forward(
        &self,
        x: Tensor<B, 2>,
        plan: &Plan<'_, B>,
        cache: &mut LayerCache<B>,
        shape: &Shape,
    ) -> Tensor<B, 2> {
        let tokens = x.dims()[0];
        let qkv = self.before_attention.forward(x.clone()).matmul(self.qkv.clone());
        let (queries, keys) = (shape.heads * shape.head, shape.kv_heads * shape.head);
        let q = qkv.clone().narrow(1, 0, queries).reshape([tokens * shape.heads, shape.head]);
        let k = qkv.clone().narrow(1, queries, keys).reshape([tokens * shape.kv_heads, shape.head]);
        let v = qkv.narrow(1, queries + keys, keys).reshape([tokens, shape.kv_heads, shape.head]);
        let (q, k) = match &self.head_norms {
            Some((of_q, of_k)) => (of_q.forward(q), of_k.forward(k)),
            None => (q, k),
        };
        let q = plan.turn(q.reshape([tokens, shape.heads, shape.head]));
        let k = plan.turn(k.reshape([tokens, shape.kv_heads, shape.head]));
        cache.write(plan, k, v);
        let seen = attend(q, cache, plan, shape);
        let x = x + seen.matmul(self.out.clone());
        let both = self.before_mlp.forward(x.clone()).matmul(self.gate_up.clone());
        let gate = both.clone().narrow(1, 0, shape.inner);
        let up = both.narrow(1, shape.inner, shape.inner);
        x + (silu(gate) * up).matmul(self.down.clone())
    }
}

/// Root mean square norm over the last dimension.
pub(super) struct Norm<B: Backend> {
    gamma: Tensor<B, 2>,
    eps: f64,
}

impl<B: Backend> Norm<B> {
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let mean = (x.clone() * x.clone()).mean_dim(1);
        let scale = (mean + self.eps).sqrt().recip();
        x * scale * self.gamma.clone()
    }
}

/// Reads weights into tensors of a device.
pub(super) struct Reader<'a, B: Backend> {
    pub shards: &'a Shards,
    pub device: &'a B::Device,
}

impl<B: Backend> Reader<'_, B> {
    /// Matrices, each with its number of outputs, stacked along them; as a view `[inputs, all outputs]`.
    pub fn matrix(&self, parts: &[(&str, usize)], inputs: usize) -> Result<Tensor<B, 2>, EngineError> {
        // Looked for before anything is allocated: `config.json` may claim any size, the file only its own.
        for (name, outputs) in parts {
            self.shards.expect(name, &[*outputs, inputs])?;
        }
        let outputs: usize = parts.iter().map(|(_, outputs)| outputs).sum();
        let mut values = Vec::new();
        values.reserve_exact(outputs * inputs);
        for (name, outputs) in parts {
            self.shards.append(name, &[*outputs, inputs], &mut values)?;
        }
        let tensor: Tensor<B, 2> = Tensor::from_data(TensorData::new(values, [outputs, inputs]), self.device);
        Ok(tensor.transpose())
    }

    pub fn norm(&self, name: &str, width: usize, eps: f64) -> Result<Norm<B>, EngineError> {
        let mut gamma = Vec::new();
        self.shards.append(name, &[width], &mut gamma)?;
        Ok(Norm { gamma: Tensor::from_data(TensorData::new(gamma, [1, width]), self.device), eps })
    }
}
