//! The network: Qwen3ForCausalLM as Hugging Face's transformers defines it (normalised queries and keys, grouped
//! heads, gated feed-forward, tied embeddings), with its derivative.

use crate::ops::{self, Rotary};
use crate::random::Random;
use ndarray::{Array1, Array2, ArrayView2, s};

/// Shapes. Tensors get their names and sizes from here, and `config.json` says the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Width of the stream.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub groups: usize,
    /// Width of a head.
    pub head: usize,
    /// Width of the feed-forward part.
    pub inner: usize,
    /// Most positions.
    pub context: usize,
}

/// Base of the rotary positions.
pub const THETA: f64 = 10_000.0;

/// One tensor.
pub struct Tensor {
    /// Its name in `model.safetensors`.
    pub name: String,
    /// Its values; a vector is one row.
    pub value: Array2<f32>,
    /// Whether it is a vector.
    pub vector: bool,
}

/// Tensors of a block, as offsets from its first.
mod at {
    pub const NORM: usize = 0;
    pub const Q: usize = 1;
    pub const K: usize = 2;
    pub const V: usize = 3;
    pub const Q_NORM: usize = 4;
    pub const K_NORM: usize = 5;
    pub const O: usize = 6;
    pub const INNER_NORM: usize = 7;
    pub const GATE: usize = 8;
    pub const UP: usize = 9;
    pub const DOWN: usize = 10;
    pub const COUNT: usize = 11;
}

/// All weights: the embedding, the blocks' tensors, the last norm.
pub struct Network {
    /// Its shapes.
    pub shape: Shape,
    /// Its tensors.
    pub tensors: Vec<Tensor>,
    rotary: Rotary,
}

/// What a block keeps for the way back.
struct Kept {
    x: Array2<f32>,
    x_inverse: Array1<f32>,
    h: Array2<f32>,
    /// Queries and keys before and after their norm and turn, with the norms' reciprocals, and values.
    q: Headed,
    k: Headed,
    v: Array2<f32>,
    weights: Vec<Array2<f32>>,
    attended: Array2<f32>,
    middle: Array2<f32>,
    middle_inverse: Array1<f32>,
    h2: Array2<f32>,
    gate: Array2<f32>,
    up: Array2<f32>,
    act: Array2<f32>,
}

/// Queries or keys.
struct Headed {
    raw: Array2<f32>,
    inverse: Vec<Array1<f32>>,
    turned: Array2<f32>,
}

impl Network {
    /// With random weights.
    pub fn new(shape: Shape, random: &mut Random) -> Self {
        let deep = (2.0 * shape.layers as f32).sqrt().recip();
        let tensors = names(&shape).into_iter().map(|(name, rows, columns, vector)| {
            let shrink = if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") {
                deep
            } else {
                1.0
            };
            let deviation = if rows == shape.vocabulary { 0.02 } else { 0.6 / (columns as f32).sqrt() };
            let value = match vector {
                true => Array2::ones((1, columns)),
                false => {
                    Array2::from_shape_simple_fn((rows, columns), || random.normal() * deviation * shrink)
                }
            };
            Tensor { name, value, vector }
        });
        let tensors = tensors.collect();
        Network { shape, tensors, rotary: Rotary::new(THETA, shape.head, shape.context) }
    }

    /// Zeros in the shape of the weights.
    pub fn zeros(&self) -> Vec<Array2<f32>> {
        self.tensors.iter().map(|t| Array2::zeros(t.value.dim())).collect()
    }

    /// Number of weights.
    pub fn weights(&self) -> usize {
        self.tensors.iter().map(|t| t.value.len()).sum()
    }

    /// Logits (tokens x vocabulary) of sequences of `length` tokens, laid end to end.
    pub fn logits(&self, tokens: &[u32], length: usize) -> Array2<f32> {
        let mut x = self.embed(tokens);
        for layer in 0..self.shape.layers {
            x = self.block(layer, x, length).0;
        }
        let (last, _) = ops::rms_norm(x.view(), self.last_norm());
        last.dot(&self.tensors[0].value.t())
    }

    /// Sum of the loss over all counted targets; its derivative times `factor` is added to `gradients`.
    pub fn learn(
        &self,
        tokens: &[u32],
        targets: &[Option<u32>],
        length: usize,
        factor: f32,
        gradients: &mut [Array2<f32>],
    ) -> f64 {
        let mut kept = Vec::new();
        let mut x = self.embed(tokens);
        for layer in 0..self.shape.layers {
            let (next, keep) = self.block(layer, x, length);
            kept.push(keep);
            x = next;
        }
        let (last, inverse) = ops::rms_norm(x.view(), self.last_norm());
        let (loss, mut d_logits) = ops::cross_entropy(last.dot(&self.tensors[0].value.t()), targets);
        d_logits *= factor;
        accumulate(&mut gradients[0], &d_logits, &last);
        let d_last = d_logits.dot(&self.tensors[0].value);
        let norm = self.tensors.len() - 1;
        let mut dx =
            ops::rms_norm_back(d_last.view(), x.view(), &inverse, self.last_norm(), &mut gradients[norm]);
        for (layer, kept) in kept.into_iter().enumerate().rev() {
            dx = self.block_back(layer, dx, kept, length, gradients);
        }
        for (row, &token) in dx.rows().into_iter().zip(tokens) {
            let mut into = gradients[0].row_mut(token as usize);
            into += &row;
        }
        loss
    }

    fn last_norm(&self) -> &Array2<f32> {
        &self.tensors[self.tensors.len() - 1].value
    }

    fn embed(&self, tokens: &[u32]) -> Array2<f32> {
        let rows: Vec<_> = tokens.iter().map(|&t| t as usize).collect();
        self.tensors[0].value.select(ndarray::Axis(0), &rows)
    }

    fn of(&self, layer: usize, which: usize) -> &Array2<f32> {
        &self.tensors[1 + layer * at::COUNT + which].value
    }

    fn block(&self, layer: usize, x: Array2<f32>, length: usize) -> (Array2<f32>, Kept) {
        let (h, x_inverse) = ops::rms_norm(x.view(), self.of(layer, at::NORM));
        let linear = |which, h: &Array2<f32>| h.dot(&self.of(layer, which).t());
        let q = self.headed(linear(at::Q, &h), self.of(layer, at::Q_NORM), length);
        let k = self.headed(linear(at::K, &h), self.of(layer, at::K_NORM), length);
        let v = linear(at::V, &h);
        let (attended, weights) = self.attention(&q.turned, &k.turned, &v, length);
        let middle = &x + &linear(at::O, &attended);
        let (h2, middle_inverse) = ops::rms_norm(middle.view(), self.of(layer, at::INNER_NORM));
        let (gate, up) = (linear(at::GATE, &h2), linear(at::UP, &h2));
        let act = ops::gated(&gate, &up);
        let y = &middle + &linear(at::DOWN, &act);
        let kept =
            Kept { x, x_inverse, h, q, k, v, weights, attended, middle, middle_inverse, h2, gate, up, act };
        (y, kept)
    }

    /// Norm and turn of every head.
    fn headed(&self, raw: Array2<f32>, norm: &Array2<f32>, length: usize) -> Headed {
        let mut turned = Array2::zeros(raw.dim());
        let mut inverse = Vec::new();
        for head in 0..raw.ncols() / self.shape.head {
            let columns = self.columns(head);
            let (normed, r) = ops::rms_norm(raw.slice(s![.., columns.clone()]), norm);
            turned.slice_mut(s![.., columns.clone()]).assign(&normed);
            inverse.push(r);
            for start in (0..raw.nrows()).step_by(length) {
                self.rotary.turn(turned.slice_mut(s![start..start + length, columns.clone()]), false);
            }
        }
        Headed { raw, inverse, turned }
    }

    fn columns(&self, head: usize) -> std::ops::Range<usize> {
        head * self.shape.head..(head + 1) * self.shape.head
    }

    fn attention(
        &self,
        q: &Array2<f32>,
        k: &Array2<f32>,
        v: &Array2<f32>,
        length: usize,
    ) -> (Array2<f32>, Vec<Array2<f32>>) {
        let mut out = Array2::zeros(q.dim());
        let mut kept = Vec::new();
        for (start, head) in self.pieces(q.nrows(), length) {
            let (own, shared) = (self.columns(head), self.columns(self.group(head)));
            let rows = start..start + length;
            let (piece, weights) =
                ops::attend(cut(q, &rows, &own), cut(k, &rows, &shared), cut(v, &rows, &shared));
            out.slice_mut(s![rows, own]).assign(&piece);
            kept.push(weights);
        }
        (out, kept)
    }

    /// First row and head of every piece of attention.
    fn pieces(&self, rows: usize, length: usize) -> impl Iterator<Item = (usize, usize)> {
        let heads = self.shape.heads;
        (0..rows).step_by(length).flat_map(move |start| (0..heads).map(move |head| (start, head)))
    }

    fn group(&self, head: usize) -> usize {
        head / (self.shape.heads / self.shape.groups)
    }

    fn block_back(
        &self,
        layer: usize,
        dy: Array2<f32>,
        kept: Kept,
        length: usize,
        gradients: &mut [Array2<f32>],
    ) -> Array2<f32> {
        let first = 1 + layer * at::COUNT;
        let gradients = &mut gradients[first..first + at::COUNT];
        accumulate(&mut gradients[at::DOWN], &dy, &kept.act);
        let d_act = dy.dot(self.of(layer, at::DOWN));
        let [d_gate, d_up] = ops::gated_back(&d_act, &kept.gate, &kept.up);
        accumulate(&mut gradients[at::GATE], &d_gate, &kept.h2);
        accumulate(&mut gradients[at::UP], &d_up, &kept.h2);
        let d_h2 = d_gate.dot(self.of(layer, at::GATE)) + d_up.dot(self.of(layer, at::UP));
        let norm = self.of(layer, at::INNER_NORM);
        let into = &mut gradients[at::INNER_NORM];
        let d_middle =
            dy + ops::rms_norm_back(d_h2.view(), kept.middle.view(), &kept.middle_inverse, norm, into);
        accumulate(&mut gradients[at::O], &d_middle, &kept.attended);
        let d_attended = d_middle.dot(self.of(layer, at::O));
        let [dq, dk, dv] = self.attention_back(&d_attended, &kept, length);
        let dq =
            self.headed_back(dq, &kept.q, self.of(layer, at::Q_NORM), &mut gradients[at::Q_NORM], length);
        let dk =
            self.headed_back(dk, &kept.k, self.of(layer, at::K_NORM), &mut gradients[at::K_NORM], length);
        for (which, d) in [(at::Q, &dq), (at::K, &dk), (at::V, &dv)] {
            accumulate(&mut gradients[which], d, &kept.h);
        }
        let dh =
            dq.dot(self.of(layer, at::Q)) + dk.dot(self.of(layer, at::K)) + dv.dot(self.of(layer, at::V));
        let norm = self.of(layer, at::NORM);
        d_middle
            + ops::rms_norm_back(dh.view(), kept.x.view(), &kept.x_inverse, norm, &mut gradients[at::NORM])
    }

    fn attention_back(&self, d_out: &Array2<f32>, kept: &Kept, length: usize) -> [Array2<f32>; 3] {
        let mut dq = Array2::zeros(kept.q.raw.dim());
        let mut dk = Array2::zeros(kept.k.raw.dim());
        let mut dv = Array2::zeros(kept.v.dim());
        for ((start, head), weights) in self.pieces(d_out.nrows(), length).zip(&kept.weights) {
            let (own, shared) = (self.columns(head), self.columns(self.group(head)));
            let rows = start..start + length;
            let [q, k, v] = ops::attend_back(
                cut(d_out, &rows, &own),
                weights,
                cut(&kept.q.turned, &rows, &own),
                cut(&kept.k.turned, &rows, &shared),
                cut(&kept.v, &rows, &shared),
            );
            for (into, d, columns) in [(&mut dq, q, own), (&mut dk, k, shared.clone()), (&mut dv, v, shared)]
            {
                let mut into = into.slice_mut(s![rows.clone(), columns]);
                into += &d;
            }
        }
        [dq, dk, dv]
    }

    fn headed_back(
        &self,
        mut d: Array2<f32>,
        kept: &Headed,
        norm: &Array2<f32>,
        into: &mut Array2<f32>,
        length: usize,
    ) -> Array2<f32> {
        for (head, inverse) in kept.inverse.iter().enumerate() {
            let columns = self.columns(head);
            for start in (0..d.nrows()).step_by(length) {
                self.rotary.turn(d.slice_mut(s![start..start + length, columns.clone()]), true);
            }
            let raw = kept.raw.slice(s![.., columns.clone()]);
            let dx = ops::rms_norm_back(d.slice(s![.., columns.clone()]), raw, inverse, norm, into);
            d.slice_mut(s![.., columns]).assign(&dx);
        }
        d
    }
}

fn cut<'a>(
    x: &'a Array2<f32>,
    rows: &std::ops::Range<usize>,
    columns: &std::ops::Range<usize>,
) -> ArrayView2<'a, f32> {
    x.slice(s![rows.clone(), columns.clone()])
}

/// Adds the derivative of `y = x w'` by `w`.
fn accumulate(into: &mut Array2<f32>, dy: &Array2<f32>, x: &Array2<f32>) {
    ndarray::linalg::general_mat_mul(1.0, &dy.t(), x, 1.0, into);
}

/// Name, rows, columns of every tensor, and whether it is a vector.
fn names(shape: &Shape) -> Vec<(String, usize, usize, bool)> {
    let Shape { vocabulary, hidden, heads, groups, head, inner, .. } = *shape;
    let mut out = vec![("model.embed_tokens.weight".into(), vocabulary, hidden, false)];
    for layer in 0..shape.layers {
        let block = [
            ("input_layernorm", 1, hidden, true),
            ("self_attn.q_proj", heads * head, hidden, false),
            ("self_attn.k_proj", groups * head, hidden, false),
            ("self_attn.v_proj", groups * head, hidden, false),
            ("self_attn.q_norm", 1, head, true),
            ("self_attn.k_norm", 1, head, true),
            ("self_attn.o_proj", hidden, heads * head, false),
            ("post_attention_layernorm", 1, hidden, true),
            ("mlp.gate_proj", inner, hidden, false),
            ("mlp.up_proj", inner, hidden, false),
            ("mlp.down_proj", hidden, inner, false),
        ];
        let full = |(name, rows, columns, vector)| {
            (format!("model.layers.{layer}.{name}.weight"), rows, columns, vector)
        };
        out.extend(block.map(full));
    }
    out.push(("model.norm.weight".into(), 1, hidden, true));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Shape =
        Shape { vocabulary: 13, hidden: 12, layers: 2, heads: 4, groups: 2, head: 4, inner: 10, context: 12 };

    /// A network with all its norms off one, tokens, and targets of which one does not count.
    fn small() -> (Network, Vec<u32>, Vec<Option<u32>>) {
        let mut random = Random::new(7);
        let mut network = Network::new(SMALL, &mut random);
        for tensor in &mut network.tensors {
            tensor.value.mapv_inplace(|x| x + random.normal() * 0.2);
        }
        let tokens: Vec<_> = (0..12).map(|_| random.below(13) as u32).collect();
        let mut targets: Vec<_> = (0..12).map(|_| Some(random.below(13) as u32)).collect();
        targets[4] = None;
        (network, tokens, targets)
    }

    #[test]
    fn every_derivative_is_the_limit_of_differences() {
        let (mut network, tokens, targets) = small();
        let mut gradients = network.zeros();
        network.learn(&tokens, &targets, 6, 1.0, &mut gradients);
        let loss = |network: &Network| ops::cross_entropy(network.logits(&tokens, 6), &targets).0;
        let mut random = Random::new(8);
        for tensor in 0..network.tensors.len() {
            for _ in 0..6 {
                let (rows, columns) = network.tensors[tensor].value.dim();
                let place = (random.below(rows), random.below(columns));
                let old = network.tensors[tensor].value[place];
                let step = 4e-3;
                network.tensors[tensor].value[place] = old + step;
                let above = loss(&network);
                network.tensors[tensor].value[place] = old - step;
                let below = loss(&network);
                network.tensors[tensor].value[place] = old;
                let expected = (above - below) / (2.0 * f64::from(step));
                let found = f64::from(gradients[tensor][place]);
                let name = &network.tensors[tensor].name;
                assert!(
                    (expected - found).abs() < 2e-2 * (1.0 + expected.abs()),
                    "{name}: {expected} {found}"
                );
            }
        }
    }

    #[test]
    fn a_later_token_changes_nothing_before_it() {
        let (network, mut tokens, _) = small();
        let before = network.logits(&tokens, 12);
        tokens[9] = (tokens[9] + 1) % 13;
        let after = network.logits(&tokens, 12);
        assert_eq!(before.slice(s![..9, ..]), after.slice(s![..9, ..]));
        assert_ne!(before.slice(s![9.., ..]), after.slice(s![9.., ..]));
    }

    #[test]
    fn sequences_in_one_pass_do_not_see_each_other() {
        let (network, tokens, _) = small();
        let together = network.logits(&tokens, 6);
        let alone = network.logits(&tokens[6..], 6);
        assert!((&together.slice(s![6.., ..]) - &alone).iter().all(|d| d.abs() < 1e-5));
    }
}
