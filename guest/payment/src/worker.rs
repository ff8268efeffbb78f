//! The worker's side: for whom it works, what it is owed, and when it cashes.
//!
//! ```text
//! attested(pool, key) + proven view names that key --> offer: take the job? --> delivered: owed --> payout: vouched
//!                                      view names it no longer, or enough, or old --> cash out before the pot closes
//! ```
//! A voucher is as good as the pot that backs it, and the pot as the time that is left to reach it. So a worker works
//! only for a session that its own proven view shows as current, with a key that it saw attested; it lets no more than
//! `float` gather; and once a session ends it cashes at once, with the pool's grace as its deadline.

use crate::refused::Refused;
use crate::sign::{PublicKey, Signed, Verified};
use crate::view::PoolView;
use crate::voucher::{Address, Payout};
use std::collections::BTreeMap;

/// What a worker goes by.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Of the network.
    pub global_id: i32,
    /// Where it is paid.
    pub me: Address,
    /// nanoTON of delivered work that may wait for a voucher.
    pub credit: u64,
    /// nanoTON in vouchers after which it cashes.
    pub float: u64,
    /// Seconds that a voucher is kept before it is cashed, whatever it is worth.
    pub cash_after: u32,
    /// Seconds after which a view of the pool is too old to work by.
    pub max_view_age: u32,
    /// The least grace of a pool that it works for, in seconds: what it needs to notice and to cash.
    pub least_grace: u32,
}

/// One session of one pool.
#[derive(Debug)]
struct Book {
    key: PublicKey,
    best: Option<Verified<Payout>>,
    /// Delivered, and not vouched for yet.
    owed: u64,
    /// By the chain.
    paid: u64,
    /// Unix time of the oldest work that is not cashed.
    since: u64,
    /// When the pot closes; none while the session is current, 0 once the pot is gone.
    closes_at: Option<u64>,
}

/// A pool as this worker sees it.
#[derive(Debug, Default)]
struct Known {
    attested: Option<PublicKey>,
    view: Option<PoolView>,
    books: BTreeMap<u32, Book>,
}

/// The worker's books.
pub struct Worker {
    rules: Rules,
    pools: BTreeMap<Address, Known>,
}

/// What one session of one pool vouched for.
#[derive(Clone, Copy, Debug)]
pub struct Earned {
    /// The newest voucher.
    pub payout: Signed<Payout>,
    /// nanoTON that it brings, by the newest view; 0 once the pot is gone.
    pub due: u64,
    /// nanoTON of delivered work that is not vouched for.
    pub owed: u64,
}

/// A voucher to be sent to the pool now.
#[derive(Clone, Copy, Debug)]
pub struct CashOut {
    /// To be claimed.
    pub payout: Signed<Payout>,
    /// nanoTON that it brings.
    pub due: u64,
    /// Unix time in seconds after which it may bring nothing; none while its session is current.
    pub by: Option<u64>,
}

impl Worker {
    /// Books without entries.
    pub fn new(rules: Rules) -> Self {
        Self { rules, pools: BTreeMap::new() }
    }

    /// A proxy of `pool` showed `key` on an attested connection.
    pub fn attested(&mut self, pool: Address, key: PublicKey) {
        self.pools.entry(pool).or_default().attested = Some(key);
    }

    /// Takes a proven view of a pool, and what each live pot paid this worker; an older view changes nothing.
    pub fn on_pool(&mut self, pool: Address, view: PoolView, paid: &BTreeMap<u32, u64>) {
        let known = self.pools.entry(pool).or_default();
        if known.view.as_ref().is_some_and(|had| view.seen < had.seen) {
            return;
        }
        for (epoch, book) in &mut known.books {
            let closes = view.pots.get(epoch).map_or(Some(0), |pot| match pot.closes_at {
                0 => None,
                at => Some(u64::from(at)),
            });
            book.closes_at = closes;
            book.paid = book.paid.max(paid.get(epoch).copied().unwrap_or(0));
        }
        known.view = Some(view);
    }

    /// Whether to take a job of at most `fee` nanoTON; the epoch that it is worked for.
    ///
    /// # Errors
    /// [`Refused`]: why not.
    pub fn offer(&mut self, pool: Address, fee: u64, now: u64) -> Result<u32, Refused> {
        let rules = self.rules;
        let (epoch, funded, book) = self.current(pool, now)?;
        if book.owed > rules.credit {
            return Err(Refused::Unpaid { owed: book.owed, credit: rules.credit });
        }
        let promised = book.total().saturating_add(book.owed);
        if promised.saturating_add(fee) > funded {
            return Err(Refused::PotShort { promised, funded, fee });
        }
        Ok(epoch)
    }

    /// Work worth `fee` was delivered in `epoch`.
    pub fn delivered(&mut self, pool: Address, epoch: u32, fee: u64, now: u64) {
        if let Some(book) = self.book(pool, epoch) {
            if book.owed == 0 && book.due() == 0 {
                book.since = now;
            }
            book.owed = book.owed.saturating_add(fee);
        }
    }

    /// Takes a payout. It must be by the session's key, for this worker, and never less than the one before; what it
    /// grew by is owed no longer.
    ///
    /// # Errors
    /// [`Refused`], a peer's fault; the voucher before stays good.
    pub fn on_payout(&mut self, payout: Signed<Payout>) -> Result<(), Refused> {
        let rules = self.rules;
        let Payout { pool, epoch, total, .. } = payout.voucher;
        if payout.voucher.global_id != rules.global_id || payout.voucher.worker != rules.me {
            return Err(Refused::ForeignPayout { pool, worker: payout.voucher.worker });
        }
        let book = self.book(pool, epoch).ok_or(Refused::NotRegistered)?;
        let verified = payout.verify(&book.key)?;
        let had = book.total();
        if total < had {
            return Err(Refused::LowerPayout { had, found: total });
        }
        book.owed = book.owed.saturating_sub(total - had);
        book.best = Some(verified);
        Ok(())
    }

    /// Vouchers to be cashed now: of sessions that ended, of more than `float`, and those that waited long enough. It
    /// says so again until a view shows them paid, so a claim that was lost is sent again.
    pub fn cash_outs(&self, now: u64) -> Vec<CashOut> {
        let rules = &self.rules;
        let books = self.pools.values().flat_map(|known| known.books.values());
        let due = |book: &Book| {
            let late = now.saturating_sub(book.since) >= u64::from(rules.cash_after);
            let open = book.closes_at.is_none_or(|closes| now < closes);
            let wanted = book.closes_at.is_some() || book.due() >= rules.float || late;
            let payout = *book.best?.signed();
            (book.due() > 0 && open && wanted).then_some(CashOut {
                payout,
                due: book.due(),
                by: book.closes_at,
            })
        };
        books.filter_map(due).collect()
    }

    /// The newest voucher of each session, whether it is time to cash it or not.
    pub fn earnings(&self) -> Vec<Earned> {
        let books = self.pools.values().flat_map(|known| known.books.values());
        let earned = |book: &Book| {
            let gone = book.closes_at == Some(0);
            let due = if gone { 0 } else { book.due() };
            Some(Earned { payout: *book.best?.signed(), due, owed: book.owed })
        };
        books.filter_map(earned).collect()
    }

    /// The book of the pool's current session, made when it is first worked for.
    fn current(&mut self, pool: Address, now: u64) -> Result<(u32, u64, &mut Book), Refused> {
        let rules = self.rules;
        let known = self.pools.entry(pool).or_default();
        let view = known.view.as_ref().ok_or(Refused::NotRegistered)?;
        let age = now.saturating_sub(u64::from(view.seen.time));
        if age > u64::from(rules.max_view_age) {
            return Err(Refused::StaleView { age, limit: rules.max_view_age });
        }
        if view.grace < rules.least_grace {
            return Err(Refused::ShortGrace { grace: view.grace, least: rules.least_grace });
        }
        let pot = view.current().ok_or(Refused::SessionOver { epoch: view.epoch })?;
        let key = known.attested.filter(|key| key.to_bytes() == pot.key);
        let key = key.ok_or_else(|| Refused::NotAttested { key: hex::encode(pot.key) })?;
        let fresh = || Book { key, best: None, owed: 0, paid: 0, since: now, closes_at: None };
        Ok((view.epoch, pot.funded, known.books.entry(view.epoch).or_insert_with(fresh)))
    }

    fn book(&mut self, pool: Address, epoch: u32) -> Option<&mut Book> {
        self.pools.get_mut(&pool)?.books.get_mut(&epoch)
    }
}

impl Book {
    /// Vouched for in all.
    fn total(&self) -> u64 {
        self.best.map_or(0, |best| best.voucher().total)
    }

    /// Vouched for, and not cashed.
    fn due(&self) -> u64 {
        self.total().saturating_sub(self.paid)
    }
}
