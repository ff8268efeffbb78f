//! `chrysalis pool`: a proxy operator's bond, sessions and takings.

use super::amount;
use super::chain::{ChainArgs, GAS, Purse, WalletArgs, address, progress, runtime};
use super::peer::Peer;
use super::tend::{self, Tending};
use crate::output::{Outcome, facts};
use crate::trust::Target;
use anyhow::{Result, bail, ensure};
use protocol::channel::Part;
use serde::Serialize;
use ton::contract::pool::{self, Pot, State, Terms};
use ton::{Address, Cell, ProvenAccount, contract, message};

/// What stays in a pool for its storage, and what the first message costs.
const STORAGE: u64 = 60_000_000;

/// The subcommands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Deploy a pool that the wallet owns.
    Open(OpenArgs),
    /// Put coins into the reserve.
    TopUp(AmountArgs),
    /// Fetch the proxy's consent over an attested channel and register its session.
    Register(RegisterArgs),
    /// Submit what clients owe: caps and uses that the proxy hands out.
    Collect(TargetArgs),
    /// Do both again and again, and keep the session's pot filled.
    Tend(TendArgs),
    /// Put coins of the reserve into the current session's pot.
    Allot(AmountArgs),
    /// Take coins of the reserve.
    Withdraw(AmountArgs),
    /// End the current session; its workers have the pool's grace to cash.
    Retire(OwnerArgs),
    /// Take everything and close for ever, once no session is live.
    Close(OwnerArgs),
    /// Show sessions, pots and reserve.
    Status(StatusArgs),
}

/// Options of `open`.
#[derive(Debug, clap::Args)]
pub struct OpenArgs {
    #[command(flatten)]
    wallet: WalletArgs,
    /// TON for the reserve.
    #[arg(long, value_parser = amount::parse)]
    amount: u64,
    /// Seconds in which workers can still cash after a session ended; 7200 or more.
    #[arg(long, default_value_t = 7200)]
    grace: u32,
    /// Another number makes another pool of the same owner; a closed one never opens again.
    #[arg(long, default_value_t = 0)]
    salt: u128,
}

/// The pool, and its owner's wallet.
#[derive(Debug, clap::Args)]
pub struct OwnerArgs {
    #[command(flatten)]
    pub wallet: WalletArgs,
    /// The pool.
    #[arg(long, value_parser = address)]
    pub pool: Address,
}

/// An amount for or of a pool.
#[derive(Debug, clap::Args)]
pub struct AmountArgs {
    #[command(flatten)]
    owner: OwnerArgs,
    /// TON.
    #[arg(value_parser = amount::parse)]
    amount: u64,
}

/// A pool and its proxy.
#[derive(Debug, clap::Args)]
pub struct TargetArgs {
    #[command(flatten)]
    pub owner: OwnerArgs,
    #[command(flatten)]
    pub target: Target,
}

/// Options of `register`.
#[derive(Debug, clap::Args)]
pub struct RegisterArgs {
    #[command(flatten)]
    at: TargetArgs,
    /// TON of the reserve for the session's pot.
    #[arg(long, value_parser = amount::parse, default_value = "1")]
    allot: u64,
}

/// Options of `tend`.
#[derive(Debug, clap::Args)]
pub struct TendArgs {
    #[command(flatten)]
    at: TargetArgs,
    /// TON that the session's pot is kept at.
    #[arg(long, value_parser = amount::parse, default_value = "1")]
    keep: u64,
    /// TON that a client must owe before its claim is worth sending; before its cap ends it is sent whatever it is worth.
    #[arg(long, value_parser = amount::parse, default_value = "0.5")]
    collect_above: u64,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 10)]
    every: u64,
    /// Look once, do what is due, and end.
    #[arg(long)]
    once: bool,
}

/// Options of `status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    chain: ChainArgs,
    /// The pool.
    #[arg(long, value_parser = address)]
    pool: Address,
}

#[derive(Serialize)]
struct Shown {
    pool: String,
    owner: String,
    grace: u32,
    /// Of the newest session; 0: none yet.
    epoch: u32,
    /// nanoTON of no session; below 0 where storage fees ate into the pots.
    reserve: i128,
    closed: bool,
    sessions: Vec<ShownPot>,
}

#[derive(Serialize)]
struct ShownPot {
    epoch: u32,
    key: String,
    /// Unix seconds; 0 while it is current.
    closes_at: u32,
    funded: u64,
    spent: u64,
    workers: u16,
}

/// Runs one.
pub fn run(command: Command, json: bool) -> Result<Outcome> {
    let runtime = runtime()?;
    let account = match command {
        Command::Open(args) => runtime.block_on(open(&args))?,
        Command::TopUp(args) => runtime.block_on(args.send(args.amount.into(), contract::top_up()?))?,
        Command::Allot(args) => runtime.block_on(args.send(GAS, pool::allot(args.amount)?))?,
        Command::Withdraw(args) => runtime.block_on(args.send(GAS, pool::withdraw(args.amount)?))?,
        Command::Retire(args) => runtime.block_on(args.send(GAS, pool::retire()?))?,
        Command::Close(args) => runtime.block_on(close(&args))?,
        Command::Register(args) => runtime.block_on(register(&args))?,
        Command::Collect(args) => runtime.block_on(collect(&args))?,
        Command::Tend(args) => runtime.block_on(tend(&args))?,
        Command::Status(args) => runtime.block_on(async { args.chain.open()?.account(&args.pool).await })?,
    };
    show(&account, json)
}

async fn open(args: &OpenArgs) -> Result<ProvenAccount> {
    let purse = args.wallet.open()?;
    ensure!(
        args.grace >= 7200,
        "--grace: {} s, 7200 or more expected: workers need the time to cash",
        args.grace
    );
    let owner = purse.wallet.address().clone();
    let init = Terms { owner, salt: args.salt, grace: args.grace }.state_init()?;
    let pool = message::address_of(&init)?;
    if let Ok(state) = pool::read(&purse.chain.account(&pool).await?) {
        let hint = if state.closed { "it is closed: give another --salt" } else { "use `pool top-up`" };
        bail!("pool {pool} is there already; {hint}");
    }
    progress(&format!("deploying {pool} ..."));
    let there = |account: &ProvenAccount| pool::read(account).is_ok().then(|| account.clone());
    purse
        .effect(&pool, u128::from(args.amount) + u128::from(STORAGE), Some(init), contract::top_up()?, there)
        .await
}

impl OwnerArgs {
    /// Sends the pool a message and waits until it acted on it.
    async fn send(&self, value: u128, body: Cell) -> Result<ProvenAccount> {
        let purse = self.wallet.open()?;
        let before = purse.chain.account(&self.pool).await?;
        let had = pool::read(&before)?;
        let changed = move |account: &ProvenAccount| {
            pool::read(account).is_ok_and(|state| state != had).then(|| account.clone())
        };
        purse.effect(&self.pool, value, None, body, changed).await
    }
}

impl AmountArgs {
    async fn send(&self, value: u128, body: Cell) -> Result<ProvenAccount> {
        self.owner.send(value, body).await
    }
}

async fn close(args: &OwnerArgs) -> Result<ProvenAccount> {
    let purse = args.wallet.open()?;
    let state = pool::read(&purse.chain.account(&args.pool).await?)?;
    ensure!(!state.closed, "pool {} is closed already", args.pool);
    let now = purse.chain.now().await?;
    if let Some((epoch, pot)) = state.pots.iter().next_back() {
        match pot.closes_at {
            0 => bail!(
                "session {epoch} is live: run `pool retire`, and give its workers their {} s",
                state.terms.grace
            ),
            at if at > now => {
                bail!("session {epoch} pays its workers for {} s more; close it then", at - now)
            }
            _ => {}
        }
    }
    let closed = |account: &ProvenAccount| {
        pool::read(account).is_ok_and(|state| state.closed).then(|| account.clone())
    };
    purse.effect(&args.pool, GAS, None, pool::close()?, closed).await
}

async fn register(args: &RegisterArgs) -> Result<ProvenAccount> {
    let (purse, mut peer) = args.at.connect().await?;
    match tend::register(&purse, &args.at.owner.pool, &mut peer, args.allot).await? {
        Some(account) => Ok(account),
        None => purse.chain.account(&args.at.owner.pool).await,
    }
}

async fn collect(args: &TargetArgs) -> Result<ProvenAccount> {
    let (purse, mut peer) = args.connect().await?;
    tend::collect(&purse, &args.owner.pool, &mut peer, 1).await?;
    purse.chain.account(&args.owner.pool).await
}

async fn tend(args: &TendArgs) -> Result<ProvenAccount> {
    let purse = args.at.owner.wallet.open()?;
    let rules = Tending { keep: args.keep, collect_above: args.collect_above };
    loop {
        let outcome = async {
            let mut peer = Peer::connect(&args.at.target, Part::Proxy).await?;
            tend::look(&purse, &args.at.owner.pool, &mut peer, &rules).await
        };
        match outcome.await {
            Ok(()) if args.once => return purse.chain.account(&args.at.owner.pool).await,
            Ok(()) => {}
            Err(error) if args.once => return Err(error),
            // A proxy that starts again, a chain that is away: what isn't done now is done later.
            Err(error) => progress(&format!("{error:#}; trying again")),
        }
        tokio::time::sleep(std::time::Duration::from_secs(args.every.max(1))).await;
    }
}

impl TargetArgs {
    async fn connect(&self) -> Result<(Purse, Peer)> {
        Ok((self.owner.wallet.open()?, Peer::connect(&self.target, Part::Proxy).await?))
    }
}

fn show(account: &ProvenAccount, json: bool) -> Result<Outcome> {
    let State { terms, epoch, reserve, closed, pots } = pool::read(account)?;
    let pot = |(epoch, pot): (u32, Pot)| {
        let Pot { key, closes_at, funded, spent, workers, .. } = pot;
        ShownPot { epoch, key: hex::encode(key), closes_at, funded, spent, workers }
    };
    let shown = Shown {
        pool: account.address().to_string(),
        owner: terms.owner.to_string(),
        grace: terms.grace,
        epoch,
        reserve,
        closed,
        sessions: pots.into_iter().map(pot).collect(),
    };
    facts(json, &shown, || human(&shown))?;
    Ok(Outcome::Fine)
}

fn human(shown: &Shown) -> String {
    let Shown { pool, owner, grace, reserve, .. } = shown;
    let closed = if shown.closed { "\nclosed for ever" } else { "" };
    let mut text = format!(
        "pool      {pool}\nowner     {owner}\ngrace     {grace} s\nreserve   {}{closed}\n",
        amount::show(*reserve)
    );
    for pot in &shown.sessions {
        let life =
            if pot.closes_at == 0 { "current".into() } else { format!("pays until {}", pot.closes_at) };
        let left = amount::show(i128::from(pot.funded) - i128::from(pot.spent));
        let (funded, spent) = (amount::show(pot.funded.into()), amount::show(pot.spent.into()));
        text += &format!(
            "session   {}, {life}, {} workers\n          put in {funded}, paid {spent}, left {left}\n          key {}\n",
            pot.epoch, pot.workers, pot.key
        );
    }
    text
}
