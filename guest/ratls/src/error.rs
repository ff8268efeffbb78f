//! What can go wrong on the way to an attested connection, and whose fault it is.

use crate::quotes::QuoteError;
use crate::refusal::Refusal;
use protocol::CodecError;
use protocol::channel::{Part, Refuse};
use std::fmt;
use std::time::Duration;

/// One step of the exchange; each has its own deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The TLS handshake.
    Handshake,
    /// A challenge travels.
    Challenge,
    /// The initiator does the work that was demanded of it.
    Admission,
    /// The platform makes a quote.
    Quote,
    /// Evidence travels.
    Evidence,
    /// The responder says whether it accepts the initiator's evidence, or why it turns the initiator away.
    Verdict,
}

impl Step {
    /// How long the step may take as a whole, trickling bytes included. Generous, since a guest in software emulation
    /// needs seconds where hardware needs a millisecond. The wait for evidence includes the attester's quote.
    pub const fn deadline(self) -> Duration {
        match self {
            Step::Handshake | Step::Challenge | Step::Verdict => Duration::from_secs(10),
            Step::Admission => Duration::from_secs(30),
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
            Step::Admission => "admission",
            Step::Quote => "quote",
            Step::Evidence => "evidence",
            Step::Verdict => "verdict",
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
        "TLS handshake: {0}; expected TLS 1.3 with X25519MLKEM768, ALPN `chrysalis/2` and a P-256 key: \
         is this the port of a Chrysalis guest, of this version?"
    )]
    Tls(#[source] rustls::Error),
    /// TLS came up without the protocol name of the attested channel.
    #[error(
        "TLS handshake: expected ALPN `chrysalis/2`, found {found}; the peer speaks another protocol on this port"
    )]
    Alpn {
        /// What was negotiated instead.
        found: String,
    },
    /// The peer shows evidence in its certificate, and speaks no attested channel.
    #[error(
        "TLS handshake: expected ALPN `chrysalis/2`, found {found} and evidence in the certificate \
         (2.23.133.5.4.9): that proves who made a key, and not who is at the other end of this connection; \
         connect to the port of its attested channel"
    )]
    Weaker {
        /// What was negotiated instead.
        found: String,
    },
    /// TLS came up with a key exchange that a quantum computer could break later.
    #[error(
        "TLS handshake: expected the key exchange X25519MLKEM768, found {found}; the peer is of another version"
    )]
    Group {
        /// What was negotiated instead.
        found: String,
    },
    /// The peer closed the connection before the step was complete.
    #[error(
        "{step}: the peer closed the connection after {received} bytes; its own log says why \
         (a guest is restarted, or the network is cut)"
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
    /// A message that is right in itself, in the wrong place.
    #[error("{step}: expected {expected}, found {found}; the peer breaks the protocol")]
    Unexpected {
        /// Which step.
        step: Step,
        /// What should have come.
        expected: &'static str,
        /// What came.
        found: &'static str,
    },
    /// The peer's challenge is our own, sent back.
    #[error("{step}: the peer's challenge has the nonce of our own; somebody reflects what we send: do not trust this path",
        step = Step::Challenge)]
    Reflected,
    /// The peer turned us away, and said why.
    #[error("{step}: the peer turns this end away: {reason}")]
    Refused {
        /// Which step.
        step: Step,
        /// Its reason.
        reason: Refuse,
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
            ChannelError::Deadline { step } => !matches!(step, Step::Quote),
            ChannelError::Tls(error) => is_tls_peer_fault(error),
            ChannelError::Alpn { .. }
            | ChannelError::Weaker { .. }
            | ChannelError::Group { .. }
            | ChannelError::Closed { .. }
            | ChannelError::Oversized { .. }
            | ChannelError::Malformed { .. }
            | ChannelError::Unexpected { .. }
            | ChannelError::Reflected => true,
            // It may be busy, or we may have asked for what it never was: saying so breaks nothing.
            ChannelError::Refused { .. } => false,
            ChannelError::Io { .. } => false,
        }
    }

    /// Sorts what tokio-rustls wraps into an I/O error back into its parts.
    pub(crate) fn from_handshake(error: std::io::Error) -> Self {
        Self::from_io(Step::Handshake, 0, error)
    }

    /// The same at a later step, after so many bytes of a frame. TLS 1.3 reports a fault of the other end's handshake only
    /// when it is read from next.
    pub(crate) fn from_io(step: Step, received: usize, error: std::io::Error) -> Self {
        // rustls reports a stream that ends without close_notify in this way.
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            return ChannelError::Closed { step, received };
        }
        match error.downcast::<rustls::Error>() {
            Ok(tls) => ChannelError::Tls(tls),
            Err(source) => ChannelError::Io { step, source },
        }
    }

    /// What the peer is told.
    fn refuse(&self) -> Option<Refuse> {
        match self {
            ChannelError::Oversized { .. }
            | ChannelError::Malformed { .. }
            | ChannelError::Unexpected { .. }
            | ChannelError::Reflected => Some(Refuse::Protocol),
            ChannelError::Deadline { step: Step::Quote } => Some(Refuse::Platform),
            // It is not there, does not listen, or does not speak our protocol.
            ChannelError::Deadline { .. }
            | ChannelError::Tls(_)
            | ChannelError::Alpn { .. }
            | ChannelError::Weaker { .. }
            | ChannelError::Group { .. }
            | ChannelError::Closed { .. }
            | ChannelError::Refused { .. }
            | ChannelError::Io { .. } => None,
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

/// Why this end gave no evidence.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The challenge can't be read.
    #[error("challenge: {0}; the peer speaks another version")]
    Malformed(#[source] CodecError),
    /// The challenge wants what this end is not or does not have.
    #[error(
        "challenge: expected one that wants what this end is, found one that wants {wants}; the peer is told so"
    )]
    Unwilling {
        /// What the peer is told.
        reason: Refuse,
        /// What it wants.
        wants: String,
    },
    /// No quote.
    #[error("quote: {0}")]
    Quote(#[source] QuoteError),
    /// No GPU evidence.
    #[error("GPU evidence: {0}")]
    Gpu(String),
}

impl AnswerError {
    /// What the peer is told.
    pub fn refuse(&self) -> Refuse {
        match self {
            AnswerError::Malformed(_) => Refuse::Protocol,
            AnswerError::Unwilling { reason, .. } => *reason,
            AnswerError::Quote(QuoteError::Busy { .. }) => Refuse::Busy,
            AnswerError::Quote(_) => Refuse::Platform,
            AnswerError::Gpu(_) => Refuse::Gpu,
        }
    }

    /// Whether the peer asked for what it can't have; false where this machine failed.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            AnswerError::Malformed(_) | AnswerError::Unwilling { .. } => true,
            AnswerError::Quote(_) | AnswerError::Gpu(_) => false,
        }
    }
}

/// Why an answer to a question made no [`crate::Peer`].
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// It can't be read.
    #[error("evidence: {0}; the peer speaks another version")]
    Malformed(#[source] CodecError),
    /// It was read, and is not what was wanted.
    #[error("the peer's evidence was refused: {0}")]
    Refused(#[source] Box<Refusal>),
}

/// Why a responder gave up on a connection.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The channel did not come up.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// This end gave no evidence.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// No part of this kind is let in here.
    #[error("challenge: the peer is a {part}, which this end does not let in; is it the right address?")]
    Uninvited {
        /// What the peer says it is.
        part: Part,
    },
    /// The work that was demanded was not done.
    #[error(
        "admission: expected a solution of {difficulty} bits, found one of fewer; the peer is turned away"
    )]
    Admission {
        /// What was demanded.
        difficulty: u32,
    },
    /// The initiator's evidence was refused.
    #[error("the peer's evidence was refused: {0}")]
    Refused(#[source] Box<Refusal>),
}

impl AcceptError {
    /// Whether the peer broke the protocol or showed evidence that was refused; false where this machine or the network
    /// failed.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            AcceptError::Channel(error) => error.is_peer_fault(),
            AcceptError::Answer(error) => error.is_peer_fault(),
            AcceptError::Uninvited { .. } | AcceptError::Admission { .. } => true,
            AcceptError::Refused(refusal) => refusal.is_peer_fault(),
        }
    }

    /// Why the peer's evidence was refused, if it was.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            AcceptError::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// What the peer is told.
    pub(crate) fn refuse(&self) -> Option<Refuse> {
        match self {
            AcceptError::Channel(error) => error.refuse(),
            AcceptError::Answer(error) => Some(error.refuse()),
            AcceptError::Uninvited { .. } => Some(Refuse::Part),
            AcceptError::Admission { .. } => Some(Refuse::Admission),
            AcceptError::Refused(_) => Some(Refuse::Evidence),
        }
    }
}

/// Why an initiator got no attested connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The channel did not come up.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// This end, which the peer wants attested too, gave no evidence.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The evidence came and was refused; nothing was sent to the peer but a challenge.
    #[error("the peer's evidence was refused: {0}")]
    Refused(#[source] Box<Refusal>),
}

impl ConnectError {
    /// Why the peer's evidence was refused, if it was.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            ConnectError::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether the peer broke the protocol or showed evidence that was refused.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            ConnectError::Channel(error) => error.is_peer_fault(),
            ConnectError::Answer(error) => error.is_peer_fault(),
            ConnectError::Refused(refusal) => refusal.is_peer_fault(),
        }
    }
}

macro_rules! from_judge {
    ($error:ident) => {
        impl From<JudgeError> for $error {
            fn from(error: JudgeError) -> Self {
                match error {
                    JudgeError::Malformed(source) => {
                        ChannelError::Malformed { step: Step::Evidence, source }.into()
                    }
                    JudgeError::Refused(refusal) => $error::Refused(refusal),
                }
            }
        }
    };
}

from_judge!(AcceptError);
from_judge!(ConnectError);
