//! What travels between host, guest and peers.

use crate::{MEMORY, Target};
use measure::runtime::RuntimeRecord;
use measure::wire::{Evidence, SimulatedPlatform};
use protocol::channel::{
    ApplicationKey, ApplicationKeys, Challenge, Control, GpuDemand, GpuShown, MAX_DIFFICULTY, Part, Refuse,
    Shown,
};
use protocol::config::{RuntimeConfig, StaticConfig};
use protocol::handoff::{File, Handoff};
use protocol::progress::{Line, Stage};
use simulator::fault::Fault;
use verity::superblock::{self, Superblock};

/// Evidence as a peer sends it, and the simulated platform's disk.
pub const EVIDENCE: Target =
    Target { name: "wire_evidence", run: run_evidence, seeds: seeds_evidence, memory: MEMORY };
/// The record of a guest's own events.
pub const RUNTIME: Target =
    Target { name: "runtime_record", run: run_runtime, seeds: seeds_runtime, memory: MEMORY };
/// The challenge that opens an attested channel.
pub const CHANNEL: Target =
    Target { name: "channel", run: run_channel, seeds: seeds_channel, memory: MEMORY };
/// The short messages of an attested channel.
pub const CONTROL: Target =
    Target { name: "channel_control", run: run_control, seeds: seeds_control, memory: MEMORY };
/// Evidence as it travels on an attested channel.
pub const SHOWN: Target =
    Target { name: "channel_evidence", run: run_shown, seeds: seeds_shown, memory: MEMORY };
/// The disk that the host hands to the guest.
pub const HANDOFF: Target =
    Target { name: "handoff", run: run_handoff, seeds: seeds_handoff, memory: MEMORY };
/// Static and runtime configuration.
pub const CONFIG: Target = Target { name: "config", run: run_config, seeds: seeds_config, memory: MEMORY };
/// Lines of the guest's progress port, read by the host.
pub const PROGRESS: Target =
    Target { name: "progress", run: run_progress, seeds: seeds_progress, memory: MEMORY };
/// Superblocks of dm-verity trees.
pub const SUPERBLOCK: Target =
    Target { name: "superblock", run: run_superblock, seeds: seeds_superblock, memory: MEMORY };

const STATIC: &str = "schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n[[models]]\nname = \"m\"\ndata_blocks = 3\nroot = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\n";

fn run_evidence(bytes: &[u8]) -> bool {
    let platform = SimulatedPlatform::from_disk(bytes).is_ok();
    // What is read is written back as it came: there is one encoding.
    let evidence = Evidence::from_bytes(bytes);
    if let Ok(evidence) = &evidence {
        assert_eq!(evidence.to_bytes(), bytes, "evidence has two encodings");
    }
    platform || evidence.is_ok()
}

fn seeds_evidence() -> Vec<Vec<u8>> {
    let platform = SimulatedPlatform { identity: vec![5; 700], mrconfigid: [6; 48] };
    let evidence = Fault::None.case().map(|case| case.evidence.to_bytes());
    evidence.into_iter().chain([platform.to_disk()]).collect()
}

fn run_runtime(bytes: &[u8]) -> bool {
    let record = RuntimeRecord::from_bytes(bytes);
    if let Ok(record) = &record {
        assert_eq!(record.to_bytes(), bytes, "a runtime record has two encodings");
    }
    record.is_ok()
}

fn seeds_runtime() -> Vec<Vec<u8>> {
    Fault::None.case().map(|case| case.evidence.runtime).into_iter().collect()
}

fn run_channel(bytes: &[u8]) -> bool {
    let challenge = Challenge::from_bytes(bytes);
    if let Ok(challenge) = &challenge {
        assert_eq!(challenge.to_bytes(), bytes, "a challenge has two encodings");
    }
    challenge.is_ok()
}

fn seeds_channel() -> Vec<Vec<u8>> {
    let bare = Challenge::new([3; 32], Part::Client, Part::Worker);
    let full = Challenge {
        release: Some([4; 32]),
        identity: Some(key("session")),
        gpu: GpuDemand::Cached { max_age_s: 60 },
        solution: Some(5),
        ..Challenge::new([3; 32], Part::Proxy, Part::Worker)
    };
    vec![bare.to_bytes(), full.to_bytes()]
}

fn key(name: &str) -> ApplicationKey {
    ApplicationKey { name: name.into(), key: vec![6; 32] }
}

fn run_control(bytes: &[u8]) -> bool {
    let control = Control::from_bytes(bytes);
    if let Ok(control) = control {
        assert_eq!(control.to_bytes(), bytes, "a short message has two encodings");
    }
    control.is_ok()
}

fn seeds_control() -> Vec<Vec<u8>> {
    let retry = Control::Retry { difficulty: MAX_DIFFICULTY };
    [retry, Control::Refuse(Refuse::Busy), Control::Accepted].map(Control::to_bytes).into()
}

fn run_shown(bytes: &[u8]) -> bool {
    let shown = Shown::from_bytes(bytes);
    if let Ok(shown) = &shown {
        assert_eq!(shown.to_bytes(), bytes, "evidence on a channel has two encodings");
    }
    shown.is_ok()
}

fn seeds_shown() -> Vec<Vec<u8>> {
    let Ok(case) = Fault::None.case() else { return Vec::new() };
    let keys = ApplicationKeys::new(vec![key("billing"), key("session")]).unwrap_or_default();
    let gpu = GpuShown { envelope: b"[]".to_vec(), nonce: [7; 32], age_s: 8 };
    let batch = protocol::batch::batch(&[[1; 64], [2; 64], [3; 64]]);
    let batch = batch.and_then(|(_, mut proofs)| proofs.pop()).unwrap_or_default();
    let bare =
        Shown { machine: case.evidence, keys: ApplicationKeys::default(), gpu: None, batch: batch.clone() };
    let full = Shown { keys, gpu: Some(gpu), ..bare.clone() };
    vec![bare.to_bytes(), full.to_bytes()]
}

fn run_handoff(bytes: &[u8]) -> bool {
    Handoff::from_disk(bytes).is_ok()
}

fn seeds_handoff() -> Vec<Vec<u8>> {
    let runtime = b"schema = 1\n".to_vec();
    let files = vec![File { name: "collateral.json".into(), bytes: b"{}".to_vec() }];
    let bare = Handoff { static_config: STATIC.as_bytes().to_vec(), runtime_config: runtime, files: vec![] };
    vec![Handoff { files, ..bare.clone() }.to_disk(), bare.to_disk()]
}

fn run_config(bytes: &[u8]) -> bool {
    let runtime = RuntimeConfig::parse(bytes).is_ok();
    StaticConfig::parse(bytes).is_ok() || runtime
}

fn seeds_config() -> Vec<Vec<u8>> {
    vec![STATIC.as_bytes().to_vec()]
}

fn run_progress(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|line| Line::parse(line).is_some())
}

fn seeds_progress() -> Vec<Vec<u8>> {
    let line = Line { uptime_ms: 10_600, stage: Stage::Serving { port: 8443 } };
    vec![line.to_line().trim_end().as_bytes().to_vec()]
}

fn run_superblock(bytes: &[u8]) -> bool {
    let Some(bytes) = bytes.first_chunk::<{ superblock::SIZE }>() else { return false };
    Superblock::parse("fuzz", bytes).is_ok()
}

fn seeds_superblock() -> Vec<Vec<u8>> {
    let mut bytes = vec![0; superblock::SIZE];
    bytes[..8].copy_from_slice(b"verity\0\0");
    for (at, value) in [(8, 1u32), (12, 1), (64, 4096), (68, 4096), (72, 3)] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes[32..38].copy_from_slice(b"sha256");
    vec![bytes]
}
