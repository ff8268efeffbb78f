//! The command contract of `chrysalis evidence gpu`: what goes in, what comes out, which exit code.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const AT: &str = "1760000000";

fn gpu(args: &[&str]) -> Output {
    let program = Command::new(env!("CARGO_BIN_EXE_chrysalis"))
        .args(["evidence", "gpu", "--at", AT])
        .args(args)
        .output();
    program.expect("chrysalis starts")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {output:?}"))
}

/// Folder with recorded evidence of real GPUs; `None` (and said so) where there is none.
fn vectors() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
    let dir = std::env::var_os("CHRYSALIS_VECTORS").map_or_else(beside, PathBuf::from).join("gpu");
    let there = dir.is_dir();
    if !there {
        eprintln!("SKIPPED: no recorded evidence at {}; set CHRYSALIS_VECTORS", dir.display());
    }
    there.then_some(dir)
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// Names of the checks with this status.
fn checks(verdict: &Value, status: &str) -> Vec<String> {
    let all = verdict["checks"].as_array().expect("checks");
    let of_status = all.iter().filter(|check| check["status"] == status);
    of_status.map(|check| check["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn real_gpu_evidence_gets_its_known_verdicts() {
    let Some(dir) = vectors() else { return };
    let file = |name: &str| text(&dir.join(name));
    let (report, chain) = (file("hopper_report.txt"), file("hopper_cert_chain.txt"));
    let bad = file("hopper_report_invalid_signature.txt");
    let (rim, bad_rim) = (file("driver_rim_550.144.03.xml"), file("driver_rim_bad_signature.xml"));
    let envelope = file("hopper_evidence_590_12.json");
    let nonce = "e97b23a1718095a0e9e35edca810768c70a6a5a389b705e753b197912bc11576";
    let zeros = "0".repeat(64);
    let cases: [(&[&str], i32, &[&str]); 7] = [
        (&["--report", &report, "--chain", &chain], 0, &[]),
        (&["--report", &bad, "--chain", &chain], 1, &["gpu_report_signature"]),
        (&["--report", &report, "--chain", &chain, "--driver-rim", &rim], 1, &["gpu_driver_rim_version"]),
        (
            &["--report", &report, "--chain", &chain, "--driver-rim", &bad_rim],
            1,
            &["gpu_driver_rim_signature"],
        ),
        (&["--report", &envelope, "--nonce", nonce], 0, &[]),
        (&["--report", &envelope, "--chain", &envelope], 0, &[]),
        (&["--report", &envelope, "--nonce", &zeros], 1, &["gpu_nonce"]),
    ];
    for (args, code, failing) in cases {
        let output = gpu(&[args, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        let verdict = json(&output);
        assert_eq!(verdict["accepted"], code == 0, "{args:?}");
        assert_eq!(verdict["complete"], false, "{args:?}: not everything was given");
        assert_eq!(checks(&verdict, "fail"), failing, "{args:?}");
        assert!(checks(&verdict, "skipped").contains(&"gpu_revocation".to_owned()) || code == 1);
    }
}

#[test]
fn a_report_is_taken_in_every_form() {
    let Some(dir) = vectors() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let hex_report = std::fs::read_to_string(dir.join("hopper_report.txt")).unwrap();
    let report = scratch.path().join("report.bin");
    std::fs::write(&report, hex::decode(hex_report.trim()).unwrap()).unwrap();
    let chain = dir.join("hopper_cert_chain.txt");
    let output = gpu(&["--report", &text(&report), "--chain", &text(&chain), "--json"]);
    let verdict = json(&output);
    assert_eq!(verdict["devices"][0]["opaque"]["driver_version"], "535.86.09");
    let human = gpu(&["--report", &text(&report), "--chain", &text(&chain)]);
    let table = String::from_utf8(human.stdout).unwrap();
    assert!(table.starts_with("INCOMPLETE: NVIDIA") && table.lines().count() <= 40, "{table}");
}

#[test]
fn bad_input_ends_with_exit_code_2_an_offset_and_a_reason() {
    let Some(dir) = vectors() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let cut = scratch.path().join("cut");
    std::fs::write(&cut, &std::fs::read(dir.join("hopper_report.txt")).unwrap()[..2000]).unwrap();
    let (cut, chain) = (text(&cut), text(&dir.join("hopper_cert_chain.txt")));
    let report = text(&dir.join("hopper_report.txt"));
    let cases: [(&[&str], &str); 5] = [
        (
            &["--report", &cut, "--chain", &chain],
            "measurement record at offset 45: expected 3520 bytes, found 955",
        ),
        (&["--report", &report], "no --chain for this report"),
        (&["--report", &report, "--chain", &report], "certificate chain"),
        (
            &["--report", &report, "--chain", &chain, "--nonce", "abcd"],
            "expected 32 bytes (64 hex digits), found 2",
        ),
        (&["--report", &report, "--chain", &chain, "--driver-rim", &chain], "RIM: XML at offset"),
    ];
    for (args, reason) in cases {
        let output = gpu(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(reason), "{args:?}: {said}");
    }
}
