//! `chrysalis release verify`: what a consumer with these settings accepts, and why not the rest.

use crate::input::read;
use crate::output::{Outcome, facts};
use crate::trust::now;
use anyhow::{Context, Result};
use evidence::show_time;
use release::{
    Accepted, AcceptedReleases, Anchor, Folder, Http, Instants, Keeper, Limits, Mirror, Published, Standing,
    Store,
};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Most bytes of a root.
const MAX_ROOT: usize = 64 * 1024;

/// Options of `release verify`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of a publication, or the address of one (http:// or https://).
    #[arg(long)]
    mirror: String,
    /// The consumer's settings (TOML): root, rebuilders, threshold, names.
    #[arg(long)]
    settings: PathBuf,
    /// The first root; the mirror's `1.root.json` if absent. The settings pin its hash either way.
    #[arg(long)]
    root: Option<PathBuf>,
    /// Folder that remembers what was seen, against rollbacks.
    #[arg(long)]
    state: Option<PathBuf>,
    /// Verify at this time (seconds since 1970) instead of now.
    #[arg(long)]
    at: Option<u64>,
}

/// Verifies and prints. Exit code 1 where nothing is accepted.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let shown = args.settings.display();
    let text = String::from_utf8(read(&args.settings)?).with_context(|| format!("{shown}: not text"))?;
    let anchor = Anchor::parse(&text).with_context(|| format!("{shown}"))?;
    let mut mirror: Box<dyn Mirror> = if args.mirror.contains("://") {
        Box::new(Http::new(&args.mirror, Limits::default())?)
    } else {
        Box::new(Folder::new(&args.mirror))
    };
    let first = match &args.root {
        Some(path) => read(path)?,
        None => mirror
            .fetch("metadata/1.root.json", MAX_ROOT)?
            .with_context(|| format!("{}: no metadata/1.root.json; is this a publication?", args.mirror))?,
    };
    let store = args.state.as_ref().map(Store::open).transpose()?;
    let at = Instants { host: args.at.unwrap_or_else(now), monotonic: Duration::ZERO };
    let mut keeper = Keeper::open(anchor, &first, mirror, store, at)?;
    let published = keeper.refresh(at);
    if let Some(trouble) = keeper.store_trouble() {
        eprintln!("warning: {trouble}");
    }
    let releases = published.releases.as_deref();
    let none = releases.is_none_or(|releases| releases.releases().is_empty());
    facts(json, &as_json(&published, &keeper), || human(&published))?;
    let fresh = matches!(published.standing, Standing::Fresh { .. });
    Ok(if fresh && !none { Outcome::Fine } else { Outcome::Mismatch })
}

fn as_json(published: &Published, keeper: &Keeper) -> serde_json::Value {
    let one = |release: &Accepted| {
        let machines: Vec<_> = release.measurements().releases().collect();
        json!({
            "release": release.id().to_string(),
            "state": release.document().status.state,
            "reason": release.document().status.reason,
            "measurements": release.digest(),
            "commit": release.measurements().commit,
            "rebuilders": release.rebuilders(),
            "valid_until": release.document().valid_until,
            "machines": machines,
        })
    };
    let releases = published.releases.as_deref();
    let accepted: Vec<_> = releases.map_or(&[][..], AcceptedReleases::releases).iter().map(one).collect();
    let [root, timestamp, snapshot, targets] = keeper.versions();
    json!({
        "at": show_time(published.at),
        "standing": published.standing,
        "versions": { "root": root, "timestamp": timestamp, "snapshot": snapshot, "targets": targets },
        "accepted": accepted,
        "set_aside": releases.map_or(&[][..], AcceptedReleases::set_aside),
    })
}

fn human(published: &Published) -> String {
    let mut text = format!("{}\n", published.standing);
    let releases = published.releases.as_deref();
    for release in releases.map_or(&[][..], AcceptedReleases::releases) {
        let (id, by) = (release.id(), release.rebuilders().len());
        let until = &release.document().valid_until;
        text += &format!("accepted   {id}  {by} rebuilders agree, valid until {until}\n");
        text += &format!("           measurements {}\n", release.digest());
        for machine in &release.measurements().machines {
            text +=
                &format!("           {}  mrtd {:.16}\n", machine.title(), machine.registers.mrtd.to_string());
        }
        if let Some(reason) = &release.document().status.reason {
            text += &format!("           {:?}: {reason}\n", release.document().status.state);
        }
    }
    for aside in releases.map_or(&[][..], AcceptedReleases::set_aside) {
        text += &format!("set aside  {}: {}\n", aside.release, aside.why);
    }
    text
}
