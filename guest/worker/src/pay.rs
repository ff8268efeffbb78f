//! The worker's paying side: for which proxy a job is taken, what it earns, and the vouchers that pay its wallet.
//!
//! ```text
//! proxy: chrysalis-pool, -price, -most --> layer: price by our own book? pool's session attested here? owed <= credit?
//!                                            |no: 402 or 503, nothing is computed        \--> the routes (api)
//!        <-- answer, chrysalis-usage -------- metered: what was delivered is owed
//!        POST /chrysalis/v1/payout ---------> the newest voucher; what it grew by is owed no longer
//! owner: GET /chrysalis/v1/earnings          vouchers, for whoever sends them to the chain; they pay the wallet alone
//! ```
//! All of it is by the measured configuration: chain, root and wallet. Who the client is never comes here.
//!
//! Nothing is kept on disk. A worker that starts again is handed its vouchers again: the proxy keeps the newest ones
//! (`GET /chrysalis/v1/payouts/WALLET`), and totals only grow.
//!
//! Deliberately absent: a clock of its own, prices of its own, and sending anything to the chain.

mod layer;
mod meter;
mod pins;
mod routes;

pub use layer::router;
pub use pins::Pins;
pub use routes::Facts;

use axum::http::StatusCode as http;
use daemon::fault::Fault;
use daemon::ledger::{self, BookView, PoolSight, Sight, Watch};
use payment::Refused;
use payment::price::{Commission, Price, Tokens};
use payment::worker::{Rules, Worker};
use payment::{Address, Payout, PublicKey, Signed};
use protocol::config::StaticConfig;
use protocol::market::{self, Earning, Earnings, Most, Usage, WorkPrice};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// nanoTON of delivered work that may wait for a voucher, where the configuration says nothing.
const CREDIT: u64 = 100_000_000;
/// nanoTON in vouchers after which they are worth the gas of a claim.
const FLOAT: u64 = 1_000_000_000;
/// Seconds after which a voucher is cashed whatever it is worth.
const CASH_AFTER: u32 = 6 * 3600;
/// Oldest view of a pool to work by, seconds.
const MAX_VIEW_AGE: u32 = 600;
/// Least grace of a pool, seconds: the contract's own least.
const LEAST_GRACE: u32 = 7200;
/// How long a job waits for the chain to be seen as the proxy sees it.
const CATCH_UP: Duration = Duration::from_secs(5);
/// Of what was vouched, the part that work of cancelled answers may go unpaid by, since both ends count apart: a tenth.
const DOUBT: u64 = 10;

/// What is proven of the chain; [`Watch`] is the one that daemons have.
pub trait Chain: Send + Sync + 'static {
    /// Unix seconds.
    fn now(&self) -> u64;
    /// The root's book.
    fn book(&self) -> watch::Receiver<Sight<BookView>>;
    /// A pool; `None` where too many are watched.
    fn pool(&self, pool: Address) -> Option<watch::Receiver<Sight<PoolSight>>>;
}

impl Chain for Watch {
    fn now(&self) -> u64 {
        Watch::now(self)
    }

    fn book(&self) -> watch::Receiver<Sight<BookView>> {
        Watch::book(self)
    }

    fn pool(&self, pool: Address) -> Option<watch::Receiver<Sight<PoolSight>>> {
        Watch::pool(self, pool)
    }
}

/// A proxy as it was attested on this connection.
#[derive(Debug, Clone, Copy)]
pub struct Patron {
    /// Of its measured configuration.
    pub pool: Address,
    /// Its session's key, bound into the channel.
    pub key: PublicKey,
}

/// The books, shared by all connections.
pub struct Pay {
    chain: Arc<dyn Chain>,
    wallet: Address,
    credit: u64,
    hours: [u8; 2],
    books: Mutex<Books>,
}

struct Books {
    worker: Worker,
    pools: BTreeMap<Address, Pool>,
}

/// Beside the worker's books of a pool.
struct Pool {
    sight: watch::Receiver<Sight<PoolSight>>,
    /// nanoTON for answers that were cancelled, which the proxy may count lower.
    doubtful: u64,
    /// nanoTON of such that were given up.
    written_off: u64,
}

/// A job that was taken.
pub struct Job {
    pay: Arc<Pay>,
    pool: Address,
    epoch: u32,
    price: Price,
    commission: Commission,
    /// nanoTON that it can earn at most.
    most: u64,
}

impl Pay {
    /// By the measured configuration; none where it names no wallet.
    pub fn of(config: &StaticConfig, chain: Arc<dyn Chain>) -> Option<Arc<Pay>> {
        let (ledger, wallet) = (config.ledger.as_ref()?, config.wallet.as_ref()?);
        let worker = config.worker.clone().unwrap_or_default();
        let (me, credit) = (ledger::address(wallet.address), worker.credit.unwrap_or(CREDIT));
        let rules = Rules {
            global_id: ledger.global_id,
            me,
            credit,
            float: FLOAT,
            cash_after: CASH_AFTER,
            max_view_age: MAX_VIEW_AGE,
            least_grace: LEAST_GRACE,
        };
        let books = Books { worker: Worker::new(rules), pools: BTreeMap::new() };
        let hours = worker.hours.unwrap_or([0, 24]);
        Some(Arc::new(Pay { chain, wallet: me, credit, hours, books: Mutex::new(books) }))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Each entry is whole at any moment, whatever panicked beside it.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a job of `model` (its verity root), or says why not.
    async fn admit(
        self: &Arc<Self>,
        patron: Patron,
        model: &[u8; 32],
        asked: &WorkPrice,
        most: &Most,
    ) -> Result<Job, Fault> {
        self.in_hours()?;
        let price = self.agreed(patron.pool, model, asked).await?;
        let commission = Commission::new(asked.commission);
        let tokens = Tokens { prompt: most.prompt, completion: most.completion, ..Tokens::default() };
        let fee = commission.fee(price.charge(&tokens).map_err(|error| refused(&error.into()))?);
        let epoch = self.offered(patron, fee).await?;
        Ok(Job { pay: self.clone(), pool: patron.pool, epoch, price, commission, most: fee })
    }

    /// `[22, 6]` is the night.
    fn in_hours(&self) -> Result<(), Fault> {
        let hour = (self.chain.now() / 3600 % 24) as u8;
        let [from, to] = self.hours;
        let open = if from < to { (from..to).contains(&hour) } else { hour >= from || hour < to };
        if open {
            return Ok(());
        }
        let message = format!("this worker works from {from} to {to} o'clock UTC; ask another one");
        Err(unavailable("out_of_hours", message))
    }

    /// The proxy's price, if our own book has the same.
    async fn agreed(&self, pool: Address, model: &[u8; 32], asked: &WorkPrice) -> Result<Price, Fault> {
        let market::Price { base, prompt, cached, completion, reasoning } = asked.price;
        let price = Price { base, prompt, cached, completion, reasoning };
        let mut book = self.chain.book();
        // A change may be seen there before it is seen here.
        let same = book.wait_for(|sight| {
            sight.there().is_some_and(|book| book.agrees(model, &price, &pool, asked.commission))
        });
        if let Ok(Ok(_)) = tokio::time::timeout(CATCH_UP, same).await {
            return Ok(price);
        }
        if self.chain.book().borrow().there().is_none() {
            return Err(unavailable(
                "no_book",
                "the root's prices were not proven here yet; try again".into(),
            ));
        }
        let message =
            "chrysalis-price: not what the root's book says of this model and pool; read the book again";
        Err(Fault::request("wrong_price", None, message.into()).status(http::PAYMENT_REQUIRED))
    }

    /// The epoch for which a job of `fee` is taken.
    async fn offered(&self, patron: Patron, fee: u64) -> Result<u32, Fault> {
        let mut sight = self.sight(patron)?;
        let deadline = tokio::time::Instant::now() + CATCH_UP;
        loop {
            sight.mark_unchanged();
            let refusal = match self.offer(patron.pool, fee) {
                Ok(epoch) => return Ok(epoch),
                Err(refusal) => refusal,
            };
            // What a newer view of the chain can put right; everything else is final.
            let view = match refusal {
                Refused::NotRegistered | Refused::SessionOver { .. } | Refused::NotAttested { .. } => true,
                Refused::StaleView { .. } | Refused::PotShort { .. } => true,
                _ => false,
            };
            let newer = tokio::time::timeout_at(deadline, sight.changed());
            if !view || !matches!(newer.await, Ok(Ok(()))) {
                return Err(refused(&refusal));
            }
        }
    }

    /// Watches the pool of a proxy before its first job, so that a job does not wait for the chain, which may be away then.
    fn meet(&self, patron: Patron) {
        // Too many pools: its jobs are told so.
        let _ = self.sight(patron);
    }

    /// The watched pool of a patron, whose key is what it was attested with.
    fn sight(&self, patron: Patron) -> Result<watch::Receiver<Sight<PoolSight>>, Fault> {
        let mut books = self.books();
        if !books.pools.contains_key(&patron.pool) {
            let many =
                || unavailable("too_many_pools", "this worker works for enough pools; ask another".into());
            let sight = self.chain.pool(patron.pool).ok_or_else(many)?;
            books.pools.insert(patron.pool, Pool { sight, doubtful: 0, written_off: 0 });
        }
        books.worker.attested(patron.pool, patron.key);
        Ok(books.pools[&patron.pool].sight.clone())
    }

    fn offer(&self, pool: Address, fee: u64) -> Result<u32, Refused> {
        let now = self.chain.now();
        let mut books = self.books();
        books.see(pool);
        let epoch = books.worker.offer(pool, fee, now)?;
        let doubtful = books.pools.get(&pool).map_or(0, |pool| pool.doubtful);
        if doubtful > self.credit {
            return Err(Refused::Unpaid { owed: doubtful, credit: self.credit });
        }
        Ok(epoch)
    }

    /// Takes a voucher.
    fn on_payout(&self, payout: Signed<Payout>) -> Result<(), Refused> {
        let (pool, now) = (payout.voucher.pool, self.chain.now());
        let mut books = self.books();
        books.see(pool);
        // After a start there is no book of the session yet; one is made for the pool's current session alone.
        let _ = books.worker.offer(pool, 0, now);
        books.worker.on_payout(payout)?;
        let vouched = payout.voucher.total;
        if let Some(pool) = books.pools.get_mut(&pool) {
            // The proxy has said what it owes for the cancelled ones; the rest is written off, up to a part of all.
            let room = (vouched / DOUBT).saturating_add(self.credit).saturating_sub(pool.written_off);
            let given_up = pool.doubtful.min(room);
            pool.written_off += given_up;
            pool.doubtful -= given_up;
        }
        Ok(())
    }

    /// Every voucher that this worker holds.
    fn earnings(&self) -> Earnings {
        let mut books = self.books();
        let pools: Vec<_> = books.pools.keys().copied().collect();
        pools.into_iter().for_each(|pool| books.see(pool));
        let entry = |earned: payment::worker::Earned| Earning {
            pool: ledger::account(earned.payout.voucher.pool),
            epoch: earned.payout.voucher.epoch,
            total: earned.payout.voucher.total,
            due: earned.due,
            payout: market::Blob::new(earned.payout.to_bytes()),
        };
        let payouts = books.worker.earnings().into_iter().map(entry).collect();
        Earnings { wallet: Some(ledger::account(self.wallet)), payouts }
    }
}

impl Books {
    /// Takes what is proven of a pool now.
    fn see(&mut self, pool: Address) {
        let Some(known) = self.pools.get(&pool) else { return };
        let sight = known.sight.borrow().there().cloned();
        if let Some(sight) = sight {
            self.worker.on_pool(pool, sight.view.clone(), &sight.paid);
        }
    }
}

impl Job {
    /// The whole answer was handed over, and this is what it took.
    fn delivered(self, usage: Usage) {
        let fee = self.fee(usage);
        let now = self.pay.chain.now();
        self.pay.books().worker.delivered(self.pool, self.epoch, fee, now);
    }

    /// The proxy cancelled when this much was handed over; it may have got less of it, and pays for that.
    fn cancelled(self, usage: Usage) {
        let fee = self.fee(usage);
        if let Some(pool) = self.pay.books().pools.get_mut(&self.pool) {
            pool.doubtful = pool.doubtful.saturating_add(fee);
        }
    }

    fn fee(&self, usage: Usage) -> u64 {
        let Usage { prompt, cached, completion, reasoning } = usage;
        let charge = self.price.charge(&Tokens { prompt, cached, completion, reasoning });
        // No charge passes its hold.
        charge.map_or(self.most, |charge| self.commission.fee(charge)).min(self.most)
    }
}

fn unavailable(code: &'static str, message: String) -> Fault {
    Fault::server(http::SERVICE_UNAVAILABLE, code, message)
}

/// Why a job or a voucher isn't taken, for the proxy.
fn refused(refusal: &Refused) -> Fault {
    let message = refusal.to_string();
    let unpaid = |code| Fault::request(code, None, message.clone()).status(http::PAYMENT_REQUIRED);
    match refusal {
        Refused::Unpaid { .. } => unpaid("unpaid"),
        Refused::PotShort { .. } => unpaid("pot_short"),
        Refused::StaleView { .. } => unavailable("stale_view", message),
        Refused::NotRegistered => unavailable("not_registered", message),
        Refused::SessionOver { .. } => unpaid("session_over"),
        Refused::NotAttested { .. } => unpaid("not_attested"),
        Refused::ShortGrace { .. } => unpaid("short_grace"),
        _ => unpaid("payout_refused"),
    }
}

#[cfg(test)]
mod tests;
