//! Both ends of a tunnel in this process: real quotes of a SIMULATED platform, real TCP, services made by hand.

#[path = "../../../guest/ratls/tests/support/mod.rs"]
mod support;

use client::ClientError;
use client::tunnel::{Dialer, Event, Far, Report, near};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use protocol::channel::Part;
use protocol::evidence::EventLog;
use protocol::{AttestError, Attester};
use ratls::session::End;
use ratls::{Acceptor, Endpoint, QuoteLimits, QuoteQueue, Verifier, Wanted};
use std::convert::Infallible;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{AT, STATIC_CONFIG, World, world};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// How long anything here may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A platform that counts its quotes.
struct Counting(Arc<dyn Attester>, AtomicUsize);

impl Attester for Counting {
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.quote(report_data)
    }

    fn event_log(&self) -> Result<EventLog, AttestError> {
        self.0.event_log()
    }

    fn runtime(&self) -> Result<Vec<u8>, AttestError> {
        self.0.runtime()
    }
}

/// What was told, in words.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn report(&self) -> Report {
        let told = self.0.clone();
        Arc::new(move |event| {
            let words = match event {
                Event::Attested(peer) => format!("attested {}", peer.part()),
                Event::LetIn(_, peer) => format!("let in, attested: {}", peer.is_some()),
                Event::TurnedAway(_, error) => format!("turned away: {error}"),
                Event::Ended(ended) => format!("ended: {}", ended.reason),
                Event::Failed(error) => format!("failed: {error}"),
            };
            told.lock().unwrap().push(words);
        })
    }

    /// Waits until something was told that contains this.
    async fn until(&self, part: &str) -> String {
        let waiting = async {
            loop {
                if let Some(words) = self.0.lock().unwrap().iter().find(|words| words.contains(part)) {
                    return words.clone();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let told = tokio::time::timeout(PATIENCE, waiting).await;
        told.unwrap_or_else(|_| panic!("nobody said `{part}`: {:?}", self.0.lock().unwrap()))
    }
}

struct Tunnel {
    world: World,
    platform: Arc<Counting>,
    far: String,
    far_told: Told,
    near_told: Told,
    _stop: watch::Sender<bool>,
}

fn endpoint(attester: Arc<dyn Attester>) -> Arc<Endpoint> {
    let quotes = QuoteQueue::new(attester, QuoteLimits::default());
    Arc::new(Endpoint::attested(Part::Service, quotes, STATIC_CONFIG.to_vec()))
}

/// A far end before `service`, which lets in clients, or attested services of its own kind alone.
async fn far_end(service: &str, mutual: bool) -> Tunnel {
    let world = world();
    let platform = Arc::new(Counting(world.attester.clone(), AtomicUsize::new(0)));
    let me = endpoint(platform.clone());
    let acceptor = Acceptor::new(me.clone()).unwrap();
    let (acceptor, end) = if mutual {
        let (verifier, wanted) = (Arc::new(world.verifier()), Wanted::part(Part::Service));
        (acceptor.attested(verifier.clone(), wanted.clone()), End::new(me).verifying(verifier, wanted))
    } else {
        (acceptor.anonymous(), End::new(me))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = listener.local_addr().unwrap().to_string();
    let (far_told, near_told) = (Told::default(), Told::default());
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(Far::new(acceptor, end, service, far_told.report()).run(listener, stopped));
    Tunnel { world, platform, far, far_told, near_told, _stop: stop }
}

impl Tunnel {
    /// A dialer to the far end, or to what stands before it at `address`.
    fn dialer(&self, address: &str, me: Arc<Endpoint>) -> Arc<Dialer> {
        let (verifier, wanted) = (Arc::new(self.world.verifier()), Wanted::part(Part::Service));
        Arc::new(Dialer::new(address, me, verifier, wanted, self.near_told.report()))
    }

    /// Where programs connect to.
    async fn entrance_to(&self, address: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let entrance = listener.local_addr().unwrap().to_string();
        tokio::spawn(near(listener, self.dialer(address, Arc::new(Endpoint::anonymous()))));
        entrance
    }

    async fn entrance(&self) -> String {
        self.entrance_to(&self.far).await
    }
}

/// A service that does `serve` with each connection.
async fn service<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve(tcp));
        }
    });
    address
}

async fn echo(mut tcp: TcpStream) {
    let (mut from, mut to) = tcp.split();
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

/// Says all of it, half-closes, and hears the rest.
async fn said_and_heard(address: &str, said: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let mut heard = Vec::new();
    let talking = async {
        let (mut from, mut to) = tcp.split();
        let saying = async {
            to.write_all(said).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let (read, ()) = tokio::join!(from.read_to_end(&mut heard), saying);
        read.unwrap();
    };
    tokio::time::timeout(PATIENCE, talking).await.expect("the tunnel is stuck");
    heard
}

/// How an entrance breaks off a program that it can't carry; that may be before the program knows that it is connected.
async fn refused_by(address: &str) -> ErrorKind {
    match TcpStream::connect(address).await {
        Ok(mut tcp) => tcp.read(&mut [0]).await.unwrap_err().kind(),
        Err(error) => error.kind(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_share_one_session_and_one_quote() {
    let tunnel = far_end(&service(echo).await, false).await;
    let entrance = tunnel.entrance().await;
    let talks = (0..200_u32).map(|number| {
        let entrance = entrance.clone();
        tokio::spawn(async move {
            let said = number.to_be_bytes().repeat(3_000);
            assert_eq!(said_and_heard(&entrance, &said).await, said);
        })
    });
    for talk in talks.collect::<Vec<_>>() {
        let talked = talk.await;
        assert!(talked.is_ok(), "{talked:?}: {:?}; {:?}", tunnel.near_told.0, tunnel.far_told.0);
    }
    assert_eq!(tunnel.platform.1.load(Ordering::SeqCst), 1);
    tunnel.far_told.until("let in, attested: false").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_may_stop_talking_and_go_on_listening() {
    // The program ends first; the service answers after that.
    let counts = service(async |mut tcp: TcpStream| {
        let mut all = Vec::new();
        tcp.read_to_end(&mut all).await.unwrap();
        tcp.write_all(format!("{} bytes", all.len()).as_bytes()).await.unwrap();
    });
    let tunnel = far_end(&counts.await, false).await;
    assert_eq!(said_and_heard(&tunnel.entrance().await, &[7; 1_000_000]).await, b"1000000 bytes");

    // The service ends first; the program speaks after that.
    let (tell, told) = oneshot::channel();
    let tell = Arc::new(Mutex::new(Some(tell)));
    let greets = service(move |mut tcp: TcpStream| {
        let tell = tell.clone();
        async move {
            tcp.write_all(b"hello").await.unwrap();
            tcp.shutdown().await.unwrap();
            let mut all = Vec::new();
            tcp.read_to_end(&mut all).await.unwrap();
            tell.lock().unwrap().take().unwrap().send(all).unwrap();
        }
    });
    let tunnel = far_end(&greets.await, false).await;
    let mut tcp = TcpStream::connect(tunnel.entrance().await).await.unwrap();
    let mut heard = Vec::new();
    tcp.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"hello");
    tcp.write_all(&[9; 500_000]).await.unwrap();
    tcp.shutdown().await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap(), vec![9; 500_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_do_not_read_hold_their_senders_back_and_nobody_else() {
    let picky = service(async |mut tcp: TcpStream| {
        let mut first = [0];
        tcp.read_exact(&mut first).await.unwrap();
        match first[0] {
            b'S' => std::future::pending().await,
            _ => {
                tcp.write_all(&first).await.unwrap();
                echo(tcp).await;
            }
        }
    });
    let tunnel = far_end(&picky.await, false).await;
    let entrance = tunnel.entrance().await;
    let mut stuck = Vec::new();
    for _ in 0..8 {
        let mut tcp = TcpStream::connect(&entrance).await.unwrap();
        tcp.write_all(b"S").await.unwrap();
        let mut taken = 0;
        // Until nothing more is taken; what the tunnel and the kernel's buffers hold is bounded.
        while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), tcp.write(&[0; 65_536])).await {
            taken += written.unwrap();
            assert!(taken < 32 << 20, "the sender is not held back");
        }
        stuck.push(tcp);
    }
    assert_eq!(said_and_heard(&entrance, &[1; 3_000_000]).await, vec![1; 3_000_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_refuses_is_told_at_both_ends_and_no_end_of_file() {
    // A port at which nobody listens.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let tunnel = far_end(&nobody, false).await;
    assert_eq!(refused_by(&tunnel.entrance().await).await, ErrorKind::ConnectionReset);
    let words = tunnel.near_told.until("failed").await;
    assert!(words.contains("502") && words.contains("refused") && !words.contains(&nobody), "{words}");
    let words = tunnel.far_told.until("failed").await;
    assert!(words.contains(&nobody) && words.contains("is it running"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_broken_off_is_broken_off_at_the_other_end() {
    // By the service, in the middle of an answer.
    let breaks = service(async |mut tcp: TcpStream| {
        tcp.write_all(b"half of the").await.unwrap();
        let mut go = [0];
        tcp.read_exact(&mut go).await.unwrap();
        tcp.set_zero_linger().unwrap();
    });
    let tunnel = far_end(&breaks.await, false).await;
    let mut tcp = TcpStream::connect(tunnel.entrance().await).await.unwrap();
    let mut heard = [0; 11];
    tcp.read_exact(&mut heard).await.unwrap();
    tcp.write_all(b"!").await.unwrap();
    let error = tcp.read(&mut heard).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    tunnel.near_told.until("cut").await;

    // By the program.
    let (tell, told) = oneshot::channel();
    let tell = Arc::new(Mutex::new(Some(tell)));
    let hears = service(move |mut tcp: TcpStream| {
        let tell = tell.clone();
        async move {
            let mut all = Vec::new();
            tcp.write_all(b"k").await.unwrap();
            let heard = tcp.read_to_end(&mut all).await;
            tell.lock().unwrap().take().unwrap().send(heard).unwrap();
        }
    });
    let tunnel = far_end(&hears.await, false).await;
    let mut tcp = TcpStream::connect(tunnel.entrance().await).await.unwrap();
    tcp.read_exact(&mut [0]).await.unwrap();
    tcp.set_zero_linger().unwrap();
    drop(tcp);
    let error = tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

/// A wire that can be cut.
async fn wire(to: String) -> (String, watch::Sender<bool>) {
    let (cut, cutting) = watch::channel(false);
    let address = service(move |mut near: TcpStream| {
        let (to, mut cutting) = (to.clone(), cutting.clone());
        async move {
            let mut far = TcpStream::connect(to).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = cutting.wait_for(|cut| *cut) => {}
            }
        }
    });
    (address.await, cut)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_end_that_is_gone_cuts_its_streams_and_the_next_one_is_attested_anew() {
    let tunnel = far_end(&service(echo).await, false).await;
    let (address, cut) = wire(tunnel.far.clone()).await;
    let entrance = tunnel.entrance_to(&address).await;
    let mut tcp = TcpStream::connect(&entrance).await.unwrap();
    tcp.write_all(b"a").await.unwrap();
    tcp.read_exact(&mut [0]).await.unwrap();
    cut.send(true).unwrap();
    let error = tcp.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "a cut must not look like an end: {error}");
    tunnel.near_told.until("ended").await;
    cut.send(false).unwrap();
    assert_eq!(said_and_heard(&entrance, b"again").await, b"again");
    assert_eq!(tunnel.platform.1.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_end_of_another_release_gets_nothing() {
    let tunnel = far_end(&service(echo).await, false).await;
    let mut trust = tunnel.world.trust();
    trust.reference.releases[0].rtmr2 = trust.reference.releases[0].rtmr1;
    let verifier = Arc::new(Verifier::fixed(trust, AT));
    let me = Arc::new(Endpoint::anonymous());
    let report = tunnel.near_told.report();
    let dialer = Arc::new(Dialer::new(&tunnel.far, me, verifier, Wanted::part(Part::Service), report));
    let refused = dialer.session().await.err().unwrap();
    let registers = refused.verdict().unwrap().failed().any(|check| check.name.as_str() == "registers");
    assert!(registers, "{refused}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let entrance = listener.local_addr().unwrap();
    tokio::spawn(near(listener, dialer));
    assert_eq!(refused_by(&entrance.to_string()).await, ErrorKind::ConnectionReset);
    tunnel.near_told.until("refused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutual_far_end_lets_in_who_proves_itself_and_nobody_else() {
    let tunnel = far_end(&service(echo).await, true).await;
    let anonymous = tunnel.dialer(&tunnel.far, Arc::new(Endpoint::anonymous()));
    let error = anonymous.session().await.err().unwrap();
    assert!(matches!(error, ClientError::Channel { .. }), "{error}");
    let words = tunnel.far_told.until("turned away").await;
    assert!(words.contains("client"), "{words}");

    // Another platform's quotes, under a root that the far end does not know.
    let stranger = tunnel.dialer(&tunnel.far, endpoint(world().attester));
    let error = stranger.session().await.err().unwrap();
    assert!(matches!(error, ClientError::Channel { .. }), "{error}");

    let proved = tunnel.dialer(&tunnel.far, endpoint(tunnel.world.attester.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let entrance = listener.local_addr().unwrap().to_string();
    tokio::spawn(near(listener, proved));
    assert_eq!(said_and_heard(&entrance, b"between services").await, b"between services");
    tunnel.far_told.until("let in, attested: true").await;
}

/// Answers with the body it was sent.
async fn reflect(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(request.into_body().collect().await.unwrap().to_bytes())))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_client_and_server_do_not_notice_the_tunnel() {
    let server = service(async |tcp: TcpStream| {
        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = http.serve_connection(TokioIo::new(tcp), service_fn(reflect)).await;
    });
    let tunnel = far_end(&server.await, false).await;
    let tcp = TcpStream::connect(tunnel.entrance().await).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await;
    let (requests, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let asking = (0..50_u8).map(|number| {
        let mut requests = requests.clone();
        tokio::spawn(async move {
            let body = Bytes::from(vec![number; 100_000]);
            let request = Request::post("http://service/").body(Full::new(body.clone())).unwrap();
            let response = requests.send_request(request).await.unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body);
        })
    });
    for asked in asking.collect::<Vec<_>>() {
        asked.await.unwrap();
    }
}
