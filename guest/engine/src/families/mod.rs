//! Model families: the closed list of architectures that this engine runs.
//!
//! A family of encoders is one file here: it reads its part of `config.json`, reads its tensors, and implements
//! [`Encoder`]. To add one, write that file and add its row to [`families`]. Decoders share the transformer in
//! `decoder/`; their families are rows of `causal.rs`. Nothing else names an architecture.

mod bert;
mod causal;

use crate::decoder::Shape;
use crate::error::EngineError;
use crate::files::Config;
use crate::tokens::{Limits, Packed};
use crate::weights::{SINGLE, Weights};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;

use causal::FAMILIES;

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

/// The one architecture that a folder names.
fn named(dir: &Path) -> Result<(Config<Architectures>, String), EngineError> {
    let named: Config<Architectures> = Config::read(dir.join("config.json"), "it names the architecture")?;
    match named.value.architectures.as_slice() {
        [name] => {
            let name = name.clone();
            Ok((named, name))
        }
        names => Err(named.bad("architectures", &names.join(", "), "exactly one name")),
    }
}

/// What a folder's model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It turns texts into vectors: [`crate::Embedder`].
    Embedder,
    /// It continues texts: [`crate::Generator`].
    Generator,
}

/// Says what a folder's model is for, by its architecture.
///
/// # Errors
/// An architecture that is on neither list, by its name.
pub fn kind(dir: &Path) -> Result<Kind, EngineError> {
    let (config, name) = named(dir)?;
    let encoders = families::<burn::backend::Flex>().map(|(name, _)| name);
    let decoders = FAMILIES.each_ref().map(|family| family.architecture);
    match (encoders.contains(&name.as_str()), decoders.contains(&name.as_str())) {
        (true, _) => Ok(Kind::Embedder),
        (_, true) => Ok(Kind::Generator),
        _ => Err(config.unsupported(
            "architecture",
            &name,
            &[&encoders[..], &decoders[..]].concat().join(", "),
        )),
    }
}

/// The shape of a folder's decoder and the name of its architecture.
pub(crate) fn decoder(dir: &Path) -> Result<(&'static str, Shape), EngineError> {
    let (config, name) = named(dir)?;
    let Some(family) = FAMILIES.iter().find(|family| family.architecture == name) else {
        let supported = FAMILIES.each_ref().map(|family| family.architecture).join(", ");
        return Err(config.unsupported("architecture", &name, &supported));
    };
    Ok((family.architecture, family.shape(&config.path)?))
}

/// Loads the transformer of a folder and names its architecture.
pub(crate) fn load<B: Backend>(
    dir: &Path,
    device: &B::Device,
) -> Result<(&'static str, Arc<Weights>, Box<dyn Encoder<B>>), EngineError> {
    let path = dir.join("config.json");
    let (named, name) = named(dir)?;
    let known = families::<B>();
    let Some((architecture, loader)) = known.iter().find(|(known, _)| *known == name) else {
        let supported: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        return Err(named.unsupported("architecture", &name, &supported.join(", ")));
    };
    let weights = Arc::new(Weights::open(&dir.join("model.safetensors"), SINGLE)?);
    let source = Source { config: &path, weights: weights.clone(), device };
    Ok((architecture, weights, loader(source)?))
}
