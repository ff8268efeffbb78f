//! A daemon as a process on a SIMULATED machine, which can be killed and started again in the same place.

use crate::support::{Site, play};
use protocol::Attester;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a process may take for what is expected of it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// One machine: its folder stays when its daemon is killed.
pub struct Machine {
    folder: tempfile::TempDir,
    programs: tempfile::TempDir,
    /// Static configuration without its trust section.
    config: String,
    dial: Vec<SocketAddr>,
    lite: SocketAddr,
    /// The same port each time, once it is known.
    pub address: Option<SocketAddr>,
    child: Option<Child>,
    stop: Arc<AtomicBool>,
}

impl Machine {
    /// A machine of `program`, not started yet; it believes guests of `site`.
    pub fn new(program: &Path, site: &Site, config: &str, dial: &[SocketAddr], lite: SocketAddr) -> Machine {
        let folder = tempfile::tempdir().unwrap();
        for name in ["tsm", "trust", "models", "state"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let trust = site.handed(&site.reference(), &folder.path().join("trust"));
        // Linked, never copied: a copy could not be run while another thread's child held it open for writing.
        let programs = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        fs::hard_link(program, programs.path().join("daemon")).unwrap();
        fs::write(programs.path().join("SIMULATED"), "").unwrap();
        let config = format!("{config}{trust}");
        let (dial, stop) = (dial.to_vec(), Arc::default());
        let machine = Machine { folder, programs, config, dial, lite, address: None, child: None, stop };
        machine.boot(site);
        machine
    }

    /// Its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the platform gives it, as files.
    fn boot(&self, site: &Site) {
        let attester = site.attester(self.config.as_bytes());
        fs::write(self.path("tpm-log"), attester.event_log().unwrap().bytes).unwrap();
        fs::write(self.path("runtime"), attester.runtime().unwrap()).unwrap();
        fs::write(self.path("static.toml"), &self.config).unwrap();
        let dial: Vec<String> = self.dial.iter().map(ToString::to_string).collect();
        let runtime =
            format!("schema = 1\naddress = \"127.0.0.1/8\"\ndial = {dial:?}\nledger = [\"{}\"]\n", self.lite);
        fs::write(self.path("runtime.toml"), runtime).unwrap();
        let (base, stopping) = (self.path("tsm"), self.stop.clone());
        std::thread::spawn(move || play(&base, attester.as_ref(), &stopping));
    }

    /// Starts the daemon and waits until it serves; `more` are options with a name in its folder.
    pub fn start(&mut self, more: &[(&str, &str)]) -> SocketAddr {
        let socket = self.path("notify");
        let _ = fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command = Command::new(self.programs.path().join("daemon"));
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
        self.child = Some(command.spawn().unwrap());
        let mut word = [0; 64];
        let said = notify.recv(&mut word);
        assert!(said.is_ok(), "the daemon does not serve: {}", self.log());
        let address = until("the daemon to say where it serves", || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains("serving"))?;
            line.split([' ', ';']).find_map(|word| word.parse().ok())
        });
        self.address = Some(address);
        address
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
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
        self.stop.store(true, Ordering::Relaxed);
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- a daemon's log:\n{}", self.log());
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
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
