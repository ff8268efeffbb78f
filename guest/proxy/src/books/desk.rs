//! What the clerk does with commands, as a value: no thread, no disk, no clock.

use super::clerk::Done;
pub use super::recall::Kept;
use super::recall::Recall;
use super::{Delivery, NotBooked, Reservation};
use payment::batch::{self, Claimed};
use payment::log::{Record, Recovered};
use payment::price::{Commission, Tokens};
use payment::proxy::{Phase, Proxy, Settled, Terms};
use payment::view::{PoolView, VaultView};
use payment::{Address, Cap, Order, Payout, SecretKey, Session, Signed, Use, Verified, Voucher};
use protocol::market::Most;
use std::collections::BTreeMap;

/// A fresh secret seed for each batch of signatures.
pub type Seeds = Box<dyn FnMut() -> [u8; 32] + Send>;

/// The books, what is open, and what is kept for whoever asks.
pub struct Desk {
    books: Proxy,
    terms: Terms,
    seeds: Seeds,
    next: u64,
    open: BTreeMap<u64, (Address, u64)>,
    recall: Recall,
    /// The newest of each worker in this session.
    payouts: BTreeMap<Address, Signed<Payout>>,
    /// The newest use of each vault that is on disk: the books have it a moment earlier.
    last: BTreeMap<Address, Signed<Use>>,
    /// When each vault was seen last, Unix seconds.
    seen: BTreeMap<Address, u64>,
    before: Recovered,
}

/// A cap and a use that somebody can claim with; `by` in Unix seconds.
#[derive(Debug, Clone, Copy)]
pub struct OpenClaim {
    /// Who pays.
    pub vault: Address,
    /// By the client.
    pub cap: Signed<Cap>,
    /// By this session, or one before.
    pub used: Signed<Use>,
    /// nanoTON that it brings, as far as is known.
    pub due: u64,
    /// Unix seconds after which it may bring nothing.
    pub by: u32,
}

impl Desk {
    /// The books of a boot, and what the logs of boots before say.
    pub fn new(terms: Terms, key: SecretKey, before: Recovered, seeds: Seeds) -> Self {
        let books = Proxy::new(terms, key, before.clone());
        Self {
            books,
            terms,
            seeds,
            next: 0,
            open: BTreeMap::new(),
            recall: Recall::default(),
            payouts: BTreeMap::new(),
            last: BTreeMap::new(),
            seen: BTreeMap::new(),
            before,
        }
    }

    /// Where the session stands.
    pub fn phase(&self) -> Phase {
        self.books.phase()
    }

    /// The commission of what is reserved from now on.
    pub fn set_commission(&mut self, commission: Commission) {
        self.books.set_commission(commission);
    }

    /// Vaults whose newest view is older than `before` (Unix seconds), `most` of them at most, the oldest first.
    pub fn seen_before(&self, before: u64, most: usize) -> Vec<Address> {
        let mut stale: Vec<(u64, Address)> =
            self.seen.iter().filter(|(_, at)| **at < before).map(|(vault, at)| (*at, *vault)).collect();
        stale.sort_unstable();
        stale.into_iter().take(most).map(|(_, vault)| vault).collect()
    }

    /// The session's public key.
    pub fn key(&self) -> [u8; 32] {
        self.books.key().to_bytes()
    }

    /// This boot's consent to be the pool's session.
    pub fn session(&self, now: u64) -> Option<Signed<Session>> {
        self.books.session(now)
    }

    /// A vault's row; of its uses, the newest that is on disk.
    pub fn standing(&self, vault: &Address) -> Option<payment::proxy::Standing> {
        let standing = self.books.standing(vault)?;
        Some(payment::proxy::Standing { last: self.last.get(vault).copied(), ..standing })
    }

    /// What became of a request.
    pub fn receipt(&self, vault: &Address, request: u64) -> Option<Kept> {
        self.recall.find(vault, request)
    }

    /// The newest payout of a worker in this session.
    pub fn payout(&self, worker: &Address) -> Option<Signed<Payout>> {
        self.payouts.get(worker).copied()
    }

    /// A worker's payouts of all sessions that are known, by epoch.
    pub fn payouts(&self, worker: &Address) -> Vec<Signed<Payout>> {
        let before =
            self.before.payouts.iter().filter(|((_, to), _)| to == worker).map(|(_, payout)| *payout);
        before.chain(self.payout(worker)).collect()
    }

    /// Whether vouchers of that session may still be cashed; only a view of the pool can say that they are not.
    pub(super) fn pays(&self, epoch: u32) -> bool {
        self.books.pays(epoch)
    }

    /// Whether this session can pay a worker.
    pub fn admits(&self, worker: &Address) -> bool {
        self.books.admits(worker)
    }

    /// What can be claimed from vaults: by this session, and by ones before where this one has nothing newer.
    pub fn claims(&self) -> Vec<OpenClaim> {
        let mut claims = BTreeMap::new();
        for claim in self.books.claims() {
            let (vault, cap, by) = (claim.vault, claim.cap, claim.by);
            let Some(used) = self.last.get(&vault).copied() else { continue };
            let due = used.voucher.total.saturating_sub(self.books.claimed(&vault).unwrap_or(0));
            if due > 0 {
                claims.insert(vault, OpenClaim { vault, cap, used, due, by });
            }
        }
        for (vault, known) in &self.before.vaults {
            let Some((cap, used)) = known.owed else { continue };
            let claimed = self.books.claimed(vault).unwrap_or(0);
            let due = used.voucher.total.saturating_sub(claimed);
            if due > 0 && !claims.contains_key(vault) {
                let by = cap.voucher.valid_until;
                claims.insert(*vault, OpenClaim { vault: *vault, cap, used, due, by });
            }
        }
        claims.into_values().collect()
    }

    /// Takes a view of the pool.
    pub(super) fn on_pool(&mut self, view: PoolView) -> Phase {
        self.books.on_pool(view)
    }

    /// Takes a view of a vault; its records.
    pub(super) fn on_vault(&mut self, vault: Address, view: VaultView) -> Result<Vec<Record>, NotBooked> {
        let taken = self.books.on_vault(vault, view)?;
        let at = self.seen.entry(vault).or_default();
        *at = (*at).max(u64::from(view.seen.time));
        // The records only repeat what was recovered: they are written before the next reservation is.
        Ok(taken.records)
    }

    /// Checks the signatures of all reservations together.
    pub(super) fn check(&mut self, all: &[&Reservation]) -> Vec<Result<Checked, NotBooked>> {
        let mut out: Vec<Result<Checked, NotBooked>> = all.iter().map(|r| self.fits(r)).collect();
        let mut orders: Vec<Claimed<Order>> = Vec::new();
        let mut caps: Vec<Claimed<Cap>> = Vec::new();
        for (reservation, checked) in all.iter().zip(&out) {
            let Ok(checked) = checked else { continue };
            orders.push((reservation.order, checked.key));
            caps.extend(checked.new_cap.map(|cap| (cap, checked.key)));
        }
        let mut orders = self.verified(orders).into_iter();
        let mut caps = self.verified(caps).into_iter();
        for place in &mut out {
            let Ok(checked) = place else { continue };
            let order = orders.next();
            let cap = checked.new_cap.and_then(|_| caps.next());
            match (order, cap) {
                (Some(Ok(_)), Some(Ok(cap))) => checked.cap = Some(cap),
                (Some(Ok(_)), None) => {}
                (Some(Err(error)), _) => *place = Err(NotBooked::Signature(error)),
                (_, Some(Err(error))) => *place = Err(NotBooked::Refused(error.into())),
                (None, _) => *place = Err(NotBooked::Closed),
            }
        }
        out
    }

    fn verified<V: Voucher>(
        &mut self,
        claims: Vec<Claimed<V>>,
    ) -> Vec<Result<Verified<V>, payment::VoucherError>> {
        if claims.is_empty() { Vec::new() } else { batch::verify(claims, &(self.seeds)()) }
    }

    /// Whether the order is for this request, and which cap has to be looked at.
    fn fits(&self, r: &Reservation) -> Result<Checked, NotBooked> {
        let vault = r.vault;
        let had = self.books.standing(&vault).ok_or(payment::Refused::UnknownVault { vault })?;
        let order = &r.order.voucher;
        let same = [
            ("network", order.global_id == self.terms.global_id),
            ("vault", order.vault == vault),
            ("session", order.session_key == self.key()),
            ("number", order.request == r.request),
            ("body", order.request_hash == r.request_hash),
            ("limit", (order.prompt, order.completion) == (r.most.prompt, r.most.completion)),
        ];
        if let Some((field, _)) = same.iter().find(|(_, same)| !same) {
            return Err(NotBooked::OtherOrder { field });
        }
        // Streams overtake each other: a cap that is not higher than the one before says nothing new.
        let newer = |cap: &Cap| (cap.cap, cap.valid_until) > (had.cap, had.valid_until);
        let new_cap = r.cap.filter(|cap| newer(&cap.voucher));
        if let Some(other) = new_cap.filter(|cap| cap.voucher.vault != vault) {
            return Err(payment::Refused::ForeignCap { vault: other.voucher.vault }.into());
        }
        Ok(Checked { key: had.key, new_cap, cap: None })
    }

    /// Holds money for a request whose signatures were checked. Records come even where it is refused: a cap that was
    /// taken stays.
    pub(super) fn reserve(
        &mut self,
        r: &Reservation,
        checked: Checked,
        now: u64,
    ) -> (Vec<Record>, Result<(u64, u64), NotBooked>) {
        let mut records = Vec::new();
        if let Some(cap) = checked.cap {
            match self.books.on_cap(cap, now) {
                Ok(taken) => records.extend(taken.records),
                // Another of this batch brought a higher one.
                Err(payment::Refused::LowerCap { .. }) => {}
                Err(refused) => return (records, Err(refused.into())),
            }
        }
        if self.recall.find(&r.vault, r.request).is_some() {
            return (records, Err(NotBooked::Twice { request: r.request }));
        }
        self.next += 1;
        let (id, most) = (self.next, tokens(&r.most));
        match self.books.reserve(id, r.vault, r.price, &most, now) {
            Ok(taken) => {
                records.extend(taken.records.iter().cloned());
                self.open.insert(id, (r.vault, r.request));
                self.recall.begin(r.vault, r.request);
                (records, Ok((id, taken.once_written())))
            }
            Err(refused) => (records, Err(refused.into())),
        }
    }

    /// Charges, or gives back what can't be charged.
    pub(super) fn finish(
        &mut self,
        id: u64,
        delivery: &Delivery,
        now: u64,
    ) -> (Vec<Record>, Result<Settled, NotBooked>) {
        let Delivery { worker, tokens, end, facts } = delivery;
        match self.books.finish(id, *worker, tokens, *end, facts, now) {
            Ok(taken) => (taken.records.clone(), Ok(taken.once_written())),
            Err(refused) => (self.release(id), Err(refused.into())),
        }
    }

    /// Gives a hold back.
    pub(super) fn release(&mut self, id: u64) -> Vec<Record> {
        if let Some((vault, request)) = self.open.remove(&id) {
            self.recall.end(vault, request, None);
        }
        self.books.release(id).map(|taken| taken.records).unwrap_or_default()
    }

    /// Takes back a reservation that could not be written: nothing was said of it, so its number is free.
    pub(super) fn unreserve(&mut self, id: u64) -> Vec<Record> {
        if let Some((vault, request)) = self.open.remove(&id) {
            self.recall.forget(&vault, request);
        }
        self.books.release(id).map(|taken| taken.records).unwrap_or_default()
    }

    /// Keeps what a finished request left, once it is on disk.
    pub(super) fn settled(&mut self, id: u64, settled: &Settled) {
        if let Some((vault, request)) = self.open.remove(&id) {
            self.recall.end(vault, request, Some(settled));
        }
        self.last.insert(settled.used.voucher.vault, settled.used);
        let best = self.payouts.entry(settled.payout.voucher.worker).or_insert(settled.payout);
        if best.voucher.total < settled.payout.voucher.total {
            *best = settled.payout;
        }
    }

    /// What is done once records are on disk: see [`Done`].
    pub(super) fn done(&mut self, done: &Done) {
        if let Done::Settled { id, settled, paid, .. } = done {
            self.settled(*id, settled);
            paid.notify_one();
        }
    }
}

/// What was found about a reservation's signatures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked {
    key: payment::PublicKey,
    new_cap: Option<Signed<Cap>>,
    cap: Option<Verified<Cap>>,
}

/// What is held for: prompt and completion at their own price. A model whose cached or reasoning tokens are dearer is
/// charged up to the hold.
fn tokens(most: &Most) -> Tokens {
    Tokens { prompt: most.prompt, completion: most.completion, ..Tokens::default() }
}
