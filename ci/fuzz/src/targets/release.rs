//! What is published about releases: documents, statements, metadata, and a consumer's settings.

use crate::{MEMORY, Target};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use measure::Digest256;
use release::publish::Unsigned;
use release::samples::{self, Publication};
use release::{
    AcceptedReleases, Anchor, Document, Expiry, Measurements, ReleaseError, SigningKey, Statement, Trusted,
    name,
};
use std::sync::LazyLock;

/// What a rebuild determines.
pub const MEASUREMENTS: Target =
    Target { name: "release_measurements", run: run_measurements, seeds: seeds_measurements, memory: MEMORY };
/// What the publisher decides.
pub const DOCUMENT: Target =
    Target { name: "release_document", run: run_document, seeds: seeds_document, memory: MEMORY };
/// A rebuilder's envelope.
pub const STATEMENT: Target =
    Target { name: "release_statement", run: run_statement, seeds: seeds_statement, memory: MEMORY };
/// What a rebuilder signed, with a signature that is always right.
pub const PAYLOAD: Target =
    Target { name: "release_payload", run: run_payload, seeds: seeds_payload, memory: MEMORY };
/// A first root whose hash is always right.
pub const ROOT: Target = Target { name: "release_root", run: run_root, seeds: seeds_root, memory: MEMORY };
/// Targets with signatures that are always right, and the verdict over them.
pub const TARGETS: Target =
    Target { name: "release_targets", run: run_targets, seeds: seeds_targets, memory: MEMORY };
/// Settings of a consumer.
pub const ANCHOR: Target =
    Target { name: "release_settings", run: run_anchor, seeds: seeds_anchor, memory: MEMORY };

const NOW: u64 = 1_800_000_000;
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

static WORLD: LazyLock<Option<Publication>> = LazyLock::new(|| samples::publication(NOW, 3).ok());

/// Files of the sample whose path ends so.
fn files(end: &str) -> Vec<Vec<u8>> {
    let world = WORLD.iter().flat_map(|world| &world.files);
    world.filter(|(path, _)| path.ends_with(end)).map(|(_, bytes)| bytes.clone()).collect()
}

fn run_measurements(bytes: &[u8]) -> bool {
    let read = Measurements::parse("fuzz", bytes);
    if let Ok(read) = &read {
        let written = read.to_bytes().expect("what was read can be written");
        assert_eq!(written, bytes.strip_suffix(b"\n").unwrap_or(bytes), "measurements have two spellings");
    }
    read.is_ok()
}

fn seeds_measurements() -> Vec<Vec<u8>> {
    files(name::MEASUREMENTS)
}

fn run_document(bytes: &[u8]) -> bool {
    let read = Document::parse("fuzz", bytes);
    if let Ok(read) = &read {
        let written = read.to_bytes().expect("what was read can be written");
        assert_eq!(written, bytes.strip_suffix(b"\n").unwrap_or(bytes), "a release has two spellings");
    }
    read.is_ok()
}

fn seeds_document() -> Vec<Vec<u8>> {
    files(name::RELEASE)
}

fn run_statement(bytes: &[u8]) -> bool {
    let Some(world) = &*WORLD else { return false };
    Statement::verify("fuzz", bytes, &world.anchor.rebuilders).is_ok()
}

fn seeds_statement() -> Vec<Vec<u8>> {
    files(name::REBUILD)
}

fn run_payload(bytes: &[u8]) -> bool {
    let envelope = samples::key(5).map(|key| enveloped(bytes, &key));
    envelope.is_ok_and(|envelope| run_statement(&envelope))
}

/// The bytes as a rebuilder's payload (DSSE).
fn enveloped(payload: &[u8], key: &SigningKey) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    let sig = BASE64_STANDARD.encode(key.sign(&[head.as_bytes(), payload].concat()));
    let keyid = key.public().id().to_string();
    let envelope = serde_json::json!({
        "payload": BASE64_STANDARD.encode(payload),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{ "keyid": keyid, "sig": sig }],
    });
    envelope.to_string().into_bytes()
}

fn seeds_payload() -> Vec<Vec<u8>> {
    let payload = |bytes: &Vec<u8>| {
        let envelope: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        BASE64_STANDARD.decode(envelope["payload"].as_str()?).ok()
    };
    files(name::REBUILD).iter().filter_map(payload).collect()
}

fn run_root(bytes: &[u8]) -> bool {
    Trusted::new(Digest256::of(bytes), bytes).is_ok()
}

fn seeds_root() -> Vec<Vec<u8>> {
    files(".root.json")
}

fn run_targets(bytes: &[u8]) -> bool {
    WORLD.as_ref().is_some_and(|world| resealed(world.clone(), bytes).is_ok())
}

/// The publication with these bytes as its targets, signed anew by every role.
fn resealed(mut world: Publication, targets: &[u8]) -> Result<AcceptedReleases, ReleaseError> {
    let targets = signed(targets, 2)?;
    let refers = |bytes: &[u8]| serde_json::json!({"version": 1, "length": bytes.len(), "hashes": {"sha256": Digest256::of(bytes)}});
    let (snapshot, timestamp) = ("metadata/1.snapshot.json", "metadata/timestamp.json");
    let snapshot_bytes = signed(&referring(&world.files[snapshot], "targets.json", refers(&targets)), 3)?;
    let meta = refers(&snapshot_bytes);
    let timestamp_bytes = signed(&referring(&world.files[timestamp], "snapshot.json", meta), 4)?;
    world.files.insert("metadata/1.targets.json".into(), targets);
    world.files.insert(snapshot.into(), snapshot_bytes);
    world.files.insert(timestamp.into(), timestamp_bytes);
    let mut trusted = Trusted::new(world.anchor.root, &world.root)?;
    trusted.refresh(&mut world, NOW, Expiry::Enforce)?;
    let anchor = world.anchor.clone();
    AcceptedReleases::verify(&anchor, &trusted, &mut world, NOW)
}

fn signed(metadata: &[u8], key: u8) -> Result<Vec<u8>, ReleaseError> {
    let mut unsigned = Unsigned::parse("fuzz", metadata)?;
    unsigned.sign(&samples::key(key)?);
    unsigned.to_bytes()
}

/// Metadata that refer to something else.
fn referring(metadata: &[u8], to: &str, meta: serde_json::Value) -> Vec<u8> {
    let mut whole: serde_json::Value = serde_json::from_slice(metadata).unwrap_or_default();
    whole["signed"]["meta"][to] = meta;
    whole.to_string().into_bytes()
}

fn seeds_targets() -> Vec<Vec<u8>> {
    files(".targets.json")
}

fn run_anchor(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| Anchor::parse(text).is_ok())
}

fn seeds_anchor() -> Vec<Vec<u8>> {
    let Some(world) = &*WORLD else { return Vec::new() };
    let text = format!(
        "schema = 1\nroot = \"{}\"\nrebuilders = [\"{}\"]\nthreshold = 1\nnames = [\"worker\"]\nminimum = {{ worker = \"0.1.0\" }}\n\
         not-before = \"2026-11-21T00:00:00Z\"\nrefresh-seconds = 60\n",
        world.anchor.root, world.anchor.rebuilders[0]
    );
    vec![text.into_bytes()]
}
