//! The transformer over burn's `Backend`: any device that burn has, in single precision.
//!
//! It is what a processor's own kernels and those for GPUs are held against.

mod attention;
mod layers;

use super::{BLOCK, Model, OUTER, Piece, Runner, Shape, names};
use crate::error::EngineError;
use crate::shards::Shards;
use crate::weights::Table;
use attention::{Cache, Plan};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use layers::{Layer, Norm, Reader};
use std::sync::Arc;

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

impl<B: Backend> Decoder<B> {
    /// Reads the weights of a shape.
    pub fn load(shards: &Shards, shape: Shape, device: &B::Device) -> Result<Self, EngineError> {
        shards.refuse_strangers(|name| names::is_known(name, &shape))?;
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
