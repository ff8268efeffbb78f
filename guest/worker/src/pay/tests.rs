//! A paid worker without a network or a model: the chain is what each test says it is.

use super::*;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Frame;
use payment::SecretKey;
use payment::view::{PoolView, PotView, Seen};
use protocol::market::header;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

const NET: i32 = -3;
const POOL: Address = Address { workchain: 0, hash: [1; 32] };
const ME: Address = Address { workchain: 0, hash: [2; 32] };
const MODEL: [u8; 32] = [0xab; 32];
const PRICE: market::Price = market::Price {
    base: 1_000_000_000,
    prompt: 10_000,
    cached: 1_000,
    completion: 20_000,
    reasoning: 20_000,
};
const ASKED: WorkPrice = WorkPrice { price: PRICE, commission: 1_000 };
const MOST: Most = Most { prompt: 100, completion: 50 };

struct Fake {
    now: AtomicU64,
    book: watch::Sender<Sight<BookView>>,
    pool: watch::Sender<Sight<PoolSight>>,
}

impl Chain for Fake {
    fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    fn book(&self) -> watch::Receiver<Sight<BookView>> {
        self.book.subscribe()
    }

    fn pool(&self, _: Address) -> Option<watch::Receiver<Sight<PoolSight>>> {
        Some(self.pool.subscribe())
    }
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn patron() -> Patron {
    Patron { pool: POOL, key: key(1).public() }
}

fn pool(seqno: u32, session: u8, funded: u64) -> Sight<PoolSight> {
    let pot = PotView { key: key(session).public().to_bytes(), closes_at: 0, funded, spent: 0 };
    let seen = Seen { seqno, time: 1_000 };
    let view = PoolView { seen, grace: 7200, epoch: 1, pots: [(1, pot)].into(), closed: false };
    Sight::There(Arc::new(PoolSight { view, paid: BTreeMap::new() }))
}

fn book() -> Sight<BookView> {
    let market::Price { base, prompt, cached, completion, reasoning } = PRICE;
    let price = daemon::ledger::root::Price { base, prompt, cached, completion, reasoning };
    let proxy = daemon::ledger::root::Proxy { commission: ASKED.commission, endpoint: String::new() };
    let book = daemon::ledger::root::Book {
        version: 1,
        release_epoch: 0,
        release_root: [0; 32],
        models: [(MODEL, price)].into(),
        proxies: [(daemon::ledger::named_by(&POOL), proxy)].into(),
    };
    Sight::There(Arc::new(BookView { seen: Seen::default(), book: Arc::new(book), before: None }))
}

fn config(more: &str) -> StaticConfig {
    let (hash, account) = ("0".repeat(64), ledger::account(ME));
    let text = format!(
        "schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n[ledger]\nglobal_id = {NET}\nzero_root = \"{hash}\"\n\
         zero_file = \"{hash}\"\nroot = \"0:{hash}\"\n[wallet]\naddress = \"{account}\"\n[worker]\n{more}"
    );
    StaticConfig::parse(text.as_bytes()).unwrap()
}

fn paying(more: &str) -> (Arc<Pay>, Arc<Fake>) {
    let (book, pool) = (watch::Sender::new(book()), watch::Sender::new(pool(1, 1, 1_000_000_000)));
    let chain = Arc::new(Fake { now: AtomicU64::new(1_000), book, pool });
    (Pay::of(&config(more), chain.clone()).unwrap(), chain)
}

async fn take(pay: &Arc<Pay>) -> Result<Job, u16> {
    pay.admit(patron(), &MODEL, &ASKED, &MOST).await.map_err(|fault| fault.code().as_u16())
}

fn voucher(total: u64) -> Signed<Payout> {
    key(1).sign(Payout { global_id: NET, pool: POOL, epoch: 1, worker: ME, total })
}

/// What [`MOST`] earns: 100 prompt and 50 completion tokens at twice, at 1,000 nanoTON a token, less a tenth.
const FEE: u64 = 180_000;
const USAGE: Usage = Usage { prompt: 100, cached: 0, completion: 50, reasoning: 0 };

#[tokio::test(start_paused = true)]
async fn a_proxy_that_does_not_pay_gets_no_further_job_and_one_that_does_goes_on() {
    let (pay, _chain) = paying("credit = 200000\n");
    for _ in 0..2 {
        take(&pay).await.ok().unwrap().delivered(USAGE);
    }
    assert_eq!(take(&pay).await.err(), Some(402));
    assert!(pay.on_payout(voucher(FEE)).is_ok());
    take(&pay).await.ok().unwrap().delivered(USAGE);
    assert_eq!(take(&pay).await.err(), Some(402));
    assert!(pay.on_payout(voucher(FEE - 1)).is_err(), "a total never shrinks");
    assert!(pay.on_payout(key(2).sign(voucher(9 * FEE).voucher)).is_err(), "by another key");
    let earnings = pay.earnings();
    assert_eq!((earnings.payouts[0].total, earnings.payouts[0].due), (FEE, FEE));
    assert_eq!(earnings.payouts[0].payout.bytes(), voucher(FEE).to_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_price_or_commission_that_the_own_book_does_not_have_is_refused() {
    let (pay, chain) = paying("");
    let dear = WorkPrice { price: market::Price { base: PRICE.base - 1, ..PRICE }, ..ASKED };
    let greedy = WorkPrice { commission: ASKED.commission + 1, ..ASKED };
    for (asked, model) in [(dear, MODEL), (greedy, MODEL), (ASKED, [9; 32])] {
        let fault = pay.admit(patron(), &model, &asked, &MOST).await.err().unwrap();
        assert_eq!(fault.code().as_u16(), 402, "{asked:?}");
    }
    assert!(take(&pay).await.is_ok());
    chain.book.send_replace(Sight::Waiting);
    assert_eq!(take(&pay).await.err(), Some(503));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_the_chain_does_not_name_is_waited_for_and_then_refused() {
    let (pay, chain) = paying("");
    chain.pool.send_replace(pool(2, 7, 1_000_000_000));
    assert_eq!(take(&pay).await.err(), Some(402), "another key's session");
    let later = chain.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        later.pool.send_replace(pool(3, 1, 1_000_000_000));
    });
    assert!(take(&pay).await.is_ok(), "the registration came a block later");
    chain.pool.send_replace(pool(4, 1, FEE - 1));
    assert_eq!(take(&pay).await.err(), Some(402), "a pot that can't pay it");
    chain.now.store(1_000 + u64::from(MAX_VIEW_AGE) + 1, Ordering::Relaxed);
    assert_eq!(take(&pay).await.err(), Some(503), "nothing newer is proven");
}

#[tokio::test(start_paused = true)]
async fn the_pool_of_a_proxy_that_was_met_is_watched_before_its_first_job() {
    let (pay, chain) = paying("");
    assert_eq!(chain.pool.receiver_count(), 0);
    pay.meet(patron());
    pay.meet(patron());
    assert_eq!(chain.pool.receiver_count(), 1, "watched, and once");
    assert!(take(&pay).await.is_ok());
    assert_eq!(chain.pool.receiver_count(), 1);
}

#[tokio::test]
async fn a_worker_works_in_its_hours_alone() {
    for (hours, hour, open) in [
        ("[9, 17]", 9, true),
        ("[9, 17]", 17, false),
        ("[22, 6]", 23, true),
        ("[22, 6]", 5, true),
        ("[22, 6]", 6, false),
    ] {
        let (pay, chain) = paying(&format!("hours = {hours}\n"));
        chain.now.store(hour * 3600 + 1, Ordering::Relaxed);
        assert_eq!(pay.in_hours().is_ok(), open, "{hours} at {hour}");
    }
}

/// An answer of these frames, of which `taken` are taken before it is dropped.
async fn answered(pay: &Arc<Pay>, frames: Vec<Frame<Bytes>>, taken: usize) {
    let mut head = HeaderMap::new();
    head.insert(header::TOKENS, HeaderValue::from_static("100,0"));
    let frames = Frames(frames.into());
    let mut body = meter::Metered::new(Body::new(frames), &head, take(pay).await.ok().unwrap());
    for _ in 0..taken {
        let _ = body.frame().await;
    }
}

struct Frames(VecDeque<Frame<Bytes>>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

fn stream() -> Vec<Frame<Bytes>> {
    let mut usage = HeaderMap::new();
    usage.insert(header::USAGE, HeaderValue::from_static("100,0,50,0"));
    let data = ["data: {}\n\n:c 10,0\n\n", "data: {}\n\n:c 5", "0,0\n\ndata: [DONE]\n\n"];
    let mut frames: Vec<_> = data.map(|text| Frame::data(Bytes::from_static(text.as_bytes()))).into();
    frames.push(Frame::trailers(usage));
    frames
}

/// nanoTON owed for sure, and for cancelled answers.
fn owed(pay: &Arc<Pay>) -> (u64, u64) {
    let mut books = pay.books();
    let doubtful = books.pools[&POOL].doubtful;
    let _ = books.worker.on_payout(voucher(1));
    (books.worker.earnings()[0].owed, doubtful)
}

#[tokio::test]
async fn a_whole_answer_is_owed_exactly_a_cancelled_one_by_its_last_count_and_a_failed_one_not_at_all() {
    let (pay, _chain) = paying("");
    answered(&pay, stream(), 5).await;
    assert_eq!(owed(&pay), (FEE - 1, 0), "one nanoTON was vouched for");
    let (pay, _chain) = paying("");
    answered(&pay, stream(), 2).await;
    assert_eq!(owed(&pay), (0, 108_000), "100 of the prompt, 10 written");
    let (pay, _chain) = paying("");
    answered(&pay, stream().into_iter().take(3).collect(), 4).await;
    assert_eq!(owed(&pay), (0, 0), "ended without saying what it took");
}

#[tokio::test(start_paused = true)]
async fn cancelled_work_that_is_never_vouched_for_stops_further_jobs() {
    let (pay, _chain) = paying("credit = 200000\n");
    for _ in 0..2 {
        answered(&pay, stream(), 2).await;
    }
    assert_eq!(take(&pay).await.err(), Some(402));
    assert!(pay.on_payout(voucher(1)).is_ok());
    assert!(take(&pay).await.is_ok(), "a first difference is written off");
    for _ in 0..2 {
        answered(&pay, stream(), 2).await;
    }
    assert!(pay.on_payout(voucher(2)).is_ok());
    assert_eq!(take(&pay).await.err(), Some(402), "not again and again");
}

#[tokio::test]
async fn a_worker_that_is_paid_computes_for_no_anonymous_client() {
    let (pay, _chain) = paying("");
    let inner = Router::new().route("/v1/embeddings", axum::routing::post(async || "computed"));
    let facts: Facts = Arc::new(|| (Vec::new(), market::Load { running: 0, waiting: 0 }, 1));
    let pins = Pins::of(&config(""));
    let device = crate::Compute::default().device();
    let routes = router(inner, pins, Some(pay), facts, device);
    let request = axum::http::Request::post("/v1/embeddings").body(Body::from("{}")).unwrap();
    let service = hyper_util::service::TowerToHyperService::new(routes);
    let response = hyper::service::Service::call(&service, request).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYMENT_REQUIRED);
}
