//! The daemon as a process: a small random model, a SIMULATED platform that plays configfs-tsm's files, the service
//! manager's socket and signals; and a proxy of this test's process that it dials.

#[path = "../../engine/tests/common/mod.rs"]
mod model;
#[path = "../../daemon/tests/support/mod.rs"]
mod support;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use protocol::channel::Part;
use protocol::config::Role;
use protocol::openai::{EmbeddingResponse, EmbeddingVector};
use protocol::progress::Stage;
use ratls::session::{self, End, Established, Requests};
use ratls::{Acceptor, Endpoint, Wanted};
use std::fs;
use std::sync::Arc;
use support::{Daemon, Setup, Site};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const CONFIG: &str = "schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n[[models]]\nname = \"small\"\n\
    root = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\ndata_blocks = 1\n";
const PROXY: &str = "schema = 1\nrole = \"proxy\"\nnetwork = \"local\"\n";
const MODELS: [(&str, &str); 1] = [("--models", "models")];

/// A worker with its model.
fn setup() -> Setup {
    let setup = Setup::new(env!("CARGO_BIN_EXE_chrysalis-worker"), CONFIG);
    // The folder outlives this function: it is moved, not removed.
    fs::rename(model::Folder::random(7).write().keep(), setup.folder.path().join("models/small")).unwrap();
    setup
}

/// Requests over an attested connection; it stays open until the runtime ends.
fn open(connection: impl Into<Established<TcpStream>> + 'static, end: End) -> Requests {
    let (stop, stopping) = watch::channel(false);
    let (requests, connection) = session::open(connection, end, stopping);
    tokio::spawn(async move {
        let _open = stop;
        connection.await
    });
    requests
}

async fn embed(requests: &Requests, text: &str) -> EmbeddingResponse {
    let body = serde_json::json!({ "model": "small", "input": text }).to_string();
    let request = Request::post("https://worker/v1/embeddings").body(Full::<Bytes>::from(body)).unwrap();
    let response = requests.send(request).await.unwrap();
    assert_eq!(response.status(), 200);
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

fn vector(answer: &EmbeddingResponse) -> &[f32] {
    let EmbeddingVector::Float(vector) = &answer.data[0].embedding else { panic!("{answer:?}") };
    vector
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_is_ready_answers_over_its_own_evidence_and_stops_on_sigterm() {
    let site = Site::new();
    let mut daemon = setup().start(&site, &MODELS);
    let line = daemon.ready();
    assert!(
        line.starts_with("chrysalis-worker: serving 1 model(s) on ") && line.contains("UNPAID"),
        "{line}"
    );
    let address = Daemon::address(&line);

    let (me, verifier, wanted) =
        (Arc::new(Endpoint::anonymous()), site.verifier(), Wanted::part(Part::Worker));
    let tcp = TcpStream::connect(address).await.unwrap();
    let attested = ratls::connect(tcp, &me, &verifier, &wanted).await.unwrap();
    let requests = open(attested, End::new(me).verifying(verifier, wanted));
    let answer = embed(&requests, "red green blue").await;
    assert_eq!(vector(&answer).len(), model::WIDTH);
    let length = vector(&answer).iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!((length - 1.0).abs() < 1e-5, "{length}");

    let reports = daemon.setup.folder.path().join("tsm");
    let left_behind = || fs::read_dir(&reports).unwrap().next().is_some();
    assert!(!left_behind(), "a report entry was left behind");
    assert_eq!(daemon.terminated(), "chrysalis-worker: stopped, 0 connection(s) cut\n");
}

/// A proxy of this process that waits for workers.
struct Proxy {
    acceptor: Acceptor,
    end: End,
    listener: TcpListener,
}

impl Proxy {
    async fn new(site: &Site, config: &str) -> Self {
        let (me, verifier, wanted) =
            (site.endpoint(Part::Proxy, config), site.verifier(), Wanted::part(Part::Worker));
        let acceptor = Acceptor::new(me.clone()).unwrap().attested(verifier.clone(), wanted.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Proxy { acceptor, end: End::new(me).verifying(verifier, wanted), listener }
    }

    /// The next worker that calls and is attested.
    async fn worker(&self) -> (Requests, watch::Sender<bool>) {
        loop {
            let (tcp, _) = self.listener.accept().await.unwrap();
            let Ok(accepted) = self.acceptor.accept(tcp).await else { continue };
            let (stop, stopping) = watch::channel(false);
            let (requests, connection) = session::open(accepted, self.end.clone(), stopping);
            tokio::spawn(connection);
            return (requests, stop);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_dials_a_proxy_serves_on_that_connection_and_dials_again() {
    let site = Site::new();
    let proxy = Proxy::new(&site, PROXY).await;
    let mut setup = setup().believing(&site, &site.reference());
    setup.dial = vec![proxy.listener.local_addr().unwrap()];
    let mut daemon = setup.start(&site, &MODELS);
    assert!(daemon.ready().contains("SIMULATED"));
    let joined = Stage::PeerJoined { part: Role::Proxy, simulated: true };

    let (worker, stop) = proxy.worker().await;
    assert_eq!(worker.peer().unwrap().static_config(), daemon.setup.static_config().as_bytes());
    let first = embed(&worker, "red").await;
    assert_eq!(daemon.said(), joined);
    stop.send(true).unwrap();
    assert_eq!(daemon.said(), Stage::PeerLeft { part: Role::Proxy });

    let (worker, _stop) = proxy.worker().await;
    assert_eq!(vector(&embed(&worker, "red").await), vector(&first));
    assert_eq!(daemon.said(), joined);
    assert_eq!(daemon.terminated(), "chrysalis-worker: stopped, 0 connection(s) cut\n");
}

/// What a worker says of a proxy with this configuration, when it believes `reference`.
async fn said_of(site: &Site, reference: &evidence::Reference, config: &str) -> Stage {
    let proxy = Proxy::new(site, config).await;
    let mut setup = setup().believing(site, reference);
    setup.dial = vec![proxy.listener.local_addr().unwrap()];
    let mut daemon = setup.start(site, &MODELS);
    daemon.ready();
    tokio::spawn(async move { proxy.worker().await });
    tokio::task::spawn_blocking(move || daemon.said()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_another_release_or_network_is_refused_and_named() {
    let site = Site::new();
    let refused = |reason: &str| Stage::PeerRefused { part: Role::Proxy, reasons: vec![reason.into()] };
    assert_eq!(said_of(&site, &site.other_reference(), PROXY).await, refused("registers"));
    let other = PROXY.replace("local", "test");
    assert_eq!(said_of(&site, &site.reference(), &other).await, refused("network"));
}

#[test]
fn a_daemon_without_its_inputs_says_which_and_what_next() {
    let setup = Setup::new(env!("CARGO_BIN_EXE_chrysalis-worker"), CONFIG);
    let config = setup.folder.path().join("static.toml");
    let said = setup.refusal(&MODELS);
    assert!(said.contains("static.toml") && said.contains("chrysalis-init writes it"), "{said}");

    setup.write();
    fs::write(&config, CONFIG.replace("\"worker\"", "\"proxy\"")).unwrap();
    let said = setup.refusal(&MODELS);
    assert!(said.contains("expected `worker`"), "{said}");

    fs::write(&config, format!("{CONFIG}surprise = 1\n")).unwrap();
    let said = setup.refusal(&MODELS);
    assert!(said.contains("surprise") && said.contains("line 8"), "{said}");

    fs::write(&config, CONFIG).unwrap();
    let said = setup.refusal(&MODELS);
    assert!(said.contains("model `small`") && said.contains("models/small"), "{said}");
}

#[test]
fn a_daemon_that_is_to_dial_without_knowing_whom_to_believe_does_not_start() {
    let mut setup = setup();
    setup.dial = vec!["127.0.0.1:1".parse().unwrap()];
    setup.write();
    assert!(setup.refusal(&MODELS).contains("no [trust]"));
    let site = Site::new();
    let mut setup = setup.believing(&site, &site.reference());
    setup.marked = false;
    setup.write();
    assert!(setup.refusal(&MODELS).contains("expected \"tdx\""), "a production image");
}

#[test]
fn there_is_no_option_beyond_the_paths() {
    let setup = Setup::new(env!("CARGO_BIN_EXE_chrysalis-worker"), CONFIG);
    let said = setup.command(&[("--insecure", "yes")]).output().unwrap();
    assert!(String::from_utf8_lossy(&said.stderr).contains("--insecure: no such option"));
}
