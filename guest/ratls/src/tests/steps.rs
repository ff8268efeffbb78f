//! Peers that stop half-way or trickle, at each step: the deadline of that very step ends it, on a clock that jumps.

use super::*;
use crate::ChannelError;
use protocol::AttestError;
use protocol::evidence::EventLog;
use std::sync::{Mutex, mpsc};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Writes a byte a second until nobody listens.
async fn trickle(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    for byte in bytes {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// What a responder says of an initiator that does this after the TLS handshake.
async fn accepting<F>(acceptor: Acceptor, play: impl FnOnce(ClientTls) -> F + Send + 'static) -> AcceptError
where
    F: Future<Output = ()> + Send,
{
    let (near, far) = wire();
    let config = tls::client_config().unwrap();
    let playing = tokio::spawn(async move { play(bare_client(near, config).await).await });
    let error = acceptor.accept(far).await.err().unwrap();
    playing.abort();
    error
}

#[tokio::test(start_paused = true)]
async fn an_initiator_that_stops_is_cut_at_the_deadline_of_its_step() {
    let world = world();
    // Before TLS,
    let (_near, far) = wire();
    let error = world.acceptor().accept(far).await.err().unwrap();
    let deadline = matches!(error, AcceptError::Channel(ChannelError::Deadline { step: Step::Handshake }));
    assert!(deadline && error.is_peer_fault(), "{error}");

    // ... before its challenge,
    let silent = async |_stream: ClientTls| std::future::pending::<()>().await;
    let error = accepting(world.acceptor(), silent).await;
    let deadline = matches!(error, AcceptError::Channel(ChannelError::Deadline { step: Step::Challenge }));
    assert!(deadline && error.is_peer_fault(), "{error}");

    // ... in the middle of it.
    let challenge = Challenge::new([1; 32], Part::Client, Part::Worker).to_bytes();
    let trickling = async move |mut stream: ClientTls| {
        let framed = [&(challenge.len() as u32).to_be_bytes(), challenge.as_slice()].concat();
        trickle(&mut stream, &framed).await;
    };
    let error = accepting(world.acceptor(), trickling).await;
    let deadline = matches!(error, AcceptError::Channel(ChannelError::Deadline { step: Step::Challenge }));
    assert!(deadline, "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_attested_initiator_that_stops_is_cut_while_its_evidence_is_awaited() {
    let (proxy, worker) = mutual::worlds();
    for trickles in [false, true] {
        let acceptor = mutual::host(&worker, Part::Worker, &proxy, Part::Proxy);
        let half = async move |mut stream: ClientTls| {
            let challenge = Challenge::new([1; 32], Part::Proxy, Part::Worker).to_bytes();
            frame::write(&mut stream, Step::Challenge, &challenge).await.unwrap();
            frame::read(&mut stream, Step::Challenge, 512).await.unwrap();
            frame::read(&mut stream, Step::Evidence, 1 << 20).await.unwrap();
            if trickles {
                trickle(&mut stream, &[0; 1000]).await;
            }
            std::future::pending::<()>().await;
        };
        let error = accepting(acceptor, half).await;
        // Trickled zeros are the length of an empty frame, which is no evidence.
        let stated = match (&error, trickles) {
            (AcceptError::Channel(ChannelError::Deadline { step: Step::Evidence }), false) => true,
            (AcceptError::Channel(ChannelError::Malformed { step: Step::Evidence, .. }), true) => true,
            _ => false,
        };
        assert!(stated && error.is_peer_fault(), "{error}");
    }

    let acceptor = mutual::host(&worker, Part::Worker, &proxy, Part::Proxy);
    let slow = async move |mut stream: ClientTls| {
        let challenge = Challenge::new([1; 32], Part::Proxy, Part::Worker).to_bytes();
        frame::write(&mut stream, Step::Challenge, &challenge).await.unwrap();
        trickle(&mut stream, &[[0, 0, 1, 0].as_slice(), &[7; 1000]].concat()).await;
    };
    let error = accepting(acceptor, slow).await;
    let deadline = matches!(error, AcceptError::Channel(ChannelError::Deadline { step: Step::Evidence }));
    assert!(deadline, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_responder_that_stops_is_left_at_the_deadline_of_its_step() {
    let world = world();
    // Before TLS,
    let (near, _far) = wire();
    let error = ask(near, &world).await.err().unwrap();
    let deadline = matches!(error, ConnectError::Channel(ChannelError::Deadline { step: Step::Handshake }));
    assert!(deadline, "{error}");

    // ... before its evidence, ... and in the middle of it.
    for trickles in [false, true] {
        let near = attacker(own_key(), async move |mut stream| {
            read_challenge(&mut stream).await;
            if trickles {
                trickle(&mut stream, &[[0, 0, 1, 0].as_slice(), &[7; 1000]].concat()).await;
            }
            std::future::pending::<()>().await;
        });
        let error = ask(near, &world).await.err().unwrap();
        let deadline =
            matches!(error, ConnectError::Channel(ChannelError::Deadline { step: Step::Evidence }));
        assert!(deadline && error.is_peer_fault(), "{error}");
    }

    // ... before its own challenge, to an initiator that it should attest.
    let near = attacker(own_key(), async |mut stream| {
        read_challenge(&mut stream).await;
        std::future::pending::<()>().await;
    });
    let (me, wanted) = (end(&world, Part::Service), Wanted::part(Part::Service));
    let error = crate::connect(near, &me, &world.verifier(), &wanted).await.err().unwrap();
    let deadline = matches!(error, ConnectError::Channel(ChannelError::Deadline { step: Step::Challenge }));
    assert!(deadline, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_verdict_that_never_comes_or_trickles_is_cut_at_its_deadline() {
    let accepted = Control::Accepted.to_bytes();
    let framed = [&(accepted.len() as u32).to_be_bytes(), accepted.as_slice()].concat();
    for tail in [vec![], framed] {
        let (mut stream, _held) = awaiting(tail).await;
        let error = stream.accepted().await.unwrap_err();
        assert!(matches!(error, ChannelError::Deadline { step: Step::Verdict }), "{error}");
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    }
}

/// An initiator's stream whose responder trickles these bytes where its verdict should be.
async fn awaiting(bytes: Vec<u8>) -> (crate::ChannelStream<DuplexStream>, tokio::task::JoinHandle<()>) {
    let (near, far) = wire();
    let held = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(own_key()));
        let mut stream = acceptor.accept(far).await.unwrap();
        trickle(&mut stream, &bytes).await;
    });
    let stream = bare_client(near, tls::client_config().unwrap()).await;
    (crate::ChannelStream::awaiting_verdict(stream.into()), held)
}

/// A platform that reports each call and then waits for permission to answer.
pub(super) struct Gated {
    pub(super) inner: Arc<support::Simulated>,
    pub(super) started: tokio::sync::mpsc::UnboundedSender<()>,
    pub(super) release: Mutex<mpsc::Receiver<()>>,
}

impl Attester for Gated {
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        let _ = self.started.send(());
        let _ = self.release.lock().unwrap().recv();
        self.inner.quote(report_data)
    }

    fn event_log(&self) -> Result<EventLog, AttestError> {
        self.inner.event_log()
    }

    fn runtime(&self) -> Result<Vec<u8>, AttestError> {
        self.inner.runtime()
    }
}

/// What is told of calls to a gated platform, and what lets them go on; dropped, it lets all go on.
pub(super) type Gate = (tokio::sync::mpsc::UnboundedReceiver<()>, mpsc::Sender<()>);

pub(super) fn gated(world: &World) -> (Arc<Gated>, Gate) {
    let (started, starts) = tokio::sync::mpsc::unbounded_channel();
    let (permit, release) = mpsc::channel();
    let gated = Gated { inner: world.attester.clone(), started, release: Mutex::new(release) };
    (Arc::new(gated), (starts, permit))
}

#[tokio::test(start_paused = true)]
async fn a_platform_that_hangs_hits_the_deadline_and_is_not_the_peers_fault() {
    let world = world();
    let (platform, (mut starts, permit)) = gated(&world);
    let acceptor = open(Endpoint::attested(Part::Worker, queue(platform), world.static_config.clone()));
    let (near, far) = wire();
    let asking = tokio::spawn(async move { ask(near, &world).await.err() });
    let accepting = tokio::spawn(async move { acceptor.accept(far).await.err().unwrap() });
    starts.recv().await.unwrap();
    tokio::time::advance(Step::Quote.deadline() + Duration::from_secs(1)).await;
    let error = accepting.await.unwrap();
    let deadline =
        matches!(error, AcceptError::Answer(crate::AnswerError::Quote(crate::QuoteError::Deadline { .. })));
    assert!(deadline && !error.is_peer_fault(), "{error}");
    let error = asking.await.unwrap().unwrap();
    let told = matches!(
        error,
        ConnectError::Channel(ChannelError::Refused { reason: protocol::channel::Refuse::Platform, .. })
    );
    assert!(told && !error.is_peer_fault(), "{error}");
    drop(permit);
}

#[tokio::test]
async fn a_platform_that_refuses_is_not_the_peers_fault() {
    struct Refusing;
    impl Attester for Refusing {
        fn quote(&self, _: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
            Err(AttestError::Refused { step: "read outblob", reason: "Input/output error".into() })
        }

        fn event_log(&self) -> Result<EventLog, AttestError> {
            Err(AttestError::Timeout { millis: 1 })
        }

        fn runtime(&self) -> Result<Vec<u8>, AttestError> {
            Ok(vec![])
        }
    }
    let world = world();
    let acceptor = open(Endpoint::attested(Part::Worker, queue(Arc::new(Refusing)), vec![]));
    let (near, far) = wire();
    let (accepted, asked) = tokio::join!(acceptor.accept(far), ask(near, &world));
    let error = accepted.err().unwrap();
    assert!(!error.is_peer_fault() && error.to_string().contains("read outblob"), "{error}");
    let error = asked.err().unwrap();
    let told = matches!(
        error,
        ConnectError::Channel(ChannelError::Refused { reason: protocol::channel::Refuse::Platform, .. })
    );
    assert!(told, "{error}");
    // What went wrong in there is nobody else's business.
    assert!(!error.to_string().contains("outblob"));
}

#[tokio::test]
async fn a_peer_that_hangs_up_is_named_with_its_step() {
    let world = world();
    let (near, far) = wire();
    drop(near);
    let error = world.acceptor().accept(far).await.err().unwrap();
    let closed =
        matches!(error, AcceptError::Channel(ChannelError::Closed { step: Step::Handshake, received: 0 }));
    assert!(closed, "{error}");
    let error = accepting(world.acceptor(), async |_stream| ()).await;
    let closed =
        matches!(error, AcceptError::Channel(ChannelError::Closed { step: Step::Challenge, received: 0 }));
    assert!(closed, "{error}");
}
