//! The supervising thread: starts the TPM emulator and QEMU, follows what they write, ends them.
//!
//! It is the thread that the processes are leashed to (see [`crate::process`]), so it lives as long as they do.

use super::{Event, Request, Shared, State, What};
use crate::error::{Failure, LaunchError};
use crate::process::Process;
use crate::qmp;
use crate::rundir::RunDir;
use crate::watch::{Follow, MAX_CONSOLE, MAX_PROGRESS, Progress, plain};
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

/// Makes the command of a host program.
pub(super) type Tools = Box<dyn Fn(&str) -> Command + Send>;

/// All that the thread owns.
pub(super) struct Job {
    pub run: RunDir,
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
    tpm: Process,
    since: Instant,
    console: Follow,
    progress: Follow,
    lines: Progress,
    /// When the TPM emulator was first seen gone.
    tpm_lost: Option<Instant>,
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
        let mut running = match self.start() {
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
        running.tpm.kill();
        self.finish(running.since.elapsed(), outcome);
    }

    fn start(&self) -> Result<Running, LaunchError> {
        let (console, progress) = (self.run.console(), self.run.progress());
        let follow = |path: &Path| Follow::open(path).map_err(LaunchError::file("log", path));
        let mut swtpm = (self.tools)("swtpm");
        let (state, socket) = (self.run.tpm_state(), self.run.tpm());
        swtpm.args(["socket", "--tpm2", "--terminate", "--tpmstate"]).arg(format!("dir={}", state.display()));
        swtpm.arg("--ctrl").arg(format!("type=unixio,path={}", socket.display()));
        let mut tpm = Process::start("swtpm", swtpm, &self.run.log("swtpm"))?;
        wait_for(&mut tpm, || socket.exists().then_some(()))?;
        let mut command = (self.tools)("qemu-system-x86_64");
        command.args(&self.argv);
        let since = Instant::now();
        let qemu = Process::start("qemu-system-x86_64", command, &self.run.log("qemu"))?;
        let (console, progress) = (follow(&console)?, follow(&progress)?);
        Ok(Running { qemu, tpm, since, console, progress, lines: Progress::default(), tpm_lost: None })
    }

    /// The forwarded port: as set, or as QEMU chose it.
    fn endpoint(&self, running: &mut Running) -> Result<SocketAddr, LaunchError> {
        if self.listen.port() != 0 {
            return Ok(self.listen.into());
        }
        let socket = self.run.qmp();
        wait_for(&mut running.qemu, || socket.exists().then_some(()))?;
        // The socket's file appears shortly before QEMU listens on it.
        let mut last = None;
        let found = wait_for(&mut running.qemu, || qmp::forwarded(&socket).map_err(|e| last = Some(e)).ok());
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
            ending = ending.or(noticed);
            if let (Ok(request), None) = (request, &ending) {
                ending = Some(self.obey(request));
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

    /// Starts an ending that was asked for.
    fn obey(&self, request: Request) -> Ending {
        let now = Instant::now();
        let (command, outcome, kill_at) = match request {
            Request::Stop => ("quit", None, now + PATIENCE),
            Request::PowerDown(deadline) => ("system_powerdown", None, now + deadline.min(LONGEST)),
            Request::Deadline(failure) => return Ending { outcome: Some(failure), kill_at: now },
        };
        match qmp::call(&self.run.qmp(), command, json!({})) {
            Ok(_) => Ending { outcome, kill_at },
            // QEMU may close the connection before it answers `quit`; if it does not end by then it is killed.
            Err(_) => Ending { outcome, kill_at: now + PATIENCE.min(Duration::from_secs(1)) },
        }
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
        let (serves, failure) = match &line.stage {
            Stage::Serving { .. } => (true, None),
            Stage::Failed { step, reason } => {
                (false, Some(Failure::Guest { step: plain(step), reason: plain(reason) }))
            }
            _ => (false, None),
        };
        if self.shared.view().timeline.len() < MAX_LINES {
            self.tell(at, What::Progress(line));
        }
        if serves && self.shared.view().state == State::Booting {
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

fn departed(process: &Process, status: std::process::ExitStatus) -> Failure {
    let mut log = process.last_words();
    if log.contains("Could not set up host forwarding rule") {
        log.push_str("\nthe port is taken: set another `listen` port, or 0 to let the system choose");
    }
    Failure::Ended { process: process.name(), status: status.to_string(), log }
}

/// A machine whose TPM is gone can't go on measuring. QEMU takes its TPM along when it ends, so it gets a moment to be
/// seen ending first.
fn tpm_gone(running: &mut Running) -> Option<Ending> {
    let status = running.tpm.ended()?;
    let now = Instant::now();
    let lost = *running.tpm_lost.get_or_insert(now);
    let outcome = Some(departed(&running.tpm, status));
    (now > lost + AFTERWORDS).then_some(Ending { outcome, kill_at: now })
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
