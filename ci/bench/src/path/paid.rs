//! The same proxy where everybody pays: real books and a log on disk, clients that sign caps and orders, a chain that is
//! made up.

use super::ours;
use ::proxy::books::{self, Books, Desk};
use ::proxy::chain::{Book, Chain, NoView, Seeing};
use ::proxy::money::{self, Money, Setup};
use anyhow::Result;
use hyper::http::request::Builder;
use payment::price::{Commission, Price};
use payment::view::{PoolView, PotView, Seen, VaultView};
use payment::{Address, Cap, Order, SecretKey};
use protocol::market::{Blob, Most, header};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// Thread of the books.
pub const CLERK: &str = "clerk";
const GLOBAL_ID: i32 = -217;
const NOW: u64 = 1_800_000_000;
const POOL: Address = Address { workchain: 0, hash: [0xaa; 32] };
const KEY: [u8; 32] = [98; 32];
const MOST: Most = Most { prompt: 1_000, completion: 1_000 };
const PRICE: Price =
    Price { base: 1_000_000, prompt: 10_000, cached: 10_000, completion: 10_000, reasoning: 10_000 };

/// What a worker's configuration has beside its models.
pub fn wallet() -> String {
    let some = "c".repeat(64);
    format!(
        "[ledger]\nglobal_id = {GLOBAL_ID}\nzero_root = \"{some}\"\nzero_file = \"{some}\"\nroot = \"0:{some}\"\n\
         [wallet]\naddress = \"0:{some}\"\n"
    )
}

/// Says what it was made to say.
struct Fixed {
    pool: watch::Sender<Option<PoolView>>,
    book: watch::Sender<Option<Arc<Book>>>,
}

impl Chain for Fixed {
    fn pool(&self) -> watch::Receiver<Option<PoolView>> {
        self.pool.subscribe()
    }

    fn book(&self) -> watch::Receiver<Option<Arc<Book>>> {
        self.book.subscribe()
    }

    fn vault(&self, vault: Address) -> Seeing<'_> {
        let seen = Seen { seqno: 1, time: NOW as u32 };
        let client_key = SecretKey::from_seed(&vault.hash).public().to_bytes();
        let (claimed, free, closes_at, closed) = (0, 1 << 60, 0, false);
        let view = VaultView { seen, client_key, pool: POOL, claimed, free, closes_at, closed };
        Box::pin(async move { Ok::<_, NoView>(view) })
    }
}

/// Books in a folder of their own.
pub fn money(folder: &Path) -> Result<Arc<Money>> {
    let secret = SecretKey::from_seed(&KEY);
    let key = secret.public().to_bytes();
    let commission = Commission::new(500);
    let terms = money::rules(GLOBAL_ID, POOL, commission);
    let (before, journal) = books::open(folder, &POOL, &key)?;
    let desk = Desk::new(terms, secret, before, Box::new(::proxy::seeds()?));
    let books = Books::start(desk, journal, || NOW)?;
    let pot = PotView { key, closes_at: 0, funded: 1 << 60, spent: 0 };
    let seen = Seen { seqno: 1, time: NOW as u32 };
    let pool = PoolView { seen, grace: 7_200, epoch: 1, pots: [(1, pot)].into(), closed: false };
    let book = Book { prices: [(ours::root(), PRICE)].into(), commission: Some(commission) };
    let chain =
        Fixed { pool: watch::Sender::new(Some(pool)), book: watch::Sender::new(Some(Arc::new(book))) };
    let setup = Setup { chain: Arc::new(chain), terms, key, root: POOL, now: Box::new(|| NOW) };
    Ok(Arc::new(Money::new(books, setup)))
}

/// Who signs; one vault for each that asks at one time.
#[derive(Clone, Default)]
pub struct Payer {
    /// Which of the vaults.
    pub vault: u8,
    next: Arc<AtomicU64>,
}

impl Payer {
    /// The request with a cap above the one before, and its order.
    pub fn sign(&self, request: Builder, body: &[u8]) -> Builder {
        let hash = [self.vault + 1; 32];
        let (client, vault) = (SecretKey::from_seed(&hash), Address { workchain: 0, hash });
        let session_key = SecretKey::from_seed(&KEY).public().to_bytes();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let cap = (1 << 50) + number;
        let cap = Cap { global_id: GLOBAL_ID, vault, valid_until: u32::MAX, session_key, cap };
        let order = Order {
            global_id: GLOBAL_ID,
            vault,
            session_key,
            request: number,
            request_hash: Sha256::digest(body).into(),
            prompt: MOST.prompt,
            completion: MOST.completion,
        };
        request
            .header(header::VAULT, money::account(vault).to_string())
            .header(header::REQUEST, number)
            .header(header::CAP, Blob::new(client.sign(cap).to_bytes()).to_string())
            .header(header::ORDER, Blob::new(client.sign(order).to_bytes()).to_string())
            .header(header::MOST, MOST.to_string())
    }
}
