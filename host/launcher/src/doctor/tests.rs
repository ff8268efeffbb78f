//! Hosts in text: the good one passes, each defect is named, a machine without TDX fits a screen.

use super::*;
use crate::host::{Answer, Question, Recorded, Recorder};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn hosts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hosts")
}

fn recorded(name: &str) -> Recorded {
    Recorded::read(&hosts().join(format!("{name}.toml"))).unwrap_or_else(|e| panic!("{e}"))
}

fn patient(host: Arc<dyn Host>, options: &Options) -> Report {
    examine(host, options, Duration::from_secs(60))
}

fn report(name: &str) -> Report {
    patient(Arc::new(recorded(name)), &good_options())
}

const TCB_INFO: &str = r#"{"tdxModuleIdentities": [
    {"id": "TDX_03", "tcbLevels": [{"tcb": {"isvsvn": 99}, "tcbDate": "2030-01-01T00:00:00Z", "tcbStatus": "UpToDate"}]},
    {"id": "TDX_01", "tcbLevels": [
        {"tcb": {"isvsvn": 16}, "tcbDate": "2026-02-11T00:00:00Z", "tcbStatus": "UpToDate"},
        {"tcb": {"isvsvn": 5}, "tcbDate": "2025-05-14T00:00:00Z", "tcbStatus": "OutOfDate"}]}]}"#;

fn good_options() -> Options {
    Options { tcb_info: Some(TCB_INFO.into()), ..Options::default() }
}

/// Every host file but the two whole ones: the check that it breaks, how, and a word of what is said.
const DEFECTS: &[(&str, &str, Status, &str)] = &[
    ("cpu-amd", "cpu", Status::Fail, "AMD EPYC"),
    ("cpu-older", "cpu", Status::Fail, "older than TDX"),
    ("cpu-sapphire-rapids", "cpu", Status::Unknown, "only some parts"),
    ("bios-tme-off", "bios_tme", Status::Fail, "enabled false"),
    ("bios-cpus-unequal", "bios_tme", Status::Fail, "differs between processors"),
    ("bios-tdx-off", "bios_tdx", Status::Fail, "TDX is off"),
    ("bios-seam-loader-missing", "bios_tdx", Status::Fail, "no SEAM loader"),
    ("bios-one-key", "bios_keys", Status::Fail, "1 keys for TDX"),
    ("bios-sgx-off", "bios_sgx", Status::Fail, "SGX false"),
    ("bios-mcheck", "bios_sgx", Status::Fail, "MCHECK status 0x5"),
    ("sgx-no-device", "bios_sgx", Status::Fail, "no /dev/sgx_enclave"),
    ("msr-denied", "", Status::Pass, ""),
    ("kernel-without-tdx", "kernel_kvm_tdx", Status::Fail, "6.12.48-amd64"),
    ("kernel-tdx-off", "kernel_tdx_on", Status::Fail, "is N"),
    ("kernel-hibernation", "kernel_hibernation", Status::Fail, "Hibernation support"),
    ("module-failed", "tdx_module", Status::Fail, "Failed to initialize"),
    ("module-silent", "tdx_module", Status::Unknown, "says nothing of a module"),
    ("iommu-off", "iommu", Status::Fail, "0 IOMMU units"),
    ("vfio-missing", "vfio", Status::Fail, "no driver vfio-pci"),
    ("dma-limit", "dma_limits", Status::Fail, "65535"),
    ("memory-low", "memory", Status::Fail, "2048 of"),
    ("huge-pages", "huge_pages", Status::Fail, "in pools"),
    ("qemu-old", "qemu", Status::Fail, "10.0.4"),
    ("qemu-missing", "qemu", Status::Fail, "no qemu"),
    ("qemu-without-tdx", "qemu_tdx", Status::Fail, "does not name tdx-guest"),
    ("firmware-plain", "firmware", Status::Fail, "no TDVF metadata"),
    ("firmware-missing", "firmware", Status::Fail, "none of"),
    ("qgs-down", "qgs", Status::Fail, "reset by peer"),
    ("pccs-down", "pccs", Status::Fail, "refused"),
    ("pccs-unset", "pccs", Status::Fail, "no /etc/sgx_default_qcnl.conf"),
    ("registration-pending", "registration", Status::Fail, "not complete"),
    ("registration-log", "", Status::Pass, ""),
    ("gpu-none", "gpu", Status::Fail, "no NVIDIA GPU"),
    ("gpu-old", "gpu", Status::Fail, "without confidential computing: 0000:65:00.0"),
    ("gpu-vbios-without-rim", "gpu_vbios", Status::Fail, "nvtrust 144"),
    ("gpu-mode-off", "gpu_mode", Status::Fail, "off: 0000:17:00.0, 0000:65:00.0"),
    ("gpu-mode-mixed", "gpu_mode", Status::Fail, "GPUs differ"),
    ("gpu-mode-devtools", "gpu_mode", Status::Fail, "devtools"),
    ("gpu-mode-interrupted", "gpu_mode", Status::Unknown, "interrupted change"),
    ("gpu-asleep", "gpu_mode", Status::Unknown, "asleep"),
    ("gpu-switch-differs", "gpu_mode", Status::Fail, "switches differ"),
    ("gpu-driver-nvidia", "gpu_driver", Status::Fail, "nvidia: 0000:17:00.0"),
    ("gpu-shared-group", "gpu_group", Status::Fail, "0000:18:00.0"),
    ("gpu-bar-unassigned", "gpu_bars", Status::Fail, "0000:65:00.0 has no region"),
    ("gpu-window-small", "gpu_window", Status::Fail, "40 address bits"),
    ("gpu-numa-lost", "gpu_numa", Status::Fail, "node -1"),
    ("disk-full", "disk", Status::Fail, "1024 MiB free"),
    ("time-wrong", "time", Status::Fail, "before this program"),
    ("time-unset", "time", Status::Unknown, "no sign of a time service"),
];

#[test]
fn a_good_host_passes_every_check() {
    let report = report("good");
    let bad: Vec<_> = report.checks.iter().filter(|c| c.status != Status::Pass).collect();
    assert!(report.is_good() && bad.is_empty(), "{bad:#?}");
    assert_eq!(report.checks.len(), CHECKS.len());
    assert!(report.checks.iter().all(|c| !c.evidence.is_empty() && c.fix.is_empty()));
}

#[test]
fn each_single_defect_is_named_and_nothing_that_does_not_stand_on_it() {
    for (host, name, status, word) in DEFECTS {
        let report = report(host);
        let first = report
            .checks
            .iter()
            .find(|c| c.status == Status::Fail)
            .or_else(|| report.checks.iter().find(|c| c.status == Status::Unknown));
        let Some(first) = first else {
            assert!(name.is_empty(), "{host}: nothing was found");
            continue;
        };
        assert_eq!((first.name, first.status), (*name, *status), "{host}: {report:#?}");
        assert!(first.evidence.contains(word) && !first.fix.is_empty(), "{host}: {first:?}");
        for other in report.checks.iter().filter(|c| c.status == Status::Fail && c.name != *name) {
            // Two files have their cause told twice: by a register and by the log.
            let twice = [("kernel-hibernation", "tdx_module"), ("gpu-old", "gpu_mode")];
            assert!(twice.contains(&(host, other.name)), "{host}: {other:?}");
        }
    }
}

#[test]
fn every_host_file_is_used_and_says_where_it_is_from() {
    let mut known: Vec<&str> = DEFECTS.iter().map(|(name, ..)| *name).chain(["good", "no-tdx-vm"]).collect();
    let mut files: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(hosts()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap().replace(".toml", "");
        let about = recorded(&name).about().to_owned();
        assert!(
            ["constructed", "issue", "arch/x86"].iter().any(|word| about.contains(word)),
            "{name}: {about}"
        );
        files.push(name);
    }
    known.sort_unstable();
    files.sort();
    assert_eq!(files, known);
}

#[test]
fn a_machine_without_tdx_is_told_on_one_screen_what_is_missing_and_how_to_go_on() {
    let report = report("no-tdx-vm");
    let text = report.to_text(false);
    assert!(text.lines().count() <= 24, "{} lines:\n{text}", text.lines().count());
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    for word in [
        "FAIL cpu",
        "virtual machine",
        "FAIL qemu",
        "FAIL firmware",
        "FAIL gpu",
        "SIMULATED",
        "cargo xtask up",
    ] {
        assert!(text.contains(word), "no `{word}` in:\n{text}");
    }
    let failed: Vec<_> = report.checks.iter().filter(|c| c.status == Status::Fail).map(|c| c.name).collect();
    assert_eq!(failed, ["cpu", "qemu", "firmware", "gpu"], "{text}");
    assert!(!report.is_good());
}

#[test]
fn without_gpus_their_checks_are_left_out() {
    let options = Options { gpus: false, ..good_options() };
    let report = patient(Arc::new(recorded("gpu-none")), &options);
    assert!(report.is_good(), "{report:#?}");
    assert!(report.checks.iter().all(|c| !of_gpus(c.name)));
}

#[test]
fn a_module_is_held_against_the_tcb_info_that_is_given() {
    let verdict = |tcb_info: Option<&str>| {
        let options = Options { tcb_info: tcb_info.map(str::to_owned), ..Options::default() };
        patient(Arc::new(recorded("good")), &options).check("tdx_module_tcb").unwrap().clone()
    };
    assert_eq!(verdict(None).status, Status::Unknown);
    assert_eq!(verdict(Some("{")).status, Status::Unknown);
    let newer = TCB_INFO.replace("\"isvsvn\": 16", "\"isvsvn\": 17");
    assert!(verdict(Some(&newer)).evidence.contains("OutOfDate"));
    assert_eq!(verdict(Some(&newer)).status, Status::Fail);
    let newest = newer.replace("\"isvsvn\": 5", "\"isvsvn\": 17");
    assert!(verdict(Some(&newest)).evidence.contains("older than every level"));
}

#[test]
fn a_recording_gives_the_same_verdicts_and_names_no_machine() {
    for (name, ..) in
        DEFECTS.iter().chain(&[("good", "", Status::Pass, ""), ("no-tdx-vm", "", Status::Pass, "")])
    {
        let recorder = Arc::new(Recorder::new(recorded(name)));
        let before = patient(recorder.clone(), &good_options());
        let (again, base) = Recorded::parse(&recorder.document("constructed").unwrap()).unwrap();
        assert_eq!(base, None);
        let after = patient(Arc::new(again), &good_options());
        let verdicts = |report: &Report| report.checks.iter().map(|c| (c.name, c.status)).collect::<Vec<_>>();
        assert_eq!(verdicts(&before), verdicts(&after), "{name}");
    }
}

/// A host with a service of its own elsewhere, whose names must not be in a recording.
#[test]
fn a_service_elsewhere_is_recorded_without_its_name() {
    struct Elsewhere(Recorded);
    impl Host for Elsewhere {
        fn ask(&self, question: &Question) -> Answer {
            match question.to_string().as_str() {
                "file /proc/sys/kernel/hostname" => Ok("rig-7\n".into()),
                "file /etc/sgx_default_qcnl.conf" => {
                    Ok("PCCS_URL=https://pccs.acme.example:8443/sgx/\n".into())
                }
                "reach tcp pccs.acme.example:8443" => Ok("listening".into()),
                _ => self.0.ask(question),
            }
        }
    }
    let recorder = Arc::new(Recorder::new(Elsewhere(recorded("good"))));
    assert!(patient(recorder.clone(), &good_options()).is_good());
    let text = recorder.document("on rig-7").unwrap();
    assert!(!text.contains("acme") && !text.contains("rig-7"), "{text}");
    let again = patient(Arc::new(Recorded::parse(&text).unwrap().0), &good_options());
    assert_eq!(again.check("pccs").unwrap().status, Status::Pass);
}

#[test]
fn what_panics_is_unknown_and_the_rest_is_judged() {
    struct Odd(Recorded);
    impl Host for Odd {
        fn ask(&self, question: &Question) -> Answer {
            assert!(!matches!(question, Question::Tdvf(_)), "a defect, made for this test");
            self.0.ask(question)
        }
    }
    let report = patient(Arc::new(Odd(recorded("good"))), &good_options());
    let odd: Vec<_> = report.checks.iter().filter(|c| c.status != Status::Pass).collect();
    assert!(
        odd.len() == 1 && odd[0].name == "firmware" && odd[0].evidence.contains("unexpectedly"),
        "{odd:#?}"
    );
}

#[test]
fn what_hangs_is_unknown_and_the_report_comes_all_the_same() {
    struct Hangs(Recorded, std::sync::Mutex<mpsc::Receiver<()>>);
    impl Host for Hangs {
        fn ask(&self, question: &Question) -> Answer {
            if matches!(question, Question::Space(_)) {
                // Until the test is over.
                let _ = self.1.lock().unwrap().recv();
            }
            self.0.ask(question)
        }
    }
    let (hold, held) = mpsc::channel();
    let host = Arc::new(Hangs(recorded("good"), std::sync::Mutex::new(held)));
    let report = examine(host, &good_options(), Duration::from_secs(1));
    drop(hold);
    let disk = report.check("disk").unwrap();
    assert!(disk.status == Status::Unknown && disk.evidence.contains("no answer in time"), "{disk:?}");
    assert_eq!(report.checks.len(), CHECKS.len());
}

#[test]
fn a_host_that_answers_nothing_is_unknown_throughout() {
    for miss in [Miss::Denied, Miss::NotRecorded, Miss::Late] {
        struct Mute(Miss);
        impl Host for Mute {
            fn ask(&self, _: &Question) -> Answer {
                Err(self.0.clone())
            }
        }
        let report = patient(Arc::new(Mute(miss)), &Options::default());
        let judged: Vec<_> =
            report.checks.iter().filter(|c| c.status == Status::Fail).map(|c| c.name).collect();
        assert!(judged.iter().all(|name| ["qgs"].contains(name)), "{judged:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever a host says, each check comes to a verdict and the report can be printed.
    #[test]
    fn a_lying_host_makes_nothing_panic(text in "\\PC{0,40}|[0-9a-fx \n:.,\\[\\)\"/-]{0,120}|(0x[0-9a-f]{1,17}[ \n]?){0,8}", pci in any::<bool>()) {
        struct Liar(String, bool);
        impl Host for Liar {
            fn ask(&self, question: &Question) -> Answer {
                match question {
                    Question::Pci(_) if self.1 => Ok("0000:17:00.0 0x2330 0x030200\n0000:18:00.0 0x22a3 0x068000".into()),
                    _ => Ok(self.0.clone()),
                }
            }
        }
        let report = patient(Arc::new(Liar(text.clone(), pci)), &Options { tcb_info: Some(text), ..Options::default() });
        prop_assert!(report.checks.iter().all(|c| !c.evidence.contains("unexpectedly")), "{report:#?}");
        prop_assert!(report.to_text(true).lines().count() >= report.checks.len());
    }
}
