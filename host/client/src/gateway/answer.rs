//! From a proxy's answer to the app's, with the receipt checked on the way.
//!
//! ```text
//! JSON:   read whole -> trailers -> settled -> head with receipt, body        (a wrong receipt: the answer is withheld)
//! events: first bytes -> head -> bytes as they come -> trailers -> settled -> trailers, where the app takes them
//! gone:   the app leaves -> the stream is reset -> the receipt of what was delivered is fetched and settled (pending.rs)
//! ```
//! Bytes are passed on unchanged: the receipt's response hash is over exactly what the app gets.

use super::fault::Fault;
use super::pending::Pending;
use super::receipts::Entry;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as HttpBody, Bytes, Frame};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRAILER};
use hyper::{Response, StatusCode};
use payment::receipt::End;
use protocol::market::header;
use protocol::openai::ErrorBody;
use ratls::session::Body;
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep, timeout};

/// What the app is answered with.
pub type AppBody = UnsyncBoxBody<Bytes, Cut>;

/// Largest answer that is no stream, bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Largest refusal of a proxy that is read, bytes.
const MAX_REFUSAL: usize = 16 * 1024;
/// How long a proxy may be silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(300);
/// Field with what was charged, nanoTON.
pub const CHARGED: HeaderName = HeaderName::from_static("chrysalis-charged");
/// Field with the request's number.
pub const REQUEST: HeaderName = HeaderName::from_static(header::REQUEST);
/// Field with the signed receipt.
pub const RECEIPT: HeaderName = HeaderName::from_static(header::RECEIPT);

/// The answer broke off; the app's connection is broken off too, so that a part never looks whole.
#[derive(Debug, thiserror::Error)]
#[error("the proxy's answer broke off")]
pub struct Cut;

/// A whole body.
pub fn whole(bytes: Bytes) -> AppBody {
    whole_of(Full::new(bytes))
}

/// A whole body, as faults make it.
pub fn whole_of(body: Full<Bytes>) -> AppBody {
    body.map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// What came instead of an answer.
pub enum Instead {
    /// The proxy refused, with this status and in these words.
    Refused(StatusCode, Fault),
    /// The answer broke off before the app had a byte of it.
    Broken,
    /// The receipt is wrong or missing.
    Unfit(Fault),
}

/// A proxy's refusal, in its own words where they are in OpenAI's form.
pub async fn refusal(response: Response<Body>) -> Instead {
    let (head, body) = response.into_parts();
    let body = timeout(SILENCE, Limited::new(body, MAX_REFUSAL).collect()).await;
    let Ok(Ok(body)) = body else { return Instead::Broken };
    let retry =
        head.headers.get(hyper::header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let fault = match serde_json::from_slice::<ErrorBody>(&body.to_bytes()) {
        Ok(said) => Fault::passed_on(head.status, said.error, retry),
        Err(_) => {
            Fault::peer("bad_answer", format!("the proxy answered {} without an error body", head.status))
        }
    };
    Instead::Refused(head.status, fault)
}

/// Passes an answer on. `trailers` says whether the app takes them.
pub async fn pass_on(
    response: Response<Body>,
    pending: Pending,
    trailers: bool,
) -> Result<Response<AppBody>, Instead> {
    let events = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    if events { stream(response, pending, trailers).await } else { read_whole(response, pending).await }
}

async fn read_whole(response: Response<Body>, mut pending: Pending) -> Result<Response<AppBody>, Instead> {
    let (head, body) = response.into_parts();
    let read = timeout(SILENCE, Limited::new(body, MAX_ANSWER).collect()).await;
    let collected = match read {
        Ok(Ok(collected)) => collected,
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("the answer is longer than {MAX_ANSWER} bytes; ask for less at once");
            return Err(Instead::Unfit(Fault::peer("answer_too_large", message)));
        }
        Ok(Err(_)) | Err(_) => return Err(Instead::Broken),
    };
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let body = collected.to_bytes();
    pending.delivered(&body);
    let entry = pending.settle(&trailers, End::Complete).map_err(Instead::Unfit)?;
    let mut answer = Response::new(whole(body));
    copy_head(&head.headers, &mut answer);
    answer.headers_mut().extend(told(&entry));
    Ok(answer)
}

async fn stream(
    response: Response<Body>,
    mut pending: Pending,
    trailers: bool,
) -> Result<Response<AppBody>, Instead> {
    let (head, mut body) = response.into_parts();
    let first = match timeout(SILENCE, body.frame()).await {
        Ok(Some(Ok(frame))) => frame,
        // Not a byte of it has left: another proxy may answer.
        Ok(None | Some(Err(_))) | Err(_) => return Err(Instead::Broken),
    };
    let number = pending.number();
    let mut first = Some(first);
    if let Some(data) = first.as_ref().and_then(Frame::data_ref) {
        pending.delivered(data);
    } else if let Some(Ok(said)) = first.take().map(Frame::into_trailers) {
        // Nothing was delivered and it ended: what is charged is checked like anything else.
        pending.settle(&said, End::Complete).map_err(Instead::Unfit)?;
        return Err(Instead::Broken);
    }
    let events = Events { first, body, pending: Some(pending), trailers, silence: Box::pin(sleep(SILENCE)) };
    let mut answer = Response::new(events.boxed_unsync());
    copy_head(&head.headers, &mut answer);
    answer.headers_mut().insert(REQUEST, HeaderValue::from(number));
    if trailers {
        let named = HeaderValue::from_static("chrysalis-receipt, chrysalis-charged");
        answer.headers_mut().insert(TRAILER, named);
    }
    Ok(answer)
}

/// Of the proxy's head the app sees what kind of answer it is.
fn copy_head(from: &HeaderMap, to: &mut Response<AppBody>) {
    for name in [CONTENT_TYPE, hyper::header::CACHE_CONTROL] {
        if let Some(value) = from.get(&name) {
            to.headers_mut().insert(name, value.clone());
        }
    }
}

/// What the app is told of a settled request.
fn told(entry: &Entry) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(REQUEST, HeaderValue::from(entry.request));
    fields.insert(CHARGED, HeaderValue::from(entry.charged));
    // Base64 is a header value.
    if let Some(Ok(receipt)) = entry.receipt.as_ref().map(|blob| HeaderValue::from_str(&blob.to_string())) {
        fields.insert(RECEIPT, receipt);
    }
    fields
}

/// A stream on its way to the app. Dropped before its end it resets the proxy's stream, and [`Pending`] sees to the rest.
struct Events {
    first: Option<Frame<Bytes>>,
    body: Body,
    /// Until it is settled.
    pending: Option<Pending>,
    trailers: bool,
    silence: Pin<Box<Sleep>>,
}

impl Events {
    /// The end: settles, and gives the app its trailers.
    fn end(&mut self, trailers: &HeaderMap) -> Option<Frame<Bytes>> {
        let settled = self.pending.take()?.settle_stream(trailers);
        settled.filter(|_| self.trailers).map(|entry| {
            let mut fields = told(&entry);
            fields.remove(&REQUEST);
            Frame::trailers(fields)
        })
    }
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let Some(pending) = this.pending.as_mut() else { return Poll::Ready(None) };
        let frame = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(this.silence.as_mut().poll(cx));
                this.pending = None;
                return Poll::Ready(Some(Err(Cut)));
            }
        };
        this.silence.as_mut().reset(tokio::time::Instant::now() + SILENCE);
        match frame {
            Some(Ok(frame)) => match frame.into_trailers() {
                Ok(trailers) => Poll::Ready(this.end(&trailers).map(Ok)),
                Err(frame) => {
                    if let Some(data) = frame.data_ref() {
                        pending.delivered(data);
                    }
                    Poll::Ready(Some(Ok(frame)))
                }
            },
            // It ended in good order without a charge.
            None => Poll::Ready(this.end(&HeaderMap::new()).map(Ok)),
            Some(Err(_)) => {
                this.pending = None;
                Poll::Ready(Some(Err(Cut)))
            }
        }
    }
}

/// SHA-256 as it grows.
#[derive(Clone, Default)]
pub struct Hashing(Sha256);

impl Hashing {
    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of all bytes so far.
    pub fn finish(&self) -> [u8; 32] {
        self.0.clone().finalize().into()
    }
}
