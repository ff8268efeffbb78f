//! The proxy: attested at both sides, it lets clients and workers in, sends each request to one worker, and keeps the books.
//!
//! ```text
//! worker --- dials in, mutual ---> serve -> registry (measured configuration) -- router: who gets a request
//! client --- attests the proxy --> serve -> routes -> forward: place (fair) -> worker -> hold (books, on disk) -> answer
//!                                                  \-> offers: terms, vaults, quotes, vouchers, metrics
//! chain: proven views ----------------------------> money -> books, prices
//! ```
//! A prompt goes from the client's connection to the worker's and nowhere else: nothing is logged, kept or measured of it.
//! Everything a peer can make grow has a bound: connections, workers, bodies, requests under way, vaults that are looked up.
//!
//! Deliberately absent: a worker that is believed without evidence, messages to the chain, and a sealed key.

pub mod books;
pub mod chain;
pub mod fair;
pub mod forward;
mod key;
pub mod ledger;
pub mod metrics;
pub mod money;
mod offers;
#[cfg(test)]
mod play;
pub mod registry;
pub mod router;
mod routes;
pub mod serve;

pub use key::{NAME as SESSION_KEY, SessionKey, seeds};
pub use routes::router as routes;
