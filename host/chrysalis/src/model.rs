//! `chrysalis model`: turn a Hugging Face folder into a disk whose root hash pins every byte.

use crate::output::{Outcome, facts};
use anyhow::Result;
use builder::{Checkout, Tools};
use std::path::PathBuf;

/// Subcommands of `model`.
#[derive(clap::Subcommand)]
pub enum Command {
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
    let Command::Pack { folder, name, out } = command;
    let tools = Tools::open(&Checkout::find()?, &mut |progress| eprintln!("  {progress}"))?;
    let disk = builder::model::pack(&tools, &folder, &out, &name)?;
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
