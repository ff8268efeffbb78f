//! The gateway over the real proxy's own routes, books and log: only the worker behind it and the chain are played.

use crate::fake::{GLOBAL_ID, MODEL, MODEL_ROOT, PRICE, ROOT, TON, now, pool, vault_view};
use crate::rig::{CHAT, Rig, SEED, STREAM, limits, settings, until, vault};
use axum::body::Body;
use client::gateway::{Facts, Listed, Outcome, Settings, receipt_of};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Frame};
use payment::client::Limits;
use payment::price::{Commission, Tokens};
use payment::receipt::End;
use payment::view::{PoolView, PotView, Seen};
use payment::{Address, SecretKey};
use protocol::market::{Device, Hex32, ModelFacts, ModelKind, SelfTest, WorkerFacts, Written};
use proxy::books::{Books, Desk, Journal};
use proxy::chain::{Book, Chain, NoView, Seeing};
use proxy::forward::{Front, Proof, Upstream};
use proxy::money::{self, Money};
use proxy::registry::{Newcomer, Place, Registry, Way};
use proxy::router::Model;
use ratls::session::{self, End as SessionEnd};
use ratls::{Acceptor, Endpoint};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

const POOL: u8 = 0x31;
const WORKER: Address = Address { workchain: 0, hash: [0x77; 32] };

/// What the worker says of itself.
fn facts() -> WorkerFacts {
    let model = ModelFacts {
        name: MODEL.into(),
        root: Hex32(MODEL_ROOT),
        kind: ModelKind::Chat,
        context: 512,
        max_completion: 256,
        self_test: Some(SelfTest { digest: Hex32([7; 32]), passed: true }),
    };
    let device = Device { kind: "cpu".into(), name: "played".into(), memory_bytes: 1 << 30 };
    let (wallet, credit) = (None, 1 << 40);
    WorkerFacts {
        models: vec![model],
        device,
        hours: [0, 24],
        wallet,
        credit,
        running: 0,
        waiting: 0,
        slots: 32,
    }
}

/// A worker that answers by what the body says.
#[derive(Clone)]
struct Worker;

impl Way for Worker {
    fn is_draining(&self) -> bool {
        false
    }
}

impl Upstream for Worker {
    async fn send(&self, request: hyper::Request<Full<Bytes>>) -> Option<hyper::Response<Body>> {
        let seen = request.headers().keys().any(|name| name.as_str() == "chrysalis-vault");
        assert!(!seen, "a worker learns of no client");
        let body = request.into_body().collect().await.ok()?.to_bytes();
        let body = String::from_utf8(body.to_vec()).ok()?;
        if body.contains("\"stream\":true") {
            return Some(streamed(body.contains("never stop")));
        }
        let answer = r#"{"object":"chat.completion","choices":[]}"#;
        let (to, from) = mpsc::channel(2);
        to.try_send(Ok(Frame::data(Bytes::from_static(answer.as_bytes())))).ok()?;
        to.try_send(Ok(Frame::trailers(usage("9,0,4,0")))).ok()?;
        Some(response("application/json", from))
    }

    fn proof(&self) -> Proof {
        Proof { release: [3; 32], evidence: [4; 32] }
    }
}

fn usage(text: &'static str) -> hyper::HeaderMap {
    let mut trailers = hyper::HeaderMap::new();
    trailers.insert("chrysalis-usage", hyper::header::HeaderValue::from_static(text));
    trailers
}

fn streamed(forever: bool) -> hyper::Response<Body> {
    let (to, from) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut count = 0;
        while forever || count < 4 {
            count += 1;
            let comment = Written { completion: count.min(16), reasoning: 0 }.comment();
            let text = format!("data: {{\"choices\":[]}}\n\n{comment}");
            if to.send(Ok(Frame::data(text.into()))).await.is_err() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        drop(to.send(Ok(Frame::data("data: [DONE]\n\n".into()))).await);
        drop(to.send(Ok(Frame::trailers(usage("9,0,4,0")))).await);
    });
    response("text/event-stream", from)
}

type Frames = mpsc::Receiver<Result<Frame<Bytes>, io::Error>>;

fn response(kind: &str, frames: Frames) -> hyper::Response<Body> {
    let response = hyper::Response::builder().header("content-type", kind);
    let response = response.header("chrysalis-tokens", "9,0").header("chrysalis-load", "1,0");
    response.body(Body::new(crate::fake::Frames(frames))).unwrap()
}

/// A chain that says this.
struct Played {
    pool: watch::Sender<Option<PoolView>>,
    book: watch::Sender<Option<Arc<Book>>>,
}

impl Chain for Played {
    fn pool(&self) -> watch::Receiver<Option<PoolView>> {
        self.pool.subscribe()
    }

    fn book(&self) -> watch::Receiver<Option<Arc<Book>>> {
        self.book.subscribe()
    }

    fn vault(&self, address: Address) -> Seeing<'_> {
        let view = vault_view(&SecretKey::from_seed(&SEED), pool(POOL), 1000 * TON);
        Box::pin(async move { if address == vault(0) { Ok(view) } else { Err(NoView::NoVault) } })
    }
}

/// The real proxy, on a SIMULATED platform.
struct Real {
    money: Arc<Money>,
    listed: Listed,
    _place: Place<Worker>,
    _folder: tempfile::TempDir,
    _running: watch::Sender<bool>,
}

impl Real {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = SecretKey::from_seed(&[0x42; 32]).public().to_bytes();
        let terms = money::rules(GLOBAL_ID, pool(POOL), Commission::new(500));
        let (before, journal): (_, Journal<proxy::books::Files>) =
            proxy::books::open(folder.path(), &pool(POOL), &key).unwrap();
        let mut seed = 0u8;
        let seeds = move || {
            seed = seed.wrapping_add(1);
            [seed; 32]
        };
        let desk = Desk::new(terms, SecretKey::from_seed(&[0x42; 32]), before, Box::new(seeds));
        let books = Books::start(desk, journal, now).unwrap();
        let pot = PotView { key, closes_at: 0, funded: 1000 * TON, spent: 0 };
        let seen = Seen { seqno: 1, time: u32::try_from(now()).unwrap() };
        let view = PoolView { seen, grace: 7200, epoch: 1, pots: [(1, pot)].into(), closed: false };
        books.on_pool(view.clone());
        let book = Book { prices: [(MODEL_ROOT, PRICE)].into(), commission: Some(Commission::new(500)) };
        let chain =
            Played { pool: watch::Sender::new(Some(view)), book: watch::Sender::new(Some(Arc::new(book))) };
        let setup = money::Setup { chain: Arc::new(chain), terms, key, root: ROOT, now: Box::new(now) };
        let money = Arc::new(Money::new(books, setup));
        let registry = Arc::new(Registry::default());
        registry.set_prices([(MODEL_ROOT, PRICE)].into());
        let models = vec![Model { name: MODEL.into(), root: MODEL_ROOT }];
        let place = registry.join(Newcomer { name: [1; 32], models, wallet: Some(WORKER) }, Worker).unwrap();
        place.heard(&facts());
        let front = Arc::new(Front::new(registry, Some(money.clone())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listed = Listed { commission: 500, endpoint: listener.local_addr().unwrap().to_string() };
        let (running, stop) = watch::channel(false);
        tokio::spawn(serve(listener, proxy::routes(front), crate::fake::guest_end(key.to_vec()), stop));
        Real { money, listed, _place: place, _folder: folder, _running: running }
    }

    fn facts(&self) -> Facts {
        let view = vault_view(&SecretKey::from_seed(&SEED), pool(POOL), 1000 * TON);
        Facts {
            seqno: 1,
            prices: BTreeMap::from([(MODEL_ROOT, PRICE)]),
            proxies: BTreeMap::from([(pool(POOL), self.listed.clone())]),
            vaults: vec![(vault(0), view)],
            ..Facts::default()
        }
    }

    /// Used and held of the vault.
    async fn standing(&self) -> (u64, u64) {
        let standing = self.money.books().look(|desk, _| desk.standing(&vault(0))).await.unwrap();
        standing.map_or((0, 0), |standing| (standing.used, standing.held))
    }
}

async fn serve(listener: TcpListener, routes: axum::Router, me: Arc<Endpoint>, stop: watch::Receiver<bool>) {
    let acceptor = Arc::new(Acceptor::new(me.clone()).unwrap().anonymous());
    loop {
        let tcp = listener.accept().await.unwrap().0;
        let (acceptor, routes, me, stop) = (acceptor.clone(), routes.clone(), me.clone(), stop.clone());
        tokio::spawn(async move {
            let Ok(accepted) = acceptor.accept(tcp).await else { return };
            let service = hyper_util::service::TowerToHyperService::new(routes);
            session::serve(accepted, SessionEnd::new(me), service, stop).await;
        });
    }
}

async fn rig(real: &Real, settings: Settings) -> Rig {
    Rig::at(Arc::new(tempfile::tempdir().unwrap()), real.facts(), &[], settings).await
}

#[tokio::test]
async fn the_real_proxy_takes_caps_and_orders_and_its_receipts_hold() {
    let real = Real::start().await;
    let rig = rig(&real, settings()).await;
    let answer = rig.chat().await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let charged = PRICE.charge(&Tokens { prompt: 9, completion: 4, ..Tokens::default() }).unwrap();
    assert_eq!(answer.field("chrysalis-charged"), charged.to_string());
    let answer = rig.post_with("/v1/chat/completions", &[("te", "trailers")], STREAM).await;
    assert!(answer.status == 200 && answer.trailers.contains_key("chrysalis-receipt"), "{:?}", answer.body);
    assert_eq!(real.standing().await, (2 * charged, 0));
    let log = rig.log();
    assert!(log.iter().all(|entry| entry.outcome == Outcome::Settled), "{log:?}");
    // Exact weights are taken too, and others refused before anything is sent.
    let pinned = CHAT.replace(MODEL, &format!("{MODEL}@{}", hex::encode(MODEL_ROOT)));
    assert_eq!(rig.post("/v1/chat/completions", &pinned).await.status, 200);
}

#[tokio::test]
async fn the_real_proxy_charges_a_stream_that_was_left_for_what_it_delivered() {
    let real = Real::start().await;
    let rig = rig(&real, settings()).await;
    let body = STREAM.replace("a secret question", "never stop");
    let mut response = rig.send("POST", "/v1/chat/completions", &[], &body).await;
    response.body_mut().frame().await.unwrap().unwrap();
    drop(response);
    until(|| rig.log().len() == 1).await;
    let entry = rig.log().remove(0);
    assert_eq!(entry.outcome, Outcome::Settled, "{entry:?}");
    let receipt = receipt_of(&entry.receipt.unwrap()).unwrap().voucher;
    assert_eq!((receipt.end, (receipt.charged, 0)), (End::Cancelled, real.standing().await));
}

#[tokio::test]
async fn many_apps_at_once_are_each_charged_once_by_the_real_proxy() {
    let real = Real::start().await;
    let rig = Arc::new(
        rig(&real, Settings { limits: Limits { per_day: 900 * TON, ..limits() }, ..settings() }).await,
    );
    let mut asks = tokio::task::JoinSet::new();
    for n in 0..24 {
        let rig = rig.clone();
        let body = if n % 2 == 0 { CHAT } else { STREAM };
        asks.spawn(async move { rig.post("/v1/chat/completions", body).await.status });
    }
    let all = asks.join_all().await;
    assert!(all.iter().all(|status| *status == 200), "{all:?}");
    until(|| rig.gateway.status().settled == 24).await;
    let charged = rig.log().iter().map(|entry| entry.charged).sum::<u64>();
    assert_eq!(real.standing().await, (charged, 0));
    assert_eq!(rig.gateway.status().refused, 0);
}
