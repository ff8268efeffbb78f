//! Models by name, and the bounds on what they compute at one time.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests that may be in flight, from their body's first byte to their answer's first.
const IN_FLIGHT: usize = 64;

/// Something that turns texts into vectors; CPU bound, called on a blocking thread.
pub trait Embed: Send + Sync + 'static {
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

/// The models this worker serves.
pub struct Models {
    models: Vec<(String, Arc<dyn Embed>)>,
    in_flight: Arc<Semaphore>,
    computing: Arc<Semaphore>,
}

impl Models {
    /// Models with their names, of which `at_once` (at least one) compute at the same time.
    pub fn new(models: Vec<(String, Arc<dyn Embed>)>, at_once: usize) -> Self {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
        Models { models, in_flight, computing: Arc::new(Semaphore::new(at_once.max(1))) }
    }

    /// Names, in the order of the configuration.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.models.iter().map(|(name, _)| name.as_str())
    }

    /// Requests in flight, now.
    pub fn in_flight(&self) -> usize {
        IN_FLIGHT - self.in_flight.available_permits()
    }

    /// The model of that name.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<dyn Embed>> {
        self.models.iter().find(|(own, _)| own == name).map(|(_, model)| model.clone())
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
