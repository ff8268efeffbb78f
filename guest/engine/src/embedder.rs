//! From a folder to vectors.

#[cfg(not(feature = "cuda"))]
use crate::device::NoGpu;
use crate::error::EngineError;
use crate::families::{self, Encoder, Way};
use crate::generate::{Device, Options};
use crate::pooling::{Pooling, normalise};
use crate::recipe::Recipe;
use crate::tokens::{Limits, Packed, TextTokenizer};
use std::path::Path;

pub use crate::tokens::MAX_TEXT_BYTES;

/// Tokens that one pass takes in, unless a single text has more: bounds the memory of a call, whatever it asks for.
const PASS_TOKENS: usize = 512;

/// A loaded embedding model. Calls may come from several threads; the helpers are with one call at a time.
pub struct Embedder {
    pipeline: Pipeline,
}

/// What came out, in the order of the texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// One vector a text, [`Embedder::dimensions`] elements each.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens that the model took in, special tokens included, after cutting.
    pub prompt_tokens: usize,
}

/// What a folder holds, as [`inspect`] found it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Facts {
    /// Name in `config.json`.
    pub architecture: String,
    /// Elements of a vector.
    pub dimensions: usize,
    /// Longest input in tokens, special tokens included; longer texts are cut.
    pub max_tokens: usize,
    /// Number of token ids.
    pub vocabulary: usize,
    /// Elements of all tensors in the file.
    pub parameters: u64,
    /// How hidden states become one vector.
    pub pooling: Pooling,
    /// Whether vectors have length 1.
    pub normalised: bool,
}

impl Embedder {
    /// Loads a Hugging Face folder. Checks everything but the word table's values, which are checked as they are used.
    pub fn load(dir: &Path) -> Result<Embedder, EngineError> {
        Embedder::load_with(dir, 0)
    }

    /// The same with so many threads; 0 for as many as the process may use.
    pub fn load_with(dir: &Path, threads: usize) -> Result<Embedder, EngineError> {
        Ok(Embedder { pipeline: Pipeline::load(dir, Way::Native, threads)? })
    }

    /// The same on the device that is asked for, which must compute what the processor computes.
    ///
    /// # Errors
    /// No such device, and vectors of it that are not those of the processor.
    pub fn load_on(dir: &Path, options: Options) -> Result<Embedder, EngineError> {
        match options.device {
            Device::Gpu => Embedder::load_on_gpu(dir),
            _ => Embedder::load_with(dir, options.threads),
        }
    }

    #[cfg(not(feature = "cuda"))]
    fn load_on_gpu(_: &Path) -> Result<Embedder, EngineError> {
        Err(NoGpu::NotBuilt.into())
    }

    #[cfg(feature = "cuda")]
    fn load_on_gpu(dir: &Path) -> Result<Embedder, EngineError> {
        crate::device::gpu()?;
        let pipeline = Pipeline::load(dir, Way::Gpu, 0)?;
        let texts = ["known answer".into(), String::new()];
        let right = Pipeline::load(dir, Way::Native, 0)?.embed(&texts)?.vectors;
        agree(&pipeline.embed(&texts)?.vectors, &right, APART_ON_GPU)?;
        Ok(Embedder { pipeline })
    }

    /// Embeds texts; a text longer than [`Embedder::max_tokens`] is cut, as sentence-transformers does.
    pub fn embed(&self, texts: &[String]) -> Result<Embeddings, EngineError> {
        self.pipeline.embed(texts)
    }

    /// Elements of a vector.
    pub fn dimensions(&self) -> usize {
        self.pipeline.encoder.width()
    }

    /// Longest input in tokens, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.pipeline.max_tokens
    }
}

/// Loads a folder and looks at every byte of it that can matter; for use before a model is packed.
///
/// # Errors
/// Everything that [`Embedder::load`] or a later [`Embedder::embed`] could find wrong with the model, and two ways of
/// computing its vectors that don't agree.
pub fn inspect(dir: &Path) -> Result<Facts, EngineError> {
    let pipeline = Pipeline::load(dir, Way::Native, 0)?;
    pipeline.encoder.scan()?;
    pipeline.tokenizer.check_vocabulary()?;
    let texts = ["known answer".into(), String::new()];
    let vectors = pipeline.embed(&texts)?.vectors;
    agree(&vectors, &Pipeline::load(dir, Way::Portable, 0)?.embed(&texts)?.vectors, APART)?;
    Ok(Facts {
        architecture: pipeline.architecture.into(),
        dimensions: pipeline.encoder.width(),
        max_tokens: pipeline.max_tokens,
        vocabulary: pipeline.encoder.limits().vocabulary,
        parameters: pipeline.parameters,
        pooling: pipeline.recipe.pooling,
        normalised: pipeline.recipe.normalise,
    })
}

/// Largest difference of an element that two right computations may have, measured by the largest element.
const APART: f32 = 1e-3;
/// The same where one of them multiplies with shorter mantissas, as a GPU's matrix units do with single precision.
#[cfg(feature = "cuda")]
const APART_ON_GPU: f32 = 2e-2;

/// Fails where the two are further apart than roundings explain.
fn agree(ours: &[Vec<f32>], theirs: &[Vec<f32>], most_apart: f32) -> Result<(), EngineError> {
    for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let most = ours.iter().fold(0f32, |most, x| most.max(x.abs()));
        let apart = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        if apart.is_nan() || apart > most_apart * most {
            let reason = format!("vector {index} differs by {apart} between two ways of computing it");
            return Err(EngineError::Device { reason });
        }
    }
    Ok(())
}

/// Everything from text to vector.
struct Pipeline {
    architecture: &'static str,
    parameters: u64,
    encoder: Box<dyn Encoder>,
    tokenizer: TextTokenizer,
    recipe: Recipe,
    max_tokens: usize,
}

impl Pipeline {
    fn load(dir: &Path, way: Way, threads: usize) -> Result<Self, EngineError> {
        let (architecture, weights, encoder) = families::load(dir, way, threads)?;
        let recipe = Recipe::read(dir, encoder.width())?;
        let limits = encoder.limits();
        let max_tokens = recipe.max_tokens.unwrap_or(limits.tokens).min(limits.tokens);
        let limits = Limits { tokens: max_tokens, ..limits };
        let tokenizer = TextTokenizer::load(dir, limits, recipe.lower_case)?;
        let parameters = weights.parameters();
        Ok(Pipeline { architecture, parameters, encoder, tokenizer, recipe, max_tokens })
    }

    fn embed(&self, texts: &[String]) -> Result<Embeddings, EngineError> {
        let mut out = Embeddings { vectors: Vec::with_capacity(texts.len()), prompt_tokens: 0 };
        let mut pass = Packed::default();
        for (index, text) in texts.iter().enumerate() {
            let tokens = self.tokenizer.encode(index, text)?;
            out.prompt_tokens += tokens.len();
            if !pass.lengths.is_empty() && pass.ids.len() + tokens.len() > PASS_TOKENS {
                self.run(std::mem::take(&mut pass), &mut out.vectors)?;
            }
            pass.push(&tokens);
        }
        if !pass.lengths.is_empty() {
            self.run(pass, &mut out.vectors)?;
        }
        Ok(out)
    }

    /// One forward pass; appends one vector for each packed text.
    fn run(&self, pass: Packed, vectors: &mut Vec<Vec<f32>>) -> Result<(), EngineError> {
        let width = self.encoder.width();
        let states = self.encoder.encode(&pass)?;
        let mut start = 0;
        for len in pass.lengths {
            let rows = states.get(start..start + len * width);
            start += len * width;
            let mut vector = rows.map(|rows| self.recipe.pooling.apply(rows, width)).unwrap_or_default();
            if self.recipe.normalise {
                normalise(&mut vector);
            }
            if vector.is_empty() || vector.iter().any(|v| !v.is_finite()) {
                return Err(EngineError::Overflow { index: vectors.len() });
            }
            vectors.push(vector);
        }
        Ok(())
    }
}
