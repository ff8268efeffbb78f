//! Any TCP service behind an attested channel: connections of a local program become streams of one attested connection.
//!
//! ```text
//! program --TCP--> near (near.rs) ==one attested HTTP/2 session==> far (far.rs) --TCP--> service
//!                  POST /tunnel/1, request body:  program to service      (pipe.rs)
//!                               response body: service to program
//! ```
//! A quote is paid once a session, not once a connection. The end of a body is the end of that direction alone (a half-close);
//! a connection that broke resets its stream, and a stream that was reset breaks the connection at the other end with a TCP
//! reset, so that a cut never looks like an end. HTTP/2's windows hold back a sender whose reader is slow, each stream for itself.
//!
//! Deliberately absent: a target that the near end could choose (the far end would be an open proxy), UDP, and any look into
//! the bytes. `docs/how-to/tunnel.md` shows both ends at work.

mod far;
mod near;
mod pipe;
mod weaker;

pub use far::Far;
pub use near::{Dialer, near};
pub use weaker::weaker;

use crate::ClientError;
use hyper::StatusCode;
use ratls::session::{Ended, RequestError, Settings};
use ratls::{AcceptError, Peer};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// The one path that a far end serves.
const PATH: &str = "/tunnel/1";
/// Connections of local programs at one time, and with them memory: each has 16 KiB for reading.
const PROGRAMS: usize = 512;

/// Settings of a session whose streams wait for strangers: each stream has a window of its own within the connection's, so
/// that readers who don't read hold nobody else back.
pub fn settings() -> Settings {
    let settings = Settings::default();
    let connection_window = settings.streams.saturating_mul(settings.stream_window);
    Settings { connection_window, ..settings }
}

/// What happens in a tunnel, for those who tell people. Never anything that went through it.
#[derive(Debug)]
pub enum Event<'a> {
    /// The near end has an attested connection.
    Attested(&'a Peer),
    /// The far end let somebody in, attested or not.
    LetIn(SocketAddr, Option<&'a Peer>),
    /// The far end turned somebody away.
    TurnedAway(SocketAddr, &'a AcceptError),
    /// A session came to its end.
    Ended(&'a Ended),
    /// A stream was not opened, or was cut.
    Failed(&'a StreamError),
}

/// Takes events as they happen; called from many tasks.
pub type Report = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// Why one connection of a local program did not go through, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// There is no attested connection.
    #[error(transparent)]
    Unproved(#[from] ClientError),
    /// The session took no stream.
    #[error("{address}: the session gave no stream: {source}; try again")]
    Unopened {
        /// Of the far end, as given.
        address: String,
        /// What the session says.
        #[source]
        source: RequestError,
    },
    /// The far end did not reach its service.
    #[error("{address}: the far end answered {status}: {reason}")]
    Target {
        /// Of the far end, as given.
        address: String,
        /// 502 where its service refuses or is not there, 504 where it is silent, 404 where it is no tunnel.
        status: StatusCode,
        /// In the far end's words.
        reason: String,
    },
    /// The stream was reset, or the session under it ended.
    #[error("the stream was cut: {0}; the other end, or the connection between, broke it off")]
    Cut(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The program, or the service, broke off its own TCP connection.
    #[error("the local TCP connection broke: {0}")]
    Local(#[source] io::Error),
    /// The service could not be reached from here.
    #[error("service {target}: {reason}; is it running, and is this its address?")]
    Service {
        /// As given.
        target: String,
        /// What was tried and what came of it.
        reason: String,
    },
}

impl StreamError {
    /// Whether the machine at the other end of the channel is to blame, as opposed to the network, this machine or the programs.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            StreamError::Unproved(ClientError::Refused { .. }) => true,
            StreamError::Unproved(ClientError::Channel { source, .. }) => source.is_peer_fault(),
            StreamError::Target { .. } => true,
            StreamError::Unproved(_)
            | StreamError::Unopened { .. }
            | StreamError::Cut(_)
            | StreamError::Local(_)
            | StreamError::Service { .. } => false,
        }
    }
}
