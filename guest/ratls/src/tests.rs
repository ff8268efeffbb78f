//! The exchange under attack: quotes of a SIMULATED platform, the appraisal that real ones get, and peers that do what no
//! honest end would. Each attack is refused for its own reason, which the test names.

#[path = "../tests/support/mod.rs"]
mod support;

mod attacks;
mod flood;
mod gpu;
mod mutual;
mod steps;
mod transcripts;
mod transport;
mod trusted;

use crate::link::Link;
use crate::{
    AcceptError, Acceptor, Attested, ConnectError, Endpoint, QuoteLimits, QuoteQueue, Refusal, Step,
    Verifier, Wanted, frame, tls,
};
use evidence::CheckName;
use protocol::Attester;
use protocol::channel::{ApplicationKey, ApplicationKeys, Challenge, Control, Direction, Part, Shown};
use rustls::ServerConfig;
use std::sync::Arc;
use support::{AT, World, world};
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

type ServerTls = server::TlsStream<DuplexStream>;
type ClientTls = client::TlsStream<DuplexStream>;

fn wire() -> (DuplexStream, DuplexStream) {
    duplex(1 << 20)
}

fn key(name: &str, fill: u8) -> ApplicationKey {
    ApplicationKey { name: name.into(), key: vec![fill; 32] }
}

fn keys(keys: &[ApplicationKey]) -> ApplicationKeys {
    ApplicationKeys::new(keys.to_vec()).unwrap()
}

/// An end of some part on the platform of a world, with a TLS key of its own.
fn end(world: &World, part: Part) -> Endpoint {
    end_with(world, part, tls::Identity::generate())
}

fn end_with(world: &World, part: Part, identity: tls::Identity) -> Endpoint {
    Endpoint::with_identity(part, queue(world.attester.clone()), world.static_config.clone(), identity)
}

fn queue(attester: Arc<dyn Attester>) -> QuoteQueue {
    QuoteQueue::new(attester, QuoteLimits::default())
}

/// Lets clients in at this end.
fn open(endpoint: Endpoint) -> Arc<Acceptor> {
    Arc::new(Acceptor::new(Arc::new(endpoint)).unwrap().anonymous())
}

/// An honest responder at the far end of the returned stream.
fn honest(acceptor: &Arc<Acceptor>) -> DuplexStream {
    let (near, far) = wire();
    let acceptor = acceptor.clone();
    tokio::spawn(async move {
        if let Ok(accepted) = acceptor.accept(far).await {
            // Held until the peer leaves.
            let _ = accepted.into_parts().2.read(&mut [0; 1]).await;
        }
    });
    near
}

/// Connects as a client that wants a worker.
async fn ask(io: DuplexStream, world: &World) -> Result<Attested<DuplexStream>, ConnectError> {
    ask_for(io, world, &Wanted::part(Part::Worker)).await
}

async fn ask_for(
    io: DuplexStream,
    world: &World,
    wanted: &Wanted,
) -> Result<Attested<DuplexStream>, ConnectError> {
    crate::connect(io, &Endpoint::anonymous(), &world.verifier(), wanted).await
}

/// The refusal; anything else is a failed test.
fn refusal<S>(result: Result<Attested<S>, ConnectError>) -> Refusal {
    match result {
        Err(error @ ConnectError::Refused(_)) if !error.is_peer_fault() => panic!("not the peer's: {error}"),
        Err(ConnectError::Refused(refusal)) => *refusal,
        Err(other) => panic!("expected refused evidence, found: {other}"),
        Ok(_) => panic!("expected refused evidence, found an attested connection"),
    }
}

/// The checks of the machine's appraisal that failed.
fn failed<S>(result: Result<Attested<S>, ConnectError>) -> Vec<CheckName> {
    let refusal = refusal(result);
    let verdict = refusal.verdict().unwrap_or_else(|| panic!("no verdict: {refusal}"));
    verdict.failed().map(|check| check.name).collect()
}

/// The initiator's side of a bare TLS connection without the exchange.
async fn bare_client(io: DuplexStream, config: rustls::ClientConfig) -> ClientTls {
    TlsConnector::from(Arc::new(config)).connect(tls::server_name(), io).await.unwrap()
}

fn own_key() -> ServerConfig {
    tls::server_config(&tls::Identity::generate()).unwrap()
}

/// A responder that terminates the initiator's TLS with `config` and then does what `play` does.
fn attacker<F>(config: ServerConfig, play: impl FnOnce(ServerTls) -> F + Send + 'static) -> DuplexStream
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

/// The frame of a challenge.
async fn read_challenge(stream: &mut ServerTls) -> Vec<u8> {
    frame::read(stream, Step::Challenge, 512).await.unwrap()
}

/// The responder's view of a connection whose initiator is a client.
fn link_of(stream: &ServerTls, part: Part, public_key: &[u8]) -> Link {
    let exporter = tls::exporter(stream.get_ref().1).unwrap();
    Link::new(exporter, Direction::Responder, part, Part::Client, public_key.into())
}

/// A responder on the platform of a world that binds all as it should, after `forge` has changed what is bound and `tamper`
/// what is sent.
fn forger(
    world: &World,
    forge: impl FnOnce(&mut Link, &mut Challenge, &mut ApplicationKeys) + Send + 'static,
    tamper: impl FnOnce(&mut Shown) + Send + 'static,
) -> DuplexStream {
    let identity = tls::Identity::generate();
    let public_key = identity.public_key.clone();
    let (attester, static_config) = (world.attester.clone(), world.static_config.clone());
    attacker(tls::server_config(&identity).unwrap(), async move |mut stream| {
        let bytes = read_challenge(&mut stream).await;
        let mut challenge = Challenge::from_bytes(&bytes).unwrap();
        let mut link = link_of(&stream, Part::Worker, &public_key);
        let mut keys = ApplicationKeys::default();
        forge(&mut link, &mut challenge, &mut keys);
        let leaf = link.report_data(link.direction(), &challenge.digest(), &keys, None);
        let mut shown = quoted(attester.as_ref(), &static_config, &leaf);
        shown.keys = keys;
        tamper(&mut shown);
        frame::write(&mut stream, Step::Evidence, &shown.to_bytes()).await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    })
}

/// Evidence with a quote over this report data.
fn quoted(attester: &dyn Attester, static_config: &[u8], report_data: &[u8; 64]) -> Shown {
    let machine = protocol::evidence::Evidence {
        quote: attester.quote(report_data).unwrap(),
        event_log: attester.event_log().unwrap(),
        static_config: static_config.to_vec(),
        runtime: attester.runtime().unwrap(),
    };
    Shown { machine, keys: ApplicationKeys::default(), gpu: None, batch: Default::default() }
}
