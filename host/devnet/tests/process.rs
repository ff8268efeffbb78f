//! The chain as a process: killed at any moment it is whole again, and never behind what it had shown.

mod common;

use common::{TON, pay};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use ton::forms::{Control, Question, Reply};
use ton::wallet::{Wallet, sequence};
use ton::{Ledger, Link, LiteClient, Network, changed};

/// A chain in a process of its own, killed when it goes.
struct Chain {
    child: Child,
    at: SocketAddr,
    network: Network,
    port: u16,
}

impl Chain {
    fn start(dir: &Path, port: u16, block_ms: u32) -> Chain {
        Chain::run(Command::new(env!("CARGO_BIN_EXE_chrysalis-devnet")), dir, port, block_ms)
    }

    /// A chain whose files may not grow beyond `kib`, as on a disk that is full.
    fn start_on_a_small_disk(dir: &Path, kib: u32) -> Chain {
        let mut shell = Command::new("sh");
        // The signal would kill it; ignored, writing fails as it does on a full disk. POSIX counts in 512 bytes.
        shell.args(["-c", &format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", kib * 2)]);
        shell.arg(env!("CARGO_BIN_EXE_chrysalis-devnet"));
        shell.stderr(Stdio::piped());
        Chain::run(shell, dir, 0, 0)
    }

    fn run(mut command: Command, dir: &Path, port: u16, block_ms: u32) -> Chain {
        command.arg("--dir").arg(dir).args(["--listen", &format!("127.0.0.1:{port}"), "--json"]);
        let child = command.args(["--block-ms", &block_ms.to_string()]).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("the chain starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output"))
            .read_line(&mut line)
            .expect("its first line");
        let facts: serde_json::Value = serde_json::from_str(&line).expect("facts in JSON");
        assert_eq!(facts["what"], "LOCAL TEST CHAIN");
        let at: SocketAddr = facts["listen"].as_str().expect("an address").parse().expect("an address");
        let network = serde_json::from_value(facts["network"].clone()).expect("a network");
        Chain { child, at, network, port: at.port() }
    }

    async fn order(&self, control: Control) -> serde_json::Value {
        match Link::to(self.at).ask(&Question::Control(control), Duration::ZERO).await {
            Ok(Reply::Done(facts)) => facts,
            other => panic!("the chain did not do as it was told: {other:?}"),
        }
    }

    fn kill(mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("it is gone");
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_killed_at_any_moment_is_whole_and_never_behind_what_it_showed() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut chain = Chain::start(dir.path(), 0, 5);
    // One client over all lives of the chain: its trust would notice a fork or a step back.
    let client = LiteClient::new(chain.at, chain.network);
    let alice = Wallet::from_seed(&[1; 32], chain.network.global_id).expect("a wallet");
    let bob = Wallet::from_seed(&[2; 32], chain.network.global_id).expect("a wallet");
    chain.order(Control::Faucet { address: alice.address().clone(), amount: 500_000_000_000 }).await;
    changed(&client, alice.address(), 0, Duration::from_secs(20)).await.expect("proofs").expect("coins came");
    for life in 0..12u64 {
        let before = client.account(alice.address()).await.expect("a proven account");
        let until = before.block().gen_utime() + 600;
        let seqno = sequence(&before).expect("a wallet");
        let transfer = alice.transfer(seqno, until, &[pay(bob.address(), TON, false)]).expect("a transfer");
        client.send(&transfer).await.expect("the chain takes it");
        tokio::time::sleep(Duration::from_millis(life * 7 % 40)).await;
        let shown = client.head().await.expect("a proven head").seqno();
        let (port, network) = (chain.port, chain.network);
        chain.kill();
        chain = Chain::start(dir.path(), port, 5);
        assert_eq!(chain.network, network, "life {life}: another chain");
        let head = client.head().await.expect("a proven head after the kill");
        assert!(head.seqno() >= shown, "life {life}: {} after {shown}", head.seqno());
        let facts = chain.order(Control::Facts).await;
        let total = ["coins", "fees"].map(|what| facts[what].as_str().unwrap().parse::<u128>().unwrap());
        assert_eq!(total.iter().sum::<u128>(), devnet::FAUCET_BALANCE, "life {life}: {facts}");
    }
    let paid = client.account(bob.address()).await.expect("a proven account").balance() / TON;
    let sent = sequence(&client.account(alice.address()).await.unwrap()).unwrap();
    assert!(paid >= u128::from(sent).saturating_sub(1), "{sent} transfers, {paid} paid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_chain_and_loses_no_block_that_was_shown() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut chain = Chain::start_on_a_small_disk(dir.path(), 4096);
    let client = LiteClient::new(chain.at, chain.network);
    let link = Link::to(chain.at);
    let mut shown = 0;
    'until_full: for round in 0..200u8 {
        for number in 0..=255u8 {
            let mut account = [round; 32];
            account[1] = number;
            let address = ton::Address::new(0, ton::HashBytes(account));
            let pay = Question::Control(Control::Faucet { address, amount: 1_000_000 });
            if link.ask(&pay, Duration::ZERO).await.is_err() {
                break 'until_full;
            }
        }
        match link.ask(&Question::Control(Control::Produce { blocks: 1 }), Duration::ZERO).await {
            Ok(Reply::Done(_)) => shown = client.head().await.expect("a proven head").seqno(),
            _ => break,
        }
    }
    let ended = chain.child.wait().expect("it ends");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut chain.child.stderr.take().expect("its errors"), &mut said)
        .expect("text");
    assert!(!ended.success() && said.contains("or the disk full?"), "{ended}: {said}");
    assert!(shown > 1, "the disk was too small for anything");
    let chain = Chain::start(dir.path(), 0, 0);
    let client = LiteClient::new(chain.at, chain.network);
    assert!(client.head().await.expect("a proven head").seqno() >= shown);
    let facts = chain.order(Control::Produce { blocks: 1 }).await;
    let total = ["coins", "fees"].map(|what| facts[what].as_str().unwrap().parse::<u128>().unwrap());
    assert_eq!(total.iter().sum::<u128>(), devnet::FAUCET_BALANCE, "{facts}");
}

fn refused(dir: &Path, listen: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chrysalis-devnet"));
    command
        .arg("--dir")
        .arg(dir)
        .args(["--listen", listen])
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("it runs")
}

#[test]
fn an_address_off_loopback_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let output = refused(dir.path(), "0.0.0.0:0");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("loopback"), "{said}");
}

#[test]
fn two_chains_in_one_folder_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = Chain::start(dir.path(), 0, 0);
    let output = refused(dir.path(), "127.0.0.1:0");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("another chain running"), "{said}");
    drop(first);
}

#[test]
fn a_file_that_is_no_chain_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("chain.redb"), b"something else entirely").expect("a file");
    let output = refused(dir.path(), "127.0.0.1:0");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("chain.redb"), "{said}");
}
