//! `chrysalis release publish`: the next version of a publication.

use super::files::{self, Lives};
use super::keys::RoleKeys;
use crate::input::read;
use crate::output::{Outcome, facts};
use anyhow::{Context, Result, ensure};
use release::publish::Edition;
use release::{Document, MAX_STATEMENT, Measurements, Pinned, Trusted, name};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Options of `release publish`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the publication.
    #[arg(long)]
    repo: PathBuf,
    /// Folder of a draft: release, measurements, bill of materials, statements.
    #[arg(long)]
    draft: Option<PathBuf>,
    /// Rebuilders' statements.
    #[arg(long, num_args = 1..)]
    statement: Vec<PathBuf>,
    /// The next root, signed by enough holders.
    #[arg(long)]
    root: Option<PathBuf>,
    #[command(flatten)]
    keys: RoleKeys,
    #[command(flatten)]
    lives: Lives,
}

/// Publishes what is given.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let before = files::open(&args.repo)?;
    let mut edition = Edition::of(&before);
    for (target, bytes) in added(args)? {
        edition.add(&target, bytes)?;
    }
    let root = args.root.as_deref().map(read).transpose()?;
    let root = root.map(|bytes| (format!("metadata/{}.root.json", before.root().head.version + 1), bytes));
    let after = files::release(&args.repo, &before, edition, root, &args.keys, &args.lives)?;
    told(&args.repo, &after, json)
}

/// Says what the publication is now.
pub fn told(repo: &Path, after: &Trusted, json: bool) -> Result<Outcome> {
    let [root, timestamp, snapshot, targets] = after.versions();
    let expires = after.expires().map(evidence::show_time);
    let names: Vec<_> = after.targets().into_iter().flat_map(|targets| targets.keys()).collect();
    let value = json!({
        "repo": repo,
        "versions": { "root": root, "timestamp": timestamp, "snapshot": snapshot, "targets": targets },
        "expires": { "root": expires[0], "timestamp": expires[1], "snapshot": expires[2], "targets": expires[3] },
        "targets": names,
    });
    facts(json, &value, || {
        let [r, ts, s, t] = &expires;
        format!(
            "root      {root:>4}  until {r}\ntargets   {targets:>4}  until {t}\nsnapshot  {snapshot:>4}  until {s}\n\
             timestamp {timestamp:>4}  until {ts}\n{} targets in {}",
            names.len(),
            repo.display()
        )
    })?;
    Ok(Outcome::Fine)
}

/// The targets to add, held against each other before anything is signed.
fn added(args: &Args) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    if let Some(draft) = &args.draft {
        files.extend(files::folder(draft)?);
        consistent(draft, &files)?;
    }
    for path in &args.statement {
        let file = path.file_name().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
        ensure!(
            file.ends_with(name::REBUILD),
            "{}: a statement is called *{}, as `release sign` names it",
            path.display(),
            name::REBUILD
        );
        let bytes = read(path)?;
        ensure!(bytes.len() <= MAX_STATEMENT, "{}: longer than a statement", path.display());
        files.insert(file, bytes);
    }
    Ok(files.into_iter().collect())
}

fn consistent(draft: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let shown = draft.display();
    let find = |end: &str| {
        let mut found = files.iter().filter(|(file, _)| file.ends_with(end));
        let one = found.next().with_context(|| format!("{shown}: no *{end}; make a draft first"))?;
        ensure!(found.next().is_none(), "{shown}: more than one *{end}; one release a draft");
        Ok(one)
    };
    let (release, bytes) = find(name::RELEASE)?;
    let document = Document::parse(release, bytes)?;
    let (file, bytes) = find(name::MEASUREMENTS)?;
    let measurements = Measurements::parse(file, bytes)?;
    let id = document.id()?;
    ensure!(measurements.id()? == id, "{shown}: {release} and {file} are of two releases; draft anew");
    ensure!(
        Pinned::of(bytes) == document.measurements,
        "{shown}: {release} names other measurements; draft anew"
    );
    for (file, end) in [(release, name::RELEASE), (file, name::MEASUREMENTS)] {
        ensure!(*file == id.target(end), "{shown}: {file} should be called {}", id.target(end));
    }
    Ok(())
}
