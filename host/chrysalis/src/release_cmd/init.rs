//! `chrysalis release init`: keys, the first root, an empty publication.

use super::files::{self, Lives};
use super::keys::{self, RoleKeys};
use crate::output::{Outcome, facts};
use crate::trust::now;
use anyhow::{Context, Result, ensure};
use measure::Digest256;
use release::publish::{Edition, Holders, RootPlan};
use release::{PublicKey, Role, SigningKey, Trusted};
use serde_json::json;
use std::path::PathBuf;

const DAY: u64 = 24 * 3600;

/// Options of `release init`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the publication; it must be new.
    #[arg(long)]
    repo: PathBuf,
    /// Folder for the private keys, outside of any checkout; those that exist are taken as they are.
    #[arg(long)]
    keys: PathBuf,
    /// How many root keys there are.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    root_keys: u32,
    /// How many of them must sign a root.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    root_threshold: u32,
    /// Days that the root lives.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=3650))]
    root_days: u64,
    #[command(flatten)]
    lives: Lives,
}

/// Makes everything and says what goes where.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    ensure!(
        args.root_threshold <= args.root_keys,
        "--root-threshold {}: there are {} root keys; lower it, or make more",
        args.root_threshold,
        args.root_keys
    );
    files::must_be_new(&args.repo)?;
    std::fs::create_dir_all(&args.keys).with_context(|| format!("{}: can't make", args.keys.display()))?;
    let path = |name: &str| args.keys.join(format!("{name}.pem"));
    let names: Vec<_> = (1..=args.root_keys).map(|number| format!("root-{number}")).collect();
    let roots: Vec<SigningKey> = names.iter().map(|name| keys::make(&path(name))).collect::<Result<_>>()?;
    let online = ["targets", "snapshot", "timestamp"].map(|name| keys::make(&path(name)));
    let [targets, snapshot, timestamp] = online;
    let holders = |keys: Vec<PublicKey>, threshold| Holders { keys, threshold };
    let one = |key: Result<SigningKey>| Ok::<_, anyhow::Error>(holders(vec![key?.public()], 1));
    let issued = now();
    let plan = RootPlan {
        version: 1,
        issued,
        expires: issued + args.root_days * DAY,
        holders: [
            (Role::Root, holders(roots.iter().map(SigningKey::public).collect(), args.root_threshold)),
            (Role::Targets, one(targets)?),
            (Role::Snapshot, one(snapshot)?),
            (Role::Timestamp, one(timestamp)?),
        ]
        .into(),
    };
    let mut root = plan.unsigned()?;
    roots.iter().for_each(|key| root.sign(key));
    let root = root.to_bytes()?;
    let pinned = Digest256::of(&root);
    let trusted = Trusted::new(pinned, &root)?;
    let given = RoleKeys {
        targets_key: vec![path("targets")],
        snapshot_key: vec![path("snapshot")],
        timestamp_key: vec![path("timestamp")],
    };
    files::write(&args.repo.join("metadata/1.root.json"), &root)?;
    files::release(&args.repo, &trusted, Edition::of(&trusted), None, &given, &args.lives)?;
    facts(json, &json!({ "repo": args.repo, "keys": args.keys, "root": pinned }), || {
        format!(
            "publication  {}\nkeys         {} (move the root and targets keys off this machine)\nroot         {pinned}\n\
             \nConsumers pin the root by this line of their settings:\nroot = \"{pinned}\"",
            args.repo.display(),
            args.keys.display()
        )
    })?;
    Ok(Outcome::Fine)
}
