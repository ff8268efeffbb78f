//! An OpenAI-compatible endpoint on this machine that pays attested proxies for its answers, and keeps their receipts.
//!
//! ```text
//! app --HTTP/1.1, loopback--> serve -> asked (model, most) -> ask --cap, order--> proxy ==attested session==> the proxy
//!                                                              |                    ^
//!   chain: root's book, vaults, proven --------> prices, pools-+                    |  evidence, release, key, terms
//!   account: caps, limits; keep: on disk before a cap leaves                        |
//!   answer, pending: bytes unchanged, receipt checked; receipts: the log <----------/
//! ```
//! A prompt leaves this machine only through a session whose far end was appraised; money leaves only under a cap for the
//! key that was attested on that session. Nothing of a prompt or an answer is logged or kept.
//!
//! Deliberately absent: listening on anything but loopback, a way to ask a proxy that was refused, and tokenizers
//! (`docs/decisions/0040-a-prompt-is-bounded-by-its-bytes.md`).

mod account;
mod answer;
mod ask;
mod asked;
mod chain;
mod fault;
mod keep;
mod pending;
mod proxy;
mod receipts;
mod serve;
mod status;

pub use account::Account;
pub use asked::TEMPLATE;
pub use chain::{ChainError, Facts, Listed, look, watch_chain};
pub use keep::{Folder, Keep, KeepError};
pub use proxy::{ProxyError, SESSION_KEY, Shared, Visited, fetch, get, phase, visit};
pub use receipts::{Due, Entry, LOG, Log, NOT_SHOWN, Outcome, Unfit, read_log, receipt_of, use_of};
pub use serve::{MAX_BODY, NotLoopback, loopback, serve};
pub use status::{METRICS, PATH as STATUS, ProxyStatus, State, Status, VaultStatus};

use payment::client::Limits;
use payment::{Address, SecretKey};
use protocol::openai::ModelObject;
use proxy::Proxy;
use ratls::Peer;
use ratls::session::Ended;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Between two looks after the proxies.
const TEND: Duration = Duration::from_secs(5);

/// How long a request waits for the first look at the chain.
const FIRST: Duration = Duration::from_secs(10);

/// What happens, for those who tell people. Never anything of a request or an answer.
#[derive(Debug)]
pub enum Event<'a> {
    /// A proxy was appraised and found right.
    Attested {
        /// Which one.
        pool: Address,
        /// What it was proved to be.
        peer: &'a Peer,
    },
    /// A proxy can't be asked at the moment.
    Failed {
        /// Which one.
        pool: Address,
        /// Why.
        error: &'a ProxyError,
    },
    /// A proxy did what a right one never does, and is never asked again.
    Left {
        /// Which one.
        pool: Address,
        /// What it did.
        reason: &'a str,
    },
    /// A session came to its end.
    Ended {
        /// Of which proxy.
        pool: Address,
        /// Why.
        ended: &'a Ended,
    },
    /// The chain could not be looked at.
    Chain(&'a ChainError),
    /// Something could not be written; no cap left by it.
    Unkept(&'a KeepError),
    /// A receipt could not be written to the log.
    Unlogged(&'a std::io::Error),
}

/// Takes events as they happen; called from many tasks.
pub type Report = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// What the person who runs it allows.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// nanoTON a request and a day, and how long a cap lasts.
    pub limits: Limits,
    /// nanoTON for a million tokens of multiplier 1 above which a model is not asked.
    pub max_price: Option<u64>,
    /// SHA-256 of the token that apps must bear; without one, every program on this machine may ask.
    pub token: Option<[u8; 32]>,
}

/// The receipt log and the counts, which outlive requests.
pub struct Book {
    log: Mutex<Log>,
    counts: status::Counts,
    report: Report,
    facts: watch::Receiver<Arc<Facts>>,
}

impl Book {
    fn log(&self, entry: &Entry) {
        self.counts.add(entry.outcome, entry.charged);
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = log.append(entry) {
            (self.report)(Event::Unlogged(&error));
        }
    }

    /// Has the log on disk.
    async fn sync(&self) {
        let syncer = self.log.lock().unwrap_or_else(PoisonError::into_inner).syncer();
        let synced = match syncer {
            Ok(syncer) => tokio::task::spawn_blocking(syncer).await.unwrap_or(Ok(())),
            Err(error) => Err(error),
        };
        if let Err(error) = synced {
            (self.report)(Event::Unlogged(&error));
        }
    }
}

/// The gateway.
pub struct Gateway {
    settings: Settings,
    shared: Arc<Shared>,
    facts: watch::Receiver<Arc<Facts>>,
    accounts: BTreeMap<Address, Arc<Account>>,
    proxies: Mutex<BTreeMap<Address, Arc<Proxy>>>,
    book: Arc<Book>,
    number: AtomicU64,
    /// Public half of the channel key, which its vaults must name.
    key: [u8; 32],
    /// Locked for as long as caps can be signed here.
    _folder: Folder,
}

impl Gateway {
    /// A gateway over what was seen of the chain. `vaults` are this client's own, all of one channel key's `seed`; what was
    /// kept of them is in `folder`. Needs [`Gateway::tend`] to be polled.
    ///
    /// # Errors
    /// [`KeepError`], where what was kept can't be read or the log not be written.
    pub fn new(
        settings: Settings,
        shared: Arc<Shared>,
        facts: watch::Receiver<Arc<Facts>>,
        seed: &[u8; 32],
        vaults: &[Address],
        folder: Folder,
    ) -> Result<Arc<Self>, KeepError> {
        let mut accounts = BTreeMap::new();
        for vault in vaults {
            let (keep, ledger) = folder.vault(shared.global_id, *vault)?;
            let key = SecretKey::from_seed(seed);
            let account = Account::new(shared.global_id, *vault, key, settings.limits, keep, ledger);
            accounts.insert(*vault, Arc::new(account));
        }
        let log = Log::open(folder.path());
        let log = log.map_err(|source| KeepError::Disk {
            path: folder.path().join(LOG),
            what: "open the log",
            source,
        })?;
        let book = Book {
            log: Mutex::new(log),
            counts: status::Counts::default(),
            report: shared.report.clone(),
            facts: facts.clone(),
        };
        let gateway = Self {
            settings,
            shared,
            facts,
            accounts,
            proxies: Mutex::default(),
            book: Arc::new(book),
            // Above all numbers of earlier runs, so that none is used twice in a session.
            number: AtomicU64::new(nanoseconds()),
            key: SecretKey::from_seed(seed).public().to_bytes(),
            _folder: folder,
        };
        gateway.on_facts();
        Ok(Arc::new(gateway))
    }

    /// Follows the chain and looks after the proxies for as long as it is polled.
    pub async fn tend(self: Arc<Self>) {
        let mut facts = self.facts.clone();
        loop {
            self.on_facts();
            for proxy in self.proxies() {
                tokio::spawn(async move { proxy.tend().await });
            }
            self.book.sync().await;
            tokio::select! {
                changed = facts.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(TEND) => {}
            }
        }
    }

    /// Writes what is still in memory alone.
    pub async fn flush(&self) {
        for account in self.accounts.values() {
            if let Err(error) = account.flush().await {
                (self.shared.report)(Event::Unkept(&error));
            }
        }
        self.book.sync().await;
    }

    /// What can be asked for, each name once, and once more with the root of its exact weights.
    pub fn models(&self) -> Vec<ModelObject> {
        let object =
            |id| ModelObject { id, object: "model".into(), created: 0, owned_by: "chrysalis".into() };
        let mut names = std::collections::BTreeSet::new();
        for live in self.proxies().iter().filter_map(|proxy| proxy.connected()) {
            for model in &live.terms.models {
                names.insert(model.name.clone());
                names.insert(format!("{}@{}", model.name, model.root));
            }
        }
        names.into_iter().map(object).collect()
    }

    /// The same, once proxies were asked, where none is connected yet.
    pub async fn listed(&self) -> Vec<ModelObject> {
        self.seen().await;
        if self.models().is_empty() {
            let mut dials = tokio::task::JoinSet::new();
            for proxy in self.proxies() {
                dials.spawn(async move { proxy.live().await.is_ok() });
            }
            dials.join_all().await;
        }
        self.models()
    }

    /// Waits a little for the chain, where nothing was seen of it yet.
    async fn seen(&self) {
        let mut facts = self.facts.clone();
        if facts.borrow().seqno == 0 && !self.accounts.is_empty() {
            let first = facts.wait_for(|facts| facts.seqno > 0);
            // Whoever asks is told if there was nothing.
            let _ = tokio::time::timeout(FIRST, first).await.map(|first| first.is_ok());
        }
        // What looks after the proxies may not have come to it yet.
        if self.proxies().is_empty() {
            self.on_facts();
        }
    }

    fn facts(&self) -> Arc<Facts> {
        self.facts.borrow().clone()
    }

    fn proxies(&self) -> Vec<Arc<Proxy>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Address, Arc<Proxy>>> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes what was seen: vaults, and one proxy for each pool that a vault pays and the book lists.
    fn on_facts(&self) {
        let facts = self.facts();
        let mut proxies = self.lock();
        let mut paid = BTreeMap::new();
        for (vault, view) in &facts.vaults {
            let Some(account) = self.accounts.get(vault) else { continue };
            if view.client_key != self.key {
                continue;
            }
            account.on_vault(*view);
            if !view.closed && view.closes_at == 0 {
                paid.entry(view.pool).or_insert(account);
            }
        }
        for (pool, account) in paid {
            let Some(listed) = facts.proxies.get(&pool) else { continue };
            let had = proxies.get(&pool).filter(|proxy| proxy.account().address() == account.address());
            match had {
                Some(proxy) => proxy.on_listed(listed),
                None => {
                    let proxy = Proxy::new(pool, account.clone(), listed.clone(), self.shared.clone());
                    proxies.insert(pool, Arc::new(proxy));
                }
            }
        }
        if facts.seqno > 0 {
            proxies.retain(|pool, _| facts.proxies.contains_key(pool));
        }
    }

    /// Why nothing can be paid, where that is so.
    fn no_vault(&self) -> Option<fault::Fault> {
        let facts = self.facts();
        if self.accounts.is_empty() {
            let message =
                "no vault: open one with `chrysalis vault open`, and name it to the gateway with --vault";
            return Some(fault::Fault::payment("no_vault", message));
        }
        if facts.seqno == 0 {
            let message = "nothing was proven of the chain yet; are the servers of --ledger there?";
            return Some(fault::Fault::away("no_ledger", message));
        }
        if !self.proxies().is_empty() {
            return None;
        }
        let foreign = facts.vaults.iter().find(|(_, view)| view.client_key != self.key);
        let reason = match (facts.wrong.first(), foreign) {
            (Some((vault, reason)), _) => format!("{vault} is no vault: {reason}"),
            (None, Some((vault, _))) => format!("{vault} is of another channel key than --vault-key"),
            (None, None) => "none of its vaults is open and pays a pool of the root's book".into(),
        };
        let message = format!("{reason}; open one with `chrysalis vault open` for a proxy that is listed");
        Some(fault::Fault::payment("no_vault", message))
    }
}

/// The clock of this machine, in seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX / 2)
}
