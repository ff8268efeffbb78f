//! `chrysalis gpu`: which mode GPUs and switches are in, and all of them into a guest's and back.

use crate::gpu_trust;
use crate::output::{Outcome, facts, line};
use anyhow::{Context, Result, anyhow};
use launcher::gpu::chip::{Kind, Mode};
use launcher::gpu::{Admin, Board, Device, Done, Patience, RealSysfs, STATE, Source, Tool, boot_id, devices};
use measure::Digest256;
use serde_json::json;
use std::fmt::Write;
use std::path::PathBuf;

/// Subcommands of `gpu`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say which mode each GPU and switch is in, and who holds it.
    Status(StatusArgs),
    /// Put all GPUs and switches into a mode and hand them to vfio-pci; if a step fails, all go back.
    Apply(ApplyArgs),
    /// Give all GPUs and switches back as they were before the first `apply`.
    Restore(RestoreArgs),
    /// Fetch what GPU evidence is held against into a folder, for guests to be handed.
    Trust(gpu_trust::Args),
}

/// Options of `gpu status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Folder of NVIDIA's gpu-admin-tools: print what to pin it with.
    #[arg(long)]
    tool: Option<PathBuf>,
}

/// Which mode guests get.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum GuestMode {
    /// No confidential computing.
    Off,
    /// Confidential computing, each GPU by itself.
    On,
    /// A whole board, GPUs and switches, for one guest.
    ProtectedPcie,
}

/// NVIDIA's admin tool, and where the state is.
#[derive(Debug, clap::Args)]
struct BoardArgs {
    /// Folder of NVIDIA's gpu-admin-tools, which stores modes.
    #[arg(long, requires = "tool_pin")]
    tool: Option<PathBuf>,
    /// SHA-256 of the tool's files, as `gpu status --tool` prints it.
    #[arg(long)]
    tool_pin: Option<String>,
    /// Where it is kept how the devices were before.
    #[arg(long, default_value = STATE)]
    state: PathBuf,
    /// Show the steps and do none.
    #[arg(long)]
    dry_run: bool,
}

/// Options of `gpu apply`.
#[derive(Debug, clap::Args)]
pub struct ApplyArgs {
    /// The mode.
    #[arg(long)]
    mode: GuestMode,
    #[command(flatten)]
    board: BoardArgs,
}

/// Options of `gpu restore`.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    board: BoardArgs,
}

/// Runs a subcommand.
pub fn run(command: Command, json: bool) -> Result<Outcome> {
    match command {
        Command::Status(args) => status(&args, json),
        Command::Trust(args) => gpu_trust::run(&args, json),
        Command::Apply(ApplyArgs { mode, board }) => {
            let mode = match mode {
                GuestMode::Off => Mode::Off,
                GuestMode::On => Mode::On,
                GuestMode::ProtectedPcie => Mode::ProtectedPcie,
            };
            let (plan, change): (Action<'_>, Action<'_>) = (&|b| Ok(b.plan(mode)?), &|b| Ok(b.apply(mode)?));
            change_board(&board, json, plan, change)
        }
        Command::Restore(RestoreArgs { board }) => {
            let (plan, change): (Action<'_>, Action<'_>) =
                (&|b| Ok(b.plan_restore()?), &|b| Ok(b.restore()?));
            change_board(&board, json, plan, change)
        }
    }
}

type Action<'a> = &'a dyn Fn(&Board<'_>) -> Result<Done>;

fn status(args: &StatusArgs, json: bool) -> Result<Outcome> {
    let found = devices(&RealSysfs::default())?;
    let pin = args.tool.as_deref().map(Source::read).transpose()?.map(|source| source.pin().to_string());
    let list: Vec<_> = found.iter().map(facts_of).collect();
    facts(json, &json!({ "devices": list, "tool_pin": pin }), || text(&found, pin.as_deref()))?;
    Ok(Outcome::Fine)
}

fn name(device: &Device) -> &'static str {
    match device.kind {
        Some(Kind::Gpu(chip)) => chip.name,
        Some(Kind::OldGpu) => "GPU without confidential computing",
        Some(Kind::Switch) => "NVSwitch",
        None => "another function of the card",
    }
}

fn facts_of(device: &Device) -> serde_json::Value {
    let (mode, why) = match &device.mode {
        Some(Ok(mode)) => (Some(mode), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    json!({
        "address": device.address, "what": name(device), "driver": device.driver, "mode": mode, "mode_unknown": why,
        "driver_override": device.driver_override, "strangers_in_group": device.strangers,
    })
}

fn text(found: &[Device], pin: Option<&str>) -> String {
    let mut out = String::new();
    for device in found {
        let mode = match &device.mode {
            Some(Ok(mode)) => format!("mode {mode}"),
            Some(Err(why)) => format!("mode unknown: {why}"),
            None => "no mode".into(),
        };
        let driver = device.driver.as_deref().unwrap_or("no driver");
        // A string takes everything.
        let _ = writeln!(out, "{}  {}, {driver}, {mode}", device.address, name(device));
    }
    if found.is_empty() {
        out.push_str("no NVIDIA GPU or NVSwitch on the PCI bus\n");
    }
    if let Some(pin) = pin {
        let _ = writeln!(out, "tool pin {pin}");
    }
    out
}

/// Shows the steps, and unless it is a rehearsal takes them.
fn change_board(args: &BoardArgs, json: bool, plan: Action<'_>, change: Action<'_>) -> Result<Outcome> {
    let sysfs = RealSysfs::default();
    let tool = tool(args)?;
    let boot = boot_id().context("this boot has no identifier; mount /proc")?;
    let admin = tool.as_ref().map(|tool| tool as &dyn Admin);
    let board =
        Board { sysfs: &sysfs, admin, state: &args.state, boot: &boot, patience: Patience::default() };
    let Done { steps, warnings } = plan(&board)?;
    for warning in &warnings {
        eprintln!("  warning: {warning}");
    }
    if !steps.is_empty() {
        eprintln!("  note: not validated on hardware; tested on a fake PCI tree alone");
    }
    if !json {
        for step in &steps {
            line(&format!("  {step}"))?;
        }
        if steps.is_empty() {
            line("nothing to do")?;
        }
    }
    let done = if args.dry_run { Done { steps, warnings } } else { change(&board)? };
    let said = json!({ "done": !args.dry_run, "steps": done.steps, "warnings": done.warnings });
    let end = if args.dry_run { "nothing was changed" } else { "done" };
    facts(json, &said, || end.into())?;
    Ok(Outcome::Fine)
}

/// The pinned tool, unpacked beside the state; a rehearsal needs none.
fn tool(args: &BoardArgs) -> Result<Option<Tool>> {
    let (Some(dir), Some(pin), false) = (&args.tool, &args.tool_pin, args.dry_run) else { return Ok(None) };
    let pin: Digest256 =
        pin.parse().map_err(|_| anyhow!("--tool-pin {pin}: expected 64 hexadecimal digits"))?;
    Ok(Some(Tool::unpack(&Source::read(dir)?, &pin, &args.state.join("tool"))?))
}
