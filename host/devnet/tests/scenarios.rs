//! What people do to the contracts, on the local chain; and the same on TON's official emulator, where it is at hand.

mod common;
mod scenario;

use common::start;
use scenario::{play, scenarios};
use std::path::{Path, PathBuf};
use std::process::Command;
use ton::forms::{Bag, Faults};
use ton::{Address, HashBytes, Ledger};

#[tokio::test]
async fn every_scenario_ends_as_it_is_written_here_and_on_the_official_emulator() {
    let mut played = Vec::new();
    for scenario in scenarios() {
        played.push(play(&scenario, Faults::default()).await);
    }
    let transcript = serde_json::json!({ "config": config().await, "scenarios": played });
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("parity.json");
    std::fs::write(&file, transcript.to_string()).expect("a transcript");
    let Some((node, modules)) = emulator() else {
        eprintln!(
            "SKIPPED: the official emulator is not at hand; run `npm ci` in ci/parity, or set CHRYSALIS_NODE and \
             CHRYSALIS_NODE_MODULES"
        );
        return;
    };
    let player = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/parity/play.mjs");
    let output =
        Command::new(node).arg(player).arg(&file).env("NODE_MODULES", modules).output().expect("node runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    eprint!("{said}");
}

#[tokio::test]
async fn every_scenario_ends_the_same_over_doubled_delayed_and_shuffled_messages() {
    for (seed, scenario) in (1..).zip(scenarios()) {
        play(
            &scenario,
            Faults { duplicate_externals: 2, delay_blocks: 2, reorder: true, seed, ..Faults::default() },
        )
        .await;
    }
}

/// The chain's configuration, proven, as the emulator takes it.
async fn config() -> Bag {
    let local = start(0).await;
    let anybody = Address::new(0, HashBytes::ZERO);
    let account = local.client.account(&anybody).await.expect("a proven account");
    Bag(account.config().as_dict().root().clone().expect("parameters"))
}

/// Node and the emulator's modules, where both are there.
fn emulator() -> Option<(PathBuf, PathBuf)> {
    let named = |what: &str| std::env::var_os(what).map(PathBuf::from);
    let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/parity/node_modules");
    let modules = named("CHRYSALIS_NODE_MODULES").unwrap_or_else(here);
    let node = named("CHRYSALIS_NODE").unwrap_or_else(|| "node".into());
    let runs = Command::new(&node).arg("--version").output().is_ok_and(|output| output.status.success());
    (runs && modules.join("@ton/sandbox/package.json").is_file()).then_some((node, modules))
}
