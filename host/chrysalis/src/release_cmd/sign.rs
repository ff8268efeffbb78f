//! `chrysalis release sign`: a rebuilder's word, or one more signature under metadata.

use super::{files, keys};
use crate::input::read;
use crate::output::{Outcome, facts};
use crate::trust::now;
use anyhow::{Context, Result, bail};
use measure::Digest256;
use release::publish::Unsigned;
use release::{Measurements, Statement, name};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Options of `release sign`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of a draft, made from a build of your own: writes a statement beside it.
    #[arg(long, conflicts_with = "metadata", required_unless_present = "metadata")]
    draft: Option<PathBuf>,
    /// The publisher's measurements: nothing is signed if the draft's are others.
    #[arg(long, requires = "draft")]
    against: Option<PathBuf>,
    /// Metadata that lack signatures, such as the root that `rotate` wrote; the signature is added to the file.
    #[arg(long)]
    metadata: Option<PathBuf>,
    /// Private key (PKCS#8 PEM, Ed25519).
    #[arg(long)]
    key: PathBuf,
}

/// Signs what is given.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    match (&args.draft, &args.metadata) {
        (Some(draft), _) => statement(args, draft, json),
        (None, Some(metadata)) => signature(args, metadata, json),
        (None, None) => bail!("give --draft or --metadata"),
    }
}

fn statement(args: &Args, draft: &Path, json: bool) -> Result<Outcome> {
    let files = files::folder(draft)?;
    let found = files.iter().find(|(file, _)| file.ends_with(name::MEASUREMENTS));
    let (file, bytes) =
        found.with_context(|| format!("{}: no *{} in it", draft.display(), name::MEASUREMENTS))?;
    let measurements = Measurements::parse(file, bytes)?;
    let digest = Digest256::of(bytes);
    if let Some(against) = &args.against {
        let theirs = read(against)?;
        if theirs != *bytes {
            let theirs = Measurements::parse(&against.display().to_string(), &theirs)?;
            return differs(&measurements, &theirs, json);
        }
    }
    let key = keys::read_one(&args.key)?;
    let (target, statement) = Statement::sign(&measurements.id()?, digest, now(), &key)?;
    let path = draft.join(target);
    files::write(&path, &statement)?;
    let value = json!({ "measurements": digest, "statement": path, "rebuilder": key.public() });
    facts(json, &value, || {
        format!("measurements  {digest}\nrebuilder     {}\nstatement     {}", key.public(), path.display())
    })?;
    Ok(Outcome::Fine)
}

/// Names what a rebuild came to that the publisher did not; nothing is signed.
fn differs(ours: &Measurements, theirs: &Measurements, json: bool) -> Result<Outcome> {
    let (ours, theirs) = (serde_json::to_value(ours)?, serde_json::to_value(theirs)?);
    let mut lines = Vec::new();
    walk("", &ours, &theirs, &mut lines);
    let value = json!({ "signed": false, "differences": lines });
    facts(json, &value, || format!("not signed: the rebuild differs\n{}", lines.join("\n")))?;
    Ok(Outcome::Mismatch)
}

fn walk(path: &str, ours: &serde_json::Value, theirs: &serde_json::Value, lines: &mut Vec<String>) {
    use serde_json::Value::{Array, Object};
    match (ours, theirs) {
        (Object(a), Object(b)) => {
            let mut keys: Vec<_> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                walk(&format!("{path}.{key}"), &ours[key], &theirs[key], lines);
            }
        }
        (Array(a), Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                walk(&format!("{path}[{index}]"), a, b, lines);
            }
        }
        (a, b) if a == b => {}
        (a, b) => lines.push(format!("{}: rebuilt {a}, published {b}", path.trim_start_matches('.'))),
    }
}

fn signature(args: &Args, metadata: &Path, json: bool) -> Result<Outcome> {
    let shown = metadata.display().to_string();
    let mut unsigned = Unsigned::parse(&shown, &read(metadata)?)?;
    let key = keys::read_one(&args.key)?;
    unsigned.sign(&key);
    files::write(metadata, &unsigned.to_bytes()?)?;
    let signers: Vec<_> = unsigned.signers().collect();
    facts(json, &json!({ "metadata": metadata, "signers": signers }), || {
        format!("{shown}: signed by {} keys\n{}", signers.len(), signers.join("\n"))
    })?;
    Ok(Outcome::Fine)
}
