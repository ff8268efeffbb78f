//! A worker whose every step is the test's to take, and an app that can be killed: both in this process, the worker on
//! the SIMULATED platform. A step has happened when its bytes have come out at the other end, so nobody sleeps and hopes.
//!
//! ```text
//! app -- HTTP/1.1 --> gateway (process) --> proxy (process) --> scripted: Job --> Answer: events, then usage
//! ```
//! To be killed is, for the worker, that its sockets close at once in the middle of whatever it does.

use crate::guest::{PATIENCE, until};
use crate::play::{Network, Programs, Served};
use crate::stage::Stage;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::{get, post};
use hyper::body::Frame;
use hyper_util::service::TowerToHyperService;
use payment::price::{Commission, Price, Tokens};
use payment::{Payout, Signed};
use protocol::channel::Part;
use protocol::market::{
    self, Blob, Device, Hex32, ModelFacts, ModelKind, Most, SelfTest, WorkPrice, WorkerFacts, header,
};
use ratls::Wanted;
use ratls::session::{self, End};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Error, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

/// What it is asked for by.
pub const MODEL: &str = "scripted";
/// A first event with three tokens, the rest with two, and what both took.
pub const FIRST: &str = "data: {\"n\":1}\n\n:c 3,0\n";
/// See [`FIRST`].
pub const REST: &str = "data: {\"n\":2}\n\n:c 5,0\ndata: [DONE]\n\n";
/// See [`FIRST`].
pub const USAGE: &str = "7,0,5,0";

/// A network that serves one model, with a client's vaults and gateway, and nobody who works yet.
pub fn opened() -> Option<(Network, Served)> {
    let programs = Programs::found()?;
    let stage = Stage::new(programs.chain.clone(), programs.front_door.clone());
    let served = Served { name: MODEL.into(), root: "cd".repeat(32), folder: stage.path("none"), price: "1" };
    let mut network = Network::open(stage, &programs, std::slice::from_ref(&served));
    network.open_vaults();
    network.open_gateway();
    Some((network, served))
}

/// A request that has reached a worker. Whoever came back a moment ago is found by asking again.
pub fn ask(network: &Network, worker: &Scripted) -> (App, Job) {
    until("a request at the worker", || {
        let app = App::asks(network.at, MODEL);
        loop {
            if let Some(job) = worker.soon() {
                return Some((app, job));
            }
            if app.is_over() {
                return None;
            }
        }
    })
}

/// What a proxy asked of the worker.
pub struct Job {
    /// Which of its connections.
    pub connection: usize,
    /// What its tokens cost.
    pub price: WorkPrice,
    /// What was held for.
    most: Most,
    reply: oneshot::Sender<Response<Body>>,
}

impl Job {
    /// Answers with a stream: head and first event, of which `counted` tokens.
    pub fn begins(self, text: &str) -> Answer {
        let head = [("content-type", "text/event-stream"), ("chrysalis-tokens", "7,0")];
        let answer = self.answers(&head);
        answer.says(text);
        answer
    }

    /// Answers with these headers, and what comes then.
    pub fn answers(self, headers: &[(&str, &str)]) -> Answer {
        let (parts, tape) = unbounded_channel();
        let head = Response::builder().status(200);
        let head = headers.iter().fold(head, |head, (name, value)| head.header(*name, *value));
        let _ = self.reply.send(head.body(Body::new(Tape(tape))).unwrap());
        Answer(parts)
    }

    /// Answers whole, as a right worker does.
    pub fn is_done(self) {
        let answer = self.begins(FIRST);
        answer.says(REST);
        answer.took(USAGE);
    }

    /// Waits until the proxy asks for it no more.
    pub fn is_left(&self) {
        until("the proxy to give the job up", || self.reply.is_closed().then_some(()));
    }

    /// nanoTON that so many completion tokens cost after a prompt of seven, and the part of it that is the worker's.
    pub fn cost(&self, completion: u32) -> (u64, u64) {
        let charged = self.charge(7, completion);
        (charged, Commission::new(self.price.commission).fee(charged))
    }

    /// nanoTON that are held for it.
    pub fn hold(&self) -> u64 {
        self.charge(self.most.prompt, self.most.completion)
    }

    fn charge(&self, prompt: u32, completion: u32) -> u64 {
        let market::Price { base, prompt: read, cached, completion: written, reasoning } = self.price.price;
        let price = Price { base, prompt: read, cached, completion: written, reasoning };
        price.charge(&Tokens { prompt, completion, ..Tokens::default() }).unwrap()
    }
}

/// An answer on its way; dropped, it ends without a word of usage.
pub struct Answer(UnboundedSender<Result<Frame<Bytes>, Error>>);

impl Answer {
    /// More of it.
    pub fn says(&self, text: &str) {
        let _ = self.0.send(Ok(Frame::data(Bytes::copy_from_slice(text.as_bytes()))));
    }

    /// Its end: what it took.
    pub fn took(self, usage: &str) {
        let mut trailers = HeaderMap::new();
        trailers.insert(header::USAGE, usage.parse().unwrap());
        let _ = self.0.send(Ok(Frame::trailers(trailers)));
    }

    /// It breaks off.
    pub fn breaks(self) {
        let _ = self.0.send(Err(ErrorKind::ConnectionReset.into()));
    }

    /// Waits until the proxy reads it no more.
    pub fn is_left(&self) {
        until("the proxy to give the answer up", || self.0.is_closed().then_some(()));
    }
}

struct Tape(UnboundedReceiver<Result<Frame<Bytes>, Error>>);

impl hyper::body::Body for Tape {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.0.poll_recv(cx)
    }
}

/// What all its connections share.
struct Desk {
    jobs: Sender<Job>,
    facts: WorkerFacts,
    /// The newest payout of each session.
    paid: Mutex<BTreeMap<u32, u64>>,
}

/// The worker.
pub struct Scripted {
    /// Its wallet.
    pub wallet: String,
    config: String,
    runtime: tokio::runtime::Runtime,
    desk: Arc<Desk>,
    jobs: Receiver<Job>,
    connections: Vec<(TcpStream, tokio::task::AbortHandle)>,
}

impl Scripted {
    /// One with this model and a wallet of its own, connected to nobody yet.
    pub fn new(network: &mut Network, name: &str, served: &Served) -> Scripted {
        let wallet = network.purse(name);
        network.people.push((name.to_owned(), wallet.clone()));
        let mut config = String::from("schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n");
        let Served { name, root, .. } = served;
        config += &format!("[[models]]\nname = \"{name}\"\nroot = \"{root}\"\ndata_blocks = 1\n");
        let (pin, root) = (&network.stage.pin, &network.root);
        config += &format!("{pin}root = \"{root}\"\n[wallet]\naddress = \"{wallet}\"\n");
        let (tell, jobs) = channel();
        let desk = Desk { jobs: tell, facts: facts(served), paid: Mutex::default() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let (runtime, desk) = (runtime.unwrap(), Arc::new(desk));
        Scripted { wallet, config, runtime, desk, jobs, connections: Vec::new() }
    }

    /// Dials a proxy, and serves there; the connection's number.
    pub fn dial(&mut self, network: &Network, proxy: SocketAddr) -> usize {
        let number = self.connections.len();
        let routes = axum::Router::new()
            .route("/v1/chat/completions", post(work))
            .route(market::path::WORKER, get(async |State((_, desk)): State<Seat>| Json(desk.facts.clone())))
            .route(market::path::PAYOUT, post(payout))
            .with_state((number, self.desk.clone()));
        let (me, verifier) =
            (network.stage.site.endpoint(Part::Worker, &self.config), network.stage.site.verifier());
        let wanted = Wanted::part(Part::Proxy);
        let tcp = TcpStream::connect(proxy).unwrap();
        let socket = tcp.try_clone().unwrap();
        tcp.set_nonblocking(true).unwrap();
        let attested = self.runtime.block_on(async {
            let tcp = tokio::net::TcpStream::from_std(tcp).unwrap();
            let mut attested = ratls::connect(tcp, &me, &verifier, &wanted).await.unwrap();
            attested.stream().accepted().await.unwrap();
            attested
        });
        let serving = self.runtime.spawn(async move {
            let (_stop, stopping) = watch::channel(false);
            let end = End::new(me).verifying(verifier, wanted);
            session::serve(attested, end, TowerToHyperService::new(routes), stopping).await
        });
        self.connections.push((socket, serving.abort_handle()));
        number
    }

    /// Its connection closes at once, whatever is on it.
    pub fn is_killed(&self, connection: usize) {
        let (socket, serving) = &self.connections[connection];
        let _ = socket.shutdown(Shutdown::Both);
        serving.abort();
    }

    /// The next job, if one comes soon.
    pub fn soon(&self) -> Option<Job> {
        self.jobs.recv_timeout(Duration::from_millis(50)).ok()
    }

    /// The next job.
    pub fn job(&self) -> Job {
        self.jobs.recv_timeout(PATIENCE).expect("a job")
    }

    /// nanoTON that it was handed vouchers for.
    pub fn paid(&self) -> u64 {
        self.desk.paid.lock().unwrap().values().sum()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        (0..self.connections.len()).for_each(|connection| self.is_killed(connection));
    }
}

type Seat = (usize, Arc<Desk>);

async fn work(State((connection, desk)): State<Seat>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let _ = axum::body::to_bytes(body, 1 << 20).await;
    let told = |name: &str| head.headers[name].to_str().unwrap().to_owned();
    let (price, most) = (told(header::PRICE).parse().unwrap(), told(header::MOST).parse().unwrap());
    let (reply, answer) = oneshot::channel();
    let _ = desk.jobs.send(Job { connection, price, most, reply });
    let busy = || Response::builder().status(503).body(Body::empty()).unwrap();
    answer.await.unwrap_or_else(|_| busy())
}

async fn payout(State((_, desk)): State<Seat>, body: String) -> StatusCode {
    let blob: Blob = body.parse().unwrap();
    let payout = Signed::<Payout>::from_bytes(blob.bytes()).unwrap().voucher;
    let mut paid = desk.paid.lock().unwrap();
    let total = paid.entry(payout.epoch).or_default();
    *total = payout.total.max(*total);
    StatusCode::NO_CONTENT
}

fn facts(served: &Served) -> WorkerFacts {
    let model = ModelFacts {
        name: served.name.clone(),
        root: served.root.parse().unwrap(),
        kind: ModelKind::Chat,
        context: 4096,
        max_completion: 256,
        self_test: Some(SelfTest { digest: Hex32([7; 32]), passed: true }),
    };
    WorkerFacts {
        models: vec![model],
        device: Device { kind: "cpu".into(), name: "played".into(), memory_bytes: 1 << 30 },
        hours: [0, 24],
        wallet: None,
        credit: 1 << 40,
        running: 0,
        waiting: 0,
        slots: 4,
    }
}

/// What an app sees of its answer.
#[derive(Debug)]
enum Seen {
    Line(String),
    /// Nothing more comes; whether it was told so.
    End(bool),
}

/// A program of the client's that asks its gateway for a stream.
pub struct App {
    socket: TcpStream,
    seen: Receiver<Seen>,
}

impl App {
    /// Asks.
    pub fn asks(gateway: SocketAddr, model: &str) -> App {
        let body = serde_json::json!({
            "model": model, "stream": true, "max_tokens": 50, "messages": [{ "role": "user", "content": "go" }],
        })
        .to_string();
        let mut socket = TcpStream::connect(gateway).unwrap();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {gateway}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        socket.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let (tell, seen) = channel();
        let mut lines = BufReader::new(socket.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut whole = false;
            loop {
                let mut line = String::new();
                match lines.read_line(&mut line) {
                    Ok(1..) => {
                        // The last chunk of an answer has no bytes.
                        whole = line.trim_end() == "0";
                        let _ = tell.send(Seen::Line(line));
                    }
                    _ => break drop(tell.send(Seen::End(whole))),
                }
                if whole {
                    break drop(tell.send(Seen::End(true)));
                }
            }
        });
        App { socket, seen }
    }

    /// Waits for a line that has this; false where the answer ends without.
    pub fn sees(&self, text: &str) -> bool {
        loop {
            match self.seen.recv_timeout(PATIENCE).expect("the answer goes on or ends") {
                Seen::Line(line) if line.contains(text) => return true,
                Seen::Line(_) => {}
                Seen::End(_) => return false,
            }
        }
    }

    /// Whether its answer is over by now.
    pub fn is_over(&self) -> bool {
        loop {
            match self.seen.try_recv() {
                Ok(Seen::Line(_)) => {}
                Ok(Seen::End(_)) => return true,
                Err(error) => return error == std::sync::mpsc::TryRecvError::Disconnected,
            }
        }
    }

    /// Waits for the end; whether all came.
    pub fn ends(&self) -> bool {
        loop {
            match self.seen.recv_timeout(PATIENCE).expect("the answer ends") {
                Seen::Line(_) => {}
                Seen::End(whole) => return whole,
            }
        }
    }

    /// It goes away.
    pub fn is_killed(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}
