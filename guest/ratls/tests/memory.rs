//! What a connection holds before it is attested: bounded, whatever its peer claims.
//!
//! One test in a program of its own, because the allocator counts for the whole process.

mod support;

use peak_alloc::PeakAlloc;
use std::sync::Arc;
use support::world;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Connections held at once.
const CONNECTIONS: usize = 64;
/// Most bytes that both ends of one hold together, tasks and the wire between them included. rustls' handshake of each end,
/// with its ML-KEM keys and certificate, is the largest part.
const BOUND: usize = 64 * 1024;

/// The settings of an initiator of this crate, made again from outside: who floods does not use our library.
fn hostile() -> Arc<tokio_rustls::rustls::ClientConfig> {
    use tokio_rustls::rustls::client::danger::{
        HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
    };
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    struct Anybody;
    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }
    let mut config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol::names::ALPN.to_vec()];
    Arc::new(config)
}

/// A peer that finishes TLS, writes these bytes and falls silent.
async fn hold(io: DuplexStream, bytes: &[u8]) -> impl Sized {
    let connector = tokio_rustls::TlsConnector::from(hostile());
    let name = tokio_rustls::rustls::pki_types::ServerName::try_from("chrysalis.invalid").unwrap();
    let mut stream = connector.connect(name, io).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

#[test]
fn a_connection_that_is_not_attested_holds_little_whatever_it_claims() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    // Nothing, the length of the longest challenge with all but its last byte, and a length beyond it.
    let longest = [&512_u32.to_be_bytes(), [7; 511].as_slice()].concat();
    for bytes in [vec![], longest, u32::MAX.to_be_bytes().to_vec()] {
        runtime.block_on(local.run_until(async {
            let acceptor = Arc::new(world().acceptor());
            // What is made once for all.
            let (near, far) = duplex(8 * 1024);
            let first = acceptor.clone();
            let task = tokio::task::spawn_local(async move { first.accept(far).await.map(drop) });
            drop(hold(near, &bytes).await);
            let _ = task.await;

            let before = MEMORY.current_usage();
            let mut held = Vec::new();
            for _ in 0..CONNECTIONS {
                let (near, far) = duplex(8 * 1024);
                let acceptor = acceptor.clone();
                tokio::task::spawn_local(async move { acceptor.accept(far).await.map(drop) });
                held.push(hold(near, &bytes).await);
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            let each = MEMORY.current_usage().saturating_sub(before) / CONNECTIONS;
            println!("{} bytes written: {each} bytes a connection, both ends", bytes.len());
            assert!(each < BOUND, "{each} bytes");
        }));
    }
}
