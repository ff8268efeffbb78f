//! Models by name, and the bounds on what they compute at one time.

use crate::desk::Desk;
use crate::write::short;
use axum::http::StatusCode;
use daemon::fault::Fault;
use protocol::market::{Hex32, Load, ModelFacts, ModelKind, SelfTest};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests that may be in flight, from their body's first byte to their answer's first.
const IN_FLIGHT: usize = 64;

/// Something that turns texts into vectors; CPU bound, called on a blocking thread.
pub trait Embed: Send + Sync + 'static {
    /// Most tokens of a text.
    fn context(&self) -> usize;
    /// One vector a text, in order.
    fn embed(&self, texts: &[String]) -> Result<Embedded, EmbedError>;
}

/// Vectors and their cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// One a text, all of the same length.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all texts together.
    pub prompt_tokens: usize,
}

/// Why there are no vectors. The messages go to the peer who sent the texts and nowhere else.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// The texts are to blame.
    #[error("{0}")]
    Request(String),
    /// The model or this machine is to blame.
    #[error("{0}")]
    Model(String),
    /// Too much is in flight.
    #[error("{IN_FLIGHT} requests are in flight already; try again later")]
    Busy,
}

/// What a model does.
#[derive(Clone)]
pub enum Model {
    /// Vectors.
    Embedder(Arc<dyn Embed>),
    /// Texts.
    Writer(Desk),
}

/// A model that is served.
#[derive(Clone)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Root of its disk, where it has one.
    pub root: Option<Hex32>,
    /// What it does.
    pub model: Model,
    /// How it answered the known question.
    pub self_test: Option<SelfTest>,
}

impl Entry {
    /// A model that makes vectors, of no disk.
    pub fn embedder(name: &str, model: impl Embed) -> Self {
        Entry { name: name.into(), root: None, model: Model::Embedder(Arc::new(model)), self_test: None }
    }

    /// A model that writes, of no disk.
    pub fn writer(name: &str, desk: Desk) -> Self {
        Entry { name: name.into(), root: None, model: Model::Writer(desk), self_test: None }
    }
}

/// The models this worker serves.
pub struct Models {
    models: Vec<Entry>,
    in_flight: Arc<Semaphore>,
    computing: Arc<Semaphore>,
    at_once: usize,
}

impl Models {
    /// Models with their names, of which `at_once` (at least one) compute vectors at the same time.
    pub fn new(models: Vec<Entry>, at_once: usize) -> Self {
        let (in_flight, at_once) = (Arc::new(Semaphore::new(IN_FLIGHT)), at_once.max(1));
        Models { models, in_flight, computing: Arc::new(Semaphore::new(at_once)), at_once }
    }

    /// Names, in the order of the configuration.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.models.iter().map(|entry| entry.name.as_str())
    }

    /// Requests that are computed, and that wait.
    pub fn load(&self) -> Load {
        let mut load = Load::default();
        let computing = self.at_once - self.computing.available_permits();
        load.running = u32::try_from(computing).unwrap_or(u32::MAX);
        for desk in self.desks() {
            let (running, waiting) = desk.load();
            load.running = load.running.saturating_add(running);
            load.waiting = load.waiting.saturating_add(waiting);
        }
        load
    }

    /// Requests that can be computed at one time.
    pub fn slots(&self) -> u32 {
        let slots = self.desks().map(|desk| desk.writer().slots()).sum::<usize>();
        let embedders = self.models.iter().any(|entry| matches!(entry.model, Model::Embedder(_)));
        u32::try_from(slots + if embedders { self.at_once } else { 0 }).unwrap_or(u32::MAX)
    }

    /// What is told of the models that have a disk.
    pub fn facts(&self) -> Vec<ModelFacts> {
        let facts = |entry: &Entry| {
            let (kind, context, max_completion) = match &entry.model {
                Model::Embedder(model) => (ModelKind::Embedding, model.context(), 0),
                Model::Writer(desk) => (ModelKind::Chat, desk.writer().context(), desk.writer().context()),
            };
            let number = |tokens| u32::try_from(tokens).unwrap_or(u32::MAX);
            Some(ModelFacts {
                name: entry.name.clone(),
                root: entry.root?,
                kind,
                context: number(context),
                max_completion: number(max_completion),
                self_test: entry.self_test,
            })
        };
        self.models.iter().filter_map(facts).collect()
    }

    fn desks(&self) -> impl Iterator<Item = &Desk> {
        self.models.iter().filter_map(|entry| match &entry.model {
            Model::Writer(desk) => Some(desk),
            Model::Embedder(_) => None,
        })
    }

    /// Requests in flight, now.
    pub fn in_flight(&self) -> usize {
        IN_FLIGHT - self.in_flight.available_permits()
    }

    /// The model that a request names: its name, or `NAME@ROOT` with the root of its disk.
    ///
    /// # Errors
    /// 404: no such name, or another root.
    pub(crate) fn find(&self, asked: &str) -> Result<&Entry, Fault> {
        let (name, root) = match asked.split_once('@') {
            Some((name, root)) => (name, Some(root)),
            None => (asked, None),
        };
        let unknown =
            |message| Fault::request("model_not_found", Some("model"), message).status(StatusCode::NOT_FOUND);
        let Some(entry) = self.models.iter().find(|entry| entry.name == name) else {
            let served = self.names().collect::<Vec<_>>().join(", ");
            let name = short(name);
            return Err(unknown(format!("model `{name}` is not served here; this worker serves: {served}")));
        };
        match root {
            Some(root) if entry.root.is_none_or(|own| own.to_string() != root) => {
                let own = entry.root.map_or("no disk".to_string(), |own| format!("root {own}"));
                Err(unknown(format!(
                    "model `{}` with root {} is not served here; this worker has it with {own}",
                    entry.name,
                    short(root)
                )))
            }
            _ => Ok(entry),
        }
    }

    /// Runs something on a blocking thread; `None` if it panicked.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        tokio::task::spawn_blocking(work).await.ok()
    }

    /// A place in flight; to be held until the answer is made.
    pub(crate) fn enter(&self) -> Result<OwnedSemaphorePermit, EmbedError> {
        self.in_flight.clone().try_acquire_owned().map_err(|_| EmbedError::Busy)
    }

    /// Computes on a blocking thread. If the caller goes away while waiting, nothing is computed; once begun, the
    /// computation runs to its end and holds its share.
    pub(crate) async fn compute(
        &self,
        model: Arc<dyn Embed>,
        texts: Vec<String>,
    ) -> Result<Embedded, EmbedError> {
        let share = self.computing.clone().acquire_owned().await.expect("the semaphore is never closed");
        let task = tokio::task::spawn_blocking(move || {
            let _share = share;
            let expected = texts.len();
            let embedded = model.embed(&texts)?;
            match embedded.vectors.len() {
                found if found == expected => Ok(embedded),
                found => Err(EmbedError::Model(format!("{found} vectors for {expected} texts"))),
            }
        });
        // A panic is caught here, without its message, which could quote a text.
        task.await
            .unwrap_or_else(|_| Err(EmbedError::Model("the computation stopped without an answer".into())))
    }
}
