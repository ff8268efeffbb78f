//! `chrysalis-network`: the role play once, with a worker in a virtual machine. `cargo xtask up` runs it inside the tools root.
//!
//! It ends with status 0 if everything was as it must be, the books included. Told to end (SIGTERM, SIGINT), it leaves no
//! process behind.

use anyhow::{Context, Result};
use clap::Parser;
use network::guest::STOPPED;
use network::play::{Programs, Served};
use network::story::Story;
use network::vm::Plan;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use tokio::signal::unix::{SignalKind, signal};

/// Plays the whole network on this machine: SIMULATED platforms, a local chain.
#[derive(Parser)]
struct Args {
    /// Folder of a built image of the debug profile.
    #[arg(long)]
    image: PathBuf,
    /// Folder of a packed embedding model; the virtual machine alone serves it.
    #[arg(long)]
    embedder: PathBuf,
    /// Folder of a packed chat model; all workers serve it.
    #[arg(long)]
    chatter: PathBuf,
    /// Folder from which the chat model was packed, for workers that are processes.
    #[arg(long)]
    chatter_folder: PathBuf,
    /// Folder of a simulated platform's keys.
    #[arg(long)]
    platform: PathBuf,
    /// Folder for the machine's files.
    #[arg(long)]
    run: PathBuf,
    /// What to ask an embedding of.
    #[arg(long)]
    text: String,
    /// What to ask the chat model.
    #[arg(long)]
    question: String,
}

fn main() -> Result<()> {
    let args = Args::parse();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        eprintln!("\nTHE PLAY STOPPED ({place}): {}", panic.payload_as_str().unwrap_or("no reason given"));
    }));
    heed_signals()?;
    let programs = Programs::found().context("a program is missing; run `cargo xtask up`")?;
    let embedder = served(&args.embedder, Path::new(""), "0.5")?;
    let chatter = served(&args.chatter, &args.chatter_folder, "1")?;
    let plan = Plan {
        image: args.image,
        models: vec![args.embedder, args.chatter],
        platform: args.platform,
        run: args.run,
    };
    Story::begin(&programs, &plan, embedder, chatter).play(&args.text, &args.question);
    Ok(())
}

/// Name and root of a packed model.
fn served(packed: &Path, folder: &Path, price: &'static str) -> Result<Served> {
    let path = packed.join("model.json");
    let text = std::fs::read(&path).with_context(|| format!("{}: can't read", path.display()))?;
    let pin: serde_json::Value =
        serde_json::from_slice(&text).with_context(|| format!("{}: not JSON", path.display()))?;
    let field = |name: &str| {
        let value = pin[name].as_str().with_context(|| format!("{}: no `{name}`", path.display()));
        value.map(str::to_owned)
    };
    Ok(Served { name: field("name")?, root: field("root")?, folder: folder.to_owned(), price })
}

/// Whoever waits gives up when the play is told to end; the rest goes as with any failure.
fn heed_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut term, mut int) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = term.recv() => (), _ = int.recv() => () }
        });
        STOPPED.store(true, Ordering::Relaxed);
    });
    Ok(())
}
