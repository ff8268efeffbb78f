//! What a host could change, and where it is stopped: in the machine itself, or at the verifier.

use anyhow::{Context, Result};
use builder::artifacts::names;
use client::Client;
use e2e::{DEADLINE, Stage, alone, boot, failed, now, runtime, tamper};
use evidence::{CheckName, Verdict};
use launcher::settings::Settings;
use launcher::{Failure, LaunchError};
use measure::explain::{self, Artifacts, Bounds, Expected, File};
use protocol::evidence::Evidence;
use std::path::{Path, PathBuf};

/// A private copy of an artifact, to be changed.
fn copy(from: &Path, scratch: &Path) -> Result<PathBuf> {
    let to = scratch.join(from.file_name().context("a file name")?);
    std::fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(to)
}

/// Boots changed settings, holds the machine against the unchanged image's reference values, and returns the verdict with
/// the evidence that it was refused for.
fn refusal_of(stage: &Stage, settings: &Settings, unchanged: &Settings) -> Result<(Verdict, Evidence)> {
    let foretold = launcher::foretell::foretell(unchanged, &|path| path.to_owned())?;
    let trust = stage.trust("demo", foretold.reference(&unchanged.static_config))?;
    let guest = boot(settings)?;
    guest.wait_serving(DEADLINE)?;
    let (endpoint, mut seen) = (guest.endpoint().to_string(), None);
    let connecting =
        Client::connect_showing(&endpoint, &trust, now(), |evidence| seen = Some(evidence.clone()));
    let error = runtime().block_on(connecting).err().context("accepted, expected a refusal")?;
    let verdict = error.verdict().cloned().with_context(|| format!("no verdict: {error}"))?;
    Ok((verdict, seen.context("no evidence came")?))
}

/// What `measure explain` says of a machine, from the unchanged image's files and shape.
fn explained(evidence: &Evidence, unchanged: &Settings) -> Result<String> {
    let saved = serde_json::json!({
        "quote": hex::encode(&evidence.quote),
        "log_format": "tpm",
        "event_log": hex::encode(&evidence.event_log.bytes),
        "runtime": hex::encode(&evidence.runtime),
    });
    let vars = unchanged.firmware.vars.as_ref().context("an emulated machine has a variable store")?;
    let paths = [&unchanged.firmware.code, vars, &unchanged.image.uki];
    let read =
        paths.map(|path| std::fs::read(path).with_context(|| format!("{}: unreadable", path.display())));
    let [code, vars, uki] = read;
    let (code, vars, uki) = (code?, vars?, uki?);
    let files = [("code.fd", &code), ("vars.fd", &vars), ("uki.efi", &uki)];
    let artifacts = Artifacts::gather(&files.map(|(path, bytes)| File { path, bytes }), "unchanged");
    let expected = Expected { shape: Some(unchanged.shape()), boot: Some(unchanged.boot), vmm: None };
    let evidence = explain::Evidence::parse(&serde_json::to_vec(&saved)?)?;
    Ok(explain::explain(&evidence, &artifacts, &expected, Bounds::default()).table(false))
}

/// Boots, and returns how the machine failed.
fn failure(settings: &Settings) -> Failure {
    let error = boot(settings)
        .and_then(|guest| guest.wait_serving(DEADLINE))
        .expect_err("the machine must not serve");
    match error {
        LaunchError::Failed { failure, .. } => failure,
        other => panic!("expected a failed guest, found {other}"),
    }
}

#[test]
fn command_line_tampered_is_refused() {
    let _alone = alone();
    let stage = Stage::open().unwrap();
    let scratch = stage.scratch("cmdline").unwrap();
    let unchanged = stage.fragment(&scratch).settle().unwrap();
    let mut settings = unchanged.clone();
    settings.image.uki = copy(&unchanged.image.uki, &scratch).unwrap();
    tamper::replace_in_section(&settings.image.uki, ".cmdline", b"panic=-1", b"panic=-2").unwrap();
    let (verdict, evidence) = refusal_of(&stage, &settings, &unchanged).unwrap();
    assert_eq!(failed(&verdict), [CheckName::Registers], "{verdict}");
    let why = explained(&evidence, &unchanged).unwrap();
    assert!(why.contains("panic=-1") && why.contains("panic=-2"), "{why}");
}

#[test]
fn uki_section_tampered_is_refused() {
    let _alone = alone();
    let stage = Stage::open().unwrap();
    let scratch = stage.scratch("section").unwrap();
    let unchanged = stage.fragment(&scratch).settle().unwrap();
    let mut settings = unchanged.clone();
    settings.image.uki = copy(&unchanged.image.uki, &scratch).unwrap();
    let bytes = std::fs::read(&settings.image.uki).unwrap();
    let osrel = tamper::section_range(&bytes, ".osrel").unwrap();
    tamper::flip_bit(&settings.image.uki, osrel.start as u64).unwrap();
    let (verdict, evidence) = refusal_of(&stage, &settings, &unchanged).unwrap();
    assert_eq!(failed(&verdict), [CheckName::Registers], "{verdict}");
    let why = explained(&evidence, &unchanged).unwrap();
    assert!(why.contains(".osrel"), "{why}");
}

#[test]
fn one_flipped_bit_in_the_root_stops_the_machine() {
    let _alone = alone();
    let stage = Stage::open().unwrap();
    let scratch = stage.scratch("root-bit").unwrap();
    let mut settings = stage.fragment(&scratch).settle().unwrap();
    let disk = copy(settings.image.disk.as_deref().unwrap(), &scratch).unwrap();
    let offset = tamper::super_block(&stage.image().join(names::ROOT), &disk).unwrap();
    tamper::flip_bit(&disk, offset).unwrap();
    settings.image.disk = Some(disk);
    let failure = failure(&settings).to_string();
    assert!(failure.contains("verity") || failure.contains("panic"), "{failure}");
}

#[test]
fn another_model_disk_is_refused() {
    let _alone = alone();
    let stage = Stage::open().unwrap();
    let scratch = stage.scratch("model-disk").unwrap();
    let mut settings = stage.fragment(&scratch).settle().unwrap();
    let disk = copy(&settings.models[0].image, &scratch).unwrap();
    // Another disk of the same size: its hash tree, and so its root, differ.
    let tree = settings.models[0].pin.data_blocks * 4096 + 4096;
    tamper::flip_bit(&disk, tree).unwrap();
    settings.models[0].image = disk;
    let Failure::Guest { step, reason } = failure(&settings) else { panic!("the guest must say why") };
    assert_eq!(step, "model", "{reason}");
    assert!(reason.contains(&settings.models[0].pin.root), "{reason}");
}

#[test]
fn a_wrong_model_hash_in_the_configuration_is_refused() {
    let _alone = alone();
    let stage = Stage::open().unwrap();
    let scratch = stage.scratch("model-hash").unwrap();
    let mut settings = stage.fragment(&scratch).settle().unwrap();
    let text = String::from_utf8(settings.static_config.clone()).unwrap();
    let right = settings.models[0].pin.root.clone();
    let wrong = "0".repeat(64);
    assert_eq!(text.matches(&right).count(), 1);
    settings.static_config = text.replace(&right, &wrong).into_bytes();
    let Failure::Guest { step, reason } = failure(&settings) else { panic!("the guest must say why") };
    assert_eq!(step, "model", "{reason}");
    assert!(reason.contains(&wrong) && reason.contains(&right), "{reason}");
}
