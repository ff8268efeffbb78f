//! Both ends of attested TLS: a TLS 1.3 connection whose far end has proved, on this very connection, what it runs.
//!
//! ```text
//! connect (initiator)                       Acceptor (responder)
//!    |-- TLS 1.3, ALPN chrysalis/2 ------------|   tls.rs       who holds which key
//!    |-- Challenge --------------------------->|   frame.rs     bounded, with a deadline
//!    |<- Retry, under load --------------------|   accept.rs    work before quotes
//!    |<- Challenge, to attested initiators ----|
//!    |<- Evidence -----------------------------|   endpoint.rs  quote over exporter, challenge, key, parts
//!  judge -> Peer, or Refusal                   |   judge.rs     only now is there a stream
//!    |-- Evidence, of attested initiators ---->| judge -> Peer
//!    |<- Accepted -----------------------------|   stream.rs    taken off the front by the first read
//!    |== application bytes ====================|
//! ```
//! A certificate proves nothing but the possession of its key; identity comes from the evidence alone. Because the quote
//! covers the TLS exporter, evidence taken from another connection, or a connection relayed by a man in the middle, does
//! not match (`docs/reference/channel.md` is the specification).
//!
//! Deliberately absent: TLS 1.2, a key exchange without ML-KEM, session resumption, 0-RTT, a switch that skips appraisal,
//! and a verifier type that others could use without it.

mod accept;
mod connect;
mod endpoint;
mod error;
mod frame;
mod judge;
mod link;
mod peer;
mod quotes;
mod refusal;
pub mod session;
mod stream;
mod tls;
mod trust;
pub mod weak;

// So that tests here and in `tests/` share their support.
#[cfg(test)]
extern crate self as ratls;

#[cfg(test)]
mod tests;

pub use accept::{Accepted, Acceptor, Served};
pub use connect::{Attested, connect, connect_showing};
pub use endpoint::{Endpoint, GpuSource};
pub use error::{AcceptError, AnswerError, ChannelError, ConnectError, JudgeError, Step};
pub use judge::{Claim, Question, Wanted};
pub use link::Link;
pub use peer::Peer;
pub use quotes::{QuoteError, QuoteLimits, QuoteQueue, QuoteState, QuoteStats, Quoted};
pub use refusal::Refusal;
pub use stream::ChannelStream;
pub use trust::{GpuTrust, Trust, Verifier};
