//! A daemon as a process on a SIMULATED machine, which can be killed and started again in the same place.

use crate::stage::Stage;
use crate::support::{Site, play};
use protocol::Attester;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a process may take for what is expected of it.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Lines of a log that are shown when the play fails.
const LAST: usize = 12;

/// Set when the play was told to end: whoever waits gives up.
pub static STOPPED: AtomicBool = AtomicBool::new(false);

/// One machine: its folder stays when its daemon is killed.
pub struct Machine {
    name: String,
    folder: TempDir,
    programs: TempDir,
    /// Static configuration.
    config: String,
    dial: Vec<SocketAddr>,
    lite: SocketAddr,
    /// The same port each time, once it is known.
    pub address: Option<SocketAddr>,
    child: Option<Child>,
    stop: Arc<AtomicBool>,
    platform: Option<JoinHandle<()>>,
    outlives_limits: bool,
}

impl Machine {
    /// A machine of `program`, not started yet; it believes whom the stage accepts. `config` lacks the trust section.
    pub fn new(stage: &Stage, name: &str, program: &Path, config: &str, dial: &[SocketAddr]) -> Machine {
        let prefix = format!("{}-", name.replace(' ', "-"));
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(stage.folder.path()).unwrap();
        for name in ["tsm", "trust", "models", "state"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let trust = stage.handed(&folder.path().join("trust"));
        // Linked, never copied: a copy could not be run while another thread's child held it open for writing.
        let programs = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        fs::hard_link(program, programs.path().join("daemon")).unwrap();
        fs::write(programs.path().join("SIMULATED"), "").unwrap();
        let mut machine = Machine {
            name: name.into(),
            folder,
            programs,
            config: format!("{config}{trust}"),
            dial: dial.to_vec(),
            lite: stage.at,
            address: None,
            child: None,
            stop: Arc::default(),
            platform: None,
            outlives_limits: false,
        };
        machine.boot(&stage.site);
        machine
    }

    /// Its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the platform gives it, as files.
    fn boot(&mut self, site: &Site) {
        let attester = site.attester(self.config.as_bytes());
        fs::write(self.path("tpm-log"), attester.event_log().unwrap().bytes).unwrap();
        fs::write(self.path("runtime"), attester.runtime().unwrap()).unwrap();
        fs::write(self.path("static.toml"), &self.config).unwrap();
        let dial: Vec<String> = self.dial.iter().map(ToString::to_string).collect();
        let runtime =
            format!("schema = 1\naddress = \"127.0.0.1/8\"\ndial = {dial:?}\nledger = [\"{}\"]\n", self.lite);
        fs::write(self.path("runtime.toml"), runtime).unwrap();
        let (base, stopping) = (self.path("tsm"), self.stop.clone());
        self.platform = Some(std::thread::spawn(move || play(&base, attester.as_ref(), &stopping)));
    }

    /// Starts the daemon and waits until it serves; `more` are options with a name in its folder.
    pub fn start(&mut self, more: &[(&str, &str)]) -> SocketAddr {
        let socket = self.path("notify");
        let _ = fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).unwrap();
        notify.set_nonblocking(true).unwrap();
        let mut command = self.command();
        let shared = [
            ("--config", "static.toml"),
            ("--runtime-config", "runtime.toml"),
            ("--trust", "trust"),
            ("--progress", "progress"),
            ("--tsm", "tsm"),
            ("--ccel", "no-ccel"),
            ("--tpm-log", "tpm-log"),
            ("--runtime", "runtime"),
        ];
        for (option, name) in shared.iter().chain(more) {
            command.arg(option).arg(self.path(name));
        }
        let listen = self.address.map_or("127.0.0.1:0".to_owned(), |address| address.to_string());
        let log = File::create(self.path("log")).unwrap();
        command.args(["--listen", &listen]).env("NOTIFY_SOCKET", &socket).stdin(Stdio::null()).stderr(log);
        let (name, child) = (&self.name, self.child.insert(command.spawn().unwrap()));
        until(&format!("{name} to serve"), || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{name} ended with {status} before it served");
            }
            notify.recv(&mut [0; 64]).ok()
        });
        let address = until(&format!("{} to say where it serves", self.name), || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains("serving"))?;
            line.split([' ', ';']).find_map(|word| word.parse().ok())
        });
        self.address = Some(address);
        address
    }

    fn command(&self) -> Command {
        let program = self.programs.path().join("daemon");
        if !self.outlives_limits {
            return Command::new(program);
        }
        // SIGXFSZ (25) is ignored, and stays so over exec.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "trap '' 25; exec \"$0\" \"$@\""]).arg(program);
        command
    }

    /// From its next start on, a file that may not grow is to it as a full disk is: an error, and no signal.
    pub fn outlives_limits(&mut self) {
        self.outlives_limits = true;
    }

    /// No file of its may grow beyond so many bytes.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let child = self.child.as_ref().expect("a daemon that runs");
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(Pid::from_child(child)), Resource::Fsize, limit).unwrap();
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Stops it in the middle of whatever it does (SIGSTOP); nobody is told, its connections stay.
    pub fn freeze(&mut self) {
        let child = self.child.as_ref().expect("a daemon that runs");
        kill_process(Pid::from_child(child), Signal::STOP).unwrap();
    }

    /// Kills it at once (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
        self.stop.store(true, Ordering::Relaxed);
        if let Some(platform) = self.platform.take() {
            let _ = platform.join();
        }
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(LAST)..].join("\n    ");
            eprintln!("--- {}, {}:\n    {last}", self.name, self.path("log").display());
        }
    }
}

/// Asks again until there is an answer.
pub fn until<T>(what: &str, mut asked: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = asked() {
            return found;
        }
        assert!(!STOPPED.load(Ordering::Relaxed), "told to end while waiting for {what}");
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
