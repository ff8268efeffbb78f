//! The proxy as a process that takes reference values from a publication: as many rebuilders as it wants, revocation while it
//! runs, and a mirror that goes. The platform is SIMULATED.

mod facts;
#[path = "../../daemon/tests/support/published.rs"]
mod published;
#[path = "../../daemon/tests/support/mod.rs"]
mod support;

use axum::Router;
use hyper_util::service::TowerToHyperService;
use protocol::channel::Part;
use protocol::config::Role;
use protocol::progress::{Stage, Standing};
use published::{Publisher, relying};
use ratls::Wanted;
use ratls::session::{self, End, Ended};
use std::net::SocketAddr;
use std::time::Duration;
use support::{Daemon, Setup, Site};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const PROXY: &str = "schema = 1\nrole = \"proxy\"\nnetwork = \"local\"\n";
const WORKER: &str = "schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n[[models]]\nname = \"echo\"\n\
    root = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\ndata_blocks = 1\n";

/// A proxy that wants this many rebuilders, and its address.
fn proxy(site: &Site, publisher: &Publisher, threshold: u32, runtime: &str) -> (Daemon, SocketAddr) {
    let mut setup = Setup::new(env!("CARGO_BIN_EXE_chrysalis-proxy"), PROXY);
    setup.runtime = runtime.into();
    let mut daemon = relying(setup, site, publisher, threshold).start(site, &[]);
    let address = Daemon::address(&daemon.ready());
    (daemon, address)
}

fn mirrored(publisher: &Publisher) -> String {
    format!("mirror = \"{}\"\n", publisher.serve())
}

/// What the proxy says of the publication until it says this, whatever it says of peers.
fn stands(proxy: &Daemon, standing: Standing, accepted: u32) -> Option<String> {
    loop {
        if let Stage::Publication { standing: found, accepted: releases, reason, .. } = proxy.said()
            && (found, releases) == (standing, accepted)
        {
            return reason;
        }
    }
}

/// Dials the proxy as an attested worker and stays; `Err` if the proxy refused its evidence.
async fn work(
    site: &Site,
    address: SocketAddr,
) -> Result<(watch::Sender<bool>, JoinHandle<Ended>), ratls::ChannelError> {
    let (me, verifier) = (site.endpoint(Part::Worker, WORKER), site.verifier());
    let wanted = Wanted::part(Part::Proxy);
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut attested = ratls::connect(tcp, &me, &verifier, &wanted).await.unwrap();
    attested.stream().accepted().await?;
    let (stop, stopping) = watch::channel(false);
    let routes = facts::telling(Router::new());
    let (end, service) = (End::new(me).verifying(verifier, wanted), TowerToHyperService::new(routes));
    Ok((stop, tokio::spawn(async move { session::serve(attested, end, service, stopping).await })))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_a_release_to_which_three_rebuilders_came_is_let_in_for_two_and_refused_for_four() {
    let (site, publisher) = (Site::new(), Publisher::new());
    let (two, address) = proxy(&site, &publisher, 2, &mirrored(&publisher));
    assert_eq!(stands(&two, Standing::Fresh, 1), None);
    let (_stop, _serving) = work(&site, address).await.unwrap();
    assert_eq!(two.said(), Stage::PeerJoined { part: Role::Worker, simulated: true });

    let (four, address) = proxy(&site, &publisher, 4, &mirrored(&publisher));
    assert_eq!(stands(&four, Standing::Fresh, 0), None, "fresh, and nothing in it is good enough");
    assert!(work(&site, address).await.is_err());
    let reasons = vec!["registers".to_owned()];
    assert_eq!(four.said(), Stage::PeerRefused { part: Role::Worker, reasons });
    assert!(four.terminated().contains("3 rebuilders came to its measurements, expected 4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_revoked_is_refused_by_a_running_proxy_and_its_workers_are_let_go() {
    let (site, publisher) = (Site::new(), Publisher::new());
    let (proxy, address) = proxy(&site, &publisher, 2, &mirrored(&publisher));
    stands(&proxy, Standing::Fresh, 1);
    let (_stop, serving) = work(&site, address).await.unwrap();
    publisher.revoke();
    // Not told anything but by its own refresh.
    stands(&proxy, Standing::Fresh, 0);
    let ended = tokio::time::timeout(Duration::from_secs(60), serving).await;
    ended.expect("the session with the revoked worker is drained").unwrap();
    assert!(work(&site, address).await.is_err(), "nor does it come back");
    assert!(proxy.terminated().contains("revoked: a hole in the engine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_starts_from_what_it_was_handed_where_the_mirror_is_gone_and_says_so() {
    let (site, publisher) = (Site::new(), Publisher::new());
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (proxy, address) = proxy(&site, &publisher, 2, &format!("mirror = \"{gone}/releases\"\n"));
    assert_eq!(stands(&proxy, Standing::Stale, 1).as_deref(), Some("mirror_unreachable"));
    let (_stop, _serving) = work(&site, address).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_serves_something_else_changes_nothing_that_is_held() {
    let (site, publisher) = (Site::new(), Publisher::new());
    let other = Publisher::new();
    other.spoil();
    let (proxy, address) = proxy(&site, &publisher, 2, &mirrored(&other));
    assert!(stands(&proxy, Standing::Stale, 1).is_some());
    let (_stop, _serving) = work(&site, address).await.unwrap();
}
