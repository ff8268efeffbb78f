//! Loads the models of the static configuration into the engine, and proves that each computes before it is served.

use crate::compute::Compute;
use crate::desk::{Desk, Writer};
use crate::generator::EngineWriter;
use crate::pool::{Embed, EmbedError, Embedded, Entry};
use engine::{
    ClientId, Embedder, EngineError, Event, KNOWN_ANSWERS, Kind, Loading, Prompt, Request, Sampling, Told,
};
use protocol::config::{ModelPin, StaticConfig};
use protocol::market::{Hex32, SelfTest};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tokens of the self-test's continuation.
const SELF_TEST_TOKENS: usize = 8;

/// A model of the engine.
pub struct EngineModel(Embedder);

impl Embed for EngineModel {
    fn context(&self) -> usize {
        self.0.max_tokens()
    }

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
    /// A text model on a disk that says nowhere what it must compute.
    #[error(
        "model `{name}` in {folder}: expected {KNOWN_ANSWERS} beside a text model, found none, so this machine can't be held \
         against anything; write it with `cargo xtask answers`, pack the folder again and pin its new root",
        folder = .folder.display()
    )]
    Unanswered {
        /// Name of the pin.
        name: String,
        /// Where it should be.
        folder: PathBuf,
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

/// Loads every pinned model from `folder/<name>` and computes with each. A text model must have its known answers beside
/// it, and this machine must compute them.
///
/// # Errors
/// See [`LoadError`].
pub fn load_all(config: &StaticConfig, folder: &Path, compute: &Compute) -> Result<Vec<Entry>, LoadError> {
    if config.models.is_empty() {
        return Err(LoadError::NoModels);
    }
    let share = compute.share(config.models.len());
    let load = |pin: &ModelPin| {
        let folder = folder.join(&pin.name);
        answered(&pin.name, &folder)?;
        let mut entry = load(&pin.name, &folder, &share)?;
        entry.root = pin.root.parse().ok();
        Ok(entry)
    };
    config.models.iter().map(load).collect()
}

/// Fails on a text model without known answers.
fn answered(name: &str, folder: &Path) -> Result<(), LoadError> {
    let kind = engine::kind(folder).map_err(|source| LoadError::Engine {
        name: name.into(),
        folder: folder.into(),
        source,
    })?;
    if kind == Kind::Generator && !folder.join(KNOWN_ANSWERS).is_file() {
        return Err(LoadError::Unanswered { name: name.into(), folder: folder.into() });
    }
    Ok(())
}

/// Weights from which on loading says how far it is.
const LARGE: u64 = 256_000_000;

/// Says a few times how far the loading of a large model is: from a cold disk it takes minutes.
fn saying(name: &str) -> Told {
    let (name, next) = (name.to_owned(), AtomicU64::new(0));
    Arc::new(move |Loading { done, total }| {
        let percent = (done * 100).checked_div(total).unwrap_or(100);
        if total >= LARGE && percent >= next.load(Ordering::Relaxed) {
            next.store(percent / 20 * 20 + 20, Ordering::Relaxed);
            eprintln!("model {name}: {percent} % of {} MB of weights", total / 1_000_000);
        }
    })
}

/// Loads a folder and computes with it; of no disk, so known answers may be missing.
///
/// # Errors
/// See [`LoadError`].
pub fn load(name: &str, folder: &Path, compute: &Compute) -> Result<Entry, LoadError> {
    let engine = |source| LoadError::Engine { name: name.into(), folder: folder.into(), source };
    let failed = |reason| LoadError::SelfTest { name: name.into(), reason };
    match engine::kind(folder).map_err(engine)? {
        Kind::Embedder => {
            let model = EngineModel(Embedder::load_on(folder, compute.options).map_err(engine)?);
            let digest = self_test(&model).map_err(failed)?;
            let self_test = Some(SelfTest { digest, passed: true });
            Ok(Entry { self_test, ..Entry::embedder(name, model) })
        }
        Kind::Generator => {
            let writer = EngineWriter::open(folder, compute, saying(name)).map_err(engine)?;
            let digest = writing_test(&writer).map_err(failed)?;
            let desk = Desk::open(Arc::new(writer)).map_err(engine)?;
            let self_test = Some(SelfTest { digest, passed: true });
            Ok(Entry { self_test, ..Entry::writer(name, desk) })
        }
    }
}

/// SHA-256 of the likeliest continuation of a fixed text: computed twice, and the same both times.
fn writing_test(writer: &dyn Writer) -> Result<Hex32, String> {
    let (first, again) = (continued(writer)?, continued(writer)?);
    if first != again {
        return Err("expected the same continuation twice, found two different ones".into());
    }
    Ok(Hex32(Sha256::digest(first).into()))
}

fn continued(writer: &dyn Writer) -> Result<String, String> {
    let said = |error: EngineError| error.to_string();
    let sampling = Sampling { temperature: Some(0.0), ..Sampling::default() };
    let prompt = Prompt::Text("self-test".into());
    let request = Request { sampling, max_tokens: Some(SELF_TEST_TOKENS), ..Request::new(prompt) };
    let prompted = writer.prepare(request).map_err(said)?;
    let mut turns = writer.turns().map_err(said)?;
    turns.submit(ClientId(0), prompted).map_err(said)?;
    let mut text = String::new();
    while !turns.is_idle() {
        for event in turns.step() {
            match event {
                Event::Text { text: more, .. } => text += &more,
                Event::Finished { .. } => return Ok(text),
                Event::Failed { error, .. } => return Err(said(error)),
                Event::Started { .. } => {}
            }
        }
    }
    Err("expected a continuation, found an end without one".into())
}

/// SHA-256 of the vector of a fixed text: there, finite, and not all zero.
fn self_test(model: &dyn Embed) -> Result<Hex32, String> {
    let embedded = model.embed(&["self-test".into()]).map_err(|error| error.to_string())?;
    let [vector] = embedded.vectors.as_slice() else {
        return Err(format!("expected 1 vector, found {}", embedded.vectors.len()));
    };
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length.is_finite() && length > 0.0 {
        let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        return Ok(Hex32(Sha256::digest(bytes).into()));
    }
    Err(format!("expected a vector of finite length above 0, found {length}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Vec<Vec<f32>>);

    impl Embed for Fixed {
        fn context(&self) -> usize {
            8
        }

        fn embed(&self, _: &[String]) -> Result<Embedded, EmbedError> {
            Ok(Embedded { vectors: self.0.clone(), prompt_tokens: 1 })
        }
    }

    #[test]
    fn a_model_that_computes_passes_the_self_test() {
        let digest = self_test(&Fixed(vec![vec![0.6, 0.8]])).unwrap();
        assert_eq!(digest, self_test(&Fixed(vec![vec![0.6, 0.8]])).unwrap());
        assert_ne!(digest, self_test(&Fixed(vec![vec![0.8, 0.6]])).unwrap());
    }

    #[test]
    fn a_model_that_computes_nothing_fails_the_self_test() {
        for bad in [vec![], vec![vec![]], vec![vec![0.0, 0.0]], vec![vec![f32::NAN, 1.0]]] {
            assert!(self_test(&Fixed(bad.clone())).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_pinned_text_model_without_known_answers_is_refused_before_it_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let described = r#"{"architectures": ["LlamaForCausalLM"]}"#;
        std::fs::write(folder.path().join("config.json"), described).unwrap();
        let error = answered("m", folder.path()).unwrap_err();
        assert!(matches!(error, LoadError::Unanswered { .. }), "{error}");
        assert!(error.to_string().contains("cargo xtask answers"), "{error}");
        std::fs::write(folder.path().join(KNOWN_ANSWERS), "{}").unwrap();
        assert!(answered("m", folder.path()).is_ok());
    }

    #[test]
    fn an_embedder_needs_no_known_answers() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), r#"{"architectures": ["BertModel"]}"#).unwrap();
        assert!(answered("m", folder.path()).is_ok());
    }

    #[test]
    fn a_configuration_without_models_is_refused() {
        let config = StaticConfig::parse(b"schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n").unwrap();
        assert!(matches!(
            load_all(&config, Path::new("/nonexistent"), &Compute::default()),
            Err(LoadError::NoModels)
        ));
    }
}
