//! From a folder to vectors.

use crate::error::EngineError;
use crate::families::{self, Encoder};
use crate::pooling::{Pooling, normalise};
use crate::recipe::Recipe;
use crate::tokens::{Limits, Packed, TextTokenizer};
use burn::backend::Flex;
use burn::tensor::backend::Backend;
use std::path::Path;

pub use crate::tokens::MAX_TEXT_BYTES;

/// Tokens that one pass takes in, unless a single text has more: bounds the memory of a call, whatever it asks for.
const PASS_TOKENS: usize = 512;

/// A loaded embedding model. Calls may run in parallel from several threads; each call uses the thread it is made on.
pub struct Embedder {
    pipeline: Pipeline<Flex>,
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
        let pipeline = Pipeline::load(dir, &Default::default())?;
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
/// Everything that [`Embedder::load`] or a later [`Embedder::embed`] could find wrong with the model.
pub fn inspect(dir: &Path) -> Result<Facts, EngineError> {
    let pipeline: Pipeline<Flex> = Pipeline::load(dir, &Default::default())?;
    pipeline.encoder.scan()?;
    pipeline.tokenizer.check_vocabulary()?;
    pipeline.embed(&["known answer".into(), String::new()])?;
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

/// Everything from text to vector, on one backend.
struct Pipeline<B: Backend> {
    architecture: &'static str,
    parameters: u64,
    encoder: Box<dyn Encoder<B>>,
    tokenizer: TextTokenizer,
    recipe: Recipe,
    max_tokens: usize,
}

impl<B: Backend> Pipeline<B> {
    fn load(dir: &Path, device: &B::Device) -> Result<Self, EngineError> {
        let (architecture, weights, encoder) = families::load::<B>(dir, device)?;
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
        let states = self.encoder.encode(&pass)?.into_data().convert::<f32>();
        // Never empty after that conversion; an empty slice would be reported below all the same.
        let states = states.as_slice::<f32>().unwrap_or(&[]);
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
