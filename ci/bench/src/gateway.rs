//! A request through the gateway beside the same paid request on an attested session: what the way over loopback, the file
//! that is synced before a cap leaves, and the log add.
//!
//! The proxy is one of this process, with real books on a SIMULATED platform and an answer that takes it no time.

#[path = "../../../host/client/tests/gateway/fake.rs"]
mod fake;

use crate::report::{Number, Unit};
use anyhow::{Context, Result, ensure};
use client::gateway::{
    Facts, Folder, Gateway, Listed, Settings, Shared, Visited, receipt_of, serve, use_of, visit,
};
use fake::{EMBEDDER_ROOT, Fake, GLOBAL_ID, PRICE, ROOT, TON, pool, vault_view};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use payment::client::{Client, Ledger, Limits};
use payment::price::Tokens;
use payment::{Address, SecretKey};
use protocol::channel::Part;
use protocol::market::{Blob, Most, header};
use ratls::{Endpoint, Wanted};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Samples of each, and requests in one.
const ROUNDS: usize = 15;
const REQUESTS: u32 = 40;
const SEED: [u8; 32] = [5; 32];
const PATH: &str = "/v1/embeddings";
const BODY: &str = r#"{"model":"vectors","input":"a text of some length, as a person would write it"}"#;
const VAULTS: [Address; 2] =
    [Address { workchain: 0, hash: [0xc0; 32] }, Address { workchain: 0, hash: [0xc1; 32] }];

/// Microseconds of a request as an app waits for it, one after the other; `scratch` takes the gateway's folder.
pub fn measure(scratch: &Path) -> Result<Number> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(both(scratch)).context("the gateway's costs")
}

async fn both(scratch: &Path) -> Result<Number> {
    let (through, direct) = (Fake::start(pool(1)).await, Fake::start(pool(2)).await);
    let mut app = app(&through, &scratch.join("gateway")).await?;
    let mut session = Session::open(&direct).await?;
    app_asks(&mut app).await?;
    session.ask().await?;
    let (mut over_gateway, mut over_session) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for _ in 0..REQUESTS {
            app_asks(&mut app).await?;
        }
        over_gateway.push(each(began));
        let began = Instant::now();
        for _ in 0..REQUESTS {
            session.ask().await?;
        }
        over_session.push(each(began));
    }
    Ok(Number::new("request through the gateway", Unit::Microseconds, &over_gateway)
        .beside("the same paid request on an attested session, nothing kept", &over_session)
        .covers("one embedding: loopback HTTP/1.1, cap and order signed, what they allow synced to disk, receipt checked and logged; wall clock, proxy in this process"))
}

fn each(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6 / f64::from(REQUESTS)
}

fn limits() -> Limits {
    Limits { per_request: 100 * TON, per_day: 1_000_000 * TON, cap_lifetime: 86_400 }
}

fn shared() -> (Arc<Shared>, watch::Sender<bool>) {
    let (running, stop) = watch::channel(false);
    let me = Arc::new(Endpoint::anonymous());
    let wanted = Wanted::part(Part::Proxy);
    let shared = Shared {
        me,
        verifier: fake::verifier(),
        wanted,
        global_id: GLOBAL_ID,
        root: ROOT,
        report: Arc::new(|_| ()),
        stop,
    };
    (Arc::new(shared), running)
}

/// An app's connection to a gateway that serves.
async fn app(fake: &Fake, folder: &Path) -> Result<SendRequest<Full<Bytes>>> {
    let view = vault_view(&SecretKey::from_seed(&SEED), fake.pool, 1_000_000 * TON);
    fake.knows(VAULTS[0], view);
    let listed = Listed { commission: 500, endpoint: fake.address.to_string() };
    let facts = Facts {
        seqno: 1,
        prices: BTreeMap::from([(EMBEDDER_ROOT, PRICE)]),
        proxies: BTreeMap::from([(fake.pool, listed)]),
        vaults: vec![(VAULTS[0], view)],
        ..Facts::default()
    };
    let (kept, facts) = watch::channel(Arc::new(facts));
    let (shared, running) = shared();
    let settings = Settings { limits: limits(), max_price: None, token: None };
    let gateway = Gateway::new(settings, shared.clone(), facts, &SEED, &VAULTS[..1], Folder::open(folder)?)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        serve(gateway, listener, shared.stop.clone()).await;
        drop((kept, running));
    });
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn app_asks(app: &mut SendRequest<Full<Bytes>>) -> Result<()> {
    app.ready().await?;
    let request = Request::post(PATH).header("host", "localhost").body(Full::from(BODY))?;
    let response = app.send_request(request).await?;
    ensure!(response.status() == 200, "the gateway answered {}: report this as a defect", response.status());
    response.into_body().collect().await?;
    Ok(())
}

/// A client that pays on a session of its own and keeps nothing.
struct Session {
    visited: Visited,
    client: Client,
    number: u64,
    _running: watch::Sender<bool>,
}

impl Session {
    async fn open(fake: &Fake) -> Result<Self> {
        let key = SecretKey::from_seed(&SEED);
        let view = vault_view(&key, fake.pool, 1_000_000 * TON);
        fake.knows(VAULTS[1], view);
        let (shared, running) = shared();
        let visited = visit(&shared, fake.pool, &fake.address.to_string()).await?;
        let mut client = Client::new(GLOBAL_ID, VAULTS[1], key, limits(), Ledger::default());
        client.on_vault(view);
        client.attested(visited.key, 0)?;
        Ok(Self { visited, client, number: 0, _running: running })
    }

    async fn ask(&mut self) -> Result<()> {
        self.number += 1;
        let most = Most { prompt: BODY.len() as u32 + client::gateway::TEMPLATE, completion: 0 };
        let tokens = Tokens { prompt: most.prompt, ..Tokens::default() };
        let hash = Sha256::digest(BODY).into();
        let cap = self.client.request(self.number, hash, PRICE, &tokens, fake::now())?;
        let order = self.client.order(self.number, most.prompt, most.completion)?;
        let request = Request::post(PATH)
            .header(header::VAULT, VAULTS[1].to_string())
            .header(header::REQUEST, self.number)
            .header(header::CAP, Blob::new(cap.to_bytes()).to_string())
            .header(header::ORDER, Blob::new(order.to_bytes()).to_string())
            .header(header::MOST, most.to_string());
        let response = self.visited.requests.send(request.body(Full::from(BODY))?).await?;
        let body = response.into_body().collect().await?;
        let trailers = body.trailers().context("an answer without trailers")?;
        let blob =
            |name: &str| -> Result<Blob> { Ok(trailers.get(name).context("no voucher")?.to_str()?.parse()?) };
        let (used, receipt) = (use_of(&blob(header::USE)?)?, receipt_of(&blob(header::RECEIPT)?)?);
        self.client.settle(self.number, &used, &receipt)?;
        Ok(())
    }
}
