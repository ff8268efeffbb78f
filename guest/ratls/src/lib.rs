//! Both ends of attested TLS: a TLS 1.3 connection whose far end has proved, on this very connection, what it runs.
//!
//! ```text
//! connect (verifier)                        Acceptor (attester)
//!    |-- TLS 1.3, ALPN chrysalis/1 ------------|   tls.rs      who holds the key
//!    |-- Challenge: nonce -------------------->|   frame.rs    bounded, with a deadline
//!    |                              quote over |   server.rs   SHA-512(exporter, nonce, own key)
//!    |<-- Evidence ----------------------------|
//!  appraise -> Appraised                       |   client.rs   only now is there a stream
//!    |== application bytes ====================|
//! ```
//! The certificate proves nothing but the possession of its key; identity comes from the evidence alone. Because the
//! quote covers the TLS exporter, evidence taken from another connection, or a connection relayed by a man in the
//! middle, does not match (`docs/reference/channel.md` is the specification).
//!
//! Deliberately absent: TLS 1.2, session resumption, 0-RTT, a switch that skips appraisal, a verifier type that others
//! could use without it, and evidence in the other direction (the verifier isn't attested in version 1).

mod client;
mod error;
mod frame;
mod quotes;
mod server;
mod stream;
mod tls;

#[cfg(test)]
mod tests;

pub use client::{Attested, connect};
pub use error::{AcceptError, ChannelError, ConnectError, Step};
pub use quotes::{QuoteError, QuoteLimits, QuoteQueue, QuoteState, QuoteStats, Quoted};
pub use server::Acceptor;
pub use stream::{AttestedClientStream, AttestedServerStream};
