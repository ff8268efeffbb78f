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
//! Three transformers do it: `native.rs` with the processor's own kernels and weights as they lie in the file, `cubes/` with
//! kernels for GPUs, `portable/` with burn: the plainest, which the other two are held against.
//!
//! Families differ in shapes and in four switches; a family's file reads its `config.json` into a [`Shape`].

#[cfg(feature = "cubes")]
pub(crate) mod cubes;
mod names;
mod native;
mod portable;
mod rope;

use crate::error::EngineError;
pub(crate) use crate::kernels::BLOCK;
use names::OUTER;
pub(crate) use names::{Role, TensorOf};
pub(crate) use native::Native;
pub(crate) use portable::Decoder;
pub(crate) use rope::{Llama3Scaling, Rope};
use std::sync::Arc;

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
    /// Whether what is multiplied by lies in the files as blocks of bytes (`int8.rs`).
    pub blocks: bool,
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
    /// Whether this is a token of an answer. Those are computed another way than tokens of prompts; each way what is
    /// computed for a token does not depend on its company.
    pub answer: bool,
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
