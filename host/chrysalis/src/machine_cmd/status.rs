//! `chrysalis machine status`.

use super::{ask, look};
use crate::output::{Outcome, facts};
use anyhow::Result;
use launcher::State;
use launcher::keep::{Ask, Reply, Status, Step};
use protocol::control::Service;
use serde_json::json;
use std::path::PathBuf;

/// Options of `machine status`.
#[derive(clap::Args)]
pub struct Args {
    /// Run folder of `chrysalis launch`.
    #[arg(long, default_value = "out/run")]
    run: PathBuf,
}

/// Prints. Exit code 1 unless the machine serves.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let (written, mut lives) = look(&args.run)?;
    let status = match lives.then(|| ask(&args.run, &Ask::Status)) {
        Some(Ok(Reply::Status(status))) => *status,
        // It may have ended since.
        Some(_) => {
            lives = false;
            written
        }
        None => written,
    };
    facts(json, &json!({ "running": lives, "status": status }), || human(&status, lives))?;
    let serves = lives && status.step == Step::Machine(State::Serving);
    Ok(if serves { Outcome::Fine } else { Outcome::Mismatch })
}

fn human(status: &Status, lives: bool) -> String {
    let launcher = if lives { format!("launcher {}", status.pid) } else { "NO launcher runs".into() };
    let mut text = format!(
        "{} since {}, {launcher}\nimage {}, started {} time(s)\n",
        status.step,
        evidence::show_time(status.since),
        status.image.display(),
        status.starts
    );
    if let Some(endpoint) = status.endpoint.filter(|_| lives) {
        text += &format!("serves on {endpoint}\n");
    }
    if status.quotes_missing {
        text += "the quote service does NOT answer: nobody new can verify this machine (`systemctl restart qgsd`)\n";
    }
    if let Some(failure) = &status.last_failure {
        text += &format!("last failure: {failure}\n");
    }
    let Some(health) = &status.health else { return text };
    let daemon = match health.daemon {
        Service::Running => "running",
        Service::Draining => "draining",
        Service::Gone => "GONE",
    };
    let attestation = match (health.attestation.sealed, health.attestation.extended) {
        (true, true) => "sealed in RTMR3",
        (true, false) => "sealed, RTMR3 not extended",
        (false, _) => "NOT sealed",
    };
    let simulated = if health.attestation.simulated { ", SIMULATED platform allowed" } else { "" };
    text += &format!(
        "guest, {} s ago: daemon {daemon}, events {attestation}{simulated}\n  memory {} of {} MiB free, load {:.2}, {} GPU(s)\n",
        status.health_age_ms.unwrap_or(0) / 1000,
        health.available_kib / 1024,
        health.memory_kib / 1024,
        f64::from(health.load_percent) / 100.0,
        health.gpus.len()
    );
    for (i, gpu) in health.gpus.iter().enumerate() {
        let ready = if gpu.ready { "ready" } else { "NOT ready" };
        let heat = gpu.celsius.map_or(String::new(), |c| format!(", {c} C"));
        let used = gpu.used_mib.map_or(String::new(), |used| format!(", {used} MiB in use"));
        text += &format!("  GPU {i}: {ready}{heat}{used}\n");
    }
    text
}
