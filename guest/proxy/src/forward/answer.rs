//! An answer on its way: held until it is sure that there is one, passed on as it comes, counted, hashed and charged.
//!
//! ```text
//! begin: status, type, first bytes                     pass:  flow --end--> usage checked -> charged -> trailers
//!   short and no stream: all of it, so that another          |   \--wrong, broken, silent-> error event; not charged
//!   worker can still be asked                                \--client gone-> what was delivered is charged
//! ```
//! What is ready is passed on in one piece: a stream forwarded frame by frame costs a write and a TLS record each.

use super::reader::{Cut, Watch};
use super::{Asked, Front, Proof, Seat, Upstream};
use crate::books::{Delivery, Hold, NotBooked};
use crate::metrics::{Ended, Metrics, Worked};
use crate::money::Money;
use crate::registry::{Job, Way};
use crate::router::Outcome;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use hyper::body::{Body as _, Frame};
use payment::price::{Price, Tokens};
use payment::proxy::{Facts, Settled};
use payment::receipt::End;
use protocol::market::{self, Blob, CountReader, Load, Most, Read, Usage, Written};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// An answer that is no stream is held back up to so many bytes, so that another worker can still be asked.
const KEEP: usize = 256 * 1024;
/// What is ready is passed on in pieces of at most so many bytes.
const PIECE: usize = 64 * 1024;
/// Longest answer that is no stream, in bytes.
const LONGEST: u64 = 16 * 1024 * 1024;
/// Bytes of a stream for each token that was asked for, and for the rest of it.
const TOKEN: u64 = 2 * 1024;
/// How long a worker may be silent within an answer.
const SILENT: Duration = Duration::from_secs(120);

/// What a request is charged by; money that was held for it is given back when this is dropped uncharged.
pub struct Account {
    money: Option<(Arc<Money>, Hold)>,
    most: Option<Most>,
    request: u64,
    request_hash: [u8; 32],
    model_root: [u8; 32],
    /// Of the worker that answers.
    pub proof: Proof,
    metrics: Arc<Metrics>,
    watch: Arc<Watch>,
    seat: Option<Seat>,
}

impl Account {
    /// Of a request whose hold, if any, is on disk.
    pub fn new<U: Way>(
        front: &Front<U>,
        asked: &Asked,
        hold: Option<(Hold, Price)>,
        model_root: [u8; 32],
        seat: Seat,
    ) -> Self {
        Self {
            money: front.money.clone().zip(hold.map(|(hold, _)| hold)),
            most: asked.most,
            request: asked.payer.as_ref().map_or(0, super::ask::Payer::request),
            request_hash: asked.hash,
            model_root,
            proof: Proof::default(),
            metrics: front.metrics.clone(),
            watch: front.watch.clone(),
            seat: Some(seat),
        }
    }

    fn is_paid(&self) -> bool {
        self.money.is_some()
    }
}

/// What a worker did with a request before anything of its answer was passed on.
pub enum Head {
    /// It answers.
    Answers(Box<Begun>),
    /// It refuses the request itself; no other worker would take it.
    Refuses(Box<Response>),
    /// It has no room.
    Full,
    /// It is owed too much.
    Unpaid,
    /// It broke off.
    Gone,
    /// It did what no right worker does.
    Wrong,
}

/// The beginning of an answer.
pub struct Begun {
    status: StatusCode,
    kind: HeaderValue,
    stream: bool,
    read: Option<Read>,
    /// Frames that came already.
    first: VecDeque<Bytes>,
    /// The rest; none where all has come.
    rest: Option<Body>,
    trailers: Option<HeaderMap>,
}

/// A header value of ours, if it is there and right; `Err` if it is wrong.
fn told<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Result<Option<T>, ()> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    value.to_str().ok().and_then(|text| text.parse().ok()).map(Some).ok_or(())
}

/// Looks at the head of an answer, and waits for its first bytes: until then another worker can be asked.
pub async fn begin<U: Upstream>(answer: hyper::Response<Body>, job: &Job<U>, account: &Account) -> Head {
    let (parts, body) = answer.into_parts();
    match told::<Load>(&parts.headers, market::header::LOAD) {
        Ok(load) => load.into_iter().for_each(|load| job.load(load)),
        Err(()) => return Head::Wrong,
    }
    match parts.status {
        status if status.is_success() => {}
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => return Head::Full,
        StatusCode::PAYMENT_REQUIRED if account.is_paid() => return Head::Unpaid,
        // Its measured configuration says that it has the model, and nobody else sees this path.
        StatusCode::NOT_FOUND if account.is_paid() => return Head::Wrong,
        status if status.is_client_error() => return refusal(status, &parts.headers, body).await,
        _ => return Head::Gone,
    }
    let Some(kind) = parts.headers.get(header::CONTENT_TYPE).cloned() else { return Head::Wrong };
    let stream = kind.as_bytes().starts_with(b"text/event-stream");
    if !stream && !kind.as_bytes().starts_with(b"application/json") {
        return Head::Wrong;
    }
    let Ok(read) = told::<Read>(&parts.headers, market::header::TOKENS) else { return Head::Wrong };
    let mut begun = Begun {
        status: parts.status,
        kind,
        stream,
        read,
        first: VecDeque::new(),
        rest: Some(body),
        trailers: None,
    };
    match begun.first().await {
        Ok(()) => {}
        Err(head) => return head,
    }
    // A whole answer is checked before anything of it is passed on.
    if begun.rest.is_none() && account.is_paid() && begun.usage(account).is_none() {
        return Head::Wrong;
    }
    Head::Answers(Box::new(begun))
}

/// The worker's own words to the client, bounded.
async fn refusal(status: StatusCode, headers: &HeaderMap, body: Body) -> Head {
    use http_body_util::{BodyExt, Limited};
    let Ok(words) = Limited::new(body, KEEP).collect().await else { return Head::Wrong };
    let mut response = Response::new(Body::from(words.to_bytes()));
    *response.status_mut() = status;
    for name in [header::CONTENT_TYPE, header::RETRY_AFTER] {
        if let Some(value) = headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    Head::Refuses(Box::new(response))
}

impl Begun {
    /// Takes frames until there is something to pass on: one of a stream, all of a short answer.
    async fn first(&mut self) -> Result<(), Head> {
        let mut length = 0;
        while let Some(body) = &mut self.rest {
            match std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        length += data.len();
                        self.first.push_back(data);
                        if self.stream && length > 0 || length > KEEP {
                            return Ok(());
                        }
                    }
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Some(Err(_)) => return Err(Head::Gone),
                None => self.rest = None,
            }
        }
        // An answer without a byte is none.
        if length == 0 { Err(Head::Wrong) } else { Ok(()) }
    }

    /// Whether there is such a trailer.
    fn says(&self, name: &str) -> bool {
        self.trailers.as_ref().is_some_and(|trailers| trailers.contains_key(name))
    }

    /// What the answer took, if the worker says it rightly.
    fn usage(&self, account: &Account) -> Option<Usage> {
        let usage = told::<Usage>(self.trailers.as_ref()?, market::header::USAGE).ok()??;
        account.most.is_none_or(|most| usage.is_within(&most)).then_some(usage)
    }
}

/// The response to the client.
pub fn pass<U: Upstream>(begun: Box<Begun>, job: Job<U>, account: Account) -> Response {
    let first_ms = job.ms();
    let most = u64::from(account.most.map_or(u32::MAX, |most| most.completion));
    let longest = if begun.stream { LONGEST.saturating_add(most.saturating_mul(TOKEN)) } else { LONGEST };
    let (status, kind) = (begun.status, begun.kind.clone());
    let watch = account.watch.clone();
    let passing = Passing {
        begun: *begun,
        passed: false,
        job,
        account,
        first_ms,
        left: longest,
        hash: Sha256::new(),
        counts: CountReader::default(),
        last: b'\n',
        state: State::Flow,
        silence: Box::pin(sleep(SILENT)),
    };
    let mut response = Response::new(Body::new(watch.over(passing)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

type Settling = Pin<Box<dyn Future<Output = Result<Settled, NotBooked>> + Send>>;

enum State {
    /// Bytes come.
    Flow,
    /// All were passed on; vouchers are being written.
    Settling(Settling),
    /// Nobody read it.
    Unread,
    /// Nothing more comes.
    Over,
}

/// A body on its way to the client.
struct Passing<U: Way> {
    begun: Begun,
    job: Job<U>,
    account: Account,
    first_ms: u64,
    /// Whether anything was passed on.
    passed: bool,
    /// Bytes that may still come.
    left: u64,
    hash: Sha256,
    counts: CountReader,
    /// The last byte that was passed on.
    last: u8,
    state: State,
    silence: Pin<Box<Sleep>>,
}

/// How a flow came to its end.
enum Stop {
    /// The worker finished.
    End,
    /// It broke off, or was silent too long.
    Broke,
    /// It did what no right worker does.
    Wrong,
}

/// What polling a flow gave.
enum Step {
    Data(Bytes),
    Stop(Stop),
}

impl<U: Way> Passing<U> {
    /// Everything that is ready, as one piece.
    fn flow(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let mut length: usize = self.begun.first.iter().map(Bytes::len).sum();
        let stop = loop {
            if length >= PIECE {
                break None;
            }
            let Some(body) = &mut self.begun.rest else { break Some(Stop::End) };
            match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        length += data.len();
                        self.begun.first.push_back(data);
                    }
                    Err(frame) => self.begun.trailers = frame.into_trailers().ok(),
                },
                Poll::Ready(None) => self.begun.rest = None,
                Poll::Ready(Some(Err(_))) => break Some(Stop::Broke),
                Poll::Pending => break None,
            }
        };
        if length > 0 {
            let piece = joined(&mut self.begun.first, length);
            return Poll::Ready(self.took(piece));
        }
        if let Some(stop) = stop {
            return Poll::Ready(Step::Stop(stop));
        }
        match self.silence.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Step::Stop(Stop::Broke)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Counts a piece that is passed on now.
    fn took(&mut self, piece: Bytes) -> Step {
        let length = piece.len() as u64;
        if length > self.left {
            return Step::Stop(Stop::Wrong);
        }
        self.left -= length;
        self.passed = true;
        if self.account.is_paid() {
            self.hash.update(&piece);
        }
        if self.begun.stream {
            self.counts.pass(&piece);
            let most = self.account.most.map_or(u32::MAX, |most| most.completion);
            let written = self.counts.last().unwrap_or_default();
            let over = u64::from(written.completion) + u64::from(written.reasoning) > u64::from(most);
            if self.counts.is_wrong() || over {
                return Step::Stop(Stop::Wrong);
            }
        }
        self.last = piece.last().copied().unwrap_or(self.last);
        self.account.metrics.sent(piece.len());
        self.silence.as_mut().reset(Instant::now() + SILENT);
        Step::Data(piece)
    }

    /// The worker finished: what it says it took is checked and charged.
    fn finish(&mut self) -> Result<Option<Settling>, Stop> {
        let usage = self.begun.usage(&self.account);
        if !self.account.is_paid() {
            self.learn(usage.unwrap_or_default());
            return Ok(None);
        }
        // A stream that ends without a word of usage was given up by a worker that says so; a wrong word is none.
        let given_up = !self.begun.says(market::header::USAGE);
        let usage = usage.ok_or(if given_up { Stop::Broke } else { Stop::Wrong })?;
        let counted = self.counts.last().unwrap_or_default();
        if usage.completion < counted.completion || usage.reasoning < counted.reasoning {
            return Err(Stop::Wrong);
        }
        self.learn(usage);
        Ok(self.charge(usage, End::Complete))
    }

    fn learn(&mut self, usage: Usage) {
        let (total_ms, first_ms) = (self.job.ms(), self.first_ms);
        let read = usage.prompt.saturating_add(usage.cached);
        let written = usage.completion.saturating_add(usage.reasoning);
        self.job.end(Outcome::Done { first_ms, total_ms, read, written });
        self.account.metrics.worked(Worked::Done);
    }

    /// The worker failed in the middle: nothing is charged, and the client learns that it is not whole.
    fn fail(&mut self, stop: &Stop) -> Option<Bytes> {
        self.account.money = None;
        let (outcome, worked) = match stop {
            Stop::Wrong => (Outcome::Fault, Worked::Fault),
            Stop::Broke | Stop::End => (Outcome::Broke, Worked::Broke),
        };
        self.job.end(outcome);
        self.account.metrics.worked(worked);
        self.account.metrics.ended(Ended::Broken);
        self.begun.rest = None;
        self.begun.first.clear();
        self.state = State::Over;
        // What was begun of an event is ended first.
        let begin = if self.last == b'\n' { "\n" } else { "\n\n" };
        self.begun.stream.then(|| Bytes::from(format!("{begin}data: {BROKEN}\n\n")))
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cutoff>>> {
        loop {
            match &mut self.state {
                State::Over => return Poll::Ready(None),
                State::Unread => {
                    self.state = State::Over;
                    return Poll::Ready(Some(Err(Cutoff::Unread)));
                }
                State::Flow => match std::task::ready!(self.flow(cx)) {
                    Step::Data(piece) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
                    Step::Stop(Stop::End) => match self.finish() {
                        Ok(Some(settling)) => self.state = State::Settling(settling),
                        Ok(None) => {
                            self.account.metrics.ended(Ended::Complete);
                            self.state = State::Over;
                        }
                        Err(stop) => return Poll::Ready(self.broken(&stop)),
                    },
                    Step::Stop(stop) => return Poll::Ready(self.broken(&stop)),
                },
                State::Settling(settling) => {
                    let settled = std::task::ready!(settling.as_mut().poll(cx));
                    self.state = State::Over;
                    return Poll::Ready(self.settled(settled).map(|trailers| Ok(Frame::trailers(trailers))));
                }
            }
        }
    }

    fn broken(&mut self, stop: &Stop) -> Option<Result<Frame<Bytes>, Cutoff>> {
        Some(self.fail(stop).map(Frame::data).ok_or(Cutoff::Broken))
    }

    /// Vouchers for the client, if the books took it.
    fn settled(&mut self, settled: Result<Settled, NotBooked>) -> Option<HeaderMap> {
        let Ok(settled) = settled else {
            self.account.metrics.ended(Ended::Uncharged);
            return None;
        };
        self.account.metrics.ended(Ended::Complete);
        self.account.metrics.charged(&settled.receipt.voucher.tokens, settled.charged, settled.fee);
        let mut trailers = HeaderMap::new();
        for (name, bytes) in [
            (market::header::USE, settled.used.to_bytes()),
            (market::header::RECEIPT, settled.receipt.to_bytes()),
        ] {
            if let Ok(value) = HeaderValue::try_from(Blob::new(bytes).to_string()) {
                trailers.insert(HeaderName::from_static(name), value);
            }
        }
        Some(trailers)
    }
}

/// Pieces as one, without a copy where there is only one.
fn joined(pieces: &mut VecDeque<Bytes>, length: usize) -> Bytes {
    if pieces.len() == 1 {
        return pieces.pop_front().unwrap_or_default();
    }
    let mut whole = Vec::with_capacity(length);
    pieces.drain(..).for_each(|piece| whole.extend_from_slice(&piece));
    whole.into()
}

const BROKEN: &str = r#"{"error":{"message":"the worker broke off; nothing is charged, ask again","type":"server_error","param":null,"code":"worker_failed"}}"#;

/// The answer is not whole; the stream is reset.
#[derive(Debug, thiserror::Error)]
enum Cutoff {
    #[error("the worker broke off; nothing is charged")]
    Broken,
    #[error("nothing of the answer was read for {} s; what was passed on is charged", super::reader::PATIENCE.as_secs())]
    Unread,
}

impl<U: Way> hyper::body::Body for Passing<U> {
    type Data = Bytes;
    type Error = Cutoff;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cutoff>>> {
        self.get_mut().step(cx)
    }
}

impl<U: Way> Passing<U> {
    /// Has the books charge it; the command is on its way when this returns.
    fn charge(&mut self, usage: Usage, end: End) -> Option<Settling> {
        let (money, hold) = self.account.money.take()?;
        let worker = self.job.wallet?;
        let facts = Facts {
            request: self.account.request,
            time: money.now(),
            request_hash: self.account.request_hash,
            response_hash: self.hash.clone().finalize().into(),
            model_root: self.account.model_root,
            release: self.account.proof.release,
            evidence: self.account.proof.evidence,
        };
        let Usage { prompt, cached, completion, reasoning } = usage;
        let tokens = Tokens { prompt, cached, completion, reasoning };
        let delivery = Delivery { worker, tokens, end, facts };
        Some(Box::pin(money.books().finish(hold, delivery, self.job.paid.clone())))
    }

    /// The client went away. Where all was passed on it is charged like any; of a part, what was delivered is, as far as
    /// the worker counted it. Otherwise whoever stops reading just before the vouchers would have the answer for nothing.
    fn cancelled(&mut self) {
        if self.passed && self.begun.rest.is_none() && self.begun.first.is_empty() {
            return match self.finish() {
                // Nobody waits for the vouchers; they are kept for whoever asks.
                Ok(_) => self.account.metrics.ended(Ended::Complete),
                Err(stop) => drop(self.fail(&stop)),
            };
        }
        self.job.end(Outcome::Cancelled);
        self.account.metrics.worked(Worked::Cancelled);
        self.account.metrics.ended(Ended::Cancelled);
        // An answer that is no stream is counted at its end alone: until then it costs what was read for it.
        let uncounted = (self.passed && !self.begun.stream).then(Written::default);
        let (Some(read), Some(written)) = (self.begun.read, self.counts.last().or(uncounted)) else { return };
        let usage = Usage::of(read, written);
        if self.account.most.is_some_and(|most| usage.is_within(&most)) {
            drop(self.charge(usage, End::Cancelled));
        }
    }
}

impl<U: Way> Cut for Passing<U> {
    fn cut(&mut self) {
        if matches!(self.state, State::Flow) {
            self.cancelled();
            self.state = State::Unread;
            // The worker is told, and what was held and not charged is given back.
            (self.begun.rest, self.account.money, self.account.seat) = (None, None, None);
            self.begun.first.clear();
        }
    }
}

impl<U: Way> Unpin for Passing<U> {}

impl<U: Way> Drop for Passing<U> {
    fn drop(&mut self) {
        if matches!(self.state, State::Flow) {
            self.cancelled();
        }
    }
}
