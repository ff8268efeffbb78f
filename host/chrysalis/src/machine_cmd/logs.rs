//! `chrysalis machine logs`: the files of a run, fit for a terminal.
//!
//! The guest wrote two of them, and is hostile: control characters never reach a terminal.

use crate::launch::words::stage;
use crate::output::{Outcome, line};
use anyhow::{Context, Result};
use launcher::keep::CRASHES;
use launcher::watch::{Console, Progress};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Most bytes that are shown of a file: its end.
const TAIL: u64 = 256 * 1024;

/// Options of `machine logs`.
#[derive(clap::Args)]
pub struct Args {
    /// Run folder of `chrysalis launch`.
    #[arg(long, default_value = "out/run")]
    run: PathBuf,
    /// Which record: `progress` (what the guest reported), `console` (firmware and kernel), `qemu` (QEMU's own words) or
    /// `crashes` (reports of failures).
    #[arg(long, default_value = "progress", value_parser = ["progress", "console", "qemu", "crashes"])]
    what: String,
}

/// Prints the end of a record.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let read = |name: &str| tail(&args.run.join(name));
    match args.what.as_str() {
        "console" => line(plain(&read("console.log")?).trim_end())?,
        "qemu" => line(plain(&read("qemu.log")?).trim_end())?,
        "crashes" => crashes(&args.run.join(CRASHES))?,
        _ => progress(&read("progress.jsonl")?, json)?,
    }
    Ok(Outcome::Fine)
}

fn progress(bytes: &[u8], json: bool) -> Result<()> {
    for said in Progress::default().push(bytes) {
        let text = match json {
            true => said.to_line().trim_end().to_owned(),
            false => {
                let words = plain(stage(&said.stage).as_bytes());
                format!("{:8.1} s  {words}", said.uptime_ms as f64 / 1000.0)
            }
        };
        line(&text)?;
    }
    Ok(())
}

fn crashes(folder: &Path) -> Result<()> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort_unstable();
    for path in paths {
        line(plain(&tail(&path)?).trim_end())?;
    }
    Ok(())
}

fn plain(bytes: &[u8]) -> String {
    let mut console = Console::default();
    console.push(bytes);
    console.text().to_owned()
}

fn tail(path: &Path) -> Result<Vec<u8>> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(TAIL);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().with_context(|| format!("{}: was a machine launched from this folder?", path.display()))
}
