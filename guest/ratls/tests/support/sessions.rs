//! Sessions in memory: a client or proxy at one end, a worker at the other, and raw HTTP/2 where an end misbehaves.

use crate::support::{STATIC_CONFIG, Simulated, World, world_with};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use protocol::channel::Part;
use protocol::evidence::EventLog;
use protocol::{AttestError, Attester};
use ratls::session::{Body, Caller, End, Ended, Established, Requests, Settings, open, serve};
use ratls::{Acceptor, Endpoint, Link, QuoteLimits, QuoteQueue, QuoteStats, Verifier, Wanted, connect};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

const PROXY_CONFIG: &[u8] = b"schema = 1\nrole = \"proxy\"\nnetwork = \"local\"\n";

/// Proofs are renewed at once and never overdue.
pub fn quick() -> Settings {
    Settings { renew: Duration::from_millis(50), ..Settings::default() }
}

/// Proofs are overdue soon.
pub fn short() -> Settings {
    Settings { renew: Duration::from_millis(200), overdue: Duration::from_secs(2), ..Settings::default() }
}

pub fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).body(Empty::new()).unwrap()
}

pub async fn bytes(response: Response<Body>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

pub async fn text(response: Response<Body>) -> String {
    String::from_utf8(bytes(response).await.to_vec()).unwrap()
}

/// The next bytes of a body.
pub async fn chunk(body: &mut Body) -> Bytes {
    body.frame().await.unwrap().unwrap().into_data().unwrap()
}

pub async fn rest_of(body: Body) -> Bytes {
    body.collect().await.unwrap().to_bytes()
}

pub async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A body that is written while it is sent; dropping the writer ends it.
pub struct Streaming(mpsc::Receiver<Bytes>);

pub struct Writer(mpsc::Sender<Bytes>);

impl Streaming {
    pub fn pair() -> (Writer, Self) {
        let (to, from) = mpsc::channel(4);
        (Writer(to), Streaming(from))
    }
}

impl Writer {
    pub async fn say(&self, bytes: &'static [u8]) {
        self.0.send(Bytes::from_static(bytes)).await.unwrap();
    }
}

impl HttpBody for Streaming {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

/// One attested party, and what others hold its evidence against.
pub struct Side {
    pub world: World,
    pub verifier: Arc<Verifier>,
    part: Part,
    queue: QuoteQueue,
}

impl Side {
    fn new(part: Part, platform: impl FnOnce(Arc<Simulated>) -> Arc<dyn Attester>) -> Self {
        let world = world_with(if part == Part::Proxy { PROXY_CONFIG } else { STATIC_CONFIG });
        let queue = QuoteQueue::new(platform(world.attester.clone()), QuoteLimits::default());
        Side { verifier: Arc::new(world.verifier()), world, part, queue }
    }

    fn honest(part: Part) -> Self {
        Self::new(part, |attester| attester)
    }

    fn endpoint(&self) -> Arc<Endpoint> {
        let config = if self.part == Part::Proxy { PROXY_CONFIG } else { STATIC_CONFIG };
        Arc::new(Endpoint::attested(self.part, self.queue.clone(), config.to_vec()))
    }

    /// How others verify it.
    fn verified(&self) -> (Arc<Verifier>, Wanted) {
        (self.verifier.clone(), Wanted::part(self.part))
    }

    pub fn quotes(&self) -> QuoteStats {
        self.queue.stats()
    }

    /// Takes its release out of what is accepted.
    pub fn revoke(&self) {
        let mut trust = self.world.trust();
        trust.reference.releases[0].rtmr2 = trust.reference.releases[0].rtmr1;
        self.verifier.replace(trust);
    }
}

/// Gives its first quote for ever.
struct Replayer(Arc<Simulated>, Mutex<Option<Vec<u8>>>);

/// Gives one quote.
struct Once(Arc<Simulated>, Mutex<bool>);

impl Attester for Replayer {
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        let mut first = self.1.lock().unwrap();
        if first.is_none() {
            *first = Some(self.0.quote(report_data)?);
        }
        Ok(first.clone().unwrap_or_default())
    }

    fn event_log(&self) -> Result<EventLog, AttestError> {
        self.0.event_log()
    }

    fn runtime(&self) -> Result<Vec<u8>, AttestError> {
        self.0.runtime()
    }
}

impl Attester for Once {
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        match std::mem::replace(&mut *self.1.lock().unwrap(), true) {
            false => self.0.quote(report_data),
            true => Err(AttestError::Timeout { millis: 1 }),
        }
    }

    fn event_log(&self) -> Result<EventLog, AttestError> {
        self.0.event_log()
    }

    fn runtime(&self) -> Result<Vec<u8>, AttestError> {
        self.0.runtime()
    }
}

type Serving = JoinHandle<Ended>;

/// Serves `/echo` and names path and caller for every other path.
fn worker_serves(
    connection: impl Into<Established<DuplexStream>> + 'static,
    end: End,
    stop: watch::Receiver<bool>,
) -> Serving {
    let service = service_fn(async |request: Request<Incoming>| {
        let caller = request.extensions().get::<Caller>().unwrap().0.clone();
        let caller = caller.map_or("nobody".to_owned(), |peer| peer.part().to_string());
        let body: BoxBody<Bytes, hyper::Error> = match request.uri().path() {
            "/echo" => request.into_body().boxed(),
            path => Full::from(format!("{path} by {caller}")).map_err(|never| match never {}).boxed(),
        };
        Ok::<_, Infallible>(Response::new(body))
    });
    tokio::spawn(serve(connection, end, service, stop))
}

/// An HTTP client end and a worker, talking.
pub struct Pair {
    pub requests: Requests,
    pub worker: Side,
    proxy: Option<Side>,
    pub stop_worker: watch::Sender<bool>,
    _stop_client: watch::Sender<bool>,
    client_ended: Serving,
    worker_ended: Serving,
}

impl Pair {
    /// A client that dials a worker.
    pub async fn one_way(settings: Settings) -> Self {
        Self::dialled(Side::honest(Part::Worker), settings).await
    }

    /// The same with the client's clock at `at` now.
    pub async fn one_way_at(at: u64) -> Self {
        let mut worker = Side::honest(Part::Worker);
        let start = Instant::now();
        worker.verifier =
            Arc::new(Verifier::new(worker.world.trust(), move || at + start.elapsed().as_secs()));
        Self::dialled(worker, Settings::default()).await
    }

    pub async fn with_replaying_worker(settings: Settings) -> Self {
        let platform = |attester| Arc::new(Replayer(attester, Mutex::default())) as Arc<dyn Attester>;
        Self::dialled(Side::new(Part::Worker, platform), settings).await
    }

    pub async fn with_worker_of_one_quote(settings: Settings) -> Self {
        let platform = |attester| Arc::new(Once(attester, Mutex::default())) as Arc<dyn Attester>;
        Self::dialled(Side::new(Part::Worker, platform), settings).await
    }

    /// A client whose trust changes when the worker was judged and the session has not begun.
    pub async fn with_worker_revoked_before_the_session() -> Self {
        Self::dialled_and(Side::honest(Part::Worker), Settings::default(), Side::revoke).await
    }

    async fn dialled(worker: Side, settings: Settings) -> Self {
        Self::dialled_and(worker, settings, |_| ()).await
    }

    /// `between` happens after the handshake and before the session.
    async fn dialled_and(worker: Side, settings: Settings, between: impl FnOnce(&Side)) -> Self {
        let (near, far) = duplex(64 * 1024);
        let (me, theirs) = (Arc::new(Endpoint::anonymous()), worker.endpoint());
        let acceptor = Acceptor::new(theirs.clone()).unwrap().anonymous();
        let (verifier, wanted) = worker.verified();
        let (connected, accepted) =
            tokio::join!(connect(near, &me, &verifier, &wanted), acceptor.accept(far));
        between(&worker);
        let (stop_worker, stopping) = watch::channel(false);
        let worker_ended = worker_serves(accepted.unwrap(), End::new(theirs).with(settings), stopping);
        let (stop_client, stopping) = watch::channel(false);
        let end = End::new(me).verifying(verifier, wanted).with(settings);
        let (requests, driver) = open(connected.unwrap(), end, stopping);
        let client_ended = tokio::spawn(driver);
        Pair {
            requests,
            worker,
            proxy: None,
            stop_worker,
            _stop_client: stop_client,
            client_ended,
            worker_ended,
        }
    }

    /// A worker that dials a proxy, both attested.
    pub async fn mutual(settings: Settings) -> Self {
        let (worker, proxy) = (Side::honest(Part::Worker), Side::honest(Part::Proxy));
        let ends = Ends::connect(&worker, &proxy, &worker.endpoint(), &proxy.endpoint()).await;
        let (stop_worker, stopping) = watch::channel(false);
        let (verifier, wanted) = proxy.verified();
        let end = End::new(ends.worker_endpoint).verifying(verifier, wanted).with(settings);
        let worker_ended = worker_serves(ends.worker, end, stopping);
        let (stop_client, stopping) = watch::channel(false);
        let (verifier, wanted) = worker.verified();
        let end = End::new(ends.proxy_endpoint).verifying(verifier, wanted).with(settings);
        let (requests, driver) = open(ends.proxy, end, stopping);
        let client_ended = tokio::spawn(driver);
        Pair {
            requests,
            worker,
            proxy: Some(proxy),
            stop_worker,
            _stop_client: stop_client,
            client_ended,
            worker_ended,
        }
    }

    pub fn proxy(&self) -> &Side {
        self.proxy.as_ref().unwrap()
    }

    /// Drops the only handle for requests.
    pub fn forget_requests(self) -> Forgotten {
        Forgotten {
            pair: (self.client_ended, self.worker_ended),
            _stops: (self.stop_worker, self._stop_client),
        }
    }

    /// How both ends ended: the HTTP client's, the worker's.
    pub async fn ended(self) -> (Ended, Ended) {
        (self.client_ended.await.unwrap(), self.worker_ended.await.unwrap())
    }
}

/// A pair whose requests are gone.
pub struct Forgotten {
    pair: (Serving, Serving),
    _stops: (watch::Sender<bool>, watch::Sender<bool>),
}

impl Forgotten {
    pub async fn ended(self) -> (Ended, Ended) {
        (self.pair.0.await.unwrap(), self.pair.1.await.unwrap())
    }
}

/// Both ends of a mutual connection that a worker dialled.
struct Ends {
    worker: Established<DuplexStream>,
    worker_endpoint: Arc<Endpoint>,
    proxy: ratls::Attested<DuplexStream>,
    proxy_endpoint: Arc<Endpoint>,
}

impl Ends {
    async fn connect(
        worker: &Side,
        proxy: &Side,
        worker_endpoint: &Arc<Endpoint>,
        proxy_endpoint: &Arc<Endpoint>,
    ) -> Self {
        let (near, far) = duplex(64 * 1024);
        let (verifier, wanted) = worker.verified();
        let acceptor = Acceptor::new(proxy_endpoint.clone()).unwrap().attested(verifier, wanted);
        let (verifier, wanted) = proxy.verified();
        let (connected, accepted) =
            tokio::join!(connect(near, worker_endpoint, &verifier, &wanted), acceptor.accept(far));
        let ratls::Accepted::Attested(proxy) = accepted.unwrap() else { panic!("not attested") };
        Ends {
            worker: connected.unwrap().into(),
            worker_endpoint: worker_endpoint.clone(),
            proxy,
            proxy_endpoint: proxy_endpoint.clone(),
        }
    }
}

/// The HTTP client end of a session with a worker that says nothing, and its end.
pub async fn client(stop: watch::Receiver<bool>) -> (Requests, Serving, ratls::Accepted<DuplexStream>) {
    let worker = Side::honest(Part::Worker);
    let (near, far) = duplex(64 * 1024);
    let me = Arc::new(Endpoint::anonymous());
    let acceptor = Acceptor::new(worker.endpoint()).unwrap().anonymous();
    let (verifier, wanted) = worker.verified();
    let (connected, accepted) = tokio::join!(connect(near, &me, &verifier, &wanted), acceptor.accept(far));
    let (requests, driver) = open(connected.unwrap(), End::new(me).verifying(verifier, wanted), stop);
    (requests, tokio::spawn(driver), accepted.unwrap())
}

/// HTTP/2 without a session, towards a worker that has one.
pub struct Raw {
    sender: h2::client::SendRequest<Bytes>,
    link: Link,
    worker: Side,
    proxy: Option<(Side, Arc<Endpoint>)>,
    worker_ended: Serving,
    _stop: watch::Sender<bool>,
}

/// An anonymous client's.
pub async fn raw_client(settings: Settings) -> Raw {
    let worker = Side::honest(Part::Worker);
    let (near, far) = duplex(64 * 1024);
    let (me, theirs) = (Endpoint::anonymous(), worker.endpoint());
    let acceptor = Acceptor::new(theirs.clone()).unwrap().anonymous();
    let (verifier, wanted) = worker.verified();
    let (connected, accepted) = tokio::join!(connect(near, &me, &verifier, &wanted), acceptor.accept(far));
    let (stop, stopping) = watch::channel(false);
    let worker_ended = worker_serves(accepted.unwrap(), End::new(theirs).with(settings), stopping);
    let (_, link, stream) = connected.unwrap().into_parts();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    Raw { sender, link, worker, proxy: None, worker_ended, _stop: stop }
}

/// How a worker ends that gets these bytes instead of HTTP/2.
pub async fn raw_bytes(bytes: &[u8]) -> Ended {
    let worker = Side::honest(Part::Worker);
    let (near, far) = duplex(64 * 1024);
    let (me, theirs) = (Endpoint::anonymous(), worker.endpoint());
    let acceptor = Acceptor::new(theirs.clone()).unwrap().anonymous();
    let (verifier, wanted) = worker.verified();
    let (connected, accepted) = tokio::join!(connect(near, &me, &verifier, &wanted), acceptor.accept(far));
    let (_stop, stopping) = watch::channel(false);
    let worker_ended = worker_serves(accepted.unwrap(), End::new(theirs), stopping);
    let (_, _, mut stream) = connected.unwrap().into_parts();
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    worker_ended.await.unwrap()
}

/// A proxy's, on a connection that the worker dialled.
pub async fn raw_mutual(settings: Settings) -> Raw {
    let (worker, proxy) = (Side::honest(Part::Worker), Side::honest(Part::Proxy));
    let ends = Ends::connect(&worker, &proxy, &worker.endpoint(), &proxy.endpoint()).await;
    let (stop, stopping) = watch::channel(false);
    let (verifier, wanted) = proxy.verified();
    let end = End::new(ends.worker_endpoint).verifying(verifier, wanted).with(settings);
    let worker_ended = worker_serves(ends.worker, end, stopping);
    let (_, link, stream) = ends.proxy.into_parts();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    Raw { sender, link, worker, proxy: Some((proxy, ends.proxy_endpoint)), worker_ended, _stop: stop }
}

impl Raw {
    /// Status and body of the response.
    pub async fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<(StatusCode, Bytes), h2::Error> {
        let uri = format!("https://worker.invalid{path}");
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        let (response, mut to) = self.sender.clone().ready().await?.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            to.send_data(Bytes::copy_from_slice(body), true)?;
        }
        let (head, mut from) = response.await?.into_parts();
        let mut received = Vec::new();
        while let Some(data) = from.data().await {
            let data = data?;
            from.flow_control().release_capacity(data.len())?;
            received.extend_from_slice(&data);
        }
        Ok((head.status, received.into()))
    }

    /// The proxy's evidence in answer to a challenge on this connection.
    pub async fn answer(&self, challenge: &[u8]) -> Vec<u8> {
        let (_, endpoint) = self.proxy.as_ref().unwrap();
        endpoint.answer(&self.link, challenge).await.unwrap()
    }

    /// The same in answer to this challenge on another connection of the same two ends.
    pub async fn answer_on_another_connection(&self, challenge: &[u8]) -> Vec<u8> {
        let (proxy, endpoint) = self.proxy.as_ref().unwrap();
        let other = Ends::connect(&self.worker, proxy, &self.worker.endpoint(), endpoint).await;
        endpoint.answer(other.proxy.link(), challenge).await.unwrap()
    }

    pub async fn worker_ended(self) -> Ended {
        self.worker_ended.await.unwrap()
    }
}
