//! The layers on a processor, with the kernels of this crate: single precision, panels of tokens from the first layer to the
//! last, sums added in place.

use super::{Bert, Body, Layer};
use crate::kernels::{Machine, Packed, States, Then};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most tokens of a pass whose buffers are kept for the next one: asking the system for 14 KB a token anew costs a twentieth of
/// a pass of a small model.
const KEPT: usize = 512;

/// The processor.
pub(super) struct Native {
    machine: Machine,
    /// Buffers that no pass has.
    room: Mutex<Option<Room>>,
}

/// What a layer norm scales and adds.
pub(super) struct Norm {
    gamma: Vec<f32>,
    beta: Vec<f32>,
    eps: f32,
}

/// Buffers of one pass, used by every layer.
#[derive(Default)]
struct Room {
    states: States,
    qkv: States,
    seen: States,
    inner: States,
}

impl Body for Native {
    type Linear = Packed;
    type Norm = Norm;

    fn linear(&self, weight: Vec<f32>, inputs: usize, bias: Vec<f32>) -> Packed {
        Packed::new(&self.machine, &weight, inputs, &bias)
    }

    fn norm(&self, gamma: Vec<f32>, beta: Vec<f32>, eps: f64) -> Norm {
        Norm { gamma, beta, eps: eps as f32 }
    }

    fn encode(&self, bert: &Bert<Self>, rows: Vec<f32>, lengths: &[usize]) -> Vec<f32> {
        let mut room = self.room().take().unwrap_or_default();
        room.states.fill(&rows, bert.inputs.width);
        self.centre(&bert.norm, &mut room.states);
        for layer in &bert.layers {
            self.forward(layer, bert.heads, lengths, &mut room);
        }
        let numbers = room.states.numbers();
        if lengths.iter().sum::<usize>() <= KEPT {
            *self.room() = Some(room);
        }
        numbers
    }
}

impl Native {
    pub(super) fn new(machine: Machine) -> Native {
        Native { machine, room: Mutex::default() }
    }

    fn room(&self) -> MutexGuard<'_, Option<Room>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forward(&self, layer: &Layer<Native>, heads: usize, lengths: &[usize], room: &mut Room) {
        let (machine, Room { states, qkv, seen, inner }) = (&self.machine, room);
        layer.qkv.multiply(machine, states, qkv, Then::Keep);
        machine.attend_texts(qkv, lengths, heads, seen);
        layer.attention_out.multiply(machine, seen, states, Then::Add);
        self.centre(&layer.attention_norm, states);
        layer.up.multiply(machine, states, inner, Then::Gelu);
        layer.down.multiply(machine, inner, states, Then::Add);
        self.centre(&layer.output_norm, states);
    }

    fn centre(&self, norm: &Norm, states: &mut States) {
        self.machine.layer_norm(states, &norm.gamma, &norm.beta, norm.eps);
    }
}
