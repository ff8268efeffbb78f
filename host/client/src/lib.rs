//! Verifies a worker or a proxy, then asks it.
//!
//! ```text
//! Client::connect -> TCP -> ratls::connect -> evidence::appraise -> Client      refused: the whole verdict
//!                                                                     |-- models()
//!                                                                     \-- embed(model, texts)
//! ```
//! A [`Client`] exists only with the proof of what it talks to, and talks on that one connection; when the connection
//! ends, so does the proof, and one connects again.
//!
//! Deliberately absent: a way to ask an unattested worker, retries behind the caller's back, any logging.

mod answer;
mod error;
pub mod gateway;
pub mod tunnel;

pub use answer::Embeddings;
pub use error::ClientError;
/// What evidence is held against; the type lives with the channel.
pub use ratls::{GpuTrust, Trust};

use evidence::Appraised;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use measure::wire::Evidence;
use protocol::channel::Part;
use protocol::openai::chat::{ChatCompletion, ChatRequest, Sampling};
use protocol::openai::{EmbeddingInput, EmbeddingRequest, EmbeddingResponse, ErrorBody, ModelList};
use ratls::session::{self, End, Requests};
use ratls::{Endpoint, Peer, Verifier, Wanted};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// How long a TCP connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long an answer may take; a guest in software emulation is slow.
const ANSWER_DEADLINE: Duration = Duration::from_secs(300);
/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// A connection to a worker or proxy that was appraised and found right. It is proved anew while it lasts.
pub struct Client {
    address: String,
    peer: Peer,
    requests: Requests,
    /// Dropped with the client, which ends the connection.
    _stop: watch::Sender<bool>,
}

impl Client {
    /// Connects to the worker at `address` (`HOST:PORT`) and appraises what is there at the time `at` (Unix seconds). Needs a
    /// tokio runtime, on which the connection keeps a task.
    pub async fn connect(address: &str, trust: &Trust, at: u64) -> Result<Client, ClientError> {
        Self::connect_to(address, &Wanted::part(Part::Worker), trust, at, |_| ()).await
    }

    /// As [`connect`](Self::connect); `show` sees the evidence before it is appraised, also that of a peer who is then
    /// refused.
    pub async fn connect_showing(
        address: &str,
        trust: &Trust,
        at: u64,
        show: impl FnOnce(&Evidence),
    ) -> Result<Client, ClientError> {
        Self::connect_to(address, &Wanted::part(Part::Worker), trust, at, show).await
    }

    /// As [`connect_showing`](Self::connect_showing), to whatever is `wanted`: a proxy, a release, the holder of a key.
    pub async fn connect_to(
        address: &str,
        wanted: &Wanted,
        trust: &Trust,
        at: u64,
        show: impl FnOnce(&Evidence),
    ) -> Result<Client, ClientError> {
        let tcp = reach(address).await?;
        // Requests are written whole; waiting for more to send would only delay them.
        let _ = tcp.set_nodelay(true);
        let (me, verifier) = (Arc::new(Endpoint::anonymous()), Arc::new(Verifier::fixed(trust.clone(), at)));
        let show = |claim: &ratls::Claim| show(&claim.shown.machine);
        let attested = ratls::connect_showing(tcp, &me, &verifier, wanted, show).await;
        let attested = attested.map_err(|error| ClientError::from_connect(address, error))?;
        let peer = attested.peer().clone();
        let (stop, stopping) = watch::channel(false);
        let end = End::new(me).verifying(verifier, wanted.clone());
        let (requests, connection) = session::open(attested, end, stopping);
        // Its error shows at the request under way; between requests a closed connection is no error.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Client { address: address.into(), peer, requests, _stop: stop })
    }

    /// What the worker was proved to be; its verdict is there to be printed.
    pub fn appraised(&self) -> &Appraised {
        self.peer.appraised()
    }

    /// The session under it, for what this type has no words for.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// The models it serves.
    pub async fn models(&mut self) -> Result<ModelList, ClientError> {
        self.ask(Method::GET, "/v1/models", Bytes::new()).await
    }

    /// One vector a text, in order. The worker takes up to 256 texts and 1 MiB a request.
    pub async fn embed(&mut self, model: &str, texts: &[String]) -> Result<Embeddings, ClientError> {
        let request = EmbeddingRequest {
            model: model.into(),
            input: EmbeddingInput::Many(texts.to_vec()),
            // Half as long as decimal numbers, and exact.
            encoding_format: Some("base64".into()),
            dimensions: None,
        };
        let body = serde_json::to_vec(&request).map_err(|error| self.unexpected(error.to_string()))?;
        let response: EmbeddingResponse = self.ask(Method::POST, "/v1/embeddings", body.into()).await?;
        answer::embeddings(response, texts.len()).map_err(|reason| self.unexpected(reason))
    }

    /// The body that the peer answers a GET of `path` with, 16 MiB at most.
    ///
    /// # Errors
    /// [`ClientError`]; an answer that is an error is [`ClientError::Api`].
    pub async fn fetch(&mut self, path: &str) -> Result<Bytes, ClientError> {
        self.asked(Method::GET, path, Bytes::new()).await
    }

    /// One answer to one message, as a whole; `most` tokens of it. For streams and all else there is [`Client::requests`].
    pub async fn chat(
        &mut self,
        model: &str,
        message: &str,
        most: Option<usize>,
    ) -> Result<ChatCompletion, ClientError> {
        let request = ChatRequest {
            model: model.into(),
            messages: vec![serde_json::json!({ "role": "user", "content": message })],
            sampling: Sampling { temperature: Some(0.0), ..Sampling::default() },
            max_completion_tokens: most,
            logprobs: None,
            top_logprobs: None,
            tools: None,
            tool_choice: None,
            response_format: None,
            chat_template_kwargs: None,
        };
        let body = serde_json::to_vec(&request).map_err(|error| self.unexpected(error.to_string()))?;
        self.ask(Method::POST, "/v1/chat/completions", body.into()).await
    }

    async fn ask<T>(&mut self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError>
    where
        T: serde::de::DeserializeOwned,
    {
        let body = self.asked(method, path, body).await?;
        serde_json::from_slice(&body).map_err(|error| self.unexpected(error.to_string()))
    }

    async fn asked(&mut self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let request = Request::builder()
            .method(method)
            // HTTP/2 wants a name; the peer's is in its evidence.
            .uri(format!("https://chrysalis{path}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.unexpected(error.to_string()))?;
        let answered = tokio::time::timeout(ANSWER_DEADLINE, self.exchange(request)).await;
        let Ok(answered) = answered else {
            let seconds = ANSWER_DEADLINE.as_secs();
            return Err(ClientError::NoAnswer { address: self.address.clone(), seconds });
        };
        let (status, body) = answered?;
        if status != 200 {
            let error = serde_json::from_slice::<ErrorBody>(&body);
            let error =
                error.map_err(|_| self.unexpected(format!("status {status} without an error body")))?;
            return Err(ClientError::Api { address: self.address.clone(), status, error: error.error });
        }
        Ok(body)
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), ClientError> {
        let broken =
            |source: Box<dyn std::error::Error + Send + Sync>| ClientError::broken(&self.address, source);
        let response = self.requests.send(request).await.map_err(|error| broken(error.into()))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        match body {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(self.unexpected(format!("more than {MAX_ANSWER} bytes")))
            }
            Err(error) => Err(broken(error)),
        }
    }

    fn unexpected(&self, reason: String) -> ClientError {
        ClientError::Unexpected { address: self.address.clone(), reason }
    }
}

async fn reach(address: &str) -> Result<TcpStream, ClientError> {
    let connected = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await;
    let connected = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    connected.map_err(|source| ClientError::Unreachable { address: address.into(), source })
}
