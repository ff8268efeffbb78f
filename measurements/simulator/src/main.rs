//! `chrysalis-simulator`: the program of the SIMULATED TDX platform. A routing table; one file a subcommand.
//!
//! It is in the debug image profile and in tests only. Everything that it prints says SIMULATED.

mod commands;

use clap::{Parser, Subcommand};
use commands::{pki, serve};

#[derive(Parser)]
#[command(name = "chrysalis-simulator", about = "A SIMULATED TDX platform: proves nothing about hardware")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the SIMULATED platform's trust root, collateral, policy and identity in a folder.
    Pki(pki::Args),
    /// In a guest: play configfs-tsm and sign SIMULATED quotes over the firmware's TPM log.
    Serve(serve::Args),
}

fn main() -> std::process::ExitCode {
    let result = match Args::parse().command {
        Command::Pki(args) => pki::run(&args),
        Command::Serve(args) => serve::run(&args),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("SIMULATED platform: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
