//! The proxy as a process: attested workers and clients of this test's process talk to it over real connections. The
//! platform is SIMULATED; the worker's answers are made by hand.

mod facts;
#[path = "../../daemon/tests/support/mod.rs"]
mod support;

use axum::routing::post;
use axum::{Json, Router};
use daemon::gpu::Gpus;
use evidence::gpu::GpuCollateral;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::service::TowerToHyperService;
use protocol::channel::{ApplicationKey, Part};
use protocol::config::Role;
use protocol::progress::Stage;
use ratls::session::{self, End, Ended, Requests};
use ratls::{ConnectError, Endpoint, Refusal, Wanted};
use simulator::gpu::{GpuCase, GpuFault, GpuMachine, RunningGpus, SimulatedDriver};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use support::{Daemon, Setup, Site};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const PROXY: &str = "schema = 1\nrole = \"proxy\"\nnetwork = \"local\"\n";
const WORKER: &str = "schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n[[models]]\nname = \"echo\"\n\
    root = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\ndata_blocks = 1\n";

fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_chrysalis-proxy"), PROXY)
}

/// A proxy that believes the workers of `site`, and its address.
fn proxy(site: &Site) -> (Daemon, SocketAddr) {
    let mut daemon = setup().believing(site, &site.reference()).start(site, &[]);
    let line = daemon.ready();
    assert!(line.contains("SIMULATED"), "{line}");
    let address = Daemon::address(&line);
    (daemon, address)
}

/// What a worker serves: the request back, with its own name.
fn echo(name: &'static str) -> Router {
    let answer = async move |Json(mut body): Json<serde_json::Value>| {
        body["worker"] = name.into();
        Json(body)
    };
    facts::telling(Router::new().route("/v1/embeddings", post(answer)))
}

/// Dials the proxy as an attested worker and serves on that connection; `Err` if the proxy refused its evidence.
async fn work(
    site: &Site,
    address: SocketAddr,
    config: &str,
    name: &'static str,
) -> Result<(watch::Sender<bool>, JoinHandle<Ended>), ratls::ChannelError> {
    work_as(site, address, site.endpoint(Part::Worker, config), name).await
}

/// The same, as this end.
async fn work_as(
    site: &Site,
    address: SocketAddr,
    me: Arc<Endpoint>,
    name: &'static str,
) -> Result<(watch::Sender<bool>, JoinHandle<Ended>), ratls::ChannelError> {
    let verifier = site.verifier();
    let wanted = Wanted::part(Part::Proxy);
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut attested = ratls::connect(tcp, &me, &verifier, &wanted).await.unwrap();
    attested.stream().accepted().await?;
    let (stop, stopping) = watch::channel(false);
    let (end, service) = (End::new(me).verifying(verifier, wanted), TowerToHyperService::new(echo(name)));
    Ok((stop, tokio::spawn(async move { session::serve(attested, end, service, stopping).await })))
}

/// Attests the proxy as a client does.
async fn ask(site: &Site, address: SocketAddr, wanted: Wanted) -> Result<Requests, ConnectError> {
    let (me, verifier) = (Arc::new(Endpoint::anonymous()), site.verifier());
    let tcp = TcpStream::connect(address).await.unwrap();
    let attested = ratls::connect(tcp, &me, &verifier, &wanted).await?;
    let (stop, stopping) = watch::channel(false);
    let (requests, connection) = session::open(attested, End::new(me).verifying(verifier, wanted), stopping);
    tokio::spawn(async move {
        let _open = stop;
        connection.await
    });
    Ok(requests)
}

async fn embed(requests: &Requests, model: &str) -> (u16, String) {
    let body = serde_json::json!({ "input": "a secret text", "model": model }).to_string();
    let request = Request::post("https://proxy/v1/embeddings").header("content-type", "application/json");
    let response = requests.send(request.body(Full::<Bytes>::from(body)).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn joined() -> Stage {
    Stage::PeerJoined { part: Role::Worker, simulated: true }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_reaches_a_worker_that_dialled_in_through_the_proxy() {
    let site = Site::new();
    let (proxy, address) = proxy(&site);
    let client = ask(&site, address, Wanted::part(Part::Proxy)).await.unwrap();
    assert_eq!(embed(&client, "echo").await.0, 503, "nobody works yet");

    let (_stop, _serving) = work(&site, address, WORKER, "one").await.unwrap();
    assert_eq!(proxy.said(), joined());
    let (status, answer) = embed(&client, "echo").await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains("a secret text") && answer.contains("\"worker\":\"one\""), "{answer}");
    assert_eq!(embed(&client, "other").await.0, 503);

    let rest = proxy.terminated();
    assert_eq!(rest, "chrysalis-proxy: stopped, 0 connection(s) cut\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_on_when_one_of_two_workers_leaves() {
    let site = Site::new();
    let (proxy, address) = proxy(&site);
    let (stop, serving) = work(&site, address, WORKER, "one").await.unwrap();
    let (_stop, _serving) = work(&site, address, WORKER, "two").await.unwrap();
    assert_eq!([proxy.said(), proxy.said()], [joined(), joined()]);
    let client = ask(&site, address, Wanted::part(Part::Proxy)).await.unwrap();
    let answers = [embed(&client, "echo").await, embed(&client, "echo").await];
    assert_ne!(answers[0].1, answers[1].1, "both work in turns");
    stop.send(true).unwrap();
    serving.await.unwrap();
    for _ in 0..4 {
        let (status, answer) = embed(&client, "echo").await;
        assert!(status == 200 && answer.contains("\"two\""), "{status} {answer}");
    }
    assert_eq!(proxy.said(), Stage::PeerLeft { part: Role::Worker });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_can_ask_for_the_holder_of_the_session_key() {
    let site = Site::new();
    let (_proxy, address) = proxy(&site);
    let client = ask(&site, address, Wanted::part(Part::Proxy)).await.unwrap();
    let key = client.peer().unwrap().keys().get("sk").unwrap().to_vec();
    assert_eq!(key.len(), 32);
    let wanted = |key: Vec<u8>| {
        let identity = Some(ApplicationKey { name: "sk".into(), key });
        Wanted { identity, ..Wanted::part(Part::Proxy) }
    };
    assert!(ask(&site, address, wanted(key)).await.is_ok());
    assert!(ask(&site, address, wanted(vec![7; 32])).await.is_err(), "another proxy's key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_another_release_or_network_is_refused_and_named() {
    let site = Site::new();
    let mut daemon = setup().believing(&site, &site.other_reference()).start(&site, &[]);
    let address = Daemon::address(&daemon.ready());
    assert!(work(&site, address, WORKER, "one").await.is_err());
    let refused = |reason: &str| Stage::PeerRefused { part: Role::Worker, reasons: vec![reason.into()] };
    assert_eq!(daemon.said(), refused("registers"));
    let client = ask(&site, address, Wanted::part(Part::Proxy)).await.unwrap();
    assert_eq!(embed(&client, "echo").await.0, 503);

    let (proxy, address) = proxy(&site);
    let (_stop, serving) = work(&site, address, &WORKER.replace("local", "test"), "one").await.unwrap();
    assert_eq!(proxy.said(), refused("network"));
    tokio::time::timeout(Duration::from_secs(60), serving).await.expect("the connection is closed").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_looks_for_another_release_refuses_the_proxy() {
    let site = Site::new();
    let (_proxy, address) = proxy(&site);
    let verifier = site.verifier();
    let mut trust = ratls::Trust::clone(&verifier.trust());
    trust.reference = site.other_reference();
    verifier.replace(trust);
    let me = site.endpoint(Part::Worker, WORKER);
    let tcp = TcpStream::connect(address).await.unwrap();
    let refused = ratls::connect(tcp, &me, &verifier, &Wanted::part(Part::Proxy)).await.unwrap_err();
    assert_eq!(refused.refusal().map(Refusal::reasons), Some(vec!["registers"]));
}

#[test]
fn a_proxy_believes_no_simulated_platform_where_its_image_does_not_say_so() {
    let site = Site::new();
    let mut setup = setup().believing(&site, &site.reference());
    setup.marked = false;
    setup.write();
    let said = setup.refusal(&[]);
    assert!(said.contains("expected \"tdx\""), "{said}");
}

#[test]
fn a_proxy_that_could_believe_nobody_or_runs_models_does_not_start() {
    let site = Site::new();
    let nobody = setup();
    nobody.write();
    assert!(nobody.refusal(&[]).contains("no [trust]"));
    let mut models = setup();
    models.config = WORKER.replace("\"worker\"", "\"proxy\"");
    let models = models.believing(&site, &site.reference());
    models.write();
    assert!(models.refusal(&[]).contains("runs no models"));
}

#[test]
fn there_is_no_option_beyond_the_paths() {
    let said = setup().command(&[("--insecure", "yes")]).output().unwrap();
    assert!(String::from_utf8_lossy(&said.stderr).contains("--insecure: no such option"));
}

/// A worker whose GPUs this driver shows.
fn with_gpus(site: &Site, driver: SimulatedDriver) -> Arc<Endpoint> {
    Arc::new(site.end(Part::Worker, WORKER).with_gpu(Arc::new(Gpus::new(Arc::new(driver)))))
}

/// SIMULATED GPUs that are as they should be, at this time.
fn good(count: usize) -> Arc<RunningGpus> {
    Arc::new(GpuMachine::Hopper(count).start().unwrap().valid_at(support::now()))
}

fn bad(fault: GpuFault) -> Arc<RunningGpus> {
    Arc::new(fault.start().unwrap().valid_at(support::now()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_demands_gpus_lets_in_a_worker_that_shows_right_ones_and_names_why_others_are_refused() {
    let site = Site::new();
    let (right, two) = (good(1), good(2));
    // DevTools and debug firmware measure otherwise; nothing in a report says so in words.
    let (devtools, vbios) = (bad(GpuFault::DriverMismatch), bad(GpuFault::VbiosMismatch));
    let all = [&*right, &two, &devtools, &vbios];
    let mut proxy = setup().believing(&site, &site.reference()).demanding(&all, None).start(&site, &[]);
    let address = Daemon::address(&proxy.ready());
    let replayed = SimulatedDriver::new(right.clone()).deaf();
    for (driver, reason) in [
        (SimulatedDriver::new(devtools), "gpu_driver_measurements"),
        (SimulatedDriver::new(vbios), "gpu_vbios_measurements"),
        (replayed, "gpu_nonce"),
        (SimulatedDriver::new(two), "gpu_count"),
    ] {
        assert!(work_as(&site, address, with_gpus(&site, driver), "bad").await.is_err());
        let reasons = vec![reason.to_owned()];
        assert_eq!(proxy.said(), Stage::PeerRefused { part: Role::Worker, reasons });
    }
    let client = ask(&site, address, Wanted::part(Part::Proxy)).await.unwrap();
    assert_eq!(embed(&client, "echo").await.0, 503, "nobody was let in");
    let me = with_gpus(&site, SimulatedDriver::new(right));
    let (_stop, _serving) = work_as(&site, address, me, "gpu").await.unwrap();
    assert_eq!(proxy.said(), joined());
    let (status, answer) = embed(&client, "echo").await;
    assert!(status == 200 && answer.contains("\"worker\":\"gpu\""), "{status} {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_takes_what_a_worker_hands_along_of_gpus_that_it_never_heard_of() {
    let site = Site::new();
    let (known, new) = (good(1), good(1));
    let setup = setup().believing(&site, &site.reference()).demanding(&[&known], None);
    let mut proxy = setup.start(&site, &[]);
    let address = Daemon::address(&proxy.ready());
    // Responses are about a device's own certificate, and the proxy has none of this one.
    let bare = with_gpus(&site, SimulatedDriver::new(new.clone()));
    assert!(work_as(&site, address, bare, "bare").await.is_err());
    let reasons = vec!["gpu_revocation".to_owned()];
    assert_eq!(proxy.said(), Stage::PeerRefused { part: Role::Worker, reasons });
    let GpuCase { driver_rims, vbios_rims, ocsp, .. } = new.case(&[0; 32]).unwrap();
    let driver = Arc::new(SimulatedDriver::new(new));
    let gpus = Gpus::new(driver).handing(GpuCollateral { driver_rims, vbios_rims, ocsp });
    let me = Arc::new(site.end(Part::Worker, WORKER).with_gpu(Arc::new(gpus)));
    let (_stop, _serving) = work_as(&site, address, me, "new").await.unwrap();
    assert_eq!(proxy.said(), joined());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_gpus_or_whose_driver_fails_is_told_what_was_wanted_and_gets_no_work() {
    let site = Site::new();
    let gpus = good(1);
    let setup = setup().believing(&site, &site.reference()).demanding(&[&gpus], None);
    let mut proxy = setup.start(&site, &[]);
    let address = Daemon::address(&proxy.ready());
    let verifier = site.verifier();
    let failing = with_gpus(&site, SimulatedDriver::new(gpus).failing(|_| true));
    for me in [site.endpoint(Part::Worker, WORKER), failing] {
        let tcp = TcpStream::connect(address).await.unwrap();
        let result = ratls::connect(tcp, &me, &verifier, &Wanted::part(Part::Proxy)).await;
        let Err(ConnectError::Answer(error)) = result else { panic!("it had none to show") };
        assert!(error.to_string().contains("GPU"), "{error}");
    }
    let client = ask(&site, address, Wanted::part(Part::Proxy)).await.unwrap();
    assert_eq!(embed(&client, "echo").await.0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_of_before_are_taken_where_the_proxy_was_measured_to_take_them() {
    let site = Site::new();
    let gpus = good(1);
    let setup = setup().believing(&site, &site.reference()).demanding(&[&gpus], Some(600));
    let mut proxy = setup.start(&site, &[]);
    let address = Daemon::address(&proxy.ready());
    let me = with_gpus(&site, SimulatedDriver::new(gpus));
    let (_first, _serving) = work_as(&site, address, me.clone(), "one").await.unwrap();
    let (_second, _serving) = work_as(&site, address, me, "one").await.unwrap();
    assert_eq!([proxy.said(), proxy.said()], [joined(), joined()]);
}

#[test]
fn a_proxy_that_demands_gpus_without_what_to_hold_them_against_does_not_start() {
    let site = Site::new();
    let setup = setup().believing(&site, &site.reference()).demanding(&[&good(1)], None);
    setup.write();
    let handed = setup.folder.path().join("trust/gpu-collateral.json");
    std::fs::write(&handed, "{}").unwrap();
    let said = setup.refusal(&[]);
    assert!(said.contains("gpu-collateral.json") && said.contains("driver_rims"), "{said}");
    std::fs::remove_file(&handed).unwrap();
    let said = setup.refusal(&[]);
    assert!(said.contains("expected gpu-collateral.json, found none"), "{said}");
}
