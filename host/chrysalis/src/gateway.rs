//! `chrysalis gateway`: an OpenAI-compatible endpoint on loopback that pays attested proxies, and keeps their receipts.

use crate::chain_args::{Chain, ChainArgs, account, coins};
use crate::input::read;
use crate::money::key;
use crate::output::{Outcome, line};
use crate::trust::Target;
use crate::tunnel::{headline, say, told_to_stop, verifier};
use crate::wanted::WantedArgs;
use anyhow::{Context, Result, ensure};
use client::gateway::{
    Event, Facts, Folder, Gateway, Report, Settings, Shared, loopback, serve, watch_chain,
};
use payment::Address;
use payment::client::Limits;
use protocol::channel::Part;
use ratls::{Endpoint, Wanted};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Options of `gateway`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where apps connect to; a loopback address.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    #[command(flatten)]
    chain: ChainArgs,
    /// The vaults' channel key: a file with one line of 64 hexadecimal digits. Whoever has it spends from the vaults.
    #[arg(long, value_name = "FILE", requires = "vault")]
    vault_key: Option<PathBuf>,
    /// A vault; repeat for one at each proxy's pool.
    #[arg(long, value_name = "ADDRESS", requires = "vault_key")]
    vault: Vec<String>,
    /// Folder for what was allowed, and for the receipts. One gateway at a time has it; losing it means closing the vaults.
    #[arg(long, default_value = "out/gateway")]
    state: PathBuf,
    /// TON that one request may cost.
    #[arg(long, default_value = "1", value_parser = coins)]
    per_request: u64,
    /// TON that may be allowed in a day (UTC).
    #[arg(long, default_value = "10", value_parser = coins)]
    per_day: u64,
    /// Hours that a cap is good for; a proxy refuses one that ends before it can claim.
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..=8760))]
    cap_hours: u32,
    /// nanoTON for a million tokens of multiplier 1 above which a model is not asked.
    #[arg(long)]
    max_price: Option<u64>,
    /// File with a token that apps must give as their API key; without it every program of this machine may ask.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    wanted: WantedArgs,
}

/// Serves until it is told to stop.
pub fn run(args: Args, json: bool) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(gateway(&args, json))
}

async fn gateway(args: &Args, json: bool) -> Result<Outcome> {
    let listen = loopback(args.listen).context("--listen")?;
    let (chain, settings) = (args.chain.open()?, settings(args)?);
    let vaults = args.vault.iter().map(|text| account("--vault", text)).collect::<Result<Vec<_>>>()?;
    // Without a vault nothing is signed, so any key will do.
    let key = args.vault_key.as_ref().map_or(Ok([0; 32]), |path| key::read(path)).context("--vault-key")?;
    // Where proxies are stands in the root's book.
    let (_, verifier, wanted) = verifier(&args.target, &args.wanted, Some(""), json)?;
    let wanted = Wanted { part: Part::Proxy, ..wanted };
    let (stop, stopping) = watch::channel(false);
    let shared = Arc::new(Shared {
        me: Arc::new(Endpoint::anonymous()),
        verifier,
        wanted,
        global_id: chain.network.global_id,
        root: chain.root,
        report: report(json),
        stop: stopping.clone(),
    });
    let facts = follow_chain(&chain, &vaults, shared.report.clone());
    let folder = Folder::open(&args.state).context("--state")?;
    let gateway = Gateway::new(settings, shared, facts, &key, &vaults, folder).context("--state")?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("--listen {listen}"))?;
    let told = told_to_stop()?;
    let tending = tokio::spawn(gateway.clone().tend());
    let address = listener.local_addr()?;
    match json {
        true => line(&json!({ "event": "listening", "address": address }).to_string())?,
        false => line(&format!("listening; OPENAI_BASE_URL=http://{address}/v1"))?,
    }
    tokio::spawn(async move {
        told.await;
        stop.send_replace(true);
    });
    serve(gateway.clone(), listener, stopping).await;
    tending.abort();
    gateway.flush().await;
    Ok(Outcome::Fine)
}

/// Follows the chain for as long as somebody reads what was seen.
fn follow_chain(chain: &Chain, vaults: &[Address], report: Report) -> watch::Receiver<Arc<Facts>> {
    let (to, facts) = watch::channel(Arc::new(Facts::default()));
    let tell = move |error: &_| report(Event::Chain(error));
    tokio::spawn(watch_chain(chain.ledger.clone(), chain.root, vaults.to_vec(), to, tell));
    facts
}

fn settings(args: &Args) -> Result<Settings> {
    let token = match &args.token_file {
        None => None,
        Some(path) => {
            let bytes = read(path)?;
            let token = bytes.trim_ascii();
            ensure!(token.len() >= 16, "--token-file {}: expected at least 16 characters", path.display());
            Some(Sha256::digest(token).into())
        }
    };
    let (per_request, per_day) = (args.per_request, args.per_day);
    let limits = Limits { per_request, per_day, cap_lifetime: args.cap_hours * 3600 };
    Ok(Settings { limits, max_price: args.max_price, token })
}

/// Tells of events: one JSON object a line on standard output, or words on standard error.
pub fn report(json: bool) -> Report {
    Arc::new(move |event| {
        let (value, words) = told(&event);
        say(json, &value, &words);
    })
}

fn told(event: &Event<'_>) -> (Value, String) {
    let reason = |kind: &str, pool: &Address, reason: &dyn std::fmt::Display| json!({ "event": kind, "pool": pool.to_string(), "reason": reason.to_string() });
    match event {
        Event::Attested { pool, peer } => {
            let verdict = peer.appraised().verdict();
            let value = json!({ "event": "attested", "pool": pool.to_string(), "platform": verdict.platform,
                "release": verdict.release, "digest": peer.release().map(hex::encode), "expires": peer.expires() });
            (value, format!("the proxy of pool {pool} is attested: {}", headline(peer)))
        }
        Event::Failed { pool, error } => {
            (reason("failed", pool, error), format!("the proxy of pool {pool} can't be asked: {error}"))
        }
        Event::Left { pool, reason: why } => {
            (reason("left", pool, why), format!("LEFT the proxy of pool {pool} for good: {why}"))
        }
        Event::Ended { pool, ended } => {
            let words = format!("session with the proxy of pool {pool} over: {}", ended.reason);
            (reason("ended", pool, &ended.reason), words)
        }
        Event::Chain(error) => {
            let words = format!("the chain was not seen, so what was proven before still counts: {error}");
            (json!({ "event": "chain", "reason": error.to_string() }), words)
        }
        Event::Unkept(error) => {
            (json!({ "event": "not_kept", "reason": error.to_string() }), format!("NOT KEPT: {error}"))
        }
        Event::Unlogged(error) => {
            let words = format!("a receipt could not be written to the log: {error}");
            (json!({ "event": "not_logged", "reason": error.to_string() }), words)
        }
    }
}
