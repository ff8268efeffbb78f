//! The role play: everybody in their places, from the first wallet to the balanced books.

use crate::books::Books;
use crate::guest::{Machine, until};
use crate::model;
use crate::stage::{Process, Stage, get, post, program, text};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Nothing is too little to be collected or cashed here.
const ALL: &str = "0.000000001";

/// The programs that are played with.
pub struct Programs {
    /// The local chain.
    pub chain: PathBuf,
    /// The command line.
    pub front_door: PathBuf,
    /// A daemon.
    pub proxy: PathBuf,
    /// The other one.
    pub worker: PathBuf,
}

impl Programs {
    /// Those that lie beside this one; `None` says loudly which is not built.
    pub fn found() -> Option<Programs> {
        Some(Programs {
            chain: program("chrysalis-devnet")?,
            front_door: program("chrysalis")?,
            proxy: program("chrysalis-proxy")?,
            worker: program("chrysalis-worker")?,
        })
    }
}

/// A model that is served here.
#[derive(Clone)]
pub struct Served {
    /// What it is asked for by.
    pub name: String,
    /// Its verity root, 64 hexadecimal digits. Processes have no disks: for them it is only what their configuration says.
    pub root: String,
    /// Where it lies, for a process.
    pub folder: PathBuf,
    /// TON for a million prompt tokens.
    pub price: &'static str,
}

impl Served {
    /// A small random encoder with something that stands for its root.
    pub fn small(stage: &Stage) -> Served {
        let folder = stage.path("small");
        fs::rename(model::Folder::random(7).write().keep(), &folder).unwrap();
        Served { name: "small".into(), root: "ab".repeat(32), folder, price: "1" }
    }
}

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
    /// What people call it.
    pub name: String,
    /// Its machine.
    pub machine: Machine,
    /// Address.
    pub wallet: String,
}

/// All of it, serving.
pub struct Network {
    gateway: Option<Process>,
    /// Those that are processes.
    pub workers: Vec<Worker>,
    /// Two.
    pub proxies: Vec<Proxy>,
    /// Address of the root contract.
    pub root: String,
    /// Addresses of the client's vaults, one a pool.
    pub vaults: Vec<String>,
    /// Who else has a wallet: name and address.
    pub people: Vec<(String, String)>,
    /// Where the gateway listens.
    pub at: SocketAddr,
    program: PathBuf,
    /// What they play on; it goes last.
    pub stage: Stage,
}

impl Network {
    /// Chain, root, two proxies with their sessions registered, three workers, a client's vaults and gateway.
    /// `None` where a program is not built.
    pub fn start() -> Option<Network> {
        let programs = Programs::found()?;
        let stage = Stage::new(programs.chain.clone(), programs.front_door.clone());
        let small = [Served::small(&stage)];
        let mut network = Network::open(stage, &programs, &small);
        ["worker 1", "worker 2", "worker 3"].into_iter().for_each(|name| network.hire(name, &small));
        network.open_vaults();
        network.open_gateway();
        Some(network)
    }

    /// Root with the prices of these models, and two proxies with their sessions registered; nobody works yet.
    pub fn open(stage: Stage, programs: &Programs, models: &[Served]) -> Network {
        let people = [("root-owner", 50), ("operator-a", 20), ("operator-b", 20), ("client", 20)];
        let people = people.map(|(name, ton)| (name.to_owned(), stage.wallet(name, ton)));
        let root = text(&stage.facts(&["root", "deploy", "--wallet", "root-owner"]), "root");
        for model in models {
            let price = [
                "root",
                "price",
                "--wallet",
                "root-owner",
                "--root",
                &root,
                "--base",
                model.price,
                &model.root,
            ];
            stage.facts(&price);
        }
        let proxies = [("proxy a", "operator-a"), ("proxy b", "operator-b")]
            .map(|(name, owner)| open_proxy(&stage, name, &programs.proxy, &root, owner));
        Network {
            gateway: None,
            workers: Vec::new(),
            proxies: proxies.into(),
            root,
            vaults: Vec::new(),
            people: people.into(),
            at: stage.at,
            program: programs.worker.clone(),
            stage,
        }
    }

    /// One more worker, a process that dials both proxies.
    pub fn hire(&mut self, name: &str, models: &[Served]) {
        let (wallet, dial) = (self.purse(&name.replace(' ', "-")), self.dial());
        let mut config = String::from("schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n");
        for Served { name, root, .. } in models {
            config += &format!("[[models]]\nname = \"{name}\"\nroot = \"{root}\"\ndata_blocks = 1\n");
        }
        let (pin, root) = (&self.stage.pin, &self.root);
        config += &format!("{pin}root = \"{root}\"\n[wallet]\naddress = \"{wallet}\"\n");
        let mut machine = Machine::new(&self.stage, name, &self.program, &config, &dial);
        for Served { name, folder, .. } in models {
            symlink(folder, machine.path("models").join(name)).unwrap();
        }
        machine.start(&[("--models", "models")]);
        self.workers.push(Worker { name: name.into(), machine, wallet });
    }

    /// A wallet with nothing in it; its address.
    pub fn purse(&self, file: &str) -> String {
        text(&self.stage.facts(&["wallet", "new", file]), "address")
    }

    /// Where the proxies listen.
    pub fn dial(&self) -> Vec<SocketAddr> {
        self.proxies.iter().map(|proxy| proxy.machine.address.unwrap()).collect()
    }

    /// Opens a vault of the client's at each pool.
    pub fn open_vaults(&mut self) {
        let open = |proxy: &Proxy| {
            let words = ["vault", "open", "--wallet", "client", "--vault-key", "vault-key", "--amount", "2"];
            text(&self.stage.facts(&[&words[..], &["--pool", &proxy.pool]].concat()), "vault")
        };
        self.vaults = self.proxies.iter().map(open).collect();
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

    /// What all proxies count together of one sample, such as `chrysalis_proxy_in_flight`.
    pub fn counted(&self, sample: &str) -> u64 {
        let count = |at| self.stage.metrics(at)[sample].as_f64().unwrap_or_default() as u64;
        self.dial().into_iter().map(count).sum()
    }

    /// The owner's look at its proxy: session, claims, pot.
    pub fn tend(&self, proxy: &Proxy) -> Value {
        let words = ["pool", "tend", "--once", "--keep", "1", "--collect-above", ALL];
        let owner = ["--wallet", proxy.owner, "--pool", &proxy.pool];
        self.stage.asked(&[&words[..], &owner].concat(), proxy.machine.address.unwrap())
    }

    /// nanoTON vouched for a worker, as every proxy says that is there.
    pub fn vouched(&self, worker: &Worker) -> u64 {
        self.vouched_to(&worker.wallet)
    }

    /// The same by wallet.
    pub fn vouched_to(&self, wallet: &str) -> u64 {
        self.at_every_proxy(&["worker", "earnings", "--of", wallet], "total")
    }

    /// nanoTON that a worker's vouchers brought now.
    pub fn cash_out(&self, worker: &Worker) -> u64 {
        self.cash_out_to(&worker.wallet)
    }

    /// The same by wallet; the client sends the vouchers, since whoever does pays the gas and the wallet gets the coins.
    pub fn cash_out_to(&self, wallet: &str) -> u64 {
        self.at_every_proxy(
            &["worker", "cash-out", "--wallet", "client", "--above", ALL, "--of", wallet],
            "paid",
        )
    }

    /// The sum of a field over all that a command finds at the proxies.
    fn at_every_proxy(&self, words: &[&str], field: &str) -> u64 {
        let ask = |at| {
            let found = self.stage.asked(words, at);
            found.as_array().unwrap().iter().map(|entry| entry[field].as_u64().unwrap()).sum::<u64>()
        };
        self.dial().into_iter().map(ask).sum()
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
        for (letter, proxy) in ["a", "b"].iter().zip(&self.proxies) {
            books = books.of(&self.stage, &format!("pool {letter}"), &proxy.pool);
        }
        for (letter, vault) in ["a", "b"].iter().zip(&self.vaults) {
            books = books.of(&self.stage, &format!("vault at pool {letter}"), vault);
        }
        for (name, address) in &self.people {
            books = books.of(&self.stage, name, address);
        }
        for worker in &self.workers {
            books = books.of(&self.stage, &worker.name, &worker.wallet);
        }
        books.balanced(&self.stage)
    }
}

fn open_proxy(stage: &Stage, name: &str, program: &Path, root: &str, owner: &'static str) -> Proxy {
    let pool = text(&stage.facts(&["pool", "open", "--wallet", owner, "--amount", "4"]), "pool");
    let config = format!(
        "schema = 1\nrole = \"proxy\"\nnetwork = \"local\"\n{}root = \"{root}\"\n[pool]\naddress = \"{pool}\"\n",
        stage.pin
    );
    let mut machine = Machine::new(stage, name, program, &config, &[]);
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
