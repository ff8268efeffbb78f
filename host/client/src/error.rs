//! Why there is no answer: nobody there, refused evidence, a broken connection, or a worker that says no.

use evidence::Verdict;
use protocol::openai::ErrorObject;
use ratls::{AnswerError, ChannelError, ConnectError, Refusal};

/// Every failure names the address and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("{address}: cannot connect: {source}; is the guest running, and is this its port?")]
    Unreachable {
        /// As given.
        address: String,
        /// The operating system's words.
        #[source]
        source: std::io::Error,
    },
    /// Somebody listens, but gave no evidence.
    #[error("{address}: no attested channel: {source}")]
    Channel {
        /// As given.
        address: String,
        /// Which step, and whose fault.
        #[source]
        source: ChannelError,
    },
    /// The peer wants evidence of this end, which has none.
    #[error("{address}: no attested channel: {source}")]
    Answer {
        /// As given.
        address: String,
        /// What was wanted.
        #[source]
        source: AnswerError,
    },
    /// The evidence was not accepted. Nothing was sent but a challenge.
    #[error("{address}: {refusal}")]
    Refused {
        /// As given.
        address: String,
        /// With the whole verdict.
        #[source]
        refusal: Box<Refusal>,
    },
    /// The attested connection ended.
    #[error(
        "{address}: the connection broke: {source}; connect again (a worker closes idle and old connections)"
    )]
    Broken {
        /// As given.
        address: String,
        /// What HTTP says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The worker takes too long.
    #[error("{address}: no answer within {seconds} s; send less at once, or connect again")]
    NoAnswer {
        /// As given.
        address: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The worker says no.
    #[error("{address}: the worker answered {status}: {}", .error.message)]
    Api {
        /// As given.
        address: String,
        /// HTTP status.
        status: u16,
        /// In OpenAI's form.
        error: ErrorObject,
    },
    /// The worker answers something else than was asked.
    #[error("{address}: unexpected answer: {reason}; client and worker are of different versions")]
    Unexpected {
        /// As given.
        address: String,
        /// Expected and found.
        reason: String,
    },
}

impl ClientError {
    /// The verdict, if evidence came and was refused.
    pub fn verdict(&self) -> Option<&Verdict> {
        match self {
            ClientError::Refused { refusal, .. } => refusal.verdict(),
            _ => None,
        }
    }

    /// Why the peer was refused, if it was.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            ClientError::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    /// Sorts what a connection came to, by the address that was tried.
    pub fn from_connect(address: &str, error: ConnectError) -> Self {
        let address = address.into();
        match error {
            ConnectError::Channel(source) => ClientError::Channel { address, source },
            ConnectError::Answer(source) => ClientError::Answer { address, source },
            ConnectError::Refused(refusal) => ClientError::Refused { address, refusal },
        }
    }

    pub(crate) fn broken(address: &str, source: Box<dyn std::error::Error + Send + Sync>) -> Self {
        ClientError::Broken { address: address.into(), source }
    }
}
