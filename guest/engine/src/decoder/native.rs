//! The transformer on a processor's own kernels.
//!
//! Weights stay in the file as they are and are mapped, blocks of bytes among them, or are rounded to such blocks as they are loaded;
//! activations are in single precision, keys and values in that or in half precision. Buffers of a pass belong to the runner
//! and are used again.

use super::{BLOCK, Model, OUTER, Piece, Runner, Shape, names};
use crate::error::EngineError;
use crate::kernels::{Beyond, Cache, KvPrecision, Machine, Matrix, Span, attention};
use crate::shards::Shards;
use crate::weights::Table;
use std::sync::Arc;

/// Largest head, in elements; families refuse larger ones.
const MAX_HEAD: usize = 1024;

/// A loaded decoder.
pub(crate) struct Native {
    machine: Machine,
    shape: Shape,
    /// Rows of words; none where they are the head and in bytes.
    words: Option<Table>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Matrix,
    /// Of keys and values.
    kv: KvPrecision,
}

struct Layer {
    /// Queries, keys and values: one multiplication.
    qkv: Matrix,
    out: Matrix,
    /// Gate and up: one multiplication.
    gate_up: Matrix,
    down: Matrix,
    before_attention: Vec<f32>,
    before_mlp: Vec<f32>,
    /// Of queries and of keys.
    head_norms: Option<(Vec<f32>, Vec<f32>)>,
}

/// Reads weights.
struct Reader<'a> {
    shards: &'a Shards,
    machine: &'a Machine,
    /// Whether matrices are rounded to bytes.
    int8: bool,
    /// Whether the files have them so.
    blocks: bool,
}

impl Reader<'_> {
    /// Matrices, each with its number of outputs, below each other.
    fn matrix(&self, parts: &[(&str, usize)], inputs: usize) -> Result<Matrix, EngineError> {
        let mut matrix = Matrix::new(inputs);
        for (name, outputs) in parts {
            if self.blocks {
                matrix.push_blocks(*outputs, self.shards.blocks(name, *outputs, inputs)?);
                continue;
            }
            let (kind, mapped) = self.shards.mapped(name, &[*outputs, inputs])?;
            matrix.push_mapped(kind, mapped);
        }
        Ok(if self.int8 && !self.blocks { matrix.to_int8(self.machine) } else { matrix })
    }

    fn row(&self, name: &str, width: usize) -> Result<Vec<f32>, EngineError> {
        let mut out = Vec::new();
        self.shards.append(name, &[width], &mut out)?;
        Ok(out)
    }

    fn layer(&self, index: usize, shape: &Shape) -> Result<Layer, EngineError> {
        let name = |part: usize| names::of(index, part);
        let (width, inner, head) = (shape.width, shape.inner, shape.head);
        let (queries, keys) = (shape.heads * head, shape.kv_heads * head);
        let (q, k, v) = (name(0), name(1), name(2));
        let norm = |part: usize| self.row(&name(part), head);
        Ok(Layer {
            qkv: self.matrix(&[(&q, queries), (&k, keys), (&v, keys)], width)?,
            out: self.matrix(&[(&name(3), width)], queries)?,
            gate_up: self.matrix(&[(&name(4), inner), (&name(5), inner)], width)?,
            down: self.matrix(&[(&name(6), width)], inner)?,
            before_attention: self.row(&name(7), width)?,
            before_mlp: self.row(&name(8), width)?,
            head_norms: if shape.head_norms { Some((norm(9)?, norm(10)?)) } else { None },
        })
    }
}

impl Native {
    /// Reads the weights of a shape; `int8` rounds those of the multiplications.
    pub fn load(shards: &Shards, shape: Shape, machine: Machine, int8: bool) -> Result<Self, EngineError> {
        shards.refuse_strangers(|name| names::is_known(name, &shape))?;
        let reader = Reader { shards, machine: &machine, int8, blocks: shape.blocks };
        let (rows, width) = (shape.vocabulary, shape.width);
        // The head is there anyhow: with it the table is not needed a second time.
        let in_head = shape.tied && (int8 || shape.blocks);
        let words = if in_head { None } else { Some(shards.table(OUTER[0], rows, width)?) };
        // A tied model may carry its head all the same; the word table is what counts.
        let head = reader.matrix(&[(if shape.tied { OUTER[0] } else { OUTER[2] }, rows)], width)?;
        let layers = (0..shape.layers).map(|i| reader.layer(i, &shape)).collect::<Result<_, _>>()?;
        let norm = reader.row(OUTER[1], width)?;
        Ok(Native { words, layers, norm, head, kv: KvPrecision::F32, machine, shape })
    }

    /// The same with keys and values held so.
    pub fn with_kv(self, kv: KvPrecision) -> Self {
        Native { kv, ..self }
    }

    fn forward(&self, pieces: &[Piece<'_>], running: &mut State) -> Result<Vec<f32>, EngineError> {
        let pass = Pass::new(pieces, &self.shape);
        let State { caches, buffers } = running;
        buffers.fit(pass.tokens, &self.shape);
        buffers.x.clear();
        for id in pass.order.iter().flat_map(|piece| piece.ids) {
            self.word(*id as usize, &mut buffers.x)?;
        }
        for (layer, cache) in self.layers.iter().zip(caches) {
            self.layer(layer, &pass, cache, buffers)?;
        }
        let width = self.shape.width;
        let wanted: Vec<f32> =
            pass.wanted.iter().flat_map(|row| &buffers.x[row * width..][..width]).copied().collect();
        let mut last = vec![0.0; wanted.len()];
        self.machine.normed(&wanted, &self.norm, self.eps(), &mut last);
        let mut logits = vec![0.0; pass.wanted.len() * self.shape.vocabulary];
        // Few rows, whatever they are of.
        self.head.multiply(&self.machine, &last, &mut logits, false, 0);
        Ok(logits)
    }

    /// Appends the row of a word.
    fn word(&self, id: usize, out: &mut Vec<f32>) -> Result<(), EngineError> {
        if let Some(words) = &self.words {
            return words.append_row(id, out);
        }
        let start = out.len();
        out.resize(start + self.shape.width, 0.0);
        self.head.row(id, &mut out[start..]);
        Ok(())
    }

    fn eps(&self) -> f32 {
        self.shape.eps as f32
    }

    fn layer(
        &self,
        layer: &Layer,
        pass: &Pass<'_>,
        cache: &mut Cache,
        buffers: &mut Buffers,
    ) -> Result<(), EngineError> {
        let (machine, shape, eps) = (&self.machine, &self.shape, self.eps());
        let Buffers { x, normed, qkv, seen, both, gated } = buffers;
        let stride = shape.stride();
        machine.normed(x, &layer.before_attention, eps, normed);
        layer.qkv.multiply(machine, normed, qkv, false, pass.prompts);
        machine.pool().rows(qkv, stride, |row, qkv| self.turn(layer, pass, row, qkv));
        for (row, (block, slot)) in pass.places.iter().enumerate() {
            let keys = &qkv[row * stride + shape.heads * shape.head..][..2 * shape.kv_heads * shape.head];
            let (keys, values) = keys.split_at(shape.kv_heads * shape.head);
            let written = cache.write(*block, *slot, keys, values);
            written.map_err(|Beyond(found)| EngineError::KeyRange { found })?;
        }
        attention(machine, cache, &pass.spans, shape.heads, (qkv, stride), seen);
        layer.out.multiply(machine, seen, x, true, pass.prompts);
        machine.normed(x, &layer.before_mlp, eps, normed);
        layer.gate_up.multiply(machine, normed, both, false, pass.prompts);
        machine.gated(both, shape.inner, gated);
        layer.down.multiply(machine, gated, x, true, pass.prompts);
        Ok(())
    }

    /// Norms queries and keys of one token head by head, where the family does, and turns them by its position.
    fn turn(&self, layer: &Layer, pass: &Pass<'_>, row: usize, qkv: &mut [f32]) {
        let shape = &self.shape;
        let mut scratch = [0f32; MAX_HEAD];
        let half = shape.head / 2;
        let cos = &pass.cos[row * half..][..half];
        let sin = &pass.sin[row * half..][..half];
        for (index, head) in qkv.chunks_mut(shape.head).take(shape.heads + shape.kv_heads).enumerate() {
            if let Some((queries, keys)) = &layer.head_norms {
                let gamma = if index < shape.heads { queries } else { keys };
                self.machine.norm_in_place(head, gamma, self.eps(), &mut scratch);
            }
            let (first, second) = head.split_at_mut(half);
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

impl Shape {
    /// Elements of a token's queries, keys and values.
    fn stride(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head
    }
}

/// What all layers of a pass share.
struct Pass<'a> {
    /// Pieces as they are computed: prompts, then answers.
    order: Vec<&'a Piece<'a>>,
    tokens: usize,
    /// Tokens of prompts.
    prompts: usize,
    spans: Vec<Span<'a>>,
    /// Block and slot of each row's keys.
    places: Vec<(u32, usize)>,
    /// `[tokens, head / 2]`.
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// Rows whose logits are asked for, in the order of the pieces as they were given.
    wanted: Vec<usize>,
}

impl<'a> Pass<'a> {
    fn new(pieces: &'a [Piece<'a>], shape: &Shape) -> Self {
        let (answers, prompts): (Vec<_>, Vec<_>) =
            pieces.iter().enumerate().partition(|(_, piece)| piece.answer);
        let count = |pieces: &[(usize, &Piece<'_>)]| pieces.iter().map(|(_, piece)| piece.ids.len()).sum();
        let mut pass = Pass {
            order: vec![],
            tokens: 0,
            prompts: count(&prompts),
            spans: vec![],
            places: vec![],
            cos: vec![],
            sin: vec![],
            wanted: vec![],
        };
        let frequencies = shape.rope.frequencies(shape.head);
        let mut wanted = vec![];
        for (index, piece) in prompts.into_iter().chain(answers) {
            pass.enter(piece, &frequencies);
            wanted.extend(piece.logits.then_some((index, pass.tokens - 1)));
        }
        wanted.sort_unstable();
        pass.wanted = wanted.into_iter().map(|(_, row)| row).collect();
        pass
    }

    fn enter(&mut self, piece: &'a Piece<'a>, frequencies: &[f32]) {
        let (first, count, start) = (self.tokens, piece.ids.len(), piece.start);
        self.order.push(piece);
        self.spans.push(Span { first, count, start, blocks: piece.blocks });
        for position in start..start + count {
            self.places.push((piece.blocks[position / BLOCK], position % BLOCK));
            self.cos.extend(frequencies.iter().map(|f| (f * position as f32).cos()));
            self.sin.extend(frequencies.iter().map(|f| (f * position as f32).sin()));
        }
        self.tokens += count;
    }
}

/// Numbers between layers.
#[derive(Default)]
struct Buffers {
    x: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    seen: Vec<f32>,
    both: Vec<f32>,
    gated: Vec<f32>,
}

impl Buffers {
    fn fit(&mut self, tokens: usize, shape: &Shape) {
        self.normed.resize(tokens * shape.width, 0.0);
        self.qkv.resize(tokens * shape.stride(), 0.0);
        self.seen.resize(tokens * shape.heads * shape.head, 0.0);
        self.both.resize(tokens * 2 * shape.inner, 0.0);
        self.gated.resize(tokens * shape.inner, 0.0);
    }
}

impl Model for Native {
    fn runner(self: Arc<Self>, blocks: usize) -> Box<dyn Runner> {
        let cache = || Cache::new(self.kv, blocks, self.shape.kv_heads, self.shape.head);
        let caches = self.layers.iter().map(|_| cache()).collect();
        Box::new(Running { state: State { caches, buffers: Buffers::default() }, decoder: self })
    }

    fn scan(&self) -> Result<(), EngineError> {
        self.words.as_ref().map_or(Ok(()), Table::scan)
    }
}

struct State {
    /// One a layer.
    caches: Vec<Cache>,
    buffers: Buffers,
}

struct Running {
    decoder: Arc<Native>,
    state: State,
}

impl Runner for Running {
    fn forward(&mut self, pieces: &[Piece<'_>]) -> Result<Vec<f32>, EngineError> {
        self.decoder.forward(pieces, &mut self.state)
    }
}
