//! The worker daemon: loads the models of the measured configuration and serves them over attested TLS.

use anyhow::{Context, Result};
use daemon::{Options, Own, notify, options};
use protocol::channel::Part;
use protocol::config::Role;
use ratls::{Acceptor, Endpoint, QuoteLimits, QuoteQueue};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use worker::Models;

const NAME: &str = "chrysalis-worker";

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
    let models = tokio::task::spawn_blocking(move || worker::load_all(&config, &folder)).await??;
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    let models = Arc::new(Models::new(models, at_once));
    let quotes = QuoteQueue::new(Arc::new(options.attester), QuoteLimits::default());
    let endpoint = Arc::new(Endpoint::attested(Part::Worker, quotes, own.static_bytes));
    let acceptor = Acceptor::new(endpoint).context("a worker is an attested part")?.anonymous();
    let acceptor = Arc::new(acceptor);
    let listener = TcpListener::bind(&options.listen)
        .await
        .with_context(|| format!("--listen {}: cannot listen there; is the port taken?", options.listen))?;
    let address = listener.local_addr()?;
    let count = models.names().count();

    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(worker::serve(listener, acceptor, worker::router(models), stopping));
    notify::notify(notify::READY)
        .context("$NOTIFY_SOCKET: cannot tell the service manager that the worker is ready")?;
    eprintln!("{NAME}: serving {count} model(s) on {address}");

    terminate.recv().await;
    // Nobody may be listening any more; the worker ends either way.
    let _ = notify::notify(notify::STOPPING);
    stop.send(true)?;
    let drained = serving.await?;
    eprintln!("{NAME}: stopped, {} connection(s) cut", drained.cut);
    Ok(())
}
