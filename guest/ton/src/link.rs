//! Frames over TCP: four bytes of length (big-endian), then JSON. Used by both ends.
//!
//! A frame's length is checked before anything is allocated for it. One question, one answer, in order.

use crate::forms::{Question, Reply};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Longest frame, bytes. The largest honest answer is a configuration with its proof, well below 1 MiB.
pub const FRAME_LIMIT: usize = 4 << 20;
/// Time for an answer, beyond what the question asks to wait.
const PATIENCE: Duration = Duration::from_secs(20);
/// Idle connections that are kept.
const IDLE_LIMIT: usize = 4;

/// A server can't be reached, or does not speak as it should.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No connection, or it broke.
    #[error("{server}: {source}; is the chain running there?")]
    Io {
        /// Which server.
        server: String,
        /// What failed.
        #[source]
        source: std::io::Error,
    },
    /// No answer in time.
    #[error("{server}: no answer within {} s", .waited.as_secs())]
    Late {
        /// Which server.
        server: String,
        /// How long was waited.
        waited: Duration,
    },
    /// A frame is too long.
    #[error("{server}: a frame of {length} bytes, expected at most {FRAME_LIMIT}")]
    Long {
        /// Which server.
        server: String,
        /// The frame's length as announced.
        length: usize,
    },
    /// A frame is not what it should be.
    #[error("{server}: {what}; expected an answer in JSON")]
    Form {
        /// Which server.
        server: String,
        /// What is wrong.
        what: String,
    },
}

impl LinkError {
    /// Whether the server broke the protocol, as opposed to being away.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            LinkError::Io { .. } | LinkError::Late { .. } => false,
            LinkError::Long { .. } | LinkError::Form { .. } => true,
        }
    }
}

/// Connections to one server, made when needed.
#[derive(Debug)]
pub struct Link {
    server: SocketAddr,
    idle: Mutex<Vec<TcpStream>>,
}

impl Link {
    /// A link to a server; nothing is connected yet.
    pub fn to(server: SocketAddr) -> Self {
        Link { server, idle: Mutex::new(Vec::new()) }
    }

    /// Asks, and waits `waiting` longer than usual for the answer: for questions that ask the server to wait.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn ask(&self, question: &Question, waiting: Duration) -> Result<Reply, LinkError> {
        let waited = PATIENCE + waiting;
        let server = || self.server.to_string();
        match timeout(waited, self.exchange(question)).await {
            Err(_) => Err(LinkError::Late { server: server(), waited }),
            Ok(Err(source)) if source.kind() == std::io::ErrorKind::InvalidData => {
                Err(LinkError::Form { server: server(), what: source.to_string() })
            }
            Ok(Err(source)) if source.kind() == std::io::ErrorKind::FileTooLarge => Err(LinkError::Long {
                server: server(),
                length: source.to_string().parse().unwrap_or(usize::MAX),
            }),
            Ok(Err(source)) => Err(LinkError::Io { server: server(), source }),
            Ok(Ok(reply)) => Ok(reply),
        }
    }

    async fn exchange(&self, question: &Question) -> std::io::Result<Reply> {
        let kept = self.idle.lock().await.pop();
        if let Some(stream) = kept
            // The server may have gone since; a new connection tells.
            && let Ok(reply) = self.over(stream, question).await
        {
            return Ok(reply);
        }
        self.over(TcpStream::connect(self.server).await?, question).await
    }

    async fn over(&self, mut stream: TcpStream, question: &Question) -> std::io::Result<Reply> {
        write_frame(&mut stream, question).await?;
        let reply = read_frame(&mut stream).await?;
        let reply = reply.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::UnexpectedEof))?;
        let mut idle = self.idle.lock().await;
        if idle.len() < IDLE_LIMIT {
            idle.push(stream);
        }
        Ok(reply)
    }
}

/// Writes one frame.
///
/// # Errors
/// If the connection broke, or what is to be written is longer than [`FRAME_LIMIT`].
pub async fn write_frame<T: serde::Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    frame: &T,
) -> std::io::Result<()> {
    let body = serde_json::to_vec(frame)?;
    if body.len() > FRAME_LIMIT {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            format!("a frame of {} bytes", body.len()),
        ));
    }
    let mut bytes = Vec::with_capacity(4 + body.len());
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&body);
    stream.write_all(&bytes).await?;
    stream.flush().await
}

/// Reads one frame; `None` where the other end closed between frames.
///
/// # Errors
/// `FileTooLarge` with the announced length as its text, `InvalidData` for what is not the expected JSON, else what the
/// connection says.
pub async fn read_frame<T: serde::de::DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> std::io::Result<Option<T>> {
    let mut length = [0; 4];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > FRAME_LIMIT {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, length.to_string()));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    serde_json::from_slice(&body)
        .map(Some)
        .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string()))
}
