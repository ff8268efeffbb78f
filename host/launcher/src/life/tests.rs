//! Shell scripts play QEMU and the TPM emulator: each way in which a boot can go wrong, and what a waiter is told.

use super::play::{LONG, PRELUDE, SERVE, TPM};
use super::*;
use crate::settings::{Firmware, Image};
use crate::watch::MAX_PROGRESS;
use protocol::progress::Stage;
use tempfile::TempDir;

struct Play {
    dir: TempDir,
    qemu: String,
    tpm: &'static str,
    /// Port 0 asks QEMU's monitor, which scripts don't have.
    port: u16,
}

impl Play {
    fn new(qemu: &str) -> Self {
        Play { dir: tempfile::tempdir().unwrap(), qemu: format!("{PRELUDE}{qemu}"), tpm: TPM, port: 1 }
    }

    fn settings(&self) -> Settings {
        let vars = self.dir.path().join("vars");
        std::fs::write(&vars, "vars").unwrap();
        Settings {
            image: Image { uki: "/uki".into(), disk: None },
            firmware: Firmware { code: "/code".into(), vars: Some(vars) },
            vcpus: 1,
            memory_mib: 512,
            static_config: b"schema = 1".to_vec(),
            listen: std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, self.port),
            work_dir: self.dir.path().join("run"),
            ..crate::samples::settings()
        }
    }

    fn launch_with(&self, on_event: impl FnMut(&Event) + Send + 'static) -> Result<Guest, LaunchError> {
        let (qemu, tpm) = (self.qemu.clone(), self.tpm);
        let tools = move |name: &str| {
            let script = match name {
                "qemu-system-x86_64" => qemu.as_str(),
                "swtpm" => tpm,
                "swtpm_setup" => "exit 0",
                other => return Command::new(other),
            };
            let mut command = Command::new("sh");
            command.args(["-c", script, name]);
            command
        };
        launch(&self.settings(), tools, on_event)
    }

    fn launch(&self) -> Guest {
        self.launch_with(|_| ()).unwrap()
    }

    /// Whether the script that plays QEMU still runs.
    fn qemu_runs(&self) -> bool {
        let pid = std::fs::read_to_string(self.dir.path().join("run/pid")).unwrap();
        std::path::Path::new("/proc").join(pid.trim()).exists()
    }
}

fn failure_of(error: LaunchError) -> (Failure, String) {
    match error {
        LaunchError::Failed { failure, console, .. } => (failure, console),
        other => panic!("expected a failed guest, found {other}"),
    }
}

#[test]
fn a_serving_guest_is_seen_in_order_and_stopped_on_request() {
    let play = Play::new(SERVE);
    let (sender, events) = channel();
    let guest = play.launch_with(move |e| drop(sender.send(e.what.clone()))).unwrap();
    guest.wait_serving(LONG).unwrap();
    assert_eq!((guest.state(), guest.endpoint().port()), (State::Serving, 1));
    guest.stop().unwrap();
    let line = |uptime_ms, stage| What::Progress(Line { uptime_ms, stage });
    let expected = [
        What::State(State::Prepared),
        What::State(State::Booting),
        What::State(State::Attesting),
        line(5, Stage::Started),
        line(9, Stage::Serving { port: 8443 }),
        What::State(State::Serving),
        What::State(State::Stopped),
    ];
    assert_eq!(events.iter().collect::<Vec<_>>(), expected);
    assert!(!play.qemu_runs());
}

#[test]
fn qemu_that_ends_at_once_is_quoted() {
    let mut play = Play::new("echo 'no such machine' >&2; exit 1");
    let error = play.launch().wait_serving(LONG).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("qemu-system-x86_64 ended unasked (exit status: 1), last words:\n    no such machine"),
        "{text}"
    );
    play.port = 0;
    let text = play.launch_with(|_| ()).unwrap_err().to_string();
    assert!(
        text.starts_with("qemu-system-x86_64 ended at once (exit status: 1), last words:\n    no such"),
        "{text}"
    );
}

#[test]
fn a_silent_guest_is_ended_at_the_deadline() {
    let play = Play::new("echo 'still in firmware' >> \"$con\"; exec sleep 60");
    let guest = play.launch();
    let (failure, console) = failure_of(guest.wait_serving(Duration::from_millis(500)).unwrap_err());
    assert!(matches!(failure, Failure::Deadline { awaited: "serving", millis: 500, .. }), "{failure}");
    assert_eq!(console, "still in firmware");
    assert!(!play.qemu_runs(), "it was ended");
}

#[test]
fn each_sign_on_the_console_fails_fast() {
    for (words, _) in crate::watch::SIGNS {
        let play = Play::new(&format!(
            "echo 'first'; printf '\\033[0m%s: x\\r\\n' '{words}' >> \"$con\"; exec sleep 60"
        ));
        let started = Instant::now();
        let (failure, console) = failure_of(play.launch().wait_serving(LONG).unwrap_err());
        let expected = format!("{words}: x");
        assert!(
            matches!(failure, Failure::Console { sign, ref line, .. } if sign == *words && *line == expected)
        );
        assert_eq!(console, expected);
        assert!(started.elapsed() < LONG / 2, "it did not wait for the deadline");
    }
}

#[test]
fn a_failed_line_carries_step_and_reason() {
    let line = r#"{"uptime_ms":5,"stage":"failed","step":"model","reason":"root\u001b[2J is x"}"#;
    let play = Play::new(&format!("echo '{line}' >> \"$prog\"; exit 0"));
    let text = play.launch().wait_serving(LONG).unwrap_err().to_string();
    assert!(text.contains("step `model`: root [2J is x\nits console is empty"), "{text}");
}

#[test]
fn a_guest_that_fails_while_serving_is_failed() {
    let line = r#"{"uptime_ms":5,"stage":"failed","step":"worker","reason":"gone"}"#;
    let serve = SERVE.replace("exec sleep 60", &format!("sleep 0.2; echo '{line}' >> \"$prog\""));
    let play = Play::new(&serve);
    let guest = play.launch();
    guest.wait_serving(LONG).unwrap();
    let (failure, _) = failure_of(guest.wait_exit(LONG).unwrap_err());
    assert_eq!(failure, Failure::Guest { step: "worker".into(), reason: "gone".into() });
}

#[test]
fn a_guest_that_leaves_quietly_has_not_served() {
    let play = Play::new("exit 0");
    let guest = play.launch();
    guest.wait_exit(Duration::MAX).unwrap();
    let (failure, _) = failure_of(guest.wait_serving(LONG).unwrap_err());
    assert_eq!(failure, Failure::EndedEarly);
}

#[test]
fn a_flooding_guest_is_ended() {
    let play = Play::new("exec cat /dev/zero >> \"$prog\"");
    let (failure, _) = failure_of(play.launch().wait_serving(LONG).unwrap_err());
    assert_eq!(failure, Failure::Flood { what: "progress port", limit: MAX_PROGRESS });
    assert!(!play.qemu_runs());
}

#[test]
fn a_lost_tpm_ends_the_machine() {
    let mut play = Play::new("exec sleep 60");
    play.tpm =
        r#"for a; do case $a in type=unixio,path=*) : > "${a#*path=}";; esac; done; sleep 0.3; exit 7"#;
    let (failure, _) = failure_of(play.launch().wait_serving(LONG).unwrap_err());
    assert!(matches!(failure, Failure::Ended { process: "swtpm", .. }), "{failure}");
    assert!(!play.qemu_runs());
}

#[test]
fn a_tpm_that_does_not_start_is_quoted() {
    let mut play = Play::new("exec sleep 60");
    play.tpm = "echo 'no libtpms' >&2; exit 1";
    let text = play.launch_with(|_| ()).unwrap_err().to_string();
    assert_eq!(text, "swtpm ended at once (exit status: 1), last words:\n    no libtpms");
}

#[test]
fn dropping_a_guest_kills_it() {
    let play = Play::new("exec sleep 60");
    let guest = play.launch();
    // The file is there before the number is in it.
    let told =
        || std::fs::read_to_string(play.dir.path().join("run/pid")).is_ok_and(|pid| pid.ends_with('\n'));
    while !told() {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(guest);
    assert!(!play.qemu_runs());
}

#[test]
fn two_guests_from_one_folder_are_refused() {
    let play = Play::new("exec sleep 60");
    let guest = play.launch();
    let text = play.launch_with(|_| ()).unwrap_err().to_string();
    assert!(text.contains("run is in use by another guest"), "{text}");
    drop(guest);
    drop(play.launch());
}

#[test]
fn a_missing_tool_is_named() {
    let play = Play::new("");
    let error = launch(&play.settings(), |_| Command::new("/nowhere/tool"), |_| ()).unwrap_err().to_string();
    assert!(error.starts_with("cp could not be started (No such file"), "{error}");
}

#[test]
fn a_panicking_callback_ends_the_guest_and_wakes_its_waiter() {
    let play = Play::new(SERVE);
    let guest = play.launch_with(|e| assert_ne!(e.what, What::State(State::Serving))).unwrap();
    let (failure, _) = failure_of(guest.wait_exit(LONG).unwrap_err());
    assert_eq!(failure, Failure::Unsupervised);
    drop(guest);
    assert!(!play.qemu_runs());
}

#[test]
fn an_event_is_one_flat_json_object() {
    let line = Line { uptime_ms: 5, stage: Stage::Started };
    let json = |what| serde_json::to_string(&Event { at_ms: 7, what }).unwrap();
    assert_eq!(json(What::State(State::Booting)), r#"{"at_ms":7,"state":"booting"}"#);
    let progress = r#"{"at_ms":7,"progress":{"uptime_ms":5,"stage":"started"}}"#;
    assert_eq!(json(What::Progress(line)), progress);
}
