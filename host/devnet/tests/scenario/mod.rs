//! Plays scenarios that are written down as data: every step through the client, over TCP, with proofs.
//!
//! What was sent and what came of it goes into a transcript, which the official emulator can play again (`ci/parity`).

mod script;

pub use script::{Act, Scenario, Step, scenarios};

use crate::common::{BEGIN, Local, genesis, start};
use num_bigint::BigInt;
use payment::{Cap, Payout, SecretKey, Session, Signed, Surplus, Use, Voucher};
use script::{ClaimPool, ClaimVault, Get, Register, Send, SurplusOf};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;
use ton::contract::{account_of, pool, root, vault};
use ton::forms::{Bag, Control, Faults};
use ton::wallet::{Wallet, sequence};
use ton::{Address, Arg, Cell, Ledger, ProvenAccount, ProvenTransaction, changed, message};
use tycho_types::models::StateInit;

/// What comes with a message for its gas, unless the step says otherwise.
const GAS: u64 = 100_000_000;
/// Seconds that vouchers are valid.
const MONTH: u32 = 30 * 86_400;

/// A scenario being played.
pub struct Stage {
    local: Local,
    wallets: BTreeMap<String, Wallet>,
    contracts: BTreeMap<String, (Address, StateInit)>,
    events: Vec<Value>,
}

/// Plays a scenario on a network with `faults` and returns its transcript.
pub async fn play(scenario: &Scenario, faults: Faults) -> Value {
    let seed = Sha256::digest(&scenario.name)[0];
    let mut stage = Stage {
        local: start(seed).await,
        wallets: BTreeMap::new(),
        contracts: BTreeMap::new(),
        events: Vec::new(),
    };
    stage.local.order(Control::Faults(faults)).await;
    let faucet = genesis(seed).faucet().expect("a faucet");
    let (sender, init) = (faucet.address().clone(), faucet.state_init().clone());
    stage.wallets.insert("faucet".into(), faucet);
    for (number, step) in scenario.steps.iter().enumerate() {
        let at = format!("{}, step {number}", scenario.name);
        stage.step(step, &at).await;
    }
    let transactions = stage.transactions().await;
    let code = Bag(init.code.expect("code"));
    let data = Bag(init.data.expect("data"));
    let balance = devnet::FAUCET_BALANCE.to_string();
    let first = json!({ "address": sender.to_string(), "code": code, "data": data, "balance": balance, "time": BEGIN });
    json!({ "name": scenario.name, "first": first, "events": stage.events, "accounts": transactions })
}

fn key(name: &str) -> SecretKey {
    SecretKey::from_seed(&Sha256::digest(format!("key {name}")).into())
}

impl Stage {
    async fn step(&mut self, step: &Step, at: &str) {
        match &step.act {
            Act::Fund { who, amount } => self.fund(who, *amount).await,
            Act::Advance(seconds) => {
                self.local.order(Control::Advance { seconds: *seconds }).await;
            }
            Act::Get(get) => self.get(get, at).await,
            act => {
                let (by, to, value, init, body) = self.message(act).await;
                let found = self.call(&by, &to, value, init, body).await;
                assert_eq!(found, Some(step.exit), "{at}: exit code of {act:?}");
            }
        }
    }

    /// Who sends what to whom.
    async fn message(&mut self, act: &Act) -> (String, Address, u64, Option<StateInit>, Cell) {
        match act {
            Act::Pool { name, owner, grace, value } => {
                let terms = pool::Terms { owner: self.address(owner), salt: 1, grace: *grace };
                self.deploy(name, owner, *value, terms.state_init().expect("a pool"))
            }
            Act::Vault { name, owner, key: client, pool, value } => {
                let client_key = key(client).public().to_bytes();
                let terms = vault::Terms {
                    client_key,
                    owner: self.address(owner),
                    pool: self.address(pool),
                    salt: 1,
                };
                self.deploy(name, owner, *value, terms.state_init().expect("a vault"))
            }
            Act::Root { name, by, owners, threshold, delay, value } => {
                let owners = owners.iter().zip(0..).map(|(owner, bit)| (self.address(owner), bit)).collect();
                let terms = root::Terms { owners, threshold: *threshold, delay: *delay };
                self.deploy(name, by, *value, terms.state_init().expect("a root"))
            }
            Act::Register(step) => self.plain(&step.by, &step.pool, GAS, self.register(step).await),
            Act::ClaimVault(step) => {
                let value = step.value.unwrap_or(GAS);
                self.plain(&step.by, &step.vault, value, self.claim_vault(step).await)
            }
            Act::ClaimPool(step) => self.plain(&step.by, &step.pool, GAS, self.claim_pool(step)),
            Act::Surplus(step) => self.plain(&step.by, &step.pool, GAS, self.surplus(step)),
            Act::Send(step) => self.plain(&step.by, &step.to, step.value, body(step)),
            Act::Propose { by, root, price } => {
                let price = root::Price { base: *price, prompt: 1, cached: 2, completion: 3, reasoning: 4 };
                let change = root::Change::SetPrice([7; 32], price);
                self.plain(by, root, GAS, root::propose(&change).expect("a proposal"))
            }
            Act::Fund { .. } | Act::Advance(_) | Act::Get(_) => unreachable!("no message"),
        }
    }

    fn deploy(
        &mut self,
        name: &str,
        by: &str,
        value: u64,
        init: StateInit,
    ) -> (String, Address, u64, Option<StateInit>, Cell) {
        let address = message::address_of(&init).expect("an address");
        self.contracts.insert(name.into(), (address.clone(), init.clone()));
        (by.into(), address, value, Some(init), Cell::default())
    }

    fn plain(
        &self,
        by: &str,
        to: &str,
        value: u64,
        body: Cell,
    ) -> (String, Address, u64, Option<StateInit>, Cell) {
        (by.into(), self.address(to), value, None, body)
    }

    fn address(&self, name: &str) -> Address {
        match (self.wallets.get(name), self.contracts.get(name)) {
            (Some(wallet), _) => wallet.address().clone(),
            (None, Some((address, _))) => address.clone(),
            (None, None) => panic!("nobody is called `{name}`; fund it or deploy it first"),
        }
    }

    async fn fund(&mut self, who: &[String], amount: u64) {
        let mut messages = Vec::new();
        for name in who {
            let seed = Sha256::digest(format!("wallet {name}")).into();
            let wallet = Wallet::from_seed(&seed, self.local.network.global_id).expect("a wallet");
            let payment =
                message::internal(wallet.address(), u128::from(amount), false, None, Cell::default());
            messages.push((payment.expect("a payment"), 3));
            self.wallets.insert(name.clone(), wallet);
        }
        self.transfer("faucet", &messages).await;
    }

    /// Sends a message from a wallet and returns the exit code of whoever got it.
    async fn call(
        &mut self,
        by: &str,
        to: &Address,
        value: u64,
        init: Option<StateInit>,
        body: Cell,
    ) -> Option<i32> {
        let before = self.account(to).await.last_lt();
        let message = message::internal(to, u128::from(value), true, init, body).expect("a message");
        self.transfer(by, &[(message, 3)]).await;
        let after = self.account(to).await;
        let transactions =
            self.local.client.transactions(&after, before, 256).await.expect("proven transactions");
        transactions.last().and_then(|first| first.exit_code)
    }

    async fn transfer(&mut self, by: &str, messages: &[(Cell, u8)]) {
        let wallet = &self.wallets[by];
        let before = self.account(wallet.address()).await;
        let seqno = sequence(&before).expect("a wallet");
        let until = before.block().gen_utime() + 600;
        let transfer = wallet.transfer(seqno, until, messages).expect("a transfer");
        self.local.client.send(&transfer).await.expect("the chain takes it");
        let fees =
            |facts: &Value| facts["fees"].as_str().and_then(|fees| fees.parse::<u64>().ok()).unwrap_or(0);
        let before_fees = fees(&self.local.order(Control::Facts).await);
        let facts = self.local.settle().await;
        let (time, cost) = (facts["time"].clone(), fees(&facts) - before_fees);
        let done =
            changed(&self.local.client, wallet.address(), before.last_lt(), Duration::from_secs(5)).await;
        assert!(done.expect("a proven account").is_some(), "the wallet of {by} did not act");
        self.events.push(json!({ "now": time, "message": Bag(transfer), "fees": cost }));
    }

    async fn account(&self, address: &Address) -> ProvenAccount {
        self.local.client.account(address).await.expect("a proven account")
    }

    async fn now(&self) -> u32 {
        self.local.client.head().await.expect("a proven head").gen_utime()
    }

    async fn register(&self, step: &Register) -> Cell {
        let session = Session {
            global_id: self.local.network.global_id,
            pool: account_of(&self.address(&step.pool)),
            epoch: step.epoch,
            key: key(&step.key).public().to_bytes(),
            valid_until: self.now().await + MONTH,
        };
        let signer = key(step.signed_by.as_ref().unwrap_or(&step.key));
        pool::register(&signer.sign(session), step.allot).expect("a message")
    }

    async fn claim_vault(&self, step: &ClaimVault) -> Cell {
        let now = self.now().await;
        let global_id = step.network.unwrap_or(self.local.network.global_id);
        let vault = account_of(&self.address(step.place.as_ref().unwrap_or(&step.vault)));
        let cap = Cap {
            global_id,
            vault,
            valid_until: if step.expired { now - 1 } else { now + MONTH },
            session_key: key(&step.session).public().to_bytes(),
            cap: step.cap,
        };
        let used = Use { global_id, vault, total: step.total };
        vault::claim(&signed(&step.cap_key, cap), &signed(&step.use_key, used)).expect("a message")
    }

    fn claim_pool(&self, step: &ClaimPool) -> Cell {
        let payout = Payout {
            global_id: self.local.network.global_id,
            pool: account_of(&self.address(&step.pool)),
            epoch: step.epoch,
            worker: account_of(&self.address(&step.worker)),
            total: step.total,
        };
        pool::claim(&signed(&step.key, payout)).expect("a message")
    }

    fn surplus(&self, step: &SurplusOf) -> Cell {
        let surplus = Surplus {
            global_id: self.local.network.global_id,
            pool: account_of(&self.address(&step.pool)),
            epoch: step.epoch,
            total: step.total,
        };
        pool::take_surplus(&signed(&step.key, surplus)).expect("a message")
    }

    /// Runs a get-method on the proven state and compares what it says.
    async fn get(&mut self, get: &Get, at: &str) {
        let address = self.address(&get.of);
        let account = self.account(&address).await;
        let args: Vec<_> = get.args.iter().map(|arg| Arg::Int(BigInt::from(*arg))).collect();
        let mut values = account.get(&get.method, &args).unwrap_or_else(|error| panic!("{at}: {error}"));
        for _ in 0..get.skip {
            values.next_value("something").expect("as many values");
        }
        let mut says = Vec::new();
        for (place, expected) in get.is.iter().enumerate() {
            let found = values.next_int().expect("a number");
            if let Some(expected) = expected {
                assert_eq!(found, BigInt::from(*expected), "{at}: {} value {}", get.method, get.skip + place);
            }
            says.push(found.to_string());
        }
        let now = account.block().gen_utime();
        self.events.push(json!({
            "now": now, "of": address.to_string(), "get": get.method, "args": get.args, "skip": get.skip, "is": says,
        }));
    }

    /// All transactions of everybody, oldest first, and what each has left.
    async fn transactions(&self) -> Value {
        let everybody = self.wallets.values().map(|wallet| wallet.address().clone());
        let everybody = everybody.chain(self.contracts.values().map(|(address, _)| address.clone()));
        let mut out = serde_json::Map::new();
        for address in everybody {
            let account = self.account(&address).await;
            let mut all =
                self.local.client.transactions(&account, 0, 256).await.expect("proven transactions");
            all.reverse();
            let all: Vec<_> = all.iter().map(summary).collect();
            let left = account.balance().to_string();
            out.insert(address.to_string(), json!({ "balance": left, "transactions": all }));
        }
        Value::Object(out)
    }
}

fn signed<V: Voucher>(by: &str, voucher: V) -> Signed<V> {
    key(by).sign(voucher)
}

fn body(step: &Send) -> Cell {
    let number = || u32::try_from(step.amount).expect("a number of a proposal");
    let body = match step.body.as_str() {
        "top_up" => ton::contract::top_up(),
        "start_close" => vault::start_close(),
        "finish_close" => vault::finish_close(),
        "allot" => pool::allot(step.amount),
        "withdraw" => pool::withdraw(step.amount),
        "retire" => pool::retire(),
        "close" => pool::close(),
        "approve" => root::approve(number()),
        "revoke" => root::revoke(number()),
        "execute" => root::execute(number()),
        other => panic!("no message is called `{other}`"),
    };
    body.expect("a message")
}

/// What the emulator must have come to as well.
fn summary(transaction: &ProvenTransaction) -> Value {
    json!({
        "exit": transaction.exit_code,
        "action": transaction.action_code,
        "aborted": transaction.aborted,
        "gas": transaction.gas_used,
        "fees": transaction.total_fees.to_string(),
        "out": transaction.out_msgs.len(),
    })
}
