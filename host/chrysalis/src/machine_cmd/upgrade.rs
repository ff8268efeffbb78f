//! `chrysalis machine upgrade`: fetched, verified, foretold, drained into, and rolled back if it does not serve.
//!
//! Which release, and every hash of its files, comes from the publication. The launcher settles and foretells the new machine and
//! holds it against its own publication before it drains the present one; so an upgrade that may not run changes nothing.

use super::{ask, fetch};
use crate::output::{Outcome, facts};
use crate::published::PublishedArgs;
use anyhow::{Context, Result, bail, ensure};
use builder::artifacts::names;
use launcher::keep::{Ask, Reply};
use release::{Accepted, File, Published};
use serde_json::json;
use std::path::PathBuf;

/// Options of `machine upgrade`.
#[derive(clap::Args)]
pub struct Args {
    /// Run folder of `chrysalis launch`.
    #[arg(long, default_value = "out/run")]
    run: PathBuf,
    /// Folder of a built image that is here already.
    #[arg(long, conflicts_with_all = ["from", "release", "into"], required_unless_present = "from")]
    image: Option<PathBuf>,
    /// Where the files of a published release are: a folder, or an address (http:// or https://).
    #[arg(long, value_name = "FOLDER|URL", requires = "publication")]
    from: Option<String>,
    /// Release to fetch, such as `worker-0.2.0`; the newest accepted one if absent.
    #[arg(long, requires = "from")]
    release: Option<String>,
    /// Folder for fetched releases, one folder each; `releases` in the run folder if absent.
    #[arg(long, requires = "from")]
    into: Option<PathBuf>,
    #[command(flatten)]
    published: PublishedArgs,
}

/// Does it; exit code 1 if the machine before it serves again.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let image = match (&args.image, &args.from) {
        (Some(image), _) => image.clone(),
        (None, Some(from)) => fetched(args, from)?,
        (None, None) => bail!("give --image, or --from with --publication"),
    };
    let image = std::path::absolute(&image).with_context(|| format!("{}", image.display()))?;
    eprintln!("  upgrading to {}; the machine drains, then the new one has to serve", image.display());
    match ask(&args.run, &Ask::Upgrade { image: image.clone() })? {
        Reply::Done => {
            let words = || format!("serving with {}", image.display());
            facts(json, &json!({ "upgraded": true, "image": image }), words)?;
            Ok(Outcome::Fine)
        }
        Reply::RolledBack { reason } => {
            let words = || format!("ROLLED BACK, the machine before serves again: {reason}");
            facts(json, &json!({ "upgraded": false, "rolled_back": true, "reason": reason }), words)?;
            Ok(Outcome::Mismatch)
        }
        Reply::Refused { reason } => bail!("not upgraded: {reason}"),
        Reply::Status(_) => bail!("the launcher answered something else; use the program of its version"),
    }
}

/// The folder of the release, fetched and held against the publication.
fn fetched(args: &Args, from: &str) -> Result<PathBuf> {
    let source = args.published.source()?.context("--from: give --publication and --anchor too")?;
    let published = source.once(None)?;
    let release = choose(&published, &source.anchor().names, args.release.as_deref())?;
    let into = args.into.clone().unwrap_or_else(|| args.run.join("releases"));
    let folder = into.join(release.id().to_string().replace(' ', "-"));
    eprintln!("  release {}, measurements {}", release.id(), release.digest());
    fetch::fetch(from, &files(release)?, &folder)?;
    Ok(folder)
}

/// What a launch reads of an image.
fn files(release: &Accepted) -> Result<Vec<File>> {
    let artifacts = &release.measurements().artifacts;
    let one = |name: &str| {
        let found = artifacts.iter().find(|file| file.name == name).cloned();
        found.with_context(|| format!("{}: has no {name}; it was published by another program", release.id()))
    };
    [names::UKI, names::DISK].into_iter().map(one).collect()
}

fn choose<'p>(published: &'p Published, names: &[String], wanted: Option<&str>) -> Result<&'p Accepted> {
    let releases = published.releases.as_deref().map(release::AcceptedReleases::releases).unwrap_or_default();
    let of_name = releases.iter().filter(|release| names.contains(&release.measurements().name));
    let found = match wanted {
        Some(wanted) => of_name.clone().find(|release| release.id().to_string() == wanted),
        None => of_name.clone().max_by_key(|release| release.measurements().version),
    };
    let known: Vec<_> = of_name.map(|release| release.id().to_string()).collect();
    ensure!(!known.is_empty(), "no release of the wanted names is accepted");
    found.with_context(|| {
        format!("{}: not accepted; accepted are {}", wanted.unwrap_or_default(), known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::now;
    use release::samples;

    #[test]
    fn an_accepted_release_is_chosen_and_any_other_named() {
        let publication = samples::publication(now(), 1).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (path, bytes) in &publication.files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let anchor = dir.path().join("anchor.toml");
        std::fs::write(&anchor, publication.anchor.to_toml()).unwrap();
        let args = PublishedArgs::of(&dir.path().display().to_string(), &anchor);
        let published = args.source().unwrap().unwrap().once(None).unwrap();
        let names = &publication.anchor.names;
        let id = choose(&published, names, None).unwrap().id().to_string();
        assert!(id.starts_with("worker"), "{id}");
        assert!(choose(&published, names, Some(&id)).is_ok());
        let text = choose(&published, names, Some("worker-9.9.9")).unwrap_err().to_string();
        assert!(text.contains("accepted are worker"), "{text}");
        assert!(choose(&published, &["proxy".to_owned()], None).is_err());
    }
}
