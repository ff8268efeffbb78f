//! `chrysalis model`: turn a Hugging Face folder into a disk whose root hash pins every byte.

use crate::output::{Outcome, facts};
use anyhow::{Result, ensure};
use builder::{Checkout, Tools};
use std::path::{Path, PathBuf};

/// What a text model must compute (docs/reference/engine.md).
const KNOWN_ANSWERS: &str = "known-answers.json";

/// Subcommands of `model`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Say what a model folder holds, and refuse by name what no guest would load.
    Inspect {
        /// The model's folder.
        folder: PathBuf,
    },
    /// Pack a model folder (config.json, model.safetensors, tokenizer.json, ...) into `model.img` and `model.json`.
    Pack {
        /// The model's folder.
        folder: PathBuf,
        /// Name by which requests ask for the model.
        #[arg(long)]
        name: String,
        /// Where `model.img` and `model.json` go.
        #[arg(long)]
        out: PathBuf,
    },
}

/// Runs a subcommand.
pub fn run(command: Command, json: bool) -> Result<Outcome> {
    let (folder, name, out) = match command {
        Command::Inspect { folder } => return inspect(&folder, json),
        Command::Pack { folder, name, out } => (folder, name, out),
    };
    answered(&builder::model::inspect(&folder)?.kind, &folder)?;
    let tools = Tools::open(&Checkout::find()?, &mut |progress| eprintln!("  {progress}"))?;
    let mut say = |doing: &str| eprintln!("  {doing}");
    let disk = builder::model::pack(&tools, &folder, &out, &name, &mut say)?;
    facts(json, &disk, || {
        format!(
            "model {} in {}\n  root        {}\n  data blocks {} of 4096 bytes",
            disk.name,
            out.display(),
            disk.root,
            disk.data_blocks
        )
    })?;
    Ok(Outcome::Fine)
}

/// Fails on a text model without known answers: no worker would serve its disk.
fn answered(kind: &str, folder: &Path) -> Result<()> {
    ensure!(
        kind != "chat" || folder.join(KNOWN_ANSWERS).is_file(),
        "{}: expected {KNOWN_ANSWERS} beside a text model, found none; write it with `cargo xtask answers {}`, on a machine \
         that computes rightly, and pack again",
        folder.display(),
        folder.display()
    );
    Ok(())
}

/// Prints the facts.
fn inspect(folder: &Path, json: bool) -> Result<Outcome> {
    let model = builder::model::inspect(folder)?;
    facts(json, &model, || {
        let shown = |name: &str| match &model.quantised {
            Some(bytes) if bytes.starts_with(name) => bytes.clone(),
            _ => name.to_owned(),
        };
        let types: Vec<_> =
            model.types.iter().map(|(name, count)| format!("{count} {}", shown(name))).collect();
        let known = |number: Option<u64>| number.map_or("not said".into(), |number| number.to_string());
        format!(
            "{} ({})\n  weights     {} ({}) in {} file(s)\n  context     {}\n  vocabulary  {}",
            model.architecture,
            model.kind,
            model.parameters,
            types.join(", "),
            model.weight_files,
            known(model.context),
            known(model.vocabulary)
        )
    })?;
    Ok(Outcome::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_model_without_known_answers_is_not_packed() {
        let folder = tempfile::tempdir().unwrap();
        let refused = answered("chat", folder.path()).unwrap_err().to_string();
        assert!(refused.contains("cargo xtask answers"), "{refused}");
        assert!(answered("embedding", folder.path()).is_ok());
        std::fs::write(folder.path().join(KNOWN_ANSWERS), "{}").unwrap();
        assert!(answered("chat", folder.path()).is_ok());
    }
}
