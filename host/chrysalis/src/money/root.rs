//! `chrysalis root`: the registry of prices and proxies.

use super::amount;
use super::chain::{ChainArgs, GAS, Purse, WalletArgs, address, progress, runtime};
use crate::output::{Outcome, facts};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::collections::BTreeMap;
use ton::contract::root::{self, Book, Change, Price, Proxy, Terms};
use ton::{Address, ProvenAccount, contract, message};

/// What a root holds for its storage and for messages.
const DEPLOY: u128 = 500_000_000;

/// The subcommands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Deploy a root contract.
    Deploy(DeployArgs),
    /// Show prices, proxies and rules.
    Show(ShowArgs),
    /// Propose a model's price; carried out at once where one owner is enough and there is no delay.
    Price(PriceArgs),
    /// Propose a proxy; carried out at once where one owner is enough and there is no delay.
    Proxy(ProxyArgs),
    /// Approve a proposal as another owner.
    Approve(NumberArgs),
    /// Carry an approved proposal out after its delay; anybody may.
    Execute(NumberArgs),
}

/// Options of `deploy`.
#[derive(Debug, clap::Args)]
pub struct DeployArgs {
    #[command(flatten)]
    wallet: WalletArgs,
    /// An owner; repeat it for several. The wallet that pays if absent.
    #[arg(long, value_parser = address)]
    owner: Vec<Address>,
    /// How many owners must approve a change.
    #[arg(long, default_value_t = 1)]
    threshold: u8,
    /// Seconds between the last approval and the change.
    #[arg(long, default_value_t = 0)]
    delay: u32,
}

/// Options of `show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    #[command(flatten)]
    chain: ChainArgs,
    /// The root.
    #[arg(long, value_parser = address)]
    root: Address,
}

/// The root, and who sends.
#[derive(Debug, clap::Args)]
pub struct OwnerArgs {
    #[command(flatten)]
    wallet: WalletArgs,
    /// The root.
    #[arg(long, value_parser = address)]
    root: Address,
}

/// Options of `price`.
#[derive(Debug, clap::Args)]
pub struct PriceArgs {
    #[command(flatten)]
    owner: OwnerArgs,
    /// The model's verity root, 64 hexadecimal digits.
    model: String,
    /// TON for a million tokens of multiplier 10,000.
    #[arg(long, value_parser = amount::parse)]
    base: u64,
    /// Multiplier of prompt tokens, in parts of 10,000.
    #[arg(long, default_value_t = 10_000)]
    prompt: u32,
    /// Multiplier of cached prompt tokens.
    #[arg(long, default_value_t = 1_000)]
    cached: u32,
    /// Multiplier of completion tokens.
    #[arg(long, default_value_t = 40_000)]
    completion: u32,
    /// Multiplier of reasoning tokens.
    #[arg(long, default_value_t = 40_000)]
    reasoning: u32,
}

/// Options of `proxy`.
#[derive(Debug, clap::Args)]
pub struct ProxyArgs {
    #[command(flatten)]
    owner: OwnerArgs,
    /// The proxy's pool.
    #[arg(value_parser = address)]
    pool: Address,
    /// Where it listens, `HOST:PORT`.
    #[arg(long)]
    endpoint: String,
    /// Parts of 10,000 of a charge that it keeps.
    #[arg(long, default_value_t = 500)]
    commission: u16,
}

/// Options of `approve` and `execute`.
#[derive(Debug, clap::Args)]
pub struct NumberArgs {
    #[command(flatten)]
    owner: OwnerArgs,
    /// The proposal's number.
    number: u32,
}

#[derive(Serialize)]
struct Shown {
    root: String,
    version: u32,
    threshold: u8,
    delay: u32,
    owners: u8,
    waiting: u32,
    release_epoch: u64,
    models: BTreeMap<String, [u64; 5]>,
    proxies: BTreeMap<String, (u16, String)>,
}

/// Runs one.
pub fn run(command: Command, json: bool) -> Result<Outcome> {
    let runtime = runtime()?;
    match command {
        Command::Deploy(args) => runtime.block_on(deploy(&args, json)),
        Command::Show(args) => {
            let account = runtime.block_on(async { args.chain.open()?.account(&args.root).await })?;
            show(&account, json)
        }
        Command::Price(args) => {
            let PriceArgs { base, prompt, cached, completion, reasoning, .. } = args;
            let mut model = [0; 32];
            hex::decode_to_slice(&args.model, &mut model).context("MODEL: expected 64 hexadecimal digits")?;
            let price = Price { base, prompt, cached, completion, reasoning };
            runtime.block_on(propose(&args.owner, &Change::SetPrice(model, price), json))
        }
        Command::Proxy(args) => {
            let proxy = Proxy { commission: args.commission, endpoint: args.endpoint.clone() };
            ensure!(args.commission <= 10_000, "--commission: {} of 10,000 parts", args.commission);
            runtime.block_on(propose(&args.owner, &Change::SetProxy(args.pool, proxy), json))
        }
        Command::Approve(args) => runtime.block_on(approve(&args, json)),
        Command::Execute(args) => runtime.block_on(async {
            let purse = args.owner.wallet.open()?;
            show(&execute(&purse, &args.owner.root, args.number).await?, json)
        }),
    }
}

async fn deploy(args: &DeployArgs, json: bool) -> Result<Outcome> {
    let purse = args.wallet.open()?;
    let mut owners = args.owner.clone();
    if owners.is_empty() {
        owners.push(purse.wallet.address().clone());
    }
    ensure!(owners.len() <= 32, "{} owners, at most 32 are possible", owners.len());
    ensure!(
        (1..=owners.len()).contains(&usize::from(args.threshold)),
        "--threshold: 1 to the number of owners"
    );
    let terms =
        Terms { owners: owners.into_iter().zip(0..).collect(), threshold: args.threshold, delay: args.delay };
    let init = terms.state_init()?;
    let root = message::address_of(&init)?;
    progress(&format!("deploying {root} ..."));
    let there = |account: &ProvenAccount| root::read_book(account).is_ok().then(|| account.clone());
    let account = match there(&purse.chain.account(&root).await?) {
        Some(account) => account,
        None => purse.effect(&root, DEPLOY, Some(init), contract::top_up()?, there).await?,
    };
    show(&account, json)
}

/// Number of the next proposal, as the contract's data begins: threshold, delay, number.
fn next_number(account: &ProvenAccount) -> Option<u32> {
    let mut data = account.data()?.as_slice().ok()?;
    data.load_u8().ok()?;
    data.load_u32().ok()?;
    data.load_u32().ok()
}

async fn propose(args: &OwnerArgs, change: &Change, json: bool) -> Result<Outcome> {
    let purse = args.wallet.open()?;
    let before = purse.chain.account(&args.root).await?;
    let (threshold, delay, ..) = root::read_rules(&before)?;
    let number = next_number(&before).context("the root's data can't be read")?;
    progress(&format!("proposing as number {number} ..."));
    let proposed = move |account: &ProvenAccount| next_number(account).filter(|next| *next > number);
    purse.effect(&args.root, GAS, None, root::propose(change)?, proposed).await?;
    if threshold == 1 && delay == 0 {
        progress("carrying it out ...");
        return show(&execute(&purse, &args.root, number).await?, json);
    }
    let next =
        format!("{threshold} owners must approve it, then it waits {delay} s, then `root execute {number}`");
    facts(json, &serde_json::json!({ "proposal": number, "threshold": threshold, "delay": delay }), || {
        format!("proposal  {number}\nnext      {next}")
    })?;
    Ok(Outcome::Fine)
}

async fn approve(args: &NumberArgs, json: bool) -> Result<Outcome> {
    let purse = args.owner.wallet.open()?;
    let since = purse.chain.account(&args.owner.root).await?.last_lt();
    let acted = move |account: &ProvenAccount| (account.last_lt() > since).then_some(());
    purse.effect(&args.owner.root, GAS, None, root::approve(args.number)?, acted).await?;
    show(&purse.chain.account(&args.owner.root).await?, json)
}

async fn execute(purse: &Purse, root: &Address, number: u32) -> Result<ProvenAccount> {
    let version = root::read_book(&purse.chain.account(root).await?)?.version;
    let changed = move |account: &ProvenAccount| {
        root::read_book(account).is_ok_and(|book| book.version > version).then(|| account.clone())
    };
    purse.effect(root, GAS, None, root::execute(number)?, changed).await
}

fn show(account: &ProvenAccount, json: bool) -> Result<Outcome> {
    let Book { version, release_epoch, models, proxies, .. } = root::read_book(account)?;
    let (threshold, delay, owners, waiting) = root::read_rules(account)?;
    let price = |price: Price| {
        let Price { base, prompt, cached, completion, reasoning } = price;
        [base, prompt.into(), cached.into(), completion.into(), reasoning.into()]
    };
    let models = models.into_iter().map(|(model, of)| (hex::encode(model), price(of))).collect();
    let proxies = proxies.into_iter().map(|(pool, of)| (pool.to_string(), (of.commission, of.endpoint)));
    let root = account.address().to_string();
    let proxies = proxies.collect();
    let shown = Shown { root, version, threshold, delay, owners, waiting, release_epoch, models, proxies };
    facts(json, &shown, || human(&shown))?;
    Ok(Outcome::Fine)
}

fn human(shown: &Shown) -> String {
    let Shown { root, version, threshold, delay, owners, waiting, .. } = shown;
    let mut text = format!(
        "root      {root}\nversion   {version}\nowners    {threshold} of {owners}, delay {delay} s, {waiting} proposals wait\n"
    );
    for (model, [base, prompt, cached, completion, reasoning]) in &shown.models {
        let base = amount::show(i128::from(*base));
        text += &format!(
            "model     {model}\n          {base} a million tokens; prompt {prompt}, cached {cached}, completion {completion}, reasoning {reasoning}\n"
        );
    }
    for (pool, (commission, endpoint)) in &shown.proxies {
        text += &format!("proxy     {endpoint}, pool {pool}, commission {commission} of 10,000\n");
    }
    text
}
