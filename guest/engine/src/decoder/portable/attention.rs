//! Attention over keys and values in blocks, and the pool that holds them.
//!
//! ```text
//! pool of a layer   [blocks * BLOCK, kv_heads, head]        keys, and the same for values
//! request           blocks 7 2 9: token t lies in row blocks[t / BLOCK] * BLOCK + t % BLOCK
//! ```
//! New keys and values are written in place, run by run; those of a request are gathered to attend. Query heads that
//! share a head of keys stand below each other, so that grouped queries are one multiplication a key head.

use super::{BLOCK, Piece, Shape};
use burn::tensor::activation::softmax;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

/// What all layers of a pass share.
pub(super) struct Plan<'a, B: Backend> {
    pieces: &'a [Piece<'a>],
    /// Rows of the pool that hold a piece's request up to the piece's end.
    rows: Vec<Tensor<B, 1, Int>>,
    /// What a piece of several tokens may not see, `[1, 1, tokens, seen]`.
    masks: Vec<Option<Tensor<B, 4>>>,
    /// First row of the pass, first row of the pool, number of rows: where new keys go.
    runs: Vec<(usize, usize, usize)>,
    /// `[tokens, 1, head / 2]`.
    cos: Tensor<B, 3>,
    sin: Tensor<B, 3>,
}

impl<'a, B: Backend> Plan<'a, B> {
    pub fn new(pieces: &'a [Piece<'a>], shape: &Shape, device: &B::Device) -> Self {
        let frequencies = shape.rope.frequencies(shape.head);
        let positions = pieces.iter().flat_map(|piece| piece.start..piece.start + piece.ids.len());
        let angles: Vec<f32> =
            positions.flat_map(|position| frequencies.iter().map(move |f| f * position as f32)).collect();
        let dims = [angles.len() / frequencies.len(), 1, frequencies.len()];
        let table = |function: fn(f32) -> f32| {
            let values = angles.iter().map(|angle| function(*angle)).collect();
            Tensor::from_data(TensorData::new::<f32, _>(values, dims), device)
        };
        Plan {
            pieces,
            rows: pieces.iter().map(|piece| rows(piece, device)).collect(),
            masks: pieces.iter().map(|piece| mask(piece, device)).collect(),
            runs: runs(pieces),
            cos: table(f32::cos),
            sin: table(f32::sin),
        }
    }

    /// Turns `[tokens, heads, head]` by the tokens' positions.
    pub fn turn(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let half = x.dims()[2] / 2;
        let (a, b) = (x.clone().narrow(2, 0, half), x.narrow(2, half, half));
        let first = a.clone() * self.cos.clone() - b.clone() * self.sin.clone();
        let second = b * self.cos.clone() + a * self.sin.clone();
        Tensor::cat(vec![first, second], 2)
    }
}

fn row(piece: &Piece<'_>, position: usize) -> usize {
    piece.blocks[position / BLOCK] as usize * BLOCK + position % BLOCK
}

fn rows<B: Backend>(piece: &Piece<'_>, device: &B::Device) -> Tensor<B, 1, Int> {
    let rows: Vec<i32> =
        (0..piece.start + piece.ids.len()).map(|position| row(piece, position) as i32).collect();
    let count = rows.len();
    Tensor::from_data(TensorData::new(rows, [count]), device)
}

fn mask<B: Backend>(piece: &Piece<'_>, device: &B::Device) -> Option<Tensor<B, 4>> {
    let (new, seen) = (piece.ids.len(), piece.start + piece.ids.len());
    if new == 1 {
        return None;
    }
    let bar = |i: usize, j: usize| if j > piece.start + i { f32::NEG_INFINITY } else { 0.0 };
    let values: Vec<f32> = (0..new).flat_map(|i| (0..seen).map(move |j| bar(i, j))).collect();
    Some(Tensor::from_data(TensorData::new(values, [1, 1, new, seen]), device))
}

/// Stretches of new tokens that lie side by side in the pool.
fn runs(pieces: &[Piece<'_>]) -> Vec<(usize, usize, usize)> {
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    let mut from = 0;
    for piece in pieces {
        for position in piece.start..piece.start + piece.ids.len() {
            let to = row(piece, position);
            match runs.last_mut() {
                Some((first, start, len)) if *start + *len == to && *first + *len == from => *len += 1,
                _ => runs.push((from, to, 1)),
            }
            from += 1;
        }
    }
    runs
}

/// Keys and values of all layers.
pub(super) struct Cache<B: Backend> {
    pub layers: Vec<LayerCache<B>>,
}

impl<B: Backend> Cache<B> {
    pub fn new(shape: &Shape, blocks: usize, device: &B::Device) -> Self {
        let pool = || Some(Tensor::zeros([blocks * BLOCK, shape.kv_heads, shape.head], device));
        Cache { layers: (0..shape.layers).map(|_| LayerCache { keys: pool(), values: pool() }).collect() }
    }
}

/// Keys and values of one layer. They are taken out while they are written: a second owner would make the backend copy.
pub(super) struct LayerCache<B: Backend> {
    keys: Option<Tensor<B, 3>>,
    values: Option<Tensor<B, 3>>,
}

impl<B: Backend> LayerCache<B> {
    /// Enters `[tokens, kv_heads, head]` of a pass.
    pub fn write(&mut self, plan: &Plan<'_, B>, keys: Tensor<B, 3>, values: Tensor<B, 3>) {
        let enter = |pool: Option<Tensor<B, 3>>, new: Tensor<B, 3>| {
            pool.map(|pool| {
                plan.runs.iter().fold(pool, |pool, &(from, to, len)| {
                    let [_, heads, head] = pool.dims();
                    pool.slice_assign([to..to + len, 0..heads, 0..head], new.clone().narrow(0, from, len))
                })
            })
        };
        self.keys = enter(self.keys.take(), keys);
        self.values = enter(self.values.take(), values);
    }

    fn gather(&self, rows: &Tensor<B, 1, Int>) -> Option<(Tensor<B, 3>, Tensor<B, 3>)> {
        let of = |pool: &Option<Tensor<B, 3>>| pool.clone().map(|pool| pool.select(0, rows.clone()));
        Some((of(&self.keys)?, of(&self.values)?))
    }
}

/// Attention of every piece over its own request; `q` is `[tokens, heads, head]`, the result `[tokens, heads * head]`.
pub(super) fn attend<B: Backend>(
    q: Tensor<B, 3>,
    cache: &LayerCache<B>,
    plan: &Plan<'_, B>,
    shape: &Shape,
) -> Tensor<B, 2> {
    let mut start = 0;
    let mut seen = Vec::with_capacity(plan.pieces.len());
    for (index, piece) in plan.pieces.iter().enumerate() {
        let queries = q.clone().narrow(0, start, piece.ids.len());
        start += piece.ids.len();
        if let Some((keys, values)) = cache.gather(&plan.rows[index]) {
            seen.push(attend_one(queries, keys, values, plan.masks[index].as_ref(), shape));
        }
    }
    Tensor::cat(seen, 0)
}

fn attend_one<B: Backend>(
    q: Tensor<B, 3>,
    keys: Tensor<B, 3>,
    values: Tensor<B, 3>,
    mask: Option<&Tensor<B, 4>>,
    shape: &Shape,
) -> Tensor<B, 2> {
    let (new, seen) = (q.dims()[0], keys.dims()[0]);
    let (kv, group, head) = (shape.kv_heads, shape.heads / shape.kv_heads, shape.head);
    let q = q.reshape([new, kv, group, head]).permute([1, 2, 0, 3]).reshape([kv, group * new, head]);
    let scores = q.matmul(keys.permute([1, 2, 0])).mul_scalar(1.0 / (head as f64).sqrt());
    let scores = scores.reshape([kv, group, new, seen]);
    let scores = match mask {
        Some(mask) => scores + mask.clone(),
        None => scores,
    };
    let weights = softmax(scores, 3).reshape([kv, group * new, seen]);
    let out = weights.matmul(values.permute([1, 0, 2])).reshape([kv, group, new, head]);
    out.permute([2, 0, 1, 3]).reshape([new, shape.heads * head])
}
