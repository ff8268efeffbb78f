//! The two contracts that hold money, as plain Rust: the same rules as `contracts/*.tolk`, without gas and storage fees.
//!
//! Messages from outside may be lost, repeated and reordered; messages between contracts arrive once, in any order. Each
//! rule can be left out by a [`Fault`], to show that the invariants notice.

use payment::view::{PoolView, PotView, Seen, VaultView};
use payment::{Address, Cap, Payout, PublicKey, Session, Signed, Surplus, Use};
use std::collections::BTreeMap;

/// A rule that this chain leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// A pool pays any session's voucher from everything that it has.
    OnePot,
    /// A new session takes what the one before had.
    NoGrace,
    /// A pool forgets what it paid.
    PaysTwice,
    /// A vault doesn't ask for the client's cap.
    NoCap,
    /// A vault takes any key's use.
    AnyKey,
    /// What a vault paid counts as paid although it came back.
    BounceIgnored,
    /// What comes back to a closed vault stays nowhere.
    BounceVanishes,
    /// A closed vault starts anew.
    Revived,
    /// The owner may withdraw from pots.
    OwnerTakesPots,
    /// A voucher that the pot can't pay whole counts as paid.
    PartialBurns,
}

pub const GRACE: u32 = 7_200;
pub const CLOSE_DELAY: u32 = 86_400;
pub const GLOBAL_ID: i32 = -239;

#[derive(Clone, Debug)]
pub struct Vault {
    pub client_key: PublicKey,
    pub owner: Address,
    pub claimed: u64,
    pub balance: u64,
    pub closes_at: u32,
    pub closed: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Pot {
    pub key: [u8; 32],
    pub closes_at: u32,
    pub funded: u64,
    pub spent: u64,
    pub surplus: u64,
    pub paid: BTreeMap<Address, u64>,
}

#[derive(Clone, Debug)]
pub struct Pool {
    pub address: Address,
    pub owner: Address,
    pub balance: u64,
    pub epoch: u32,
    pub closed: bool,
    pub pots: BTreeMap<u32, Pot>,
}

/// What somebody sends to a contract.
#[derive(Clone, Copy, Debug)]
pub enum Message {
    VaultClaim { vault: Address, cap: Signed<Cap>, used: Signed<Use> },
    StartClose { vault: Address, from: Address },
    FinishClose { vault: Address, from: Address },
    Deploy { vault: Address },
    Register { session: Signed<Session>, allot: u64, from: Address },
    Allot { amount: u64, from: Address },
    Retire { from: Address },
    Withdraw { amount: u64, from: Address },
    Close { from: Address },
    PoolClaim { payout: Signed<Payout> },
    TakeSurplus { surplus: Signed<Surplus> },
}

/// Money between contracts.
#[derive(Clone, Copy, Debug)]
pub enum Transfer {
    Payment { vault: Address, amount: u64 },
    Bounce { vault: Address, amount: u64 },
}

#[derive(Clone, Debug)]
pub struct Chain {
    pub fault: Fault,
    pub global_id: i32,
    pub now: u32,
    pub seqno: u32,
    pub pool: Pool,
    pub vaults: BTreeMap<Address, Vault>,
    pub wallets: BTreeMap<Address, u64>,
    pub flying: Vec<Transfer>,
}

impl Chain {
    /// All coins there are.
    pub fn coins(&self) -> u64 {
        let flying = self.flying.iter().map(|t| match t {
            Transfer::Payment { amount, .. } | Transfer::Bounce { amount, .. } => *amount,
        });
        let vaults = self.vaults.values().map(|v| v.balance);
        self.pool.balance + self.wallets.values().sum::<u64>() + vaults.sum::<u64>() + flying.sum::<u64>()
    }

    pub fn seen(&self) -> Seen {
        Seen { seqno: self.seqno, time: self.now }
    }

    pub fn pool_view(&self) -> PoolView {
        let live = self.pool.pots.iter().filter(|(_, p)| p.closes_at == 0 || p.closes_at > self.now);
        let view = |(epoch, pot): (&u32, &Pot)| {
            let Pot { key, closes_at, funded, spent, .. } = *pot;
            (*epoch, PotView { key, closes_at, funded, spent })
        };
        let Pool { epoch, closed, .. } = self.pool;
        PoolView { seen: self.seen(), grace: GRACE, epoch, pots: live.map(view).collect(), closed }
    }

    /// What each pot paid somebody.
    pub fn paid(&self, worker: &Address) -> BTreeMap<u32, u64> {
        let row = |(epoch, pot): (&u32, &Pot)| Some((*epoch, *pot.paid.get(worker)?));
        self.pool.pots.iter().filter_map(row).collect()
    }

    pub fn vault_view(&self, vault: &Address) -> VaultView {
        let v = &self.vaults[vault];
        VaultView {
            seen: self.seen(),
            client_key: v.client_key.to_bytes(),
            pool: self.pool.address,
            claimed: v.claimed,
            free: v.balance,
            closes_at: v.closes_at,
            closed: v.closed,
        }
    }

    /// Handles one message; none where a contract throws, and nothing has changed then.
    pub fn send(&mut self, message: &Message) -> Option<()> {
        self.seqno += 1;
        self.melt();
        match *message {
            Message::VaultClaim { vault, cap, used } => self.vault_claim(vault, cap, used),
            Message::StartClose { vault, from } => {
                let now = self.now;
                let vault = self.vaults.get_mut(&vault).filter(|v| v.owner == from && !v.closed)?;
                if vault.closes_at == 0 {
                    vault.closes_at = now + CLOSE_DELAY;
                }
                Some(())
            }
            Message::FinishClose { vault, from } => self.finish_close(vault, from),
            Message::Deploy { vault } => {
                let vault = self.vaults.get_mut(&vault)?;
                if self.fault == Fault::Revived && vault.closed {
                    (vault.closed, vault.closes_at, vault.claimed) = (false, 0, 0);
                }
                Some(())
            }
            Message::Register { session, allot, from } => self.register(session, allot, from),
            Message::Allot { amount, from } => {
                self.owner(from)?;
                (amount <= self.reserve()).then_some(())?;
                self.fund(amount)
            }
            Message::Retire { from } => {
                self.owner(from)?;
                self.retire();
                Some(())
            }
            Message::Withdraw { amount, from } => {
                self.owner(from)?;
                let most =
                    if self.fault == Fault::OwnerTakesPots { self.pool.balance } else { self.reserve() };
                (amount <= most).then_some(())?;
                self.pool.balance -= amount;
                self.pay(from, amount);
                Some(())
            }
            Message::Close { from } => {
                self.owner(from)?;
                self.pool.pots.is_empty().then_some(())?;
                self.pool.closed = true;
                let all = std::mem::take(&mut self.pool.balance);
                self.pay(from, all);
                Some(())
            }
            Message::PoolClaim { payout } => self.pool_claim(payout),
            Message::TakeSurplus { surplus } => self.take_surplus(surplus),
        }
    }

    /// Lets money that is under way arrive.
    pub fn arrive(&mut self, index: usize) {
        if self.flying.is_empty() {
            return;
        }
        self.seqno += 1;
        self.melt();
        match self.flying.swap_remove(index % self.flying.len()) {
            Transfer::Payment { vault, amount } if self.pool.closed => {
                self.flying.push(Transfer::Bounce { vault, amount });
            }
            Transfer::Payment { amount, .. } => {
                self.pool.balance += amount;
                self.fund(amount);
            }
            Transfer::Bounce { vault, amount } => {
                let vault = self.vaults.get_mut(&vault).expect("a vault that paid");
                if vault.closed {
                    let owner = vault.owner;
                    if self.fault != Fault::BounceVanishes {
                        self.pay(owner, amount);
                    }
                    return;
                }
                vault.balance += amount;
                if self.fault != Fault::BounceIgnored {
                    vault.claimed -= amount;
                }
            }
        }
    }

    fn vault_claim(&mut self, at: Address, cap: Signed<Cap>, used: Signed<Use>) -> Option<()> {
        let now = self.now;
        let (fault, global_id) = (self.fault, self.global_id);
        let vault = self.vaults.get_mut(&at).filter(|v| !v.closed)?;
        let limit = if fault == Fault::NoCap {
            u64::MAX
        } else {
            let cap = *cap.verify(&vault.client_key).ok()?.voucher();
            (cap.vault == at && cap.global_id == global_id && now <= cap.valid_until).then_some(cap.cap)?
        };
        let used = if fault == Fault::AnyKey {
            used.voucher
        } else {
            *used.verify(&PublicKey::from_bytes(&cap.voucher.session_key).ok()?).ok()?.voucher()
        };
        (used.vault == at && used.global_id == global_id && used.total <= limit).then_some(())?;
        let pay = used.total.saturating_sub(vault.claimed).min(vault.balance);
        (pay > 0).then_some(())?;
        vault.claimed += pay;
        vault.balance -= pay;
        self.flying.push(Transfer::Payment { vault: at, amount: pay });
        Some(())
    }

    fn finish_close(&mut self, vault: Address, from: Address) -> Option<()> {
        let now = self.now;
        let vault = self.vaults.get_mut(&vault).filter(|v| v.owner == from && !v.closed)?;
        (vault.closes_at != 0 && now >= vault.closes_at).then_some(())?;
        vault.closed = true;
        let rest = std::mem::take(&mut vault.balance);
        self.pay(from, rest);
        Some(())
    }

    fn register(&mut self, session: Signed<Session>, allot: u64, from: Address) -> Option<()> {
        self.owner(from)?;
        let key = PublicKey::from_bytes(&session.voucher.key).ok()?;
        let session = *session.verify(&key).ok()?.voucher();
        let right = session.pool == self.pool.address
            && session.global_id == self.global_id
            && session.epoch == self.pool.epoch + 1
            && self.now <= session.valid_until
            && allot <= self.reserve();
        right.then_some(())?;
        self.retire();
        (self.pool.pots.len() < 8).then_some(())?;
        self.pool.epoch = session.epoch;
        let pot = Pot { key: session.key, funded: allot, ..Pot::default() };
        self.pool.pots.insert(session.epoch, pot);
        Some(())
    }

    fn pool_claim(&mut self, payout: Signed<Payout>) -> Option<()> {
        let Payout { epoch, worker, total, pool, global_id } = payout.voucher;
        (pool == self.pool.address && global_id == self.global_id).then_some(())?;
        let balance = self.pool.balance;
        let fault = self.fault;
        let pot = self.pool.pots.get_mut(&epoch)?;
        payout.verify(&PublicKey::from_bytes(&pot.key).ok()?).ok()?;
        let paid = if fault == Fault::PaysTwice { 0 } else { pot.paid.get(&worker).copied().unwrap_or(0) };
        let left = if fault == Fault::OnePot { balance } else { pot.funded.saturating_sub(pot.spent) };
        let due = total.saturating_sub(paid);
        let pay = due.min(left).min(balance);
        (pay > 0).then_some(())?;
        pot.spent += pay;
        pot.paid.insert(worker, if fault == Fault::PartialBurns { total } else { paid + pay });
        self.pool.balance -= pay;
        self.pay(worker, pay);
        Some(())
    }

    fn take_surplus(&mut self, surplus: Signed<Surplus>) -> Option<()> {
        let Surplus { epoch, total, pool, .. } = surplus.voucher;
        (pool == self.pool.address).then_some(())?;
        let pot = self.pool.pots.get_mut(&epoch)?;
        surplus.verify(&PublicKey::from_bytes(&pot.key).ok()?).ok()?;
        let take = total.saturating_sub(pot.surplus).min(pot.funded - pot.spent);
        (take > 0).then_some(())?;
        pot.surplus += take;
        pot.spent += take;
        Some(())
    }

    fn owner(&self, from: Address) -> Option<()> {
        (from == self.pool.owner && !self.pool.closed).then_some(())
    }

    /// What belongs to no pot.
    pub fn reserve(&self) -> u64 {
        let pots: u64 = self.pool.pots.values().map(|p| p.funded.saturating_sub(p.spent)).sum();
        self.pool.balance.saturating_sub(pots)
    }

    fn fund(&mut self, amount: u64) -> Option<()> {
        let epoch = self.pool.epoch;
        let pot = self.pool.pots.get_mut(&epoch).filter(|p| p.closes_at == 0)?;
        pot.funded += amount;
        Some(())
    }

    fn retire(&mut self) {
        let closes_at = if self.fault == Fault::NoGrace { self.now } else { self.now + GRACE };
        if let Some(pot) = self.pool.pots.get_mut(&self.pool.epoch).filter(|p| p.closes_at == 0) {
            pot.closes_at = closes_at;
        }
        self.melt();
    }

    fn melt(&mut self) {
        let now = self.now;
        self.pool.pots.retain(|_, pot| pot.closes_at == 0 || pot.closes_at > now);
    }

    fn pay(&mut self, to: Address, amount: u64) {
        *self.wallets.entry(to).or_default() += amount;
    }
}
