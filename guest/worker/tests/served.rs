//! The accept loop over TCP: attested requests, silent peers, and an orderly end. The platform is SIMULATED, the model
//! counts letters.

#[path = "../../ratls/tests/support/mod.rs"]
mod support;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use support::{World, world};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use worker::{Drained, Embed, EmbedError, Embedded, Models, router, serve};

/// Reports the start of each computation and waits for permission to end it.
struct Slow {
    started: tokio::sync::mpsc::UnboundedSender<()>,
    release: Mutex<mpsc::Receiver<()>>,
}

impl Embed for Slow {
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
    let acceptor = Arc::new(world.acceptor());
    let (start, started) = tokio::sync::mpsc::unbounded_channel();
    let (permit, release) = mpsc::channel();
    let model: Arc<dyn Embed> = Arc::new(Slow { started: start, release: Mutex::new(release) });
    let models = Arc::new(Models::new(vec![("slow".into(), model)], 1));
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(serve(listener, acceptor, router(models), stopping));
    Served { world, address, stop, serving, started, permit }
}

impl Served {
    async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let attested = support::connect(tcp, &self.world.verifier()).await;
        let (_, _, stream) = attested.unwrap().into_parts();
        let (requests, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        requests
    }
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "worker").body(Full::default()).unwrap()
}

fn embed() -> Request<Full<Bytes>> {
    let body = r#"{"model":"slow","input":"abc"}"#;
    Request::post("/v1/embeddings").header("host", "worker").body(body.into()).unwrap()
}

#[tokio::test]
async fn many_requests_share_one_attested_connection() {
    let served = served().await;
    let mut requests = served.connect().await;
    for path in ["/healthz", "/v1/models", "/healthz"] {
        requests.ready().await.unwrap();
        assert_eq!(requests.send_request(get(path)).await.unwrap().status(), 200, "{path}");
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
    let mut requests = served.connect().await;
    assert_eq!(requests.send_request(get("/healthz")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn stopping_finishes_the_request_under_way_and_takes_no_new_one() {
    let mut served = served().await;
    let mut requests = served.connect().await;
    let mut idle = served.connect().await;
    let under_way = tokio::spawn(async move { requests.send_request(embed()).await });
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
    assert!(idle.ready().await.is_err());
}

#[tokio::test]
async fn stopping_does_not_wait_for_peers_that_never_attested() {
    let served = served().await;
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    silent.write_all(&[22, 3, 1]).await.unwrap();
    let mut requests = served.connect().await;
    assert_eq!(requests.send_request(get("/healthz")).await.unwrap().status(), 200);
    served.stop.send(true).unwrap();
    assert_eq!(served.serving.await.unwrap(), Drained { cut: 0 });
}
