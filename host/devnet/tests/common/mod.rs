//! A chain in this process with a client that checks every proof.
#![allow(dead_code, reason = "each test program uses some of it")]

use devnet::{Genesis, Node};
use std::net::SocketAddr;
use std::time::Duration;
use ton::forms::{Control, Question, Reply};
use ton::wallet::{Wallet, sequence};
use ton::{Address, Cell, Ledger, Link, LiteClient, Network, ProvenAccount, changed, message};

/// Time of the zero state in tests: far ahead of any machine, so that the chain's clock moves when ordered and not else.
pub const BEGIN: u32 = 4_000_000_000;
/// One TON.
pub const TON: u128 = 1_000_000_000;

/// What a test talks to.
pub struct Local {
    pub at: SocketAddr,
    pub network: Network,
    pub client: LiteClient,
    control: Link,
}

/// A genesis of its own for each seed.
pub fn genesis(seed: u8) -> Genesis {
    Genesis { seed: [seed; 32], time: BEGIN }
}

/// Starts a chain that makes blocks when ordered.
pub async fn start(seed: u8) -> Local {
    let node = Node::in_memory(genesis(seed)).expect("a chain begins");
    let network = *node.chain().network();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(devnet::serve(listener, node, Duration::ZERO));
    Local { at, network, client: LiteClient::new(at, network), control: Link::to(at) }
}

impl Local {
    /// Gives an order and returns the facts after it.
    pub async fn order(&self, control: Control) -> serde_json::Value {
        match self.control.ask(&Question::Control(control), Duration::ZERO).await {
            Ok(Reply::Done(facts)) => facts,
            other => panic!("the chain did not do as it was told: {other:?}"),
        }
    }

    /// Makes blocks until no message waits.
    pub async fn settle(&self) -> serde_json::Value {
        for _ in 0..50 {
            let facts = self.order(Control::Produce { blocks: 1 }).await;
            if facts["waiting"] == 0 {
                return facts;
            }
        }
        panic!("messages still wait after 50 blocks");
    }

    /// A wallet with coins.
    pub async fn wallet(&self, seed: u8, amount: u64) -> Wallet {
        let wallet = Wallet::from_seed(&[seed; 32], self.network.global_id).expect("a wallet");
        self.order(Control::Faucet { address: wallet.address().clone(), amount }).await;
        self.settle().await;
        wallet
    }

    /// Sends messages from a wallet and returns its proven state after it.
    pub async fn send(&self, wallet: &Wallet, messages: &[(Cell, u8)]) -> ProvenAccount {
        let before = self.client.account(wallet.address()).await.expect("a proven account");
        let seqno = sequence(&before).expect("a wallet");
        let valid_until = before.block().gen_utime() + 600;
        let transfer = wallet.transfer(seqno, valid_until, messages).expect("a transfer");
        self.client.send(&transfer).await.expect("the chain takes it");
        self.settle().await;
        let after = changed(&self.client, wallet.address(), before.last_lt(), Duration::from_secs(5)).await;
        after.expect("a proven account").expect("the wallet acted")
    }
}

/// A plain payment.
pub fn pay(to: &Address, value: u128, bounce: bool) -> (Cell, u8) {
    (message::internal(to, value, bounce, None, Cell::default()).expect("a message"), 3)
}
