//! `chrysalis-devnet`: a local TON chain as a process. Development and tests only.

use anyhow::{Context, Result, bail};
use clap::Parser;
use devnet::{Genesis, Node, WHAT};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Parser)]
#[command(
    name = "chrysalis-devnet",
    about = "LOCAL TEST CHAIN: TON on one machine, with a faucet; its coins are worth nothing"
)]
struct Args {
    /// Folder that keeps the chain; made where it is missing. Two chains can't share one.
    #[arg(long)]
    dir: PathBuf,
    /// Where to listen: loopback only, since the faucet gives to everybody. Port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Milliseconds between two blocks; 0: only when ordered.
    #[arg(long, default_value_t = 1000)]
    block_ms: u64,
    /// Print where it listens and what clients pin as one line of JSON.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    if !args.listen.ip().is_loopback() {
        bail!(
            "--listen {}: expected an address on loopback; a test chain has no business on a network",
            args.listen
        );
    }
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("{}: can't make the folder", args.dir.display()))?;
    let node = Node::open(&args.dir, fresh_genesis()?)?;
    let listener = tokio::net::TcpListener::bind(args.listen).await;
    let listener = listener.with_context(|| format!("{}: can't listen there", args.listen))?;
    announce(&args, listener.local_addr()?, &node)?;
    devnet::serve(listener, node, Duration::from_millis(args.block_ms)).await.context("the chain stopped")
}

/// Says where the chain is, and writes it beside the chain for programs that start later.
fn announce(args: &Args, listen: SocketAddr, node: &Node) -> Result<()> {
    let chain = node.chain();
    let facts = serde_json::json!({
        "what": WHAT,
        "listen": listen,
        "network": chain.network(),
        "faucet": chain.faucet().to_string(),
        "block_ms": args.block_ms,
        "seqno": chain.seqno(),
    });
    let file = args.dir.join("network.json");
    write_whole(&file, facts.to_string().as_bytes())
        .with_context(|| format!("{}: can't write", file.display()))?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{facts}")?;
    } else {
        writeln!(out, "{WHAT} at {listen}, block {}, pinned in {}", chain.seqno(), file.display())?;
        writeln!(out, "faucet {}; its coins are worth nothing", chain.faucet())?;
    }
    Ok(out.flush()?)
}

/// A file that is there whole or not at all.
fn write_whole(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let draft = file.with_extension("new");
    std::fs::write(&draft, bytes)?;
    std::fs::rename(draft, file)
}

/// What a new chain is made from; a chain that is there already keeps its own.
fn fresh_genesis() -> Result<Genesis> {
    let mut seed = [0; 32];
    let random = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut seed));
    random.context("/dev/urandom: can't read a seed for a new chain")?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the machine's clock is before 1970")?;
    Ok(Genesis { seed, time: u32::try_from(since.as_secs()).context("the machine's clock is after 2106")? })
}
