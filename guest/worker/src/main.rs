//! The worker daemon: loads the models of the measured configuration and serves them over attested TLS.

use anyhow::{Context, Result, anyhow, ensure};
use axum::Router;
use daemon::dial::keep_calling;
use daemon::serve::Door;
use daemon::{Believed, Options, Own, Reporter, notify, options};
use protocol::channel::Part;
use protocol::config::Role;
use protocol::market::Device;
use ratls::{Acceptor, Endpoint, QuoteLimits, QuoteQueue, Wanted};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use worker::pay::{self, Facts, Pay, Pins};
use worker::{Compute, Models, Proxies, Server};

const NAME: &str = "chrysalis-worker";
/// Connections past the handshake.
const OPEN: usize = 256;

fn main() -> Result<()> {
    daemon::quiet_panics(NAME);
    let mut models = PathBuf::from("/run/chrysalis/models");
    let own_option = |option: &str, value: &str| {
        let known = option == "--models";
        if known {
            models = value.into();
        }
        known
    };
    let options = Options::parse(std::env::args().skip(1), own_option).with_context(|| {
        format!(
            "usage: {NAME} [OPTION VALUE]...\n  --models DIR           one folder a model, named as in the configuration \
             (default /run/chrysalis/models)\n{}",
            options::USAGE
        )
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(options, models))
}

async fn run(options: Options, folder: PathBuf) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let own = Own::read(&options.config, &options.runtime_config, Role::Worker)?;
    let config = own.config.clone();
    let record = options.attester.runtime.clone();
    let compute = Compute::choose(config.worker.as_ref(), || look(&record)).map_err(|lacks| {
        anyhow!("no GPU: {lacks}; or let the processor compute: [worker] device = \"gpu-or-cpu\"")
    })?;
    let (said, device) = (compute.said(), compute.device());
    let models = tokio::task::spawn_blocking(move || worker::load_all(&config, &folder, &compute)).await??;
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    let models = Arc::new(Models::new(models, at_once));
    let count = models.names().count();
    let quotes = QuoteQueue::new(Arc::new(options.attester), QuoteLimits::default());
    let (stop, stopping) = watch::channel(false);
    let reporter = Reporter::start(options.progress);
    let (routes, paid) = routes(&own, models, device, stopping.clone())?;
    let gpus = daemon::gpu::source(&record, &options.trust);
    let endpoint = Endpoint::attested(Part::Worker, quotes, own.static_bytes.clone());
    let server = Arc::new(Server {
        endpoint: Arc::new(match gpus {
            Some(gpus) => endpoint.with_gpu(gpus),
            None => endpoint,
        }),
        proxies: proxies(&own, &options.trust, &reporter)?,
        own,
        routes,
        reporter,
        stop: stopping.clone(),
    });
    let listener = TcpListener::bind(&options.listen)
        .await
        .with_context(|| format!("--listen {}: cannot listen there; is the port taken?", options.listen))?;
    let address = listener.local_addr()?;
    let door = door(&server)?;
    let inside = server.clone();
    let meet = move |accepted| {
        let server = inside.clone();
        async move { server.meet(accepted).await }
    };
    let serving = tokio::spawn(door.serve(listener, stopping.clone(), meet));
    let call = |address| {
        let server = server.clone();
        tokio::spawn(keep_calling(address, stopping.clone(), move |tcp| {
            let server = server.clone();
            async move { server.call(tcp).await }
        }))
    };
    let calling: Vec<_> = server.own.dial().into_iter().map(call).collect();
    notify::notify(notify::READY)
        .context("$NOTIFY_SOCKET: cannot tell the service manager that the worker is ready")?;
    let simulated = server.proxies.as_ref().is_some_and(|proxies| proxies.simulated);
    let simulated = if simulated { "; proxies on a SIMULATED platform are believed" } else { "" };
    eprintln!("{NAME}: serving {count} model(s) on {address}; {said}; {paid}{simulated}");

    terminate.recv().await;
    // Nobody may be listening any more; the worker ends either way.
    let _ = notify::notify(notify::STOPPING);
    stop.send(true)?;
    let drained = serving.await?;
    for call in calling {
        call.await?;
    }
    eprintln!("{NAME}: stopped, {} connection(s) cut", drained.cut);
    Ok(())
}

/// The GPU, if the gate accepted one: no other may be opened. A program that can't use any says so first.
fn look(record: &Path) -> Result<engine::Gpu, engine::NoGpu> {
    match !cfg!(feature = "cuda") || daemon::gpu::accepted(record) {
        true => engine::gpu(),
        false => Err(engine::NoGpu::NotAccepted),
    }
}

/// What is served, and whether it is paid for.
fn routes(
    own: &Own,
    models: Arc<Models>,
    device: Device,
    stop: watch::Receiver<bool>,
) -> Result<(Router, &'static str)> {
    let watch = own.ledger(NAME, stop)?;
    let paying = watch.and_then(|watch| Pay::of(&own.config, Arc::new(watch)));
    let paid = if paying.is_some() { "paid" } else { "UNPAID: no [ledger] in the static configuration" };
    let told = models.clone();
    let facts: Facts = Arc::new(move || (told.facts(), told.load(), told.slots()));
    Ok((pay::router(worker::router(models), Pins::of(&own.config), paying, facts, device), paid))
}

/// Whom to believe among proxies, if the measured configuration says it.
fn proxies(own: &Own, handed: &Path, reporter: &Reporter) -> Result<Option<Proxies>> {
    let Some(trust) = &own.config.trust else {
        let none = own.runtime.dial.is_empty();
        ensure!(
            none,
            "dial: the static configuration has no [trust], so no proxy could be believed; add it, or call none"
        );
        return Ok(None);
    };
    let believed = Believed::load(trust, handed)?;
    let simulated = believed.is_simulated();
    let verifier = believed.verifier(own.runtime.mirror.as_deref(), reporter)?;
    Ok(Some(Proxies { verifier, simulated }))
}

/// Lets clients in, and proxies where it is known whom to believe.
fn door(server: &Server) -> Result<Door> {
    let acceptor =
        Acceptor::new(server.endpoint.clone()).context("a worker is an attested part")?.anonymous();
    let acceptor = match &server.proxies {
        Some(proxies) => acceptor.attested(proxies.verifier.clone(), Wanted::part(Part::Proxy)),
        None => acceptor,
    };
    let reporter = server.reporter.clone();
    Ok(Door { name: NAME, acceptor: Arc::new(acceptor), peers: Role::Proxy, reporter, open: OPEN })
}
