//! Two machines: a worker that dials a proxy, each of which attests the other, and a client that attests the proxy alone. One
//! boot of each serves all claims here; the platform is SIMULATED.

use anyhow::{Context, Result, ensure};
use client::{Client, Trust};
use e2e::{DEADLINE, MODEL, Stage, alone, boot, connect, now, runtime, tamper};
use evidence::Reference;
use launcher::Guest;
use launcher::settings::{Fragment, Settings, ShapeFragment, TrustFragment};
use protocol::channel::Part;
use protocol::config::Role;
use protocol::progress::{Line, Stage as Said};
use ratls::Wanted;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// This host's loopback, as a guest sees it.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// A machine that serves, with what a client holds it against.
struct Machine {
    settings: Settings,
    guest: Guest,
    trust: Trust,
}

struct Network {
    stage: Stage,
    scratch: PathBuf,
    proxy: Machine,
    worker: Machine,
    /// What the worker, unchanged, is made of.
    fragment: Fragment,
}

fn network() -> &'static Network {
    static NETWORK: OnceLock<Network> = OnceLock::new();
    NETWORK.get_or_init(|| start().expect("proxy and worker serve"))
}

fn start() -> Result<Network> {
    let stage = Stage::open()?;
    let scratch = stage.scratch("network")?;
    let shape = Some(ShapeFragment { vcpus: Some(2), memory_mib: Some(1024) });
    let models = Some(Vec::new());
    let bare = Fragment { role: Some("proxy".into()), models, shape, ..stage.fragment(&scratch) };
    let work_dir = Some(scratch.join("proxy"));
    let proxy = Fragment { work_dir, ..bare };
    let worker = Fragment { work_dir: Some(scratch.join("worker")), ..stage.fragment(&scratch) };
    // Registers do not depend on the configuration, so either can be told the other's before both are configured.
    let proxies = reference_file(&stage, &proxy, &scratch.join("proxies.json"))?;
    let workers = reference_file(&stage, &worker, &scratch.join("workers.json"))?;
    let proxy = Fragment { trust: Some(trust(&stage, workers)), ..proxy };
    let proxy = Machine::boot(&stage, &proxy)?;
    let dial = Some(vec![SocketAddrV4::new(HOST, proxy.guest.endpoint().port())]);
    let fragment = Fragment { trust: Some(trust(&stage, proxies)), dial, ..worker };
    let worker = Machine::boot(&stage, &fragment)?;
    Ok(Network { stage, scratch, proxy, worker, fragment })
}

/// Reference values of these machines, whatever their configuration.
fn reference_file(stage: &Stage, fragment: &Fragment, path: &Path) -> Result<PathBuf> {
    let (settings, foretold) = stage.foretell(fragment)?;
    let reference = Reference { mrconfigid: None, ..foretold.reference(&settings.static_config) };
    std::fs::write(path, serde_json::to_vec(&reference)?)?;
    Ok(path.into())
}

/// Believes the demo's platform, and machines of these reference values.
fn trust(stage: &Stage, references: PathBuf) -> TrustFragment {
    let platform = stage.platform("demo");
    TrustFragment {
        policy: Some(platform.join("policy.toml")),
        collateral: Some(platform.join("collateral.json")),
        references: Some(vec![references]),
        not_before: Some(now() - 60),
        ..TrustFragment::default()
    }
}

impl Machine {
    fn boot(stage: &Stage, fragment: &Fragment) -> Result<Self> {
        let (settings, foretold) = stage.foretell(fragment)?;
        let trust = stage.trust("demo", foretold.reference(&settings.static_config))?;
        let guest = boot(&settings)?;
        guest.wait_serving(DEADLINE)?;
        Ok(Machine { settings, guest, trust })
    }

    /// Waits until the guest has said this.
    fn said(&self, wanted: &Said) -> Result<()> {
        let path = self.settings.work_dir.join("progress.jsonl");
        let began = Instant::now();
        loop {
            let text = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
            if text.lines().filter_map(Line::parse).any(|line| line.stage == *wanted) {
                return Ok(());
            }
            ensure!(began.elapsed() < DEADLINE, "the guest never said {wanted:?}; it said:\n{text}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Attests it as a client does that wants a proxy.
    fn as_proxy(&self) -> Result<(tokio::runtime::Runtime, Client)> {
        let (runtime, endpoint) = (runtime(), self.guest.endpoint().to_string());
        let wanted = Wanted::part(Part::Proxy);
        let client = Client::connect_to(&endpoint, &wanted, &self.trust, now(), |_| ());
        let client = runtime.block_on(client)?;
        Ok((runtime, client))
    }
}

fn joined(part: Role) -> Said {
    Said::PeerJoined { part, simulated: true }
}

fn refused(part: Role, reason: &str) -> Said {
    Said::PeerRefused { part, reasons: vec![reason.into()] }
}

#[test]
fn a_worker_dials_the_proxy_and_both_name_the_peer_that_they_attested() {
    let network = network();
    network.worker.said(&joined(Role::Proxy)).unwrap();
    network.proxy.said(&joined(Role::Worker)).unwrap();
}

#[test]
fn embeddings_through_the_proxy_equal_those_of_the_worker() {
    let network = network();
    network.proxy.said(&joined(Role::Worker)).unwrap();
    let texts = ["The chrysalis opens.".to_owned(), "A second text.".to_owned()];
    let (runtime, mut client) = network.proxy.as_proxy().unwrap();
    let verdict = client.appraised().verdict().to_string();
    assert!(verdict.lines().next().unwrap().contains("SIMULATED"), "{verdict}");
    let models = runtime.block_on(client.models()).unwrap();
    assert_eq!(models.data.iter().map(|model| model.id.as_str()).collect::<Vec<_>>(), [MODEL]);
    let through = runtime.block_on(client.embed(MODEL, &texts)).unwrap();
    let worker = &network.worker;
    let (runtime, mut client) = connect(&worker.guest.endpoint(), &worker.trust, now()).unwrap();
    let direct = runtime.block_on(client.embed(MODEL, &texts)).unwrap();
    assert_eq!(through, direct);
}

#[test]
fn a_client_that_wants_a_worker_is_turned_away_by_the_proxy() {
    let proxy = &network().proxy;
    let error = connect(&proxy.guest.endpoint(), &proxy.trust, now()).err().expect("a refusal");
    assert!(error.verdict().is_none() && error.to_string().contains("another part"), "{error}");
}

#[test]
fn a_worker_of_another_release_is_refused_by_the_proxy_and_named() {
    let _alone = alone();
    let network = network();
    let Network { stage, scratch, proxy, fragment, .. } = network;
    let fragment = Fragment { work_dir: Some(scratch.join("changed")), ..fragment.clone() };
    let (mut settings, _) = stage.foretell(&fragment).unwrap();
    let uki = scratch.join("changed.efi");
    std::fs::copy(&settings.image.uki, &uki).unwrap();
    tamper::replace_in_section(&uki, ".cmdline", b"panic=-1", b"panic=-2").unwrap();
    settings.image.uki = uki;
    let guest = boot(&settings).unwrap();
    guest.wait_serving(DEADLINE).unwrap();
    proxy.said(&refused(Role::Worker, "registers")).unwrap();
    let changed = Machine { settings, guest, trust: proxy.trust.clone() };
    changed.said(&refused(Role::Proxy, "refused_by_peer")).unwrap();
}

#[test]
fn a_proxy_of_another_release_is_refused_by_the_worker_and_named() {
    let _alone = alone();
    let network = network();
    let Network { stage, scratch, proxy, fragment, .. } = network;
    // It looks for proxies that are made like workers.
    let trust = Some(trust(stage, scratch.join("workers.json")));
    let fragment = Fragment { work_dir: Some(scratch.join("other")), trust, ..fragment.clone() };
    let other = Machine::boot(stage, &fragment).unwrap();
    other.said(&refused(Role::Proxy, "registers")).unwrap();
    // The proxy saw no evidence of it, and goes on.
    let (runtime, mut client) = proxy.as_proxy().unwrap();
    runtime.block_on(client.embed(MODEL, &["still there".into()])).unwrap();
}
