//! What stands behind every proxy: three kinds of answers, made without thinking.

use anyhow::{Context as _, Result};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use protocol::market::{Device, Hex32, ModelFacts, ModelKind, SelfTest, WorkerFacts, header, path};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;

/// Bytes of the short answer.
pub const SHORT: usize = 1_024;
/// Chunks of a burst, which are ready at once, and of a paced stream.
pub const BURST: u32 = 64;
pub const PACED: u32 = 32;
/// Between two chunks of a paced stream.
pub const PACE: Duration = Duration::from_millis(10);
/// What stands before the moment at which a chunk was made.
const MARK: &[u8] = b"\"at\":";
/// Digits of that moment, nanoseconds.
const DIGITS: usize = 19;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One JSON object.
    Short,
    /// A stream whose chunks are ready at once.
    Burst,
    /// A stream, chunk by chunk.
    Paced,
}

impl Kind {
    /// By it an answer is asked for: paths that a proxy of ours knows.
    pub fn path(self) -> &'static str {
        match self {
            Kind::Short => "/v1/embeddings",
            Kind::Burst => "/v1/completions",
            Kind::Paced => "/v1/chat/completions",
        }
    }

    /// Bytes of the whole answer.
    pub fn length(self) -> usize {
        match self {
            Kind::Short => SHORT,
            Kind::Burst => chunk(0).len() * BURST as usize,
            Kind::Paced => chunk(0).len() * PACED as usize,
        }
    }

    fn of(path: &str) -> Option<Self> {
        [Kind::Short, Kind::Burst, Kind::Paced].into_iter().find(|kind| kind.path() == path)
    }
}

/// An answer on its way.
struct Answer {
    kind: Kind,
    left: u32,
    pace: Option<Interval>,
    /// Of a worker of ours: what it took.
    usage: Option<HeaderMap>,
}

/// As every server here answers.
pub type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Answers by path; a worker says at the end what it took, other servers have no such word.
pub fn answer(at: &str, worker: bool) -> Reply {
    let Some(kind) = Kind::of(at) else {
        if worker && at == path::WORKER {
            return Response::new(Full::from(facts()).boxed_unsync());
        }
        let mut nothing = Response::new(http_body_util::Empty::new().boxed_unsync());
        // A worker takes what it is paid.
        let taken = worker && at == path::PAYOUT;
        *nothing.status_mut() = if taken { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND };
        return nothing;
    };
    let left = match kind {
        Kind::Short => 1,
        Kind::Burst => BURST,
        Kind::Paced => PACED,
    };
    let pace = (kind == Kind::Paced).then(|| {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pace
    });
    let usage = worker.then(|| {
        let name = HeaderName::from_static(header::USAGE);
        HeaderMap::from_iter([(name, HeaderValue::from_static("7,0,0,0"))])
    });
    let mut reply = Response::new(Answer { kind, left, pace, usage }.boxed_unsync());
    let media = if kind == Kind::Short { "application/json" } else { "text/event-stream" };
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    reply
}

/// What a worker says of itself, so that requests are sent to it.
fn facts() -> Vec<u8> {
    let model = ModelFacts {
        name: "m".into(),
        root: Hex32(super::ours::root()),
        kind: ModelKind::Chat,
        context: 1 << 20,
        max_completion: 1 << 20,
        self_test: Some(SelfTest { digest: Hex32([0; 32]), passed: true }),
    };
    let device = Device { kind: "cpu".into(), name: "played".into(), memory_bytes: 1 };
    let (hours, wallet, credit) = ([0, 24], None, u64::MAX);
    // As many as a session has streams.
    let said = WorkerFacts {
        models: vec![model],
        device,
        hours,
        wallet,
        credit,
        running: 0,
        waiting: 0,
        slots: 128,
    };
    serde_json::to_vec(&said).unwrap_or_default()
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(self.usage.take().map(|usage| Ok(Frame::trailers(usage))));
        }
        if let Some(pace) = &mut self.pace {
            ready!(pace.poll_tick(cx));
        }
        self.left -= 1;
        let piece = if self.kind == Kind::Short { SHORT_ANSWER.clone() } else { chunk(now()) };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.usage.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.kind {
            Kind::Short => SizeHint::with_exact(u64::from(self.left) * SHORT as u64),
            Kind::Burst | Kind::Paced => SizeHint::default(),
        }
    }
}

static SHORT_ANSWER: LazyLock<Bytes> = LazyLock::new(|| {
    let frame = r#"{"object":"list","data":"#;
    let filler = "x".repeat(SHORT - frame.len() - 3);
    Bytes::from(format!("{frame}\"{filler}\"}}"))
});

/// A piece of a stream, of the same length whatever the moment.
fn chunk(at: u64) -> Bytes {
    let text = format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"at\":{at:0DIGITS$},\"model\":\"m\",\
         \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" word\"}},\"finish_reason\":null}}]}}\n\n"
    );
    text.into()
}

/// Nanoseconds since this process began to measure.
fn now() -> u64 {
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    EPOCH.elapsed().as_nanos() as u64
}

/// How long ago the first chunk in these bytes was made; `None` where none begins in them.
pub fn age(bytes: &[u8]) -> Option<Duration> {
    let at = bytes.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let digits = std::str::from_utf8(bytes.get(at..at + DIGITS)?).ok()?;
    Some(Duration::from_nanos(now().saturating_sub(digits.parse().ok()?)))
}

/// Serves on loopback with these TLS settings, HTTP/2 where it is agreed on, else HTTP/1.1; where.
pub async fn listen(tls: Arc<rustls::ServerConfig>) -> Result<SocketAddr> {
    let listener =
        TcpListener::bind("127.0.0.1:0").await.context("no port for a server behind the proxies")?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(tls);
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(connection(tcp, acceptor.clone()));
        }
    });
    Ok(address)
}

async fn connection(tcp: TcpStream, acceptor: TlsAcceptor) -> Result<()> {
    tcp.set_nodelay(true)?;
    let tls = acceptor.accept(tcp).await?;
    let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(|request: Request<Incoming>| served(request, false));
    if http2 {
        let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        server.max_concurrent_streams(128).serve_connection(TokioIo::new(tls), service).await?;
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await?;
    }
    Ok(())
}

/// Takes a request whole and answers it.
pub async fn served(request: Request<Incoming>, worker: bool) -> Result<Reply, hyper::Error> {
    let (head, body) = request.into_parts();
    body.collect().await?;
    Ok(answer(head.uri.path(), worker))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_tells_its_age_and_has_one_length() {
        assert_eq!(chunk(0).len(), chunk(u64::MAX / 2).len());
        let made = chunk(now());
        assert!(age(&made).is_some());
        assert_eq!(age(&made[..20]), None);
    }

    #[tokio::test]
    async fn answers_have_the_length_that_is_expected_of_them() {
        for kind in [Kind::Short, Kind::Burst, Kind::Paced] {
            for worker in [false, true] {
                let whole = answer(kind.path(), worker).into_body().collect().await.unwrap();
                assert_eq!(whole.trailers().is_some(), worker);
                assert_eq!(whole.to_bytes().len(), kind.length());
            }
        }
    }
}
