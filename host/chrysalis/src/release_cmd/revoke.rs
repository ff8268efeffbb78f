//! `chrysalis release revoke`: a release withdrawn, or deprecated, with the reason.

use super::files::{self, Lives};
use super::keys::RoleKeys;
use super::publish::told;
use crate::output::Outcome;
use anyhow::{Context, Result, ensure};
use release::publish::Edition;
use release::{Document, Folder, MAX_DOCUMENT, ReleaseId, State, Status, fetch_target, name};
use std::path::PathBuf;

/// Options of `release revoke`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the publication.
    #[arg(long)]
    repo: PathBuf,
    /// Which release, such as `worker-0.1.0`.
    #[arg(long)]
    release: ReleaseId,
    /// Why, for everybody to read (printable ASCII).
    #[arg(long)]
    reason: String,
    /// Only deprecate it: consumers whose settings allow it go on.
    #[arg(long)]
    deprecate: bool,
    #[command(flatten)]
    keys: RoleKeys,
    #[command(flatten)]
    lives: Lives,
}

/// Publishes the new status.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let before = files::open(&args.repo)?;
    let target = args.release.target(name::RELEASE);
    let known = before.targets().and_then(|targets| targets.get(&target));
    let meta =
        known.with_context(|| format!("{}: not published in {}", args.release, args.repo.display()))?;
    let bytes = fetch_target(&mut Folder::new(&args.repo), &target, meta, MAX_DOCUMENT)?;
    let mut document = Document::parse(&target, &bytes)?;
    ensure!(
        document.status.state != State::Revoked,
        "{}: revoked already; there is no way back",
        args.release
    );
    let state = if args.deprecate { State::Deprecated } else { State::Revoked };
    document.status = Status { state, reason: Some(args.reason.clone()) };
    let mut edition = Edition::of(&before);
    edition.add(&target, document.to_bytes()?)?;
    let after = files::release(&args.repo, &before, edition, None, &args.keys, &args.lives)?;
    told(&args.repo, &after, json)
}
