//! `gateway`, `receipt`, `quote` and `status` as processes: a LOCAL TEST CHAIN and a proxy on a SIMULATED platform are this
//! test's own.

#[path = "../../devnet/tests/common/mod.rs"]
mod common;
#[path = "../../client/tests/gateway/fake.rs"]
mod fake;

use common::{Local, TON, start};
use fake::{AT, EMBEDDER_ROOT, FOREVER, Fake, Lie, MODEL, MODEL_ROOT, PRICE, site};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use payment::{Address, SecretKey};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tokio::net::TcpStream;
use ton::contract::{account_of, pool, root, vault};
use ton::forms::Control;
use ton::wallet::Wallet;
use ton::{Cell, Ledger, message};
use tycho_types::models::StateInit;

const PATIENCE: Duration = Duration::from_secs(60);
const SEED: [u8; 32] = [5; 32];
const CHAT: &str =
    r#"{"model":"little","messages":[{"role":"user","content":"a secret question"}],"max_tokens":16}"#;

/// A chain with a book, a vault and a proxy, and a folder with the files that a client has.
struct Network {
    local: Local,
    root: Address,
    vault: Address,
    fake: Fake,
    folder: tempfile::TempDir,
}

async fn deploy(local: &Local, by: &Wallet, init: StateInit, value: u128) -> ton::Address {
    let address = message::address_of(&init).unwrap();
    let deploy = message::internal(&address, value, true, Some(init), Cell::default()).unwrap();
    local.send(by, &[(deploy, 3)]).await;
    address
}

async fn change(local: &Local, owner: &Wallet, root: &ton::Address, number: u32, change: root::Change) {
    for body in [root::propose(&change).unwrap(), root::execute(number).unwrap()] {
        let call = message::internal(root, TON / 10, true, None, body).unwrap();
        local.send(owner, &[(call, 3)]).await;
        local.order(Control::Advance { seconds: 2 }).await;
        local.settle().await;
    }
}

impl Network {
    async fn start(seed: u8) -> Self {
        let local = start(seed).await;
        let owner = local.wallet(11, 200_000_000_000).await;
        let owners = BTreeMap::from([(owner.address().clone(), 0)]);
        let terms = root::Terms { owners, threshold: 1, delay: 1 };
        let root = deploy(&local, &owner, terms.state_init().unwrap(), TON).await;
        let terms = pool::Terms { owner: owner.address().clone(), salt: 1, grace: 7200 };
        let pool = deploy(&local, &owner, terms.state_init().unwrap(), 2 * TON).await;
        let client_key = SecretKey::from_seed(&SEED).public().to_bytes();
        let terms = vault::Terms { client_key, owner: owner.address().clone(), pool: pool.clone(), salt: 3 };
        let vault = deploy(&local, &owner, terms.state_init().unwrap(), 50 * TON).await;
        let view = vault::view(&local.client.account(&vault).await.unwrap()).unwrap();

        let (root_account, vault) = (account_of(&root), account_of(&vault));
        let fake = Fake::start_as(account_of(&pool), Lie::None, root_account, local.network.global_id).await;
        fake.knows(vault, view);
        let payment::price::Price { base, prompt, cached, completion, reasoning } = PRICE;
        let price = root::Price { base, prompt, cached, completion, reasoning };
        change(&local, &owner, &root, 0, root::Change::SetPrice(MODEL_ROOT, price)).await;
        change(&local, &owner, &root, 1, root::Change::SetPrice(EMBEDDER_ROOT, price)).await;
        let proxy = root::Proxy { commission: 500, endpoint: fake.address.to_string() };
        change(&local, &owner, &root, 2, root::Change::SetProxy(pool, proxy)).await;
        let network =
            Network { local, root: root_account, vault, fake, folder: tempfile::tempdir().unwrap() };
        network.write_files();
        network
    }

    fn write_files(&self) {
        let write = |name: &str, bytes: &[u8]| std::fs::write(self.folder.path().join(name), bytes).unwrap();
        let network = serde_json::json!({ "network": self.local.network });
        write("network.json", network.to_string().as_bytes());
        write("vault.key", format!("{}\n", hex::encode(SEED)).as_bytes());
        let owners_alone = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(self.path("vault.key"), owners_alone).unwrap();
        write("root.der", &site().root);
        write("policy.toml", b"schema = 1\nplatform = \"simulated\"\nroot = \"root.der\"\n");
        write("collateral.json", site().collateral.to_json().as_bytes());
        write("reference.json", &serde_json::to_vec(&site().reference).unwrap());
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().into()
    }

    fn trust(&self) -> Vec<String> {
        let files = [
            ("--policy", "policy.toml"),
            ("--collateral", "collateral.json"),
            ("--reference", "reference.json"),
        ];
        let options = files.iter().flat_map(|(option, name)| [(*option).to_owned(), self.path(name)]);
        options.chain(["--at".into(), AT.to_string()]).collect()
    }

    fn chain(&self) -> Vec<String> {
        let (ledger, root) = (self.local.at.to_string(), self.root.to_string());
        ["--network", &self.path("network.json"), "--ledger", &ledger, "--root", &root]
            .map(String::from)
            .into()
    }

    fn gateway_command(&self, listen: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chrysalis"));
        command.args(["--json", "gateway", "--listen", listen]).args(self.chain()).args(self.trust());
        command.args(["--vault-key", &self.path("vault.key"), "--vault", &self.vault.to_string()]);
        command.args(["--state", &self.path("state"), "--per-request", "2"]);
        command
    }

    fn gateway(&self) -> Gateway {
        let mut child = self.gateway_command("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        let events = out.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        let listening = events.into_iter().find(|event| event["event"] == "listening").unwrap();
        // It goes on telling; somebody has to listen.
        std::thread::spawn(move || out.for_each(drop));
        let address = listening["address"].as_str().unwrap().parse().unwrap();
        Gateway { child, address }
    }
}

/// A gateway that runs; killed when dropped, as by kill -9.
struct Gateway {
    child: Child,
    address: SocketAddr,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Gateway {
    async fn post(&self, body: &str) -> Response<Incoming> {
        let request = Request::post("/v1/chat/completions").header("host", self.address.to_string());
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.unwrap();
        tokio::spawn(connection);
        tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap()
    }

    /// An answer, once there is one: the chain and the proxy have to be seen first.
    async fn answered(&self, body: &str) -> Bytes {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let response = self.post(body).await;
            let status = response.status();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            if status == 200 {
                return body;
            }
            let soon = status == 503 && tokio::time::Instant::now() < until;
            assert!(soon, "{status}: {}", String::from_utf8_lossy(&body));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn chrysalis(args: &[&str], more: &[String]) -> (i32, Value, String) {
    let command = Command::new(env!("CARGO_BIN_EXE_chrysalis")).arg("--json").args(args).args(more).output();
    let Output { status, stdout, stderr } = command.unwrap();
    let value = serde_json::from_slice(&stdout).unwrap_or(Value::Null);
    (status.code().unwrap(), value, String::from_utf8_lossy(&stderr).into_owned())
}

/// What the folder says was allowed.
fn allowed(folder: &Path, vault: &Address) -> u64 {
    let file = folder.join("state").join(format!("vault-{}.json", hex::encode(vault.hash)));
    let kept: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    kept["allowed"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_is_answered_and_its_receipt_verifies_quotes_and_status_are_told() {
    let network = Network::start(71).await;
    let gateway = network.gateway();
    let answer = gateway.answered(CHAT).await;
    let (state, log) = (network.path("state"), network.path("state/receipts.jsonl"));
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(network.folder.path().join(name), bytes).unwrap();
        network.path(name)
    };
    let (request, response) = (write("request.json", CHAT.as_bytes()), write("answer.json", &answer));
    let root = hex::encode(MODEL_ROOT);
    let files =
        ["receipt", "verify", &log, "--request", &request, "--response", &response, "--model-root", &root];
    let (code, verdict, said) = chrysalis(&files, &[]);
    assert_eq!((code, &verdict["accepted"]), (0, &Value::Bool(true)), "{verdict} {said}");
    assert_eq!(verdict["not_shown"].as_array().map(Vec::len), Some(4));
    let other = write("other.json", &[&answer[..], b" "].concat());
    let (code, verdict, _) = chrysalis(&["receipt", "verify", &log, "--response", &other], &[]);
    assert!(code == 1 && verdict["refused"].as_str().unwrap().contains("response hash"), "{verdict}");
    let (code, _, said) = chrysalis(&["receipt", "verify", &request], &[]);
    assert!(code == 2 && said.contains("chrysalis-receipt"), "{said}");

    let (code, list, _) = chrysalis(&["receipt", "list", "--state", &state], &[]);
    let charged = network.fake.used(&network.vault);
    assert_eq!((code, list["count"].as_u64(), list["charged"].as_u64()), (0, Some(1), Some(charged)));
    let (code, status, _) = chrysalis(&["status", "--gateway", &gateway.address.to_string()], &[]);
    assert_eq!((code, status["settled"].as_u64(), status["charged"].as_u64()), (0, Some(1), Some(charged)));
    assert_eq!(
        (&status["proxies"][0]["state"], &status["proxies"][0]["simulated"]),
        (&"connected".into(), &true.into())
    );
    let (code, machine, said) = chrysalis(&["status", &network.fake.address.to_string()], &network.trust());
    assert_eq!((code, &machine["platform"]), (0, &"simulated".into()), "{said}");
    assert_eq!(machine["metrics"]["fake_requests_total{outcome=\"charged\"}"], 3.0);

    let options = [network.chain(), network.trust()].concat();
    let (code, quote, said) = chrysalis(&["quote", MODEL, "--requests", "10", "--tokens", "20"], &options);
    assert_eq!(code, 0, "{quote} {said}");
    let offer = &quote["offers"][0];
    assert_eq!(
        offer["quote"]["total"].as_u64(),
        offer["quote"]["charge_per_request"].as_u64().map(|one| one * 10)
    );
    network.fake.lies(Lie::TermsKey);
    let (code, quote, _) = chrysalis(&["quote", MODEL], &options);
    assert!(code == 1 && quote["offers"][0]["refused"].as_str().unwrap().contains("session_key"), "{quote}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_killed_at_any_step_comes_back_with_what_it_allowed() {
    let network = Network::start(72).await;
    let mut last = 0;
    for round in 0..4 {
        let gateway = network.gateway();
        gateway.answered(CHAT).await;
        let after = allowed(network.folder.path(), &network.vault);
        assert!(after >= last, "round {round}: what was allowed went down from {last} to {after}");
        let body = CHAT
            .replace("a secret question", FOREVER)
            .replace("\"max_tokens\"", "\"stream\":true,\"max_tokens\"");
        match round {
            // While a stream comes.
            0 => drop(gateway.post(&body).await.into_body().frame().await),
            // While a request is on its way, wherever it is by now.
            1 => drop(tokio::time::timeout(Duration::from_millis(3), gateway.post(&body)).await),
            // At rest.
            _ => {}
        }
        drop(gateway);
        last = allowed(network.folder.path(), &network.vault);
        assert!(last >= after && network.fake.used(&network.vault) <= last, "round {round}");
    }
    assert!(network.fake.used(&network.vault) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_gateway_other_addresses_and_wrong_files_are_refused_by_name() {
    let network = Network::start(73).await;
    let _first = network.gateway();
    let refused = |command: &mut Command, word: &str| {
        let Output { status, stderr, .. } = command.output().unwrap();
        let said = String::from_utf8_lossy(&stderr);
        assert!(status.code() == Some(2) && said.contains(word), "{status}: {said}");
        assert!(!said.contains(&hex::encode(SEED)), "{said}");
    };
    refused(&mut network.gateway_command("127.0.0.1:0"), "another gateway");
    refused(&mut network.gateway_command("0.0.0.0:0"), "loopback");
    std::fs::write(network.path("vault.key"), "no key").unwrap();
    refused(&mut network.gateway_command("127.0.0.1:0"), "--vault-key");
    std::fs::write(network.path("network.json"), "{}").unwrap();
    refused(&mut network.gateway_command("127.0.0.1:0"), "--network");
}
