//! How every subcommand prints facts and ends.

use anyhow::{Context, Result};
use serde::Serialize;
use std::io::{ErrorKind, Write, stdout};
use std::process::ExitCode;

/// What a subcommand found, where it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Fine,
    /// Exit code 1: something differs, or a peer was refused.
    Mismatch,
}

/// Prints one JSON object, or the human text.
pub fn facts<T: Serialize>(json: bool, value: &T, human: impl FnOnce() -> String) -> Result<()> {
    line(&if json { serde_json::to_string_pretty(value)? } else { human().trim_end().to_owned() })
}

/// Prints a line. A reader that has seen enough (`| head`) is no fault.
pub fn line(text: &str) -> Result<()> {
    match writeln!(stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("can't write the result"),
        _ => Ok(()),
    }
}

/// Turns the outcome of a subcommand into the exit code, printing an error with all its causes.
pub fn exit_code(outcome: Result<Outcome>, json: bool) -> ExitCode {
    match outcome {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Mismatch) => ExitCode::from(1),
        Err(error) => {
            if json {
                // The exit code says it too, should nobody read this.
                let _ = line(&serde_json::json!({ "error": format!("{error:#}") }).to_string());
            }
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
