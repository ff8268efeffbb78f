//! The program as it is run: on a host, with a log and PCRs from files.

use evidence::{Collateral, Inputs, PolicyFile, verify};
use measure::Digest384;
use measure::wire::SimulatedPlatform;
use measure::wire::{EventLog, LogFormat};
use simulator::tpm;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PROGRAM: &str = env!("CARGO_BIN_EXE_chrysalis-simulator");

fn pki(dir: &Path, days: &str) -> Output {
    let output = Command::new(PROGRAM).args(["pki", "--days", days]).arg(dir).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn the_folder_is_made_once_and_kept_while_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("a/pki");
    let first = pki(&folder, "30");
    let text = String::from_utf8(first.stdout).unwrap();
    assert!(text.starts_with("SIMULATED") && text.contains("was made"), "{text}");
    let mode = fs::metadata(folder.join("identity.bin")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let identity = fs::read(folder.join("identity.bin")).unwrap();
    let text = String::from_utf8(pki(&folder, "30").stdout).unwrap();
    assert!(text.starts_with("SIMULATED") && text.contains("is kept"), "{text}");
    assert_eq!(fs::read(folder.join("identity.bin")).unwrap(), identity);
}

#[test]
fn a_folder_whose_parts_do_not_belong_together_is_made_anew() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    pki(one.path(), "30");
    pki(two.path(), "30");
    fs::copy(two.path().join("root.der"), one.path().join("root.der")).unwrap();
    let text = String::from_utf8(pki(one.path(), "30").stdout).unwrap();
    assert!(text.contains("was made") && text.contains("does not hold together"), "{text}");
}

struct Served {
    dir: tempfile::TempDir,
    child: Child,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn prepare(pcrs: &[[u8; 48]]) -> (tempfile::TempDir, Command) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    pki(&path.join("pki"), "2");
    let identity = fs::read(path.join("pki/identity.bin")).unwrap();
    let disk = SimulatedPlatform { identity, mrconfigid: [6; 48] }.to_disk();
    fs::write(path.join("disk"), disk).unwrap();
    fs::write(path.join("log"), tpm::sample_log()).unwrap();
    for folder in ["pcrs", "report", "misc"] {
        fs::create_dir(path.join(folder)).unwrap();
    }
    for (pcr, value) in pcrs.iter().enumerate() {
        fs::write(path.join("pcrs").join(pcr.to_string()), format!("{}\n", hex::encode_upper(value)))
            .unwrap();
    }
    let mut command = Command::new(PROGRAM);
    command.arg("serve");
    for (flag, file) in
        [("--base", "report"), ("--log", "log"), ("--pcrs", "pcrs"), ("--disk", "disk"), ("--misc", "misc")]
    {
        command.arg(flag).arg(path.join(file));
    }
    (dir, command)
}

fn serve() -> Served {
    let (dir, mut command) = prepare(&tpm::replayed(&tpm::sample_log()).unwrap());
    let child = command.stdout(Stdio::null()).spawn().unwrap();
    Served { dir, child }
}

fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn ask(entry: &Path, generation: u64, report_data: [u8; 64]) -> Vec<u8> {
    let text = |name: &str| fs::read_to_string(entry.join(name)).unwrap_or_default().trim().to_owned();
    until("provider", || (text("provider") == "tdx_guest").then_some(()));
    assert_eq!(text("generation"), (generation - 1).to_string());
    fs::OpenOptions::new()
        .write(true)
        .open(entry.join("inblob"))
        .map(|mut file| std::io::Write::write_all(&mut file, &report_data))
        .unwrap()
        .unwrap();
    until("generation", || (text("generation") == generation.to_string()).then_some(()));
    fs::read(entry.join("outblob")).unwrap()
}

#[test]
fn a_served_quote_is_accepted_with_the_log_that_it_was_made_from() {
    let served = serve();
    let path = served.dir.path();
    let entry = path.join("report/one");
    fs::create_dir(&entry).unwrap();
    let first = ask(&entry, 1, [1; 64]);
    let second = ask(&entry, 2, [2; 64]);
    let collateral = Collateral::parse(&fs::read(path.join("pki/collateral.json")).unwrap()).unwrap();
    let file = PolicyFile::parse(&fs::read_to_string(path.join("pki/policy.toml")).unwrap()).unwrap();
    let root = fs::read(path.join("pki").join(file.root().unwrap())).unwrap();
    let policy = file.resolve(Some(&root)).unwrap();
    let log = EventLog { format: LogFormat::Tpm, bytes: tpm::sample_log() };
    for (quote, report_data) in [(first, [1; 64]), (second, [2; 64])] {
        let verdict = verify(&Inputs {
            quote: &quote,
            collateral: &collateral,
            policy: &policy,
            event_log: Some(&log),
            static_config: None,
            runtime: None,
            reference: None,
            report_data: Some(&report_data),
            at: now(),
        });
        assert!(verdict.accepted, "{verdict}");
        assert_eq!(verdict.td.unwrap().mrconfigid.0, [6; 48]);
    }
}

#[test]
fn what_is_written_to_the_file_of_rtmr3_shows_in_it_and_in_the_quote() {
    let served = serve();
    let path = served.dir.path();
    let file = path.join("misc/tdx_guest/measurements/rtmr3:sha384");
    let shows = |value: &Digest384| fs::read(&file).is_ok_and(|bytes| bytes == value.0).then_some(());
    let mut expected = Digest384::ZERO;
    until("zeros", || shows(&expected));
    for fill in [1, 2] {
        let digest = Digest384([fill; 48]);
        let mut register = fs::OpenOptions::new().write(true).open(&file).unwrap();
        std::io::Write::write_all(&mut register, &digest.0).unwrap();
        expected.extend(&digest);
        until("the extended register", || shows(&expected));
    }
    let entry = path.join("report/one");
    fs::create_dir(&entry).unwrap();
    let quote = ask(&entry, 1, [1; 64]);
    assert_eq!(evidence::Quote::parse(&quote).unwrap().td.rtmr3, expected);
}

#[test]
fn pcrs_that_the_log_does_not_explain_stop_the_platform() {
    let mut pcrs = tpm::replayed(&tpm::sample_log()).unwrap();
    pcrs[4][0] ^= 1;
    let (_dir, mut command) = prepare(&pcrs);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("SIMULATED") && text.contains("PCR 4 holds") && text.contains("replays to"),
        "{text}"
    );
}
