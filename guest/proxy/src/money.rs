//! Where requests, books and chain meet.
//!
//! ```text
//! chain: pool, book --(watched)--> books, prices          request: hold -- vault unknown, or too little? --> chain: vault --> hold
//! ```

use crate::books::{Books, Hold, NotBooked, Reservation};
use crate::chain::{Book, Chain, NoView};
use crate::forward::Refusal;
use crate::metrics::Turned;
use crate::registry::{Registry, Way};
use payment::price::{Commission, Price};
use payment::proxy::{Phase, Terms};
use payment::{Address, Refused};
use protocol::market::{self, Account};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// Vaults that are looked up at one time.
const LOOKING: usize = 16;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// A vault that was seen longer ago is looked at again, in seconds; its owner needs a day to close it.
const STALE: u64 = 1_800;
/// How often stale ones are looked for.
const ROUND: Duration = Duration::from_secs(60);

/// Rules of a proxy's books; the times fit a pool's least grace of two hours.
pub fn rules(global_id: i32, pool: Address, commission: Commission) -> Terms {
    Terms {
        global_id,
        pool,
        commission,
        max_view_age: 600,
        claim_margin: 1_800,
        registration_window: 3_600,
        max_workers: crate::router::MAX_WORKERS,
    }
}

/// What a proxy that is paid has.
pub struct Money {
    books: Books,
    chain: Arc<dyn Chain>,
    terms: Terms,
    key: [u8; 32],
    root: Address,
    commission: AtomicU16,
    looking: Semaphore,
    now: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// A price as it is stated to others.
pub fn stated(price: Price) -> market::Price {
    let Price { base, prompt, cached, completion, reasoning } = price;
    market::Price { base, prompt, cached, completion, reasoning }
}

/// An account as it is stated to others.
pub fn account(address: Address) -> Account {
    Account { workchain: address.workchain, hash: address.hash }
}

/// What a proxy is set up with beside its books.
pub struct Setup {
    /// Proven views.
    pub chain: Arc<dyn Chain>,
    /// As the books have them.
    pub terms: Terms,
    /// The session's public key.
    pub key: [u8; 32],
    /// The Root contract.
    pub root: Address,
    /// Unix seconds.
    pub now: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Money {
    /// With books that were started.
    pub fn new(books: Books, setup: Setup) -> Self {
        let Setup { chain, terms, key, root, now } = setup;
        let (commission, looking) = (AtomicU16::new(terms.commission.parts()), Semaphore::new(LOOKING));
        Self { books, chain, terms, key, root, commission, looking, now }
    }

    /// The books.
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// Unix seconds.
    pub fn now(&self) -> u64 {
        (self.now)()
    }

    /// The pool.
    pub fn account(&self) -> Account {
        account(self.terms.pool)
    }

    /// The Root contract.
    pub fn root(&self) -> Account {
        account(self.root)
    }

    /// Of the network.
    pub fn global_id(&self) -> i32 {
        self.terms.global_id
    }

    /// The session's public key.
    pub fn key(&self) -> [u8; 32] {
        self.key
    }

    /// Parts of 10,000 of a charge that the proxy keeps.
    pub fn commission(&self) -> u16 {
        self.commission.load(Ordering::Relaxed)
    }

    /// Where the session stands.
    pub fn phase(&self) -> Phase {
        self.books.standing().phase
    }

    /// Unix seconds of the newest proven block; 0 before one was seen.
    pub fn seen(&self) -> u64 {
        self.chain.pool().borrow().as_ref().map_or(0, |pool| u64::from(pool.seen.time))
    }

    /// Holds money for a request, and looks the vault up where the books don't know enough of it.
    ///
    /// # Errors
    /// A refusal for the client.
    pub async fn hold(&self, reservation: Reservation) -> Result<Hold, Refusal> {
        match self.books.reserve(reservation).await {
            Ok(hold) => return Ok(hold),
            // It may have been opened or topped up since.
            Err(NotBooked::Refused(Refused::UnknownVault { .. } | Refused::DepositTooLow { .. })) => {}
            Err(error) => return Err(Refusal::books(&error)),
        }
        self.look(reservation.vault).await?;
        self.books.reserve(reservation).await.map_err(|error| Refusal::books(&error))
    }

    /// Has a vault proven anew.
    ///
    /// # Errors
    /// A refusal for whoever asked.
    pub async fn look(&self, vault: Address) -> Result<(), Refusal> {
        let looking = async {
            // Never closed; those who wait are no more than requests under way.
            let _place = self.looking.acquire().await;
            self.chain.vault(vault).await
        };
        let seen = tokio::time::timeout(PATIENCE, looking).await;
        match seen.unwrap_or(Err(NoView::Unreachable)) {
            Ok(view) => self.books.on_vault(vault, view).await.map_err(|error| Refusal::books(&error)),
            Err(NoView::NoVault) => Err(Refusal::payment(NoView::NoVault.to_string(), None)),
            Err(NoView::Unreachable) => {
                Err(Refusal::later("no_chain", NoView::Unreachable.to_string(), Turned::NoSession, 5))
            }
        }
    }

    /// Takes what comes of the chain, until the chain ends.
    pub async fn watch<W: Way>(self: Arc<Self>, workers: Arc<Registry<W>>) {
        let (mut pool, mut book) = (self.chain.pool(), self.chain.book());
        self.take_pool(&mut pool);
        self.take_book(&mut book, &workers);
        let mut round = tokio::time::interval(ROUND);
        loop {
            tokio::select! {
                changed = pool.changed() => match changed {
                    Ok(()) => self.take_pool(&mut pool),
                    Err(_) => return,
                },
                changed = book.changed() => match changed {
                    Ok(()) => self.take_book(&mut book, &workers),
                    Err(_) => return,
                },
                _ = round.tick() => self.look_again().await,
            }
        }
    }

    fn take_pool(&self, pool: &mut watch::Receiver<Option<payment::view::PoolView>>) {
        let view = pool.borrow_and_update().clone();
        view.into_iter().for_each(|view| self.books.on_pool(view));
    }

    /// Looks again at vaults that were seen long ago: one that is being closed must be known of in time.
    async fn look_again(&self) {
        let before = self.now().saturating_sub(STALE);
        let stale = self.books.look(move |desk, _| desk.seen_before(before, LOOKING)).await;
        for vault in stale.unwrap_or_default() {
            // What can't be seen now is tried again in the next round; old views of the pool stop reservations meanwhile.
            let _ = self.look(vault).await;
        }
    }

    /// Prices hold from here on; without a row of this pool in the book nothing is sold.
    fn take_book<W: Way>(&self, book: &mut watch::Receiver<Option<Arc<Book>>>, workers: &Registry<W>) {
        let Some(book) = book.borrow_and_update().clone() else { return };
        let Some(commission) = book.commission else {
            eprintln!(
                "chrysalis-proxy: the root's book has no row for this pool; nothing is sold until it has"
            );
            return workers.set_prices(Default::default());
        };
        self.commission.store(commission.parts(), Ordering::Relaxed);
        self.books.tell(move |desk| desk.set_commission(commission));
        workers.set_prices(book.prices.clone());
    }
}
