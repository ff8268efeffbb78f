//! Loads the models of the static configuration into the engine, and proves that each computes before it is served.

use crate::pool::{Embed, EmbedError, Embedded};
use engine::{Embedder, EngineError};
use protocol::config::StaticConfig;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model of the engine.
pub struct EngineModel(Embedder);

impl Embed for EngineModel {
    fn embed(&self, texts: &[String]) -> Result<Embedded, EmbedError> {
        match self.0.embed(texts) {
            Ok(done) => Ok(Embedded { vectors: done.vectors, prompt_tokens: done.prompt_tokens }),
            Err(error) if error.is_request_fault() => Err(EmbedError::Request(error.to_string())),
            Err(error) => Err(EmbedError::Model(error.to_string())),
        }
    }
}

/// Why the models can't be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is nothing to serve.
    #[error("static configuration: a worker needs at least one [[models]] entry, found none; add one")]
    NoModels,
    /// A model does not load.
    #[error("model `{name}` in {folder}: {source}", folder = .folder.display())]
    Engine {
        /// Name of the pin.
        name: String,
        /// Where it should be.
        folder: PathBuf,
        /// What the engine says.
        #[source]
        source: EngineError,
    },
    /// A model loads but does not compute.
    #[error("model `{name}`: the self-test failed: {reason}; replace the model")]
    SelfTest {
        /// Name of the pin.
        name: String,
        /// Expected and found.
        reason: String,
    },
}

/// Loads every pinned model from `folder/<name>` and computes one vector with each.
pub fn load_all(config: &StaticConfig, folder: &Path) -> Result<Vec<(String, Arc<dyn Embed>)>, LoadError> {
    if config.models.is_empty() {
        return Err(LoadError::NoModels);
    }
    let load = |name: &String| {
        let folder = folder.join(name);
        let model = Embedder::load(&folder).map_err(|source| {
            let name = name.clone();
            LoadError::Engine { name, folder, source }
        })?;
        let model: Arc<dyn Embed> = Arc::new(EngineModel(model));
        self_test(model.as_ref()).map_err(|reason| LoadError::SelfTest { name: name.clone(), reason })?;
        Ok((name.clone(), model))
    };
    config.models.iter().map(|pin| load(&pin.name)).collect()
}

/// One vector of a fixed text: there, finite, and not all zero.
fn self_test(model: &dyn Embed) -> Result<(), String> {
    let embedded = model.embed(&["self-test".into()]).map_err(|error| error.to_string())?;
    let [vector] = embedded.vectors.as_slice() else {
        return Err(format!("expected 1 vector, found {}", embedded.vectors.len()));
    };
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length.is_finite() && length > 0.0 {
        return Ok(());
    }
    Err(format!("expected a vector of finite length above 0, found {length}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Vec<Vec<f32>>);

    impl Embed for Fixed {
        fn embed(&self, _: &[String]) -> Result<Embedded, EmbedError> {
            Ok(Embedded { vectors: self.0.clone(), prompt_tokens: 1 })
        }
    }

    #[test]
    fn a_model_that_computes_passes_the_self_test() {
        assert_eq!(self_test(&Fixed(vec![vec![0.6, 0.8]])), Ok(()));
    }

    #[test]
    fn a_model_that_computes_nothing_fails_the_self_test() {
        for bad in [vec![], vec![vec![]], vec![vec![0.0, 0.0]], vec![vec![f32::NAN, 1.0]]] {
            assert!(self_test(&Fixed(bad.clone())).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_configuration_without_models_is_refused() {
        let config = StaticConfig::parse(b"schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n").unwrap();
        assert!(matches!(load_all(&config, Path::new("/nonexistent")), Err(LoadError::NoModels)));
    }
}
