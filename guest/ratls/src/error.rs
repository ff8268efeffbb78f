//! What can go wrong on the way to an attested connection, and whose fault it is.

use protocol::{AttestError, CodecError};
use std::fmt;
use std::time::Duration;

/// One step of the exchange; each has its own deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The TLS handshake.
    Handshake,
    /// The verifier's challenge travels.
    Challenge,
    /// The platform makes a quote.
    Quote,
    /// The attester's evidence travels.
    Evidence,
}

impl Step {
    /// How long the step may take as a whole, trickling bytes included. Generous, since a guest in software emulation
    /// needs seconds where hardware needs a millisecond. The verifier's wait for evidence includes the attester's quote.
    pub const fn deadline(self) -> Duration {
        match self {
            Step::Handshake | Step::Challenge => Duration::from_secs(10),
            // The kernel gives the host's quoting service 30 s; the attester adds retries.
            Step::Quote => Duration::from_secs(45),
            Step::Evidence => Duration::from_secs(60),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Handshake => "TLS handshake",
            Step::Challenge => "challenge",
            Step::Quote => "quote",
            Step::Evidence => "evidence",
        })
    }
}

/// A fault of the channel itself, the same at both ends.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// A step took too long.
    #[error("{step}: not finished within {} s; the peer is silent, overloaded or unreachable: try again later",
        .step.deadline().as_secs())]
    Deadline {
        /// Which step.
        step: Step,
    },
    /// TLS failed.
    #[error(
        "TLS handshake: {0}; expected TLS 1.3 with ALPN `chrysalis/1` and a P-256 key: \
         is this the port of a Chrysalis worker?"
    )]
    Tls(#[source] rustls::Error),
    /// TLS came up without the protocol name of the attested channel.
    #[error(
        "TLS handshake: expected ALPN `chrysalis/1`, found {found}; the peer speaks another protocol on this port"
    )]
    Alpn {
        /// What was negotiated instead.
        found: String,
    },
    /// The peer closed the connection before the step was complete.
    #[error(
        "{step}: the peer closed the connection after {received} bytes; its own log says why \
         (a worker does so when its platform gives no quote)"
    )]
    Closed {
        /// Which step.
        step: Step,
        /// How much of the frame had come.
        received: usize,
    },
    /// A frame is longer than this step allows.
    #[error(
        "{step}: the frame claims {claimed} bytes, at most {max} are allowed; the peer speaks another version"
    )]
    Oversized {
        /// Which step.
        step: Step,
        /// The claimed length.
        claimed: usize,
        /// The bound.
        max: usize,
    },
    /// A frame does not hold what it should.
    #[error("{step}: {source}; the peer speaks another version")]
    Malformed {
        /// Which step.
        step: Step,
        /// Offset, expectation and finding.
        #[source]
        source: CodecError,
    },
    /// The connection broke.
    #[error("{step}: the connection broke: {source}; check the network and try again")]
    Io {
        /// Which step.
        step: Step,
        /// The operating system's words.
        #[source]
        source: std::io::Error,
    },
}

impl ChannelError {
    /// Whether the peer broke the protocol, as opposed to the network or this machine failing.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            ChannelError::Deadline { step } => *step != Step::Quote,
            ChannelError::Tls(error) => is_tls_peer_fault(error),
            ChannelError::Alpn { .. }
            | ChannelError::Closed { .. }
            | ChannelError::Oversized { .. }
            | ChannelError::Malformed { .. } => true,
            ChannelError::Io { .. } => false,
        }
    }

    /// Sorts what tokio-rustls wraps into an I/O error back into its parts.
    pub(crate) fn from_handshake(error: std::io::Error) -> Self {
        let step = Step::Handshake;
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            return ChannelError::Closed { step, received: 0 };
        }
        match error.downcast::<rustls::Error>() {
            Ok(tls) => ChannelError::Tls(tls),
            Err(source) => ChannelError::Io { step, source },
        }
    }
}

fn is_tls_peer_fault(error: &rustls::Error) -> bool {
    use rustls::Error as E;
    !matches!(
        error,
        E::FailedToGetCurrentTime
            | E::FailedToGetRandomBytes
            | E::HandshakeNotComplete
            | E::EncryptError
            | E::General(_)
            | E::Other(_)
    )
}

/// Why an attester gave up on a connection.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The channel did not come up.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Too many connections wait for a quote already.
    #[error("quote: {waiting} connections wait for a quote already, no more are taken; try again later")]
    Busy {
        /// Length of the queue.
        waiting: usize,
    },
    /// The platform gave no quote.
    #[error("quote: {0}")]
    Platform(#[from] AttestError),
    /// The quote task itself failed.
    #[error("quote: the quote task stopped without an answer; restart the daemon and report this: {0}")]
    Task(#[source] tokio::task::JoinError),
}

impl AcceptError {
    /// Whether the peer broke the protocol; false where this machine or the network failed.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            AcceptError::Channel(error) => error.is_peer_fault(),
            AcceptError::Busy { .. } | AcceptError::Platform(_) | AcceptError::Task(_) => false,
        }
    }
}

/// Why a verifier got no attested connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The channel did not come up.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The evidence came and was refused; nothing was sent to the peer but a nonce.
    #[error("the peer's evidence was refused: {0}")]
    Refused(#[source] evidence::Refused),
}

impl ConnectError {
    /// Whether the peer broke the protocol or showed evidence that was refused.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            ConnectError::Channel(error) => error.is_peer_fault(),
            ConnectError::Refused(_) => true,
        }
    }
}
