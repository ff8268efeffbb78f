//! The books: one thread that alone has them, the log beneath them, and the way to it from async code.
//!
//! ```text
//! requests -- commands --> clerk: take all that wait -> check signatures together (desk.rs)
//!                                 -> apply, one after the other -> records -> write, sync (journal.rs, disk.rs) -> answers
//! ```
//! While a sync runs, commands gather, and the next sync is for all of them: the busier the disk, the larger the batch.
//! Nothing is answered before its records are on disk. Where they can't be written, nothing new is reserved, and what
//! was finished keeps its vouchers until there is space.
//!
//! A [`Hold`] that is dropped gives its money back, wherever the request ended.

mod clerk;
mod desk;
mod disk;
mod journal;
mod recall;

pub use desk::{Desk, Kept, OpenClaim, Seeds};
pub use disk::{Disk, Files, StateError, open};
pub use journal::Journal;

use clerk::{Clerk, Command};
use payment::price::{Price, Tokens};
use payment::proxy::{Facts, Phase, Settled};
use payment::receipt::End;
use payment::view::{PoolView, VaultView};
use payment::{Address, Cap, Order, Refused, Signed, VoucherError};
use protocol::market::Most;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use tokio::sync::{Notify, oneshot, watch};

/// A client's request to have money held.
#[derive(Debug, Clone, Copy)]
pub struct Reservation {
    /// Who pays.
    pub vault: Address,
    /// The client's number.
    pub request: u64,
    /// A new cap, if the one before is not enough.
    pub cap: Option<Signed<Cap>>,
    /// That the request is the vault's.
    pub order: Signed<Order>,
    /// SHA-256 of the body that came.
    pub request_hash: [u8; 32],
    /// Of the model.
    pub price: Price,
    /// What is held for.
    pub most: Most,
}

/// Why nothing was held, or nothing charged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotBooked {
    /// The books refuse it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The order is not by the vault's client.
    #[error("the order is not good: {0}")]
    Signature(VoucherError),
    /// The order is for something else.
    #[error("the order is for another {field}; sign one for this very request")]
    OtherOrder {
        /// What differs.
        field: &'static str,
    },
    /// The number was used in this session.
    #[error("request {request} of this vault was asked for already; use a new number")]
    Twice {
        /// The client's number.
        request: u64,
    },
    /// The log can't be written.
    #[error("the log can't be written, so nothing can be held or charged; make space under --state")]
    NoLogSpace,
    /// The clerk is gone: the daemon ends.
    #[error("the books are closed")]
    Closed,
}

impl NotBooked {
    /// Whether the client did what a right one never does.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            Self::Refused(refused) => refused.is_peer_fault(),
            Self::Signature(error) => error.is_peer_fault(),
            Self::OtherOrder { .. } | Self::Twice { .. } => true,
            Self::NoLogSpace | Self::Closed => false,
        }
    }
}

/// What was delivered, to be charged.
#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    /// Whom the fee goes to.
    pub worker: Address,
    /// What is charged.
    pub tokens: Tokens,
    /// How it ended.
    pub end: End,
    /// For the receipt.
    pub facts: Facts,
}

/// Where the session stands, for whoever asks often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// As the newest view of the pool has it.
    pub phase: Phase,
    /// Whether the log could be written last.
    pub writes: bool,
}

/// The way to the clerk; clones share it.
#[derive(Clone)]
pub struct Books {
    to: Sender<Command>,
    standing: watch::Receiver<Standing>,
}

/// Money that is held; dropped, it is given back.
#[derive(Debug)]
pub struct Hold {
    to: Option<Sender<Command>>,
    id: u64,
    /// nanoTON.
    pub amount: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            // Without a clerk there is nothing to give back to.
            let _ = to.send(Command::Release(self.id));
        }
    }
}

impl Books {
    /// Starts the clerk; it ends when the last clone is gone. `now` is Unix seconds.
    pub fn start(
        desk: Desk,
        journal: Journal<impl Disk>,
        now: impl Fn() -> u64 + Send + 'static,
    ) -> std::io::Result<Self> {
        let (to, from) = channel();
        let (tell, standing) = watch::channel(Standing { phase: desk.phase(), writes: true });
        let clerk = Clerk { desk, journal, now, tell, late: Vec::new() };
        std::thread::Builder::new().name("clerk".into()).spawn(move || clerk.work(&from))?;
        Ok(Self { to, standing })
    }

    /// Where the session stands.
    pub fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    /// Holds the most that a request can cost. Once this returns, the reservation is on disk.
    ///
    /// # Errors
    /// [`NotBooked`]; nothing is held then.
    pub async fn reserve(&self, what: Reservation) -> Result<Hold, NotBooked> {
        let (reply, answer) = oneshot::channel();
        let back = self.to.clone();
        let _ = self.to.send(Command::Reserve { what: Box::new(what), back, reply });
        answer.await.unwrap_or(Err(NotBooked::Closed))
    }

    /// Charges what was delivered. The command is on its way when this returns; the future only waits for the vouchers,
    /// for as long as the log can't be written, and whoever drops it finds them with [`Desk::receipt`]. `paid` is told when the worker's payout has grown.
    pub fn finish(
        &self,
        mut hold: Hold,
        delivery: Delivery,
        paid: Arc<Notify>,
    ) -> impl Future<Output = Result<Settled, NotBooked>> + Send + use<> {
        hold.to = None;
        let (reply, answer) = oneshot::channel();
        let _ = self.to.send(Command::Finish { id: hold.id, delivery: Box::new(delivery), paid, reply });
        async { answer.await.unwrap_or(Err(NotBooked::Closed)) }
    }

    /// Takes a proven view of the pool.
    pub fn on_pool(&self, view: PoolView) {
        let _ = self.to.send(Command::Pool(view));
    }

    /// Takes a proven view of a vault.
    ///
    /// # Errors
    /// [`NotBooked::Refused`] for a vault that is none of this pool's.
    pub async fn on_vault(&self, vault: Address, view: VaultView) -> Result<(), NotBooked> {
        let (reply, answer) = oneshot::channel();
        let _ = self.to.send(Command::Vault { vault, view: Box::new(view), reply });
        answer.await.unwrap_or(Err(NotBooked::Closed))
    }

    /// Has something changed that needs no answer.
    pub fn tell(&self, change: impl FnOnce(&mut Desk) + Send + 'static) {
        let _ = self.to.send(Command::Look(Box::new(move |desk, _| change(desk))));
    }

    /// Looks something up; `None` when the clerk is gone.
    pub async fn look<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Desk, u64) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let ask = move |desk: &mut Desk, now| {
            let _ = reply.send(ask(desk, now));
        };
        let _ = self.to.send(Command::Look(Box::new(ask)));
        answer.await.ok()
    }
}

#[cfg(test)]
mod tests;
