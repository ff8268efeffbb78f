//! The HTTP client end: requests from anywhere, one driver that owns the connection.

use super::body::{self, Aborted, Body};
use super::guard::Guard;
use super::wire::{Activity, Gathering, Lease, Wire};
use super::{ATTEST, End, Ended, Established, RENEW, RESERVED, REST, Reason, Settings};
use crate::Peer;
use h2::client::{Builder, Connection, SendRequest};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body as HttpBody, Bytes};
use hyper::{Method, Request, Response, StatusCode, Uri};
use protocol::channel::MAX_SHOWN;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Authority of requests that name none; it is never looked up.
const AUTHORITY: &str = "chrysalis.invalid";
/// How long the peer may take to agree to a rest, and a closing connection to say goodbye.
const SHORTLY: Duration = Duration::from_secs(5);

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The path belongs to the session.
    #[error("`{path}`: paths under `/.chrysalis/` belong to the session itself; ask for another")]
    Reserved {
        /// What was asked for.
        path: String,
    },
    /// The target is none.
    #[error("the request's target can't be sent: {0}")]
    Target(#[from] hyper::http::Error),
    /// The session takes no more requests.
    #[error("the session has ended or drains; connect anew")]
    Ended,
    /// The connection broke, or the peer refused the stream.
    #[error("the request was not answered: {0}")]
    Http(#[from] h2::Error),
}

impl RequestError {
    /// Whether the peer can't have seen the request, so that it may be sent again elsewhere.
    pub fn is_unsent(&self) -> bool {
        match self {
            RequestError::Reserved { .. } | RequestError::Target(_) | RequestError::Ended => true,
            RequestError::Http(error) => error.reason() == Some(h2::Reason::REFUSED_STREAM),
        }
    }
}

/// Sends requests on a session. Clones share it; when the last one is gone, the session ends.
#[derive(Clone)]
pub struct Requests {
    user: Arc<User>,
}

/// The application's share of the line.
struct User {
    line: Arc<Line>,
}

impl Drop for User {
    fn drop(&mut self) {
        self.line.abandoned.store(true, Ordering::SeqCst);
        self.line.activity.news.notify_one();
    }
}

/// What requests and driver share.
struct Line {
    guard: Guard,
    activity: Arc<Activity>,
    phase: watch::Sender<Phase>,
    abandoned: AtomicBool,
}

enum Phase {
    Awake(SendRequest<Bytes>),
    Rests,
    Over,
}

/// Makes an attested connection carry requests, whichever end dialled. The future drives it and must be spawned; it ends
/// with the session. `stop` becoming true, or losing its sender, drains it.
pub fn open<S>(
    connection: impl Into<Established<S>>,
    end: End,
    stop: watch::Receiver<bool>,
) -> (Requests, impl Future<Output = Ended> + Send)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Established { stream, link, peer } = connection.into();
    let line = Arc::new(Line {
        guard: Guard::new(end, link, peer),
        activity: Arc::default(),
        phase: watch::Sender::new(Phase::Rests),
        abandoned: AtomicBool::new(false),
    });
    let wire = Wire::new(stream, line.activity.clone());
    let requests = Requests { user: Arc::new(User { line: line.clone() }) };
    let driven = Driven(line.clone());
    (requests, async move {
        // Also where the future is dropped before its end.
        let _driven = driven;
        line.drive(wire, stop).await
    })
}

/// The driver's share of the line: without it no request is answered any more.
struct Driven(Arc<Line>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.phase.send_replace(Phase::Over);
    }
}

impl Requests {
    /// Sends a request; its response comes when its head has come. A session at rest wakes.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<Body>, RequestError>
    where
        B: HttpBody<Data = Bytes, Error: Send> + Send + 'static,
    {
        let path = request.uri().path();
        if path.starts_with(RESERVED) {
            return Err(RequestError::Reserved { path: path.to_owned() });
        }
        self.user.line.send(request).await
    }

    /// What the peer was proved to be, last; `None` where it proves nothing.
    pub fn peer(&self) -> Option<Peer> {
        self.user.line.guard.peer()
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.user.line.activity.streams()
    }

    /// Whether it keeps nothing of HTTP/2 at the moment; the next request wakes it.
    pub fn is_at_rest(&self) -> bool {
        matches!(*self.user.line.phase.borrow(), Phase::Rests)
    }

    /// Whether it takes no more requests.
    pub fn is_over(&self) -> bool {
        matches!(*self.user.line.phase.borrow(), Phase::Over)
    }
}

impl Line {
    async fn send<B>(&self, request: Request<B>) -> Result<Response<Body>, RequestError>
    where
        B: HttpBody<Data = Bytes, Error: Send> + Send + 'static,
    {
        // Counted before the phase is read: the driver sets the phase before it looks at the count.
        let held = self.activity.hold();
        let mut sender = self.sender().await?.ready().await?;
        let (mut head, body) = request.into_parts();
        head.uri = target(head.uri)?;
        let ends = body.is_end_stream();
        let (response, mut to) = sender.send_request(Request::from_parts(head, ()), ends)?;
        drop(sender);
        let rest = if ends { None } else { body::send_small(body, &mut to) };
        let sending = rest.map(|rest| Aborted(tokio::spawn(body::send(rest, to, self.activity.hold()))));
        Ok(response.await?.map(|stream| Body::new(stream, sending, held)))
    }

    /// The sender of this wake, once there is one.
    async fn sender(&self) -> Result<SendRequest<Bytes>, RequestError> {
        let mut phase = self.phase.subscribe();
        loop {
            match &*phase.borrow_and_update() {
                Phase::Awake(sender) => return Ok(sender.clone()),
                Phase::Over => return Err(RequestError::Ended),
                Phase::Rests => {}
            }
            phase.changed().await.map_err(|_| RequestError::Ended)?;
        }
    }

    /// Owns the connection: wakes it, lets it rest, has the proofs renewed, ends it.
    async fn drive<S>(self: Arc<Self>, wire: Wire<S>, stop: watch::Receiver<bool>) -> Ended
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let _renewals = Aborted(tokio::spawn(renewals(self.clone())));
        let mut over = pin!(self.guard.over(stop));
        let (reason, cut) = loop {
            // At rest, and before the first request.
            let Some(mut lease) = wire.lend() else { break (Reason::Closed, 0) };
            tokio::select! {
                reason = over.as_mut() => break (reason, 0),
                wanted = self.wanted() => if !wanted { break (Reason::Stopped, 0) },
                // The peer has nothing to say before we wake: it is gone, or it breaks the protocol.
                heard = lease.hears() => match heard {
                    Ok(_) => break (Reason::Closed, self.activity.streams()),
                    Err(error) => break (Reason::Broken(error.into()), self.activity.streams()),
                },
            }
            // In a box, so that a session at rest has no room for what only one that is awake needs.
            if let Some(ended) = Box::pin(self.awake(&wire, lease, over.as_mut())).await {
                break ended;
            }
        };
        self.phase.send_replace(Phase::Over);
        wire.close().await;
        Ended { reason, cut }
    }

    /// One HTTP/2 connection; `None` once it rests, else why the session ends and how many streams are open still.
    async fn awake<S>(
        &self,
        wire: &Wire<S>,
        lease: Lease<S>,
        mut over: Pin<&mut impl Future<Output = Reason>>,
    ) -> Option<(Reason, usize)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let woken = tokio::select! {
            reason = over.as_mut() => return Some((reason, self.activity.streams())),
            woken = builder(&self.guard.settings).handshake(lease) => woken,
        };
        let (sender, awake) = match woken {
            Ok(woken) => woken,
            Err(error) => return Some((Reason::Broken(error.into()), self.activity.streams())),
        };
        let mut awake = wire.gathering(Box::pin(awake));
        let turn = tokio::select! {
            turn = self.turn(&mut awake, sender) => turn,
            reason = over.as_mut() => Turn::Ended(reason),
        };
        let Turn::Ended(reason) = turn else { return None };
        let drained = self.drain(awake, reason.grace(&self.guard.settings)).await;
        Some((reason, if drained { 0 } else { self.activity.streams() }))
    }

    /// Returns when there is a request to send; `false` if there is nobody left to send one.
    async fn wanted(&self) -> bool {
        while self.activity.streams() == 0 {
            if self.abandoned.load(Ordering::SeqCst) {
                return false;
            }
            self.activity.news.notified().await;
        }
        true
    }

    /// Drives one HTTP/2 connection until it closes, rests or is abandoned.
    async fn turn<S>(&self, awake: &mut Awake<S>, sender: SendRequest<Bytes>) -> Turn
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.phase.send_replace(Phase::Awake(sender.clone()));
        loop {
            let idle = self.activity.streams() == 0;
            if idle && self.abandoned.load(Ordering::SeqCst) {
                return Turn::Ended(Reason::Stopped);
            }
            tokio::select! {
                biased;
                closed = &mut *awake => return Turn::Ended(closing(closed)),
                () = self.activity.news.notified() => continue,
                () = sleep(self.guard.settings.rest), if idle => {}
            }
            // Set before the count is looked at: a request counts itself before it looks at the phase.
            self.phase.send_replace(Phase::Rests);
            if self.activity.streams() == 0
                && let Some(turn) = self.rest(awake, sender.clone()).await
            {
                return turn;
            }
            self.phase.send_replace(Phase::Awake(sender.clone()));
        }
    }

    /// Agrees with the peer on a rest; `None` if it does not want to.
    async fn rest<S>(&self, awake: &mut Awake<S>, sender: SendRequest<Bytes>) -> Option<Turn>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let agreed = tokio::select! {
            biased;
            closed = &mut *awake => return Some(Turn::Ended(closing(closed))),
            agreed = timeout(SHORTLY, agree(sender)) => agreed,
        };
        match agreed {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return None,
            Ok(Err(error)) => return Some(Turn::Ended(Reason::Broken(error.into()))),
            Err(late) => return Some(Turn::Ended(Reason::Broken(late.into()))),
        }
        // What HTTP/2 may still have to write after the answer came.
        let polled = std::future::poll_fn(|cx| Poll::Ready(awake.poll_now(cx))).await;
        match polled {
            Poll::Ready(closed) => Some(Turn::Ended(closing(closed))),
            Poll::Pending if self.activity.is_flushed() => Some(Turn::Rests),
            Poll::Pending => Some(Turn::Ended(Reason::Broken("the peer reads nothing".into()))),
        }
    }

    /// Takes no more requests, and gives those under way the grace; whether all of them finished.
    async fn drain<S>(&self, mut awake: Awake<S>, grace: Duration) -> bool
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.phase.send_replace(Phase::Over);
        let finished = async {
            while self.activity.streams() != 0 {
                tokio::select! {
                    _ = &mut awake => return false,
                    () = self.activity.news.notified() => {}
                }
            }
            // Nobody can send any more: it says goodbye and closes.
            let _ = timeout(SHORTLY, &mut awake).await;
            true
        };
        timeout(grace, finished).await.unwrap_or(false)
    }

    async fn post(&self, path: &str, body: Vec<u8>) -> Result<(StatusCode, Vec<u8>), RequestError> {
        let request = Request::builder().method(Method::POST).uri(path).body(Full::from(body))?;
        let response = self.send(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_SHOWN).collect().await;
        // A body beyond the bound, or cut, is judged as what it is: no evidence.
        Ok((status, body.map(|body| body.to_bytes().to_vec()).unwrap_or_default()))
    }

    /// Has the peer proved anew; `false` if it gave no answer that could be judged.
    async fn verify(&self) -> bool {
        let Some(Ok(question)) = self.guard.ask() else { return false };
        match self.post(ATTEST, question.to_bytes()).await {
            Ok((StatusCode::OK, evidence)) => self.guard.judge(question, &evidence).is_some(),
            _ => false,
        }
    }

    /// Proves this end anew; `false` if that must be tried again.
    async fn show(&self) -> bool {
        let Ok((StatusCode::OK, challenge)) = self.post(RENEW, Vec::new()).await else { return false };
        let Ok(evidence) = self.guard.me.answer(&self.guard.link, &challenge).await else { return false };
        // Whatever is said of it, the same evidence would not fare better.
        self.post(RENEW, evidence).await.is_ok()
    }
}

type Awake<S> = Gathering<Connection<Lease<S>, Bytes>, S>;

/// How one HTTP/2 connection of a session came to its end.
enum Turn {
    Rests,
    Ended(Reason),
}

fn builder(settings: &Settings) -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        // Until the peer says how many it takes, which would refuse what is beyond: what an end of ours takes.
        .initial_max_send_streams(settings.streams as usize)
        .max_header_list_size(settings.header_list)
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_send_buffer_size(settings.send_buffer);
    builder
}

fn closing(closed: Result<(), h2::Error>) -> Reason {
    match closed {
        Ok(()) => Reason::Closed,
        Err(error) if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) => Reason::Closed,
        Err(error) => Reason::Broken(error.into()),
    }
}

async fn agree(sender: SendRequest<Bytes>) -> Result<bool, h2::Error> {
    let request = Request::post(format!("https://{AUTHORITY}{REST}")).body(());
    let request = request.map_err(|_| h2::Error::from(h2::Reason::INTERNAL_ERROR))?;
    let (response, _) = sender.ready().await?.send_request(request, true)?;
    Ok(response.await?.status() == StatusCode::NO_CONTENT)
}

/// The target with the origin that HTTP/2 wants.
fn target(uri: Uri) -> Result<Uri, hyper::http::Error> {
    if uri.scheme().is_some() {
        return Ok(uri);
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Uri::builder().scheme("https").authority(AUTHORITY).path_and_query(path).build()
}

/// Has both ends proved anew, each at its age; what fails is tried again until an end is overdue.
async fn renewals(line: Arc<Line>) {
    let Settings { renew, overdue, .. } = line.guard.settings;
    let pause = overdue.saturating_sub(renew) / 10;
    loop {
        sleep(renew).await;
        // In boxes, for the many minutes in between.
        while line.guard.verifies() && !Box::pin(within(line.verify())).await {
            sleep(pause).await;
        }
        while line.guard.link.part().is_attested() && !Box::pin(within(line.show())).await {
            sleep(pause).await;
        }
    }
}

async fn within(attempt: impl Future<Output = bool>) -> bool {
    timeout(crate::Step::Evidence.deadline(), attempt).await.unwrap_or(false)
}
