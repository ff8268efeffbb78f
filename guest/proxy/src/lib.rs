//! The proxy: attested at both sides, it lets clients and workers in and sends each request to one worker.
//!
//! ```text
//! worker --- dials in, mutual ---> serve -> registry (models of its measured configuration)
//! client --- attests the proxy --> serve -> forward -> registry: least busy -> that worker's connection
//! ```
//! A prompt goes from the client's connection to the worker's and nowhere else: nothing is logged, kept or measured of it.
//! Everything a peer can make grow has a bound: connections, workers, bodies, requests under way.
//!
//! Deliberately absent: a worker that is believed without evidence, and (yet) prices, payments and reputation.

pub mod forward;
mod key;
pub mod registry;
pub mod serve;

pub use key::{NAME as SESSION_KEY, SessionKey};
