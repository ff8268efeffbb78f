//! The transformer on a GPU, by kernels of the engine's own.
//!
//! ```text
//! device     weights as they are stored, or bf16, f32, bytes; keys and values as wide, in blocks; no copy of either
//! a pass     host -> device   word rows, angles, where tokens stand: a few small buffers
//!            each layer       norm and qkv, turn (and keys to their blocks), attend, out, norm and gate and up, down
//!            device -> host   the logits that are asked for, once
//! ```
//! All tokens of a pass go through one sequence of kernels, however many requests they are of. Between layers stands single
//! precision; what is multiplied is as wide as the weights, and sums are in single precision.
//!
//! Generic over CubeCL's runtimes: CUDA in production, Vulkan where this is developed.

mod load;

pub(crate) use load::load;

use super::{BLOCK, Model, Piece, Runner, Shape};
use crate::error::EngineError;
use crate::kernels::gpu::{Board, Buffer, Heads, Places, Weight, Width};
use crate::weights::Table;
use burn_cubecl::CubeRuntime;
use std::sync::Arc;

/// A loaded decoder.
struct Cubes<R: CubeRuntime, W> {
    board: Board<R>,
    shape: Shape,
    words: Table,
    layers: Vec<Layer<W>>,
    norm: Buffer<f32>,
    head: Weight<W>,
    frequencies: Vec<f32>,
}

struct Layer<W> {
    /// Queries, keys and values: one multiplication.
    qkv: Weight<W>,
    out: Weight<W>,
    /// Gate and up: one multiplication.
    gate_up: Weight<W>,
    down: Weight<W>,
    before_attention: Buffer<f32>,
    before_mlp: Buffer<f32>,
    /// Of queries, then of keys.
    head_norms: Option<Buffer<f32>>,
}

/// Keys and values of one layer: the pool's rows, each of all heads.
struct Pool<W> {
    keys: Buffer<W>,
    values: Buffer<W>,
}

/// What all layers of a pass share.
struct Pass {
    places: Places,
    /// `[tokens, head / 2]`.
    cos: Buffer<f32>,
    sin: Buffer<f32>,
}

impl Shape {
    fn all_heads(&self) -> Heads {
        Heads { queries: self.heads, keys: self.kv_heads, size: self.head }
    }
}

impl<R: CubeRuntime, W: Width> Cubes<R, W> {
    /// Word rows of all tokens, `[tokens, width]`.
    fn embed(&self, pieces: &[Piece<'_>]) -> Result<Buffer<f32>, EngineError> {
        let mut rows = Vec::new();
        for id in pieces.iter().flat_map(|piece| piece.ids) {
            self.words.append_row(*id as usize, &mut rows)?;
        }
        Ok(self.board.upload(&rows))
    }

    fn pass(&self, pieces: &[Piece<'_>], pool_rows: usize) -> Pass {
        let (mut rows, mut table, mut spans) = (vec![], vec![], vec![]);
        let (mut cos, mut sin) = (vec![], vec![]);
        for piece in pieces {
            let first = table.len() as u32;
            table.extend_from_slice(piece.blocks);
            for position in piece.start..piece.start + piece.ids.len() {
                rows.push(piece.blocks[position / BLOCK] * BLOCK as u32 + (position % BLOCK) as u32);
                spans.push([first, position as u32 + 1]);
                cos.extend(self.frequencies.iter().map(|f| (f * position as f32).cos()));
                sin.extend(self.frequencies.iter().map(|f| (f * position as f32).sin()));
            }
        }
        let places = self.board.places(&rows, &table, &spans, BLOCK, pool_rows);
        Pass { places, cos: self.board.upload(&cos), sin: self.board.upload(&sin) }
    }

    fn layer(
        &self,
        layer: &Layer<W>,
        x: &Buffer<f32>,
        pass: &Pass,
        pool: &Pool<W>,
    ) -> Result<(), EngineError> {
        let (board, shape, heads) = (&self.board, &self.shape, self.shape.all_heads());
        let eps = shape.eps as f32;
        let pools = (&pool.keys, &pool.values);
        let qkv = board.normed(x, &layer.before_attention, eps, &layer.qkv)?;
        let angles = (&pass.cos, &pass.sin);
        let q = board.turn(&qkv, layer.head_norms.as_ref(), angles, &pass.places, pools, heads, eps);
        let seen = board.attend(&q, pools, &pass.places, heads, BLOCK);
        board.linear(&seen, &layer.out, x, true)?;
        let gated = board.normed_gates(x, &layer.before_mlp, eps, &layer.gate_up)?;
        board.linear(&gated, &layer.down, x, true)
    }

    fn forward(
        &self,
        pieces: &[Piece<'_>],
        pools: &[Pool<W>],
        pool_rows: usize,
    ) -> Result<Vec<f32>, EngineError> {
        let pass = self.pass(pieces, pool_rows);
        let x = self.embed(pieces)?;
        for (layer, pool) in self.layers.iter().zip(pools) {
            self.layer(layer, &x, &pass, pool)?;
        }
        let mut wanted: Vec<u32> = Vec::new();
        let mut end = 0;
        for piece in pieces {
            end += piece.ids.len() as u32;
            wanted.extend(piece.logits.then_some(end - 1));
        }
        self.logits(&x, &wanted)
    }

    /// Logits of some rows, in ascending order.
    fn logits(&self, x: &Buffer<f32>, wanted: &[u32]) -> Result<Vec<f32>, EngineError> {
        let (board, eps) = (&self.board, self.shape.eps as f32);
        let Some(largest) = wanted.last().map(|row| *row as usize) else { return Ok(vec![]) };
        if wanted.len() == x.len() / self.shape.width && self.head.few(wanted.len()) {
            return board.read(&board.normed(x, &self.norm, eps, &self.head)?);
        }
        let rows = board.upload(wanted);
        let last = board.norm::<W>(x, Some((&rows, largest)), &self.norm, eps);
        let logits = board.empty(wanted.len() * self.shape.vocabulary);
        board.linear_of_head(&last, &self.head, &logits)?;
        board.read(&logits)
    }
}

impl<R: CubeRuntime, W: Width> Model for Cubes<R, W> {
    fn runner(self: Arc<Self>, blocks: usize) -> Box<dyn Runner> {
        let rows = blocks * BLOCK;
        let len = rows * self.shape.kv_heads * self.shape.head;
        let pool = || Pool { keys: self.board.lasting(len), values: self.board.lasting(len) };
        let pools = self.board.on(|| (0..self.shape.layers).map(|_| pool()).collect());
        Box::new(Running { decoder: self, pools, rows })
    }

    fn scan(&self) -> Result<(), EngineError> {
        self.words.scan()
    }
}

struct Running<R: CubeRuntime, W> {
    decoder: Arc<Cubes<R, W>>,
    /// One a layer.
    pools: Vec<Pool<W>>,
    /// Rows of each.
    rows: usize,
}

impl<R: CubeRuntime, W: Width> Runner for Running<R, W> {
    fn forward(&mut self, pieces: &[Piece<'_>]) -> Result<Vec<f32>, EngineError> {
        self.decoder.board.on(|| self.decoder.forward(pieces, &self.pools, self.rows))
    }
}

impl<R: CubeRuntime, W> Drop for Running<R, W> {
    /// Keys and values are most of a device's memory: whoever comes next may want blocks of another size.
    fn drop(&mut self) {
        self.pools.clear();
        self.decoder.board.on(|| self.decoder.board.give_back());
    }
}
