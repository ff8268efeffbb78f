//! `chrysalis machine stop`.

use super::ask;
use crate::output::{Outcome, facts};
use anyhow::{Result, bail};
use launcher::keep::{Ask, Reply};
use serde_json::json;
use std::path::PathBuf;

/// Options of `machine stop`.
#[derive(clap::Args)]
pub struct Args {
    /// Run folder of `chrysalis launch`.
    #[arg(long, default_value = "out/run")]
    run: PathBuf,
    /// End it at once: requests under way are cut.
    #[arg(long)]
    now: bool,
}

/// Asks, and returns when it is over.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    match ask(&args.run, &Ask::Stop { now: args.now })? {
        Reply::Done => {
            facts(json, &json!({ "stopped": true }), || "stopped".into())?;
            Ok(Outcome::Fine)
        }
        Reply::Refused { reason } | Reply::RolledBack { reason } => bail!("not stopped: {reason}"),
        Reply::Status(_) => bail!("the launcher answered something else; use the program of its version"),
    }
}
