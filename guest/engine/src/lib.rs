//! Inference from Hugging Face model folders, by kernels of its own and by burn; no network.
//!
//! ```text
//! folder on the verified model disk
//!   config.json ........ which family, which shapes       families/
//!   modules.json ....... pooling and normalisation        recipe.rs, pooling.rs
//!   tokenizer.json ..... text -> token ids                wordpiece.rs, bytelevel.rs, bpe.rs
//!   model.safetensors .. weights                          weights.rs
//!
//! texts -> tokens -> packed passes -> hidden states -> pooled -> vectors      embedder.rs
//! ```
//! What a folder may say is a closed list: anything else is refused by name when the folder is opened, and
//! [`inspect`] opens it as strictly as can be, so that a model is refused when its disk is packed and not when it
//! runs. Texts of one call are laid end to end, never padded, so no text can see another or its padding.
//!
//! [`quantise`] makes folders whose weights lie as they are multiplied by (int8.rs, quantise.rs); no guest calls it.
//!
//! Weights are read straight from the file, each into the one buffer that the backend then owns. The word table is
//! not read at all: its rows are fetched as tokens ask for them, because reading (and hashing, under dm-verity) half
//! of the file at start-up would delay the first answer for words that nobody may use.
//!
//! Decoders run on a processor by the engine's own kernels, with weights as they lie in the mapped file (`kernels/`); the same
//! transformer over burn's `Backend` is what they are held against. On a GPU it runs by kernels for GPUs (`kernels/gpu/`), with the
//! feature `cuda`; [`gpu`] looks whether there is one.
//!
//! Deliberately absent: training, downloads.

mod bpe;
mod bytelevel;
mod decoder;
mod device;
mod embedder;
mod error;
mod families;
mod files;
mod generate;
mod int8;
mod json;
#[allow(
    unsafe_code,
    reason = "vector instructions, mapped files, threads that write one slice, and GPUs: see the module"
)]
mod kernels;
mod pooling;
mod quantise;
mod recipe;
mod shards;
mod tokens;
mod weights;
mod wordpiece;

pub use device::{Gpu, NoGpu, gpu};
#[cfg(feature = "cubes")]
pub use device::{gpu_memory, gpu_speed};
pub use embedder::{Embedder, Embeddings, Facts, MAX_TEXT_BYTES, inspect};
pub use error::EngineError;
pub use families::{Kind, kind};
pub use generate::*;
pub use json::Json;
#[cfg(feature = "cubes")]
pub use kernels::gpu::Speed;
pub use pooling::Pooling;
pub use quantise::{Progress, quantise};
pub use shards::{Loading, Told};
