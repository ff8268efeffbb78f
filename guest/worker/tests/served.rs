//! The accept loop over TCP: attested requests, silent peers, and an orderly end. The platform is SIMULATED, the model
//! counts letters.

#[path = "../../ratls/tests/support/mod.rs"]
mod support;

use daemon::serve::{Door, Drained};
use daemon::{Own, Reporter};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use protocol::config::{Role, RuntimeConfig, StaticConfig};
use ratls::session::{self, End, Requests};
use ratls::{Acceptor, Endpoint};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use support::{STATIC_CONFIG, World, world};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use worker::{Embed, EmbedError, Embedded, Entry, Models, Server, router};

/// Reports the start of each computation and waits for permission to end it.
struct Slow {
    started: tokio::sync::mpsc::UnboundedSender<()>,
    release: Mutex<mpsc::Receiver<()>>,
}

impl Embed for Slow {
    fn context(&self) -> usize {
        8
    }

    fn embed(&self, texts: &[String]) -> Result<Embedded, EmbedError> {
        let _ = self.started.send(());
        let _ = self.release.lock().unwrap().recv();
        Ok(Embedded { vectors: texts.iter().map(|t| vec![t.len() as f32]).collect(), prompt_tokens: 1 })
    }
}

struct Served {
    world: World,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    serving: JoinHandle<Drained>,
    started: tokio::sync::mpsc::UnboundedReceiver<()>,
    permit: mpsc::Sender<()>,
}

async fn served() -> Served {
    let world = world();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint = Arc::new(support::endpoint(world.attester.clone(), STATIC_CONFIG));
    let (start, started) = tokio::sync::mpsc::unbounded_channel();
    let (permit, release) = mpsc::channel();
    let model = Slow { started: start, release: Mutex::new(release) };
    let models = Arc::new(Models::new(vec![Entry::embedder("slow", model)], 1));
    let (stop, stopping) = watch::channel(false);
    let reporter = Reporter::start("/nonexistent".into());
    let acceptor = Arc::new(Acceptor::new(endpoint.clone()).unwrap().anonymous());
    let door = Door { name: "test", acceptor, peers: Role::Proxy, reporter: reporter.clone(), open: 64 };
    let (routes, stop_too) = (router(models), stopping.clone());
    let server = Server { endpoint, proxies: None, own: own(), routes, reporter, stop: stop_too };
    let server = Arc::new(server);
    let meet = move |accepted| {
        let server = server.clone();
        async move { server.meet(accepted).await }
    };
    let serving = tokio::spawn(door.serve(listener, stopping, meet));
    Served { world, address, stop, serving, started, permit }
}

fn own() -> Own {
    Own {
        static_bytes: STATIC_CONFIG.to_vec(),
        config: StaticConfig::parse(STATIC_CONFIG).unwrap(),
        runtime: RuntimeConfig::parse(b"schema = 1\naddress = \"127.0.0.1/8\"\n").unwrap(),
    }
}

impl Served {
    async fn connect(&self) -> Requests {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let attested = support::connect(tcp, &self.world.verifier()).await;
        let (stop, stopping) = watch::channel(false);
        let end = End::new(Arc::new(Endpoint::anonymous()));
        let (requests, connection) = session::open(attested.unwrap(), end, stopping);
        tokio::spawn(async move {
            let _open = stop;
            connection.await
        });
        requests
    }
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("https://worker{path}")).body(Full::default()).unwrap()
}

fn embed() -> Request<Full<Bytes>> {
    let body = r#"{"model":"slow","input":"abc"}"#;
    Request::post("https://worker/v1/embeddings").body(body.into()).unwrap()
}

#[tokio::test]
async fn many_requests_share_one_attested_connection() {
    let served = served().await;
    let requests = served.connect().await;
    for path in ["/healthz", "/v1/models", "/healthz"] {
        assert_eq!(requests.send(get(path)).await.unwrap().status(), 200, "{path}");
    }
}

#[tokio::test]
async fn plain_http_gets_no_answer() {
    let served = served().await;
    let tcp = TcpStream::connect(served.address).await.unwrap();
    let (mut requests, connection) = http1::handshake(TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    assert!(requests.send_request(get("/healthz")).await.is_err());
}

#[tokio::test]
async fn silent_peers_do_not_keep_others_out() {
    let served = served().await;
    let mut silent = Vec::new();
    for _ in 0..60 {
        silent.push(TcpStream::connect(served.address).await.unwrap());
    }
    let requests = served.connect().await;
    assert_eq!(requests.send(get("/healthz")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn stopping_finishes_the_request_under_way_and_takes_no_new_one() {
    let mut served = served().await;
    let requests = served.connect().await;
    let idle = served.connect().await;
    let under_way = tokio::spawn(async move { requests.send(embed()).await });
    served.started.recv().await.unwrap();

    served.stop.send(true).unwrap();
    while TcpStream::connect(served.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    served.permit.send(()).unwrap();
    let response = under_way.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body.windows(b"[3.0]".len()).any(|w| w == b"[3.0]"), "{body:?}");
    assert_eq!(served.serving.await.unwrap(), Drained { cut: 0 });
    assert!(idle.send(get("/healthz")).await.is_err());
}

#[tokio::test]
async fn stopping_does_not_wait_for_peers_that_never_attested() {
    let served = served().await;
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    silent.write_all(&[22, 3, 1]).await.unwrap();
    let requests = served.connect().await;
    assert_eq!(requests.send(get("/healthz")).await.unwrap().status(), 200);
    served.stop.send(true).unwrap();
    assert_eq!(served.serving.await.unwrap(), Drained { cut: 0 });
}
