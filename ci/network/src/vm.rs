//! A worker in a virtual machine: booted from the built image, on the stage's SIMULATED platform, paid by its measured
//! configuration.

use crate::guest::STOPPED;
use crate::play::Network;
use evidence::Reference;
use launcher::foretell::foretell;
use launcher::{Fragment, Guest};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A boot takes half a minute on an idle machine; a busy one gets this long.
const DEADLINE: Duration = Duration::from_secs(600);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What the machine is made of.
pub struct Plan {
    /// Folder of a built image of the debug profile.
    pub image: PathBuf,
    /// Folders of packed models.
    pub models: Vec<PathBuf>,
    /// Folder of the platform's keys.
    pub platform: PathBuf,
    /// Folder of this run.
    pub run: PathBuf,
}

impl Plan {
    /// What a verifier holds the machine against, foretold; it does not depend on the configuration.
    pub fn reference(&self) -> Reference {
        let settings = self.settings("", "").settle().unwrap_or_else(|error| panic!("{error}"));
        let foretold = foretell(&settings, &|path| path.to_owned()).unwrap_or_else(|error| panic!("{error}"));
        Reference { mrconfigid: None, ..foretold.reference(&settings.static_config) }
    }

    /// Boots it; it dials both proxies, and its vouchers pay this wallet.
    pub fn boot(&self, network: &Network, wallet: &str) -> Vm {
        let seen = |addresses: &[SocketAddr]| {
            // This host's loopback, as a guest sees it.
            let seen: Vec<_> = addresses.iter().map(|at| format!("10.0.2.2:{}", at.port())).collect();
            format!("{seen:?}")
        };
        let stage = &network.stage;
        let peers = format!("dial = {}\nlite_servers = {}\n", seen(&network.dial()), seen(&[stage.at]));
        let file = |name: &str| quoted(&stage.path(name));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let tables = format!(
            "{}root = \"{}\"\n[wallet]\naddress = \"{wallet}\"\n[trust]\npolicy = {}\ncollateral = {}\n\
             references = [{}]\nnot_before = {}\n",
            stage.pin,
            network.root,
            file("policy.toml"),
            file("collateral.json"),
            file("reference-0.json"),
            now - 60,
        );
        let settings = self.settings(&peers, &tables).settle().unwrap_or_else(|error| panic!("{error}"));
        let begun = Instant::now();
        let guest = launcher::launch(&settings, |name| Command::new(name), |_| ())
            .unwrap_or_else(|error| panic!("{error}"));
        wait(&guest);
        Vm { guest, took: begun.elapsed() }
    }

    /// Settings as a person would write them; they stay in the run's folder.
    fn settings(&self, peers: &str, tables: &str) -> Fragment {
        let models: String = (self.models.iter())
            .map(|folder| format!("[[models]]\nimage = {}\n", quoted(&folder.join("model.img"))))
            .collect();
        let text = format!(
            "schema = 1\nimage = {}\nwork_dir = {}\nsimulated_platform = {}\nrole = \"worker\"\nnetwork = \"local\"\n\
             {peers}{models}{tables}",
            quoted(&self.image),
            quoted(&self.run.join("vm")),
            quoted(&self.platform),
        );
        let path = self.run.join("vm.toml");
        fs::create_dir_all(&self.run).unwrap();
        fs::write(&path, text).unwrap();
        Fragment::read(&path).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// A machine that serves; it ends with this.
pub struct Vm {
    guest: Guest,
    /// How long it took from its start until it served.
    pub took: Duration,
}

impl Vm {
    /// Where clients of its own would find it.
    pub fn endpoint(&self) -> SocketAddr {
        self.guest.endpoint()
    }
}

/// Waits until it serves, or says why it does not.
fn wait(guest: &Guest) {
    let begun = Instant::now();
    while guest.state().is_before_serving() && begun.elapsed() < DEADLINE {
        assert!(!STOPPED.load(Ordering::Relaxed), "told to end while the machine boots");
        std::thread::sleep(LOOK);
    }
    if let Err(error) = guest.wait_serving(LOOK) {
        panic!("the worker's machine does not serve: {error}");
    }
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}
