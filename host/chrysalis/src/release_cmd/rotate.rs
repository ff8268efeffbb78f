//! `chrysalis release rotate`: the next root, with other keys for a role. `publish --root` puts it into effect.

use super::{files, keys};
use crate::output::{Outcome, facts};
use crate::trust::now;
use anyhow::{Context, Result, ensure};
use release::Role;
use release::publish::RootPlan;
use serde_json::json;
use std::path::PathBuf;

const DAY: u64 = 24 * 3600;

/// Options of `release rotate`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the publication; it is not changed.
    #[arg(long)]
    repo: PathBuf,
    /// Whose keys change; without it the root is only renewed.
    #[arg(long, requires = "to")]
    role: Option<Role>,
    /// A key of the role from now on, all others lose it: 64 hex digits, or a key file, made if it isn't there.
    #[arg(long)]
    to: Vec<String>,
    /// How many of them must sign; as before if absent.
    #[arg(long, requires = "role")]
    threshold: Option<u32>,
    /// A root key to sign with at once; others sign with `release sign --metadata`.
    #[arg(long)]
    root_key: Vec<PathBuf>,
    /// Days that the root lives.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=3650))]
    root_days: u64,
    /// Where the next root is written.
    #[arg(long)]
    out: PathBuf,
}

/// Writes the next root, as far as it can be signed here.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    ensure!(!args.out.exists(), "{}: it exists; sign it, or give another name", args.out.display());
    let trusted = files::open(&args.repo)?;
    let issued = now();
    let mut plan = RootPlan::after(&trusted, issued, issued + args.root_days * DAY);
    if let Some(role) = args.role {
        let make = |text: &String| match text.parse() {
            Ok(key) => Ok(key),
            Err(_) => keys::make(text.as_ref()).map(|key| key.public()),
        };
        let holders = plan.holders.get_mut(&role).with_context(|| format!("the root knows no {role}"))?;
        holders.keys = args.to.iter().map(make).collect::<Result<_>>()?;
        holders.threshold = args.threshold.unwrap_or(holders.threshold);
        ensure!(
            (1..=holders.keys.len()).contains(&(holders.threshold as usize)),
            "threshold {} of {role} with {} keys; give --threshold, or more --to",
            holders.threshold,
            holders.keys.len()
        );
    }
    let mut root = plan.unsigned()?;
    keys::read(&args.root_key)?.iter().for_each(|key| root.sign(key));
    files::write(&args.out, &root.to_bytes()?)?;
    let needed = trusted.root().authority(Role::Root).map_or(0, |authority| authority.threshold);
    let signed = root.signers().count();
    let value = json!({ "root": args.out, "version": plan.version, "signed": signed, "needed": needed });
    facts(json, &value, || {
        format!(
            "root {} in {}, signed by {signed}, {needed} of the old and {} of the new holders needed\n\
             next: `release sign --metadata` where the other keys are, then `release publish --root`",
            plan.version,
            args.out.display(),
            plan.holders[&Role::Root].threshold
        )
    })?;
    Ok(Outcome::Fine)
}
