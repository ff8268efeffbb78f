//! The compiled contracts, on this chain, do step by step what the plain model of them says that the invariants of
//! payments are tested on (`guest/payment/tests/model/chain.rs`).
//!
//! Before each message the model is set to what is proven of the chain; then both handle it, and what is proven after
//! must be what the model has: sessions, what their pots got, gave and paid, what the vault paid, and what is closed.
//! Amounts are tenths of a TON, and storage fees far below: only rules can make a difference. Gas is not compared here.

#[allow(dead_code, reason = "the model's other test uses the rest")]
#[path = "../../../guest/payment/tests/model/chain.rs"]
mod chain;
mod common;

use chain::{Chain, Fault, Message, Pool, Pot, Vault};
use common::{Local, TON, start};
use payment::{Cap, Payout, SecretKey, Session, Surplus, Use};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use ton::contract::{account_of, pool, vault};
use ton::forms::Control;
use ton::wallet::Wallet;
use ton::{Address, Cell, Ledger, message};

const TENTH: u64 = 100_000_000;
/// What storage may cost in a whole run, at most.
const FEES: u64 = 2_000_000;
/// Seconds by which the chain's clock may run ahead of the model's within a step.
const DRIFT: u32 = 100;

struct Run {
    local: Local,
    owner: Wallet,
    client: Wallet,
    pool: Address,
    vault: Address,
    model: Chain,
    changed: usize,
}

fn key(n: u64) -> SecretKey {
    SecretKey::from_seed(&[n as u8 % 4 + 1; 32])
}

fn worker(n: u64) -> payment::Address {
    payment::Address { workchain: 0, hash: [n as u8 % 2 + 0x70; 32] }
}

/// Numbers out of one: each call takes some of its bits.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        let rolled = self.0 % sides;
        self.0 /= sides;
        rolled
    }
}

async fn deploy(local: &Local, by: &Wallet, init: tycho_types::models::StateInit, value: u128) -> Address {
    let address = message::address_of(&init).expect("a StateInit");
    let deploy = message::internal(&address, value, true, Some(init), Cell::default()).expect("a message");
    local.send(by, &[(deploy, 3)]).await;
    address
}

impl Run {
    async fn begin(fault: Fault) -> Self {
        let local = start(61).await;
        let owner = local.wallet(11, 100_000_000_000).await;
        let client = local.wallet(12, 100_000_000_000).await;
        let terms = pool::Terms { owner: owner.address().clone(), salt: 7, grace: chain::GRACE };
        let pool = deploy(&local, &owner, terms.state_init().expect("terms"), 10 * TON).await;
        let client_key = key(0).public();
        let (owned, salt) = (client.address().clone(), 9);
        let terms =
            vault::Terms { client_key: client_key.to_bytes(), owner: owned, pool: pool.clone(), salt };
        let vault = deploy(&local, &client, terms.state_init().expect("terms"), 5 * TON).await;
        let (at_pool, at_vault) = (account_of(&pool), account_of(&vault));
        let open = Vault {
            client_key,
            owner: account_of(client.address()),
            claimed: 0,
            balance: 0,
            closes_at: 0,
            closed: false,
        };
        let empty = Pool {
            address: at_pool,
            owner: account_of(owner.address()),
            balance: 0,
            epoch: 0,
            closed: false,
            pots: BTreeMap::new(),
        };
        let model = Chain {
            fault,
            global_id: local.network.global_id,
            now: 0,
            seqno: 0,
            pool: empty,
            vaults: BTreeMap::from([(at_vault, open)]),
            wallets: BTreeMap::new(),
            flying: Vec::new(),
        };
        let mut run = Self { local, owner, client, pool, vault, model, changed: 0 };
        run.model = run.proven().await;
        run
    }

    /// The model, set to what is proven now.
    async fn proven(&self) -> Chain {
        let at_pool = self.local.client.account(&self.pool).await.expect("a proven pool");
        let at_vault = self.local.client.account(&self.vault).await.expect("a proven vault");
        let real = pool::read(&at_pool).expect("a pool");
        let mut model = self.model.clone();
        model.now = at_pool.block().gen_utime();
        (model.pool.epoch, model.pool.closed) = (real.epoch, real.closed);
        let paid = |epoch: u32| {
            let of = |n: u64| (worker(n), ton::contract::address_of(&worker(n)));
            let row =
                |n| pool::read_paid(&at_pool, epoch, &of(n).1).map(|paid| (of(n).0, paid)).expect("a row");
            [0, 1].map(row).into_iter().filter(|(_, paid)| *paid > 0).collect()
        };
        let pots = real.pots.iter().map(|(epoch, p)| {
            let (key, closes_at, funded, spent, surplus) = (p.key, p.closes_at, p.funded, p.spent, p.surplus);
            (*epoch, Pot { key, closes_at, funded, spent, surplus, paid: paid(*epoch) })
        });
        model.pool.pots = pots.collect();
        let inside: u64 = model.pool.pots.values().map(|p| p.funded - p.spent).sum();
        model.pool.balance = inside + u64::try_from(real.reserve.max(0)).expect("a reserve");
        let real = vault::read(&at_vault).expect("a vault");
        let vault = model.vaults.values_mut().next().expect("the vault");
        (vault.claimed, vault.balance) = (real.claimed, real.free);
        (vault.closes_at, vault.closed) = (real.closes_at, real.closed);
        model.flying.clear();
        model
    }

    /// Both handle a message, and are compared.
    async fn both(
        &mut self,
        by_owner: bool,
        to_pool: bool,
        body: Cell,
        message: Message,
    ) -> Result<(), TestCaseError> {
        let before = self.proven().await;
        self.model = before.clone();
        self.model.send(&message);
        while !self.model.flying.is_empty() {
            self.model.arrive(0);
        }
        let (by, to) = (
            if by_owner { &self.owner } else { &self.client },
            if to_pool { &self.pool } else { &self.vault },
        );
        let sent = message::internal(to, TON / 10, true, None, body).expect("a message");
        self.local.send(by, &[(sent, 3)]).await;
        let real = self.proven().await;
        let near = |pot: &Pot| pot.closes_at != 0 && pot.closes_at.abs_diff(before.now) <= DRIFT;
        if before.pool.pots.values().any(near) {
            return Ok(()); // whether it is closed depends on the second
        }
        let what = format!(
            "{message:?}\nbefore {}\nmodel  {}\nproven {}",
            short(&before),
            short(&self.model),
            short(&real)
        );
        prop_assert!(same(&self.model, &real), "{}", what);
        self.changed += usize::from(!same(&before, &real));
        Ok(())
    }

    async fn step(&mut self, kind: u8, dice: &mut Dice) -> Result<(), TestCaseError> {
        let (global_id, at_pool, at_vault) =
            (self.model.global_id, account_of(&self.pool), account_of(&self.vault));
        let epoch = self.model.pool.epoch;
        let by_owner = dice.roll(8) > 0;
        let from = account_of(if by_owner { self.owner.address() } else { self.client.address() });
        let amount = dice.roll(40) * TENTH + TENTH / 2;
        match kind {
            0..=4 => self.vault_claim(dice, by_owner, amount).await,
            5..=7 => self.register(dice, by_owner, amount).await,
            8..=13 => self.pool_claim(dice, by_owner).await,
            14 | 15 => {
                let surplus = Surplus { global_id, pool: at_pool, epoch, total: amount };
                let surplus = self.holder(epoch, dice).sign(surplus);
                let body = pool::take_surplus(&surplus).expect("a body");
                self.both(by_owner, true, body, Message::TakeSurplus { surplus }).await
            }
            16 | 17 if amount.abs_diff(self.model.reserve()) > 3 * TENTH => {
                let body = pool::allot(amount).expect("a body");
                self.both(by_owner, true, body, Message::Allot { amount, from }).await
            }
            18 if (4 * amount).abs_diff(self.model.reserve()) > 3 * TENTH => {
                let amount = 4 * amount;
                let body = pool::withdraw(amount).expect("a body");
                self.both(by_owner, true, body, Message::Withdraw { amount, from }).await
            }
            19 => self.both(by_owner, true, pool::retire().expect("a body"), Message::Retire { from }).await,
            20 if dice.roll(3) == 0 => {
                self.both(by_owner, true, pool::close().expect("a body"), Message::Close { from }).await
            }
            21 => {
                let message = Message::StartClose { vault: at_vault, from };
                self.both(by_owner, false, vault::start_close().expect("a body"), message).await
            }
            22 => {
                let message = Message::FinishClose { vault: at_vault, from };
                self.both(by_owner, false, vault::finish_close().expect("a body"), message).await
            }
            23 => {
                let seconds =
                    [1_000, chain::GRACE + 2 * DRIFT, chain::CLOSE_DELAY + 2 * DRIFT][dice.roll(3) as usize];
                self.local.order(Control::Advance { seconds }).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A claim on the vault: mostly right, else for another contract, expired, by another key or over the cap.
    async fn vault_claim(
        &mut self,
        dice: &mut Dice,
        by_owner: bool,
        amount: u64,
    ) -> Result<(), TestCaseError> {
        let (global_id, now) = (self.model.global_id, self.model.now);
        let (at_pool, at_vault) = (account_of(&self.pool), account_of(&self.vault));
        let total = dice.roll(60) * TENTH;
        let session_key = key(dice.roll(4)).public().to_bytes();
        let valid_until = if dice.roll(8) == 0 { now - 1 } else { now + 100_000 };
        let vault = if dice.roll(8) == 0 { at_pool } else { at_vault };
        let cap = Cap {
            global_id,
            vault,
            valid_until,
            session_key,
            cap: (total + amount).saturating_sub(10 * TENTH),
        };
        let cap = key(u64::from(dice.roll(8) == 0)).sign(cap);
        let right = (0..4).find(|n| key(*n).public().to_bytes() == session_key).unwrap_or(0);
        let used = key(right + u64::from(dice.roll(8) == 0)).sign(Use { global_id, vault: at_vault, total });
        let body = vault::claim(&cap, &used).expect("a body");
        self.both(by_owner, false, body, Message::VaultClaim { vault: at_vault, cap, used }).await
    }

    /// A new session, sometimes for another network or epoch or by another key. Amounts that come near the reserve are
    /// left out: fees decide there.
    async fn register(&mut self, dice: &mut Dice, by_owner: bool, amount: u64) -> Result<(), TestCaseError> {
        let (global_id, now, epoch) = (self.model.global_id, self.model.now, self.model.pool.epoch);
        let at_pool = account_of(&self.pool);
        let from = account_of(if by_owner { self.owner.address() } else { self.client.address() });
        let near = amount.abs_diff(self.model.reserve()) < 3 * TENTH;
        let session = Session {
            global_id: if dice.roll(8) == 0 { global_id + 1 } else { global_id },
            pool: at_pool,
            epoch: epoch + 1 + u32::from(dice.roll(8) == 0),
            key: key(dice.roll(4)).public().to_bytes(),
            valid_until: now + 100_000,
        };
        let right = (0..4).find(|n| key(*n).public().to_bytes() == session.key).unwrap_or(0);
        let session = key(right + u64::from(dice.roll(8) == 0)).sign(session);
        let body = pool::register(&session, amount).expect("a body");
        let message = Message::Register { session, allot: amount, from };
        if near { Ok(()) } else { self.both(by_owner, true, body, message).await }
    }

    /// A worker's claim on the pot of any epoch so far, or of the one to come.
    async fn pool_claim(&mut self, dice: &mut Dice, by_owner: bool) -> Result<(), TestCaseError> {
        let (global_id, epoch) = (self.model.global_id, self.model.pool.epoch);
        let at_pool = account_of(&self.pool);
        let epoch =
            u32::try_from(dice.roll(u64::from(epoch) + 1)).expect("small") + u32::from(dice.roll(2) == 1);
        let (worker, total) = (worker(dice.roll(2)), dice.roll(80) * TENTH);
        let payout = Payout { global_id, pool: at_pool, epoch, worker, total };
        let payout = self.holder(epoch, dice).sign(payout);
        self.both(by_owner, true, pool::claim(&payout).expect("a body"), Message::PoolClaim { payout }).await
    }

    /// The key of a session, or sometimes another.
    fn holder(&self, epoch: u32, dice: &mut Dice) -> SecretKey {
        let named = self.model.pool.pots.get(&epoch).map(|pot| pot.key);
        let right = (0..4).find(|n| Some(key(*n).public().to_bytes()) == named).unwrap_or(0);
        key(right + u64::from(dice.roll(8) == 0))
    }
}

/// What is compared, in a line.
fn short(chain: &Chain) -> String {
    let pot = |(epoch, p): (&u32, &Pot)| {
        let paid: Vec<_> = p.paid.values().collect();
        format!(
            "[{epoch} {:02x} closes {} {}-{} surplus {} paid {paid:?}]",
            p.key[0], p.closes_at, p.funded, p.spent, p.surplus
        )
    };
    let pots: Vec<_> = chain.pool.pots.iter().map(pot).collect();
    let vault = |v: &Vault| {
        format!("claimed {} free {} closes {} closed {}", v.claimed, v.balance, v.closes_at, v.closed)
    };
    let vaults: Vec<_> = chain.vaults.values().map(vault).collect();
    let Chain { now, pool: Pool { epoch, closed, .. }, .. } = chain;
    format!("{now}: epoch {epoch} closed {closed} reserve {} {pots:?} {vaults:?}", chain.reserve())
}

/// Whether two states are the same but for fees and seconds.
fn same(a: &Chain, b: &Chain) -> bool {
    let live = |c: &Chain| {
        let now = b.now;
        let open =
            c.pool.pots.clone().into_iter().filter(move |(_, p)| p.closes_at == 0 || p.closes_at > now);
        open.collect::<Vec<_>>()
    };
    let close = |a: u64, b: u64| a.abs_diff(b) <= FEES;
    let time = |a: u32, b: u32| (a == 0) == (b == 0) && a.abs_diff(b) <= DRIFT;
    let (of_a, of_b) = (live(a), live(b));
    let pots = of_a.len() == of_b.len()
        && of_a.iter().zip(&of_b).all(|((e, p), (f, q))| {
            let (keys, times) = ((e, p.key) == (f, q.key), time(p.closes_at, q.closes_at));
            let rows =
                p.paid.keys().eq(q.paid.keys()) && p.paid.iter().all(|(w, paid)| close(*paid, q.paid[w]));
            let sums = close(p.funded, q.funded) && close(p.spent, q.spent) && close(p.surplus, q.surplus);
            keys && times && rows && sums
        });
    let vaults = a.vaults.values().zip(b.vaults.values()).all(|(v, w)| {
        let claimed = v.closed || close(v.claimed, w.claimed);
        v.closed == w.closed && claimed && time(v.closes_at, w.closes_at)
    });
    // The coins that come with an owner's message stay, less its gas: a tenth.
    let reserve = a.reserve().abs_diff(b.reserve()) <= 2 * TENTH;
    (a.pool.epoch, a.pool.closed) == (b.pool.epoch, b.pool.closed) && pots && vaults && reserve
}

async fn story(fault: Fault, steps: Vec<(u8, u64)>) -> Result<usize, TestCaseError> {
    let mut run = Run::begin(fault).await;
    let mut first = Dice(0x0202_0202_0101);
    run.step(5, &mut first).await?;
    for (kind, number) in steps {
        run.step(kind, &mut Dice(number)).await?;
    }
    Ok(run.changed)
}

fn steps() -> impl Strategy<Value = Vec<(u8, u64)>> {
    proptest::collection::vec((0u8..24, any::<u64>()), 30..60)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().expect("a runtime")
}

proptest! {
    #![proptest_config(Config { cases: 4, max_shrink_iters: 0, failure_persistence: None, ..Config::default() })]

    #[test]
    fn contracts_do_what_the_model_says(steps in steps()) {
        let changed = runtime().block_on(story(Fault::None, steps))?;
        prop_assert!(changed >= 1, "no message changed anything: this shows nothing");
    }
}

#[test]
fn a_model_without_one_of_the_rules_is_told_from_the_contracts() {
    let faults = [
        Fault::OwnerTakesPots,
        Fault::PartialBurns,
        Fault::OnePot,
        Fault::NoGrace,
        Fault::PaysTwice,
        Fault::NoCap,
        Fault::AnyKey,
    ];
    let mut runner = TestRunner::deterministic();
    for fault in faults {
        let differs = |_: &usize| {
            let steps = steps().new_tree(&mut runner).expect("steps").current();
            runtime().block_on(story(fault, steps)).is_err()
        };
        let found = (0..60).find(differs);
        eprintln!("{fault:?}: story {found:?}");
        assert!(found.is_some(), "{fault:?} made no difference in 60 stories");
    }
}
