//! The certificate with evidence inside: readable by others, and worth nothing to us. Quotes of a SIMULATED platform.

mod support;

use evidence::CheckName;
use protocol::evidence::EventLog;
use protocol::{AttestError, Attester};
use ratls::weak::{self, WeakCertificate};
use ratls::{ChannelError, ConnectError, Refusal};
use support::{STATIC_CONFIG, acceptor, connect, world};
use tokio::io::duplex;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

/// The content of the extension, the public key, and the common name.
fn parts(der: &[u8]) -> (Vec<u8>, Vec<u8>, String) {
    let certificate = Certificate::from_der(der).unwrap();
    let tbs = certificate.tbs_certificate();
    let mut extensions = tbs.extensions().unwrap().iter();
    let extension = extensions.find(|e| e.extn_id.to_string() == "2.23.133.5.4.9").unwrap();
    assert!(!extension.critical, "a tool that knows nothing of it must not stumble over it");
    let public_key = tbs.subject_public_key_info().to_der().unwrap();
    (extension.extn_value.as_bytes().to_vec(), public_key, tbs.subject().to_string())
}

#[test]
fn a_certificate_holds_a_quote_over_its_own_key_and_says_that_it_is_weaker() {
    let world = world();
    let made = WeakCertificate::make(world.attester.as_ref()).unwrap();
    let (extension, public_key, subject) = parts(made.der());
    assert!(subject.contains("WEAKER"), "{subject}");
    // Tag 60000, array of two, byte string of a two-byte length.
    assert_eq!(extension[..5], [0xd9, 0xea, 0x60, 0x82, 0x59]);
    let len = usize::from(u16::from_be_bytes([extension[5], extension[6]]));
    let quote = evidence::Quote::parse(&extension[7..7 + len]).unwrap();
    assert_eq!(quote.td.report_data.0, weak::report_data(&public_key));
}

#[tokio::test]
async fn a_peer_that_shows_nothing_else_is_refused_for_that_reason() {
    let world = world();
    let made = WeakCertificate::make(world.attester.as_ref()).unwrap();
    let (near, far) = duplex(1 << 20);
    let serving = made.acceptor(&[]).unwrap();
    let verifier = world.verifier();
    let (refused, _served) = tokio::join!(connect(near, &verifier), serving.accept(far));
    let error = refused.err().unwrap();
    assert!(matches!(error, ConnectError::Channel(ChannelError::Weaker { .. })), "{error}");
    assert!(error.is_peer_fault() && error.to_string().contains("not who is at the other end"), "{error}");

    // One that has a protocol of its own never even gets to show it.
    let (near, far) = duplex(1 << 20);
    let serving = made.acceptor(&[b"h2", b"http/1.1"]).unwrap();
    let (refused, _served) = tokio::join!(connect(near, &verifier), serving.accept(far));
    assert!(matches!(refused.err().unwrap(), ConnectError::Channel(ChannelError::Tls(_))));
}

/// Answers every challenge with the quote of a certificate.
struct Reused(std::sync::Arc<support::Simulated>, Vec<u8>);

impl Attester for Reused {
    fn quote(&self, _: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        Ok(self.1.clone())
    }

    fn event_log(&self) -> Result<EventLog, AttestError> {
        self.0.event_log()
    }

    fn runtime(&self) -> Result<Vec<u8>, AttestError> {
        self.0.runtime()
    }
}

#[tokio::test]
async fn evidence_of_a_certificate_is_refused_in_a_channel_by_its_report_data_alone() {
    let world = world();
    let quote = world.attester.quote(&weak::report_data(b"any key")).unwrap();
    let reused = std::sync::Arc::new(Reused(world.attester.clone(), quote));
    let acceptor = acceptor(reused, STATIC_CONFIG);
    let (near, far) = duplex(1 << 20);
    let verifier = world.verifier();
    let (refused, _served) = tokio::join!(connect(near, &verifier), acceptor.accept(far));
    let Err(ConnectError::Refused(refusal)) = refused else { panic!("expected a refusal") };
    let Refusal::Evidence(refused) = *refusal else { panic!("expected a verdict, found: {refusal}") };
    let failed: Vec<_> = refused.verdict().failed().map(|check| check.name).collect();
    assert_eq!(failed, [CheckName::ReportData]);
}
