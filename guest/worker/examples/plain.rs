//! A development server: the worker's routes over plain HTTP on loopback. `cargo xtask serve` runs it.
//!
//! It proves nothing to anybody: no attestation, no measured configuration, no TLS. It is an example and not a mode of the
//! worker, so the image can't hold it.

use anyhow::{Context, Result, ensure};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use worker::{Compute, Models};

const USAGE: &str = "usage: plain --model DIR [--model DIR]... [--port P]";

fn main() -> Result<()> {
    let (mut folders, mut port) = (Vec::<PathBuf>::new(), 8080_u16);
    let mut words = std::env::args().skip(1);
    while let Some(option) = words.next() {
        let value = words.next().context(USAGE)?;
        match option.as_str() {
            "--model" => folders.push(value.into()),
            "--port" => port = value.parse().context("--port: expected a number below 65536")?,
            _ => anyhow::bail!("{option}: no such option; {USAGE}"),
        }
    }
    ensure!(!folders.is_empty(), "--model: expected a Hugging Face folder, found none; {USAGE}");
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(folders, port))
}

async fn run(folders: Vec<PathBuf>, port: u16) -> Result<()> {
    let mut entries = Vec::new();
    for folder in folders {
        let folder = folder.canonicalize().with_context(|| format!("{}: no folder", folder.display()))?;
        let name = folder.file_name().context("--model: expected a folder with a name")?;
        let name = name.to_string_lossy().into_owned();
        eprintln!("plain: loading {name} ...");
        let entry =
            tokio::task::spawn_blocking(move || worker::load(&name, &folder, &Compute::default())).await??;
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
    eprintln!("plain: serving {names} on http://{address}/v1");
    axum::serve(listener, worker::router(models)).await?;
    Ok(())
}
