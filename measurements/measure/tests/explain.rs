//! Explanations of evidence from real machines, kept outside the repository (see `vectors`).

mod support;

use measure::Register;
use measure::Shape;
use measure::explain::{Artifacts, Bounds, Evidence, Expected, Explanation, File, Form, Verdict, explain};
use serde_json::{Value, json};
use std::path::Path;
use support::vectors;

/// Tables are slow to hash in tests that aren't optimised.
const BOUNDS: Bounds = Bounds { tables: 40, candidates: 40_000 };

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Explains against the firmware and captured tables among the vectors.
fn explained(folder: &Path, evidence: &[u8], shape: Option<Shape>) -> Explanation {
    let firmware = bytes(&folder.join("firmware/OVMF_2025.02-3ubuntu2.fd"));
    let tables = bytes(&folder.join("acpi/runtime_capture_8vcpu_16g/acpi_tables.bin"));
    let files = [
        File { path: "OVMF.fd", bytes: &firmware },
        File { path: "captured/acpi_tables.bin", bytes: &tables },
    ];
    let expected = Expected { shape, ..Expected::default() };
    let evidence = Evidence::parse(evidence).unwrap();
    explain(&evidence, &Artifacts::gather(&files, "vectors"), &expected, BOUNDS)
}

fn quoted(folder: &Path, quote: &str, log: Option<&str>) -> Value {
    let quote = hex::encode(bytes(&folder.join(format!("quotes/{quote}.bin"))));
    let log = log.map(|log| hex::encode(bytes(&folder.join(format!("eventlogs/{log}.ccel")))));
    json!({ "quote": quote, "eventlog": log })
}

#[test]
fn a_real_td_is_named_although_another_shape_was_expected() {
    let Some(folder) = vectors() else { return };
    let evidence = quoted(&folder, "shape_8vcpu_16g_v4", None).to_string();
    for (shape, vcpus, memory) in [
        (Shape::new(4, 16384), "8 vCPUs (expected 4 vCPUs)", "16 GiB"),
        (Shape::new(8, 32768), "8 vCPUs", "16 GiB (expected 32 GiB)"),
        (Shape::new(31, 8192), "8 vCPUs (expected 31 vCPUs)", "16 GiB (expected 8 GiB)"),
    ] {
        let explanation = explained(&folder, evidence.as_bytes(), Some(shape));
        let rtmr0 = &explanation.registers[1];
        let facts: Vec<_> = rtmr0.facts.iter().map(ToString::to_string).collect();
        assert_eq!(rtmr0.verdict, Verdict::Explained, "{}", explanation.table(false));
        assert!(facts.contains(&vcpus.to_owned()) && facts.contains(&memory.to_owned()), "{facts:?}");
        assert_eq!(explanation.registers[0].verdict, Verdict::Equal);
        // No kernel is among the artifacts.
        assert_eq!(explanation.registers[2].verdict, Verdict::Unexplained);
        assert!(!explanation.equal);
    }
    let right = explained(&folder, evidence.as_bytes(), Some(Shape::new(8, 16384)));
    assert_eq!(right.registers[1].verdict, Verdict::Equal, "{}", right.table(false));
}

#[test]
fn evidence_as_dstack_writes_it_is_read_and_its_memory_named() {
    let Some(folder) = vectors() else { return };
    let evidence = bytes(&folder.join("quotes/dstack_quote_and_eventlog.json"));
    let parsed = Evidence::parse(&evidence).unwrap();
    assert_eq!((parsed.claims.vcpus, parsed.claims.memory_mib), (Some(16), Some(65536)));
    let explanation = explained(&folder, &evidence, Some(Shape::new(16, 32768)));
    let log = explanation.log.as_ref().unwrap();
    assert_eq!((log.form, log.replays), (Form::Json, true), "{}", explanation.table(false));
    let memory: Vec<_> = explanation.registers[1].facts.iter().map(ToString::to_string).collect();
    assert!(memory.contains(&"64 GiB (expected 32 GiB)".to_owned()), "{}", explanation.table(false));
    assert!(explanation.headline.contains("64 GiB (expected 32 GiB)"), "{}", explanation.headline);
    let runtime = &explanation.registers[4];
    assert_eq!(runtime.verdict, Verdict::Runtime);
    let app = runtime.events.iter().find(|event| event.name == "app-id").unwrap();
    assert_eq!(app.why, ["the digest is that of name and payload"]);
}

#[test]
fn a_real_log_is_held_against_its_own_quote_and_another() {
    let Some(folder) = vectors() else { return };
    let own = explained(&folder, quoted(&folder, "cos113_v4", Some("cos113")).to_string().as_bytes(), None);
    assert!(own.log.as_ref().unwrap().replays, "{}", own.table(false));
    assert!(!own.headline.contains("does not add up") && !own.equal);
    let names: Vec<_> = own.registers[2].events.iter().map(|event| event.name.clone()).collect();
    assert!(names.iter().any(|name| name.contains("EV_EFI_GPT_EVENT")), "{names:?}");
    let other =
        explained(&folder, quoted(&folder, "cos113_v4", Some("trustee_gcp")).to_string().as_bytes(), None);
    assert!(other.headline.starts_with("The event log does not add up"), "{}", other.headline);
}

#[test]
fn what_a_tool_predicts_for_another_machine_is_told_from_hardware() {
    let Some(folder) = vectors() else { return };
    let known: Value =
        serde_json::from_slice(&bytes(&folder.join("acpi/tool_canonical_defaults/expected.json"))).unwrap();
    let explanation = explained(&folder, known.to_string().as_bytes(), None);
    assert_eq!(explanation.registers[0].verdict, Verdict::Equal);
    assert_eq!(explanation.registers[1].register, Register::Rtmr0);
    assert_eq!(explanation.registers[2].verdict, Verdict::NotShown);
}
