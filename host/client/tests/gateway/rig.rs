//! A gateway in this process, and an app that asks it.

use crate::fake::{self, EMBEDDER_ROOT, Fake, GLOBAL_ID, MODEL_ROOT, PRICE, ROOT, TON, vault_view};
use client::gateway::{
    Entry, Event, Facts, Folder, Gateway, LOG, Listed, Report, Settings, Shared, read_log, serve,
};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use payment::client::Limits;
use payment::{Address, SecretKey};
use protocol::channel::Part;
use ratls::{Endpoint, Verifier, Wanted};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How long anything here may take before the test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const SEED: [u8; 32] = [5; 32];

pub fn vault(of: u8) -> Address {
    Address { workchain: 0, hash: [0xc0 + of; 32] }
}

pub fn limits() -> Limits {
    Limits { per_request: 100 * TON, per_day: 1000 * TON, cap_lifetime: 7200 }
}

pub fn settings() -> Settings {
    Settings { limits: limits(), max_price: None, token: None }
}

/// A gateway that serves.
pub struct Rig {
    pub address: SocketAddr,
    pub gateway: Arc<Gateway>,
    pub facts: watch::Sender<Arc<Facts>>,
    pub told: Arc<Mutex<Vec<String>>>,
    pub dir: Arc<tempfile::TempDir>,
    stop: watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What the chain says: these fakes are listed, each with a vault that has so much.
pub fn facts_of(fakes: &[&Fake], free: u64) -> Facts {
    let client = SecretKey::from_seed(&SEED);
    let listed = |fake: &&Fake| (fake.pool, Listed { commission: 500, endpoint: fake.address.to_string() });
    let vaults = fakes.iter().zip(0..).map(|(fake, n)| (vault(n), vault_view(&client, fake.pool, free)));
    Facts {
        seqno: 1,
        time: 1,
        version: 1,
        prices: BTreeMap::from([(MODEL_ROOT, PRICE), (EMBEDDER_ROOT, PRICE)]),
        proxies: fakes.iter().map(listed).collect(),
        vaults: vaults.collect(),
        ..Facts::default()
    }
}

impl Rig {
    /// Over these fakes, each with a vault of 1,000 TON.
    pub async fn over(fakes: &[&Fake]) -> Self {
        Self::with(fakes, settings(), 1000 * TON).await
    }

    pub async fn with(fakes: &[&Fake], settings: Settings, free: u64) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::at(dir, facts_of(fakes, free), fakes, settings).await
    }

    /// In a folder that may be of an earlier gateway.
    pub async fn at(dir: Arc<tempfile::TempDir>, facts: Facts, fakes: &[&Fake], settings: Settings) -> Self {
        Self::start(dir, facts, fakes, settings, fake::verifier()).await
    }

    /// That holds evidence against something else.
    pub async fn judging(fakes: &[&Fake], verifier: Arc<Verifier>) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::start(dir, facts_of(fakes, 1000 * TON), fakes, settings(), verifier).await
    }

    async fn start(
        dir: Arc<tempfile::TempDir>,
        facts: Facts,
        fakes: &[&Fake],
        settings: Settings,
        verifier: Arc<Verifier>,
    ) -> Self {
        for ((vault, view), fake) in facts.vaults.iter().zip(fakes) {
            fake.knows(*vault, *view);
        }
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let (stop, stopping) = watch::channel(false);
        let shared = Arc::new(Shared {
            me: Arc::new(Endpoint::anonymous()),
            verifier,
            wanted: Wanted::part(Part::Proxy),
            global_id: GLOBAL_ID,
            root: ROOT,
            report: report(told.clone()),
            stop: stopping.clone(),
        });
        let vaults: Vec<_> = facts.vaults.iter().map(|(vault, _)| *vault).collect();
        let (facts, seen) = watch::channel(Arc::new(facts));
        let folder = Folder::open(dir.path()).unwrap();
        let gateway = Gateway::new(settings, shared, seen, &SEED, &vaults, folder).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = vec![
            tokio::spawn(gateway.clone().tend()),
            tokio::spawn(serve(gateway.clone(), listener, stopping)),
        ];
        Rig { address, gateway, facts, told, dir, stop, tasks }
    }

    /// Stops it in the middle of whatever it does; its folder can be taken over. Writes that began are let end, since a
    /// thread can't be killed; the real `kill -9` is played with processes.
    pub async fn killed(mut self) -> Arc<tempfile::TempDir> {
        let dir = self.dir.clone();
        self.gateway.flush().await;
        for task in self.tasks.drain(..) {
            task.abort();
            let _ = task.await;
        }
        let gateway = Arc::downgrade(&self.gateway);
        drop(self);
        until(|| gateway.strong_count() == 0).await;
        dir
    }

    pub fn log(&self) -> Vec<Entry> {
        read_log(&self.dir.path().join(LOG)).unwrap().0
    }

    pub fn told(&self, what: &str) -> bool {
        self.told.lock().unwrap().iter().any(|words| words.contains(what))
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Response<Incoming> {
        self.try_send(method, path, fields, body).await.unwrap()
    }

    /// Errs where the connection breaks before the answer's head.
    pub async fn try_send(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> hyper::Result<Response<Incoming>> {
        let mut request = Request::builder().method(method).uri(path);
        if !fields.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", self.address.to_string());
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.unwrap();
        tokio::spawn(connection);
        tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap()
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.post_with(path, &[], body).await
    }

    pub async fn post_with(&self, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
        answer(self.send("POST", path, fields, body).await).await
    }

    pub async fn chat(&self) -> Answer {
        self.post("/v1/chat/completions", CHAT).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        answer(self.send("GET", path, &[], "").await).await
    }
}

pub const CHAT: &str =
    r#"{"model":"little","messages":[{"role":"user","content":"a secret question"}],"max_tokens":16}"#;
pub const STREAM: &str = r#"{"model":"little","messages":[{"role":"user","content":"a secret question"}],"max_tokens":16,"stream":true}"#;

/// A whole answer.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
    /// Whether it broke off.
    pub cut: bool,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{:?}", self.body))
    }

    /// Status and code of an error.
    pub fn fault(&self) -> (u16, String) {
        (self.status, self.json()["error"]["code"].as_str().unwrap().into())
    }

    pub fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().into()
    }

    pub fn field(&self, name: &str) -> String {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap().into()
    }
}

pub async fn answer(response: Response<Incoming>) -> Answer {
    let (head, mut body) = response.into_parts();
    let (mut bytes, mut trailers, mut cut) = (Vec::new(), HeaderMap::new(), false);
    while let Some(frame) = tokio::time::timeout(PATIENCE, body.frame()).await.unwrap() {
        let Ok(frame) = frame else {
            cut = true;
            break;
        };
        match frame.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap(),
        }
    }
    Answer { status: head.status.as_u16(), headers: head.headers, body: bytes.into(), trailers, cut }
}

/// Waits on a condition.
pub async fn until(what: impl Fn() -> bool) {
    let waited = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("what was waited for");
}

/// The files of a gateway's folder, as text.
pub fn written(dir: &Path) -> String {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.map(|file| String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned()).collect()
}

fn report(told: Arc<Mutex<Vec<String>>>) -> Report {
    Arc::new(move |event| {
        let words = match event {
            Event::Attested { .. } => "attested".into(),
            Event::Failed { error, .. } => format!("failed: {error}"),
            Event::Left { reason, .. } => format!("left: {reason}"),
            Event::Ended { ended, .. } => format!("ended: {}", ended.reason),
            Event::Chain(error) => format!("chain: {error}"),
            Event::Unkept(error) => format!("unkept: {error}"),
            Event::Unlogged(error) => format!("unlogged: {error}"),
        };
        told.lock().unwrap().push(words);
    })
}
