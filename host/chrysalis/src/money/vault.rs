//! `chrysalis vault`: a client's deposit for one proxy's pool.

use super::chain::{Chain, ChainArgs, GAS, Purse, WalletArgs, address, progress, runtime};
use super::{amount, key};
use crate::output::{Outcome, facts};
use anyhow::{Result, bail, ensure};
use serde::Serialize;
use std::path::PathBuf;
use ton::contract::vault::{self, State, Terms};
use ton::contract::{self, pool};
use ton::{Address, ProvenAccount, message};

/// What stays in a vault for its storage, and what the first message costs.
const STORAGE: u64 = 60_000_000;

/// The subcommands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Open a vault for a pool; its key file signs what it may be charged.
    Open(OpenArgs),
    /// Put more coins in.
    TopUp(TopUpArgs),
    /// Start to close, and 24 hours later take what is left.
    Close(CloseArgs),
    /// Show what it holds and what was claimed.
    Status(StatusArgs),
}

/// Options of `open`.
#[derive(Debug, clap::Args)]
pub struct OpenArgs {
    #[command(flatten)]
    wallet: WalletArgs,
    /// Key file of the vault; made where it is missing. Whoever reads it can spend the deposit at this pool's proxy.
    #[arg(long)]
    vault_key: PathBuf,
    /// The pool that it pays.
    #[arg(long, value_parser = address)]
    pool: Address,
    /// TON that can be claimed.
    #[arg(long, value_parser = amount::parse)]
    amount: u64,
    /// Another number makes another vault of the same key, owner and pool; a closed one never opens again.
    #[arg(long, default_value_t = 0)]
    salt: u128,
}

/// Options of `top-up`.
#[derive(Debug, clap::Args)]
pub struct TopUpArgs {
    #[command(flatten)]
    wallet: WalletArgs,
    /// The vault.
    #[arg(value_parser = address)]
    vault: Address,
    /// TON.
    #[arg(value_parser = amount::parse)]
    amount: u64,
}

/// Options of `close`.
#[derive(Debug, clap::Args)]
pub struct CloseArgs {
    #[command(flatten)]
    wallet: WalletArgs,
    /// The vault.
    #[arg(value_parser = address)]
    vault: Address,
}

/// Options of `status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    chain: ChainArgs,
    /// The vault.
    #[arg(value_parser = address)]
    vault: Address,
}

#[derive(Serialize)]
struct Shown {
    vault: String,
    pool: String,
    owner: String,
    client_key: String,
    /// nanoTON.
    claimed: u64,
    /// nanoTON that can still be claimed.
    free: u64,
    /// Unix seconds; 0 while no close was started.
    closes_at: u32,
    closed: bool,
}

/// Runs one.
pub fn run(command: Command, json: bool) -> Result<Outcome> {
    let runtime = runtime()?;
    let account = match command {
        Command::Open(args) => runtime.block_on(open(&args))?,
        Command::TopUp(args) => runtime.block_on(top_up(&args))?,
        Command::Close(args) => runtime.block_on(close(&args))?,
        Command::Status(args) => runtime.block_on(async { args.chain.open()?.account(&args.vault).await })?,
    };
    let State { terms, claimed, free, closes_at, closed } = vault::read(&account)?;
    let shown = Shown {
        vault: account.address().to_string(),
        pool: terms.pool.to_string(),
        owner: terms.owner.to_string(),
        client_key: hex::encode(terms.client_key),
        claimed,
        free,
        closes_at,
        closed,
    };
    facts(json, &shown, || human(&shown))?;
    Ok(Outcome::Fine)
}

fn human(shown: &Shown) -> String {
    let Shown { vault, pool, owner, closes_at, .. } = shown;
    let (claimed, free) = (amount::show(shown.claimed.into()), amount::show(shown.free.into()));
    let life = match (shown.closed, closes_at) {
        (true, _) => "closed for ever".to_owned(),
        (false, 0) => "open".to_owned(),
        (false, at) => format!("closes at {at} (Unix seconds): run `vault close` again then"),
    };
    format!(
        "vault     {vault}\npool      {pool}\nowner     {owner}\nclaimed   {claimed}\nleft      {free}\nlife      {life}"
    )
}

async fn open(args: &OpenArgs) -> Result<ProvenAccount> {
    let purse = args.wallet.open()?;
    let terms = pool::read(&purse.chain.account(&args.pool).await?)?;
    ensure!(!terms.closed, "pool {} is closed: choose another proxy", args.pool);
    let seed = if args.vault_key.exists() {
        key::read(&args.vault_key)?
    } else {
        progress(&format!("{}: a new key; keep it secret and keep a copy", args.vault_key.display()));
        key::make(&args.vault_key)?
    };
    let client_key = payment::SecretKey::from_seed(&seed).public().to_bytes();
    let owner = purse.wallet.address().clone();
    let init = Terms { client_key, owner, pool: args.pool.clone(), salt: args.salt }.state_init()?;
    let vault = message::address_of(&init)?;
    if let Ok(state) = vault::read(&purse.chain.account(&vault).await?) {
        let hint = if state.closed { "it is closed: give another --salt" } else { "use `vault top-up`" };
        bail!("vault {vault} is there already; {hint}");
    }
    progress(&format!("opening {vault} ..."));
    let there = |account: &ProvenAccount| vault::read(account).is_ok().then(|| account.clone());
    purse
        .effect(&vault, u128::from(args.amount) + u128::from(STORAGE), Some(init), contract::top_up()?, there)
        .await
}

async fn top_up(args: &TopUpArgs) -> Result<ProvenAccount> {
    let purse = args.wallet.open()?;
    let had = read(&purse.chain, &args.vault).await?;
    ensure!(!had.closed && had.closes_at == 0, "vault {} closes: open a new one", args.vault);
    let more = move |account: &ProvenAccount| {
        let now = vault::read(account).ok()?;
        (now.free + now.claimed > had.free + had.claimed).then(|| account.clone())
    };
    purse.effect(&args.vault, args.amount.into(), None, contract::top_up()?, more).await
}

async fn close(args: &CloseArgs) -> Result<ProvenAccount> {
    let purse = args.wallet.open()?;
    let had = read(&purse.chain, &args.vault).await?;
    ensure!(!had.closed, "vault {} is closed already", args.vault);
    ensure!(
        had.terms.owner == *purse.wallet.address(),
        "vault {}: owned by {}, use that wallet",
        args.vault,
        had.terms.owner
    );
    let now = purse.chain.now().await?;
    match had.closes_at {
        0 => stop(&purse, &args.vault).await,
        at if at > now => {
            bail!("vault {}: the pool can claim for {} s more; try again then", args.vault, at - now)
        }
        _ => {
            let closed = |account: &ProvenAccount| {
                vault::read(account).is_ok_and(|state| state.closed).then(|| account.clone())
            };
            purse.effect(&args.vault, GAS, None, vault::finish_close()?, closed).await
        }
    }
}

async fn stop(purse: &Purse, vault: &Address) -> Result<ProvenAccount> {
    let stopping = |account: &ProvenAccount| {
        vault::read(account).is_ok_and(|state| state.closes_at != 0).then(|| account.clone())
    };
    purse.effect(vault, GAS, None, vault::start_close()?, stopping).await
}

async fn read(chain: &Chain, vault: &Address) -> Result<State> {
    Ok(vault::read(&chain.account(vault).await?)?)
}
