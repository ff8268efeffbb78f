//! The encoder on a processor, with the kernels of this crate: single precision, one buffer a step, sums added in place.

use super::{BertConfig, Encoder, Inputs, PARTS, Source};
use crate::error::EngineError;
use crate::kernels::{Machine, Packed as Linear};
use crate::tokens::{Limits, Packed};
use crate::weights::Weights;

/// Reads the weights and lays them out.
pub(super) fn load(source: &Source<'_>, value: &BertConfig) -> Result<Box<dyn Encoder>, EngineError> {
    let reader = Reader { weights: &source.weights, eps: value.layer_norm_eps as f32 };
    let inputs = Inputs::load(source, value)?;
    let norm = reader.norm("embeddings.LayerNorm", value.hidden_size)?;
    let layers = (0..value.num_hidden_layers).map(|i| Layer::load(&reader, i, value));
    let layers = layers.collect::<Result<Vec<_>, _>>()?;
    let machine = Machine::new(source.threads);
    Ok(Box::new(Bert { machine, inputs, norm, layers, heads: value.num_attention_heads }))
}

struct Bert {
    machine: Machine,
    inputs: Inputs,
    norm: Norm,
    layers: Vec<Layer>,
    heads: usize,
}

/// Buffers of one pass, used by every layer.
#[derive(Default)]
struct Room {
    qkv: Vec<f32>,
    seen: Vec<f32>,
    inner: Vec<f32>,
    scratch: Vec<f32>,
}

impl Encoder for Bert {
    fn encode(&self, batch: &Packed) -> Result<Vec<f32>, EngineError> {
        let mut states = self.inputs.rows(batch)?;
        let mut room = Room::default();
        self.norm.apply(&self.machine, &mut states);
        for layer in &self.layers {
            layer.forward(&self.machine, self.heads, &batch.lengths, &mut states, &mut room);
        }
        Ok(states)
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

struct Layer {
    /// Query, key and value side by side: one multiplication instead of three.
    qkv: Linear,
    attention_out: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    output_norm: Norm,
}

impl Layer {
    fn load(reader: &Reader<'_>, index: usize, config: &BertConfig) -> Result<Self, EngineError> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let name = |part: usize| format!("encoder.layer.{index}.{}", PARTS[part]);
        Ok(Layer {
            qkv: reader.linear(&[&name(0), &name(1), &name(2)], width, width)?,
            attention_out: reader.linear(&[&name(3)], width, width)?,
            attention_norm: reader.norm(&name(4), width)?,
            up: reader.linear(&[&name(5)], width, inner)?,
            down: reader.linear(&[&name(6)], inner, width)?,
            output_norm: reader.norm(&name(7), width)?,
        })
    }

    /// `states` is `[tokens, width]`, before and after.
    fn forward(
        &self,
        machine: &Machine,
        heads: usize,
        lengths: &[usize],
        states: &mut [f32],
        room: &mut Room,
    ) {
        let tokens: usize = lengths.iter().sum();
        let Room { qkv, seen, inner, scratch } = room;
        qkv.resize(tokens * self.qkv.outputs(), 0.0);
        seen.resize(states.len(), 0.0);
        inner.resize(tokens * self.up.outputs(), 0.0);
        self.qkv.multiply(machine, states, qkv, false, scratch);
        machine.attend_texts(qkv, lengths, heads, seen);
        self.attention_out.multiply(machine, seen, states, true, scratch);
        self.attention_norm.apply(machine, states);
        self.up.multiply(machine, states, inner, false, scratch);
        machine.gelu(inner, self.up.outputs());
        self.down.multiply(machine, inner, states, true, scratch);
        self.output_norm.apply(machine, states);
    }
}

struct Norm {
    gamma: Vec<f32>,
    beta: Vec<f32>,
    eps: f32,
}

impl Norm {
    fn apply(&self, machine: &Machine, rows: &mut [f32]) {
        machine.layer_norm(rows, &self.gamma, &self.beta, self.eps);
    }
}

/// Reads weights by their names.
struct Reader<'a> {
    weights: &'a Weights,
    eps: f32,
}

impl Reader<'_> {
    /// Linear layers of equal shape, stacked along their outputs.
    fn linear(&self, stems: &[&str], inputs: usize, outputs: usize) -> Result<Linear, EngineError> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        weight.reserve_exact(stems.len() * inputs * outputs);
        for stem in stems {
            self.weights.append(&format!("{stem}.weight"), &[outputs, inputs], &mut weight)?;
            self.weights.append(&format!("{stem}.bias"), &[outputs], &mut bias)?;
        }
        Ok(Linear::new(&weight, inputs, &bias))
    }

    fn norm(&self, stem: &str, width: usize) -> Result<Norm, EngineError> {
        let vector = |name: &str| self.weights.read(&format!("{stem}.{name}"), &[width]);
        Ok(Norm { gamma: vector("weight")?, beta: vector("bias")?, eps: self.eps })
    }
}
