//! The worker: an OpenAI-compatible endpoint behind attested TLS.
//!
//! ```text
//! main     options, configuration, whom to believe, models, READY=1, SIGTERM
//!  compute what it computes on, by the measured configuration
//!  serve   connections that come in, and those it makes to proxies: HTTP/2 served on either
//!   pay    around the api: who pays, what is owed, vouchers (with [ledger] and [wallet] in the configuration)
//!   api    GET /healthz, GET /v1/models, POST /v1/..; errors in OpenAI's form
//!    embeddings  texts to vectors, a few computations at a time on blocking threads
//!    write  prompts to texts: ask (the request) -> desk (one thread a model) -> reply, parts -> stream (the body)
//!    pool   models by name, and by the root of their disk
//! ```
//! Everything a peer can make grow has a bound: connections, header and body size, inputs a request, requests in
//! flight, and the time each of them may take. Nothing that a peer sends is ever logged.
//!
//! Deliberately absent: plain TCP or plain TLS, HTTP/1.1, a switch that turns attestation off, request logs.

mod api;
mod ask;
mod compute;
mod desk;
mod embeddings;
mod generator;
mod model;
mod parts;
pub mod pay;
mod pool;
mod reply;
mod serve;
mod stream;
mod write;

pub use api::{MAX_BODY, router};
pub use ask::{Ask, Form, MIN_CACHE_KEY};
pub use compute::Compute;
pub use desk::{Desk, Prompted, Turns, Writer};
pub use embeddings::{AskVectors, MAX_INPUTS};
pub use generator::EngineWriter;
pub use model::{EngineModel, LoadError, load, load_all};
pub use pool::{Embed, EmbedError, Embedded, Entry, Model, Models};
pub use serve::{Proxies, Server};
