//! `chrysalis evidence collateral`: what is published about a quote's platform, fetched, verified and kept.

use crate::input::read;
use crate::online::{self, Answer, Found, Online};
use crate::output::{Outcome, facts};
use crate::trust;
use anyhow::{Context, Result};
use collateral::PlatformId;
use evidence::{Collateral, Document, Policy, show_time};
use serde_json::{Value, json};
use std::path::PathBuf;

const DAY: u64 = 24 * 60 * 60;

/// Options of `evidence collateral`.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("whom").required(true).multiple(true).args(["service", "cache"])))]
pub struct Args {
    /// A quote of the platform, as the platform gave it.
    #[arg(long)]
    quote: PathBuf,
    #[command(flatten)]
    online: Online,
    /// File to write: JSON with the fields of QuoteCollateralV3, for `evidence verify --collateral`.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Time at which it must hold, seconds since 1970; now if absent.
    #[arg(long)]
    at: Option<u64>,
    /// Appraisal policy (TOML), of which the trust root counts; Intel's root if absent.
    #[arg(long)]
    policy: Option<PathBuf>,
}

/// Fetches or takes from the cache, verifies, writes, and prints every document.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let policy = args.policy.as_deref().map(trust::policy).transpose()?.unwrap_or_else(Policy::production);
    let at = args.at.unwrap_or_else(trust::now);
    let quote = read(&args.quote)?;
    let platform = online::platform(&quote).with_context(|| format!("{}", args.quote.display()))?;
    match args.online.collateral(&quote, &policy, at)? {
        Answer::Genuine(found) => {
            if let Some(path) = &args.out {
                std::fs::write(path, found.collateral.to_json())
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            let mut shown = shown(&platform, at, &found.collateral);
            shown["genuine"] = json!(true);
            shown["source"] = json!(found);
            shown["out"] = json!(args.out);
            facts(json, &shown, || human(&platform, at, &found, args))?;
            Ok(Outcome::Fine)
        }
        Answer::Refused { why, collateral } => {
            let mut shown = shown(&platform, at, &collateral);
            shown["genuine"] = json!(false);
            shown["why"] = json!(why);
            let tell = "nothing was written or kept; next: ask another service, or see what the quote and the policy name";
            facts(json, &shown, || format!("REFUSED: {why}\n{}{tell}", table(&collateral, at)))?;
            Ok(Outcome::Mismatch)
        }
    }
}

fn shown(platform: &PlatformId, at: u64, collateral: &Collateral) -> Value {
    json!({
        "fmspc": platform.fmspc,
        "ca": platform.ca(),
        "at": at,
        "documents": collateral.documents(),
    })
}

fn human(platform: &PlatformId, at: u64, found: &Found, args: &Args) -> String {
    let mut out = format!("platform FMSPC {}, {} CA, at {}\n", platform.fmspc, platform.ca(), show_time(at));
    out += &table(&found.collateral, at);
    out += &found.sentence();
    if let Some(path) = &args.out {
        out += &format!("\nwritten to {}", path.display());
    }
    out
}

/// A line for each document, CRL and certificate: what, from, until, and how long that is.
fn table(collateral: &Collateral, at: u64) -> String {
    let line = |document: &Document| {
        let Document { what, from, until } = document;
        let left = match until.checked_sub(at).filter(|left| *left > 0) {
            _ if at < *from => "not valid yet".into(),
            None => "EXPIRED".into(),
            Some(left) => format!("{} days left", left / DAY),
        };
        format!("{}  {}  {left:<15}  {what}\n", show_time(*from), show_time(*until))
    };
    let documents = collateral.documents().unwrap_or_default();
    format!("{:<20}  {:<20}  {:<15}  document\n", "valid from", "valid until", "")
        + &documents.iter().map(line).collect::<String>()
}
