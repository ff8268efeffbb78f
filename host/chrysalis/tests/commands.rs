//! The command contract that other people's scripts rely on: what goes in, what comes out, which exit code.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn chrysalis(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chrysalis")).args(args).output().expect("chrysalis starts")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {output:?}"))
}

/// Folder with recorded evidence of real machines; `None` (and said so) where there is none.
fn vectors() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
    let dir = std::env::var_os("CHRYSALIS_VECTORS").map_or_else(beside, PathBuf::from);
    let there = dir.join("README.md").is_file();
    if !there {
        eprintln!("skipped: no recorded evidence at {}; set CHRYSALIS_VECTORS", dir.display());
    }
    there.then_some(dir)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[test]
fn random_bytes_are_refused_with_exit_code_2_and_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bytes");
    std::fs::write(&file, [0x5a; 300]).unwrap();
    let file = text(&file);
    for args in [
        vec!["measure", "mrtd", "--firmware", file],
        vec!["measure", "eventlog", "--file", file],
        vec!["measure", "predict", "--firmware", file, "--shape", file],
        vec!["evidence", "verify", "--quote", file, "--collateral", file, "--at", "1"],
        vec!["evidence", "verify", "--quote", "no-such-file", "--collateral", file, "--at", "1"],
    ] {
        let output = chrysalis(&args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.starts_with("error: ") && said.contains(args[3]), "{args:?}: {said}");
    }
}

#[test]
fn an_unknown_field_of_a_shape_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (shape, firmware) = (dir.path().join("shape.toml"), dir.path().join("firmware"));
    std::fs::write(&shape, "schema = 1\nvcpus = 2\nmemory_mib = 2048\nspeed = 9\n").unwrap();
    std::fs::write(&firmware, [0; 64]).unwrap();
    let output = chrysalis(&["measure", "predict", "--firmware", text(&firmware), "--shape", text(&shape)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("speed"));
}

#[test]
fn a_real_td_is_foretold_from_firmware_shape_and_captured_tables() {
    let Some(vectors) = vectors() else { return };
    let dir = tempfile::tempdir().unwrap();
    let shape = dir.path().join("shape.toml");
    std::fs::write(&shape, "schema = 1\nvcpus = 8\nmemory_mib = 16384\n").unwrap();
    let firmware = vectors.join("firmware/OVMF_2025.02-3ubuntu2.fd");
    let acpi = vectors.join("acpi/runtime_capture_8vcpu_16g");
    let known: Value = serde_json::from_slice(&std::fs::read(acpi.join("expected.json")).unwrap()).unwrap();
    let alone = json(&chrysalis(&["measure", "mrtd", "--firmware", text(&firmware), "--json"]));
    assert_eq!(alone["mrtd"], known["mrtd"]);
    let args = ["measure", "predict", "--firmware", text(&firmware), "--shape", text(&shape)];
    let found = json(&chrysalis(&[&args[..], &["--acpi", text(&acpi), "--json"]].concat()));
    assert_eq!((&found["mrtd"], &found["rtmr0"]), (&known["mrtd"], &known["rtmr0"]));
}

#[test]
fn real_quotes_get_their_known_verdicts() {
    let Some(vectors) = vectors() else { return };
    // Quote, collateral, time, exit code, failing checks.
    let known: [(&str, &str, &str, i32, &[&str]); 4] = [
        ("cocoon_v4", "fmspc_90c06f000000_2026-03", "1773790000", 0, &[]),
        ("near_v4", "near_v4", "1757000000", 0, &[]),
        ("dcap_qvl_v5_no_tcb_level", "dcap_qvl_v5_no_tcb_level", "1771500000", 1, &["tcb"]),
        ("cos113_v4", "fmspc_00806f050000_2026-01", "1769509141", 1, &["tcb_platform", "tcb_module", "tcb"]),
    ];
    for (quote, collateral, at, code, failing) in known {
        let quote = vectors.join(format!("quotes/{quote}.bin"));
        let collateral = vectors.join(format!("collateral/{collateral}.json"));
        let args = ["evidence", "verify", "--quote", text(&quote), "--collateral", text(&collateral)];
        let output = chrysalis(&[&args[..], &["--at", at, "--json"]].concat());
        let verdict = json(&output);
        let checks = verdict["checks"].as_array().unwrap();
        let failed = checks.iter().filter(|c| c["status"] == "fail").map(|c| c["name"].as_str().unwrap());
        assert_eq!(failed.collect::<Vec<_>>(), failing, "{verdict:#}");
        assert_eq!((output.status.code(), verdict["accepted"].as_bool()), (Some(code), Some(code == 0)));
        // Nothing is skipped silently: registers were not held against anything here.
        assert_eq!(verdict["complete"], false);
    }
}

#[test]
fn a_bundle_gives_the_verdict_of_its_parts() {
    let Some(vectors) = vectors() else { return };
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("b");
    let file = |name: &str| vectors.join(name).to_str().unwrap().to_owned();
    let (quote, collateral) =
        (file("quotes/cos113_v4.bin"), file("collateral/fmspc_00806f050000_2026-01.json"));
    let log = file("eventlogs/cos113.ccel");
    let parts = ["--quote", &quote, "--collateral", &collateral, "--eventlog", &log];
    let made = chrysalis(
        &[&["evidence", "bundle"][..], &parts, &["--taken-at", "7", "--out", text(&bundle), "--json"]]
            .concat(),
    );
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    assert_eq!(json(&made)["contents"].as_array().unwrap().len(), 4);
    let at = ["--at", "1769509141", "--json"];
    let apart = chrysalis(&[&["evidence", "verify"][..], &parts, &at].concat());
    let together = chrysalis(&[&["evidence", "verify", "--bundle", text(&bundle)][..], &at].concat());
    assert_eq!((apart.status.code(), together.status.code()), (Some(1), Some(1)), "{together:?}");
    let (apart, together) = (json(&apart), json(&together));
    assert_eq!(apart["checks"], together["checks"]);
    assert_eq!(
        (&together["bundle"]["taken_at"], &together["bundle"]["own_reference"]),
        (&7.into(), &false.into())
    );

    let mut bytes = std::fs::read(&bundle).unwrap();
    bytes.push(0);
    std::fs::write(&bundle, bytes).unwrap();
    let broken = chrysalis(&[&["evidence", "verify", "--bundle", text(&bundle)][..], &at].concat());
    assert_eq!(broken.status.code(), Some(2));
    assert!(json(&broken)["error"].as_str().unwrap().contains("unexpected bytes"), "{broken:?}");
}

#[test]
fn the_table_fits_one_screen_and_has_no_colour_off_a_terminal() {
    let Some(vectors) = vectors() else { return };
    let quote = vectors.join("quotes/cos113_v4.bin");
    let collateral = vectors.join("collateral/fmspc_00806f050000_2026-01.json");
    let args = ["evidence", "verify", "--quote", text(&quote), "--collateral", text(&collateral)];
    let output = chrysalis(&[&args[..], &["--at", "1769509141"]].concat());
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with("REFUSED: Intel TDX") && !table.contains('\x1b'), "{table}");
    assert!(table.lines().count() <= 40 && table.lines().all(|line| line.chars().count() <= 120), "{table}");
}

/// Firmware that is none, a shape, and these options; what is refused is refused before the firmware is looked at.
fn refused_prediction(options: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (shape, file) = (dir.path().join("shape.toml"), dir.path().join("file"));
    std::fs::write(&shape, "schema = 1\nvcpus = 2\nmemory_mib = 2048\n").unwrap();
    std::fs::write(&file, [0; 64]).unwrap();
    let options = options.iter().map(|o| if *o == "FILE" { text(&file) } else { o });
    let args = ["measure", "predict", "--firmware", text(&file), "--shape", text(&shape)];
    let output = chrysalis(&args.into_iter().chain(options).collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn options_that_contradict_each_other_are_refused_by_name() {
    for (options, words) in [
        (&["--uki", "FILE", "--kernel", "FILE"][..], "'--uki <UKI>' cannot be used with '--kernel <KERNEL>'"),
        (&["--disk", "FILE", "--kernel", "FILE"], "'--disk <DISK>' cannot be used with '--kernel <KERNEL>'"),
        (&["--initrd", "FILE"], "--kernel <KERNEL>"),
        (&["--cmdline", "quiet"], "--kernel <KERNEL>"),
        (&["--boot", "disk"], "--boot disk: give the raw disk with --disk"),
        (&["--boot", "direct", "--disk", "FILE"], "--disk: a direct boot doesn't read it"),
        (&["--boot", "disk", "--kernel", "FILE"], "--boot disk: give the raw disk"),
        (&["--platform", "emulated", "--acpi", "FILE"], "--acpi: the emulated platform"),
        (&["--platform", "emulated", "--separator", "rtmr0"], "--separator: the emulated platform"),
        (&["--vars", "FILE"], "--vars: a TDX firmware image carries its own"),
        (&["--disk", "FILE"], "disk at offset 0x200"),
        (&["--kernel", "FILE", "--cmdline", "@no-such-file"], "cannot read no-such-file"),
    ] {
        let said = refused_prediction(options);
        assert!(said.contains(words), "{options:?}: {said}");
    }
}

#[test]
fn an_option_of_another_machine_changes_only_its_register() {
    let Some(vectors) = vectors() else { return };
    let dir = tempfile::tempdir().unwrap();
    let shape = dir.path().join("shape.toml");
    std::fs::write(&shape, "schema = 1\nvcpus = 8\nmemory_mib = 16384\n").unwrap();
    let firmware = vectors.join("firmware/OVMF_2025.02-3ubuntu2.fd");
    let tables = vectors.join("acpi/runtime_capture_8vcpu_16g/acpi_tables.bin");
    let known = std::fs::read(vectors.join("acpi/runtime_capture_8vcpu_16g/expected.json")).unwrap();
    let known: Value = serde_json::from_slice(&known).unwrap();
    let acpi = dir.path().join("acpi");
    std::fs::create_dir(&acpi).unwrap();
    std::fs::copy(tables, acpi.join("acpi_tables.bin")).unwrap();
    let args = ["measure", "predict", "--firmware", text(&firmware), "--shape", text(&shape)];
    let rtmr0 =
        || json(&chrysalis(&[&args[..], &["--acpi", text(&acpi), "--json"]].concat()))["rtmr0"].clone();
    // The one option of a direct boot, as a TD of this firmware has it.
    std::fs::write(acpi.join("BootOrder.bin"), [0, 0]).unwrap();
    assert_eq!(rtmr0(), known["rtmr0"]);
    std::fs::write(acpi.join("BootOrder.bin"), [1, 0]).unwrap();
    assert_eq!(rtmr0(), Value::Null, "an option that nobody captured");
    std::fs::write(acpi.join("BootOrder.bin"), [1]).unwrap();
    let output = chrysalis(&[&args[..], &["--acpi", text(&acpi)]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("BootOrder of 1 bytes"), "{output:?}");
}

#[test]
fn a_host_in_a_file_is_judged_in_the_closed_form_and_with_the_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let tcb = dir.path().join("tcb.json");
    let level = r#"{"tcb": {"isvsvn": 1}, "tcbDate": "2026-02-11T00:00:00Z", "tcbStatus": "UpToDate"}"#;
    let info = format!(r#"{{"tdxModuleIdentities": [{{"id": "TDX_01", "tcbLevels": [{level}]}}]}}"#);
    std::fs::write(&tcb, format!(r#"{{"tcbInfo": {info}, "signature": ""}}"#)).unwrap();
    let host = |name: &str| {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../launcher/fixtures/hosts/{name}.toml"));
        chrysalis(&["doctor", "--host", text(&file), "--tcb-info", text(&tcb), "--json"])
    };
    for (name, code, failed) in
        [("good", 0, None), ("iommu-off", 1, Some("iommu")), ("no-such-host", 2, None)]
    {
        let output = host(name);
        assert_eq!(output.status.code(), Some(code), "{name}: {output:?}");
        let found = json(&output);
        let Some(checks) = found["checks"].as_array() else {
            assert!(code == 2 && found["error"].is_string(), "{found}");
            continue;
        };
        let first = checks.iter().find(|c| c["status"] == "fail").map(|c| c["name"].as_str().unwrap());
        assert_eq!(first, failed, "{found:#}");
        assert_eq!(found.as_object().unwrap().len(), 1);
        for check in checks {
            let mut keys: Vec<_> = check.as_object().unwrap().keys().map(String::as_str).collect();
            keys.sort_unstable();
            assert_eq!(keys, ["evidence", "fix", "name", "status"]);
        }
    }
}
