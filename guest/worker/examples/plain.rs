//! A development server: the worker's routes over plain HTTP on loopback. `cargo xtask serve` runs it.
//!
//! It proves nothing to anybody: no attestation, no measured configuration, no TLS. It is an example and not a mode of the
//! worker, so the image can't hold it.

use anyhow::{Context, Result, ensure};
use protocol::config::WorkerConfig;
use serde::de::DeserializeOwned;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use worker::{Compute, Models};

const USAGE: &str =
    "usage: plain --model DIR [--model DIR]... [--port P] [--precision P] [--kv-precision P] [--threads N]";

fn main() -> Result<()> {
    let (mut folders, mut port) = (Vec::<PathBuf>::new(), 8080_u16);
    let mut config = WorkerConfig::default();
    let mut words = std::env::args().skip(1);
    while let Some(option) = words.next() {
        let value = words.next().context(USAGE)?;
        match option.as_str() {
            "--model" => folders.push(value.into()),
            "--port" => port = value.parse().context("--port: expected a number below 65536")?,
            "--precision" => config.precision = Some(named(&option, &value)?),
            "--kv-precision" => config.kv_precision = Some(named(&option, &value)?),
            "--threads" => config.threads = Some(value.parse().context("--threads: expected a number")?),
            _ => anyhow::bail!("{option}: no such option; {USAGE}"),
        }
    }
    ensure!(!folders.is_empty(), "--model: expected a Hugging Face folder, found none; {USAGE}");
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(folders, port, config))
}

/// A word of the worker's configuration.
fn named<T: DeserializeOwned>(option: &str, value: &str) -> Result<T> {
    serde_json::from_value(value.into()).with_context(|| format!("{option} {value}"))
}

async fn run(folders: Vec<PathBuf>, port: u16, config: WorkerConfig) -> Result<()> {
    let compute = Compute::choose(Some(&config), || Err(engine::NoGpu::NotBuilt))?;
    let mut entries = Vec::new();
    for folder in folders {
        let folder = folder.canonicalize().with_context(|| format!("{}: no folder", folder.display()))?;
        let name = folder.file_name().context("--model: expected a folder with a name")?;
        let name = name.to_string_lossy().into_owned();
        eprintln!("plain: loading {name} ...");
        let compute = compute.clone();
        let entry = tokio::task::spawn_blocking(move || worker::load(&name, &folder, &compute)).await??;
        entries.push(entry);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let models = Arc::new(Models::new(entries, threads));
    let names = models.names().collect::<Vec<_>>().join(", ");
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .with_context(|| format!("--port {port}: cannot listen there; is the port taken?"))?;
    let address = listener.local_addr()?;
    eprintln!("plain: DEVELOPMENT server, plain HTTP on loopback, NOTHING is attested");
    eprintln!("plain: serving {names} on http://{address}/v1; {}", compute.said());
    axum::serve(listener, worker::router(models)).await?;
    Ok(())
}
