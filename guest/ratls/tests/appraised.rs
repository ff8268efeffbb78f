//! The whole way over TCP, with quotes of a simulated platform and the appraisal that real ones get.

mod support;

use evidence::CheckName;
use protocol::channel::Part;
use protocol::evidence::EventLog;
use protocol::{AttestError, Attester};
use ratls::{Attested, Claim, ConnectError, Endpoint, Verifier, Wanted, connect_showing};
use std::sync::{Arc, Mutex};
use support::{AT, STATIC_CONFIG, World, acceptor, connect, world};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Serves one connection on loopback: attests, then echoes four bytes.
async fn serve(attester: Arc<dyn Attester>, static_config: &[u8]) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = acceptor(attester, static_config);
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let (_, _, mut stream) = acceptor.accept(tcp).await.unwrap().into_parts();
        let mut bytes = [0; 4];
        if stream.read_exact(&mut bytes).await.is_ok() {
            stream.write_all(&bytes).await.unwrap();
            stream.flush().await.unwrap();
        }
    });
    TcpStream::connect(address).await.unwrap()
}

async fn verify(tcp: TcpStream, world: &World, at: u64) -> Result<Attested, ConnectError> {
    connect(tcp, &Verifier::fixed(world.trust(), at)).await
}

/// The names of the checks that failed.
fn failed(result: Result<Attested, ConnectError>) -> Vec<CheckName> {
    match result {
        Err(ConnectError::Refused(refusal)) => {
            refusal.verdict().unwrap().failed().map(|check| check.name).collect()
        }
        Err(other) => panic!("expected refused evidence, found: {other}"),
        Ok(_) => panic!("expected refused evidence, found an attested connection"),
    }
}

#[tokio::test]
async fn a_right_guest_is_attested_and_talked_to() {
    let world = world();
    let tcp = serve(world.attester.clone(), STATIC_CONFIG).await;
    let mut attested = verify(tcp, &world, AT).await.unwrap();
    assert!(attested.peer().appraised().verdict().accepted);
    assert_eq!(attested.peer().appraised().verdict().release.as_deref(), Some("simulated release"));

    attested.stream().write_all(b"ping").await.unwrap();
    let mut bytes = [0; 4];
    attested.stream().read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ping");
}

#[tokio::test]
async fn a_guest_under_a_foreign_root_is_refused() {
    let (ours, theirs) = (world(), world());
    let tcp = serve(theirs.attester.clone(), STATIC_CONFIG).await;
    let failed = failed(verify(tcp, &ours, AT).await);
    assert!(failed.contains(&CheckName::PckChain) || failed.contains(&CheckName::TrustRoot), "{failed:?}");
}

#[tokio::test]
async fn a_guest_of_another_release_is_refused() {
    let mut world = world();
    world.reference.releases[0].rtmr2 = world.reference.releases[0].rtmr1;
    let tcp = serve(world.attester.clone(), STATIC_CONFIG).await;
    assert_eq!(failed(verify(tcp, &world, AT).await), [CheckName::Registers]);
}

#[tokio::test]
async fn a_configuration_other_than_the_measured_one_is_refused() {
    let world = world();
    let tcp = serve(world.attester.clone(), b"schema = 1\nrole = \"proxy\"\nnetwork = \"local\"\n").await;
    assert_eq!(failed(verify(tcp, &world, AT).await), [CheckName::Mrconfigid]);
}

#[tokio::test]
async fn evidence_after_its_collateral_expired_is_refused() {
    let world = world();
    let tcp = serve(world.attester.clone(), STATIC_CONFIG).await;
    let failed = failed(verify(tcp, &world, AT + 400 * 24 * 60 * 60).await);
    assert!(failed.contains(&CheckName::CollateralWindow), "{failed:?}");
}

/// Answers every request with the first quote it ever gave: a replay from inside the attester's own channel.
struct Replayer(Arc<dyn Attester>, Mutex<Option<Vec<u8>>>);

impl Attester for Replayer {
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        let mut first = self.1.lock().unwrap();
        if first.is_none() {
            *first = Some(self.0.quote(report_data)?);
        }
        Ok(first.clone().unwrap_or_default())
    }

    fn event_log(&self) -> Result<EventLog, AttestError> {
        self.0.event_log()
    }

    fn runtime(&self) -> Result<Vec<u8>, AttestError> {
        self.0.runtime()
    }
}

#[tokio::test]
async fn a_quote_replayed_on_another_connection_is_refused() {
    let world = world();
    let replayer: Arc<dyn Attester> = Arc::new(Replayer(world.attester.clone(), Mutex::new(None)));
    assert!(verify(serve(replayer.clone(), STATIC_CONFIG).await, &world, AT).await.is_ok());
    let second = verify(serve(replayer, STATIC_CONFIG).await, &world, AT).await;
    assert_eq!(failed(second), [CheckName::ReportData]);
}

#[tokio::test]
async fn a_runtime_log_of_another_boot_is_refused() {
    struct Forgetful(Arc<dyn Attester>);
    impl Attester for Forgetful {
        fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
            self.0.quote(report_data)
        }

        fn event_log(&self) -> Result<EventLog, AttestError> {
            self.0.event_log()
        }

        fn runtime(&self) -> Result<Vec<u8>, AttestError> {
            Ok(support::runtime_record(STATIC_CONFIG, &["another-model"]).to_bytes())
        }
    }
    let world = world();
    let tcp = serve(Arc::new(Forgetful(world.attester.clone())), STATIC_CONFIG).await;
    assert_eq!(failed(verify(tcp, &world, AT).await), [CheckName::RuntimeEvents]);
}

#[tokio::test]
async fn a_quote_over_another_transcript_is_refused() {
    struct Other(Arc<dyn Attester>);
    impl Attester for Other {
        fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
            let mut other = *report_data;
            other[63] ^= 1;
            self.0.quote(&other)
        }

        fn event_log(&self) -> Result<EventLog, AttestError> {
            self.0.event_log()
        }

        fn runtime(&self) -> Result<Vec<u8>, AttestError> {
            self.0.runtime()
        }
    }
    let world = world();
    let tcp = serve(Arc::new(Other(world.attester.clone())), STATIC_CONFIG).await;
    assert_eq!(failed(verify(tcp, &world, AT).await), [CheckName::ReportData]);
}

#[tokio::test]
async fn a_refused_guest_receives_nothing_but_the_challenge() {
    let world = world();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = world.acceptor();
    let guest = tokio::spawn(async move {
        let accepted = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        let (_, _, mut stream) = accepted.into_parts();
        let mut received = Vec::new();
        // The verifier hangs up without a goodbye, or with one.
        let _ = stream.read_to_end(&mut received).await;
        received
    });
    // At a time before the platform existed, everything about it is refused.
    let result = verify(TcpStream::connect(address).await.unwrap(), &world, 0).await;
    assert!(!failed(result).is_empty());
    assert_eq!(guest.await.unwrap(), b"");
}

#[tokio::test]
async fn the_appraisal_sees_what_the_guest_sent() {
    let world = world();
    let seen = Mutex::new(None);
    let tcp = serve(world.attester.clone(), STATIC_CONFIG).await;
    let looking = |claim: &Claim| *seen.lock().unwrap() = Some(claim.shown.machine.clone());
    let (me, wanted) = (Endpoint::anonymous(), Wanted::part(Part::Worker));
    connect_showing(tcp, &me, &world.verifier(), &wanted, looking).await.unwrap();
    let evidence = seen.lock().unwrap().take().unwrap();
    assert_eq!(evidence.static_config, STATIC_CONFIG);
    assert_eq!(evidence.event_log, world.attester.event_log().unwrap());
    assert_eq!(evidence.runtime, world.attester.runtime().unwrap());
}
