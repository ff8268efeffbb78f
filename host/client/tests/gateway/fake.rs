//! A proxy in this process, for tests of those who pay one: real quotes of a SIMULATED platform, real books
//! (`payment::proxy::Proxy`), answers made by hand, and, where a test wants them, lies.

#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of this module")]

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use payment::price::{Commission, Price, Tokens};
use payment::proxy::{Facts, Proxy, Settled, Terms};
use payment::receipt::{End, Receipt};
use payment::view::{PoolView, PotView, Seen, VaultView};
use payment::{Address, Cap, Order, PublicKey, SecretKey, Signed, Use};
use protocol::channel::{ApplicationKey, ApplicationKeys, Part};
use protocol::market::{
    self, Account, Blob, Hex32, ModelKind, ModelTerms, Most, Phase, ReceiptEntry, VaultTerms, Written,
    header, path,
};
use ratls::session::{self, End as SessionEnd};
use ratls::{Acceptor, Endpoint, QuoteLimits, QuoteQueue};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

#[path = "fake/answers.rs"]
mod answers;
#[path = "fake/site.rs"]
mod site;

pub use answers::Frames;
use answers::{chunk, fault, plain, typed, usage_chunk, whole};
pub use site::{now, site, trust, verifier};

pub const GLOBAL_ID: i32 = -217;
pub const MODEL: &str = "little";
pub const MODEL_ROOT: [u8; 32] = [0xa1; 32];
pub const EMBEDDER: &str = "vectors";
pub const EMBEDDER_ROOT: [u8; 32] = [0xb2; 32];
pub const PRICE: Price =
    Price { base: 1_000_000_000, prompt: 10_000, cached: 1_000, completion: 30_000, reasoning: 30_000 };
pub const ROOT: Address = Address { workchain: 0, hash: [0x0f; 32] };
pub const TON: u64 = 1_000_000_000;
const PROXY_CONFIG: &[u8] = b"schema = 1\nrole = \"proxy\"\nnetwork = \"local\"\n";
/// A request whose text has this is answered until somebody stops it.
pub const FOREVER: &str = "never stop";

/// When evidence is appraised, Unix seconds.
pub const AT: u64 = 1_790_000_000;

pub fn pool(seed: u8) -> Address {
    Address { workchain: 0, hash: [seed; 32] }
}

/// What a fake does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lie {
    #[default]
    None,
    /// The use is higher than its receipt explains.
    Overcharge,
    /// More tokens than were allowed.
    TooManyTokens,
    ResponseHash,
    RequestHash,
    OtherRoot,
    OtherPrice,
    /// The receipt and use of the request before.
    Replayed,
    /// Signed by a key that was not attested.
    OtherSigner,
    NoReceipt,
    /// Trailers that are no vouchers.
    Garbage,
    /// Says that more was used than was ever allowed.
    Floor,
    /// Another price in its terms than in the book.
    TermsPrice,
    /// Another session key in its terms than the attested one.
    TermsKey,
    /// Evidence without the key.
    NoKey,
    /// Says 503 to every request.
    Busy,
    /// Resets each request before its first byte.
    Reset,
    /// Breaks off after the first bytes.
    Cut,
    /// Wants a higher cap than there is, once.
    CapTooLow,
}

/// What the test's end sees of a fake.
pub struct Fake {
    pub address: SocketAddr,
    pub pool: Address,
    pub key: PublicKey,
    pub state: Arc<State>,
    stop: watch::Sender<bool>,
}

pub struct State {
    seed: [u8; 32],
    pool: Address,
    root: Address,
    pub global_id: i32,
    lie: Mutex<Lie>,
    books: Mutex<Proxy>,
    views: Mutex<BTreeMap<Address, VaultView>>,
    last: Mutex<Option<(Signed<Use>, Signed<Receipt>)>>,
    finished: Mutex<BTreeMap<u64, Option<Finished>>>,
    jobs: Mutex<u64>,
    /// Requests that were dispatched.
    pub dispatched: Mutex<Vec<u64>>,
    /// Bodies that came in.
    pub bodies: Mutex<Vec<Bytes>>,
    /// Most that were named.
    pub mosts: Mutex<Vec<Most>>,
}

#[derive(Clone, Copy)]
struct Finished {
    used: Signed<Use>,
    receipt: Signed<Receipt>,
}

/// A request on its way through the fake.
#[derive(Clone, Copy)]
struct Job {
    id: u64,
    request: u64,
    request_hash: [u8; 32],
    root: [u8; 32],
    most: Most,
}

impl Fake {
    /// One that is honest until it is told to lie.
    pub async fn start(pool: Address) -> Self {
        Self::start_as(pool, Lie::None, ROOT, GLOBAL_ID).await
    }

    pub async fn start_as(pool: Address, lie: Lie, root: Address, global_id: i32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, pool, lie, root, global_id)
    }

    /// On a listener that is there already, as after a restart.
    pub fn on(listener: TcpListener, pool: Address, lie: Lie, root: Address, global_id: i32) -> Self {
        let mut seed = [0; 32];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut seed).unwrap();
        let key = SecretKey::from_seed(&seed).public();
        let terms = Terms {
            global_id,
            pool,
            commission: Commission::new(500),
            max_view_age: u32::MAX,
            claim_margin: 60,
            registration_window: 600,
            max_workers: 4,
        };
        let mut books = Proxy::new(terms, SecretKey::from_seed(&seed), Default::default());
        let pot = PotView { key: key.to_bytes(), closes_at: 0, funded: 1000 * TON, spent: 0 };
        let seen = Seen { seqno: 1, time: u32::try_from(now()).unwrap() };
        let view = PoolView { seen, grace: 7200, epoch: 1, pots: BTreeMap::from([(1, pot)]), closed: false };
        books.on_pool(view);
        let state = Arc::new(State {
            seed,
            pool,
            root,
            global_id,
            lie: Mutex::new(lie),
            books: Mutex::new(books),
            views: Mutex::default(),
            last: Mutex::default(),
            finished: Mutex::default(),
            jobs: Mutex::new(0),
            dispatched: Mutex::default(),
            bodies: Mutex::default(),
            mosts: Mutex::default(),
        });
        let (stop, stopping) = watch::channel(false);
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, state.clone(), stopping));
        Fake { address, pool, key, state, stop }
    }

    /// Knows a vault, as its own view of the chain would tell it.
    pub fn knows(&self, vault: Address, view: VaultView) {
        self.state.books.lock().unwrap().on_vault(vault, view).unwrap().once_written();
        self.state.views.lock().unwrap().insert(vault, view);
    }

    pub fn lies(&self, lie: Lie) {
        *self.state.lie.lock().unwrap() = lie;
    }

    /// What was charged of a vault.
    pub fn used(&self, vault: &Address) -> u64 {
        self.state.books.lock().unwrap().standing(vault).map_or(0, |standing| standing.used)
    }

    pub fn held(&self, vault: &Address) -> u64 {
        self.state.books.lock().unwrap().standing(vault).map_or(0, |standing| standing.held)
    }

    pub fn dispatched(&self) -> usize {
        self.state.dispatched.lock().unwrap().len()
    }

    /// Breaks off all connections and takes no new one.
    pub fn kill(&self) {
        self.stop.send_replace(true);
    }
}

/// The view of a vault with these coins.
pub fn vault_view(client: &SecretKey, pool: Address, free: u64) -> VaultView {
    let seen = Seen { seqno: 1, time: u32::try_from(now()).unwrap() };
    let client_key = client.public().to_bytes();
    VaultView { seen, client_key, pool, claimed: 0, free, closes_at: 0, closed: false }
}

/// A proxy's end on the platform of all fakes; without a session key where `key` is empty.
pub fn guest_end(key: Vec<u8>) -> Arc<Endpoint> {
    let quotes = QuoteQueue::new(site().guest.clone(), QuoteLimits::default());
    let mut keys = vec![ApplicationKey { name: "sk".into(), key }];
    keys.retain(|key| !key.key.is_empty());
    let endpoint = Endpoint::attested(Part::Proxy, quotes, PROXY_CONFIG.to_vec());
    Arc::new(endpoint.with_keys(ApplicationKeys::new(keys).unwrap()))
}

async fn serve(listener: TcpListener, state: Arc<State>, mut stopping: watch::Receiver<bool>) {
    let named = *state.lie.lock().unwrap() != Lie::NoKey;
    let key = if named { SecretKey::from_seed(&state.seed).public().to_bytes().to_vec() } else { Vec::new() };
    let endpoint = guest_end(key);
    let acceptor = Arc::new(Acceptor::new(endpoint.clone()).unwrap().anonymous());
    loop {
        let tcp = tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            tcp = listener.accept() => tcp.unwrap().0,
        };
        let (acceptor, endpoint, state) = (acceptor.clone(), endpoint.clone(), state.clone());
        let mut stop = stopping.clone();
        tokio::spawn(async move {
            let Ok(accepted) = acceptor.accept(tcp).await else { return };
            let service = service_fn(move |request| {
                let state = state.clone();
                async move { Ok::<_, std::io::Error>(reply(state, request).await?) }
            });
            let (_never, running) = watch::channel(false);
            tokio::select! {
                _ = session::serve(accepted, SessionEnd::new(endpoint), service, running) => {}
                // As a process that is killed: nothing is finished.
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
    }
}

type Reply = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

async fn reply(state: Arc<State>, request: Request<Incoming>) -> Result<Reply, std::io::Error> {
    let path = request.uri().path().to_owned();
    if path == path::TERMS {
        return Ok(plain(200, &serde_json::to_value(state.terms()).unwrap()));
    }
    if let Some(vault) = path.strip_prefix(path::VAULTS) {
        return Ok(state.vault(vault.parse().unwrap()));
    }
    if let Some(rest) = path.strip_prefix(path::RECEIPTS) {
        let number = rest.rsplit_once('/').unwrap().1.parse().unwrap();
        return Ok(state.receipt(number));
    }
    if path == path::QUOTE {
        return Ok(quote(request.uri().query().unwrap_or_default()));
    }
    if path == path::METRICS {
        let text = Bytes::from_static(
            b"# TYPE fake_requests_total counter\nfake_requests_total{outcome=\"charged\"} 3\n",
        );
        let body = Full::new(text).map_err(|never: Infallible| match never {}).boxed_unsync();
        return Ok(typed("text/plain; version=0.0.4", body));
    }
    let headers = request.headers().clone();
    let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    state.bodies.lock().unwrap().push(body.clone());
    let lie = *state.lie.lock().unwrap();
    match lie {
        Lie::Busy => return Ok(fault(503, "no_worker")),
        Lie::Reset => return Err(std::io::Error::other("told to")),
        Lie::CapTooLow => {
            state.lie.lock().unwrap().clone_from(&Lie::None);
            return Ok(fault(402, "payment_required"));
        }
        _ => {}
    }
    let asked: Value = serde_json::from_slice(&body).unwrap();
    match state.take(&headers, &body, &asked) {
        Ok(job) => Ok(state.answer(&path, asked, job)),
        Err(reply) => Ok(reply),
    }
}

/// What so many tokens cost by the book.
fn quote(query: &str) -> Reply {
    let number = |name: &str| {
        let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        found.unwrap().parse::<u32>().unwrap()
    };
    let charge = PRICE
        .charge(&Tokens {
            prompt: number("prompt"),
            completion: number("tokens") - number("prompt"),
            ..Tokens::default()
        })
        .unwrap();
    let quote = market::Quote {
        price: market_price(PRICE),
        charge_per_request: charge,
        total: charge * u64::from(number("requests")),
        capacity_tokens_per_s: Some(50),
        predicted_ms: None,
    };
    plain(200, &serde_json::to_value(quote).unwrap())
}

impl State {
    fn key(&self) -> SecretKey {
        SecretKey::from_seed(&self.seed)
    }

    fn terms(&self) -> market::Terms {
        let lie = *self.lie.lock().unwrap();
        let mut price = market_price(PRICE);
        if lie == Lie::TermsPrice {
            price.base /= 2;
        }
        let model = |name: &str, root, kind| ModelTerms {
            name: name.into(),
            root: Hex32(root),
            price: Some(price),
            kind: Some(kind),
            context: 4096,
            max_completion: 256,
            workers: 1,
            free: 2,
            predicted_ms_per_token: Some(3),
            predicted_first_ms: Some(20),
        };
        let key = if lie == Lie::TermsKey { SecretKey::from_seed(&[1; 32]) } else { self.key() };
        market::Terms {
            global_id: self.global_id,
            pool: account(self.pool),
            root: account(self.root),
            session_key: Hex32(key.public().to_bytes()),
            phase: Phase::Active,
            epoch: 1,
            commission: 500,
            models: vec![
                model(MODEL, MODEL_ROOT, ModelKind::Chat),
                model(EMBEDDER, EMBEDDER_ROOT, ModelKind::Embedding),
            ],
        }
    }

    fn vault(&self, vault: Account) -> Reply {
        let vault = Address { workchain: vault.workchain, hash: vault.hash };
        let Some(standing) = self.books.lock().unwrap().standing(&vault) else {
            return fault(404, "no_vault");
        };
        let lied = if *self.lie.lock().unwrap() == Lie::Floor { TON } else { 0 };
        let floor = standing.used + standing.lost + standing.held + lied;
        let terms = VaultTerms {
            used: standing.used,
            lost: standing.lost,
            held: standing.held,
            floor,
            last_use: None,
        };
        plain(200, &serde_json::to_value(terms).unwrap())
    }

    fn receipt(&self, number: u64) -> Reply {
        match self.finished.lock().unwrap().get(&number) {
            Some(Some(Finished { used, receipt })) => {
                let (used, receipt) = (Blob::new(used.to_bytes()), Blob::new(receipt.to_bytes()));
                plain(200, &serde_json::to_value(ReceiptEntry { used, receipt }).unwrap())
            }
            Some(None) => fault(409, "not_finished"),
            None => fault(404, "not_charged"),
        }
    }

    /// Checks cap and order as a right proxy does, and reserves.
    fn take(&self, headers: &HeaderMap, body: &[u8], asked: &Value) -> Result<Job, Reply> {
        let text = |name: &str| headers.get(name).unwrap().to_str().unwrap().to_owned();
        let vault: Account = text(header::VAULT).parse().unwrap();
        let vault = Address { workchain: vault.workchain, hash: vault.hash };
        let request: u64 = text(header::REQUEST).parse().unwrap();
        let most: Most = text(header::MOST).parse().unwrap();
        self.mosts.lock().unwrap().push(most);
        let view = self.views.lock().unwrap().get(&vault).copied().ok_or_else(|| fault(402, "no_vault"))?;
        let client = PublicKey::from_bytes(&view.client_key).unwrap();
        let cap: Blob = text(header::CAP).parse().unwrap();
        let cap = Signed::<Cap>::from_bytes(cap.bytes()).unwrap().verify(&client).unwrap();
        let order: Blob = text(header::ORDER).parse().unwrap();
        let order = *Signed::<Order>::from_bytes(order.bytes()).unwrap().verify(&client).unwrap().voucher();
        let request_hash: [u8; 32] = Sha256::digest(body).into();
        let session_key = self.key().public().to_bytes();
        let Most { prompt, completion } = most;
        let expected = Order {
            global_id: self.global_id,
            vault,
            session_key,
            request,
            request_hash,
            prompt,
            completion,
        };
        assert_eq!(order, expected, "an order of this very request");
        let name = asked["model"].as_str().unwrap();
        let root = match name.split('@').next().unwrap() {
            MODEL => MODEL_ROOT,
            EMBEDDER => EMBEDDER_ROOT,
            _ => return Err(fault(404, "model_not_found")),
        };
        let mut jobs = self.jobs.lock().unwrap();
        *jobs += 1;
        let id = *jobs;
        let mut books = self.books.lock().unwrap();
        // A cap may come later than a higher one of another stream.
        if books.standing(&vault).is_none_or(|standing| standing.cap <= cap.voucher().cap) {
            books.on_cap(cap, now()).unwrap().once_written();
        }
        let tokens = Tokens { prompt, completion, ..Tokens::default() };
        match books.reserve(id, vault, PRICE, &tokens, now()) {
            Ok(reserved) => drop(reserved.once_written()),
            Err(error) => panic!("a right client is never refused: {error}"),
        }
        self.dispatched.lock().unwrap().push(request);
        self.finished.lock().unwrap().insert(request, None);
        Ok(Job { id, request, request_hash, root, most })
    }

    fn answer(self: &Arc<Self>, path: &str, asked: Value, job: Job) -> Reply {
        if asked["stream"] == true {
            return self.stream(path, &asked, job);
        }
        let (body, tokens) = whole(path, &asked);
        let body = Bytes::from(serde_json::to_vec(&body).unwrap());
        let trailers = self.finish(job, tokens, &body, End::Complete);
        let mut frames = vec![Ok(Frame::data(body))];
        frames.extend(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        if *self.lie.lock().unwrap() == Lie::Cut {
            frames = vec![Ok(Frame::data(Bytes::from_static(b"{"))), Err(std::io::Error::other("told to"))];
        }
        let (to, from) = mpsc::channel(4);
        for frame in frames {
            to.try_send(frame).unwrap();
        }
        typed("application/json", Frames(from).boxed_unsync())
    }

    fn stream(self: &Arc<Self>, path: &str, asked: &Value, job: Job) -> Reply {
        let (to, from) = mpsc::channel(1);
        let (state, chat) = (self.clone(), path.contains("chat"));
        let forever = asked.to_string().contains(FOREVER);
        let include = asked["stream_options"]["include_usage"] == true;
        tokio::spawn(async move {
            let (mut said, mut count) = (Vec::new(), 0);
            let words = ["Hello", " from", " a", " fake"];
            let mut gone = false;
            while forever || (count as usize) < words.len() {
                let word = words[count as usize % words.len()];
                let mut text = format!("data: {}\n\n", chunk(chat, word));
                count += 1;
                text += &Written { completion: count, reasoning: 0 }.comment();
                if to.send(Ok(Frame::data(Bytes::from(text.clone())))).await.is_err() || count > 1_000_000 {
                    gone = true;
                    break;
                }
                said.extend_from_slice(text.as_bytes());
                if *state.lie.lock().unwrap() == Lie::Cut {
                    drop(to.send(Err(std::io::Error::other("told to"))).await);
                    return state.release(job);
                }
                if forever {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            let tokens =
                Tokens { prompt: 9, completion: count.min(job.most.completion), ..Tokens::default() };
            if gone {
                state.finish(job, tokens, &said, End::Cancelled);
                return;
            }
            let last = if include { format!("data: {}\n\n", usage_chunk(9, count)) } else { String::new() };
            let last = last + "data: [DONE]\n\n";
            said.extend_from_slice(last.as_bytes());
            drop(to.send(Ok(Frame::data(last.into()))).await);
            if let Some(trailers) = state.finish(job, tokens, &said, End::Complete) {
                drop(to.send(Ok(Frame::trailers(trailers))).await);
            }
        });
        typed("text/event-stream", Frames(from).boxed_unsync())
    }

    fn release(&self, job: Job) {
        self.books.lock().unwrap().release(job.id).unwrap().once_written();
        self.finished.lock().unwrap().remove(&job.request);
    }

    /// Charges, and makes the trailers, with the lie that was wanted.
    fn finish(&self, job: Job, tokens: Tokens, body: &[u8], end: End) -> Option<HeaderMap> {
        let facts = Facts {
            request: job.request,
            time: now(),
            request_hash: job.request_hash,
            response_hash: Sha256::digest(body).into(),
            model_root: job.root,
            release: [3; 32],
            evidence: [4; 32],
        };
        let mut books = self.books.lock().unwrap();
        let settled = books.finish(job.id, pool(0x77), &tokens, end, &facts, now()).unwrap().once_written();
        drop(books);
        let Settled { used, receipt, .. } = settled;
        let lie = *self.lie.lock().unwrap();
        let (used, receipt) = self.lied(lie, used, receipt)?;
        *self.last.lock().unwrap() = Some((settled.used, settled.receipt));
        self.finished.lock().unwrap().insert(job.request, Some(Finished { used, receipt }));
        let mut trailers = HeaderMap::new();
        let value = |bytes: Vec<u8>| HeaderValue::from_str(&Blob::new(bytes).to_string()).unwrap();
        trailers.insert(header::USE, value(used.to_bytes()));
        trailers.insert(header::RECEIPT, value(receipt.to_bytes()));
        if lie == Lie::Garbage {
            trailers.insert(header::RECEIPT, HeaderValue::from_static("no base64 at all"));
        }
        Some(trailers)
    }

    fn lied(
        &self,
        lie: Lie,
        used: Signed<Use>,
        receipt: Signed<Receipt>,
    ) -> Option<(Signed<Use>, Signed<Receipt>)> {
        let key = self.key();
        let (mut u, mut r) = (used.voucher, receipt.voucher);
        match lie {
            Lie::NoReceipt => return None,
            Lie::Replayed => return *self.last.lock().unwrap(),
            Lie::OtherSigner => {
                let other = SecretKey::from_seed(&[9; 32]);
                return Some((other.sign(u), other.sign(r)));
            }
            Lie::Overcharge => {
                u.total += 5;
                r.total += 5;
            }
            Lie::TooManyTokens => {
                r.tokens.completion = 1_000_000;
                r.charged = PRICE.charge(&r.tokens).unwrap();
                (u.total, r.total) = (r.charged, r.charged);
            }
            Lie::ResponseHash => r.response_hash[0] ^= 1,
            Lie::RequestHash => r.request_hash[0] ^= 1,
            Lie::OtherRoot => r.model_root[0] ^= 1,
            Lie::OtherPrice => r.price.base *= 2,
            _ => return Some((used, receipt)),
        }
        Some((key.sign(u), key.sign(r)))
    }
}

fn market_price(price: Price) -> market::Price {
    let Price { base, prompt, cached, completion, reasoning } = price;
    market::Price { base, prompt, cached, completion, reasoning }
}

pub fn account(address: Address) -> Account {
    Account { workchain: address.workchain, hash: address.hash }
}
