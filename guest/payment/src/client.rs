//! The client's side of a vault: what it allows, what it was charged, and what it checks before it believes a charge.
//!
//! ```text
//! attested(key) -> request: a Cap for what was used, what is open, and this hold --> settle: Use + receipt checked
//!                                                                               \-> abandon: the hold stays allowed
//! ```
//! A cap is what can be lost, so a cap is what is limited: per request, per day, and by the deposit. It is signed only
//! for session keys that were attested on a connection of this client; whoever registers what with the pool can't matter.

use crate::order::Order;
use crate::price::{Price, Tokens};
use crate::receipt::Receipt;
use crate::refused::Refused;
use crate::sign::{PublicKey, SecretKey, Signed};
use crate::view::VaultView;
use crate::voucher::{Address, Cap, Use};
use std::collections::BTreeMap;

/// The client's own limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// nanoTON that one request may cost.
    pub per_request: u64,
    /// nanoTON that caps may grow by in a day beyond what was used when it began.
    pub per_day: u64,
    /// Seconds that a cap is good for.
    pub cap_lifetime: u32,
}

/// What the client keeps about its vault; all of it survives a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The highest total that a verified `Use` stated.
    pub used: u64,
    /// The highest cap that was ever signed: the most that can be lost.
    pub allowed: u64,
    /// The day (Unix days) that `at_dawn` is of.
    pub day: u64,
    /// `used` when the day began.
    pub at_dawn: u64,
}

/// A request that the client waits for.
#[derive(Clone, Copy, Debug)]
struct Open {
    hold: u64,
    price: Price,
    request_hash: [u8; 32],
}

/// The session of one attested proxy.
#[derive(Debug)]
struct Attested {
    key: PublicKey,
    /// What was used when the session began, as both sides had it.
    base: u64,
    /// The highest total that it signed.
    total: u64,
    /// What its receipts explain of `total - base`.
    charged: u64,
    open: BTreeMap<u64, Open>,
    /// Holds of requests that ended without a receipt: the proxy may have charged them.
    abandoned: u64,
}

/// One client's vault.
pub struct Client {
    global_id: i32,
    vault: Address,
    key: SecretKey,
    limits: Limits,
    ledger: Ledger,
    view: Option<VaultView>,
    session: Option<Attested>,
}

impl Client {
    /// A vault with what was kept about it.
    pub fn new(global_id: i32, vault: Address, key: SecretKey, limits: Limits, ledger: Ledger) -> Self {
        Self { global_id, vault, key, limits, ledger, view: None, session: None }
    }

    /// What must be kept before a cap that was just signed leaves.
    pub fn ledger(&self) -> Ledger {
        self.ledger
    }

    /// Takes a proven view of the vault; an older one than was seen changes nothing.
    pub fn on_vault(&mut self, view: VaultView) {
        if self.view.is_none_or(|had| had.seen <= view.seen) {
            self.ledger.used = self.ledger.used.max(view.claimed);
            self.view = Some(view);
        }
    }

    /// Begins with a session whose key was attested on this connection. `floor` is what the proxy wants covered before
    /// the first hold; more than this client ever allowed can't have been used.
    ///
    /// # Errors
    /// [`Refused::Overcharged`] for such a floor.
    pub fn attested(&mut self, key: PublicKey, floor: u64) -> Result<(), Refused> {
        let Ledger { used, allowed, .. } = self.ledger;
        if floor > used.max(allowed) {
            let what = "what the proxy says was used";
            return Err(Refused::Overcharged { what, found: floor, expected: used.max(allowed) });
        }
        // The proxy may know of less than was used, if its owner lost its log; that is the owner's loss.
        let base = floor.max(used);
        let fresh = Attested { key, base, total: base, charged: 0, open: BTreeMap::new(), abandoned: 0 };
        self.session = Some(fresh);
        Ok(())
    }

    /// A cap that covers one more request of at most `most` tokens. Keep [`Client::ledger`] before it leaves.
    ///
    /// # Errors
    /// [`Refused`]: the limit that it would pass, or what the vault lacks.
    pub fn request(
        &mut self,
        id: u64,
        request_hash: [u8; 32],
        price: Price,
        most: &Tokens,
        now: u64,
    ) -> Result<Signed<Cap>, Refused> {
        let hold = price.charge(most)?;
        if hold > self.limits.per_request {
            return Err(over("one request", hold, self.limits.per_request));
        }
        self.dawn(now);
        let vault = self.vault;
        let view = self.view.ok_or(Refused::UnknownVault { vault })?;
        if view.closed || view.closes_at != 0 {
            return Err(Refused::VaultCloses { vault });
        }
        let nobody = || Refused::NotAttested { key: "none".to_string() };
        let session = self.session.as_mut().ok_or_else(nobody)?;
        if session.open.contains_key(&id) {
            return Err(Refused::TwiceTheSameRequest { id });
        }
        let need = session.covered().saturating_add(hold).max(self.ledger.allowed);
        let day = self.ledger.at_dawn.saturating_add(self.limits.per_day);
        if need > self.ledger.allowed && need > day {
            return Err(over("a day", need - self.ledger.at_dawn, self.limits.per_day));
        }
        if need > view.deposited() {
            return Err(Refused::DepositTooLow { vault, need, found: view.deposited() });
        }
        session.open.insert(id, Open { hold, price, request_hash });
        self.ledger.allowed = need;
        let valid_until = now.saturating_add(u64::from(self.limits.cap_lifetime));
        Ok(self.key.sign(Cap {
            global_id: self.global_id,
            vault,
            valid_until: u32::try_from(valid_until).unwrap_or(u32::MAX),
            session_key: session.key.to_bytes(),
            cap: need,
        }))
    }

    /// Signs that request `id`, for which a cap was made, is this client's own: it goes along with the cap.
    ///
    /// # Errors
    /// [`Refused::NoSuchRequest`] for a number that no cap was made for.
    pub fn order(&self, id: u64, prompt: u32, completion: u32) -> Result<Signed<Order>, Refused> {
        let session = self.session.as_ref().ok_or(Refused::NoSuchRequest { id })?;
        let open = session.open.get(&id).ok_or(Refused::NoSuchRequest { id })?;
        Ok(self.key.sign(Order {
            global_id: self.global_id,
            vault: self.vault,
            session_key: session.key.to_bytes(),
            request: id,
            request_hash: open.request_hash,
            prompt,
            completion,
        }))
    }

    /// Checks what a finished request brought: both signatures, that the receipt is of this request at its price, and
    /// that the total is explained by receipts and by holds that are open.
    ///
    /// # Errors
    /// [`Refused`], a peer's fault; nothing is believed then.
    pub fn settle(&mut self, id: u64, used: &Signed<Use>, receipt: &Signed<Receipt>) -> Result<u64, Refused> {
        let session = self.session.as_mut().ok_or(Refused::NoSuchRequest { id })?;
        let open = *session.open.get(&id).ok_or(Refused::NoSuchRequest { id })?;
        let used = *used.verify(&session.key)?.voucher();
        let receipt = *receipt.verify(&session.key)?.voucher();
        receipt.check()?;
        let place = (self.global_id, self.vault);
        let same = [
            ("network or vault", (receipt.global_id, receipt.vault) == place),
            ("use", (used.global_id, used.vault) == place && used.total == receipt.total),
            ("number", receipt.request == id),
            ("request hash", receipt.request_hash == open.request_hash),
            ("price", receipt.price == open.price),
        ];
        if let Some((field, _)) = same.iter().find(|(_, same)| !same) {
            return Err(Refused::WrongReceipt { field });
        }
        at_most("the charge of a request", receipt.charged, open.hold)?;
        at_most("the total of the vault", used.total, self.ledger.allowed)?;
        let total = session.total.max(used.total);
        // This request's hold is replaced by its charge; every other open or abandoned one may have been charged whole.
        let others = session.holds().saturating_sub(open.hold);
        let explained = session.base.saturating_add(session.charged).saturating_add(receipt.charged);
        at_most("the total that receipts explain", total, explained.saturating_add(others))?;
        session.open.remove(&id);
        session.charged += receipt.charged;
        session.total = total;
        self.ledger.used = self.ledger.used.max(total);
        Ok(receipt.charged)
    }

    /// Gives up on a request that brought no receipt. Its hold stays allowed in this session: the proxy may have
    /// charged what it delivered.
    pub fn abandon(&mut self, id: u64) {
        if let Some(session) = self.session.as_mut() {
            if let Some(open) = session.open.remove(&id) {
                session.abandoned = session.abandoned.saturating_add(open.hold);
            }
        }
    }

    /// Gives up on a request that the proxy refused before it was dispatched, on a signed or attested connection's word.
    pub fn refused(&mut self, id: u64) {
        if let Some(session) = self.session.as_mut() {
            session.open.remove(&id);
        }
    }

    /// A new day begins with what was used.
    fn dawn(&mut self, now: u64) {
        let day = now / 86_400;
        if day > self.ledger.day {
            self.ledger.day = day;
            self.ledger.at_dawn = self.ledger.used;
        }
    }
}

impl Attested {
    /// Holds that may have been charged without a receipt.
    fn holds(&self) -> u64 {
        self.open.values().fold(self.abandoned, |sum, open| sum.saturating_add(open.hold))
    }

    /// What a cap must cover before the next hold.
    fn covered(&self) -> u64 {
        self.base.saturating_add(self.charged).saturating_add(self.holds()).max(self.total)
    }
}

fn over(what: &'static str, need: u64, limit: u64) -> Refused {
    Refused::OverLimit { what, need, limit }
}

fn at_most(what: &'static str, found: u64, expected: u64) -> Result<(), Refused> {
    if found > expected { Err(Refused::Overcharged { what, found, expected }) } else { Ok(()) }
}
