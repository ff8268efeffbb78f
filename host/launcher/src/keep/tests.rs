//! Shell scripts play QEMU: a machine that fails, leaves, drains and is exchanged, and what a keeper makes of each.

use super::*;
use crate::gpu::chip::Mode;
use crate::gpu::fake::{Fake, Fault, GPUS};
use crate::life::play::{LONG, PRELUDE, SERVE, TPM};
use crate::machine::{After, PciAddress, Placement, Platform, QuoteService, TrustDomain};
use crate::settings::{Firmware, Image, Life};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tempfile::TempDir;

/// What a play of each image does, by the name of the image.
type Script = dyn Fn(&str) -> String + Send + Sync;

struct Staged {
    dir: PathBuf,
    life: Life,
    platform: Platform,
    adopted: Arc<Mutex<Vec<PathBuf>>>,
    starts: Arc<Mutex<Vec<String>>>,
    script: Arc<Script>,
    gate: Arc<Gate>,
}

impl Plan for Staged {
    fn settle(&self, image: Option<&Path>) -> Settle {
        let present = image.map_or("old".into(), |path| path.display().to_string());
        let (gate, platform, life, dir) =
            (Arc::clone(&self.gate), self.platform.clone(), self.life, self.dir.join("run"));
        Box::new(move || {
            match present.as_str() {
                "unpublished" => {
                    return Err(LaunchError::Unprepared { reason: "no accepted release has it".into() });
                }
                // Until a test lets it go.
                "slow" => {
                    gate.reached.store(true, Ordering::SeqCst);
                    drop(gate.shut.lock().unwrap());
                }
                "panics" => panic!("made to panic"),
                _ => {}
            }
            Ok(Settings {
                platform,
                image: Image { uki: format!("{present}/uki").into(), disk: None },
                firmware: Firmware { code: "/code".into(), vars: None },
                placement: Placement::default(),
                life,
                listen: "127.0.0.1:1".parse().unwrap(),
                work_dir: dir,
                ..crate::samples::settings()
            })
        })
    }

    fn starts(&mut self, _: &Settings) -> Result<(), LaunchError> {
        Ok(())
    }

    fn started(&mut self, _: &Guest, settings: &Settings) -> Result<(), LaunchError> {
        self.starts.lock().unwrap().push(settings.image.uki.parent().unwrap().display().to_string());
        Ok(())
    }

    fn event(&mut self, _: &Event) {}

    fn adopt(&mut self, image: &Path) -> Result<(), LaunchError> {
        self.adopted.lock().unwrap().push(image.into());
        Ok(())
    }

    fn tools(&self) -> Box<dyn Fn(&str) -> Command + Send> {
        let script = Arc::clone(&self.script);
        Box::new(move |name| {
            let mut command = Command::new("sh");
            // The image is the last word that QEMU is told.
            let dispatch = |script: &Script| {
                let cases: String = ["old", "new", "bad", "slow"]
                    .map(|image| format!("*/{image}/uki|{image}/uki) {} ;;\n", script(image)))
                    .concat();
                format!(
                    "[ \"$1\" = --version ] && {{ echo QEMU emulator version 10.2.0; exit; }}; {PRELUDE} for last; do :; done; case $last in\n{cases} esac"
                )
            };
            let words = match name {
                "qemu-system-x86_64" => dispatch(&*script),
                "swtpm" => TPM.to_owned(),
                _ => "exit 0".to_owned(),
            };
            command.args(["-c", &words, name]);
            command
        })
    }

    fn say(&mut self, words: &str) {
        eprintln!("    {words}");
    }
}

/// Where the foretelling of `slow` stops for as long as a test holds the lock.
#[derive(Default)]
struct Gate {
    shut: Mutex<()>,
    reached: AtomicBool,
}

/// A keeper that runs in a thread of its own.
struct Kept {
    dir: TempDir,
    sender: Sender<Signal>,
    adopted: Arc<Mutex<Vec<PathBuf>>>,
    starts: Arc<Mutex<Vec<String>>>,
    gate: Arc<Gate>,
    thread: Option<JoinHandle<Result<(), LaunchError>>>,
}

impl Kept {
    fn start(life: Life, script: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Kept::on(tempfile::tempdir().unwrap(), HostDirs::default(), Platform::Emulated, life, script)
    }

    fn on(
        dir: TempDir,
        host: HostDirs,
        platform: Platform,
        life: Life,
        script: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Self {
        let (adopted, starts, gate) = (Arc::default(), Arc::default(), Arc::default());
        let mut plan = Staged {
            dir: dir.path().into(),
            life,
            platform,
            adopted: Arc::clone(&adopted),
            starts: Arc::clone(&starts),
            script: Arc::new(script),
            gate: Arc::clone(&gate),
        };
        let (sender, inbox) = signals();
        let ours = sender.clone();
        let thread = std::thread::spawn(move || keep(&mut plan, &host, (ours, inbox)));
        Kept { dir, sender, adopted, starts, gate, thread: Some(thread) }
    }

    fn run(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// Asks as `chrysalis machine` does, once there is somebody to ask.
    fn ask(&self, question: &Ask) -> Reply {
        let until = Instant::now() + LONG;
        loop {
            if let Ok((status, true)) = read_status(&self.run())
                && let Ok(reply) = ask(&status.control, question)
            {
                return reply;
            }
            assert!(Instant::now() < until, "nobody answers");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn status(&self) -> Status {
        match self.ask(&Ask::Status) {
            Reply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    fn wait(&self, what: &str, mut done: impl FnMut(&Status) -> bool) -> Status {
        let until = Instant::now() + LONG;
        loop {
            let status = self.status();
            if done(&status) {
                return status;
            }
            assert!(Instant::now() < until, "never {what}: {status:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn serving(&self) -> Status {
        self.wait("serving", |status| status.step == Step::Machine(State::Serving))
    }

    fn upgrade(&self, image: &str) -> Reply {
        self.ask(&Ask::Upgrade { image: image.into() })
    }

    /// Waits for the end; the folder stays for as long as `self` does.
    fn over(&mut self) -> Result<(), LaunchError> {
        self.thread.take().unwrap().join().unwrap()
    }

    fn end(mut self) -> Result<(), LaunchError> {
        self.over()
    }
}

fn life(restart: Restart, attempts: u32) -> Life {
    // These guests have no control port, so a drain ends them at once.
    Life { restart, attempts, boot: LONG, drain: Duration::from_millis(50) }
}

fn serve(_: &str) -> String {
    SERVE.into()
}

#[test]
fn a_kept_machine_tells_how_it_stands_and_stops_when_asked() {
    let kept = Kept::start(life(Restart::Never, 1), serve);
    let status = kept.serving();
    assert_eq!((status.starts, status.last_failure.as_deref()), (1, None));
    assert_eq!((status.image.as_path(), status.endpoint.is_some()), (Path::new("old"), true));
    assert_eq!(kept.ask(&Ask::Stop { now: false }), Reply::Done);
    kept.end().unwrap();
}

#[test]
fn a_signal_drains_and_the_record_says_that_nobody_keeps_it() {
    let mut kept = Kept::start(life(Restart::Always, 5), serve);
    kept.serving();
    kept.sender.send(Signal::Told).unwrap();
    kept.over().unwrap();
    let (status, lives) = read_status(&kept.run()).unwrap();
    assert_eq!((status.step, lives, status.starts), (Step::Stopped, false, 1));
}

#[test]
fn a_machine_that_fails_is_started_again_and_given_up_with_reports() {
    let mut kept = Kept::start(life(Restart::OnFailure, 2), |_| "exit 3".into());
    let error = kept.over().unwrap_err();
    assert!(error.to_string().contains("ended unasked (exit status: 3)"), "{error}");
    assert_eq!(kept.starts.lock().unwrap().len(), 2);
    assert_eq!(std::fs::read_dir(kept.run().join(CRASHES)).unwrap().count(), 2);
    let (status, lives) = read_status(&kept.run()).unwrap();
    assert_eq!((status.step, lives), (Step::Failed, false));
}

#[test]
fn a_machine_that_is_killed_comes_back() {
    let kept = Kept::start(life(Restart::OnFailure, 5), serve);
    kept.serving();
    let pid = std::fs::read_to_string(kept.run().join("pid")).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let status = kept.wait("back", |s| s.starts == 2 && s.step == Step::Machine(State::Serving));
    assert!(status.last_failure.unwrap().contains("signal: 9"));
    kept.sender.send(Signal::Told).unwrap();
    kept.end().unwrap();
}

#[test]
fn a_machine_that_never_serves_is_ended_at_its_limit() {
    let mut limits = life(Restart::Never, 1);
    limits.boot = Duration::from_millis(300);
    let error = Kept::start(limits, |_| "exec sleep 60".into()).end().unwrap_err();
    assert!(error.to_string().contains("no `serving` within 300 ms"), "{error}");
}

#[test]
fn an_upgrade_that_serves_is_adopted() {
    let kept = Kept::start(life(Restart::Never, 1), serve);
    kept.serving();
    assert_eq!(kept.upgrade("new"), Reply::Done);
    assert_eq!(*kept.starts.lock().unwrap(), ["old", "new"]);
    assert_eq!(*kept.adopted.lock().unwrap(), [PathBuf::from("new")]);
    assert_eq!(kept.serving().image, Path::new("new"));
    kept.sender.send(Signal::Told).unwrap();
    kept.end().unwrap();
}

#[test]
fn an_upgrade_that_does_not_serve_is_rolled_back() {
    let script = |image: &str| if image == "bad" { "exit 3".into() } else { SERVE.into() };
    let kept = Kept::start(life(Restart::Never, 1), script);
    kept.serving();
    let Reply::RolledBack { reason } = kept.upgrade("bad") else { panic!("not rolled back") };
    assert!(reason.contains("exit status: 3"), "{reason}");
    assert_eq!(*kept.starts.lock().unwrap(), ["old", "bad", "old"]);
    assert!(kept.adopted.lock().unwrap().is_empty());
    assert_eq!(kept.serving().image, Path::new("old"));
    kept.sender.send(Signal::Told).unwrap();
    kept.end().unwrap();
}

#[test]
fn an_upgrade_that_may_not_run_changes_nothing() {
    let kept = Kept::start(life(Restart::Never, 1), serve);
    kept.serving();
    let Reply::Refused { reason } = kept.upgrade("unpublished") else { panic!("not refused") };
    assert!(reason.contains("no accepted release has it") && reason.contains("unchanged"), "{reason}");
    assert_eq!(kept.serving().starts, 1);
    kept.sender.send(Signal::Told).unwrap();
    kept.end().unwrap();
}

/// Asks for an upgrade from another thread, as somebody who waits.
fn asked(kept: &Kept, image: &'static str) -> JoinHandle<Reply> {
    let socket = kept.status().control;
    std::thread::spawn(move || ask(&socket, &Ask::Upgrade { image: image.into() }).unwrap())
}

/// Waits until `slow` is being foretold.
fn under_way(kept: &Kept) {
    let until = Instant::now() + LONG;
    while !kept.gate.reached.load(Ordering::SeqCst) {
        assert!(Instant::now() < until, "never under way");
        std::thread::sleep(Duration::from_millis(5));
    }
    let Reply::Refused { reason } = kept.upgrade("new") else { panic!("not refused") };
    assert!(reason.contains("another upgrade"), "{reason}");
}

#[test]
fn status_and_stop_are_answered_while_an_upgrade_is_foretold() {
    let mut kept = Kept::start(life(Restart::Never, 1), serve);
    kept.serving();
    let gate = Arc::clone(&kept.gate);
    let shut = gate.shut.lock().unwrap();
    let upgrade = asked(&kept, "slow");
    under_way(&kept);
    let status = kept.status();
    assert_eq!((status.step, status.image.as_path()), (Step::Machine(State::Serving), Path::new("old")));
    assert_eq!(kept.ask(&Ask::Stop { now: false }), Reply::Done);
    let Reply::Refused { reason } = upgrade.join().unwrap() else { panic!("not refused") };
    assert!(reason.contains("told to end before the new machine was foretold"), "{reason}");
    kept.over().unwrap();
    drop(shut);
    assert_eq!(*kept.starts.lock().unwrap(), ["old"]);
}

#[test]
fn an_upgrade_that_was_long_foretold_goes_on_once_it_is() {
    let kept = Kept::start(life(Restart::Never, 1), serve);
    kept.serving();
    let gate = Arc::clone(&kept.gate);
    let shut = gate.shut.lock().unwrap();
    let upgrade = asked(&kept, "slow");
    under_way(&kept);
    drop(shut);
    assert_eq!(upgrade.join().unwrap(), Reply::Done);
    assert_eq!(kept.serving().image, Path::new("slow"));
    kept.sender.send(Signal::Told).unwrap();
    kept.end().unwrap();
}

#[test]
fn an_upgrade_whose_foretelling_panics_is_refused_and_the_machine_serves_on() {
    let kept = Kept::start(life(Restart::Never, 1), serve);
    kept.serving();
    let Reply::Refused { reason } = kept.upgrade("panics") else { panic!("not refused") };
    assert!(reason.contains("report this as a defect"), "{reason}");
    assert_eq!(kept.serving().starts, 1);
    assert_eq!(kept.upgrade("new"), Reply::Done);
    kept.sender.send(Signal::Told).unwrap();
    kept.end().unwrap();
}

#[test]
fn two_keepers_of_one_folder_are_refused_and_the_first_is_undisturbed() {
    let kept = Kept::start(life(Restart::Never, 1), serve);
    kept.serving();
    let mut second = Staged {
        dir: kept.dir.path().into(),
        life: life(Restart::Never, 1),
        platform: Platform::Emulated,
        adopted: Arc::default(),
        starts: Arc::default(),
        script: Arc::new(serve),
        gate: Arc::default(),
    };
    let error = keep(&mut second, &HostDirs::default(), signals()).unwrap_err().to_string();
    assert!(error.contains("is in use by another guest"), "{error}");
    assert_eq!(kept.serving().pid, std::process::id());
    kept.sender.send(Signal::Told).unwrap();
    kept.end().unwrap();
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing_half_done() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    std::fs::create_dir(&run).unwrap();
    // Every write to it fails as on a full disk.
    std::os::unix::fs::symlink("/dev/full", run.join("handoff.img")).unwrap();
    let mut kept = Kept::on(dir, HostDirs::default(), Platform::Emulated, life(Restart::Never, 1), serve);
    let error = kept.over().unwrap_err().to_string();
    assert!(
        error.contains("handoff.img") && error.contains("No space left") && error.contains("room"),
        "{error}"
    );
    assert!(kept.starts.lock().unwrap().is_empty());
}

/// A trust domain with a GPU of a fake PCI tree.
struct Host {
    fake: Arc<Fake>,
    dirs: HostDirs,
    domain: TrustDomain,
    qgs: Option<UnixListener>,
}

impl Host {
    fn new() -> Self {
        let fake = Arc::new(Fake::new());
        fake.all_in(Mode::On);
        let at = |name: &str| fake.dir.path().join(name);
        let dirs = HostDirs { sysfs: Arc::clone(&fake) as _, dev: at("dev"), locks: at("state") };
        std::fs::create_dir_all(&dirs.dev).unwrap();
        for name in ["kvm", "iommu", "vhost-vsock"] {
            std::fs::write(dirs.dev.join(name), "").unwrap();
        }
        let mut domain = crate::samples::domain(1, 0);
        domain.gpus = vec![PciAddress::parse(GPUS[0]).unwrap()];
        domain.quotes = QuoteService::Unix(at("qgs"));
        domain.gpus_after = After::GiveBack;
        let qgs = Some(UnixListener::bind(at("qgs")).unwrap());
        Host { fake, dirs, domain, qgs }
    }

    fn keep(&self, life: Life, script: impl Fn(&str) -> String + Send + Sync + 'static) -> Kept {
        let platform = Platform::Tdx(self.domain.clone());
        Kept::on(tempfile::tempdir().unwrap(), self.dirs.clone(), platform, life, script)
    }

    fn driver(&self) -> Option<String> {
        self.fake.seen().into_iter().find(|device| device.address == GPUS[0])?.driver
    }
}

#[test]
fn a_gpu_is_the_machines_while_it_lives_and_goes_back_when_it_is_over() {
    let host = Host::new();
    let before = host.fake.seen();
    let kept = host.keep(life(Restart::Never, 1), serve);
    kept.serving();
    assert_eq!(host.driver().as_deref(), Some("vfio-pci"));
    assert_eq!(kept.ask(&Ask::Stop { now: true }), Reply::Done);
    kept.end().unwrap();
    assert_eq!(host.fake.seen(), before);
}

#[test]
fn a_gpu_goes_back_when_qemu_is_killed_or_does_not_start() {
    for script in ["exit 3", "kill -9 $$"] {
        let host = Host::new();
        let before = host.fake.seen();
        host.keep(life(Restart::OnFailure, 2), move |_| script.into()).end().unwrap_err();
        assert_eq!(host.fake.seen(), before, "{script}");
    }
}

#[test]
fn a_gpu_stays_with_vfio_where_the_settings_say_so() {
    let mut host = Host::new();
    host.domain.gpus_after = After::Keep;
    for _ in 0..2 {
        let kept = host.keep(life(Restart::Never, 1), serve);
        kept.serving();
        kept.sender.send(Signal::Told).unwrap();
        kept.end().unwrap();
        assert_eq!(host.driver().as_deref(), Some("vfio-pci"));
    }
}

#[test]
fn two_launchers_on_one_gpu_are_refused_and_the_first_serves_on() {
    let host = Host::new();
    let first = host.keep(life(Restart::Never, 1), serve);
    first.serving();
    let error = host.keep(life(Restart::Never, 1), serve).end().unwrap_err().to_string();
    assert!(
        error.contains("in use by another launcher") && error.contains("chrysalis machine status"),
        "{error}"
    );
    assert_eq!(first.serving().starts, 1);
    assert_eq!(host.driver().as_deref(), Some("vfio-pci"), "the refused one gave nothing back");
    first.sender.send(Signal::Told).unwrap();
    first.end().unwrap();
}

#[test]
fn a_gpu_that_can_not_be_taken_ends_the_launch_with_everything_as_before() {
    for at in 0..8 {
        let host = Host::new();
        let before = host.fake.seen();
        *host.fake.fault.lock().unwrap() = Some((at, Fault::Fails));
        let error = host.keep(life(Restart::Never, 1), serve).end().unwrap_err().to_string();
        assert!(error.contains("made to fail") && error.contains("as they were before"), "{at}: {error}");
        assert_eq!(host.fake.seen(), before, "{at}");
    }
}

#[test]
fn a_gpu_that_can_not_be_given_back_is_told() {
    let host = Host::new();
    let kept = host.keep(life(Restart::Never, 1), serve);
    kept.serving();
    // The next write is the first of the way back.
    *host.fake.dead.lock().unwrap() = true;
    kept.sender.send(Signal::Told).unwrap();
    let mut kept = kept;
    kept.over().unwrap();
    let (status, _) = read_status(&kept.run()).unwrap();
    let failure = status.last_failure.unwrap();
    assert!(failure.contains("chrysalis gpu restore"), "{failure}");
}

#[test]
fn a_gpu_that_vanishes_ends_the_machine_with_the_next_step() {
    let host = Host::new();
    let kept = host.keep(life(Restart::Never, 1), serve);
    kept.serving();
    std::fs::remove_dir_all(host.fake.device(GPUS[0])).unwrap();
    let error = kept.end().unwrap_err().to_string();
    assert!(
        error.contains("0000:17:00.0 vanished") && error.contains("reset or restart the host"),
        "{error}"
    );
}

#[test]
fn a_quote_service_that_stops_is_told_and_the_machine_serves_on() {
    let mut host = Host::new();
    let socket = host.fake.dir.path().join("qgs");
    let kept = host.keep(life(Restart::Never, 1), serve);
    assert!(!kept.serving().quotes_missing);
    drop(host.qgs.take());
    kept.wait("missed", |status| status.quotes_missing);
    std::fs::remove_file(&socket).unwrap();
    let _back = UnixListener::bind(&socket).unwrap();
    let status = kept.wait("back", |status| !status.quotes_missing);
    assert_eq!((status.step, status.starts), (Step::Machine(State::Serving), 1));
    kept.sender.send(Signal::Told).unwrap();
    kept.end().unwrap();
}
