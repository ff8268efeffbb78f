//! `chrysalis machine`: machines that a `chrysalis launch` on this host keeps: how they stand, what they wrote, stop, upgrade, and
//! their systemd service.
//!
//! Named apart from `chrysalis status`, which asks a gateway, a proxy or a worker over the network how it serves: this asks the
//! launcher beside it, believes what it says, and verifies nothing.

mod fetch;
mod logs;
mod service;
mod status;
mod stop;
mod upgrade;

use crate::output::Outcome;
use anyhow::{Context, Result, ensure};
use launcher::keep::{self, Ask, Reply, Status};
use std::path::Path;

/// Subcommands of `machine`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Say how a machine stands: state, health of its guest, last failure.
    Status(status::Args),
    /// Print what the launcher recorded of a machine.
    Logs(logs::Args),
    /// Drain a machine and end it and its launcher.
    Stop(stop::Args),
    /// Put another release in the place of the present one, and go back if it does not serve.
    Upgrade(upgrade::Args),
    /// Install a systemd service that keeps machines, one settings file each.
    Install(service::Install),
    /// Remove that service.
    Uninstall(service::Uninstall),
}

/// Runs a subcommand.
pub fn run(command: Command, json: bool) -> Result<Outcome> {
    match command {
        Command::Status(args) => status::run(&args, json),
        Command::Logs(args) => logs::run(&args, json),
        Command::Stop(args) => stop::run(&args, json),
        Command::Upgrade(args) => upgrade::run(&args, json),
        Command::Install(args) => service::install(&args, json),
        Command::Uninstall(args) => service::uninstall(&args, json),
    }
}

/// What a run folder says, and whether a launcher lives there.
fn look(run: &Path) -> Result<(Status, bool)> {
    let hint = || format!("{}: no launcher ran here; give --run with the folder of a launch", run.display());
    keep::read_status(run).with_context(hint)
}

/// Asks the launcher of a run folder.
fn ask(run: &Path, question: &Ask) -> Result<Reply> {
    let (status, lives) = look(run)?;
    ensure!(
        lives,
        "{}: no launcher runs ({} since {}); start one with `chrysalis launch` or `systemctl start chrysalis@NAME`",
        run.display(),
        status.step,
        evidence::show_time(status.since)
    );
    Ok(keep::ask(&status.control, question)?)
}
