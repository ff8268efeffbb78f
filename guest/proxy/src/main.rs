//! The proxy daemon: reads whom to believe, opens its books where it is paid, then lets workers and clients in.

use anyhow::{Context, Result, ensure};
use daemon::dial::{Met, keep_calling};
use daemon::ledger::{Watch, address};
use daemon::serve::Door;
use daemon::{Believed, Options, Own, Reporter, notify, options};
use payment::price::Commission;
use protocol::channel::Part;
use protocol::config::Role;
use proxy::books::{self, Books, Desk};
use proxy::forward::Front;
use proxy::ledger::Ledger;
use proxy::money::{self, Money};
use proxy::registry::Registry;
use proxy::serve::House;
use proxy::{SessionKey, seeds};
use ratls::session::Requests;
use ratls::{Acceptor, Endpoint, QuoteLimits, QuoteQueue};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

const NAME: &str = "chrysalis-proxy";
/// Connections past the handshake, of workers and clients together.
const OPEN: usize = 4096;

fn main() -> Result<()> {
    daemon::quiet_panics(NAME);
    let mut state = PathBuf::from("/run/chrysalis/state");
    let own_option = |option: &str, value: &str| {
        let known = option == "--state";
        if known {
            state = value.into();
        }
        known
    };
    let options = Options::parse(std::env::args().skip(1), own_option).with_context(|| {
        format!(
            "usage: {NAME} [OPTION VALUE]...\n  --state DIR            write-ahead logs of the books \
             (default /run/chrysalis/state)\n{}",
            options::USAGE
        )
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(options, state))
}

async fn run(options: Options, state: PathBuf) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let own = Own::read(&options.config, &options.runtime_config, Role::Proxy)?;
    let listener = TcpListener::bind(&options.listen)
        .await
        .with_context(|| format!("--listen {}: cannot listen there; is the port taken?", options.listen))?;
    let address = listener.local_addr()?;
    let (stop, stopping) = watch::channel(false);
    let house = Arc::new(house(options, own, &state, stopping.clone())?);
    let acceptor = Acceptor::new(house.endpoint.clone()).context("a proxy is an attested part")?;
    let acceptor = acceptor.anonymous().attested(house.verifier.clone(), house.wanted.clone());
    let reporter = house.reporter.clone();
    let door = Door { name: NAME, acceptor: Arc::new(acceptor), peers: Role::Worker, reporter, open: OPEN };
    let (inside, routes) = (house.clone(), house.routes());
    let meet = move |accepted| {
        let (house, routes) = (inside.clone(), routes.clone());
        async move { house.meet(accepted, routes).await }
    };
    let serving = tokio::spawn(door.serve(listener, stopping.clone(), meet));
    for address in house.own.dial() {
        let house = house.clone();
        tokio::spawn(keep_calling(address, stopping.clone(), move |tcp| call(house.clone(), tcp)));
    }
    notify::notify(notify::READY)
        .context("$NOTIFY_SOCKET: cannot tell the service manager that the proxy is ready")?;
    let simulated = if house.simulated { "; workers on a SIMULATED platform are believed" } else { "" };
    let unpaid = if house.front.money.is_none() { "; UNPAID, for there is no [ledger]" } else { "" };
    eprintln!("{NAME}: serving on {address}{simulated}{unpaid}");

    terminate.recv().await;
    // Nobody may be listening any more; the proxy ends either way.
    let _ = notify::notify(notify::STOPPING);
    stop.send(true)?;
    let drained = serving.await?;
    eprintln!("{NAME}: stopped, {} connection(s) cut", drained.cut);
    Ok(())
}

fn house(options: Options, own: Own, state: &Path, stop: watch::Receiver<bool>) -> Result<House> {
    let path = options.config.display();
    let trust = own.config.trust.as_ref();
    let trust = trust.with_context(|| {
        format!("{path}: no [trust], and a proxy without it could let no worker in; say whom it believes")
    })?;
    ensure!(own.config.models.is_empty(), "{path}: a proxy runs no models, found [[models]]; remove them");
    let believed = Believed::load(trust, &options.trust)?;
    let (simulated, wanted) = (believed.is_simulated(), believed.wanted(Part::Worker));
    let quotes = QuoteQueue::new(Arc::new(options.attester), QuoteLimits::default());
    let key = SessionKey::generate()?;
    let endpoint = Endpoint::attested(Part::Proxy, quotes, own.static_bytes.clone());
    let endpoint = endpoint.with_keys(key.application_keys()?);
    let workers = Arc::new(Registry::default());
    let ledger = own.ledger(NAME, stop.clone())?;
    let money = ledger.map(|ledger| paid(ledger, &own, key, state, &workers)).transpose()?;
    let reporter = Reporter::start(options.progress);
    Ok(House {
        endpoint: Arc::new(endpoint),
        verifier: believed.verifier(own.runtime.mirror.as_deref(), &reporter)?,
        wanted,
        simulated,
        own,
        front: Arc::new(Front::new(workers, money)),
        reporter,
        stop,
        connections: 0.into(),
    })
}

/// Opens the books: what boots before left is read, and a log of this boot's begun.
fn paid(
    watch: Watch,
    own: &Own,
    key: SessionKey,
    state: &Path,
    workers: &Arc<Registry<Requests>>,
) -> Result<Arc<Money>> {
    let pin = own.config.ledger.as_ref().context("a ledger is watched, so one is configured")?;
    let pool = own.config.pool.as_ref().context("[pool]: a proxy with [ledger] has one")?;
    let pool = address(pool.address);
    // Nothing is sold before the root's book is proven, which says the commission.
    let terms = money::rules(pin.global_id, pool, Commission::new(0));
    let public = key.public();
    let (before, journal) = books::open(state, &pool, &public)?;
    let desk = Desk::new(terms, key.into_secret(), before, Box::new(seeds()?));
    let clock = watch.clone();
    let books = Books::start(desk, journal, move || clock.now())?;
    let (clock, root) = (watch.clone(), address(pin.root));
    let chain = Ledger::follow(watch, pool).context("the ledger can't watch the pool")?;
    let setup =
        money::Setup { chain: Arc::new(chain), terms, key: public, root, now: Box::new(move || clock.now()) };
    let money = Arc::new(Money::new(books, setup));
    tokio::spawn(money.clone().watch(workers.clone()));
    Ok(money)
}

/// Calls a worker that can be reached, and employs it.
async fn call(house: Arc<House>, tcp: TcpStream) -> Met {
    match ratls::connect(tcp, &house.endpoint, &house.verifier, &house.wanted).await {
        Ok(worker) => house.employ(worker).await,
        Err(error) => {
            if let Some(refusal) = error.refusal() {
                house.reporter.refused(Role::Worker, &refusal.reasons());
            }
            Met::Failed
        }
    }
}
