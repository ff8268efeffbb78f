//! `chrysalis worker`: what a worker earned, and having it paid.
//!
//! Vouchers pay the wallet of the worker's measured configuration and nobody else, so anybody may fetch and send them.

use super::amount;
use super::chain::{GAS, Purse, WalletArgs, address, progress, runtime};
use super::peer::Peer;
use crate::output::{Outcome, facts};
use crate::trust::Target;
use anyhow::{Context, Result};
use payment::{Payout, Signed};
use protocol::channel::Part;
use protocol::market::{Earnings, Payouts, path};
use serde::Serialize;
use ton::contract::{address_of, pool};
use ton::{Address, ProvenAccount};

/// The subcommands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the vouchers that a worker holds.
    Earnings(EarningsArgs),
    /// Send its vouchers to their pools, which pay its wallet.
    CashOut(CashOutArgs),
}

/// Options of `earnings`.
#[derive(Debug, clap::Args)]
pub struct EarningsArgs {
    #[command(flatten)]
    from: FromArgs,
}

/// Options of `cash-out`.
#[derive(Debug, clap::Args)]
pub struct CashOutArgs {
    #[command(flatten)]
    wallet: WalletArgs,
    #[command(flatten)]
    from: FromArgs,
    /// TON below which a voucher is not worth its gas.
    #[arg(long, value_parser = amount::parse, default_value = "0.02")]
    above: u64,
}

/// Who is asked.
#[derive(Debug, clap::Args)]
struct FromArgs {
    #[command(flatten)]
    target: Target,
    /// Ask a proxy for the vouchers of this wallet, instead of the worker itself: after a worker lost its own.
    #[arg(long, value_parser = address)]
    of: Option<Address>,
}

#[derive(Serialize)]
struct Shown {
    pool: String,
    epoch: u32,
    worker: String,
    /// nanoTON vouched for in the session.
    total: u64,
    /// nanoTON that were paid by this command; absent where nothing was sent.
    paid: Option<u64>,
}

/// Runs one.
pub fn run(command: Command, json: bool) -> Result<Outcome> {
    let runtime = runtime()?;
    let shown = match command {
        Command::Earnings(args) => {
            let payouts = runtime.block_on(args.from.payouts())?;
            payouts.iter().map(|payout| shown(payout, None)).collect()
        }
        Command::CashOut(args) => runtime.block_on(cash_out(&args))?,
    };
    facts(json, &shown, || human(&shown))?;
    Ok(Outcome::Fine)
}

impl FromArgs {
    async fn payouts(&self) -> Result<Vec<Signed<Payout>>> {
        let blobs: Vec<_> = match &self.of {
            None => {
                let mut peer = Peer::connect(&self.target, Part::Worker).await?;
                let earnings: Earnings = peer.get(path::EARNINGS).await?;
                earnings.payouts.into_iter().map(|earning| earning.payout).collect()
            }
            Some(wallet) => {
                let mut peer = Peer::connect(&self.target, Part::Proxy).await?;
                let payouts: Payouts = peer.get(&format!("{}{wallet}", path::PAYOUTS)).await?;
                payouts.payouts.into_iter().map(|entry| entry.payout).collect()
            }
        };
        let payouts = blobs.iter().map(|blob| Signed::<Payout>::from_bytes(blob.bytes()));
        payouts.collect::<Result<_, _>>().context("a payout of the peer's")
    }
}

async fn cash_out(args: &CashOutArgs) -> Result<Vec<Shown>> {
    let purse = args.wallet.open()?;
    let mut out = Vec::new();
    for payout in args.from.payouts().await? {
        let paid = cash(&purse, &payout, args.above).await?;
        out.push(shown(&payout, Some(paid)));
    }
    Ok(out)
}

/// Sends one voucher if it brings more than `above`; nanoTON that it brought.
async fn cash(purse: &Purse, payout: &Signed<Payout>, above: u64) -> Result<u64> {
    let Payout { pool, epoch, worker, total, .. } = payout.voucher;
    let (pool, worker) = (address_of(&pool), address_of(&worker));
    let account = purse.chain.account(&pool).await?;
    let state = pool::read(&account)?;
    let Some(pot) = state.pots.get(&epoch) else {
        progress(&format!("session {epoch} of pool {pool}: its pot is gone, the voucher brings nothing"));
        return Ok(0);
    };
    let had = pool::read_paid(&account, epoch, &worker)?;
    let due = total.saturating_sub(had).min(pot.funded.saturating_sub(pot.spent));
    if due < above.max(1) {
        progress(&format!("session {epoch} of pool {pool}: {} due, not sent", amount::show(due.into())));
        return Ok(0);
    }
    progress(&format!("session {epoch} of pool {pool}: cashing {} ...", amount::show(due.into())));
    let paid = move |account: &ProvenAccount| {
        let now = pool::read_paid(account, epoch, &worker).ok()?;
        (now > had).then_some(now - had)
    };
    purse.effect(&pool, GAS, None, pool::claim(payout)?, paid).await
}

fn shown(payout: &Signed<Payout>, paid: Option<u64>) -> Shown {
    let Payout { pool, epoch, worker, total, .. } = payout.voucher;
    Shown { pool: pool.to_string(), epoch, worker: worker.to_string(), total, paid }
}

fn human(shown: &Vec<Shown>) -> String {
    if shown.is_empty() {
        return "no vouchers".into();
    }
    let line = |of: &Shown| {
        let paid = of.paid.map_or(String::new(), |paid| format!(", paid now {}", amount::show(paid.into())));
        format!(
            "pool {} session {}\n  for wallet {}\n  vouched {}{paid}",
            of.pool,
            of.epoch,
            of.worker,
            amount::show(of.total.into())
        )
    };
    shown.iter().map(line).collect::<Vec<_>>().join("\n")
}
