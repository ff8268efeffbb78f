//! Evidence with one defect each, written to a folder with an index, and a matrix of who catches what.
//!
//! ```text
//! simulator::fault --vectors.rs--> DIR/<name>/{quote.bin, collateral.json, ...}, DIR/index.json
//!                  \-verifiers.rs-> ours: failing checks; dcap-qvl alone: refused, another status, or accepted
//! simulator::gpu ---devices.rs---> DIR/gpu-<name>/{evidence.json, driver-rim-0.xml, ...}; ours: failing checks
//! ```
//! Keys are made anew in each run, so no two runs write the same bytes; names and expectations stay. All evidence is of a
//! SIMULATED platform. The exit code is 1 if our verifier does not fail exactly the checks that a defect should fail.

mod devices;
mod matrix;
mod vectors;
mod verifiers;

use anyhow::{Context, Result};
use clap::Parser;
use matrix::Row;
use simulator::fault::Fault;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "conformance", about = "Write the fault-injected vectors and show who catches what")]
struct Args {
    /// Folder to write; made where it is missing.
    dir: PathBuf,
    /// Print the index instead of the matrix.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether every row is as it should be.
fn run(args: &Args) -> Result<bool> {
    let mut rows = Vec::new();
    for fault in Fault::all().chain(Fault::harmless()) {
        let case = fault.case().with_context(|| format!("{fault:?}"))?;
        vectors::write(&args.dir.join(fault.name()), &case)?;
        rows.push(Row {
            name: fault.name(),
            at: case.at,
            expected: fault.expected().iter().map(|check| check.as_str()).collect(),
            ours: verifiers::ours(&case)?,
            dcap_qvl: verifiers::library(&case),
        });
    }
    rows.extend(devices::rows(&args.dir)?);
    let index = matrix::index(&rows);
    let text = serde_json::to_string_pretty(&index)?;
    let path = args.dir.join("index.json");
    std::fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", if args.json { text } else { matrix::table(&rows) });
    Ok(rows.iter().all(Row::is_right))
}
