//! For tests: a chain that says what it is told, a disk that can be full, and a client with a vault.

use crate::books::{Books, Desk, Disk, Journal};
use crate::chain::{Book, Chain, NoView, Seeing};
use crate::money::{self, Money};
use payment::client::{Client, Ledger, Limits};
use payment::log::{self, Recovered};
use payment::price::{Commission, Price, Tokens};
use payment::proxy::Settled;
use payment::view::{PoolView, PotView, Seen, VaultView};
use payment::{Address, Cap, Order, SecretKey, Signed};
use protocol::market::{Device, Hex32, ModelFacts, ModelKind, Most, SelfTest, WorkerFacts};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

pub const NOW: u64 = 1_800_000_000;
pub const POOL: Address = Address { workchain: 0, hash: [0xaa; 32] };
pub const ROOT: Address = Address { workchain: 0, hash: [0xbb; 32] };
pub const WORKER: Address = Address { workchain: 0, hash: [0xcc; 32] };
pub const PRICE: Price =
    Price { base: 1_000_000_000, prompt: 10_000, cached: 5_000, completion: 20_000, reasoning: 20_000 };
pub const MODEL: [u8; 32] = [1; 32];
pub const MOST: Most = Most { prompt: 100, completion: 100 };

/// A disk in memory; `room` bytes fit.
#[derive(Debug, Clone)]
pub struct Tape(Arc<Mutex<(Vec<u8>, usize)>>);

impl Tape {
    pub fn new() -> Self {
        Tape(Arc::new(Mutex::new((Vec::new(), usize::MAX))))
    }

    /// As much more fits.
    pub fn room(&self, bytes: usize) {
        let mut tape = self.0.lock().unwrap();
        tape.1 = tape.0.len().saturating_add(bytes);
    }

    /// Everything on it.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().0.clone()
    }

    /// What a next boot reads.
    pub fn log(&self) -> log::Log {
        log::read(&self.0.lock().unwrap().0, &POOL)
    }
}

impl Disk for Tape {
    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut tape = self.0.lock().unwrap();
        let end = offset as usize + bytes.len();
        // As a file system does: what still fits is written, then it fails.
        let fits = bytes.len().min(tape.1.saturating_sub(offset as usize));
        tape.0.resize((offset as usize + fits).max(offset as usize), 0);
        tape.0[offset as usize..offset as usize + fits].copy_from_slice(&bytes[..fits]);
        if end > tape.1 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn renew(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut tape = self.0.lock().unwrap();
        // The old one is there until the new one is.
        if tape.0.len() + bytes.len() > tape.1 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        tape.0 = bytes.to_vec();
        Ok(())
    }

    fn prepare(&mut self, _: u64) {}
}

/// What a worker says whose one model works.
pub fn facts() -> WorkerFacts {
    let model = ModelFacts {
        name: "m".into(),
        root: Hex32(MODEL),
        kind: ModelKind::Chat,
        context: 512,
        max_completion: 256,
        self_test: Some(SelfTest { digest: Hex32([7; 32]), passed: true }),
    };
    let device = Device { kind: "cpu".into(), name: "played".into(), memory_bytes: 1 };
    let (wallet, credit) = (None, 0);
    WorkerFacts {
        models: vec![model],
        device,
        hours: [0, 24],
        wallet,
        credit,
        running: 0,
        waiting: 0,
        slots: 32,
    }
}

/// What is proven.
pub struct FakeChain {
    pub pool: watch::Sender<Option<PoolView>>,
    pub book: watch::Sender<Option<Arc<Book>>>,
    pub vaults: Mutex<BTreeMap<Address, VaultView>>,
}

impl Chain for FakeChain {
    fn pool(&self) -> watch::Receiver<Option<PoolView>> {
        self.pool.subscribe()
    }
    fn book(&self) -> watch::Receiver<Option<Arc<Book>>> {
        self.book.subscribe()
    }
    fn vault(&self, vault: Address) -> Seeing<'_> {
        let view = self.vaults.lock().unwrap().get(&vault).copied().ok_or(NoView::NoVault);
        Box::pin(async move { view })
    }
}

pub fn pool_view(key: [u8; 32], funded: u64, seqno: u32) -> PoolView {
    let pot = PotView { key, closes_at: 0, funded, spent: 0 };
    let seen = Seen { seqno, time: NOW as u32 };
    PoolView { seen, grace: 7_200, epoch: 1, pots: [(1, pot)].into(), closed: false }
}

/// A boot of a proxy whose session is the pool's.
pub struct Boot {
    pub money: Arc<Money>,
    pub chain: Arc<FakeChain>,
    pub tape: Tape,
    pub key: [u8; 32],
}

static SEED: AtomicU8 = AtomicU8::new(1);

impl Boot {
    pub fn first() -> Self {
        Self::after(Recovered::default())
    }

    /// With what logs before gave.
    pub fn after(before: Recovered) -> Self {
        Self::renewing(before, None)
    }

    /// The same, with a log that is begun anew each time it has grown by so many bytes.
    pub fn renewing(before: Recovered, step: Option<u64>) -> Self {
        let secret = SecretKey::from_seed(&[SEED.fetch_add(1, Ordering::Relaxed); 32]);
        let key = secret.public().to_bytes();
        let terms = money::rules(-217, POOL, Commission::new(1_000));
        let tape = Tape::new();
        let journal = Journal::begin(tape.clone(), &POOL, &key);
        let journal = match step {
            Some(step) => journal.renewed_every(step),
            None => journal,
        };
        let mut seed = 0u64;
        let seeds = move || {
            seed += 1;
            let mut bytes = [7; 32];
            bytes[..8].copy_from_slice(&seed.to_be_bytes());
            bytes
        };
        let desk = Desk::new(terms, secret, before, Box::new(seeds));
        let books = Books::start(desk, journal, || NOW).unwrap();
        let book = Book { prices: [(MODEL, PRICE)].into(), commission: Some(Commission::new(1_000)) };
        let chain = Arc::new(FakeChain {
            pool: watch::Sender::new(Some(pool_view(key, 1 << 50, 1))),
            book: watch::Sender::new(Some(Arc::new(book))),
            vaults: Mutex::default(),
        });
        books.on_pool(chain.pool.borrow().clone().unwrap());
        let setup = money::Setup { chain: chain.clone(), terms, key, root: ROOT, now: Box::new(|| NOW) };
        Boot { money: Arc::new(Money::new(books, setup)), chain, tape, key }
    }

    /// A client whose vault holds so much.
    pub fn client(&self, n: u8, deposit: u64) -> Purse {
        let mut purse = Purse::new(n, deposit);
        self.chain.vaults.lock().unwrap().insert(purse.vault, purse.view);
        purse.meet(self.key, 0);
        purse
    }
}

/// A client with a vault.
pub struct Purse {
    pub vault: Address,
    pub view: VaultView,
    pub client: Client,
    next: u64,
}

impl Purse {
    pub fn new(n: u8, deposit: u64) -> Self {
        let vault = Address { workchain: 0, hash: [n; 32] };
        let secret = SecretKey::from_seed(&[n; 32]);
        let view = VaultView {
            seen: Seen { seqno: 1, time: NOW as u32 },
            client_key: secret.public().to_bytes(),
            pool: POOL,
            claimed: 0,
            free: deposit,
            closes_at: 0,
            closed: false,
        };
        let limits = Limits { per_request: u64::MAX, per_day: u64::MAX, cap_lifetime: 86_400 };
        let mut client = Client::new(-217, vault, secret, limits, Ledger::default());
        client.on_vault(view);
        Purse { vault, view, client, next: 0 }
    }

    /// A session that it saw attested.
    pub fn meet(&mut self, key: [u8; 32], floor: u64) {
        self.client.attested(payment::PublicKey::from_bytes(&key).unwrap(), floor).unwrap();
    }

    /// Number, cap and order of one more request.
    pub fn ask(&mut self, hash: [u8; 32]) -> (u64, Signed<Cap>, Signed<Order>) {
        self.next += 1;
        let most = Tokens { prompt: MOST.prompt, completion: MOST.completion, ..Tokens::default() };
        let cap = self.client.request(self.next, hash, PRICE, &most, NOW).unwrap();
        let order = self.client.order(self.next, MOST.prompt, MOST.completion).unwrap();
        (self.next, cap, order)
    }

    pub fn reservation(&mut self) -> crate::books::Reservation {
        let (request, cap, order) = self.ask([9; 32]);
        crate::books::Reservation {
            vault: self.vault,
            request,
            cap: Some(cap),
            order,
            request_hash: [9; 32],
            price: PRICE,
            most: MOST,
        }
    }

    /// Checks what a request left, as a right client does.
    pub fn settle(&mut self, request: u64, settled: &Settled) -> u64 {
        self.client.settle(request, &settled.used, &settled.receipt).unwrap()
    }
}
