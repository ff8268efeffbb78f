//! HTTP/2 over one attested connection: either end serves, many requests share it, and the proof is kept fresh.
//!
//! ```text
//! HTTP client end (open.rs)                     HTTP server end (serve.rs)
//!   |== requests, up to a bound of streams =====>|  service, with the caller's proof beside each request
//!   |-- POST /.chrysalis/attest: Challenge ----->|  evidence over this very connection (reserved.rs)
//!   |-- POST /.chrysalis/renew: (none) --------->|  Challenge; then Evidence -> 204
//!   |-- POST /.chrysalis/rest ------------------>|  204: both put HTTP/2 away until the next request (wire.rs)
//!   |<-------------------- GOAWAY ---------------|  stopped, or the peer is no longer trusted (guard.rs)
//! ```
//! Which end dialled plays no part: a worker that dialled out serves on that connection.
//!
//! Life of a session: awake, at rest, awake again, ..., draining (no new streams, those under way get a grace), closed. It
//! drains when it is told to stop, when the peer was not proved anew in time, and when the trust of now does not accept the
//! proof of then. It closes at once when a new proof is refused.
//!
//! At rest an end keeps the TLS connection and the proof, and nothing of HTTP/2, whose state takes most of the memory of an
//! idle connection; the next request begins with a new connection preface on the same TLS connection
//! (`docs/decisions/0022-idle-sessions-rest.md`).
//!
//! Deliberately absent: server push, CONNECT, trailers in requests, HTTP/1.1, and keep-alive pings (TCP has its own).

mod body;
mod guard;
mod open;
mod reserved;
mod serve;
mod wire;

use crate::{
    Accepted, Attested, ChannelStream, Endpoint, JudgeError, Link, Peer, Refusal, Served, Verifier, Wanted,
};
use std::sync::Arc;
use std::time::Duration;

pub use body::Body;
pub use open::{RequestError, Requests, open};
pub use reserved::Caller;
pub use serve::serve;

/// Paths that begin with it belong to the session and never reach an application.
pub const RESERVED: &str = "/.chrysalis/";
const ATTEST: &str = "/.chrysalis/attest";
const RENEW: &str = "/.chrysalis/renew";
const REST: &str = "/.chrysalis/rest";

/// Times and bounds of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Age of a proof at which the HTTP client end has both ends proved anew.
    pub renew: Duration,
    /// Age of a proof at which an end drains the connection.
    pub overdue: Duration,
    /// How long streams under way may still take once a connection drains.
    pub grace: Duration,
    /// How long a connection without streams stays awake.
    pub rest: Duration,
    /// Streams at one time.
    pub streams: u32,
    /// Bytes of a request's or response's header fields.
    pub header_list: u32,
    /// Bytes of one stream's body that may arrive unread.
    pub stream_window: u32,
    /// Bytes of all bodies that may arrive unread.
    pub connection_window: u32,
    /// Bytes of one stream's body that may wait to be sent.
    pub send_buffer: usize,
}

impl Default for Settings {
    /// 15 and 20 minutes, 20 and 30 seconds; 128 streams, 16 KiB, 256 KiB, 1 MiB, 64 KiB.
    fn default() -> Self {
        Settings {
            renew: Duration::from_secs(15 * 60),
            overdue: Duration::from_secs(20 * 60),
            grace: Duration::from_secs(20),
            rest: Duration::from_secs(30),
            streams: 128,
            header_list: 16 * 1024,
            stream_window: 256 * 1024,
            connection_window: 1024 * 1024,
            send_buffer: 64 * 1024,
        }
    }
}

/// What an end brings to its sessions; clones share it.
#[derive(Clone)]
pub struct End {
    me: Arc<Endpoint>,
    verifier: Option<(Arc<Verifier>, Wanted)>,
    settings: Settings,
}

impl End {
    /// With the default settings, and nothing to verify attested peers with: their connections drain when they are overdue.
    pub fn new(me: Arc<Endpoint>) -> Self {
        End { me, verifier: None, settings: Settings::default() }
    }

    /// Has peers proved anew, to this verifier and as wanted.
    #[must_use]
    pub fn verifying(mut self, verifier: Arc<Verifier>, wanted: Wanted) -> Self {
        self.verifier = Some((verifier, wanted));
        self
    }

    /// With other settings.
    #[must_use]
    pub fn with(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }
}

/// A connection behind the exchange, at either end, whether or not its peer is attested.
#[derive(Debug)]
pub struct Established<S> {
    stream: ChannelStream<S>,
    link: Link,
    peer: Option<Peer>,
}

impl<S> From<Attested<S>> for Established<S> {
    fn from(attested: Attested<S>) -> Self {
        let (peer, link, stream) = attested.into_parts();
        Established { stream, link, peer: Some(peer) }
    }
}

impl<S> From<Served<S>> for Established<S> {
    fn from(served: Served<S>) -> Self {
        let (link, stream) = served.into_parts();
        Established { stream, link, peer: None }
    }
}

impl<S> From<Accepted<S>> for Established<S> {
    fn from(accepted: Accepted<S>) -> Self {
        match accepted {
            Accepted::Anonymous(served) => served.into(),
            Accepted::Attested(attested) => attested.into(),
        }
    }
}

/// How a session ended.
#[derive(Debug)]
pub struct Ended {
    /// Why.
    pub reason: Reason,
    /// Streams that were open still when the connection was closed.
    pub cut: usize,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// This end was told to stop, or nobody can send requests any more.
    #[error("this end stopped")]
    Stopped,
    /// The peer closed the connection in good order.
    #[error("the peer closed the connection")]
    Closed,
    /// The connection broke, or the peer broke HTTP/2.
    #[error("the connection broke: {0}")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The proof of the peer does not hold under the trust of now.
    #[error("the peer is no longer trusted: {0}")]
    Distrusted(#[source] Box<Refusal>),
    /// The peer was not proved anew in time.
    #[error("the peer was not proved anew within {} s; is its platform giving quotes?", .0.as_secs())]
    NotRenewed(Duration),
    /// The peer's new proof was refused.
    #[error("the peer's new proof was refused: {0}")]
    Refused(#[source] JudgeError),
}

impl Reason {
    /// Whether the peer broke the protocol or was found to be something else than it must be.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            Reason::Stopped | Reason::Closed | Reason::Broken(_) => false,
            Reason::Distrusted(_) | Reason::NotRenewed(_) | Reason::Refused(_) => true,
        }
    }

    /// How long streams under way may still take.
    fn grace(&self, settings: &Settings) -> Duration {
        match self {
            Reason::Stopped | Reason::Distrusted(_) | Reason::NotRenewed(_) => settings.grace,
            Reason::Closed | Reason::Broken(_) | Reason::Refused(_) => Duration::ZERO,
        }
    }
}

/// Whether it says no more than that the other end has left.
fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}
