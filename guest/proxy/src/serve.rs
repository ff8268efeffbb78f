//! Connections: who it is decides what becomes of it.
//!
//! ```text
//! accepted -- client -> HTTP/2 server: forward
//!         \-- worker -> belongs here? -> HTTP/2 client -> registry until the connection ends
//!                                          |-- asked now and again what it has to say of itself
//!                                          \-- handed its payout whenever that has grown
//! ```

use crate::forward::{Connection, Front, Proof, Upstream};
use crate::registry::{Newcomer, Place, Way};
use crate::router::Model;
use crate::routes::router;
use axum::Router;
use axum::body::{Body, Bytes};
use daemon::dial::Met;
use daemon::trust::belongs;
use daemon::{Own, Reporter};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper::{Method, StatusCode};
use hyper_util::service::TowerToHyperService;
use payment::Address;
use protocol::config::{Role, StaticConfig};
use protocol::market::{self, Blob, Hex32, WorkerFacts};
use ratls::session::{self, End, Requests};
use ratls::{Accepted, Attested, Endpoint, Verifier, Wanted};
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// How often a worker is asked what it has to say of itself; three times within [`crate::router::TESTED_MS`].
const FACTS: Duration = Duration::from_secs(300);
/// How long it may take to say it, or to take a payout.
const SHORTLY: Duration = Duration::from_secs(30);
/// How long to wait before a payout that was not taken is handed over again, and before a worker that said nothing is asked.
const AGAIN: Duration = Duration::from_secs(5);

impl Way for Requests {
    fn is_draining(&self) -> bool {
        self.is_over()
    }
}

impl Upstream for Requests {
    async fn send(&self, request: hyper::Request<Full<Bytes>>) -> Option<hyper::Response<Body>> {
        // Why it failed is the session's to tell, at its end.
        Requests::send(self, request).await.ok().map(|response| response.map(Body::new))
    }

    fn proof(&self) -> Proof {
        let Some(peer) = self.peer() else { return Proof::default() };
        Proof { release: peer.release().unwrap_or_default(), evidence: peer.evidence() }
    }
}

/// What every connection needs.
pub struct House {
    /// This guest's own end.
    pub endpoint: Arc<Endpoint>,
    /// What workers are held against.
    pub verifier: Arc<Verifier>,
    /// What is wanted of them, as it was measured.
    pub wanted: Wanted,
    /// Whether that is a simulated platform.
    pub simulated: bool,
    /// This guest's configuration.
    pub own: Own,
    /// Who is here, and what pays.
    pub front: Arc<Front<Requests>>,
    /// To the host.
    pub reporter: Reporter,
    /// Becomes true at the end.
    pub stop: watch::Receiver<bool>,
    /// Connections that there were.
    pub connections: AtomicU64,
}

/// The routes, for one connection.
#[derive(Clone)]
struct Numbered {
    routes: TowerToHyperService<Router>,
    connection: Connection,
}

impl Service<hyper::Request<Incoming>> for Numbered {
    type Response = axum::response::Response;
    type Error = std::convert::Infallible;
    type Future = <TowerToHyperService<Router> as Service<hyper::Request<Incoming>>>::Future;

    fn call(&self, mut request: hyper::Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.connection);
        self.routes.call(request)
    }
}

impl House {
    /// Takes one connection to its end.
    pub async fn meet<S>(&self, accepted: Accepted<S>, routes: Router)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match accepted {
            Accepted::Anonymous(client) => {
                let connection = Connection(self.connections.fetch_add(1, Ordering::Relaxed));
                let service = Numbered { routes: TowerToHyperService::new(routes), connection };
                let (end, stop) = (End::new(self.endpoint.clone()), self.stop.clone());
                session::serve(client, end, service, stop).await;
            }
            Accepted::Attested(worker) => {
                self.employ(worker).await;
            }
        }
    }

    /// Keeps an attested worker in the registry for as long as it is here.
    pub async fn employ<S>(&self, worker: Attested<S>) -> Met
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let measured = worker.peer().static_config().to_vec();
        let config = match belongs(&measured, &self.own.config) {
            Ok(config) => config,
            Err(rule) => {
                self.reporter.refused(Role::Worker, &[rule]);
                return Met::Failed;
            }
        };
        let newcomer = newcomer(&measured, config);
        if !self.can_pay(newcomer.wallet).await {
            self.reporter.refused(Role::Worker, &["wallet"]);
            return Met::Failed;
        }
        let end = End::new(self.endpoint.clone()).verifying(self.verifier.clone(), self.wanted.clone());
        let (requests, connection) = session::open(worker, end, self.stop.clone());
        let wallet = newcomer.wallet;
        let Some(place) = self.front.workers.join(newcomer, requests.clone()) else { return Met::Failed };
        let here = OnceLock::new();
        let company = async {
            tokio::join!(self.ask(&requests, &place, &here), self.pay(&requests, &place, wallet));
        };
        tokio::select! {
            _ = connection => {}
            () = company => {}
        }
        if here.get().is_some() {
            self.reporter.left(Role::Worker);
        }
        Met::Served
    }

    /// Asks a worker what it has to say of itself, again and again. It is `here` once it said something, since before that
    /// nobody is sent to it.
    async fn ask(&self, requests: &Requests, place: &Place<Requests>, here: &OnceLock<()>) {
        loop {
            let said = facts(requests).await;
            if let Some(facts) = &said {
                place.heard(facts);
                here.get_or_init(|| self.reporter.joined(Role::Worker, self.simulated));
            }
            tokio::time::sleep(if said.is_some() { FACTS } else { AGAIN }).await;
        }
    }

    /// Whether this proxy can pay such a worker; an unpaid one pays nobody.
    async fn can_pay(&self, wallet: Option<Address>) -> bool {
        let Some(money) = &self.front.money else { return true };
        let Some(wallet) = wallet else { return false };
        money.books().look(move |desk, _| desk.admits(&wallet)).await.unwrap_or(false)
    }

    /// Hands a worker its payout whenever that has grown: the newest alone, since totals only grow.
    async fn pay(&self, requests: &Requests, place: &Place<Requests>, wallet: Option<Address>) {
        let (Some(money), Some(wallet)) = (&self.front.money, wallet) else {
            return std::future::pending().await;
        };
        let grown = place.paid();
        let mut taken = 0;
        loop {
            let payout = money.books().look(move |desk, _| desk.payout(&wallet)).await.flatten();
            match payout.filter(|payout| payout.voucher.total > taken) {
                Some(payout) => match hand_over(requests, &Blob::new(payout.to_bytes())).await {
                    Some(StatusCode::NO_CONTENT) => taken = payout.voucher.total,
                    // A voucher by the attested session, for its own wallet: no right worker refuses that for good.
                    Some(status) if status.is_client_error() => {
                        place.fault();
                        tokio::time::sleep(AGAIN).await;
                    }
                    _ => tokio::time::sleep(AGAIN).await,
                },
                None => grown.notified().await,
            }
        }
    }

    /// The routes over the workers of this house.
    pub fn routes(&self) -> Router {
        router(self.front.clone())
    }
}

/// What a worker's measured configuration says of it.
fn newcomer(measured: &[u8], config: StaticConfig) -> Newcomer {
    let wallet = config.wallet.as_ref().map(|wallet| wallet.address);
    let wallet = wallet.map(|account| Address { workchain: account.workchain, hash: account.hash });
    let model = |pin: protocol::config::ModelPin| {
        // The configuration's reader took nothing but 64 digits for a root.
        let Hex32(root) = pin.root.parse().ok()?;
        Some(Model { name: pin.name, root })
    };
    let models = config.models.into_iter().filter_map(model).collect();
    Newcomer { name: Sha256::digest(measured).into(), models, wallet }
}

fn request(method: Method, path: &str, body: Bytes) -> hyper::Request<Full<Bytes>> {
    let mut request = hyper::Request::new(Full::new(body));
    *request.method_mut() = method;
    // The paths are constants that can be parsed.
    *request.uri_mut() = path.parse().unwrap_or_default();
    request
}

/// What it says; none where it says nothing that can be read, and then nobody is sent to it.
async fn facts(requests: &Requests) -> Option<WorkerFacts> {
    let asked = requests.send(request(Method::GET, market::path::WORKER, Bytes::new()));
    let answer = tokio::time::timeout(SHORTLY, asked).await.ok()?.ok()?;
    if answer.status() != StatusCode::OK {
        return None;
    }
    let body = Limited::new(answer.into_body(), <WorkerFacts as market::Body>::LIMIT).collect();
    let body = tokio::time::timeout(SHORTLY, body).await.ok()?.ok()?;
    market::read(&body.to_bytes()).ok()
}

/// What a worker answers to a payout; none if it did not.
async fn hand_over(requests: &Requests, payout: &Blob) -> Option<StatusCode> {
    let body = Bytes::from(payout.to_string());
    let sent = requests.send(request(Method::POST, market::path::PAYOUT, body));
    tokio::time::timeout(SHORTLY, sent).await.ok()?.ok().map(|answer| answer.status())
}
