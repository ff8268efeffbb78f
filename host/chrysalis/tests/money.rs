//! The commands about money against a local chain that checks and charges like TON: wallet, root, pool, vault.

use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use ton::Link;
use ton::forms::{Control, Question, Reply};

/// Milliseconds between two blocks.
const BLOCK: Duration = Duration::from_millis(25);

/// A chain in this process and a folder with what commands need.
struct Place {
    at: SocketAddr,
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Place {
    fn new(seed: u8) -> Place {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let genesis = devnet::Genesis { seed: [seed; 32], time: u32::try_from(now).unwrap() };
        let node = devnet::Node::in_memory(genesis).unwrap();
        let network = *node.chain().network();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let at = listener.local_addr().unwrap();
        runtime.spawn(devnet::serve(listener, node, BLOCK));
        let folder = tempfile::tempdir().unwrap();
        let pinned = serde_json::json!({ "network": network, "listen": at });
        std::fs::write(folder.path().join("network.json"), pinned.to_string()).unwrap();
        Place { at, folder, runtime }
    }

    fn order(&self, control: Control) -> Value {
        let link = Link::to(self.at);
        match self.runtime.block_on(link.ask(&Question::Control(control), Duration::ZERO)) {
            Ok(Reply::Done(facts)) => facts,
            other => panic!("the chain did not do as it was told: {other:?}"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chrysalis"));
        command.args(words).arg("--json").current_dir(self.folder.path()).output().unwrap()
    }

    /// What a command that ends well prints.
    fn facts(&self, words: &[&str]) -> Value {
        let output = self.run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What a command says that does not end well.
    fn refusal(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(!output.status.success(), "{words:?} ended well");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A wallet with so many TON; its address.
    fn wallet(&self, file: &str, ton: u64) -> String {
        let made = self.facts(&["wallet", "new", file]);
        let address = made["address"].as_str().unwrap().to_owned();
        let to = ton::parse_address(&address).unwrap();
        self.order(Control::Faucet { address: to, amount: ton * 1_000_000_000 });
        let funded = || self.facts(&["wallet", "show", file])["balance"].as_u64().unwrap() > 0;
        for _ in 0..200 {
            if funded() {
                return address;
            }
        }
        panic!("no coins came");
    }

    fn everything(&self) -> u128 {
        let facts = self.order(Control::Facts);
        ["coins", "fees"].map(|what| facts[what].as_str().unwrap().parse::<u128>().unwrap()).iter().sum()
    }
}

fn text<'a>(facts: &'a Value, field: &str) -> &'a str {
    facts[field].as_str().unwrap_or_else(|| panic!("no {field} in {facts}"))
}

#[test]
fn an_owner_deploys_a_root_and_sets_prices_and_proxies() {
    let place = Place::new(61);
    place.wallet("owner", 20);
    let root = place.facts(&["root", "deploy", "--wallet", "owner"]);
    let root = text(&root, "root").to_owned();
    let again = place.facts(&["root", "deploy", "--wallet", "owner"]);
    assert_eq!(text(&again, "root"), root, "deployed once");
    let model = "ab".repeat(32);
    let book = place.facts(&[
        "root",
        "price",
        "--wallet",
        "owner",
        "--root",
        &root,
        "--base",
        "0.5",
        "--completion",
        "20000",
        &model,
    ]);
    assert_eq!(book["models"][&model], serde_json::json!([500_000_000, 10_000, 1_000, 20_000, 40_000]));
    let pool = place.facts(&["pool", "open", "--wallet", "owner", "--amount", "2"]);
    let pool = text(&pool, "pool").to_owned();
    let proxy = ["root", "proxy", "--wallet", "owner", "--root", &root, "--endpoint", "127.0.0.1:9", &pool];
    let book = place.facts(&proxy);
    assert_eq!(book["proxies"][&pool], serde_json::json!([500, "127.0.0.1:9"]));
    assert_eq!(place.facts(&["root", "show", "--root", &root]), book);
    place.wallet("stranger", 5);
    let said =
        place.refusal(&["root", "price", "--wallet", "stranger", "--root", &root, "--base", "9", &model]);
    assert!(said.contains("exit code 101") && said.contains("not the owner"), "{said}");
    assert_eq!(place.everything(), devnet::FAUCET_BALANCE);
}

#[test]
fn two_owners_agree_before_anything_changes() {
    let place = Place::new(62);
    let (one, two) = (place.wallet("one", 20), place.wallet("two", 20));
    let deploy = ["root", "deploy", "--wallet", "one", "--owner", &one, "--owner", &two, "--threshold", "2"];
    let root = place.facts(&deploy);
    let root = text(&root, "root").to_owned();
    let model = "cd".repeat(32);
    let proposed = place.facts(&["root", "price", "--wallet", "one", "--root", &root, "--base", "1", &model]);
    assert_eq!((&proposed["proposal"], &proposed["threshold"]), (&Value::from(0), &Value::from(2)));
    let execute = ["root", "execute", "--wallet", "one", "--root", &root, "0"];
    assert!(place.refusal(&execute).contains("not approved by enough owners"));
    place.facts(&["root", "approve", "--wallet", "two", "--root", &root, "0"]);
    let book = place.facts(&execute);
    assert_eq!(book["models"][&model][0], 1_000_000_000);
}

#[test]
fn a_vault_is_opened_topped_up_and_closed_after_a_day() {
    let place = Place::new(63);
    place.wallet("owner", 20);
    let pool = place.facts(&["pool", "open", "--wallet", "owner", "--amount", "1"]);
    let pool = text(&pool, "pool").to_owned();
    let open = [
        "vault",
        "open",
        "--wallet",
        "owner",
        "--vault-key",
        "vault-key",
        "--pool",
        &pool,
        "--amount",
        "1.5",
    ];
    let opened = place.facts(&open);
    let vault = text(&opened, "vault").to_owned();
    assert!(opened["free"].as_u64().unwrap() >= 1_500_000_000, "{opened}");
    assert_eq!((text(&opened, "pool"), &opened["closed"]), (pool.as_str(), &Value::from(false)));
    let key = place.path("vault-key");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&key).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(place.refusal(&open).contains("there already"));
    let more = place.facts(&["vault", "top-up", "--wallet", "owner", &vault, "0.5"]);
    assert!(more["free"].as_u64().unwrap() > opened["free"].as_u64().unwrap() + 400_000_000, "{more}");
    let close = ["vault", "close", "--wallet", "owner", &vault];
    let closing = place.facts(&close);
    assert_ne!(closing["closes_at"], 0);
    assert!(place.refusal(&close).contains("the pool can claim"));
    place.order(Control::Advance { seconds: 24 * 3600 + 60 });
    let closed = place.facts(&close);
    assert_eq!((&closed["closed"], &closed["free"]), (&Value::from(true), &Value::from(0)));
    assert!(place.refusal(&["vault", "top-up", "--wallet", "owner", &vault, "1"]).contains("open a new one"));
    assert_eq!(place.everything(), devnet::FAUCET_BALANCE);
}

#[test]
fn a_pool_is_filled_drawn_on_and_closed_and_each_mistake_says_what_to_do() {
    let place = Place::new(64);
    place.wallet("owner", 20);
    place.wallet("stranger", 3);
    let open = ["pool", "open", "--wallet", "owner", "--amount", "2"];
    let pool = place.facts(&open);
    let (pool, reserve) = (text(&pool, "pool").to_owned(), pool["reserve"].as_i64().unwrap());
    assert!((1_990_000_000..2_100_000_000).contains(&reserve), "{reserve}");
    assert!(place.refusal(&open).contains("pool top-up"));
    let topped = place.facts(&["pool", "top-up", "--wallet", "stranger", "--pool", &pool, "1"]);
    assert!(topped["reserve"].as_i64().unwrap() > reserve + 990_000_000, "{topped}");
    let withdraw =
        |who: &str, amount: &str| place.run(&["pool", "withdraw", "--wallet", who, "--pool", &pool, amount]);
    let said = String::from_utf8_lossy(&withdraw("stranger", "1").stderr).into_owned();
    assert!(said.contains("not the owner"), "{said}");
    assert!(String::from_utf8_lossy(&withdraw("owner", "9").stderr).contains("the reserve is short"));
    assert!(withdraw("owner", "1").status.success());
    let closed = place.facts(&["pool", "close", "--wallet", "owner", "--pool", &pool]);
    assert_eq!(closed["closed"], true);
    assert!(place.refusal(&open).contains("another --salt"));
    let poor = place.refusal(&["pool", "open", "--wallet", "stranger", "--amount", "50", "--salt", "1"]);
    assert!(poor.contains("send it coins first"), "{poor}");
    assert_eq!(place.everything(), devnet::FAUCET_BALANCE);
}

#[test]
fn a_transfer_that_is_lost_doubled_delayed_or_shuffled_acts_once() {
    let place = Place::new(65);
    place.wallet("owner", 20);
    let faults = ton::forms::Faults {
        duplicate_externals: 2,
        delay_blocks: 2,
        reorder: true,
        lose_one_in: 3,
        seed: 5,
    };
    place.order(Control::Faults(faults));
    let pool = place.facts(&["pool", "open", "--wallet", "owner", "--amount", "1"]);
    let pool = text(&pool, "pool").to_owned();
    for round in 1..=3 {
        place.facts(&["pool", "top-up", "--wallet", "owner", "--pool", &pool, "0.5"]);
        let sent = place.facts(&["wallet", "show", "owner"]);
        assert_eq!(sent["transfers"], 1 + round, "each acted once");
    }
    let reserve = place.facts(&["pool", "status", "--pool", &pool])["reserve"].as_i64().unwrap();
    assert!((2_400_000_000..2_600_000_000).contains(&reserve), "{reserve}");
    assert_eq!(place.everything(), devnet::FAUCET_BALANCE);
}

#[test]
fn a_command_without_its_inputs_says_which_and_what_next() {
    let place = Place::new(66);
    let none = place.refusal(&["wallet", "show", "nowhere"]);
    assert!(none.contains("nowhere") && none.contains("chrysalis wallet new"), "{none}");
    let pin = place.refusal(&["wallet", "show", "nowhere", "--network", "no.json"]);
    assert!(pin.contains("no.json") && pin.contains("--network"), "{pin}");
    std::fs::write(place.path("bare.json"), pinned_bare(&place.path("network.json"))).unwrap();
    let server = place.refusal(&["wallet", "show", "nowhere", "--network", "bare.json"]);
    assert!(server.contains("--ledger"), "{server}");
    place.facts(&["wallet", "new", "key"]);
    assert!(place.refusal(&["wallet", "new", "key"]).contains("overwritten"));
    let shown =
        place.facts(&["wallet", "show", "key", "--network", "bare.json", "--ledger", &place.at.to_string()]);
    assert_eq!(shown["balance"], 0);
}

/// The network of a pin by itself.
fn pinned_bare(file: &Path) -> String {
    let pinned: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    pinned["network"].to_string()
}
