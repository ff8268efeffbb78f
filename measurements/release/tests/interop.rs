//! The reference client of TUF (python-tuf) says of our publications what we say of them.
//!
//! `CHRYSALIS_PYTHON_SITE` names the folder of the pinned wheels (`ci/reference/requirements.txt`); `cargo xtask test` sets it.

mod support;

use measure::Digest256;
use release::publish::{Holders, RootPlan};
use release::{Expiry, Folder, Http, Limits, Role, Trusted};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};
use support::*;

/// Flags of the interpreter: no bytecode in the folder of wheels.
const PYTHON: [&str; 2] = ["-B", "-u"];

struct Both {
    site: String,
    dir: tempfile::TempDir,
    ours: Trusted,
}

impl Both {
    /// `None`, and loudly so, where the pinned wheels are not at hand.
    fn new(publisher: &Publisher) -> Option<Self> {
        let Ok(site) = std::env::var("CHRYSALIS_PYTHON_SITE") else {
            eprintln!("SKIPPED: CHRYSALIS_PYTHON_SITE names no folder with python-tuf");
            return None;
        };
        let ours = Trusted::new(Digest256::of(&publisher.root), &publisher.root).unwrap();
        Some(Both { site, dir: tempfile::tempdir().unwrap(), ours })
    }

    fn write(&self, publisher: &Publisher) {
        let repo = self.dir.path().join("repo");
        let _ = std::fs::remove_dir_all(&repo);
        for (path, bytes) in publisher.files() {
            let path = repo.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }

    fn python(&self) -> Command {
        let mut python = Command::new("python3");
        python.args(PYTHON).env("PYTHONPATH", &self.site).current_dir(self.dir.path());
        python
    }

    /// What the reference client says.
    fn theirs(&self, targets: &[&str]) -> Value {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/reference/tuf_client.py");
        let output =
            self.python().arg(script).args(["repo", "state"]).args(targets).output().expect("python3 starts");
        let said = serde_json::from_slice(&output.stdout);
        said.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Both refuse, theirs with this exception.
    fn refuse(&mut self, publisher: &Publisher, exception: &str, targets: &[&str]) {
        self.write(publisher);
        let said = self.theirs(targets);
        assert_eq!(said["refused"], exception, "{said}");
        if targets.is_empty() {
            let ours =
                self.ours.clone().refresh(&mut publisher.mirror.clone(), publisher.now, Expiry::Enforce);
            assert!(ours.is_err(), "we accept what they refuse: {said}");
        }
    }

    /// Both accept, and at the same versions.
    fn accept(&mut self, publisher: &Publisher, targets: &[&str]) -> Value {
        self.write(publisher);
        let said = self.theirs(targets);
        let mut folder = Folder::new(self.dir.path().join("repo"));
        self.ours.refresh(&mut folder, publisher.now, Expiry::Enforce).unwrap();
        let [root, timestamp, snapshot, target] = self.ours.versions();
        let ours = serde_json::json!({"root": root, "timestamp": timestamp, "snapshot": snapshot, "targets": target});
        assert_eq!(said["versions"], ours, "{said}");
        said
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

const RELEASE: &str = "worker-0.1.0.release.json";
const MEASUREMENTS: &str = "worker-0.1.0.measurements.json";

#[test]
fn the_reference_client_takes_every_file_and_refuses_a_tampered_one() {
    let mut publisher = Publisher::at(now());
    let measurements = publisher.release([0, 1, 0], &REBUILDERS);
    let Some(mut both) = Both::new(&publisher) else { return };
    let trusted = publisher.trusted();
    let names: Vec<_> = trusted.targets().unwrap().keys().map(String::as_str).collect();
    let said = both.accept(&publisher, &names);
    let digest = Digest256::of(&measurements.to_bytes().unwrap()).to_string();
    assert_eq!(said["targets"][MEASUREMENTS], digest);
    assert_eq!(said["targets"].as_object().unwrap().len(), 6);
    let files = publisher.files();
    let path = files.keys().find(|path| path.ends_with(MEASUREMENTS)).unwrap().clone();
    let mut flipped = files.clone();
    flipped.get_mut(&path).unwrap()[100] ^= 1;
    publisher.set_files(flipped);
    both.refuse(&publisher, "LengthOrHashMismatchError", &[RELEASE, MEASUREMENTS]);
}

#[test]
fn the_reference_client_refuses_what_we_refuse() {
    let mut publisher = Publisher::at(now());
    let old = publisher.files();
    publisher.release([0, 1, 0], &REBUILDERS);
    let Some(mut both) = Both::new(&publisher) else { return };
    both.accept(&publisher, &[]);
    let right = publisher.files();
    // What was seen goes back.
    publisher.set_files(old);
    both.refuse(&publisher, "BadVersionNumberError", &[]);
    // A key of another role.
    publisher.set_files(right.clone());
    let bytes =
        resigned(&right["metadata/timestamp.json"], &[SNAPSHOT], |signed| signed["version"] = 9.into());
    publisher.put("metadata/timestamp.json", bytes);
    both.refuse(&publisher, "UnsignedMetadataError", &[]);
    // Its end has passed.
    let bytes = resigned(&right["metadata/timestamp.json"], &[TIMESTAMP], |signed| {
        signed["version"] = 3.into();
        signed["issued"] = "2020-01-01T00:00:00Z".into();
        signed["expires"] = "2020-01-02T00:00:00Z".into();
    });
    publisher.put("metadata/timestamp.json", bytes);
    both.refuse(&publisher, "ExpiredMetadataError", &[]);
}

#[test]
fn the_reference_client_follows_our_roots() {
    let mut publisher = Publisher::at(now());
    publisher.release([0, 1, 0], &REBUILDERS);
    let Some(mut both) = Both::new(&publisher) else { return };
    both.accept(&publisher, &[RELEASE]);
    let mut plan = RootPlan::after(&publisher.trusted(), publisher.now, publisher.now + 365 * DAY);
    plan.holders.insert(Role::Root, Holders { keys: public(&[4, 5, 6]), threshold: 2 });
    plan.holders.insert(Role::Timestamp, Holders { keys: public(&[13]), threshold: 1 });
    let right = publisher.files();
    let lone = signed(plan.unsigned().unwrap(), &[1, 4, 5]);
    publisher.put("metadata/2.root.json", lone);
    both.refuse(&publisher, "UnsignedMetadataError", &[]);
    let next = signed(plan.unsigned().unwrap(), &[1, 2, 4, 5]);
    publisher.set_files(right);
    publisher.put_root(2, next);
    publisher.online[1] = 13;
    publisher.publish(Vec::new());
    let said = both.accept(&publisher, &[RELEASE]);
    assert_eq!(said["versions"]["root"], 2);
}

/// Ours over HTTP, from a server that is not ours.
#[test]
fn a_plain_web_server_carries_a_publication() {
    let mut publisher = Publisher::at(now());
    publisher.release([0, 1, 0], &REBUILDERS);
    let Some(mut both) = Both::new(&publisher) else { return };
    both.write(&publisher);
    let mut command = both.python();
    command.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory", "repo", "0"]);
    let mut server = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let base = line.split(['(', ')']).nth(1).unwrap().to_owned();
    let mut http = Http::new(&base, Limits::default()).unwrap();
    let refreshed = both.ours.refresh(&mut http, publisher.now, Expiry::Enforce);
    let killed = server.kill();
    let _ = server.wait();
    killed.unwrap();
    refreshed.unwrap_or_else(|e| panic!("{base}: {e}"));
    assert_eq!(both.ours.versions(), [1, 2, 2, 2]);
}
