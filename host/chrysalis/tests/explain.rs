//! `chrysalis measure explain` as a person runs it: exit codes, JSON, and a page that hostile evidence can't get out of.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn explain(evidence: &Path, artifacts: &Path, more: &[&str]) -> Output {
    let text = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
    Command::new(env!("CARGO_BIN_EXE_chrysalis"))
        .args(["measure", "explain", "--evidence", &text(evidence), "--artifacts", &text(artifacts)])
        .args(more)
        .output()
        .expect("chrysalis starts")
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {output:?}"))
}

/// Folder with recorded evidence of real machines; `None` (and said so) where there is none.
fn vectors() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
    let dir = std::env::var_os("CHRYSALIS_VECTORS").map_or_else(beside, PathBuf::from);
    let there = dir.join("README.md").is_file();
    if !there {
        eprintln!("SKIPPED: no recorded evidence at {}; set CHRYSALIS_VECTORS", dir.display());
    }
    there.then_some(dir)
}

#[test]
fn bad_evidence_ends_with_2_and_names_the_field() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("evidence.json");
    for (text, words) in [
        (json!({ "rtmr0": "12" }).to_string(), "rtmr0: expected 96 hex digits"),
        (json!({ "event_log": "00" }).to_string(), "event_log: event log at offset"),
        ("{".to_owned(), "line 1, column 1"),
    ] {
        std::fs::write(&file, &text).unwrap();
        let output = explain(&file, dir.path(), &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}: {said}");
        assert!(said.starts_with("error: ") && said.contains(words), "{said}");
    }
    let output = explain(&file, Path::new("no-such-folder"), &[]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn text_of_a_log_cannot_leave_its_place_on_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let (file, page) = (dir.path().join("evidence.json"), dir.path().join("page.html"));
    let artifacts = dir.path().join("artifacts");
    std::fs::create_dir(&artifacts).unwrap();
    std::fs::write(artifacts.join("<img src=x onerror=alert(1)>"), "x").unwrap();
    let hostile = "</summary></details><script>alert('1')</script>\" onclick=\"x\u{202e}";
    let action: String = hostile.bytes().map(|b| format!("{b:02x}")).collect();
    let event = |imr: u32, kind: u32, name: &str, payload: &str| json!({ "imr": imr, "event_type": kind, "digest": "ab".repeat(48), "event": name, "event_payload": payload });
    let log = [event(3, 0x0800_0001, hostile, "00"), event(1, 0x8000_0007, "", &action)];
    std::fs::write(&file, json!({ "event_log": log }).to_string()).unwrap();
    let output = explain(&file, &artifacts, &["--html", page.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("&lt;script&gt;alert(&#39;1&#39;)"), "the text is shown");
    assert!(page.contains("&lt;img src=x"), "the path is shown");
    for never in ["<script", "<img", "onclick=\"", "\u{202e}", "http://", "https://", "url(", "@import"] {
        assert!(!page.contains(never), "{never}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn a_real_td_is_explained_from_the_command_line() {
    let Some(vectors) = vectors() else { return };
    let dir = tempfile::tempdir().unwrap();
    let artifacts = dir.path().join("artifacts");
    std::fs::create_dir_all(artifacts.join("captured")).unwrap();
    let captured = vectors.join("acpi/runtime_capture_8vcpu_16g");
    std::fs::copy(vectors.join("firmware/OVMF_2025.02-3ubuntu2.fd"), artifacts.join("any-name")).unwrap();
    std::fs::copy(captured.join("acpi_tables.bin"), artifacts.join("captured/tables")).unwrap();
    let shape = dir.path().join("shape.toml");
    std::fs::write(&shape, "schema = 1\nvcpus = 4\nmemory_mib = 16384\n").unwrap();
    let shape = ["--json", "--shape", shape.to_str().unwrap()];
    // A bare quote is evidence too.
    let output = explain(&vectors.join("quotes/shape_8vcpu_16g_v4.bin"), &artifacts, &shape);
    let found = json_of(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        (&found["registers"][0]["verdict"], &found["registers"][1]["verdict"]),
        (&json!("equal"), &json!("explained"))
    );
    assert!(
        found["headline"].as_str().unwrap().contains("8 vCPUs (expected 4 vCPUs)"),
        "{}",
        found["headline"]
    );
    let known = captured.join("expected.json");
    std::fs::write(dir.path().join("shape.toml"), "schema = 1\nvcpus = 8\nmemory_mib = 16384\n").unwrap();
    let output = explain(&known, &artifacts, &shape);
    assert_eq!(output.status.code(), Some(0), "{}", json_of(&output)["headline"]);
}
