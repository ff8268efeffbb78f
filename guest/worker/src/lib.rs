//! The worker: an OpenAI-compatible endpoint behind attested TLS.
//!
//! ```text
//! main     options, configuration, whom to believe, models, READY=1, SIGTERM
//!  serve   connections that come in, and those it makes to proxies: HTTP/2 served on either
//!   api    GET /healthz, GET /v1/models, POST /v1/embeddings; errors in OpenAI's form
//!    pool  models by name; a few computations at a time on blocking threads
//! ```
//! Everything a peer can make grow has a bound: connections, header and body size, inputs a request, requests in
//! flight, and the time each of them may take. Nothing that a peer sends is ever logged.
//!
//! Deliberately absent: plain TCP or plain TLS, HTTP/1.1, a switch that turns attestation off, request logs.

mod api;
mod model;
mod pool;
mod serve;

pub use api::{MAX_BODY, MAX_INPUTS, router};
pub use model::{EngineModel, LoadError, load_all};
pub use pool::{Embed, EmbedError, Embedded, Models};
pub use serve::{Proxies, Server};
