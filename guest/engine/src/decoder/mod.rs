//! Decoder transformers: tokens of many requests in, logits of the next ones out.
//!
//! ```text
//! x = words[id]
//! each layer:  x = x + O(attention(rope(norm(Q n)), rope(norm(K n)), V n)),  n = norm(x)
//!              x = x + down(silu(gate n) * up n),                            n = norm(x)
//! logits = head(norm(x))          of the rows that are asked for
//! ```
//! One pass takes pieces of several requests: a token of each that is being continued, a chunk of a prompt, or both. The
//! linear layers see all tokens as one matrix; attention runs piece by piece over the piece's own keys and values, which
//! lie in blocks of a pool. So no request can see another one, and there is no padding.
//!
//! Families differ in shapes and in four switches; a family's file reads its `config.json` into a [`Shape`].

mod attention;
mod layers;
mod rope;

use crate::error::EngineError;
use crate::shards::Shards;
use crate::weights::Table;
use attention::{Cache, Plan};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use layers::{Layer, Norm, Reader};
pub(crate) use rope::{Llama3Scaling, Rope};
use std::sync::Arc;

/// Tokens of one block of keys and values.
pub(crate) const BLOCK: usize = 16;

/// Everything that tells one decoder from another. All sizes are checked by the family.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    /// Elements of a hidden state.
    pub width: usize,
    /// Elements between gate and down.
    pub inner: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head; even.
    pub head: usize,
    /// Number of token ids.
    pub vocabulary: usize,
    /// Most tokens of a request.
    pub context: usize,
    /// Added under the root of every norm.
    pub eps: f64,
    /// How positions turn queries and keys.
    pub rope: Rope,
    /// Whether the head is the word table.
    pub tied: bool,
    /// Whether queries and keys are normed head by head.
    pub head_norms: bool,
}

impl Shape {
    /// Elements of keys and values that one token leaves behind, all layers.
    pub fn cached_elements(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head
    }
}

/// A piece of one request in a pass.
pub(crate) struct Piece<'a> {
    /// Tokens, at least one.
    pub ids: &'a [u32],
    /// Position of the first.
    pub start: usize,
    /// Blocks of the request, in order, enough for `start + ids.len()` tokens.
    pub blocks: &'a [u32],
    /// Whether the logits behind the last token are wanted.
    pub logits: bool,
}

/// A loaded decoder, on whatever device.
pub(crate) trait Model: Send + Sync {
    /// Makes a pool of `blocks` blocks for keys and values.
    fn runner(self: Arc<Self>, blocks: usize) -> Box<dyn Runner>;

    /// Looks at every weight that loading did not read.
    fn scan(&self) -> Result<(), EngineError>;
}

/// A decoder with its keys and values.
pub(crate) trait Runner: Send {
    /// One pass. Returns the logits asked for, row after row, in the order of the pieces.
    fn forward(&mut self, pieces: &[Piece<'_>]) -> Result<Vec<f32>, EngineError>;
}

/// The transformer on one backend.
pub(crate) struct Decoder<B: Backend> {
    shape: Shape,
    words: Table,
    layers: Vec<Layer<B>>,
    norm: Norm<B>,
    /// `[width, vocabulary]`, a transposed view.
    head: Tensor<B, 2>,
    device: B::Device,
}

/// Tensors of a decoder beside its layers.
const OUTER: [&str; 3] = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"];

impl<B: Backend> Decoder<B> {
    /// Reads the weights of a shape.
    pub fn load(shards: &Shards, shape: Shape, device: &B::Device) -> Result<Self, EngineError> {
        shards.refuse_strangers(|name| OUTER.contains(&name) || layers::is_known(name, &shape))?;
        let reader = Reader { shards, device };
        let (rows, width) = (shape.vocabulary, shape.width);
        let words = shards.table(OUTER[0], rows, width)?;
        // A tied model may carry its head all the same; the word table is what counts.
        let head = reader.matrix(&[(if shape.tied { OUTER[0] } else { OUTER[2] }, rows)], width)?;
        let layers = (0..shape.layers).map(|i| Layer::load(&reader, i, &shape)).collect::<Result<_, _>>()?;
        let norm = reader.norm(OUTER[1], width, shape.eps)?;
        Ok(Decoder { words, layers, norm, head, device: device.clone(), shape })
    }

    /// Word rows of all tokens, `[tokens, width]`.
    fn embed(&self, pieces: &[Piece<'_>]) -> Result<Tensor<B, 2>, EngineError> {
        let tokens = pieces.iter().map(|piece| piece.ids.len()).sum();
        let mut rows = Vec::with_capacity(tokens * self.shape.width);
        for id in pieces.iter().flat_map(|piece| piece.ids) {
            self.words.append_row(*id as usize, &mut rows)?;
        }
        Ok(Tensor::from_data(TensorData::new(rows, [tokens, self.shape.width]), &self.device))
    }

    fn forward(&self, pieces: &[Piece<'_>], cache: &mut Cache<B>) -> Result<Vec<f32>, EngineError> {
        let plan = Plan::new(pieces, &self.shape, &self.device);
        let mut x = self.embed(pieces)?;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x, &plan, &mut cache.layers[index], &self.shape);
        }
        let mut rows: Vec<i32> = Vec::new();
        let mut end = 0;
        for piece in pieces {
            end += piece.ids.len();
            rows.extend(piece.logits.then_some(end as i32 - 1));
        }
        if rows.is_empty() {
            return Ok(vec![]);
        }
        let count = rows.len();
        let rows = Tensor::from_data(TensorData::new(rows, [count]), &self.device);
        let last = self.norm.forward(x.select(0, rows));
        read(last.matmul(self.head.clone()))
    }
}

/// The numbers of a tensor.
fn read<B: Backend>(tensor: Tensor<B, 2>) -> Result<Vec<f32>, EngineError> {
    let failed = |reason: String| EngineError::Device { reason: crate::error::shorten(&reason) };
    let data = tensor.try_into_data().map_err(|e| failed(format!("{e:?}")))?;
    data.convert::<f32>().into_vec().map_err(|e| failed(format!("{e:?}")))
}

impl<B: Backend> Model for Decoder<B> {
    fn runner(self: Arc<Self>, blocks: usize) -> Box<dyn Runner> {
        let cache = Cache::new(&self.shape, blocks, &self.device);
        Box::new(Running { decoder: self, cache })
    }

    fn scan(&self) -> Result<(), EngineError> {
        self.words.scan()
    }
}

struct Running<B: Backend> {
    decoder: Arc<Decoder<B>>,
    cache: Cache<B>,
}

impl<B: Backend> Runner for Running<B> {
    fn forward(&mut self, pieces: &[Piece<'_>]) -> Result<Vec<f32>, EngineError> {
        self.decoder.forward(pieces, &mut self.cache)
    }
}
