//! The life of a release from the command line: made, signed, published, verified, revoked, its keys replaced.

use measure::{Boot, Digest256, Digest384, Platform, Shape};
use release::{
    ConfigRule, Document, File, Machine, Measurements, Pinned, State, Status, TcbAdvice, Tuple, Version, name,
};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with everything that the people of this story have.
struct Story {
    dir: tempfile::TempDir,
}

impl Story {
    /// A publication, three rebuilders, nothing published.
    fn new() -> Self {
        let story = Story { dir: tempfile::tempdir().unwrap() };
        story.fine(&["init", "--repo", "repo", "--keys", "keys"]);
        story
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chrysalis"));
        command.current_dir(self.dir.path()).args(["--json", "release"]).args(args);
        command.output().expect("chrysalis starts")
    }

    fn fine(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What the command said when it failed.
    fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// With the keys of the online roles, and of the targets.
    fn signed<'a>(&self, args: &[&'a str]) -> Vec<&'a str> {
        let keys = ["--targets-key", "keys/targets.pem", "--snapshot-key", "keys/snapshot.pem"];
        [args, &keys, &["--timestamp-key", "keys/timestamp.pem"]].concat()
    }

    /// A draft as `release draft` writes it, of machines that are made up.
    fn draft(&self, folder: &str, fill: u8) -> PathBuf {
        let digest = Digest384([fill; 48]);
        let firmware = Digest256([7; 32]);
        let registers = Tuple { mrtd: digest, rtmr0: digest, rtmr1: digest, rtmr2: digest, rtmr3: None };
        let measurements = Measurements {
            schema: 1,
            name: "worker".into(),
            version: Version([0, 1, 0]),
            profile: "worker".into(),
            commit: "0123456789abcdef0123456789abcdef01234567".into(),
            toolchain: "rustc".into(),
            kernel: "6.12".into(),
            locks: [("packages.lock".to_owned(), Digest256([3; 32]))].into(),
            artifacts: Vec::new(),
            firmware: vec![File { name: "OVMF.fd".into(), sha256: firmware, size: 1 }],
            mrconfigid: ConfigRule::Sha384OfStaticConfiguration,
            machines: vec![Machine {
                platform: Platform::Tdx,
                boot: Boot::Direct,
                firmware,
                vmm: "qemu 10.2, single-pass".into(),
                stub: "systemd-stub 257".into(),
                shape: Shape::new(2, 4096),
                registers,
            }],
            models: Vec::new(),
        };
        let bytes = measurements.to_bytes().unwrap();
        let document = Document {
            schema: 1,
            name: "worker".into(),
            version: Version([0, 1, 0]),
            status: Status { state: State::Active, reason: None },
            measurements: Pinned::of(&bytes),
            sbom: None,
            valid_from: "2020-01-01T00:00:00Z".into(),
            valid_until: "2090-01-01T00:00:00Z".into(),
            tcb: TcbAdvice { accept: vec!["UpToDate".into()], min_evaluation: 0 },
            gpu: Vec::new(),
        };
        let folder = self.path(folder);
        std::fs::create_dir_all(&folder).unwrap();
        let id = measurements.id().unwrap();
        std::fs::write(folder.join(id.target(name::MEASUREMENTS)), bytes).unwrap();
        std::fs::write(folder.join(id.target(name::RELEASE)), document.to_bytes().unwrap()).unwrap();
        folder
    }

    /// A rebuilder's key and his statement about the draft; gives his public key.
    fn rebuilds(&self, name: &str, draft: &str) -> String {
        let key = format!("{name}.pem");
        self.fine(&["keygen", "--out", &key]);
        let said = self.fine(&["sign", "--draft", draft, "--key", &key]);
        said["rebuilder"].as_str().unwrap().to_owned()
    }

    fn settings(&self, file: &str, rebuilders: &[String], threshold: u32) {
        let root = Digest256::of(&std::fs::read(self.path("repo/metadata/1.root.json")).unwrap());
        let keys: Vec<_> = rebuilders.iter().map(|key| format!("\"{key}\"")).collect();
        let text = format!(
            "schema = 1\nroot = \"{root}\"\nthreshold = {threshold}\nnames = [\"worker\"]\nrebuilders = [{}]\n",
            keys.join(", ")
        );
        std::fs::write(self.path(file), text).unwrap();
    }

    fn verify(&self, settings: &str) -> (Option<i32>, Value) {
        let output = self.run(&["verify", "--mirror", "repo", "--settings", settings]);
        let said = serde_json::from_slice(&output.stdout);
        (output.status.code(), said.unwrap_or_else(|_| panic!("{output:?}")))
    }
}

#[test]
fn a_release_is_accepted_with_three_rebuilders_for_two_refused_for_four_and_revoked() {
    let story = Story::new();
    story.draft("draft", 1);
    let mut rebuilders: Vec<_> = ["a", "b", "c"].map(|name| story.rebuilds(name, "draft")).into();
    story.fine(&story.signed(&["publish", "--repo", "repo", "--draft", "draft"]));
    rebuilders.push("11".repeat(32));
    story.settings("two.toml", &rebuilders, 2);
    story.settings("four.toml", &rebuilders, 4);
    let (code, said) = story.verify("two.toml");
    assert_eq!((code, said["accepted"][0]["release"].as_str()), (Some(0), Some("worker-0.1.0")), "{said}");
    assert_eq!(said["accepted"][0]["rebuilders"].as_array().unwrap().len(), 3);
    let (code, said) = story.verify("four.toml");
    assert_eq!(code, Some(1));
    assert!(said["set_aside"][0]["why"].as_str().unwrap().contains("expected 4"), "{said}");
    let reason = ["revoke", "--repo", "repo", "--release", "worker-0.1.0", "--reason", "weak seed"];
    story.fine(&story.signed(&reason));
    let (code, said) = story.verify("two.toml");
    assert_eq!((code, said["set_aside"][0]["why"].as_str()), (Some(1), Some("revoked: weak seed")), "{said}");
    assert!(story.fails(&story.signed(&reason)).contains("no way back"));
}

#[test]
fn a_rebuild_that_differs_is_not_signed_and_named() {
    let story = Story::new();
    story.draft("published", 1);
    story.draft("rebuilt", 2);
    story.rebuilds("a", "published");
    let theirs = "published/worker-0.1.0.measurements.json";
    let output = story.run(&["sign", "--draft", "rebuilt", "--against", theirs, "--key", "a.pem"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = said["differences"].to_string();
    assert!(lines.contains("machines[0].registers.mrtd: rebuilt") && !lines.contains("shape"), "{lines}");
    assert!(std::fs::read_dir(story.path("rebuilt")).unwrap().count() == 2, "no statement was written");
}

#[test]
fn keys_are_replaced_by_a_root_that_enough_holders_signed() {
    let story = Story::new();
    story.draft("draft", 1);
    story.fine(&story.signed(&["publish", "--repo", "repo", "--draft", "draft"]));
    story.settings("none.toml", &[], 0);
    assert_eq!(story.verify("none.toml").0, Some(0));
    let rotate = ["rotate", "--repo", "repo", "--role", "timestamp", "--to", "keys/timestamp-2.pem"];
    story.fine(&[&rotate[..], &["--root-key", "keys/root-1.pem", "--out", "next.json"]].concat());
    let publish = ["publish", "--repo", "repo", "--root", "next.json", "--snapshot-key", "keys/snapshot.pem"];
    let publish = [&publish[..], &["--timestamp-key", "keys/timestamp-2.pem"]].concat();
    let said = story.fails(&publish);
    assert!(said.contains("nothing was written") && said.contains("1 valid signatures"), "{said}");
    story.fine(&["sign", "--metadata", "next.json", "--key", "keys/root-3.pem"]);
    let after = story.fine(&publish);
    assert_eq!(after["versions"]["root"], 2);
    assert_eq!(story.verify("none.toml").0, Some(0));
    let old = ["publish", "--repo", "repo", "--timestamp-key", "keys/timestamp.pem"];
    assert!(story.fails(&old).contains("not a key of timestamp"));
    story.fine(&["publish", "--repo", "repo", "--timestamp-key", "keys/timestamp-2.pem"]);
}

#[test]
fn the_state_folder_refuses_what_goes_back() {
    let story = Story::new();
    let copy = |from: &Path, to: &Path| {
        let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(status.success());
    };
    story.draft("draft", 1);
    story.fine(&story.signed(&["publish", "--repo", "repo", "--draft", "draft"]));
    copy(&story.path("repo"), &story.path("old"));
    story.fine(&["publish", "--repo", "repo", "--timestamp-key", "keys/timestamp.pem"]);
    story.settings("none.toml", &[], 0);
    let verify = |mirror: &str| {
        let args = ["verify", "--mirror", mirror, "--settings", "none.toml", "--state", "state"];
        let output = story.run(&args);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), said["standing"].to_string())
    };
    assert_eq!(verify("repo").0, Some(0));
    let (code, standing) = verify("old");
    assert!(code == Some(1) && standing.contains("rollback"), "{standing}");
    let (code, standing) = verify("no-such-folder-but-state");
    assert!(code == Some(2) || standing.contains("stale"), "{standing}");
}

#[test]
fn bad_inputs_are_named_with_the_next_step() {
    let story = Story::new();
    let timestamp = ["--timestamp-key", "keys/timestamp.pem"];
    let with = |args: &[&'static str]| story.fails(&[args, &timestamp].concat());
    assert!(with(&["publish", "--repo", "nowhere"]).contains("release init"));
    assert!(with(&["publish", "--repo", "repo", "--draft", "keys"]).contains("make a draft first"));
    assert!(story.fails(&["init", "--repo", "repo", "--keys", "keys"]).contains("give a new folder"));
    let many = ["init", "--repo", "new", "--keys", "keys", "--root-threshold", "9"];
    assert!(story.fails(&many).contains("there are 3 root keys"));
    let unknown = ["revoke", "--repo", "repo", "--release", "worker-9.9.9", "--reason", "x"];
    assert!(story.fails(&story.signed(&unknown)).contains("not published"));
    // A key that others may read, a key inside a checkout, no key at all.
    std::fs::create_dir_all(story.path("checkout/.git")).unwrap();
    let rotate = ["rotate", "--repo", "repo", "--role", "targets", "--out", "next.json", "--to"];
    let inside = story.fails(&[&rotate[..], &["checkout/key.pem"]].concat());
    assert!(inside.contains("inside the checkout"), "{inside}");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(story.path("keys/timestamp.pem"), open).unwrap();
    assert!(with(&["publish", "--repo", "repo"]).contains("chmod 600"));
    std::fs::write(story.path("settings.toml"), "schema = 1\ncolour = 2\n").unwrap();
    let unknown = story.fails(&["verify", "--mirror", "repo", "--settings", "settings.toml"]);
    assert!(unknown.contains("colour"), "{unknown}");
}

#[test]
fn no_command_shows_a_private_key() {
    let story = Story::new();
    let pem = std::fs::read_to_string(story.path("keys/timestamp.pem")).unwrap();
    let secret = pem.lines().nth(1).unwrap().to_owned();
    std::fs::write(story.path("keys/timestamp.pem"), pem.replace("BEGIN PRIVATE", "BEGIN OTHER")).unwrap();
    let said = story.fails(&["publish", "--repo", "repo", "--timestamp-key", "keys/timestamp.pem"]);
    assert!(said.contains("keys/timestamp.pem") && !said.contains(&secret), "{said}");
}

/// A build that `release draft` takes: small files that measure like real ones.
fn build(folder: &Path, commit: Option<&str>) {
    std::fs::create_dir_all(folder).unwrap();
    let files = ["disk.raw", "uki.efi", "kernel", "initrd", "root.erofs", "root.verity", "manifest.json"];
    let listed = files.map(|file| {
        let bytes = if file == "uki.efi" { measure::samples::uki(b"console=ttyS0") } else { b"[]".to_vec() };
        std::fs::write(folder.join(file), &bytes).unwrap();
        serde_json::json!({ "name": file, "sha256": Digest256::of(&bytes), "size": bytes.len() })
    });
    let hash = "ab".repeat(32);
    let artifacts = serde_json::json!({
        "schema": 1, "profile": "worker", "roothash": hash, "cmdline": "console=ttyS0", "kernel": "6.12",
        "toolchain": "rustc", "packages_lock": hash, "tools_lock": hash, "commit": commit, "inputs": hash,
        "files": listed,
    });
    std::fs::write(folder.join("artifacts.json"), artifacts.to_string()).unwrap();
}

#[test]
fn two_drafts_of_one_build_are_equal_and_predict_every_machine() {
    let story = Story { dir: tempfile::tempdir().unwrap() };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let locks =
        [root.join("Cargo.lock"), root.join("image/packages.lock")].map(|lock| lock.display().to_string());
    let firmware = measure::samples::tdx(Some(2), b" initrd=initrd", b"etc/boot/\0", b"ui");
    std::fs::write(story.path("OVMF.fd"), firmware).unwrap();
    for (file, vcpus) in [("a.toml", 2), ("b.toml", 4)] {
        let text = format!("schema = 1\nvcpus = {vcpus}\nmemory_mib = 4096\n");
        std::fs::write(story.path(file), text).unwrap();
    }
    build(&story.path("clean"), Some("0123456789abcdef0123456789abcdef01234567"));
    build(&story.path("dirty"), None);
    let draft = |build: &str, out: &str| {
        let args = ["draft", "--build", build, "--version", "0.1.0", "--firmware", "OVMF.fd", "--out", out];
        let shapes = ["--shape", "a.toml", "--shape", "b.toml"];
        let locks = ["--cargo-lock", &locks[0], "--packages-lock", &locks[1]];
        story.run(&[&args[..], &shapes, &locks].concat())
    };
    for out in ["one", "two"] {
        let output = draft("clean", out);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let machines = said["machines"].as_array().unwrap();
        assert_eq!(machines.len(), 2);
        assert_ne!(machines[0]["registers"]["rtmr0"], machines[1]["registers"]["rtmr0"], "the shapes differ");
        assert_eq!(
            machines[0]["registers"]["rtmr2"], machines[1]["registers"]["rtmr2"],
            "the kernel image does not"
        );
    }
    for file in ["worker-0.1.0.measurements.json", "worker-0.1.0.sbom.json"] {
        let read = |folder: &str| std::fs::read(story.path(folder).join(file)).unwrap();
        assert!(read("one") == read("two"), "{file}");
    }
    let said = |output: Output| {
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said(draft("dirty", "three")).contains("commit them and build again"));
    assert!(said(draft("clean", "one")).contains("give a new folder"));
    std::fs::write(story.path("clean/kernel"), "another").unwrap();
    assert!(said(draft("clean", "four")).contains("kernel"), "a file that is not what the build says");
}
