//! Model families: the closed list of architectures that this engine runs.
//!
//! A family of encoders is one file here: it reads its part of `config.json`, reads its tensors, and implements
//! [`Encoder`]. To add one, write that file and add its row to [`ENCODERS`]. Decoders share the transformer in
//! `decoder/`; their families are rows of `causal.rs`. Nothing else names an architecture.

mod bert;
mod causal;

use crate::decoder::Shape;
use crate::error::EngineError;
use crate::files::Config;
use crate::tokens::{Limits, Packed};
use crate::weights::{SINGLE, Weights};
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;

use causal::FAMILIES;

/// A loaded transformer that turns tokens into hidden states.
pub(crate) trait Encoder: Send + Sync {
    /// Hidden states of packed texts, `[tokens, width]`, row after row. No text sees another one.
    fn encode(&self, batch: &Packed) -> Result<Vec<f32>, EngineError>;

    /// Elements of a hidden state.
    fn width(&self) -> usize;

    /// What it can take in.
    fn limits(&self) -> Limits;

    /// Looks at every weight that loading did not read.
    fn scan(&self) -> Result<(), EngineError>;
}

/// What a family's loader is given.
pub(crate) struct Source<'a> {
    /// Path of `config.json`.
    pub config: &'a Path,
    /// The weights file; a family may keep it open.
    pub weights: Arc<Weights>,
    /// Threads that compute; 0 for as many as the process may use.
    pub threads: usize,
}

/// Where an encoder computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// On the processor, with this crate's kernels.
    Native,
    /// Through burn on the processor.
    Portable,
    /// Through burn on the first GPU.
    #[cfg(feature = "cuda")]
    Gpu,
}

type Loader = fn(Source<'_>) -> Result<Box<dyn Encoder>, EngineError>;

/// A row of the closed list.
struct Family {
    architecture: &'static str,
    native: Loader,
    portable: Loader,
    #[cfg(feature = "cuda")]
    gpu: Loader,
}

const ENCODERS: [Family; 1] = [Family {
    architecture: bert::ARCHITECTURE,
    native: bert::load,
    portable: |source| bert::portable::<burn::backend::Flex>(source, &Default::default()),
    #[cfg(feature = "cuda")]
    gpu: |source| bert::portable::<burn::backend::Cuda>(source, &Default::default()),
}];

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
    let encoders = ENCODERS.each_ref().map(|family| family.architecture);
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
pub(crate) fn load(
    dir: &Path,
    way: Way,
    threads: usize,
) -> Result<(&'static str, Arc<Weights>, Box<dyn Encoder>), EngineError> {
    let path = dir.join("config.json");
    let (named, name) = named(dir)?;
    let Some(family) = ENCODERS.iter().find(|family| family.architecture == name) else {
        let supported = ENCODERS.each_ref().map(|family| family.architecture).join(", ");
        return Err(named.unsupported("architecture", &name, &supported));
    };
    let weights = Arc::new(Weights::open(&dir.join("model.safetensors"), SINGLE)?);
    let source = Source { config: &path, weights: weights.clone(), threads };
    let loader = match way {
        Way::Native => family.native,
        Way::Portable => family.portable,
        #[cfg(feature = "cuda")]
        Way::Gpu => family.gpu,
    };
    Ok((family.architecture, weights, loader(source)?))
}
