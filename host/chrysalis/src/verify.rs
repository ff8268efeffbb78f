//! `chrysalis verify`: the whole verdict on a running machine, over a connection of its own.

use crate::output::{Outcome, facts};
use crate::trust::Target;
use anyhow::{Result, bail};
use client::{Client, ClientError};
use evidence::Verdict;

/// Options of `verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,
}

/// Connects, takes evidence bound to this connection, appraises it and prints every check.
pub fn run(args: Args, json: bool) -> Result<Outcome> {
    let (endpoint, trust) = args.target.load()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(Client::connect(&endpoint.to_string(), &trust, args.target.at())) {
        Ok(client) => {
            print(client.appraised().verdict(), json)?;
            Ok(Outcome::Fine)
        }
        Err(error) => refused(error, json),
    }
}

/// Prints the verdict of a refused peer; any other error is passed on.
pub fn refused(error: ClientError, json: bool) -> Result<Outcome> {
    match error.verdict() {
        Some(verdict) => {
            print(verdict, json)?;
            Ok(Outcome::Mismatch)
        }
        None => bail!(error),
    }
}

fn print(verdict: &Verdict, json: bool) -> Result<()> {
    use std::io::IsTerminal;
    let colour = std::io::stdout().is_terminal();
    facts(json, verdict, || verdict.table(colour))
}
