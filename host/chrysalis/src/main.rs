//! `chrysalis`: the one command-line front door. A routing table; each subcommand is one file with `Args` and `run`.
//!
//! Exit codes, the same everywhere: 0 fine, 1 a mismatch or a refusal, 2 bad input or a failure of the machine.

mod ask;
#[cfg(test)]
mod book;
mod chain_args;
mod chat;
mod connect;
mod doctor;
mod eventlog;
mod evidence_bundle;
mod evidence_cmd;
mod evidence_collateral;
mod evidence_gpu;
mod evidence_verify;
mod follow;
mod gateway;
mod gpu;
mod gpu_trust;
mod image;
mod input;
mod launch;
mod machine_cmd;
mod measure_cmd;
mod model;
mod money;
mod online;
mod output;
mod platform;
mod provenance;
mod published;
mod quote;
mod receipt;
mod release_cmd;
mod reproduce;
mod status;
mod trust;
mod tunnel;
mod wanted;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "chrysalis", version, about = "Build, measure, launch and verify confidential AI machines")]
struct Args {
    /// Print facts as JSON on standard output; progress stays on standard error.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the guest image, prove that two builds are equal, move the package lock.
    #[command(subcommand)]
    Image(image::Command),
    /// Turn a model folder into a disk with a root hash.
    #[command(subcommand)]
    Model(model::Command),
    /// Foretell measurements, read event logs, compare the two.
    #[command(subcommand)]
    Measure(measure_cmd::Command),
    /// Appraise recorded evidence at a stated time.
    #[command(subcommand)]
    Evidence(evidence_cmd::Command),
    /// Make, sign, publish, revoke and verify what the world pins.
    #[command(subcommand)]
    Release(release_cmd::Command),
    /// Rebuild a release from its source kit in a clean root, compare everything, and state that it is the same.
    Reproduce(reproduce::Args),
    /// Say which package or crate put a file into the image, and why.
    Provenance(provenance::Args),
    /// Say what this host lacks for confidential guests: what was seen, and what to do.
    Doctor(doctor::Args),
    /// Read and set the modes of GPUs and NVSwitches, hand them to guests and take them back.
    #[command(subcommand)]
    Gpu(gpu::Command),
    /// Boot an image, keep the machine, and report its progress.
    Launch(Box<launch::Args>),
    /// Look after the machines of this host: status, logs, stop, upgrade, service.
    #[command(subcommand)]
    Machine(machine_cmd::Command),
    /// Connect to a live peer and print the whole verdict on it.
    #[command(visible_alias = "verify")]
    Connect(connect::Args),
    /// Put an attested channel between a program and a TCP service.
    #[command(subcommand)]
    Tunnel(tunnel::Command),
    /// Make a wallet's key, and show what it holds.
    #[command(subcommand)]
    Wallet(money::wallet::Command),
    /// Deploy and change the registry of prices and proxies.
    #[command(subcommand)]
    Root(money::root::Command),
    /// Open a proxy's pool, register its sessions, collect what clients owe.
    #[command(subcommand)]
    Pool(money::pool::Command),
    /// Open a client's deposit for a pool, top it up, close it.
    #[command(subcommand)]
    Vault(money::vault::Command),
    /// Show what a worker earned, and have it paid.
    #[command(subcommand)]
    Worker(money::worker::Command),
    /// Verify a running worker, then ask it for embeddings.
    #[command(visible_alias = "ask")]
    Embed(ask::Args),
    /// Verify a running worker, then ask it one thing and print its answer.
    Chat(chat::Args),
    /// Serve OpenAI's API on loopback, answered by attested proxies and paid from a vault.
    Gateway(gateway::Args),
    /// Check and list signed receipts.
    #[command(subcommand)]
    Receipt(receipt::Command),
    /// Ask all proxies of the root's book for price and capacity.
    Quote(quote::Args),
    /// Say how a gateway, a proxy or a worker stands.
    Status(status::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let json = args.json;
    let outcome = match args.command {
        Command::Image(command) => image::run(command, json),
        Command::Model(command) => model::run(command, json),
        Command::Measure(command) => measure_cmd::run(command, json),
        Command::Evidence(command) => evidence_cmd::run(command, json),
        Command::Release(command) => release_cmd::run(command, json),
        Command::Reproduce(args) => reproduce::run(&args, json),
        Command::Provenance(args) => provenance::run(&args, json),
        Command::Doctor(args) => doctor::run(args, json),
        Command::Gpu(command) => gpu::run(command, json),
        Command::Launch(args) => launch::run(*args, json),
        Command::Machine(command) => machine_cmd::run(command, json),
        Command::Connect(args) => connect::run(args, json),
        Command::Tunnel(command) => tunnel::run(command, json),
        Command::Wallet(command) => money::wallet::run(command, json),
        Command::Root(command) => money::root::run(command, json),
        Command::Pool(command) => money::pool::run(command, json),
        Command::Vault(command) => money::vault::run(command, json),
        Command::Worker(command) => money::worker::run(command, json),
        Command::Embed(args) => ask::run(args, json),
        Command::Chat(args) => chat::run(args, json),
        Command::Gateway(args) => gateway::run(args, json),
        Command::Receipt(command) => receipt::run(command, json),
        Command::Quote(args) => quote::run(args, json),
        Command::Status(args) => status::run(args, json),
    };
    output::exit_code(outcome, json)
}
