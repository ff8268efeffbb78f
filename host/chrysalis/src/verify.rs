//! `chrysalis verify`: the whole verdict on a running machine, over a connection of its own.

use crate::output::{Outcome, facts};
use crate::trust::Target;
use anyhow::{Context, Result, bail};
use client::{Client, ClientError};
use evidence::Verdict;
use measure::wire::{Evidence, LogFormat};
use std::path::{Path, PathBuf};

/// Options of `verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Writes the evidence here, whatever the verdict: input of `measure explain`.
    #[arg(long)]
    save_evidence: Option<PathBuf>,
}

/// Connects, takes evidence bound to this connection, appraises it and prints every check.
pub fn run(args: Args, json: bool) -> Result<Outcome> {
    let (endpoint, trust) = args.target.load()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut seen = None;
    let endpoint = endpoint.to_string();
    let connecting = Client::connect_showing(&endpoint, &trust, args.target.at(), |evidence| {
        seen = Some(evidence.clone())
    });
    let connected = runtime.block_on(connecting);
    if let (Some(path), Some(evidence)) = (&args.save_evidence, &seen) {
        save(path, evidence)?;
    }
    match connected {
        Ok(client) => {
            print(client.appraised().verdict(), json)?;
            Ok(Outcome::Fine)
        }
        Err(error) => refused(error, json),
    }
}

/// Writes evidence as `measure explain` reads it (docs/reference/explain.md).
fn save(path: &Path, evidence: &Evidence) -> Result<()> {
    let file = serde_json::json!({
        "schema": 1,
        "quote": hex::encode(&evidence.quote),
        "log_format": match evidence.event_log.format {
            LogFormat::Ccel => "ccel",
            LogFormat::Tpm => "tpm",
        },
        "event_log": hex::encode(&evidence.event_log.bytes),
        "runtime": hex::encode(&evidence.runtime),
        "static_config": hex::encode(&evidence.static_config),
    });
    std::fs::write(path, format!("{file:#}\n")).with_context(|| format!("cannot write {}", path.display()))
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
