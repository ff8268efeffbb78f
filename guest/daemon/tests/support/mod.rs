//! A daemon as a process, on a SIMULATED platform that plays configfs-tsm's files, with the service manager's socket and
//! the progress relay's; and the other guests of that platform, in the test's own process.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use evidence::gpu::GpuCollateral;
use evidence::{Collateral, Policy, Reference};
use protocol::channel::Part;
use protocol::config::file_hash;
use protocol::evidence::EventLog;
use protocol::handoff::GPU_COLLATERAL_FILE;
use protocol::progress::Stage;
use protocol::{AttestError, Attester, Digest384};
use ratls::{Endpoint, QuoteLimits, QuoteQueue, Trust, Verifier};
use simulator::{Guest, Identity, Options, Platform};
use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a process may take for what is expected of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// One simulated platform, which is valid now; all its guests are of one release.
pub struct Site {
    identity: Identity,
    root: Vec<u8>,
    collateral: Collateral,
}

impl Site {
    pub fn new() -> Self {
        let platform = Platform::with(Options::valid(now(), 2)).unwrap();
        let (root, collateral) = (platform.root_der().unwrap(), platform.collateral().unwrap());
        Site { identity: platform.identity().unwrap(), root, collateral }
    }

    /// The platform whose keys `chrysalis-simulator pki` wrote to this folder.
    pub fn of(folder: &Path) -> Self {
        let read = |name: &str| fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        Site {
            identity: Identity::from_bytes(&read("identity.bin")).unwrap(),
            root: read("root.der"),
            collateral: Collateral::parse(&read("collateral.json")).unwrap(),
        }
    }

    /// The guest's side of a machine with this configuration.
    pub fn attester(&self, static_config: &[u8]) -> Arc<Simulated> {
        Arc::new(Simulated(Guest::boot(self.identity.clone(), static_config, &[]).unwrap()))
    }

    /// An end in this process that is such a machine.
    pub fn endpoint(&self, part: Part, static_config: &str) -> Arc<Endpoint> {
        Arc::new(self.end(part, static_config))
    }

    /// The same, before it is shared.
    pub fn end(&self, part: Part, static_config: &str) -> Endpoint {
        let quotes = QuoteQueue::new(self.attester(static_config.as_bytes()), QuoteLimits::default());
        Endpoint::attested(part, quotes, static_config.into())
    }

    /// Reference values of the release that its guests are of.
    pub fn reference(&self) -> Reference {
        simulator::reference().unwrap()
    }

    /// Reference values of a release that none of its guests is of.
    pub fn other_reference(&self) -> Reference {
        let mut reference = self.reference();
        reference.releases[0].rtmr2 = Digest384([7; 48]);
        reference
    }

    /// What verifies its guests in this process.
    pub fn verifier(&self) -> Arc<Verifier> {
        let policy = Policy::simulated(&self.root).unwrap();
        let trust = Trust::new(policy, self.collateral.clone(), self.reference());
        Arc::new(Verifier::new(trust, now))
    }

    /// The files that a guest of it is handed, and the section that names them.
    pub fn handed(&self, reference: &Reference, folder: &Path) -> String {
        let reference = serde_json::to_vec(reference).unwrap();
        fs::write(folder.join("reference-0.json"), &reference).unwrap();
        self.handed_with(&format!("references = [\"{}\"]", file_hash(&reference)), folder)
    }

    /// The same, where this line says what is accepted.
    pub fn handed_with(&self, accepted: &str, folder: &Path) -> String {
        fs::write(folder.join("simulated-root.der"), &self.root).unwrap();
        fs::write(folder.join("collateral.json"), self.collateral.to_json()).unwrap();
        format!(
            "[trust]\npolicy = 'schema = 1\nplatform = \"simulated\"\nroot = \"root.der\"\n'\n{accepted}\n\
             simulated_root = \"{}\"\nnot_before = {}\n",
            file_hash(&self.root),
            now() - 60,
        )
        .replace('\'', "'''")
    }
}

/// A SIMULATED machine.
pub struct Simulated(Guest);

impl Attester for Simulated {
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        Ok(self.0.quote(report_data))
    }

    fn event_log(&self) -> Result<EventLog, AttestError> {
        Ok(self.0.event_log())
    }

    fn runtime(&self) -> Result<Vec<u8>, AttestError> {
        Ok(self.0.runtime())
    }
}

/// Plays the kernel's side of configfs-tsm until told to stop.
pub fn play(base: &Path, attester: &dyn Attester, stop: &AtomicBool) {
    let (mut made, mut done) = (HashSet::new(), HashSet::new());
    while !stop.load(Ordering::Relaxed) {
        for entry in fs::read_dir(base).unwrap().flatten().map(|entry| entry.path()) {
            // An entry may be removed at any moment; what can't be written then is not missed.
            if made.insert(entry.clone()) {
                for (file, text) in
                    [("outblob", ""), ("inblob", ""), ("generation", "0\n"), ("provider", "tdx_guest\n")]
                {
                    let _ = fs::write(entry.join(file), text);
                }
            }
            let asked =
                fs::read(entry.join("inblob")).ok().and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
            if let Some(report_data) = asked.filter(|_| done.insert(entry.clone())) {
                let _ = fs::write(entry.join("outblob"), attester.quote(&report_data).unwrap());
                let _ = fs::write(entry.join("generation"), "1\n");
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a daemon is started with; the folder is where everything of it lies.
pub struct Setup {
    pub folder: tempfile::TempDir,
    /// Holds the program, and the marker that is looked for beside it.
    programs: tempfile::TempDir,
    /// Static configuration, without its trust section.
    pub config: String,
    pub trust: Option<String>,
    pub dial: Vec<SocketAddr>,
    /// Further lines of the runtime configuration.
    pub runtime: String,
    /// Whether the program lies beside the marker of the debug profile.
    pub marked: bool,
}

impl Setup {
    pub fn new(program: &'static str, config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["tsm", "trust", "models"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        // Linked, so on the program's own file system. A copy could not be run while another thread's child, just
        // forked, still held it open for writing.
        let programs = tempfile::tempdir_in(Path::new(program).parent().unwrap()).unwrap();
        fs::hard_link(program, programs.path().join("daemon")).unwrap();
        Setup {
            folder,
            programs,
            config: config.into(),
            trust: None,
            dial: Vec::new(),
            runtime: String::new(),
            marked: false,
        }
    }

    /// Believes guests of `site` that are of `reference`, and lies beside the marker.
    pub fn believing(mut self, site: &Site, reference: &Reference) -> Self {
        self.trust = Some(site.handed(reference, &self.folder.path().join("trust")));
        self.marked = true;
        self
    }

    /// The whole static configuration.
    pub fn static_config(&self) -> String {
        format!("{}{}", self.config, self.trust.as_deref().unwrap_or_default())
    }

    /// The program with every path in the folder.
    pub fn command(&self, more: &[(&str, &str)]) -> Command {
        let root = self.folder.path();
        if self.marked {
            fs::write(self.programs.path().join("SIMULATED"), "").unwrap();
        }
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
            command.arg(option).arg(root.join(name));
        }
        command.args(["--listen", "127.0.0.1:0"]).env("NOTIFY_SOCKET", root.join("notify"));
        command.stderr(Stdio::piped()).stdin(Stdio::null());
        command
    }

    /// Writes both configurations.
    pub fn write(&self) {
        let dial: Vec<String> = self.dial.iter().map(ToString::to_string).collect();
        fs::write(self.folder.path().join("static.toml"), self.static_config()).unwrap();
        let runtime = format!("schema = 1\naddress = \"127.0.0.1/8\"\ndial = {dial:?}\n{}", self.runtime);
        fs::write(self.folder.path().join("runtime.toml"), runtime).unwrap();
    }

    /// Demands GPUs of its peers, with what is held against these, and as `[gpu]` of the policy says.
    pub fn demanding(mut self, gpus: &[&simulator::gpu::RunningGpus], max_age: Option<u32>) -> Self {
        let put = |name: &str, bytes: &[u8]| {
            fs::write(self.folder.path().join("trust").join(name), bytes).unwrap();
            file_hash(bytes)
        };
        let (mut roots, mut collateral) = (Vec::new(), GpuCollateral::default());
        for case in gpus.iter().map(|gpus| gpus.case(&[0; 32]).unwrap()) {
            // SIMULATED machines share their PKI.
            roots =
                vec![put("gpu-device-root.der", &case.device_root), put("gpu-rim-root.der", &case.rim_root)];
            (collateral.driver_rims, collateral.vbios_rims) = (case.driver_rims, case.vbios_rims);
            collateral.ocsp.extend(case.ocsp);
        }
        put(GPU_COLLATERAL_FILE, collateral.to_json().as_bytes());
        let max_age = max_age.map_or(String::new(), |age| format!("max_age = {age}\n"));
        let trust = self.trust.take().unwrap_or_default();
        self.trust = Some(format!("{trust}[trust.gpu]\n{max_age}simulated_roots = {roots:?}\n"));
        self
    }

    /// Runs it as a machine of `site`.
    pub fn start(self, site: &Site, more: &[(&str, &str)]) -> Daemon {
        self.write();
        let (root, attester) = (self.folder.path(), site.attester(self.static_config().as_bytes()));
        fs::write(root.join("tpm-log"), attester.event_log().unwrap().bytes).unwrap();
        fs::write(root.join("runtime"), attester.runtime().unwrap()).unwrap();
        let bind = |name: &str| {
            let socket = UnixDatagram::bind(root.join(name)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        let (notify, progress) = (bind("notify"), bind("progress"));
        let stop = Arc::new(AtomicBool::new(false));
        let (base, stopping) = (root.join("tsm"), stop.clone());
        std::thread::spawn(move || play(&base, attester.as_ref(), &stopping));
        let mut child = self.command(more).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Daemon { setup: self, notify, progress, child, log, before: String::new(), stop }
    }

    /// Runs it until it gives up; what it said.
    pub fn refusal(&self, more: &[(&str, &str)]) -> String {
        let output = self.command(more).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }
}

/// A daemon process and everything around it; killed when dropped.
pub struct Daemon {
    pub setup: Setup,
    notify: UnixDatagram,
    progress: UnixDatagram,
    child: Child,
    log: BufReader<ChildStderr>,
    /// What it logged before it served.
    before: String,
    stop: Arc<AtomicBool>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    /// The next word to the service manager.
    pub fn notified(&self) -> String {
        let mut bytes = [0; 64];
        let n = self.notify.recv(&mut bytes).expect("the daemon speaks to the service manager");
        String::from_utf8_lossy(&bytes[..n]).into()
    }

    /// The next line of progress; it holds nothing but the closed vocabulary.
    pub fn said(&self) -> Stage {
        let mut bytes = [0; 4096];
        let n = self.progress.recv(&mut bytes).expect("the daemon speaks of its peers");
        let stage: Stage = serde_json::from_slice(&bytes[..n]).unwrap();
        assert!(stage.is_of_daemon(), "{stage:?}");
        stage
    }

    /// Waits until it serves; the line that says so.
    pub fn ready(&mut self) -> String {
        assert_eq!(self.notified(), "READY=1");
        loop {
            let mut line = String::new();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "it says that it serves");
            if line.contains(": serving ") {
                return line.trim().into();
            }
            self.before += &line;
        }
    }

    /// Where it listens, from the line of [`Daemon::ready`].
    pub fn address(line: &str) -> SocketAddr {
        let words = line.split([' ', ';']);
        words.filter_map(|word| word.parse().ok()).next().expect("an address in the line")
    }

    /// Asks it to stop and waits; its log but for the line that it serves.
    pub fn terminated(mut self) -> String {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        assert_eq!(self.notified(), "STOPPING=1");
        assert!(self.child.wait().unwrap().success());
        let mut log = std::mem::take(&mut self.before);
        self.log.read_to_string(&mut log).unwrap();
        log
    }
}
