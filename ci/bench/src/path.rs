//! The proxy's data path beside HAProxy and nginx, in turns and in CPU time of the proxies alone, and what it adds to a
//! chunk beside a relay that copies bytes.
//!
//! ```text
//! load.rs --TLS, HTTP/2--> ours.rs | rival.rs (HAProxy, nginx) --TLS--> origin.rs          cpu.rs: whose time counts
//!                                                                                      idle.rs: heap of clients
//! ```
//! One thread for each proxy, one for whoever asks, one for the servers behind. Nobody pays but in the row that says so.

mod cpu;
mod idle;
mod load;
mod origin;
mod ours;
mod paid;
mod rival;

use crate::report::{Limit, Number, Unit};
use anyhow::{Context, Result};
use cpu::Threads;
use load::{Line, Load};
use origin::Kind;
use ours::Ours;
use paid::Payer;
use rival::{Packages, Rival};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

/// Threads of a proxy that is paid.
const PAID: &str = "proxy-paid";
/// Samples of each.
const ROUNDS: usize = 9;
/// Servers behind each proxy.
const ORIGINS: usize = 4;
const SHORT: Load = Load { kind: Kind::Short, requests: 2_048, at_once: 32 };
const BURST: Load = Load { kind: Kind::Burst, requests: 384, at_once: 16 };
const PACED: Load = Load { kind: Kind::Paced, requests: 128, at_once: 64 };
/// Streams whose chunks are timed: few, so that none waits for another.
const TIMED: Load = Load { kind: Kind::Paced, requests: 16, at_once: 4 };

/// Times HAProxy, and nginx, that a request may cost.
const HAPROXY: f64 = 1.0;
const NGINX: f64 = 0.75;
/// Microseconds that a chunk may take longer than through the relay.
const ADDED: f64 = 60.0;

/// All numbers; `peers` is the root of the peers' packages.
pub fn measure(scratch: &Path, peers: &Path) -> Result<Vec<Number>> {
    let scratch = scratch.join("path");
    std::fs::create_dir_all(&scratch).with_context(|| format!("{}: can't make", scratch.display()))?;
    let threads = [ours::NAME, "origin", "relay"].map(runtime);
    let [proxy, origin, relay] = threads;
    let (proxy, origin, relay) = (proxy?, origin?, relay?);
    let packages = Packages { root: peers, scratch: &scratch };
    let load = Builder::new_current_thread().enable_all().build()?;
    let stage = load.block_on(Stage::set(&packages, &proxy, &origin, &relay))?;
    let mut numbers = Vec::new();
    for (load_of, names) in [
        (SHORT, ["1 KB answer, beside HAProxy", "1 KB answer, beside nginx"]),
        (PACED, ["paced stream, beside HAProxy", "paced stream, beside nginx"]),
        (BURST, ["burst of chunks, beside HAProxy", "burst of chunks, beside nginx"]),
    ] {
        numbers.extend(load.block_on(stage.costs(load_of, names))?);
    }
    numbers.push(load.block_on(stage.delay())?);
    numbers.push(load.block_on(stage.payment(&scratch, &origin))?);
    drop(stage);
    numbers.extend(idle::measure()?);
    Ok(numbers)
}

/// A runtime whose one thread is called so.
fn runtime(name: &'static str) -> Result<Runtime> {
    Ok(Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build()?)
}

/// Everything that is measured, warm, with connections to it.
struct Stage {
    sides: Vec<Side>,
    relayed: Line,
    _kept: (Ours, Vec<Rival>),
}

/// One proxy.
struct Side {
    name: &'static str,
    threads: Threads,
    lines: Vec<Line>,
}

impl Side {
    /// CPU milliseconds for a thousand requests.
    async fn cost(&self, load: Load) -> Result<f64> {
        let before = self.threads.cpu()?;
        load::run(&self.lines, load).await.with_context(|| format!("through {}", self.name))?;
        settle().await;
        Ok(each(self.threads.cpu()? - before, load))
    }
}

fn each(spent: Duration, load: Load) -> f64 {
    spent.as_secs_f64() * 1e6 / load.requests as f64
}

impl Stage {
    async fn set(
        packages: &Packages<'_>,
        proxy: &Runtime,
        origin: &Runtime,
        relay: &Runtime,
    ) -> Result<Self> {
        let origins = origin.spawn(origins()).await??;
        let ours = Ours::start(proxy.handle(), None).await?;
        // What workers do is not the load's.
        let ours = origin.spawn(async move { ours.employ(ORIGINS).await.map(|()| ours) }).await??;
        let rivals = vec![
            packages.haproxy(&origins, "h2").await?,
            packages.haproxy(&origins, "http/1.1").await?,
            packages.nginx(&origins).await?,
        ];
        let mut lines = Vec::new();
        for _ in 0..load::CONNECTIONS {
            lines.push(ours.line(None).await?);
        }
        let mut sides = vec![Side { name: "Chrysalis", threads: ours::THREADS, lines }];
        for (rival, name) in rivals.iter().zip(["HAProxy", "HAProxy, HTTP/1.1 behind", "nginx"]) {
            let mut lines = Vec::new();
            for _ in 0..load::CONNECTIONS {
                lines.push(rival::dial(rival.address).await?);
            }
            sides.push(Side { name, threads: rival.threads.clone(), lines });
        }
        let relayed = rival::dial(relay.spawn(relaying(origins[0])).await??).await?;
        Ok(Self { sides, relayed, _kept: (ours, rivals) })
    }

    /// CPU time of each proxy for a thousand requests, in turns.
    async fn costs(&self, load: Load, names: [&'static str; 2]) -> Result<Vec<Number>> {
        let mut spent = vec![Vec::with_capacity(ROUNDS); self.sides.len()];
        for round in 0..=ROUNDS {
            for (side, spent) in self.sides.iter().zip(&mut spent) {
                let cost = side.cost(load).await?;
                // The first is for connections and caches to be there.
                if round > 0 {
                    spent.push(cost);
                }
            }
        }
        let [ours, haproxy, haproxy_one, nginx] = &spent[..] else { unreachable!() };
        let (best, how) = match Number::median(haproxy_one) < Number::median(haproxy) {
            true => (haproxy_one, "HAProxy, HTTP/1.1 to the servers"),
            false => (haproxy, "HAProxy, HTTP/2 to the servers"),
        };
        let row = |name, peer: &str, values: &[f64], limit: Option<f64>| {
            let number = Number::new(name, Unit::Milliseconds, ours).beside(peer, values);
            let number = limit.map_or(number.clone(), |times| number.limit(Limit::TimesPeer(times)));
            number.covers(format!(
                "CPU of one proxy thread for 1,000 requests, {} at once on {} connections; TLS in, TLS out",
                load.at_once,
                load::CONNECTIONS
            ))
        };
        let nginx_limit = (load.kind != Kind::Burst).then_some(NGINX);
        Ok(vec![
            row(names[0], how, best, Some(HAPROXY)),
            row(names[1], "nginx, HTTP/1.1 to the servers", nginx, nginx_limit),
        ])
    }

    /// CPU of short answers that are paid for, beside that of the same for nothing.
    async fn payment(&self, scratch: &Path, origin: &Runtime) -> Result<Number> {
        let threads = runtime(PAID)?;
        let money = paid::money(&scratch.join("books"))?;
        let ours = Ours::start(threads.handle(), Some(money)).await?;
        let ours = origin.spawn(async move { ours.employ(ORIGINS).await.map(|()| ours) }).await??;
        let payer = Payer::default();
        let mut lines = Vec::new();
        for _ in 0..load::CONNECTIONS {
            lines.push(ours.line(Some(&payer)).await?);
        }
        let free = Side { name: "Chrysalis", threads: ours::THREADS, lines: self.sides[0].lines.clone() };
        let paid = Side { name: "Chrysalis, paid", threads: Threads::Named(PAID), lines };
        let clerk = Threads::Named(paid::CLERK);
        let (mut all, mut books, mut unpaid) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let before = clerk.cpu()?;
            let way = paid.cost(SHORT).await?;
            let clerk = each(clerk.cpu()? - before, SHORT);
            let for_nothing = free.cost(SHORT).await?;
            if round > 0 {
                all.push(way + clerk);
                books.push(clerk);
                unpaid.push(for_nothing);
            }
        }
        drop(ours);
        threads.shutdown_background();
        Ok(Number::new("1 KB answer, paid", Unit::Milliseconds, &all).beside("the same for nothing", &unpaid).covers(format!(
            "CPU for 1,000 requests: cap and order verified, hold, use, receipt and payout signed, logged and synced; {:.0} ms of it \
             is the clerk's thread",
            Number::median(&books)
        )))
    }

    /// What the proxy adds to a chunk, beside a relay.
    async fn delay(&self) -> Result<Number> {
        let (mut added, mut beside) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
        for round in 0..=ROUNDS {
            let through = middle(load::run(&self.sides[0].lines, TIMED).await?);
            let relayed = middle(load::run(std::slice::from_ref(&self.relayed), TIMED).await?);
            if round > 0 {
                added.push(through - relayed);
                beside.push(relayed);
            }
        }
        Ok(Number::new("delay of a chunk", Unit::Microseconds, &added).limit(Limit::AtMost(ADDED)).covers(format!(
            "the middle chunk of {} paced streams at once, what the proxy takes beyond a TCP relay that copies bytes ({:.0} us \
             with the relay); wall clock",
            TIMED.at_once,
            Number::median(&beside)
        )))
    }
}

/// Until what a load leaves behind is done, and the threads wait for more.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

fn middle(mut ages: Vec<Duration>) -> f64 {
    ages.sort_unstable();
    ages.get(ages.len() / 2).map_or(f64::NAN, |age| age.as_secs_f64() * 1e6)
}

async fn origins() -> Result<Vec<SocketAddr>> {
    let tls = rival::origin_tls()?;
    let mut origins = Vec::new();
    for _ in 0..ORIGINS {
        origins.push(origin::listen(tls.clone()).await?);
    }
    Ok(origins)
}

/// A relay that copies bytes in both directions and does nothing else.
async fn relaying(to: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await?;
                near.set_nodelay(true)?;
                far.set_nodelay(true)?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    Ok(address)
}
