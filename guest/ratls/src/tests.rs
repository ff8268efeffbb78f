//! The exchange under attack. The attester here echoes the report data as its quote, so "the quote fits" is one
//! comparison; the same attacks against real appraisal are in `tests/appraised.rs`.

use crate::client::{Claim, challenge};
use crate::error::{AcceptError, ChannelError, Step};
use crate::server::Acceptor;
use crate::{frame, tls};
use protocol::channel::{Binding, Challenge};
use protocol::evidence::{EventLog, Evidence, LogFormat};
use protocol::{AttestError, Attester};
use rustls::{HandshakeKind, NamedGroup, ServerConfig};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// A platform whose quote is the report data itself.
struct Echo;

impl Attester for Echo {
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        Ok(report_data.to_vec())
    }

    fn event_log(&self) -> Result<EventLog, AttestError> {
        Ok(EventLog { format: LogFormat::Ccel, bytes: vec![7; 100] })
    }

    fn runtime(&self) -> Result<Vec<u8>, AttestError> {
        Ok(vec![8; 100])
    }
}

fn wire() -> (DuplexStream, DuplexStream) {
    duplex(1 << 20)
}

fn acceptor() -> Arc<Acceptor> {
    Arc::new(Acceptor::new(Arc::new(Echo), b"schema = 1".to_vec()))
}

/// What appraisal would say about freshness and key.
fn fits(claim: &Claim<DuplexStream>) -> bool {
    claim.evidence.quote == claim.report_data
}

/// An honest attester at the far end of the returned stream.
fn honest(acceptor: &Arc<Acceptor>) -> DuplexStream {
    let (near, far) = wire();
    let acceptor = acceptor.clone();
    tokio::spawn(async move {
        let mut stream = acceptor.accept(far).await.unwrap();
        let mut byte = [0; 1];
        let _ = stream.read(&mut byte).await;
    });
    near
}

/// The client side of a bare TLS connection without the exchange.
async fn bare_client(io: DuplexStream, config: rustls::ClientConfig) -> client::TlsStream<DuplexStream> {
    TlsConnector::from(Arc::new(config)).connect(tls::server_name(), io).await.unwrap()
}

/// An attacker who terminates the verifier's TLS with `config` and then does what `play` does.
fn attacker<F>(
    config: ServerConfig,
    play: impl FnOnce(server::TlsStream<DuplexStream>) -> F + Send + 'static,
) -> DuplexStream
where
    F: Future<Output = ()> + Send,
{
    let (near, far) = wire();
    tokio::spawn(async move {
        if let Ok(stream) = TlsAcceptor::from(Arc::new(config)).accept(far).await {
            play(stream).await;
        }
    });
    near
}

fn own_key() -> ServerConfig {
    tls::server_config(&tls::Identity::generate()).unwrap()
}

async fn read_challenge(stream: &mut server::TlsStream<DuplexStream>) -> Challenge {
    Challenge::from_bytes(&frame::read(stream, Step::Challenge, 64).await.unwrap()).unwrap()
}

#[tokio::test]
async fn an_honest_attester_binds_this_connection() {
    let (near, far) = wire();
    let acceptor = acceptor();
    let (accepted, claimed) = tokio::join!(acceptor.accept(far), challenge(near));
    let (mut server, mut claim) = (accepted.unwrap(), claimed.unwrap());
    assert!(fits(&claim));
    assert_eq!(claim.evidence.static_config, b"schema = 1");
    assert_eq!(claim.evidence.event_log.bytes.len(), 100);

    claim.stream.write_all(b"ping").await.unwrap();
    let mut got = [0; 4];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"ping");
}

#[test]
fn the_binding_has_the_published_test_vector() {
    // docs/reference/channel.md; computed there by another implementation.
    let hex = |text: &str| -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().map(|c| (c as char).to_digit(16).unwrap() as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    };
    let exporter = std::array::from_fn(|i| i as u8);
    let nonce = std::array::from_fn(|i| 32 + i as u8);
    let public_key = hex(concat!(
        "3059301306072a8648ce3d020106082a8648ce3d03010703420004",
        "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
        "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
    ));
    let binding = Binding { exporter: &exporter, nonce: &nonce, public_key: &public_key };
    let expected = hex(concat!(
        "385efbcabf157a9b4209a63082d2d470b15ddb351b183c56b830e7e6121c5abe",
        "814ef74933cc744c49df5f605b9f106e4e3dcd42e8b3b74c495e373c879b7f00",
    ));
    assert_eq!(binding.report_data().to_vec(), expected);
}

#[tokio::test]
async fn the_negotiated_group_is_x25519mlkem768() {
    let (near, far) = wire();
    let acceptor = acceptor();
    let (accepted, claimed) = tokio::join!(acceptor.accept(far), challenge(near));
    assert_eq!(accepted.unwrap().key_exchange(), Some(NamedGroup::X25519MLKEM768));
    let stream = crate::AttestedClientStream(claimed.unwrap().stream);
    assert_eq!(stream.key_exchange(), Some(NamedGroup::X25519MLKEM768));
}

#[tokio::test]
async fn evidence_replayed_on_another_connection_is_refused() {
    let first = challenge(honest(&acceptor())).await.unwrap();
    assert!(fits(&first));

    let stolen = first.evidence.to_bytes();
    let near = attacker(own_key(), async move |mut stream| {
        read_challenge(&mut stream).await;
        frame::write(&mut stream, Step::Evidence, &stolen).await.unwrap();
    });
    let second = challenge(near).await.unwrap();
    assert_eq!(second.evidence, first.evidence);
    assert!(!fits(&second));
}

#[tokio::test]
async fn the_same_attester_binds_each_connection_anew() {
    let acceptor = acceptor();
    let first = challenge(honest(&acceptor)).await.unwrap();
    let second = challenge(honest(&acceptor)).await.unwrap();
    assert!(fits(&first) && fits(&second));
    assert_ne!(first.report_data, second.report_data);
}

/// A man in the middle who terminates the verifier's TLS with `config` and passes challenge and evidence through.
fn relay(config: ServerConfig, attester: DuplexStream) -> DuplexStream {
    attacker(config, async move |mut to_victim| {
        let mut to_attester = bare_client(attester, tls::client_config().unwrap()).await;
        let nonce = frame::read(&mut to_victim, Step::Challenge, 64).await.unwrap();
        frame::write(&mut to_attester, Step::Challenge, &nonce).await.unwrap();
        let evidence = frame::read(&mut to_attester, Step::Evidence, 1 << 20).await.unwrap();
        frame::write(&mut to_victim, Step::Evidence, &evidence).await.unwrap();
    })
}

#[tokio::test]
async fn evidence_relayed_through_a_man_in_the_middle_is_refused() {
    let claim = challenge(relay(own_key(), honest(&acceptor()))).await.unwrap();
    assert!(!fits(&claim));
}

#[tokio::test]
async fn evidence_relayed_under_the_attesters_stolen_key_is_refused() {
    // Key and nonce agree here; only the exporter gives the relay away.
    let identity = tls::Identity::generate();
    let stolen = tls::server_config(&identity).unwrap();
    let acceptor = Arc::new(Acceptor::with_identity(Arc::new(Echo), vec![], identity));
    let claim = challenge(relay(stolen, honest(&acceptor))).await.unwrap();
    assert!(!fits(&claim));
}

#[tokio::test]
async fn quote_over_another_key_is_refused() {
    let other = tls::Identity::generate().public_key;
    let near = attacker(own_key(), async move |mut stream| {
        let nonce = read_challenge(&mut stream).await.nonce;
        let state = stream.get_ref().1;
        let exporter = tls::exporter(|o, l, c| state.export_keying_material(o, l, c)).unwrap();
        let binding = Binding { exporter: &exporter, nonce: &nonce, public_key: &other };
        send_quote(&mut stream, binding.report_data()).await;
    });
    assert!(!fits(&challenge(near).await.unwrap()));
}

#[tokio::test]
async fn quote_over_another_nonce_is_refused() {
    let identity = tls::Identity::generate();
    let public_key = identity.public_key.clone();
    let near = attacker(tls::server_config(&identity).unwrap(), async move |mut stream| {
        let mut nonce = read_challenge(&mut stream).await.nonce;
        nonce[31] ^= 1;
        let state = stream.get_ref().1;
        let exporter = tls::exporter(|o, l, c| state.export_keying_material(o, l, c)).unwrap();
        let binding = Binding { exporter: &exporter, nonce: &nonce, public_key: &public_key };
        send_quote(&mut stream, binding.report_data()).await;
    });
    assert!(!fits(&challenge(near).await.unwrap()));
}

async fn send_quote(stream: &mut server::TlsStream<DuplexStream>, quote: [u8; 64]) {
    let event_log = EventLog { format: LogFormat::Ccel, bytes: vec![] };
    let evidence = Evidence { quote: quote.to_vec(), event_log, static_config: vec![], runtime: vec![] };
    frame::write(stream, Step::Evidence, &evidence.to_bytes()).await.unwrap();
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused() {
    #[derive(Debug)]
    struct Mismatched(Arc<rustls::sign::CertifiedKey>);
    impl rustls::server::ResolvesServerCert for Mismatched {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(self.0.clone())
        }
    }
    let (shown, held) = (tls::Identity::generate(), tls::Identity::generate());
    let key = tls::provider().key_provider.load_private_key(held.private_key).unwrap();
    let mut config = own_key();
    config.cert_resolver =
        Arc::new(Mismatched(Arc::new(rustls::sign::CertifiedKey::new(vec![shown.certificate], key))));
    let error = challenge(attacker(config, async |_| ())).await.err().unwrap();
    let bad_signature = matches!(
        error,
        ChannelError::Tls(rustls::Error::InvalidCertificate(rustls::CertificateError::BadSignature))
    );
    assert!(bad_signature, "{error}");
}

#[tokio::test]
async fn wrong_alpn_is_refused() {
    for offered in [vec![], vec![b"h2".to_vec(), b"http/1.1".to_vec()]] {
        // ... by the attester,
        let mut config = tls::client_config().unwrap();
        config.alpn_protocols = offered.clone();
        let (near, far) = wire();
        let client = TlsConnector::from(Arc::new(config));
        let acceptor = acceptor();
        let (accepted, _) = tokio::join!(acceptor.accept(far), client.connect(tls::server_name(), near));
        let error = accepted.err().unwrap();
        assert!(error.is_peer_fault() && error.to_string().contains("chrysalis/1"), "{error}");

        // ... and by the verifier.
        let mut config = own_key();
        config.alpn_protocols = offered;
        let error = challenge(attacker(config, async |_| ())).await.err().unwrap();
        assert!(error.is_peer_fault() && error.to_string().contains("chrysalis/1"), "{error}");
    }
}

/// A TLS 1.2 ClientHello (RFC 5246 section 7.4.1.2): no supported_versions, ECDHE-ECDSA with AES-128-GCM.
fn tls12_client_hello() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([0x5a; 32]); // random
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]); // no session, one suite, null compression
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 29, // supported_groups: x25519
        0, 13, 0, 4, 0, 2, 4, 3, // signature_algorithms: ecdsa_secp256r1_sha256
    ];
    hello.extend((extensions.len() as u16).to_be_bytes());
    hello.extend(extensions);
    record(1, &hello)
}

fn record(message: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![22, 3, 3];
    out.extend((body.len() as u16 + 4).to_be_bytes());
    out.extend([message, 0]);
    out.extend((body.len() as u16).to_be_bytes());
    out.extend(body);
    out
}

#[tokio::test]
async fn tls12_is_refused_by_the_attester() {
    let (mut near, far) = wire();
    near.write_all(&tls12_client_hello()).await.unwrap();
    let error = acceptor().accept(far).await.err().unwrap();
    let version =
        matches!(&error, AcceptError::Channel(ChannelError::Tls(rustls::Error::PeerIncompatible(_))));
    assert!(version && error.is_peer_fault(), "{error}");
}

#[tokio::test]
async fn tls12_is_refused_by_the_verifier() {
    let (near, mut far) = wire();
    let server = async {
        let mut hello = [0; 5];
        far.read_exact(&mut hello).await.unwrap();
        let body = [&[3, 3][..], &[0x5a; 32], &[0, 0xc0, 0x2b, 0]].concat();
        far.write_all(&record(2, &body)).await.unwrap();
    };
    let (claimed, ()) = tokio::join!(challenge(near), server);
    let error = claimed.err().unwrap();
    assert!(matches!(error, ChannelError::Tls(rustls::Error::PeerIncompatible(_))), "{error}");
}

#[tokio::test]
async fn a_session_is_never_resumed() {
    let acceptor = acceptor();
    let mut config = tls::client_config().unwrap();
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let connector = TlsConnector::from(Arc::new(config));
    for _ in 0..2 {
        let mut stream = connector.connect(tls::server_name(), honest(&acceptor)).await.unwrap();
        frame::write(&mut stream, Step::Challenge, &Challenge { nonce: [1; 32] }.to_bytes()).await.unwrap();
        // Reading the evidence gives a ticket every chance to arrive.
        frame::read(&mut stream, Step::Evidence, 1 << 20).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn oversized_frames_are_refused() {
    let (near, far) = wire();
    let acceptor = acceptor();
    let verifier = async {
        let mut stream = bare_client(near, tls::client_config().unwrap()).await;
        stream.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        stream
    };
    let (accepted, _stream) = tokio::join!(acceptor.accept(far), verifier);
    let error = accepted.err().unwrap();
    let oversized = matches!(
        error,
        AcceptError::Channel(ChannelError::Oversized {
            step: Step::Challenge,
            claimed: 0xffff_ffff,
            max: 64
        })
    );
    assert!(oversized, "{error}");

    let near = attacker(own_key(), async move |mut stream| {
        read_challenge(&mut stream).await;
        stream.write_all(&(1_048_577_u32).to_be_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    });
    let error = challenge(near).await.err().unwrap();
    let oversized = matches!(error, ChannelError::Oversized { step: Step::Evidence, claimed: 1_048_577, .. });
    assert!(oversized, "{error}");
}

#[tokio::test]
async fn a_challenge_of_another_version_is_refused() {
    let (near, far) = wire();
    let acceptor = acceptor();
    let verifier = async {
        let mut stream = bare_client(near, tls::client_config().unwrap()).await;
        let mut other = Challenge { nonce: [1; 32] }.to_bytes();
        other[7] = b'2';
        frame::write(&mut stream, Step::Challenge, &other).await.unwrap();
        stream
    };
    let (accepted, _stream) = tokio::join!(acceptor.accept(far), verifier);
    let error = accepted.err().unwrap();
    let malformed =
        matches!(error, AcceptError::Channel(ChannelError::Malformed { step: Step::Challenge, .. }));
    assert!(malformed && error.is_peer_fault(), "{error}");
}

#[tokio::test]
async fn evidence_cut_short_is_refused() {
    let full = challenge(honest(&acceptor())).await.unwrap().evidence.to_bytes();
    // The frame ends early, with and without telling the truth about its length.
    for keep in [0, 1, full.len() / 2, full.len() - 1] {
        for honest_length in [false, true] {
            let claimed = if honest_length { keep } else { full.len() };
            let wire = [&(claimed as u32).to_be_bytes(), &full[..keep]].concat();
            let near = attacker(own_key(), async move |mut stream| {
                read_challenge(&mut stream).await;
                stream.write_all(&wire).await.unwrap();
                stream.shutdown().await.unwrap();
            });
            let error = challenge(near).await.err().unwrap();
            let stated = match honest_length {
                true => matches!(error, ChannelError::Malformed { step: Step::Evidence, .. }),
                false => matches!(error, ChannelError::Closed { step: Step::Evidence, .. }),
            };
            assert!(stated && error.is_peer_fault(), "{keep} of {}: {error}", full.len());
        }
    }
}

#[tokio::test]
async fn a_peer_that_hangs_up_is_named_with_its_step() {
    let (near, far) = wire();
    drop(near);
    let error = acceptor().accept(far).await.err().unwrap();
    assert!(
        matches!(error, AcceptError::Channel(ChannelError::Closed { step: Step::Handshake, .. })),
        "{error}"
    );

    let (near, far) = wire();
    let acceptor = acceptor();
    let verifier = async { drop(bare_client(near, tls::client_config().unwrap()).await) };
    let (accepted, ()) = tokio::join!(acceptor.accept(far), verifier);
    let error = accepted.err().unwrap();
    assert!(
        matches!(error, AcceptError::Channel(ChannelError::Closed { step: Step::Challenge, .. })),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_hits_the_deadline_of_each_step() {
    // A verifier that never speaks.
    let (near, far) = wire();
    let error = acceptor().accept(far).await.err().unwrap();
    let deadline = matches!(error, AcceptError::Channel(ChannelError::Deadline { step: Step::Handshake }));
    assert!(deadline && error.is_peer_fault(), "{error}");
    drop(near);

    // One that never challenges.
    let (near, far) = wire();
    let acceptor = acceptor();
    let verifier = bare_client(near, tls::client_config().unwrap());
    let (accepted, _stream) = tokio::join!(acceptor.accept(far), verifier);
    let error = accepted.err().unwrap();
    assert!(
        matches!(error, AcceptError::Channel(ChannelError::Deadline { step: Step::Challenge })),
        "{error}"
    );

    // An attester that never speaks,
    let (near, _far) = wire();
    let error = challenge(near).await.err().unwrap();
    assert!(matches!(error, ChannelError::Deadline { step: Step::Handshake }), "{error}");

    // ... and one that never proves itself.
    let near = attacker(own_key(), async |mut stream| {
        read_challenge(&mut stream).await;
        std::future::pending::<()>().await;
    });
    let error = challenge(near).await.err().unwrap();
    assert!(matches!(error, ChannelError::Deadline { step: Step::Evidence }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_trickling_peer_hits_the_deadline_of_the_whole_step() {
    let (near, far) = wire();
    let acceptor = acceptor();
    let verifier = tokio::spawn(async move {
        let mut stream = bare_client(near, tls::client_config().unwrap()).await;
        for byte in [&[0, 0, 0, 40][..], &Challenge { nonce: [1; 32] }.to_bytes()].concat() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if stream.write_all(&[byte]).await.is_err() || stream.flush().await.is_err() {
                break;
            }
        }
    });
    let error = acceptor.accept(far).await.err().unwrap();
    assert!(
        matches!(error, AcceptError::Channel(ChannelError::Deadline { step: Step::Challenge })),
        "{error}"
    );
    verifier.await.unwrap();
}

/// A platform that reports each call and then waits for permission to answer.
struct Gated {
    started: tokio::sync::mpsc::UnboundedSender<()>,
    release: Mutex<mpsc::Receiver<()>>,
}

impl Gated {
    fn acceptor() -> (Arc<Acceptor>, tokio::sync::mpsc::UnboundedReceiver<()>, mpsc::Sender<()>) {
        let (started, starts) = tokio::sync::mpsc::unbounded_channel();
        let (permit, release) = mpsc::channel();
        let gated = Gated { started, release: Mutex::new(release) };
        (Arc::new(Acceptor::new(Arc::new(gated), vec![])), starts, permit)
    }
}

impl Attester for Gated {
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        let _ = self.started.send(());
        let _ = self.release.lock().unwrap().recv();
        Ok(report_data.to_vec())
    }

    fn event_log(&self) -> Result<EventLog, AttestError> {
        Echo.event_log()
    }

    fn runtime(&self) -> Result<Vec<u8>, AttestError> {
        Echo.runtime()
    }
}

#[tokio::test(start_paused = true)]
async fn a_platform_that_hangs_hits_the_deadline_and_is_not_the_peers_fault() {
    let (acceptor, mut starts, permit) = Gated::acceptor();
    let (near, far) = wire();
    let verifier = tokio::spawn(async move { challenge(near).await.err() });
    let attester = tokio::spawn(async move { acceptor.accept(far).await.err().unwrap() });
    starts.recv().await.unwrap();
    tokio::time::advance(Step::Quote.deadline() + Duration::from_secs(1)).await;
    let error = attester.await.unwrap();
    let deadline = matches!(error, AcceptError::Channel(ChannelError::Deadline { step: Step::Quote }));
    assert!(deadline && !error.is_peer_fault(), "{error}");
    let error = verifier.await.unwrap().unwrap();
    assert!(matches!(error, ChannelError::Closed { step: Step::Evidence, received: 0 }), "{error}");
    drop(permit);
}

#[tokio::test]
async fn a_flood_of_connections_is_turned_away_before_it_costs_quotes() {
    let (acceptor, mut starts, permit) = Gated::acceptor();
    let mut waiting = Vec::new();
    for _ in 0..64 {
        let (near, far) = wire();
        let acceptor = acceptor.clone();
        waiting.push(tokio::spawn(async move { challenge(near).await }));
        tokio::spawn(async move { acceptor.accept(far).await });
    }
    while acceptor.queued() < 64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (near, far) = wire();
    let (accepted, claimed) = tokio::join!(acceptor.accept(far), challenge(near));
    let error = accepted.err().unwrap();
    assert!(matches!(error, AcceptError::Busy { waiting: 64 }) && !error.is_peer_fault(), "{error}");
    assert!(matches!(claimed.err().unwrap(), ChannelError::Closed { .. }));

    // Those in the queue are served, two at a time.
    starts.recv().await.unwrap();
    starts.recv().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(starts.try_recv().is_err(), "a third quote was begun while none was finished");
    drop(permit);
    for claim in waiting {
        assert!(fits(&claim.await.unwrap().unwrap()));
    }
}

#[tokio::test]
async fn a_platform_that_refuses_is_not_the_peers_fault() {
    struct Refusing(AtomicUsize);
    impl Attester for Refusing {
        fn quote(&self, _: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Err(AttestError::Refused { step: "read outblob", reason: "Input/output error".into() })
        }

        fn event_log(&self) -> Result<EventLog, AttestError> {
            Echo.event_log()
        }

        fn runtime(&self) -> Result<Vec<u8>, AttestError> {
            Echo.runtime()
        }
    }
    let platform = Arc::new(Refusing(AtomicUsize::new(0)));
    let acceptor = Acceptor::new(platform.clone(), vec![]);
    let (near, far) = wire();
    let (accepted, claimed) = tokio::join!(acceptor.accept(far), challenge(near));
    let error = accepted.err().unwrap();
    assert!(matches!(error, AcceptError::Platform(AttestError::Refused { .. })) && !error.is_peer_fault());
    assert!(error.to_string().contains("read outblob"), "{error}");
    assert!(matches!(claimed.err().unwrap(), ChannelError::Closed { step: Step::Evidence, .. }));
    assert_eq!(platform.0.load(Ordering::SeqCst), 1);
}
