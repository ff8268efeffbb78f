//! TLS that is not as it should be: downgrades, resumption, keys that are not held, certificates out of place.

use super::*;
use crate::ChannelError;
use rustls::{HandshakeKind, NamedGroup, PeerIncompatible};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn the_negotiated_group_is_x25519mlkem768_at_both_ends() {
    let world = world();
    let (near, far) = wire();
    let acceptor = world.acceptor();
    let (accepted, asked) = tokio::join!(acceptor.accept(far), ask(near, &world));
    let (_, _, far) = accepted.unwrap().into_parts();
    let (_, _, near) = asked.unwrap().into_parts();
    assert_eq!(far.key_exchange(), Some(NamedGroup::X25519MLKEM768));
    assert_eq!(near.key_exchange(), Some(NamedGroup::X25519MLKEM768));
}

fn x25519() -> Arc<rustls::crypto::CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    Arc::new(provider)
}

#[tokio::test]
async fn a_downgrade_of_the_key_exchange_is_refused_by_the_responder() {
    // As an attacker in the path would have it: the same settings, the hybrid group taken out.
    let config = tls::client_config().unwrap();
    let mut downgraded = rustls::ClientConfig::builder_with_provider(x25519())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    downgraded.alpn_protocols = config.alpn_protocols;
    let (near, far) = wire();
    let acceptor = world().acceptor();
    let client = TlsConnector::from(Arc::new(downgraded));
    let (accepted, _) = tokio::join!(acceptor.accept(far), client.connect(tls::server_name(), near));
    let error = accepted.err().unwrap();
    let AcceptError::Channel(ChannelError::Tls(rustls::Error::PeerIncompatible(reason))) = &error else {
        panic!("{error}")
    };
    assert_eq!(*reason, PeerIncompatible::NoKxGroupsInCommon);
    assert!(error.is_peer_fault());
}

#[tokio::test]
async fn a_downgrade_of_the_key_exchange_is_refused_by_the_initiator() {
    let identity = tls::Identity::generate();
    let mut downgraded = ServerConfig::builder_with_provider(x25519())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], identity.private_key.clone_key())
        .unwrap();
    downgraded.alpn_protocols = vec![protocol::names::ALPN.to_vec()];
    let near = attacker(downgraded, async |_| ());
    let error = ask(near, &world()).await.err().unwrap();
    // The responder has no group in common, and says so by an alert.
    let alert = matches!(
        error,
        ConnectError::Channel(ChannelError::Tls(rustls::Error::AlertReceived(
            rustls::AlertDescription::HandshakeFailure
        )))
    );
    assert!(alert, "{error}");
}

#[tokio::test]
async fn wrong_alpn_is_refused() {
    let world = world();
    let older = b"chrysalis/1".to_vec();
    for offered in [vec![], vec![older], vec![b"h2".to_vec(), b"http/1.1".to_vec()]] {
        // ... by the responder,
        let mut config = tls::client_config().unwrap();
        config.alpn_protocols = offered.clone();
        let (near, far) = wire();
        let client = TlsConnector::from(Arc::new(config));
        let acceptor = world.acceptor();
        let (accepted, _) = tokio::join!(acceptor.accept(far), client.connect(tls::server_name(), near));
        let error = accepted.err().unwrap();
        let stated = match &error {
            AcceptError::Channel(ChannelError::Alpn { found }) => offered.is_empty() && found == "none",
            AcceptError::Channel(ChannelError::Tls(error)) => {
                *error == rustls::Error::NoApplicationProtocol && !offered.is_empty()
            }
            _ => false,
        };
        assert!(stated && error.is_peer_fault(), "{error}");

        // ... and by the initiator.
        let mut config = own_key();
        config.alpn_protocols = offered;
        let error = ask(attacker(config, async |_| ()), &world).await.err().unwrap();
        assert!(error.is_peer_fault() && error.to_string().contains("chrysalis/2"), "{error}");
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
async fn tls12_is_refused_by_the_responder() {
    let (mut near, far) = wire();
    near.write_all(&tls12_client_hello()).await.unwrap();
    let error = world().acceptor().accept(far).await.err().unwrap();
    let version =
        matches!(&error, AcceptError::Channel(ChannelError::Tls(rustls::Error::PeerIncompatible(_))));
    assert!(version && error.is_peer_fault(), "{error}");
}

#[tokio::test]
async fn tls12_is_refused_by_the_initiator() {
    let (near, mut far) = wire();
    let server = async {
        let mut hello = [0; 5];
        far.read_exact(&mut hello).await.unwrap();
        let body = [&[3, 3][..], &[0x5a; 32], &[0, 0xc0, 0x2b, 0]].concat();
        far.write_all(&record(2, &body)).await.unwrap();
    };
    let world = world();
    let (asked, ()) = tokio::join!(ask(near, &world), server);
    let error = asked.err().unwrap();
    let version =
        matches!(error, ConnectError::Channel(ChannelError::Tls(rustls::Error::PeerIncompatible(_))));
    assert!(version, "{error}");
}

#[tokio::test]
async fn a_session_is_never_resumed() {
    let acceptor = Arc::new(world().acceptor());
    let mut config = tls::client_config().unwrap();
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let connector = TlsConnector::from(Arc::new(config));
    for _ in 0..2 {
        let mut stream = connector.connect(tls::server_name(), honest(&acceptor)).await.unwrap();
        let challenge = Challenge::new([1; 32], Part::Client, Part::Worker).to_bytes();
        frame::write(&mut stream, Step::Challenge, &challenge).await.unwrap();
        // Reading the evidence gives a ticket every chance to arrive.
        frame::read(&mut stream, Step::Evidence, 1 << 20).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);
    }
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
    let world = world();
    let (shown, held) = (tls::Identity::generate(), tls::Identity::generate());
    let signer = tls::provider().key_provider.load_private_key(held.private_key).unwrap();
    let certified = Arc::new(rustls::sign::CertifiedKey::new(vec![shown.certificate], signer));
    let bad = rustls::Error::InvalidCertificate(rustls::CertificateError::BadSignature);

    let mut config = own_key();
    config.cert_resolver = Arc::new(Mismatched(certified));
    let error = ask(attacker(config, async |_| ()), &world).await.err().unwrap();
    assert!(matches!(&error, ConnectError::Channel(ChannelError::Tls(found)) if *found == bad), "{error}");
}

#[tokio::test]
async fn the_responder_asks_for_no_certificate() {
    #[derive(Debug)]
    struct Asked(Arc<std::sync::atomic::AtomicBool>);
    impl rustls::client::ResolvesClientCert for Asked {
        fn resolve(
            &self,
            _: &[&[u8]],
            _: &[rustls::SignatureScheme],
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            self.0.store(true, std::sync::atomic::Ordering::SeqCst);
            None
        }

        fn has_certs(&self) -> bool {
            true
        }
    }
    let asked = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut config = tls::client_config().unwrap();
    config.client_auth_cert_resolver = Arc::new(Asked(asked.clone()));
    let mut stream = bare_client(honest(&Arc::new(world().acceptor())), config).await;
    let challenge = Challenge::new([1; 32], Part::Client, Part::Worker).to_bytes();
    frame::write(&mut stream, Step::Challenge, &challenge).await.unwrap();
    frame::read(&mut stream, Step::Evidence, 1 << 20).await.unwrap();
    assert!(!asked.load(std::sync::atomic::Ordering::SeqCst));
}

#[tokio::test]
async fn an_initiator_that_says_it_is_a_part_has_to_prove_it() {
    // No certificate parts clients from the others: whoever says that it is a proxy is asked for a proxy's evidence.
    let (proxy, worker) = mutual::worlds();
    let acceptor = mutual::host(&worker, Part::Worker, &proxy, Part::Proxy);
    let (near, far) = wire();
    let initiator = async {
        let mut stream = bare_client(near, tls::client_config().unwrap()).await;
        let challenge = Challenge::new([1; 32], Part::Proxy, Part::Worker).to_bytes();
        frame::write(&mut stream, Step::Challenge, &challenge).await.unwrap();
        let asked = frame::read(&mut stream, Step::Challenge, 512).await.unwrap();
        let asked = Challenge::from_bytes(&asked).unwrap();
        assert_eq!((asked.from, asked.wants), (Part::Worker, Part::Proxy));
        frame::read(&mut stream, Step::Evidence, 1 << 20).await.unwrap();
        // The word of a client instead.
        stream.write_all(b"\0\0\0\x04GET ").await.unwrap();
        stream.flush().await.unwrap();
        frame::read(&mut stream, Step::Verdict, 64).await.unwrap()
    };
    let (accepted, told) = tokio::join!(acceptor.accept(far), initiator);
    let error = accepted.err().unwrap();
    let malformed =
        matches!(error, AcceptError::Channel(ChannelError::Malformed { step: Step::Evidence, .. }));
    assert!(malformed && error.is_peer_fault(), "{error}");
    assert_eq!(Control::from_bytes(&told).unwrap(), Control::Refuse(protocol::channel::Refuse::Protocol));
}
