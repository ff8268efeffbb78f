//! The chain's process, the folder of the people's files, and their commands.

use crate::guest::{PATIENCE, until};
use crate::support::Site;
use evidence::Reference;
use protocol::config::file_hash;
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use ton::forms::{Control, Question, Reply};
use ton::{Address, Link};

/// Milliseconds between two blocks in tests.
const BLOCK_MS: u32 = 50;
/// nanoTON.
pub const TON: u64 = 1_000_000_000;

/// Where cargo put a program of this workspace; `None` says loudly that it is not there.
pub fn program(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().expect("the path of this program");
    let folder = own.parent().expect("a folder of programs");
    // Test programs lie one folder deeper.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = folder.join(name);
    if path.is_file() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is not built; run the whole workspace's tests", path.display());
    None
}

/// A process that is killed when it goes.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The chain, a SIMULATED platform, and a folder where people keep their keys.
pub struct Stage {
    /// The platform that all guests are of.
    pub site: Site,
    /// Where everybody's files lie, and the commands run. It stays if the play fails.
    pub folder: TempDir,
    program: PathBuf,
    front_door: PathBuf,
    block_ms: u32,
    chain: Option<Process>,
    /// Where the chain's lite server listens.
    pub at: SocketAddr,
    /// What a guest's static configuration says of the chain, but for the root.
    pub pin: String,
    accepted: Vec<Reference>,
    runtime: tokio::runtime::Runtime,
}

impl Stage {
    /// A fresh chain of this program, and a platform that nobody knows yet; people give their orders by the other program.
    pub fn new(program: PathBuf, front_door: PathBuf) -> Stage {
        Stage::of(Site::new(), BLOCK_MS, program, front_door)
    }

    /// The same on a platform that is there, with so many milliseconds between two blocks.
    pub fn of(site: Site, block_ms: u32, program: PathBuf, front_door: PathBuf) -> Stage {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::Builder::new().prefix("chrysalis-network-").tempdir().unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let (accepted, pin) = (vec![site.reference()], String::new());
        let mut stage = Stage {
            site,
            folder,
            program,
            front_door,
            block_ms,
            chain: None,
            at: any,
            pin,
            accepted,
            runtime,
        };
        stage.start_chain();
        stage.handed(stage.folder.path());
        fs::copy(stage.path("simulated-root.der"), stage.path("root.der")).unwrap();
        let policy = "schema = 1\nplatform = \"simulated\"\nroot = \"root.der\"\n";
        fs::write(stage.path("policy.toml"), policy).unwrap();
        stage
    }

    /// From now on, guests believe guests of this release too.
    pub fn accept(&mut self, reference: Reference) {
        self.accepted.push(reference);
    }

    /// The files that a guest is handed, and the section that says whom it believes.
    pub fn handed(&self, folder: &Path) -> String {
        let mut hashes = Vec::new();
        for (number, reference) in self.accepted.iter().enumerate() {
            let bytes = serde_json::to_vec(reference).unwrap();
            fs::write(folder.join(format!("reference-{number}.json")), &bytes).unwrap();
            hashes.push(file_hash(&bytes).to_string());
        }
        self.site.handed_with(&format!("references = {hashes:?}"), folder)
    }

    /// Starts the chain's process, in the same folder and on the same port as before.
    pub fn start_chain(&mut self) {
        let log = fs::File::create(self.path("chain.log")).unwrap();
        let mut command = Command::new(&self.program);
        command.args(["--json", "--block-ms", &self.block_ms.to_string(), "--listen", &self.at.to_string()]);
        command.arg("--dir").arg(self.path("chain")).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let facts = first_line(child.stdout.take().unwrap(), &self.path("chain.log"));
        self.chain = Some(Process(child));
        self.at = facts["listen"].as_str().unwrap().parse().unwrap();
        let network = &facts["network"];
        let hash = |name: &str| network[name].as_str().unwrap().to_owned();
        self.pin = format!(
            "[ledger]\nglobal_id = {}\nzero_root = \"{}\"\nzero_file = \"{}\"\n",
            network["global_id"],
            hash("zero_root"),
            hash("zero_file")
        );
        fs::copy(self.path("chain/network.json"), self.path("network.json")).unwrap();
    }

    /// Kills the chain's process at once.
    pub fn kill_chain(&mut self) {
        drop(self.chain.take());
    }

    /// Gives the chain an order.
    pub fn order(&self, control: Control) -> Value {
        let link = Link::to(self.at);
        match self.runtime.block_on(link.ask(&Question::Control(control), Duration::ZERO)) {
            Ok(Reply::Done(facts)) => facts,
            other => panic!("the chain did not do as it was told: {other:?}"),
        }
    }

    /// A file of the people's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(&self.front_door);
        command.args(words).arg("--json").current_dir(self.folder.path()).output().unwrap()
    }

    /// What a command that ends well prints.
    pub fn facts(&self, words: &[&str]) -> Value {
        let output = self.run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "chrysalis {}: {said}", words.join(" "));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The same, of a peer at `endpoint`.
    pub fn asked(&self, words: &[&str], endpoint: SocketAddr) -> Value {
        let endpoint = endpoint.to_string();
        let peer = ["--endpoint", &endpoint];
        self.facts(&[words, &peer, &TRUST].concat())
    }

    /// What a proxy counts, by name and labels.
    pub fn metrics(&self, proxy: SocketAddr) -> Value {
        let mut facts = self.facts(&[&["status", &proxy.to_string()][..], &TRUST].concat());
        facts["metrics"].take()
    }

    /// A wallet with so many TON; its address.
    pub fn wallet(&self, file: &str, ton: u64) -> String {
        let made = self.facts(&["wallet", "new", file]);
        let address = text(&made, "address");
        let to = ton::parse_address(&address).unwrap();
        self.order(Control::Faucet { address: to.clone(), amount: ton * TON });
        until("coins from the faucet", || (self.balance(&to) > 0).then_some(()));
        address
    }

    /// nanoTON that an account holds.
    pub fn balance(&self, of: &Address) -> u128 {
        let network = serde_json::from_slice::<Value>(&fs::read(self.path("network.json")).unwrap()).unwrap();
        let network = serde_json::from_value(network["network"].clone()).unwrap();
        let client = ton::LiteClient::new(self.at, network);
        let account = self.runtime.block_on(ton::Ledger::account(&client, of)).unwrap();
        account.balance()
    }

    /// The gateway of a client, until it goes.
    pub fn gateway(&self, words: &[&str]) -> (Process, SocketAddr) {
        let mut command = Command::new(&self.front_door);
        command.args(["--json", "gateway", "--listen", "127.0.0.1:0", "--network", "network.json"]);
        command.args(["--ledger", &self.at.to_string()]).args(words).args(TRUST);
        let log = fs::File::create(self.path("gateway.log")).unwrap();
        let mut child =
            command.current_dir(self.folder.path()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let facts = first_line(child.stdout.take().unwrap(), &self.path("gateway.log"));
        let address = text(&facts, "address").parse().unwrap();
        (Process(child), address)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            eprintln!("--- every log and file of this network stays in {}", self.folder.path().display());
        }
    }
}

/// What everything on this platform is held against.
const TRUST: [&str; 6] =
    ["--policy", "policy.toml", "--collateral", "collateral.json", "--reference", "reference-0.json"];

/// A field that is text.
pub fn text(facts: &Value, field: &str) -> String {
    facts[field].as_str().unwrap_or_else(|| panic!("no {field} in {facts}")).to_owned()
}

/// The first line of a program's output, as JSON; the rest is read away, since a full pipe would stop it.
fn first_line(out: ChildStdout, log: &Path) -> Value {
    let mut lines = BufReader::new(out);
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    std::thread::spawn(move || lines.lines().for_each(drop));
    serde_json::from_str(&line).unwrap_or_else(|error| {
        let said = fs::read_to_string(log).unwrap_or_default();
        panic!("{error} in {line:?}; {} says:\n{said}", log.display())
    })
}

/// Posts JSON to the gateway; status, body and headers that say what was charged.
pub fn post(gateway: SocketAddr, path: &str, body: &Value) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into();
    let sent =
        agent.post(format!("http://{gateway}{path}")).content_type("application/json").send(body.to_string());
    let mut answer = sent.expect("the gateway answers");
    let read = answer.body_mut().read_to_string().expect("a whole answer");
    (answer.status().as_u16(), serde_json::from_str(&read).unwrap_or(Value::String(read)))
}

/// Gets JSON of the gateway.
pub fn get(gateway: SocketAddr, path: &str) -> Value {
    let mut answer = ureq::get(format!("http://{gateway}{path}")).call().expect("the gateway answers");
    serde_json::from_str(&answer.body_mut().read_to_string().expect("a whole answer")).expect("JSON")
}
