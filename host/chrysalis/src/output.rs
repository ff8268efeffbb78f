//! How every subcommand prints facts and ends.

use anyhow::Result;
use serde::Serialize;
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
    if json {
        println!("{}", serde_json::to_string_pretty(value)?);
    } else {
        println!("{}", human().trim_end());
    }
    Ok(())
}

/// Turns the outcome of a subcommand into the exit code, printing an error with all its causes.
pub fn exit_code(outcome: Result<Outcome>, json: bool) -> ExitCode {
    match outcome {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Mismatch) => ExitCode::from(1),
        Err(error) => {
            if json {
                println!("{}", serde_json::json!({ "error": format!("{error:#}") }));
            }
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
