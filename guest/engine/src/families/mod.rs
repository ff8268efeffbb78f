//! Model families: the closed list of architectures that this engine runs.
//!
//! A family is one file here: it reads its part of `config.json`, reads its tensors, and implements [`Encoder`]. To add
//! one, write that file and add its row to [`families`]; nothing else names an architecture.

mod bert;

use crate::error::EngineError;
use crate::files::Config;
use crate::tokens::{Limits, Packed};
use crate::weights::Weights;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;

/// A loaded transformer that turns tokens into hidden states.
pub(crate) trait Encoder<B: Backend>: Send + Sync {
    /// Hidden states of packed texts, `[tokens, width]`. No text sees another one.
    fn encode(&self, batch: &Packed) -> Result<Tensor<B, 2>, EngineError>;

    /// Elements of a hidden state.
    fn width(&self) -> usize;

    /// What it can take in.
    fn limits(&self) -> Limits;

    /// Looks at every weight that loading did not read.
    fn scan(&self) -> Result<(), EngineError>;
}

/// What a family's loader is given.
pub(crate) struct Source<'a, B: Backend> {
    /// Path of `config.json`.
    pub config: &'a Path,
    /// The weights file; a family may keep it open.
    pub weights: Arc<Weights>,
    /// Where its tensors live.
    pub device: &'a B::Device,
}

type Loader<B> = fn(Source<'_, B>) -> Result<Box<dyn Encoder<B>>, EngineError>;

/// The closed list: name in `architectures`, loader.
fn families<B: Backend>() -> [(&'static str, Loader<B>); 1] {
    [(bert::ARCHITECTURE, bert::load)]
}

#[derive(Deserialize)]
struct Architectures {
    architectures: Vec<String>,
}

/// Loads the transformer of a folder and names its architecture.
pub(crate) fn load<B: Backend>(
    dir: &Path,
    device: &B::Device,
) -> Result<(&'static str, Arc<Weights>, Box<dyn Encoder<B>>), EngineError> {
    let path = dir.join("config.json");
    let named: Config<Architectures> = Config::read(path.clone(), "it names the architecture")?;
    let known = families::<B>();
    let [name] = named.value.architectures.as_slice() else {
        return Err(named.bad("architectures", &named.value.architectures.join(", "), "exactly one name"));
    };
    let Some((architecture, loader)) = known.iter().find(|(known, _)| known == name) else {
        let supported: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        return Err(named.unsupported("architecture", name, &supported.join(", ")));
    };
    let weights = Arc::new(Weights::open(&dir.join("model.safetensors"))?);
    let source = Source { config: &path, weights: weights.clone(), device };
    Ok((architecture, weights, loader(source)?))
}
