//! The proxy's books: who may spend how much, who has earned how much, and what may be signed.
//!
//! ```text
//! Waiting --a proven pool names this boot's key--> Active --a proven pool names it no longer--> Over
//!
//! request:  reserve --Reserved logged--> dispatched --+-- finish --Charged logged--> Use, Payout, receipt handed out
//!                                                     +-- release --Released logged--> nothing charged
//! ```
//! Three sums are kept, each before anything is said because of it:
//! - a vault: used + lost + held <= min(cap, deposited), where *lost* is what a boot before had reserved;
//! - the pot: promised to workers + their part of what is held + surplus <= funded, as proven in *this* epoch;
//! - a worker's total and a client's total only grow.
//!
//! The pot's `funded` never goes down, so an old view of it is a safe one. A session that was replaced reserves nothing
//! more, and still settles what it had dispatched while its vouchers are good.

use crate::log::{Record, Recovered};
use crate::price::{Commission, Price, Tokens};
use crate::receipt::{End, Receipt};
use crate::refused::Refused;
use crate::sign::{PublicKey, SecretKey, Signed, Verified};
use crate::view::{PoolView, VaultView};
use crate::voucher::{Address, Cap, Payout, Session, Surplus, Use};
use std::collections::BTreeMap;

/// What a proxy is set up with.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Of the network.
    pub global_id: i32,
    /// The pool that it pays from.
    pub pool: Address,
    /// Its part of a charge.
    pub commission: Commission,
    /// Seconds after which a view of the pool is too old to promise money by.
    pub max_view_age: u32,
    /// Seconds that must be left to claim with: of a cap, of a vault that closes, of a pot that closes.
    pub claim_margin: u32,
    /// Seconds that the owner has to register a session that this boot agreed to.
    pub registration_window: u32,
    /// Workers that one session may pay; the contract takes 1,024.
    pub max_workers: usize,
}

/// Where the session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The pool doesn't name this boot's key yet.
    Waiting,
    /// The lease: this boot's key is the pool's.
    Active {
        /// Of the session.
        epoch: u32,
    },
    /// Another session was registered, or the owner retired this one. It never comes back.
    Over {
        /// Of the session; 0 if it never was active.
        epoch: u32,
    },
}

/// A result that may be used only once its records are on disk.
#[must_use = "write the records, then take the value"]
#[derive(Debug)]
pub struct AfterLog<T> {
    /// To be appended in this order and synced.
    pub records: Vec<Record>,
    value: T,
}

impl<T> AfterLog<T> {
    /// The value, for a caller whose records are on disk.
    pub fn once_written(self) -> T {
        self.value
    }
}

/// A vault's row in the books.
#[derive(Clone, Debug)]
struct Account {
    view: VaultView,
    key: PublicKey,
    cap: Option<Verified<Cap>>,
    last: Option<Signed<Use>>,
    used: u64,
    lost: u64,
    held: u64,
}

/// A request that was reserved for.
#[derive(Clone, Copy, Debug)]
struct Open {
    vault: Address,
    price: Price,
    /// As it was when the hold was made: what is promised of it must not grow.
    commission: Commission,
    hold: u64,
    fee: u64,
}

/// What a finished request is about, for its receipt.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The client's number of the request.
    pub request: u64,
    /// Unix time in seconds, by the proxy's clock.
    pub time: u64,
    /// SHA-256 of the request's body.
    pub request_hash: [u8; 32],
    /// SHA-256 of what was delivered.
    pub response_hash: [u8; 32],
    /// The model's verity root.
    pub model_root: [u8; 32],
    /// SHA-256 of the worker's release.
    pub release: [u8; 32],
    /// SHA-256 of the worker's evidence.
    pub evidence: [u8; 32],
}

/// What a finished request leaves.
#[derive(Clone, Debug)]
pub struct Settled {
    /// nanoTON that the client was charged.
    pub charged: u64,
    /// nanoTON of it for the worker.
    pub fee: u64,
    /// For the client, and for whoever claims.
    pub used: Signed<Use>,
    /// For the client.
    pub receipt: Signed<Receipt>,
    /// For the worker.
    pub payout: Signed<Payout>,
}

/// A vault as the books have it, in nanoTON.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Of its client.
    pub key: PublicKey,
    /// The highest cap that was taken in this session; 0 before one was.
    pub cap: u64,
    /// Unix seconds that it lasts until; 0 without one.
    pub valid_until: u32,
    /// Charged in all.
    pub used: u64,
    /// Held by boots before that never settled it.
    pub lost: u64,
    /// Held now.
    pub held: u64,
    /// The newest use of this session.
    pub last: Option<Signed<Use>>,
    /// The block of the newest view of it.
    pub seen: crate::view::Seen,
}

/// A cap and a use that a vault will pay for.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The vault.
    pub vault: Address,
    /// By the client.
    pub cap: Signed<Cap>,
    /// By this session.
    pub used: Signed<Use>,
    /// nanoTON that it brings, by the newest view.
    pub due: u64,
    /// Unix time in seconds after which it may bring nothing.
    pub by: u32,
}

/// The books of one boot.
pub struct Proxy {
    terms: Terms,
    key: SecretKey,
    phase: Phase,
    pool: Option<PoolView>,
    /// Until when this session's vouchers are surely good, by the newest view.
    good_until: u64,
    funded: u64,
    accounts: BTreeMap<Address, Account>,
    requests: BTreeMap<u64, Open>,
    workers: BTreeMap<Address, u64>,
    promised: u64,
    held_fees: u64,
    surplus: u64,
    before: Recovered,
}

impl Proxy {
    /// The books of a boot with a fresh key, and what logs of boots before say.
    pub fn new(terms: Terms, key: SecretKey, before: Recovered) -> Self {
        Self {
            terms,
            key,
            phase: Phase::Waiting,
            pool: None,
            good_until: 0,
            funded: 0,
            accounts: BTreeMap::new(),
            requests: BTreeMap::new(),
            workers: BTreeMap::new(),
            promised: 0,
            held_fees: 0,
            surplus: 0,
            before,
        }
    }

    /// The root's book states another commission: it holds for what is reserved from now on.
    pub fn set_commission(&mut self, commission: Commission) {
        self.terms.commission = commission;
    }

    /// Where the session stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The session's public key, to be bound into the attested channel.
    pub fn key(&self) -> PublicKey {
        self.key.public()
    }

    /// This boot's consent to be the pool's next session, for the owner to send; none before a view of the pool, or
    /// once it was active: one boot is one lease.
    pub fn session(&self, now: u64) -> Option<Signed<Session>> {
        let epoch = self.pool.as_ref().filter(|pool| !pool.closed)?.epoch.checked_add(1)?;
        let valid_until = seconds(now).saturating_add(self.terms.registration_window);
        (self.phase == Phase::Waiting).then(|| {
            let (global_id, pool) = (self.terms.global_id, self.terms.pool);
            let key = self.key.public().to_bytes();
            self.key.sign(Session { global_id, pool, epoch, key, valid_until })
        })
    }

    /// Takes a proven view of the pool; an older one than was seen changes nothing.
    pub fn on_pool(&mut self, view: PoolView) -> Phase {
        if self.pool.as_ref().is_some_and(|had| view.seen < had.seen) {
            return self.phase;
        }
        let mine = self.key.public().to_bytes();
        let current = view.current().is_some_and(|pot| pot.key == mine);
        self.phase = match self.phase {
            Phase::Waiting if current => Phase::Active { epoch: view.epoch },
            Phase::Waiting => {
                view.pots.iter().find(|(_, pot)| pot.key == mine).map_or(self.phase, |(epoch, _)| {
                    Phase::Over { epoch: *epoch } // registered and replaced before it was seen
                })
            }
            Phase::Active { epoch } if epoch != view.epoch || !current => Phase::Over { epoch },
            phase => phase,
        };
        if let Phase::Active { epoch } | Phase::Over { epoch } = self.phase {
            let pot = view.pots.get(&epoch);
            self.funded = self.funded.max(pot.map_or(0, |pot| pot.funded));
            self.good_until = match pot {
                Some(pot) if pot.closes_at == 0 => u64::from(view.seen.time) + u64::from(view.grace),
                Some(pot) => u64::from(pot.closes_at),
                None => 0,
            };
        }
        self.pool = Some(view);
        self.phase
    }

    /// Takes a proven view of a vault.
    ///
    /// # Errors
    /// [`Refused::NotOurVault`] for a vault that pays another pool, [`Refused::Voucher`] where its key is none.
    pub fn on_vault(&mut self, vault: Address, view: VaultView) -> Result<AfterLog<()>, Refused> {
        if view.pool != self.terms.pool {
            return Err(Refused::NotOurVault { vault, pool: view.pool });
        }
        let mut records = Vec::new();
        if !self.accounts.contains_key(&vault) {
            let key = PublicKey::from_bytes(&view.client_key)?;
            let before = self.before.vaults.get(&vault).cloned().unwrap_or_default();
            let (used, lost) = (before.used, before.lost);
            self.accounts.insert(vault, Account { view, key, cap: None, last: None, used, lost, held: 0 });
            records.push(Record::Opened { vault, used, lost });
        }
        if let Some(account) = self.accounts.get_mut(&vault).filter(|a| a.view.seen <= view.seen) {
            account.view = view;
            // Claimed with a voucher of a boot before that its log had lost: part of what was reserved then.
            let unknown = view.claimed.saturating_sub(account.used);
            if unknown > 0 {
                account.used += unknown;
                account.lost = account.lost.saturating_sub(unknown);
                records = vec![Record::Opened { vault, used: account.used, lost: account.lost }];
            }
        }
        Ok(AfterLog { records, value: () })
    }

    /// What the vault's cap must cover before a request with a hold of 0: the client adds its hold.
    pub fn floor(&self, vault: &Address) -> Option<u64> {
        self.accounts.get(vault).map(|a| a.used.saturating_add(a.lost).saturating_add(a.held))
    }

    /// How a vault stands in the books.
    pub fn standing(&self, vault: &Address) -> Option<Standing> {
        let account = self.accounts.get(vault)?;
        let Account { key, used, lost, held, last, .. } = *account;
        let (cap, valid_until) = account.cap.map_or((0, 0), |c| (c.voucher().cap, c.voucher().valid_until));
        let seen = account.view.seen;
        Some(Standing { key, cap, valid_until, used, lost, held, last, seen })
    }

    /// nanoTON that a vault has paid to the pool, by the newest view of it.
    pub fn claimed(&self, vault: &Address) -> Option<u64> {
        self.accounts.get(vault).map(|account| account.view.claimed)
    }

    /// Takes a client's cap. A lower or a foreign one is refused, and the one before stays.
    ///
    /// # Errors
    /// [`Refused`] that say what doesn't fit.
    pub fn on_cap(&mut self, cap: Verified<Cap>, now: u64) -> Result<AfterLog<()>, Refused> {
        let voucher = *cap.voucher();
        let vault = voucher.vault;
        let account = self.accounts.get_mut(&vault).ok_or(Refused::UnknownVault { vault })?;
        let ours = voucher.global_id == self.terms.global_id
            && voucher.session_key == self.key.public().to_bytes()
            && *cap.key() == account.key;
        if !ours {
            return Err(Refused::ForeignCap { vault });
        }
        let had = account.cap.map_or(0, |c| c.voucher().cap);
        if voucher.cap < had {
            return Err(Refused::LowerCap { vault, had, found: voucher.cap });
        }
        lasts(vault, &voucher, self.terms.claim_margin, now)?;
        account.cap = Some(cap);
        Ok(AfterLog { records: vec![Record::Cap(*cap.signed())], value: () })
    }

    /// Reserves what `most` tokens would cost; the request may be dispatched once the record is on disk.
    ///
    /// # Errors
    /// [`Refused`]: what the client must do first, or why this proxy can't take it now.
    pub fn reserve(
        &mut self,
        id: u64,
        vault: Address,
        price: Price,
        most: &Tokens,
        now: u64,
    ) -> Result<AfterLog<u64>, Refused> {
        self.leased(now)?;
        if self.requests.contains_key(&id) {
            return Err(Refused::TwiceTheSameRequest { id });
        }
        let hold = price.charge(most)?;
        let commission = self.terms.commission;
        let fee = commission.fee(hold);
        let (promised, funded) = (self.liabilities(), self.funded);
        let account = self.accounts.get_mut(&vault).ok_or(Refused::UnknownVault { vault })?;
        account.covers(vault, hold, self.terms.claim_margin, now)?;
        if promised.saturating_add(fee) > funded {
            return Err(Refused::PotShort { promised, funded, fee });
        }
        account.held += hold;
        self.held_fees += fee;
        self.requests.insert(id, Open { vault, price, commission, hold, fee });
        Ok(AfterLog { records: vec![Record::Reserved { id, vault, hold }], value: hold })
    }

    /// Whether a session's vouchers may still be cashed: those of a pot that the newest view no longer has are not.
    pub fn pays(&self, epoch: u32) -> bool {
        self.pool.as_ref().is_none_or(|pool| epoch > pool.epoch || pool.pots.contains_key(&epoch))
    }

    /// Whether a worker can be paid by this session: the contract's list of workers is bounded.
    pub fn admits(&self, worker: &Address) -> bool {
        self.workers.contains_key(worker) || self.workers.len() < self.terms.max_workers
    }

    /// Charges what was delivered, never more than was held. Vouchers may be handed out once the record is on disk.
    ///
    /// # Errors
    /// [`Refused::NoSuchRequest`]; and where the worker can't be paid any more ([`Refused::SessionOver`],
    /// [`Refused::TooManyWorkers`]) the client isn't charged: release the request.
    pub fn finish(
        &mut self,
        id: u64,
        worker: Address,
        tokens: &Tokens,
        end: End,
        facts: &Facts,
        now: u64,
    ) -> Result<AfterLog<Settled>, Refused> {
        let open = *self.requests.get(&id).ok_or(Refused::NoSuchRequest { id })?;
        let epoch = self.payable(now)?;
        if !self.admits(&worker) {
            return Err(Refused::TooManyWorkers { worker });
        }
        let charged = open.price.charge(tokens)?.min(open.hold);
        let fee = open.commission.fee(charged);
        let account =
            self.accounts.get_mut(&open.vault).ok_or(Refused::UnknownVault { vault: open.vault })?;
        self.requests.remove(&id);
        account.held -= open.hold;
        self.held_fees -= open.fee;
        account.used += charged;
        self.promised += fee;
        let earned = self.workers.entry(worker).or_default();
        *earned += fee;
        let Terms { global_id, pool, .. } = self.terms;
        let used = self.key.sign(Use { global_id, vault: open.vault, total: account.used });
        account.last = Some(used);
        let payout = self.key.sign(Payout { global_id, pool, epoch, worker, total: *earned });
        let receipt = receipt(global_id, &open, tokens, charged, account.used, end, facts);
        let receipt = self.key.sign(receipt);
        let records = vec![Record::Charged { id, used, payout: Some(payout) }];
        Ok(AfterLog { records, value: Settled { charged, fee, used, receipt, payout } })
    }

    /// Gives a hold back: the request failed, or nothing was delivered.
    ///
    /// # Errors
    /// [`Refused::NoSuchRequest`].
    pub fn release(&mut self, id: u64) -> Result<AfterLog<()>, Refused> {
        let open = self.requests.remove(&id).ok_or(Refused::NoSuchRequest { id })?;
        self.held_fees -= open.fee;
        if let Some(account) = self.accounts.get_mut(&open.vault) {
            account.held -= open.hold;
        }
        Ok(AfterLog { records: vec![Record::Released { id }], value: () })
    }

    /// Gives `amount` of the pot to the owner's reserve.
    ///
    /// # Errors
    /// [`Refused::PotShort`] where workers have a claim on it.
    pub fn surplus(&mut self, amount: u64, now: u64) -> Result<Signed<Surplus>, Refused> {
        let epoch = self.leased(now)?;
        let (promised, funded) = (self.liabilities(), self.funded);
        if promised.saturating_add(amount) > funded {
            return Err(Refused::PotShort { promised, funded, fee: amount });
        }
        self.surplus += amount;
        let Terms { global_id, pool, .. } = self.terms;
        Ok(self.key.sign(Surplus { global_id, pool, epoch, total: self.surplus }))
    }

    /// What the pot must be able to pay: signed, held for, and given to the owner.
    pub fn liabilities(&self) -> u64 {
        self.promised.saturating_add(self.held_fees).saturating_add(self.surplus)
    }

    /// What vaults will pay for, with when it must be there; those that bring nothing are left out.
    pub fn claims(&self) -> Vec<Claim> {
        let claim = |(vault, account): (&Address, &Account)| {
            let (cap, used) = (account.cap?, account.last?);
            let due = used.voucher.total.saturating_sub(account.view.claimed);
            let closes = if account.view.closes_at == 0 { u32::MAX } else { account.view.closes_at };
            let by = cap.voucher().valid_until.min(closes);
            (due > 0).then_some(Claim { vault: *vault, cap: *cap.signed(), used, due, by })
        };
        self.accounts.iter().filter_map(claim).collect()
    }

    /// The epoch, if this boot holds the lease by a view that is new enough.
    fn leased(&self, now: u64) -> Result<u32, Refused> {
        match (self.phase, &self.pool) {
            (Phase::Active { epoch }, Some(pool)) => {
                let age = now.saturating_sub(u64::from(pool.seen.time));
                let limit = self.terms.max_view_age;
                if age > u64::from(limit) { Err(Refused::StaleView { age, limit }) } else { Ok(epoch) }
            }
            (Phase::Over { epoch }, _) => Err(Refused::SessionOver { epoch }),
            _ => Err(Refused::NotRegistered),
        }
    }

    /// The epoch, if a payout that is signed now can still be cashed.
    fn payable(&self, now: u64) -> Result<u32, Refused> {
        match self.phase {
            Phase::Active { epoch } | Phase::Over { epoch }
                if now.saturating_add(u64::from(self.terms.claim_margin)) <= self.good_until =>
            {
                Ok(epoch)
            }
            Phase::Active { epoch } | Phase::Over { epoch } => Err(Refused::SessionOver { epoch }),
            Phase::Waiting => Err(Refused::NotRegistered),
        }
    }
}

impl Account {
    /// Whether cap and deposit cover `hold` more.
    fn covers(&self, vault: Address, hold: u64, margin: u32, now: u64) -> Result<(), Refused> {
        let view = &self.view;
        let closes = u64::from(view.closes_at);
        if view.closed || (closes != 0 && closes < now.saturating_add(u64::from(margin))) {
            return Err(Refused::VaultCloses { vault });
        }
        let spoken_for = self.used.saturating_add(self.lost).saturating_add(self.held);
        let need = spoken_for.saturating_add(hold);
        let Some(cap) = self.cap else { return Err(Refused::CapTooLow { vault, need, found: 0 }) };
        lasts(vault, cap.voucher(), margin, now)?;
        if need > cap.voucher().cap {
            return Err(Refused::CapTooLow { vault, need, found: cap.voucher().cap });
        }
        if need > view.deposited() {
            return Err(Refused::DepositTooLow { vault, need, found: view.deposited() });
        }
        Ok(())
    }
}

/// Whether there is time left to claim with a cap.
fn lasts(vault: Address, cap: &Cap, margin: u32, now: u64) -> Result<(), Refused> {
    let needed = now.saturating_add(u64::from(margin));
    if u64::from(cap.valid_until) < needed {
        return Err(Refused::CapExpires { vault, valid_until: cap.valid_until, needed });
    }
    Ok(())
}

/// Unix seconds as the contracts have them.
fn seconds(now: u64) -> u32 {
    u32::try_from(now).unwrap_or(u32::MAX)
}

/// The receipt of a request that was charged.
fn receipt(
    global_id: i32,
    open: &Open,
    tokens: &Tokens,
    charged: u64,
    total: u64,
    end: End,
    f: &Facts,
) -> Receipt {
    Receipt {
        global_id,
        vault: open.vault,
        request: f.request,
        time: f.time,
        request_hash: f.request_hash,
        response_hash: f.response_hash,
        model_root: f.model_root,
        release: f.release,
        evidence: f.evidence,
        tokens: *tokens,
        price: open.price,
        charged,
        total,
        end,
    }
}
