//! What this guest has seen of the chain, kept fresh: the root's book, the pools and the vaults that somebody asked for.
//!
//! ```text
//! lite servers (none believed) --> LiteClient: proofs --> [task: each new head] --> watch channels --> the machines of `payment`
//!                                     \ away, lying, garbled: the last proven view stays, and grows old
//! ```
//! A view is genuine, and never older than one that was shown before. That it is *fresh* shows only in something younger than
//! the question: a proxy's own session key in its pool. Everybody else bounds a view's age, so a guest that is kept from the
//! chain stops promising by itself.
//!
//! Nothing that servers send stops the task, but one thing: two signed blocks with one number. Then no view is taken any more.
//!
//! Deliberately absent: sending. Guests sign vouchers; whoever profits submits them.

mod sight;

pub use sight::{BookView, PoolSight, Sight};

use crate::Clock;
use crate::dial::stopped;
use payment::view::{Seen, VaultView};
use protocol::config::LedgerConfig;
use protocol::market::Account;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
/// The root's book and its entries.
pub use ton::contract::root;
use ton::contract::{ContractError, account_of, address_of, pool, vault};
use ton::{HashBytes, Ledger as _, LedgerError, LiteClient, Network, ProvenAccount, TrustError};

/// Most pools that are watched at once.
pub const MAX_POOLS: usize = 64;
/// Most vaults that are watched at once.
pub const MAX_VAULTS: usize = 4096;
/// Vaults that are looked at again with one head; those that were never looked at come first.
const VAULTS_A_HEAD: usize = 64;
/// How long a server is asked to wait for a new head.
const WAIT: Duration = Duration::from_secs(10);
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(15);

/// What is watched, and by what.
pub struct Setup<'a> {
    /// Of the daemon, for its log.
    pub name: &'static str,
    /// The measured pin.
    pub config: &'a LedgerConfig,
    /// Lite servers; one honest one is enough.
    pub servers: Vec<SocketAddr>,
    /// Whose payments are read with each pool: a worker's own.
    pub earner: Option<payment::Address>,
    /// The guest's clock.
    pub clock: Clock,
}

/// A handle on the task; clones share it.
#[derive(Clone)]
pub struct Watch(Arc<Shared>);

struct Shared {
    name: &'static str,
    client: LiteClient,
    root: ton::Address,
    earner: Option<ton::Address>,
    clock: Clock,
    wanted: Mutex<Wanted>,
    /// Somebody asked for an account that was not looked at yet.
    news: Notify,
    head: watch::Sender<Option<Seen>>,
    book: watch::Sender<Sight<BookView>>,
    /// Why there is no newer view; none while all is well.
    trouble: watch::Sender<Option<String>>,
}

#[derive(Default)]
struct Wanted {
    pools: BTreeMap<payment::Address, watch::Sender<Sight<PoolSight>>>,
    vaults: BTreeMap<payment::Address, Vault>,
}

struct Vault {
    sight: watch::Sender<Sight<VaultView>>,
    /// Number of the block that it was last looked at with; 0: never.
    looked: u32,
}

impl Watch {
    /// Starts the task on the present tokio runtime; it ends when `stop` is true.
    pub fn start(setup: Setup<'_>, stop: watch::Receiver<bool>) -> Self {
        let LedgerConfig { global_id, zero_root, zero_file, root } = setup.config;
        let network = Network {
            global_id: *global_id,
            zero_root: HashBytes(zero_root.0),
            zero_file: HashBytes(zero_file.0),
        };
        let shared = Arc::new(Shared {
            name: setup.name,
            client: LiteClient::of_several(&setup.servers, network),
            root: address_of(&address(*root)),
            earner: setup.earner.as_ref().map(address_of),
            clock: setup.clock,
            wanted: Mutex::default(),
            news: Notify::new(),
            head: watch::Sender::new(None),
            book: watch::Sender::new(Sight::Waiting),
            trouble: watch::Sender::new(None),
        });
        tokio::spawn(shared.clone().run(stop));
        Watch(shared)
    }

    /// Unix seconds: the guest's clock, and never before the newest proven block.
    pub fn now(&self) -> u64 {
        let block = self.head().map_or(0, |head| u64::from(head.time));
        self.0.clock.now().max(block)
    }

    /// The newest proven block.
    pub fn head(&self) -> Option<Seen> {
        *self.0.head.borrow()
    }

    /// The same, as it comes.
    pub fn heads(&self) -> watch::Receiver<Option<Seen>> {
        self.0.head.subscribe()
    }

    /// The root's book, looked at with each head.
    pub fn book(&self) -> watch::Receiver<Sight<BookView>> {
        self.0.book.subscribe()
    }

    /// Why nothing newer is proven, where that is so; for people.
    pub fn trouble(&self) -> Option<String> {
        self.0.trouble.borrow().clone()
    }

    /// The same, as it comes and goes.
    pub fn troubles(&self) -> watch::Receiver<Option<String>> {
        self.0.trouble.subscribe()
    }

    /// A pool, looked at with each head for as long as somebody holds a receiver. `None`: too many are watched.
    pub fn pool(&self, pool: payment::Address) -> Option<watch::Receiver<Sight<PoolSight>>> {
        let mut wanted = self.0.wanted();
        wanted.pools.retain(|_, sender| !sender.is_closed());
        if wanted.pools.len() >= MAX_POOLS && !wanted.pools.contains_key(&pool) {
            return None;
        }
        let sender = wanted.pools.entry(pool).or_insert_with(|| watch::Sender::new(Sight::Waiting));
        self.0.news.notify_one();
        Some(sender.subscribe())
    }

    /// A vault, looked at now and again for as long as somebody holds a receiver: with many of them, not with each head.
    /// `None`: too many are watched.
    pub fn vault(&self, vault: payment::Address) -> Option<watch::Receiver<Sight<VaultView>>> {
        let mut wanted = self.0.wanted();
        if wanted.vaults.len() >= MAX_VAULTS {
            wanted.vaults.retain(|_, vault| !vault.sight.is_closed());
        }
        if wanted.vaults.len() >= MAX_VAULTS && !wanted.vaults.contains_key(&vault) {
            return None;
        }
        let fresh = || Vault { sight: watch::Sender::new(Sight::Waiting), looked: 0 };
        let entry = wanted.vaults.entry(vault).or_insert_with(fresh);
        self.0.news.notify_one();
        Some(entry.sight.subscribe())
    }

    /// Looks at a vault again before its turn, such as after its client said that it topped it up.
    pub fn again(&self, vault: payment::Address) {
        if let Some(entry) = self.0.wanted().vaults.get_mut(&vault) {
            entry.looked = 0;
            self.0.news.notify_one();
        }
    }
}

impl Shared {
    fn wanted(&self) -> std::sync::MutexGuard<'_, Wanted> {
        // Nothing panics while it holds the lock; its maps are whole at any moment.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let (mut pause, mut looked) = (SHORTEST, None);
        loop {
            let round = tokio::select! {
                () = stopped(&mut stop) => return,
                round = self.round(looked) => round,
            };
            let error = match round {
                Ok(seqno) => {
                    (pause, looked) = (SHORTEST, Some(seqno));
                    self.well();
                    continue;
                }
                Err(error) => error,
            };
            self.ill(&error);
            if matches!(error, LedgerError::Trust(TrustError::Fork(_))) {
                return;
            }
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST),
                () = self.wished() => {}
            }
        }
    }

    /// Somebody asks for what was not looked at; never sooner than the shortest pause.
    async fn wished(&self) {
        tokio::time::sleep(SHORTEST).await;
        self.news.notified().await;
    }

    /// Waits for a head after `looked`, or for a new wish, and looks at what is due; the number of the block.
    async fn round(&self, looked: Option<u32>) -> Result<u32, LedgerError> {
        match looked {
            None => {
                let head = self.client.head().await?;
                self.saw(Seen { seqno: head.seqno(), time: head.gen_utime() });
            }
            Some(seqno) => tokio::select! {
                head = self.client.head_after(seqno, WAIT) => if let Some(head) = head? {
                    self.saw(Seen { seqno: head.seqno(), time: head.gen_utime() });
                },
                () = self.news.notified() => {}
            },
        }
        let seqno = self.head.borrow().map_or(0, |head| head.seqno);
        if looked.is_none_or(|looked| looked < seqno) {
            self.look_at_book().await?;
        }
        self.look_at_pools(looked.is_none_or(|looked| looked < seqno)).await?;
        self.look_at_vaults(seqno).await?;
        Ok(seqno)
    }

    async fn account(&self, address: &ton::Address) -> Result<ProvenAccount, LedgerError> {
        let account = self.client.account(address).await?;
        self.saw(seen(&account));
        Ok(account)
    }

    /// Never goes back.
    fn saw(&self, block: Seen) {
        self.head.send_if_modified(|head| {
            let newer = head.is_none_or(|head| head < block);
            if newer {
                *head = Some(block);
            }
            newer
        });
    }

    async fn look_at_book(&self) -> Result<(), LedgerError> {
        let account = self.account(&self.root).await?;
        let seen = seen(&account);
        match root::read_book(&account) {
            Ok(book) => self.book.send_modify(|sight| *sight = BookView::after(sight, seen, book)),
            Err(error) => self.unreadable(&self.book, seen, &error),
        }
        Ok(())
    }

    /// All of them, or those that were never looked at.
    async fn look_at_pools(&self, all: bool) -> Result<(), LedgerError> {
        let due: Vec<_> = {
            let wanted = self.wanted();
            let due =
                wanted.pools.iter().filter(|(_, sender)| all || matches!(*sender.borrow(), Sight::Waiting));
            due.map(|(address, sender)| (*address, sender.clone())).collect()
        };
        for (address, sender) in due {
            let account = self.account(&address_of(&address)).await?;
            match self.pool_sight(&account) {
                Ok(sight) => drop(sender.send_replace(Sight::There(Arc::new(sight)))),
                Err(error) => self.unreadable(&sender, seen(&account), &error),
            }
        }
        Ok(())
    }

    fn pool_sight(&self, account: &ProvenAccount) -> Result<PoolSight, ContractError> {
        let view = pool::view(account)?;
        let mut paid = BTreeMap::new();
        if let Some(earner) = &self.earner {
            for epoch in view.pots.keys() {
                paid.insert(*epoch, pool::read_paid(account, *epoch, earner)?);
            }
        }
        Ok(PoolSight { view, paid })
    }

    async fn look_at_vaults(&self, seqno: u32) -> Result<(), LedgerError> {
        let due: Vec<_> = {
            let mut wanted = self.wanted();
            wanted.vaults.retain(|_, vault| !vault.sight.is_closed());
            let stale = wanted.vaults.iter().filter(|(_, vault)| vault.looked < seqno.max(1));
            let mut due: Vec<_> =
                stale.map(|(address, vault)| (vault.looked, *address, vault.sight.clone())).collect();
            due.sort_by_key(|(looked, address, _)| (*looked, *address));
            due.truncate(VAULTS_A_HEAD);
            due
        };
        for (_, address, sender) in due {
            let account = self.account(&address_of(&address)).await?;
            match vault::view(&account) {
                Ok(view) => drop(sender.send_replace(Sight::There(Arc::new(view)))),
                Err(error) => self.unreadable(&sender, seen(&account), &error),
            }
            if let Some(entry) = self.wanted().vaults.get_mut(&address) {
                entry.looked = account.block().seqno().max(1);
            }
        }
        Ok(())
    }

    /// An account that proves to be none of ours is missing; one of ours that can't be read keeps its last view.
    fn unreadable<T>(&self, sender: &watch::Sender<Sight<T>>, seen: Seen, error: &ContractError) {
        match error {
            ContractError::Other { .. } => drop(sender.send_replace(Sight::Missing(seen))),
            ContractError::Cells(_) | ContractError::Code(_) | ContractError::Get(_) => {
                eprintln!("{}: ledger: {error}; the view before stays", self.name);
            }
        }
    }

    fn well(&self) {
        if self.trouble.send_replace(None).is_some() {
            let block = self.head.borrow().map_or(0, |head| head.seqno);
            eprintln!("{}: ledger: proven again, at block {block}", self.name);
        }
    }

    /// Said once, until it is well again.
    fn ill(&self, error: &LedgerError) {
        if self.trouble.send_replace(Some(error.to_string())).is_none() {
            let block = self.head.borrow().map_or(0, |head| head.seqno);
            eprintln!("{}: ledger: {error}; block {block} stays the newest that is proven", self.name);
        }
    }
}

fn seen(account: &ProvenAccount) -> Seen {
    Seen { seqno: account.block().seqno(), time: account.block().gen_utime() }
}

/// An account of a configuration or a header, as vouchers have it.
pub fn address(account: Account) -> payment::Address {
    payment::Address { workchain: account.workchain, hash: account.hash }
}

/// An account of a voucher, as headers have it.
pub fn account(address: payment::Address) -> Account {
    Account { workchain: address.workchain, hash: address.hash }
}

/// An account of a voucher, as the chain names it.
pub fn named_by(address: &payment::Address) -> ton::Address {
    address_of(address)
}

/// An account that the chain names, as vouchers have it.
pub fn named(address: &ton::Address) -> payment::Address {
    account_of(address)
}
