//! The way of a request: read whole, a worker chosen, money held, sent, and the answer passed on as it comes.
//!
//! ```text
//! client -- POST /v1/... --> read (1 MiB) -> place -> choose -> hold, on disk -> send -> first byte -> passed on -> charged
//!                                                      ^                          |       (answer.rs)
//!                                                      \------ next worker -------/  refused, gone, silent or wrong
//! ```
//! A request has to be read whole, since the model's name may stand behind the texts; nothing else of it is looked at. It goes
//! to the worker and nowhere else: no log, no cache. A worker sees no header of the client's, and no number that the client
//! chose.
//!
//! Deliberately absent: hedging, and changing anything in a body.

mod answer;
mod ask;
mod reader;
mod refusal;

pub use refusal::Refusal;

use crate::fair::Shares;
use crate::metrics::{Metrics, Turned, Worked};
use crate::money::Money;
use crate::registry::{Job, Registry, Way};
use crate::router::{Ask, NoWorker, Outcome};
use answer::{Account, Head};
use ask::Asked;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use daemon::body;
use http_body_util::Full;
use payment::Address;
use protocol::market::{self, WorkPrice};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Requests under way at one time; each may hold a body of [`daemon::body::MAX_BODY`].
pub const IN_FLIGHT: usize = 512;
/// How long a worker may take to begin its answer; a guest in software emulation is slow.
const ANSWER: Duration = Duration::from_secs(300);
/// Workers that are tried for one request.
const TRIES: usize = 3;
/// What every request to a worker is addressed to; the name means nothing, the connection is the address.
const AUTHORITY: &str = "https://worker.chrysalis";

/// A worker that can be asked.
pub trait Upstream: Way {
    /// Sends a request; `None` where the worker is gone or refuses to talk before it answered.
    fn send(
        &self,
        request: hyper::Request<Full<Bytes>>,
    ) -> impl Future<Output = Option<hyper::Response<Body>>> + Send;

    /// What was proved of it: digest of its release, and of its evidence; zeros where there is none.
    fn proof(&self) -> Proof;
}

/// What a receipt says of a worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Proof {
    /// Digest of the release.
    pub release: [u8; 32],
    /// SHA-256 of the quote.
    pub evidence: [u8; 32],
}

/// Beside each request, as an extension: which connection it came on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection(pub u64);

/// Whose share a request counts to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Whoever pays.
    Vault(Address),
    /// Whoever is connected, where nobody pays.
    Connection(u64),
}

/// What all requests share.
pub struct Front<U: Way> {
    /// Who can be asked.
    pub workers: Arc<Registry<U>>,
    /// None where nobody pays.
    pub money: Option<Arc<Money>>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    shares: Mutex<Shares<Who>>,
    /// Looks whether clients read.
    watch: Arc<reader::Watch>,
    /// Numbers of jobs, and what makes them look like none.
    jobs: (AtomicU64, RandomState),
}

impl<U: Way> Front<U> {
    /// With all places free.
    pub fn new(workers: Arc<Registry<U>>, money: Option<Arc<Money>>) -> Self {
        let shares = Mutex::new(Shares::new(IN_FLIGHT));
        Self {
            workers,
            money,
            metrics: Arc::default(),
            shares,
            watch: Arc::default(),
            jobs: (AtomicU64::new(0), RandomState::new()),
        }
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.shares().taken()
    }

    fn shares(&self) -> std::sync::MutexGuard<'_, Shares<Who>> {
        // Each change is one step.
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(self: &Arc<Self>, who: Who) -> Result<Seat, Refusal> {
        self.shares().take(&who).map_err(Refusal::place)?;
        let front = self.clone();
        Ok(Seat(Some(Box::new(move || front.shares().give(&who)))))
    }

    /// Looks random to whoever sees some of them, and comes twice with a chance of 2^-64 for each pair.
    fn job(&self) -> u64 {
        self.jobs.1.hash_one(self.jobs.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// A place among the requests under way, until it is dropped.
struct Seat(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(give) = self.0.take() {
            give();
        }
    }
}

/// `POST` of a request that a worker answers.
pub async fn forward<U: Upstream>(State(front): State<Arc<Front<U>>>, request: Request) -> Response {
    match take(&front, request).await {
        Ok(response) => response,
        Err(refusal) => {
            front.metrics.turned(refusal.turned);
            refusal.into_response()
        }
    }
}

async fn take<U: Upstream>(front: &Arc<Front<U>>, request: Request) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let connection = head.extensions.get::<Connection>().map_or(0, |connection| connection.0);
    // Bodies are bounded by the connection's share until it is known who pays.
    let seat = front.place(Who::Connection(connection))?;
    let body = body::read(body).await?;
    let asked = Asked::read(head.uri.path().to_owned(), &head.headers, body)?;
    let seat = match (&front.money, &asked.payer) {
        (Some(_), Some(payer)) => {
            let vault = Who::Vault(payer.vault);
            drop(seat);
            front.place(vault)?
        }
        _ => seat,
    };
    let (root, price) = front
        .workers
        .resolve(&asked.model, asked.root)
        .ok_or_else(|| Refusal::worker(NoWorker::UnknownModel))?;
    let asked = Asked { root: Some(root), ..asked };
    // A worker first: a client need not sign for what nobody can do.
    let job = choose(front, &asked, &[])?;
    let hold = match &front.money {
        Some(money) => {
            let price = price.ok_or_else(|| Refusal::worker(NoWorker::TooDear))?;
            let began = std::time::Instant::now();
            let hold = money.hold(asked.reservation(price)?).await?;
            front.metrics.held.took(began.elapsed());
            Some((hold, price))
        }
        None => None,
    };
    let price = hold.as_ref().map(|(_, price)| *price);
    let account = Account::new(front, &asked, hold, root, seat);
    send(front, &asked, price, job, account).await
}

fn choose<U: Upstream>(front: &Front<U>, asked: &Asked, tried: &[u64]) -> Result<Job<U>, Refusal> {
    let most = asked.most.unwrap_or(market::Most { prompt: 0, completion: u32::MAX });
    let ask = Ask {
        model: &asked.model,
        root: asked.root,
        prompt: most.prompt,
        completion: most.completion,
        max_price: asked.max_price,
        deadline_ms: asked.deadline_ms,
        device: asked.device,
    };
    front.workers.choose(&ask, tried).map_err(Refusal::worker)
}

/// Asks one worker after the other until one begins to answer.
async fn send<U: Upstream>(
    front: &Arc<Front<U>>,
    asked: &Asked,
    price: Option<payment::price::Price>,
    mut job: Job<U>,
    mut account: Account,
) -> Result<Response, Refusal> {
    let patience = asked.deadline_ms.map_or(ANSWER, |ms| ANSWER.min(Duration::from_millis(ms)));
    let mut tried = Vec::new();
    loop {
        tried.push(job.choice.worker);
        let request = to_worker(front, asked, price);
        let answered = async {
            let answer = job.way.send(request).await?;
            Some(answer::begin(answer, &job, &account).await)
        };
        let head = tokio::time::timeout(patience, answered).await.ok().flatten().unwrap_or(Head::Gone);
        let outcome = match head {
            Head::Answers(answer) => {
                account.proof = job.way.proof();
                front.metrics.first.took(Duration::from_millis(job.ms()));
                return Ok(answer::pass(answer, job, account));
            }
            Head::Refuses(response) => {
                job.end(Outcome::Refused);
                front.metrics.worked(Worked::Refused);
                front.metrics.ended(crate::metrics::Ended::Refused);
                return Ok(*response);
            }
            Head::Full => Outcome::Refused,
            Head::Unpaid => {
                // Its voucher may be on its way; it is told again.
                job.paid.notify_one();
                Outcome::Refused
            }
            Head::Gone => Outcome::Broke,
            Head::Wrong => Outcome::Fault,
        };
        front.metrics.worked(worked(outcome));
        job.end(outcome);
        if tried.len() >= TRIES {
            return Err(Refusal::worker(NoWorker::NoneLeft));
        }
        job = match choose(front, asked, &tried) {
            Ok(next) => next,
            // What the first ones did is what the client is told.
            Err(refusal) if refusal.turned == Turned::Busy => return Err(refusal),
            Err(_) => return Err(Refusal::worker(NoWorker::NoneLeft)),
        };
    }
}

fn worked(outcome: Outcome) -> Worked {
    match outcome {
        Outcome::Done { .. } => Worked::Done,
        Outcome::Refused => Worked::Refused,
        Outcome::Cancelled => Worked::Cancelled,
        Outcome::Broke => Worked::Broke,
        Outcome::Fault => Worked::Fault,
    }
}

fn to_worker<U: Way>(
    front: &Front<U>,
    asked: &Asked,
    price: Option<payment::price::Price>,
) -> hyper::Request<Full<Bytes>> {
    let mut request = hyper::Request::new(Full::new(asked.body.clone()));
    *request.method_mut() = Method::POST;
    // The routes have plain paths, so that this can be parsed.
    *request.uri_mut() = format!("{AUTHORITY}{}", asked.path).parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut put = |name: &'static str, value: String| {
        // Digits, commas and a colon.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    if let Some(most) = asked.most {
        put(market::header::MOST, most.to_string());
    }
    if let (Some(money), Some(price)) = (&front.money, price) {
        put(market::header::JOB, front.job().to_string());
        put(market::header::POOL, money.account().to_string());
        let price = WorkPrice { price: crate::money::stated(price), commission: money.commission() };
        put(market::header::PRICE, price.to_string());
    }
    request
}

#[cfg(test)]
mod tests;
