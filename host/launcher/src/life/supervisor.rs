//! The supervising thread: starts the TPM emulator and QEMU, follows what they write, ends them.
//!
//! It is the thread that the processes are leashed to (see [`crate::process`]), so it lives as long as they do.

use super::{Event, Request, Shared, State, What};
use crate::control::Control;
use crate::error::{Failure, LaunchError};
use crate::machine::Platform;
use crate::preflight::{Claims, HostDirs};
use crate::process::Process;
use crate::qmp;
use crate::rundir::RunDir;
use crate::watch::{Follow, MAX_CONSOLE, MAX_PROGRESS, Progress, plain};
use protocol::control::Order;
use protocol::progress::{Line, Stage};
use serde_json::json;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// How long a host process may take to answer or to end when told to.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long QEMU may take to open its monitor, and the TPM emulator its socket, on a busy host.
const START: Duration = Duration::from_secs(30);
/// Time between two looks.
const TICK: Duration = Duration::from_millis(5);
/// After a sign on the console: time for the lines that explain it.
const AFTERWORDS: Duration = Duration::from_millis(300);
/// Longest time that a guest gets to power itself off.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Most progress lines that are kept; a right guest sends about ten.
const MAX_LINES: usize = 1000;

/// Time between two looks at what may fail beside QEMU: devices, the quote service.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// Makes the command of a host program.
pub(super) type Tools = Box<dyn Fn(&str) -> Command + Send>;

/// All that the thread owns.
pub(super) struct Job {
    pub run: RunDir,
    /// Devices, for as long as the machine lives.
    pub claims: Claims,
    pub host: HostDirs,
    pub platform: Platform,
    pub cpus: Vec<u32>,
    pub argv: Vec<String>,
    pub listen: SocketAddrV4,
    pub tools: Tools,
    pub on_event: Box<dyn FnMut(&Event) + Send>,
    pub shared: Arc<Shared>,
    pub inbox: Receiver<Request>,
}

/// The running processes and what was read of them. Fields drop in order: QEMU ends before its TPM.
struct Running {
    qemu: Process,
    tpm: Option<Process>,
    since: Instant,
    console: Follow,
    progress: Follow,
    lines: Progress,
    control: Control,
    around: Around,
    /// When the TPM emulator was first seen gone.
    tpm_lost: Option<Instant>,
}

/// What was last seen beside QEMU.
struct Around {
    next: Instant,
    /// Whether the quote service answered.
    quotes: bool,
}

/// Why and when the machine is to be ended, once that is known.
struct Ending {
    outcome: Option<Failure>,
    kill_at: Instant,
}

impl Job {
    /// The whole life; `started` hears once whether QEMU runs.
    pub(super) fn work(mut self, started: &Sender<Result<SocketAddr, LaunchError>>) {
        let _watch = LastWord(Arc::clone(&self.shared));
        self.tell(Duration::ZERO, What::State(State::Prepared));
        let mut running = match self.claims.attach().and_then(|()| self.start()) {
            Ok(running) => running,
            Err(error) => {
                self.finish(Duration::ZERO, Some(Failure::EndedEarly));
                let _ = started.send(Err(error));
                return;
            }
        };
        self.tell(Duration::ZERO, What::State(State::Booting));
        match self.endpoint(&mut running) {
            Ok(endpoint) => {
                let _ = started.send(Ok(endpoint));
            }
            Err(error) => {
                self.finish(running.since.elapsed(), Some(Failure::EndedEarly));
                let _ = started.send(Err(error));
                return;
            }
        }
        let outcome = self.supervise(&mut running);
        running.qemu.kill();
        drop(running.tpm.take());
        let outcome = self.devices_back(outcome);
        self.finish(running.since.elapsed(), outcome);
    }

    /// After QEMU's end; what went wrong before that is what is told.
    fn devices_back(&mut self, outcome: Option<Failure>) -> Option<Failure> {
        let left = self.claims.give_back().err();
        outcome.or_else(|| left.map(|error| Failure::NotGivenBack { reason: error.to_string() }))
    }

    fn start(&self) -> Result<Running, LaunchError> {
        let (console, progress) = (self.run.console(), self.run.progress());
        let follow = |path: &Path| Follow::open(path).map_err(LaunchError::file("log", path));
        let tpm = match self.platform {
            Platform::Emulated => Some(self.start_tpm()?),
            Platform::Tdx(_) => None,
        };
        let mut command = (self.tools)("qemu-system-x86_64");
        command.args(&self.argv);
        let since = Instant::now();
        let qemu = Process::start("qemu-system-x86_64", command, &self.run.log("qemu"))?;
        let (console, progress) = (follow(&console)?, follow(&progress)?);
        let control = Control::new(self.run.control());
        let around = Around { next: since + LOOK_AROUND, quotes: true };
        let lines = Progress::default();
        Ok(Running { qemu, tpm, since, console, progress, lines, control, around, tpm_lost: None })
    }

    fn start_tpm(&self) -> Result<Process, LaunchError> {
        let mut swtpm = (self.tools)("swtpm");
        let (state, socket) = (self.run.tpm_state(), self.run.tpm());
        swtpm.args(["socket", "--tpm2", "--terminate", "--tpmstate"]).arg(format!("dir={}", state.display()));
        swtpm.arg("--ctrl").arg(format!("type=unixio,path={}", socket.display()));
        let mut tpm = Process::start("swtpm", swtpm, &self.run.log("swtpm"))?;
        wait_for(&mut tpm, || socket.exists().then_some(()))?;
        Ok(tpm)
    }

    /// The forwarded port: as set, or as QEMU chose it. Before it is told, the virtual processors are where they belong.
    fn endpoint(&self, running: &mut Running) -> Result<SocketAddr, LaunchError> {
        let fixed = self.listen.port() != 0;
        if fixed && self.cpus.is_empty() {
            return Ok(self.listen.into());
        }
        let found = self.forwarded(running, fixed)?;
        if !self.cpus.is_empty() {
            crate::placement::pin(&self.run.qmp(), &self.cpus)?;
        }
        Ok(if fixed { self.listen.into() } else { found })
    }

    /// What QEMU says, once its monitor answers.
    fn forwarded(&self, running: &mut Running, fixed: bool) -> Result<SocketAddr, LaunchError> {
        let socket = self.run.qmp();
        wait_for(&mut running.qemu, || socket.exists().then_some(()))?;
        // The socket's file appears shortly before QEMU listens on it.
        let mut last = None;
        let ask = || match fixed {
            true => qmp::call(&socket, "query-status", json!({})).map(|_| self.listen),
            false => qmp::forwarded(&socket),
        };
        let found = wait_for(&mut running.qemu, || ask().map_err(|e| last = Some(e)).ok());
        match (found, last) {
            (Ok(address), _) => Ok(address.into()),
            (Err(_), Some(error)) if running.qemu.ended().is_none() => Err(error),
            (Err(error), _) => Err(error),
        }
    }

    /// Looks until the machine is over; `None` is a good end.
    fn supervise(&mut self, running: &mut Running) -> Option<Failure> {
        let mut ending: Option<Ending> = None;
        loop {
            let request = self.inbox.recv_timeout(TICK);
            if let Err(RecvTimeoutError::Disconnected) = request {
                return ending.and_then(|e| e.outcome);
            }
            // Whether QEMU has ended is asked before its files are read, so that its last words are not missed.
            let ended = running.qemu.ended();
            let noticed = self.read(running);
            ending = ending.or(noticed).or_else(|| self.look_around(running));
            if let Ok(request) = request {
                ending = self.obey(request, ending, running);
            }
            if let Some(status) = ended {
                return match ending {
                    Some(ending) => ending.outcome,
                    None if status.success() => None,
                    None => Some(departed(&running.qemu, status)),
                };
            }
            match &ending {
                Some(e) if Instant::now() >= e.kill_at => return ending.and_then(|e| e.outcome),
                Some(_) => {}
                None => ending = tpm_gone(running),
            }
        }
    }

    /// Starts an ending that was asked for. One that failed already stays so; a drain can still be cut short.
    fn obey(&mut self, request: Request, ending: Option<Ending>, running: &mut Running) -> Option<Ending> {
        if ending.as_ref().is_some_and(|ending| ending.outcome.is_some()) {
            return ending;
        }
        let now = Instant::now();
        match request {
            Request::Deadline(failure) => Some(Ending { outcome: Some(failure), kill_at: now }),
            Request::Stop => {
                // QEMU may close the connection before it answers; if it does not end by then it is killed.
                let told = qmp::call(&self.run.qmp(), "quit", json!({}));
                let patience = if told.is_ok() { PATIENCE } else { PATIENCE.min(Duration::from_secs(1)) };
                Some(Ending { outcome: None, kill_at: now + patience })
            }
            Request::Drain(_) if ending.is_some() => ending,
            Request::Drain(deadline) => {
                self.tell(running.since.elapsed(), What::State(State::Draining));
                // A guest that can't be told has nothing under way that would end by itself.
                let told = running.control.send(Order::Drain).is_ok();
                let patience = if told { deadline.min(LONGEST) } else { Duration::ZERO };
                Some(Ending { outcome: None, kill_at: now + patience })
            }
        }
    }

    /// Looks, every now and then, at what the machine needs beside QEMU.
    fn look_around(&mut self, running: &mut Running) -> Option<Ending> {
        let now = Instant::now();
        let Platform::Tdx(domain) = &self.platform else { return None };
        if now < running.around.next {
            return None;
        }
        running.around.next = now + LOOK_AROUND;
        if let Some(device) = self.host.vanished(domain) {
            let failure = Failure::Vanished { device: device.to_string() };
            return Some(Ending { outcome: Some(failure), kill_at: now });
        }
        let answer = self.host.quotes_answer(&domain.quotes);
        if answer != running.around.quotes {
            running.around.quotes = answer;
            self.tell(running.since.elapsed(), What::Quotes { answer });
        }
        None
    }

    /// Reads what the guest wrote since the last look; says if that ends it.
    fn read(&mut self, running: &mut Running) -> Option<Ending> {
        let now = Instant::now();
        let at = running.since.elapsed();
        let mut ending = None;
        // A read error leaves the guest running: its files are for people, its processes are watched anyway.
        let bytes = running.progress.poll().unwrap_or_default();
        for line in running.lines.push(&bytes) {
            ending = ending.or(self.progress(at, line, now));
        }
        if let Some(health) = running.control.poll() {
            self.shared.view().health = Some((now, health));
        }
        let bytes = running.console.poll().unwrap_or_default();
        let sign = if bytes.is_empty() { None } else { self.shared.view().console.push(&bytes) };
        if let (Some((sign, line)), None) = (sign, &ending) {
            let failure = Failure::Console { sign: sign.words, line, hint: sign.hint };
            ending = Some(Ending { outcome: Some(failure), kill_at: now + AFTERWORDS });
        }
        for (follow, limit, what) in
            [(&running.console, MAX_CONSOLE, "console"), (&running.progress, MAX_PROGRESS, "progress port")]
        {
            if follow.total > limit {
                ending = Some(Ending { outcome: Some(Failure::Flood { what, limit }), kill_at: now });
            }
        }
        ending
    }

    fn progress(&mut self, at: Duration, line: Line, now: Instant) -> Option<Ending> {
        let next = match &line.stage {
            Stage::Serving { .. } => State::Serving,
            _ => State::Attesting,
        };
        let failure = match &line.stage {
            Stage::Failed { step, reason } => {
                Some(Failure::Guest { step: plain(step), reason: plain(reason) })
            }
            _ => None,
        };
        let state = self.shared.view().state;
        if state == State::Booting && failure.is_none() {
            self.tell(at, What::State(State::Attesting));
        }
        if self.shared.view().timeline.len() < MAX_LINES {
            self.tell(at, What::Progress(line));
        }
        if next == State::Serving && state.is_before_serving() {
            self.tell(at, What::State(State::Serving));
        }
        // The guest powers itself off after it has said so.
        failure.map(|failure| Ending { outcome: Some(failure), kill_at: now + PATIENCE })
    }

    fn finish(&mut self, at: Duration, outcome: Option<Failure>) {
        let state = if outcome.is_some() { State::Failed } else { State::Stopped };
        self.shared.view().failure = outcome;
        self.tell(at, What::State(state));
    }

    /// Records an event, wakes the waiters, calls the caller.
    fn tell(&mut self, at: Duration, what: What) {
        let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        let event = Event { at_ms, what };
        let mut view = self.shared.view();
        if let What::State(state) = event.what {
            view.state = state;
        }
        view.timeline.push(event.clone());
        drop(view);
        self.shared.changed.notify_all();
        (self.on_event)(&event);
    }
}

/// Makes sure that waiters wake even if the supervisor panics.
struct LastWord(Arc<Shared>);

impl Drop for LastWord {
    fn drop(&mut self) {
        let mut view = self.0.view();
        if !view.state.is_final() {
            view.state = State::Failed;
            view.failure = Some(Failure::Unsupervised);
        }
        drop(view);
        self.0.changed.notify_all();
    }
}

/// Last words of QEMU that have a known cause, and what to do.
const KNOWN: &[(&str, &str)] = &[
    (
        "Could not set up host forwarding rule",
        "the port is taken: set another `listen` port, or 0 to let the system choose",
    ),
    ("unable to set guest cid", "the vsock context is taken: set another `tdx.cid`"),
    ("No space left on device", "the disk is full: make room where the work folder is"),
];

fn departed(process: &Process, status: std::process::ExitStatus) -> Failure {
    let mut log = process.last_words();
    for (words, next) in KNOWN {
        if log.contains(words) {
            log.push('\n');
            log.push_str(next);
        }
    }
    Failure::Ended { process: process.name(), status: status.to_string(), log }
}

/// A machine whose TPM is gone can't go on measuring. QEMU takes its TPM along when it ends, so it gets a moment to be
/// seen ending first.
fn tpm_gone(running: &mut Running) -> Option<Ending> {
    let tpm = running.tpm.as_mut()?;
    let status = tpm.ended()?;
    let now = Instant::now();
    let lost = *running.tpm_lost.get_or_insert(now);
    let outcome = Some(departed(tpm, status));
    // One that ended well was let go by a QEMU that is ending; on a busy host that takes a while.
    let moment = if status.success() { PATIENCE } else { AFTERWORDS };
    (now > lost + moment).then_some(Ending { outcome, kill_at: now })
}

/// Polls until `ready`, or until the process ends or its time is up.
fn wait_for<T>(process: &mut Process, mut ready: impl FnMut() -> Option<T>) -> Result<T, LaunchError> {
    let until = Instant::now() + START;
    loop {
        if let Some(value) = ready() {
            return Ok(value);
        }
        let reason = match process.ended() {
            Some(status) => format!("ended at once ({status}){}", process.last_words()),
            None if Instant::now() > until => format!("was not ready within {} s", START.as_secs()),
            None => {
                std::thread::sleep(TICK);
                continue;
            }
        };
        return Err(LaunchError::Tool { tool: process.name().into(), reason });
    }
}
