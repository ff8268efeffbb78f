//! The role play: everything from the first wallet to the balanced books.

use crate::books::Books;
use crate::guest::{Machine, until};
use crate::model;
use crate::stage::{Process, Stage, get, post, program, text};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

/// Names of models, and what stands for their verity roots here: processes have no disks.
const MODELS: [(&str, &str); 1] = [("small", "ab")];
/// Nothing is too little to be collected or cashed here.
const ALL: &str = "0.000000001";

/// A proxy, its owner's wallet file and its pool.
pub struct Proxy {
    /// Its machine.
    pub machine: Machine,
    /// Wallet file.
    pub owner: &'static str,
    /// Address.
    pub pool: String,
}

/// A worker and its wallet.
pub struct Worker {
    /// Its machine.
    pub machine: Machine,
    /// Address.
    pub wallet: String,
}

/// All of it, serving.
pub struct Network {
    /// What they play on.
    pub stage: Stage,
    /// Address of the root contract.
    pub root: String,
    /// Two.
    pub proxies: Vec<Proxy>,
    /// Three.
    pub workers: Vec<Worker>,
    /// Addresses of the client's vaults, one a pool.
    pub vaults: Vec<String>,
    people: Vec<(String, String)>,
    gateway: Option<Process>,
    /// Where the gateway listens.
    pub at: SocketAddr,
}

impl Network {
    /// Chain, root, two proxies with their sessions registered, three workers, a client's vaults and gateway.
    /// `None` where a program is not built.
    pub fn start() -> Option<Network> {
        let (proxy, worker) = (program("chrysalis-proxy")?, program("chrysalis-worker")?);
        let stage = Stage::new(program("chrysalis-devnet")?, program("chrysalis")?);
        let people = [("root-owner", 50), ("operator-a", 20), ("operator-b", 20), ("client", 20)];
        let people = people.map(|(name, ton)| (name.to_owned(), stage.wallet(name, ton)));
        let root = text(&stage.facts(&["root", "deploy", "--wallet", "root-owner"]), "root");
        for (_, byte) in MODELS {
            let price = ["root", "price", "--wallet", "root-owner", "--root", &root, "--base", "1"];
            stage.facts(&[&price[..], &[&byte.repeat(32)]].concat());
        }
        let proxies: Vec<_> =
            ["operator-a", "operator-b"].map(|owner| open_proxy(&stage, &proxy, &root, owner)).into();
        let dial: Vec<_> = proxies.iter().map(|proxy| proxy.machine.address.unwrap()).collect();
        let workers: Vec<_> =
            (0..3).map(|number| open_worker(&stage, &worker, &root, number, &dial)).collect();
        let open = |proxy: &Proxy| {
            let words = ["vault", "open", "--wallet", "client", "--vault-key", "vault-key", "--amount", "2"];
            text(&stage.facts(&[&words[..], &["--pool", &proxy.pool]].concat()), "vault")
        };
        let vaults: Vec<_> = proxies.iter().map(open).collect();
        let at = stage.at;
        let people = people.into();
        let mut network = Network { stage, root, proxies, workers, vaults, people, gateway: None, at };
        network.open_gateway();
        Some(network)
    }

    /// Starts the client's gateway; its state is that of the one before.
    pub fn open_gateway(&mut self) {
        let mut words = vec!["--root", &self.root, "--vault-key", "vault-key", "--state", "gateway"];
        words.extend(["--per-request", "1", "--per-day", "10"]);
        words.extend(self.vaults.iter().flat_map(|vault| ["--vault", vault]));
        let (process, at) = self.stage.gateway(&words);
        (self.gateway, self.at) = (Some(process), at);
    }

    /// Kills the gateway at once.
    pub fn kill_gateway(&mut self) {
        drop(self.gateway.take());
    }

    /// Asks for an embedding; status and body.
    pub fn embed(&self, text: &str) -> (u16, Value) {
        post(self.at, "/v1/embeddings", &json!({ "model": "small", "input": text }))
    }

    /// The same until it is answered: workers come back by themselves, and blocks take a moment.
    pub fn embedded(&self, text: &str) -> Value {
        let mut last = Value::Null;
        until("an embedding", || {
            let (status, body) = self.embed(text);
            last = body.clone();
            if status != 200 {
                eprintln!("    {status} {body}");
                std::thread::sleep(std::time::Duration::from_millis(300));
            }
            (status == 200).then_some(body)
        })
    }

    /// The gateway's own account.
    pub fn status(&self) -> Value {
        get(self.at, "/chrysalis/v1/status")
    }

    /// nanoTON that the client was charged since its gateway was started.
    pub fn charged(&self) -> u64 {
        self.status()["charged"].as_u64().unwrap()
    }

    /// The owner's look at its proxy: session, claims, pot.
    pub fn tend(&self, proxy: &Proxy) -> Value {
        let words = ["pool", "tend", "--once", "--keep", "1", "--collect-above", ALL];
        let owner = ["--wallet", proxy.owner, "--pool", &proxy.pool];
        self.stage.asked(&[&words[..], &owner].concat(), proxy.machine.address.unwrap())
    }

    /// nanoTON vouched for a worker, as every proxy says that is there.
    pub fn vouched(&self, worker: &Worker) -> u64 {
        let ask = |proxy: &Proxy| {
            let words = ["worker", "earnings", "--of", &worker.wallet];
            let earnings = self.stage.asked(&words, proxy.machine.address.unwrap());
            earnings.as_array().unwrap().iter().map(|entry| entry["total"].as_u64().unwrap()).sum::<u64>()
        };
        self.proxies.iter().map(ask).sum()
    }

    /// nanoTON that a worker's vouchers brought now.
    pub fn cash_out(&self, worker: &Worker) -> u64 {
        let ask = |proxy: &Proxy| {
            let words = ["worker", "cash-out", "--wallet", "client", "--above", ALL, "--of", &worker.wallet];
            let cashed = self.stage.asked(&words, proxy.machine.address.unwrap());
            cashed.as_array().unwrap().iter().map(|entry| entry["paid"].as_u64().unwrap()).sum::<u64>()
        };
        self.proxies.iter().map(ask).sum()
    }

    /// nanoTON that the pools were paid out of the client's vaults.
    pub fn claimed(&self) -> u64 {
        let claimed =
            |vault: &String| self.stage.facts(&["vault", "status", vault])["claimed"].as_u64().unwrap();
        self.vaults.iter().map(claimed).sum()
    }

    /// Everybody's coins, in a table that balances.
    pub fn books(&self) -> String {
        let mut books = Books::default().of(&self.stage, "root contract", &self.root);
        for (name, address) in &self.people {
            books = books.of(&self.stage, name, address);
        }
        for (letter, proxy) in ["a", "b"].iter().zip(&self.proxies) {
            books = books.of(&self.stage, &format!("pool {letter}"), &proxy.pool);
        }
        for (letter, vault) in ["a", "b"].iter().zip(&self.vaults) {
            books = books.of(&self.stage, &format!("vault at pool {letter}"), vault);
        }
        for (number, worker) in self.workers.iter().enumerate() {
            books = books.of(&self.stage, &format!("worker {}", number + 1), &worker.wallet);
        }
        books.balanced(&self.stage)
    }
}

fn open_proxy(stage: &Stage, program: &Path, root: &str, owner: &'static str) -> Proxy {
    let pool = text(&stage.facts(&["pool", "open", "--wallet", owner, "--amount", "4"]), "pool");
    let config = format!(
        "schema = 1\nrole = \"proxy\"\nnetwork = \"local\"\n{}root = \"{root}\"\n[pool]\naddress = \"{pool}\"\n",
        stage.pin
    );
    let mut machine = Machine::new(program, &stage.site, &config, &[], stage.at);
    let at = machine.start(&[("--state", "state")]).to_string();
    let words = ["root", "proxy", "--wallet", "root-owner", "--root", root, "--endpoint", &at, &pool];
    stage.facts(&words);
    let words = ["pool", "register", "--wallet", owner, "--pool", &pool, "--allot", "1"];
    let session = || {
        let shown = stage.asked(&words, machine.address.unwrap());
        (shown["epoch"] == 1).then_some(())
    };
    until("the pool to name the proxy's session", session);
    Proxy { machine, owner, pool }
}

fn open_worker(stage: &Stage, program: &Path, root: &str, number: u32, dial: &[SocketAddr]) -> Worker {
    let wallet = text(&stage.facts(&["wallet", "new", &format!("worker-{number}")]), "address");
    let mut config = String::from("schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n");
    for (name, byte) in MODELS {
        config +=
            &format!("[[models]]\nname = \"{name}\"\nroot = \"{}\"\ndata_blocks = 1\n", byte.repeat(32));
    }
    config += &format!("{}root = \"{root}\"\n[wallet]\naddress = \"{wallet}\"\n", stage.pin);
    let mut machine = Machine::new(program, &stage.site, &config, dial, stage.at);
    fs::rename(model::Folder::random(7).write().keep(), machine.path("models/small")).unwrap();
    machine.start(&[("--models", "models")]);
    Worker { machine, wallet }
}
