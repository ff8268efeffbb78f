//! The proxy's books under load: orders and caps verified, holds written and synced, as requests wait for them.
//!
//! What it costs is CPU time of the whole process, with everything that the clerk does; signing is the clients' and done
//! before. What a request waits for is wall clock, disk included, so it says as much of this machine's disk.

use crate::report::{Limit, Number, Unit};
use ::proxy::books::{self, Books, Desk, Reservation};
use anyhow::{Context, Result, ensure};
use payment::price::{Commission, Price};
use payment::view::{PoolView, PotView, Seen, VaultView};
use payment::{Address, Cap, Order, SecretKey};
use protocol::market::Most;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Microseconds of CPU for a request's two vouchers and its hold: 33,000 vouchers a second.
const EACH: f64 = 60.0;
/// Milliseconds that the middle request waits for its hold.
const WAIT: f64 = 8.0;
/// Samples of each.
const ROUNDS: usize = 15;
/// Requests that come together and share a batch, those of a lighter moment, and whose they are.
const TOGETHER: usize = 256;
const MOMENT: usize = 64;
const CLIENTS: usize = 16;
const NOW: u64 = 1_800_000_000;
const POOL: Address = Address { workchain: 0, hash: [0xaa; 32] };
const MOST: Most = Most { prompt: 1_000, completion: 1_000 };
const PRICE: Price =
    Price { base: 1_000_000, prompt: 10_000, cached: 10_000, completion: 10_000, reasoning: 10_000 };

/// Both numbers; `scratch` takes the log.
pub fn measure(scratch: &Path) -> Result<Vec<Number>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(held(scratch)).context("the proxy's books")
}

async fn held(scratch: &Path) -> Result<Vec<Number>> {
    let bench = Bench::open(&scratch.join("proxy"))?;
    bench.meet().await?;
    let (mut together, mut alone, mut waits) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (cpu, _) = bench.at_once(TOGETHER).await?;
        together.push(cpu.as_secs_f64() * 1e6 / TOGETHER as f64);
        let (_, mut waited) = bench.at_once(MOMENT).await?;
        waited.sort();
        waits.push(waited[waited.len() / 2].as_secs_f64() * 1e3);
        // One by one: each has a batch, a write and a sync of its own.
        let mut cpu = Duration::ZERO;
        for _ in 0..CLIENTS {
            cpu += bench.at_once(1).await?.0;
        }
        alone.push(cpu.as_secs_f64() * 1e6 / CLIENTS as f64);
    }
    let cost = Number::new("hold of a request", Unit::Microseconds, &together)
        .limit(Limit::AtMost(EACH))
        .beside("each alone", &alone)
        .covers(format!(
            "order and cap verified, hold logged and synced; {TOGETHER} of {CLIENTS} clients together; CPU time of the process"
        ));
    let wait = Number::new("wait for a hold", Unit::Milliseconds, &waits).limit(Limit::AtMost(WAIT)).covers(
        format!("{MOMENT} requests at one moment, the middle one; wall clock, with this disk's sync"),
    );
    Ok(vec![cost, wait])
}

struct Bench {
    books: Books,
    key: [u8; 32],
    clients: Vec<SecretKey>,
    /// Number of the next request; caps grow with it.
    next: AtomicU64,
}

impl Bench {
    fn open(folder: &Path) -> Result<Self> {
        let secret = SecretKey::from_seed(&[99; 32]);
        let key = secret.public().to_bytes();
        let terms = ::proxy::money::rules(-217, POOL, Commission::new(500));
        let (before, journal) = books::open(folder, &POOL, &key)?;
        let desk = Desk::new(terms, secret, before, Box::new(::proxy::seeds()?));
        let books = Books::start(desk, journal, || NOW)?;
        let clients = (1..=CLIENTS as u8).map(|n| SecretKey::from_seed(&[n; 32])).collect();
        Ok(Self { books, key, clients, next: AtomicU64::new(0) })
    }

    /// A session that is the pool's, and a vault for each client.
    async fn meet(&self) -> Result<()> {
        let seen = Seen { seqno: 1, time: NOW as u32 };
        let pot = PotView { key: self.key, closes_at: 0, funded: 1 << 60, spent: 0 };
        let pots = [(1, pot)].into();
        self.books.on_pool(PoolView { seen, grace: 7_200, epoch: 1, pots, closed: false });
        for (n, client) in self.clients.iter().enumerate() {
            let client_key = client.public().to_bytes();
            let (claimed, free, closes_at, closed) = (0, 1 << 60, 0, false);
            let view = VaultView { seen, client_key, pool: POOL, claimed, free, closes_at, closed };
            self.books.on_vault(vault(n), view).await?;
        }
        Ok(())
    }

    /// So many requests at one moment: CPU time that their holds took, and how long each waited.
    async fn at_once(&self, count: usize) -> Result<(Duration, Vec<Duration>)> {
        let reservations: Vec<Reservation> = (0..count).map(|n| self.signed(n)).collect();
        let before = cpu();
        let began = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for reservation in reservations {
            let books = self.books.clone();
            tasks.spawn(async move {
                let held = books.reserve(reservation).await;
                (held, began.elapsed())
            });
        }
        let (mut holds, mut waited) = (Vec::new(), Vec::new());
        while let Some(done) = tasks.join_next().await {
            let (held, wait) = done?;
            holds.push(held?);
            waited.push(wait);
        }
        let spent = cpu() - before;
        ensure!(holds.len() == count, "a hold is missing: report this as a defect");
        drop(holds);
        // What was given back is on disk before the next round begins.
        self.books.look(|_, _| ()).await.context("the clerk is gone")?;
        Ok((spent, waited))
    }

    /// As a client signs it: a cap above the one before, and the order.
    fn signed(&self, n: usize) -> Reservation {
        let (client, vault) = (&self.clients[n % CLIENTS], vault(n % CLIENTS));
        let (request, request_hash) = (self.next.fetch_add(1, Ordering::Relaxed), [7; 32]);
        let cap = (1 << 50) + request;
        let cap = Cap { global_id: -217, vault, valid_until: u32::MAX, session_key: self.key, cap };
        let order = Order {
            global_id: -217,
            vault,
            session_key: self.key,
            request,
            request_hash,
            prompt: MOST.prompt,
            completion: MOST.completion,
        };
        let (cap, order) = (Some(client.sign(cap)), client.sign(order));
        Reservation { vault, request, cap, order, request_hash, price: PRICE, most: MOST }
    }
}

fn vault(n: usize) -> Address {
    Address { workchain: 0, hash: [n as u8 + 1; 32] }
}

/// CPU time of this process.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
