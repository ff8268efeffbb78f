//! The worker daemon: loads the models of the measured configuration and serves them over attested TLS.

use anyhow::{Context, Result, bail, ensure};
use attest::TsmAttester;
use protocol::channel::Part;
use protocol::config::{Role, StaticConfig};
use ratls::{Acceptor, Endpoint, QuoteLimits, QuoteQueue};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use worker::{Models, notify};

const USAGE: &str = "\
usage: chrysalis-worker [OPTION VALUE]...
  --config FILE   static configuration (default /run/chrysalis/static.toml)
  --models DIR    one folder a model, named as in the configuration (default /run/chrysalis/models)
  --listen ADDR   address and port (default 0.0.0.0:8443)
  --tsm DIR       configfs-tsm reports (default /sys/kernel/config/tsm/report)
  --ccel FILE     CC event log (default /sys/firmware/acpi/tables/data/CCEL)
  --tpm-log FILE  TPM event log, where there is no CC event log
                  (default /sys/kernel/security/tpm0/binary_bios_measurements)
  --runtime FILE  record of the guest's own events (default /run/chrysalis/runtime-events)";

/// Where things are. There is nothing here that relaxes anything.
struct Options {
    config: PathBuf,
    models: PathBuf,
    listen: String,
    attester: TsmAttester,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Options {
            config: "/run/chrysalis/static.toml".into(),
            models: "/run/chrysalis/models".into(),
            listen: format!("0.0.0.0:{}", protocol::names::WORKER_PORT),
            attester: TsmAttester::default(),
        };
        while let Some(option) = words.next() {
            let value = words.next().with_context(|| format!("{option}: a value must follow\n{USAGE}"))?;
            match option.as_str() {
                "--config" => options.config = value.into(),
                "--models" => options.models = value.into(),
                "--listen" => options.listen = value,
                "--tsm" => options.attester.base = value.into(),
                "--ccel" => options.attester.ccel = value.into(),
                "--tpm-log" => options.attester.tpm_log = value.into(),
                "--runtime" => options.attester.runtime = value.into(),
                _ => bail!("{option}: no such option\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

/// A panic's message may quote what a peer sent; its place may not.
fn quiet_panic(info: &std::panic::PanicHookInfo<'_>) {
    match info.location() {
        Some(place) => eprintln!("chrysalis-worker: panic at {place}; please report it"),
        None => eprintln!("chrysalis-worker: panic; please report it"),
    }
}

fn main() -> Result<()> {
    std::panic::set_hook(Box::new(quiet_panic));
    let options = Options::parse(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(options))
}

async fn run(options: Options) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let path = &options.config;
    let bytes = std::fs::read(path).with_context(|| {
        format!("{}: cannot read the static configuration; chrysalis-init writes it", path.display())
    })?;
    let config = StaticConfig::parse(&bytes).with_context(|| path.display().to_string())?;
    ensure!(
        config.role == Role::Worker,
        "{}: role is {:?}, expected `worker`: this guest runs another daemon",
        path.display(),
        config.role
    );

    let folder = options.models.clone();
    let models = tokio::task::spawn_blocking(move || worker::load_all(&config, &folder)).await??;
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    let models = Arc::new(Models::new(models, at_once));
    let quotes = QuoteQueue::new(Arc::new(options.attester), QuoteLimits::default());
    let endpoint = Arc::new(Endpoint::attested(Part::Worker, quotes, bytes));
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
    eprintln!("chrysalis-worker: serving {count} model(s) on {address}");

    terminate.recv().await;
    // Nobody may be listening any more; the worker ends either way.
    let _ = notify::notify(notify::STOPPING);
    stop.send(true)?;
    let drained = serving.await?;
    eprintln!("chrysalis-worker: stopped, {} connection(s) cut", drained.cut);
    Ok(())
}
