//! Both ends attested: each believes the other, and each can be refused.

use super::*;
use crate::{Accepted, AnswerError, ChannelError};
use protocol::channel::Refuse;
use tokio::io::AsyncWriteExt;

const PROXY: &[u8] = b"schema = 1\nrole = \"proxy\"\nnetwork = \"local\"\n";

/// A proxy's and a worker's worlds; each verifies the other by the other's.
pub(super) fn worlds() -> (World, World) {
    (support::world_with(PROXY), world())
}

/// A responder of `part` that lets attested `from` in.
pub(super) fn host(mine: &World, part: Part, theirs: &World, from: Part) -> Acceptor {
    let session = end(mine, part).with_keys(keys(&[key("session", part as u8)]));
    let acceptor = Acceptor::new(Arc::new(session)).unwrap();
    acceptor.attested(Arc::new(theirs.verifier()), Wanted::part(from))
}

#[tokio::test]
async fn each_end_is_proved_to_the_other_whoever_dials() {
    let (proxy, worker) = worlds();
    let rows = [(&proxy, Part::Proxy, &worker, Part::Worker), (&worker, Part::Worker, &proxy, Part::Proxy)];
    for (mine, part, theirs, other) in rows {
        let (near, far) = wire();
        let acceptor = host(theirs, other, mine, part);
        let me = end(mine, part).with_keys(keys(&[key("session", part as u8)]));
        let verifier = theirs.verifier();
        let wanted = Wanted { identity: Some(key("session", other as u8)), ..Wanted::part(other) };
        let (accepted, connected) =
            tokio::join!(acceptor.accept(far), crate::connect(near, &me, &verifier, &wanted));
        let (accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
        assert_eq!(connected.peer().part(), other);
        assert!(connected.peer().keys().contains(&key("session", other as u8)));
        let Accepted::Attested(mut accepted) = accepted else { panic!("not attested") };
        assert_eq!(accepted.peer().part(), part);
        assert!(accepted.peer().keys().contains(&key("session", part as u8)));
        assert_eq!((accepted.link().part(), accepted.link().peer_part()), (other, part));

        // Whoever dialled, either may speak first.
        accepted.stream().write_all(b"served").await.unwrap();
        connected.stream().write_all(b"asked").await.unwrap();
        let mut got = [0; 6];
        connected.stream().read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"served");
        accepted.stream().read_exact(&mut got[..5]).await.unwrap();
        assert_eq!(&got[..5], b"asked");
    }
}

#[tokio::test]
async fn an_initiator_whose_evidence_is_refused_is_told_so() {
    let (proxy, worker) = worlds();
    // The worker believes proxies of another root.
    let acceptor = host(&worker, Part::Worker, &support::world_with(PROXY), Part::Proxy);
    let (near, far) = wire();
    let (me, verifier, wanted) = (end(&proxy, Part::Proxy), worker.verifier(), Wanted::part(Part::Worker));
    let (accepted, connected) =
        tokio::join!(acceptor.accept(far), crate::connect(near, &me, &verifier, &wanted));
    let error = accepted.err().unwrap();
    let AcceptError::Refused(refusal) = &error else { panic!("{error}") };
    assert!(refusal.verdict().unwrap().failed().next().is_some() && error.is_peer_fault(), "{refusal}");

    let (_, _, mut stream) = connected.unwrap().into_parts();
    let error = stream.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    let told: ChannelError = error.downcast().unwrap();
    let evidence = matches!(told, ChannelError::Refused { step: Step::Verdict, reason: Refuse::Evidence });
    assert!(evidence, "{told}");
}

#[tokio::test]
async fn an_initiator_sends_no_evidence_to_a_responder_that_it_refuses() {
    let (proxy, worker) = worlds();
    let acceptor = host(&worker, Part::Worker, &proxy, Part::Proxy);
    let (near, far) = wire();
    // Of another root.
    let (me, verifier, wanted) = (end(&proxy, Part::Proxy), world().verifier(), Wanted::part(Part::Worker));
    let accepting = acceptor.accept(far);
    let connecting = async { crate::connect(near, &me, &verifier, &wanted).await.map(drop) };
    let (accepted, connected) = tokio::join!(accepting, connecting);
    assert!(matches!(connected, Err(ConnectError::Refused(_))));
    let error = accepted.err().unwrap();
    let closed =
        matches!(error, AcceptError::Channel(ChannelError::Closed { step: Step::Evidence, received: 0 }));
    assert!(closed, "{error}");
}

#[tokio::test]
async fn parts_that_are_not_let_in_are_turned_away_before_a_quote() {
    let (proxy, worker) = worlds();
    // A worker for proxies alone turns a client away, and one for clients alone turns a proxy away.
    let for_proxies = Arc::new(host(&worker, Part::Worker, &proxy, Part::Proxy));
    let for_clients = open(end(&worker, Part::Worker));
    let (client, dialling) = (Endpoint::anonymous(), end(&proxy, Part::Proxy));
    for (acceptor, me, part) in [(for_proxies, client, Part::Client), (for_clients, dialling, Part::Proxy)] {
        let (near, far) = wire();
        let (verifier, wanted) = (worker.verifier(), Wanted::part(Part::Worker));
        let (accepted, connected) =
            tokio::join!(acceptor.accept(far), crate::connect(near, &me, &verifier, &wanted));
        let error = accepted.err().unwrap();
        assert!(matches!(error, AcceptError::Uninvited { part: p } if p == part), "{error}");
        let error = connected.err().unwrap();
        let told = matches!(error, ConnectError::Channel(ChannelError::Refused { reason: Refuse::Part, .. }));
        assert!(told, "{error}");
        assert_eq!(acceptor.endpoint().quotes().unwrap().stats().quotes, 0);
    }
}

#[tokio::test]
async fn a_challenge_for_another_part_is_not_answered() {
    // A responder that lures a proxy into answering as somebody else.
    let (proxy, worker) = worlds();
    let near = attacker(own_key(), async |mut stream| {
        read_challenge(&mut stream).await;
        let lure = Challenge::new([9; 32], Part::Worker, Part::Worker).to_bytes();
        frame::write(&mut stream, Step::Challenge, &lure).await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    });
    let me = end(&proxy, Part::Proxy);
    let error =
        crate::connect(near, &me, &worker.verifier(), &Wanted::part(Part::Worker)).await.err().unwrap();
    let unwilling =
        matches!(&error, ConnectError::Answer(AnswerError::Unwilling { reason: Refuse::Part, .. }));
    assert!(unwilling && error.is_peer_fault(), "{error}");
    assert_eq!(me.quotes().unwrap().stats().quotes, 0);
}

#[tokio::test]
async fn either_end_can_be_asked_again_on_the_living_connection() {
    let (proxy, worker) = worlds();
    let (near, far) = wire();
    let acceptor = host(&worker, Part::Worker, &proxy, Part::Proxy);
    let me = end(&proxy, Part::Proxy);
    let (of_worker, of_proxy) = (worker.verifier(), proxy.verifier());
    let wanted = Wanted::part(Part::Worker);
    let (accepted, connected) =
        tokio::join!(acceptor.accept(far), crate::connect(near, &me, &of_worker, &wanted));
    let (_, far, _) = accepted.unwrap().into_parts();
    let (_, near, _) = connected.unwrap().into_parts();

    let question = of_worker.ask(&near, &wanted).unwrap();
    let answer = acceptor.endpoint().answer(&far, &question.to_bytes()).await.unwrap();
    assert_eq!(of_worker.judge(question, &near, &answer).unwrap().part(), Part::Worker);
    // The same answer to another question is an old one.
    let question = of_worker.ask(&near, &wanted).unwrap();
    assert!(of_worker.judge(question, &near, &answer).is_err());

    let question = of_proxy.ask(&far, &Wanted::part(Part::Proxy)).unwrap();
    let answer = me.answer(&near, &question.to_bytes()).await.unwrap();
    assert_eq!(of_proxy.judge(question, &far, &answer).unwrap().part(), Part::Proxy);
}

/// The io of an initiator, with a note of each change from sending to receiving.
struct Tap {
    io: DuplexStream,
    sent_last: bool,
    /// How often something was received after something was sent.
    turns: Arc<std::sync::atomic::AtomicUsize>,
}

impl tokio::io::AsyncRead for Tap {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = std::pin::Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before && std::mem::take(&mut self.sent_last) {
            self.turns.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        polled
    }
}

impl tokio::io::AsyncWrite for Tap {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.sent_last = true;
        std::pin::Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn attestation_costs_one_round_trip_more_than_tls_one_way_and_mutual() {
    let (proxy, worker) = worlds();
    let one_way = open(end(&worker, Part::Worker));
    let mutual = Arc::new(host(&worker, Part::Worker, &proxy, Part::Proxy));
    let (client, dialling) = (Endpoint::anonymous(), end(&proxy, Part::Proxy));
    for (acceptor, me) in [(one_way, client), (mutual, dialling)] {
        let (io, far) = wire();
        let turns = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let tap = Tap { io, sent_last: false, turns: turns.clone() };
        let count = move || turns.load(std::sync::atomic::Ordering::SeqCst);
        let (verifier, wanted) = (worker.verifier(), Wanted::part(Part::Worker));
        let serving = tokio::spawn(async move {
            let (_, _, mut stream) = acceptor.accept(far).await.unwrap().into_parts();
            let mut ping = [0; 4];
            stream.read_exact(&mut ping).await.unwrap();
            stream.write_all(&ping).await.unwrap();
            stream.flush().await.unwrap();
            stream
        });
        let attested = crate::connect(tap, &me, &verifier, &wanted).await.unwrap();
        let (_, _, mut stream) = attested.into_parts();
        // One for TLS, one for attestation: the first request leaves now.
        assert_eq!(count(), 2, "{}", me.part());
        stream.write_all(b"ping").await.unwrap();
        stream.flush().await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
        assert_eq!(count(), 3, "{}: the request's own", me.part());
        drop(serving.await.unwrap());
    }
}

/// An initiator that is a proxy by its evidence, bound after `forge` has changed what is bound; what the responder says.
async fn forged(
    forge: impl FnOnce(Link, &mut Challenge) -> Link,
    tamper: impl FnOnce(&mut Shown),
) -> Result<(), AcceptError> {
    let (proxy, worker) = worlds();
    let acceptor = host(&worker, Part::Worker, &proxy, Part::Proxy);
    let (near, far) = wire();
    let initiator = async {
        let mut stream = bare_client(near, tls::client_config().unwrap()).await;
        let exporter = tls::exporter(stream.get_ref().1).unwrap();
        let key = tls::responder_key(stream.get_ref().1).unwrap();
        let own = Challenge::new([9; 32], Part::Proxy, Part::Worker).to_bytes();
        frame::write(&mut stream, Step::Challenge, &own).await.unwrap();
        let asked = frame::read(&mut stream, Step::Challenge, 512).await.unwrap();
        frame::read(&mut stream, Step::Evidence, 1 << 20).await.unwrap();
        let mut challenge = Challenge::from_bytes(&asked).unwrap();
        let link = Link::new(exporter, Direction::Initiator, Part::Proxy, Part::Worker, key);
        let link = forge(link, &mut challenge);
        let keys = ApplicationKeys::default();
        let leaf = link.report_data(Direction::Initiator, &challenge.digest(), &keys, None);
        let mut shown = quoted(proxy.attester.as_ref(), PROXY, &leaf);
        tamper(&mut shown);
        frame::write(&mut stream, Step::Evidence, &shown.to_bytes()).await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    };
    let accepting = async { acceptor.accept(far).await.map(drop) };
    tokio::join!(accepting, initiator).0
}

#[tokio::test]
async fn an_initiators_evidence_of_elsewhere_is_refused() {
    forged(|link, _| link, |_| {}).await.unwrap();

    let on = |exporter: [u8; 32], key: Arc<[u8]>| {
        move |_: Link, _: &mut Challenge| {
            Link::new(exporter, Direction::Initiator, Part::Proxy, Part::Worker, key)
        }
    };
    let other_key = || Arc::from(tls::Identity::generate().public_key);
    let refused = [
        // Another connection, to the very same responder,
        forged(|link, challenge| on([1; 32], link.responder_key().into())(link, challenge), |_| {}).await,
        // ... another responder's key on this one,
        forged(|link, challenge| on(*link.exporter(), other_key())(link, challenge), |_| {}).await,
        // ... no key, as evidence of the other direction would have it,
        forged(|link, challenge| on(*link.exporter(), Arc::from([]))(link, challenge), |_| {}).await,
        // ... an older challenge, ... and keys that were added.
        forged(
            |link, challenge| {
                challenge.nonce[0] ^= 1;
                link
            },
            |_| {},
        )
        .await,
        forged(|link, _| link, |shown| shown.keys = keys(&[key("session", 1)])).await,
    ];
    for result in refused {
        let error = result.unwrap_err();
        let refusal = error.refusal().unwrap_or_else(|| panic!("{error}"));
        assert_eq!(refusal.reasons(), ["report_data"]);
        assert!(error.is_peer_fault());
    }
}

#[tokio::test]
async fn an_initiators_evidence_relayed_under_the_responders_stolen_key_is_refused() {
    // The attacker faces the proxy with the worker's own TLS key and right evidence, asks it the very question that the worker
    // asks, and hands its answer on. The proxy shows no certificate: the exporter alone gives the relay away.
    let (proxy, worker) = worlds();
    let identity = tls::Identity::generate();
    let (stolen, key) = (tls::server_config(&identity).unwrap(), identity.public_key.clone());
    let right = Acceptor::new(Arc::new(end_with(&worker, Part::Worker, identity))).unwrap();
    let right = right.attested(Arc::new(proxy.verifier()), Wanted::part(Part::Proxy));
    let (attester, static_config) = (worker.attester.clone(), worker.static_config.clone());
    let (to_worker, far) = wire();
    let near = attacker(stolen, async move |mut to_proxy| {
        let mut to_worker = bare_client(to_worker, tls::client_config().unwrap()).await;
        let challenge = read_challenge(&mut to_proxy).await;
        frame::write(&mut to_worker, Step::Challenge, &challenge).await.unwrap();
        let asked = frame::read(&mut to_worker, Step::Challenge, 512).await.unwrap();
        frame::read(&mut to_worker, Step::Evidence, 1 << 20).await.unwrap();
        frame::write(&mut to_proxy, Step::Challenge, &asked).await.unwrap();
        let exporter = tls::exporter(to_proxy.get_ref().1).unwrap();
        let link = Link::new(exporter, Direction::Responder, Part::Worker, Part::Proxy, key.into());
        let digest = Challenge::from_bytes(&challenge).unwrap().digest();
        let leaf = link.report_data(Direction::Responder, &digest, &ApplicationKeys::default(), None);
        let shown = quoted(attester.as_ref(), &static_config, &leaf);
        frame::write(&mut to_proxy, Step::Evidence, &shown.to_bytes()).await.unwrap();
        let answer = frame::read(&mut to_proxy, Step::Evidence, 1 << 20).await.unwrap();
        frame::write(&mut to_worker, Step::Evidence, &answer).await.unwrap();
        let _ = to_worker.read(&mut [0; 1]).await;
    });
    let (me, verifier, wanted) = (end(&proxy, Part::Proxy), worker.verifier(), Wanted::part(Part::Worker));
    let (accepted, connected) =
        tokio::join!(right.accept(far), crate::connect(near, &me, &verifier, &wanted));
    // To the proxy all is well; what it says it is nobody else's.
    connected.unwrap();
    let error = accepted.err().unwrap();
    assert_eq!(error.refusal().unwrap_or_else(|| panic!("{error}")).reasons(), ["report_data"]);
}
