//! The layers on a processor, with the kernels of this crate: single precision, panels of tokens from the first layer to the
//! last, sums added in place.

use super::{Bert, Body, Layer};
use crate::kernels::{Machine, Packed, States, Then};

/// The processor.
pub(super) struct Native(pub Machine);

/// What a layer norm scales and adds.
pub(super) struct Norm {
    gamma: Vec<f32>,
    beta: Vec<f32>,
    eps: f32,
}

/// Buffers of one pass, used by every layer.
#[derive(Default)]
struct Room {
    qkv: States,
    seen: States,
    inner: States,
}

impl Body for Native {
    type Linear = Packed;
    type Norm = Norm;

    fn linear(&self, weight: Vec<f32>, inputs: usize, bias: Vec<f32>) -> Packed {
        Packed::new(&self.0, &weight, inputs, &bias)
    }

    fn norm(&self, gamma: Vec<f32>, beta: Vec<f32>, eps: f64) -> Norm {
        Norm { gamma, beta, eps: eps as f32 }
    }

    fn encode(&self, bert: &Bert<Self>, rows: Vec<f32>, lengths: &[usize]) -> Vec<f32> {
        let mut states = States::new(&rows, bert.inputs.width);
        let mut room = Room::default();
        self.centre(&bert.norm, &mut states);
        for layer in &bert.layers {
            self.forward(layer, bert.heads, lengths, &mut states, &mut room);
        }
        states.numbers()
    }
}

impl Native {
    fn forward(
        &self,
        layer: &Layer<Native>,
        heads: usize,
        lengths: &[usize],
        states: &mut States,
        room: &mut Room,
    ) {
        let Room { qkv, seen, inner } = room;
        layer.qkv.multiply(&self.0, states, qkv, Then::Keep);
        self.0.attend_texts(qkv, lengths, heads, seen);
        layer.attention_out.multiply(&self.0, seen, states, Then::Add);
        self.centre(&layer.attention_norm, states);
        layer.up.multiply(&self.0, states, inner, Then::Gelu);
        layer.down.multiply(&self.0, inner, states, Then::Add);
        self.centre(&layer.output_norm, states);
    }

    fn centre(&self, norm: &Norm, states: &mut States) {
        self.0.layer_norm(states, &norm.gamma, &norm.beta, norm.eps);
    }
}
