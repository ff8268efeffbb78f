//! `chrysalis wallet`: a key file and where its coins are.

use super::chain::{ChainArgs, progress, runtime};
use super::{amount, key};
use crate::output::{Outcome, facts};
use anyhow::Result;
use serde::Serialize;
use std::path::PathBuf;
use ton::wallet::{Wallet, sequence};

/// The subcommands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a key and write it to a file that only you can read.
    New(NewArgs),
    /// Show a wallet's address, and what it holds.
    Show(ShowArgs),
}

/// Options of `new`.
#[derive(Debug, clap::Args)]
pub struct NewArgs {
    /// File for the key; must not exist. Whoever reads it has the coins, and nobody can make it again: keep a copy.
    file: PathBuf,
    #[command(flatten)]
    chain: ChainArgs,
}

/// Options of `show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Key file.
    file: PathBuf,
    #[command(flatten)]
    chain: ChainArgs,
}

#[derive(Serialize)]
struct Shown {
    address: String,
    /// The Ed25519 key, which names a client's channel key in a vault.
    public_key: String,
    /// nanoTON; absent where the chain was not asked.
    balance: Option<u128>,
    transfers: Option<u32>,
}

/// Runs one.
pub fn run(command: Command, json: bool) -> Result<Outcome> {
    match command {
        Command::New(args) => {
            let (network, _) = args.chain.pinned()?;
            let seed = key::make(&args.file)?;
            let file = args.file.display();
            progress(&format!(
                "{file}: written; whoever reads it has the coins, and it can't be made again: keep a copy"
            ));
            show(&Wallet::from_seed(&seed, network.global_id)?, None, json)
        }
        Command::Show(args) => {
            let chain = args.chain.open()?;
            let wallet = Wallet::from_seed(&key::read(&args.file)?, chain.network.global_id)?;
            let account = runtime()?.block_on(chain.account(wallet.address()))?;
            show(&wallet, Some((account.balance(), sequence(&account)?)), json)
        }
    }
}

fn show(wallet: &Wallet, held: Option<(u128, u32)>, json: bool) -> Result<Outcome> {
    let shown = Shown {
        address: wallet.address().to_string(),
        public_key: hex::encode(wallet.public_key()),
        balance: held.map(|(balance, _)| balance),
        transfers: held.map(|(_, transfers)| transfers),
    };
    facts(json, &shown, || {
        let held = held.map_or(String::new(), |(balance, transfers)| {
            format!("\nholds     {}\ntransfers {transfers}", amount::show(balance.cast_signed()))
        });
        format!("address   {}\nkey       {}{held}", shown.address, shown.public_key)
    })?;
    Ok(Outcome::Fine)
}
