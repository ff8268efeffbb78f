//! `chrysalis release keygen`: a key for a rebuilder, or for a role that changes hands.

use super::keys;
use crate::output::{Outcome, facts};
use anyhow::{Result, ensure};
use serde_json::json;
use std::path::PathBuf;

/// Options of `release keygen`.
#[derive(clap::Args)]
pub struct Args {
    /// The key file to make, outside of any checkout.
    #[arg(long)]
    out: PathBuf,
}

/// Makes the key and prints its public half.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    ensure!(!args.out.exists(), "{}: it exists; give another name", args.out.display());
    let public = keys::make(&args.out)?.public();
    facts(json, &json!({ "key": args.out, "public": public, "id": public.id() }), || {
        format!("key     {}\npublic  {public}", args.out.display())
    })?;
    Ok(Outcome::Fine)
}
