//! The life of a machine: one supervising thread owns its processes from start to end.
//!
//! ```text
//! Prepared --QEMU started--> Booting --first word of the gate--> Attesting --guest says Serving--> Serving
//!    |                          |                                  |                               |
//!    |                          +-----------------+----------------+-------------------------------+
//!    |                                            |
//!    |                            told to drain   |   left, or stopped
//!    |                          Draining <--------+-------------------> Stopped
//!    |                             |  '--- powered itself off, or time is up ---^
//!    |                             v
//!    +---- process, console sign, Failed line, flood, vanished device, deadline ---> Failed
//! ```
//! Attesting is the time of the guest's gate: configuration held against MRCONFIGID, models opened, GPU attested, events
//! sealed.
//!
//! `Stopped` and `Failed` are final; whoever waits is told which. What the guest says about itself moves this diagram
//! and nothing else: it is for people. Whether to talk to the guest is decided by verifying its evidence.
//!
//! Everything is polled every few milliseconds: a boot takes seconds, and one thread with no shared readiness
//! machinery is easy to reason about.

mod supervisor;

use crate::error::{Failure, LaunchError};
use crate::handoff::Expected;
use crate::machine::Machine;
use crate::preflight::HostDirs;
use crate::qmp;
use crate::rundir::RunDir;
use crate::settings::Settings;
use crate::watch::Console;
use protocol::control::Health;
use protocol::progress::Line;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many console lines go into an error.
const CONSOLE_LINES: usize = 16;
/// A waiter that nobody wakes looks again after this.
const LOOK: Duration = Duration::from_secs(60);

/// Where a machine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its files are written; no process runs.
    Prepared,
    /// QEMU runs: firmware and kernel.
    Booting,
    /// The guest's gate runs: it measures its configuration, opens its models, attests its GPU.
    Attesting,
    /// The guest says that it serves.
    Serving,
    /// It was told to finish what is under way and to end.
    Draining,
    /// Over, as asked for (by the caller, or by the guest powering itself off without a complaint).
    Stopped,
    /// Over, with a reason.
    Failed,
}

impl State {
    /// Whether nothing comes after it.
    pub fn is_final(self) -> bool {
        matches!(self, State::Stopped | State::Failed)
    }

    /// Whether the guest has still to say that it serves.
    pub fn is_before_serving(self) -> bool {
        matches!(self, State::Prepared | State::Booting | State::Attesting)
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// The machine reached a state.
    State(State),
    /// The guest reported progress.
    Progress(Line),
    /// The quote service began or ceased to answer. Without it the guest serves whom it has, and nobody new.
    Quotes {
        /// Whether it answers.
        answer: bool,
    },
}

/// Something that happened, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Milliseconds of the host's clock since QEMU was started (0 before).
    pub at_ms: u64,
    /// What it was.
    #[serde(flatten)]
    pub what: What,
}

/// What waiters look at; changed only by the supervisor.
#[derive(Debug)]
struct View {
    state: State,
    failure: Option<Failure>,
    timeline: Vec<Event>,
    console: Console,
    health: Option<(Instant, Health)>,
}

#[derive(Debug)]
struct Shared {
    view: Mutex<View>,
    changed: Condvar,
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        // Each change is a few assignments that can't panic half-way, so a poisoned view is still whole.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a handle asks of its supervisor.
enum Request {
    Stop,
    Drain(Duration),
    Deadline(Failure),
}

/// A launched machine. Dropping it kills its processes.
#[derive(Debug)]
pub struct Guest {
    shared: Arc<Shared>,
    requests: Option<Sender<Request>>,
    thread: Option<JoinHandle<()>>,
    endpoint: SocketAddr,
    expected: Expected,
    argv: Vec<String>,
    qmp: PathBuf,
    console: PathBuf,
}

/// Prepares and starts a machine of this host; returns once QEMU runs and its port is open.
///
/// `tools` makes the command of a host program by name (`qemu-system-x86_64`, `swtpm`, `swtpm_setup`, `cp`), inside a
/// tools root where there is one: its process id must be the program's own, and it must see the image, the work
/// folder and `/tmp` under the same paths. `on_event` is called from the supervising thread and should be quick.
pub fn launch(
    settings: &Settings,
    tools: impl Fn(&str) -> Command + Send + 'static,
    on_event: impl FnMut(&Event) + Send + 'static,
) -> Result<Guest, LaunchError> {
    launch_on(&HostDirs::default(), settings, tools, on_event)
}

/// As [`launch`], on a host that shows itself in other folders.
pub fn launch_on(
    host: &HostDirs,
    settings: &Settings,
    tools: impl Fn(&str) -> Command + Send + 'static,
    on_event: impl FnMut(&Event) + Send + 'static,
) -> Result<Guest, LaunchError> {
    let run = RunDir::open(&settings.work_dir)?;
    let claims = host.claim(settings)?;
    if let Some(domain) = settings.platform.trust_domain() {
        crate::preflight::release_of_qemu(domain, &tools)?;
    }
    run.prepare(settings, &tools)?;
    let machine = Machine::new(settings, &run);
    let argv = crate::argv::argv(&machine);
    let (console, qmp) = (machine.console.clone(), machine.qmp.clone());
    let view = View {
        state: State::Prepared,
        failure: None,
        timeline: Vec::new(),
        console: Console::default(),
        health: None,
    };
    let shared = Arc::new(Shared { view: Mutex::new(view), changed: Condvar::new() });
    let (requests, inbox) = channel();
    let (started, start) = channel();
    let job = supervisor::Job {
        run,
        claims,
        host: host.clone(),
        platform: settings.platform.clone(),
        cpus: settings.placement.cpus.clone(),
        argv: argv.clone(),
        listen: machine.forward.host,
        tools: Box::new(tools),
        on_event: Box::new(on_event),
        shared: Arc::clone(&shared),
        inbox,
    };
    let spawned = std::thread::Builder::new().name("supervisor".into()).spawn(move || job.work(&started));
    let thread = spawned.map_err(LaunchError::file("supervising thread", "thread"))?;
    let endpoint = match start.recv() {
        Ok(Ok(endpoint)) => endpoint,
        Ok(Err(error)) => {
            // With the thread go its locks: whoever tries again finds everything free.
            let _ = thread.join();
            return Err(error);
        }
        Err(_) => return Err(failed(&shared.view())),
    };
    let expected = Expected::of(settings);
    Ok(Guest {
        shared,
        requests: Some(requests),
        thread: Some(thread),
        endpoint,
        expected,
        argv,
        qmp,
        console,
    })
}

impl Guest {
    /// Where the guest's service appears on this host.
    pub fn endpoint(&self) -> SocketAddr {
        self.endpoint
    }

    /// What a verifier must find in this guest's quotes.
    pub fn expected(&self) -> &Expected {
        &self.expected
    }

    /// QEMU's arguments.
    pub fn argv(&self) -> &[String] {
        &self.argv
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        self.shared.view().state
    }

    /// Everything that happened so far, in order.
    pub fn timeline(&self) -> Vec<Event> {
        self.shared.view().timeline.clone()
    }

    /// The console so far (its last 64 KiB at least), as plain text.
    pub fn console(&self) -> String {
        self.shared.view().console.text().to_owned()
    }

    /// The file with the whole console.
    pub fn console_file(&self) -> &Path {
        &self.console
    }

    /// Runs one QMP command.
    pub fn qmp(&self, command: &str, arguments: serde_json::Value) -> Result<serde_json::Value, LaunchError> {
        qmp::call(&self.qmp, command, arguments)
    }

    /// Waits until the guest says that it serves; returns the time since QEMU's start. A guest that does not within
    /// `deadline` from now is ended.
    pub fn wait_serving(&self, deadline: Duration) -> Result<Duration, LaunchError> {
        let view = self.wait("serving", deadline, |view| !view.state.is_before_serving())?;
        if view.state == State::Failed {
            return Err(failed(&view));
        }
        let serving = view.timeline.iter().find(|e| e.what == What::State(State::Serving));
        match serving {
            Some(event) => Ok(Duration::from_millis(event.at_ms)),
            None => Err(failure(&view, Failure::EndedEarly)),
        }
    }

    /// Waits until the guest reports any progress; returns the time since QEMU's start.
    pub fn wait_progress(&self, deadline: Duration) -> Result<Duration, LaunchError> {
        let first = |view: &View| {
            let event = view.timeline.iter().find(|e| matches!(e.what, What::Progress(_)));
            event.map(|e| Duration::from_millis(e.at_ms))
        };
        let view = self.wait("progress", deadline, |view| view.state.is_final() || first(view).is_some())?;
        match (first(&view), view.state) {
            (Some(at), _) => Ok(at),
            (None, State::Failed) => Err(failed(&view)),
            (None, _) => Err(failure(&view, Failure::EndedEarly)),
        }
    }

    /// Waits until the machine is over; an error if it failed. One that is not over within `deadline` is ended.
    pub fn wait_exit(&self, deadline: Duration) -> Result<Duration, LaunchError> {
        let view = self.wait("end", deadline, |view| view.state.is_final())?;
        match view.state {
            State::Failed => Err(failed(&view)),
            _ => Ok(Duration::from_millis(view.timeline.last().map_or(0, |e| e.at_ms))),
        }
    }

    /// Ends the machine at once (it has nothing to lose: its disks are read-only). Returns its final error if it had
    /// failed before.
    pub fn stop(self) -> Result<(), LaunchError> {
        self.request(Request::Stop);
        self.wait_exit(supervisor::PATIENCE * 2).map(drop)
    }

    /// What the guest last said of its health, and how long ago.
    pub fn health(&self) -> Option<(Duration, Health)> {
        self.shared.view().health.as_ref().map(|(at, health)| (at.elapsed(), health.clone()))
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<Failure> {
        self.shared.view().failure.clone()
    }

    /// Ends the machine at once; returns before it has ended.
    pub fn quit(&self) {
        self.request(Request::Stop);
    }

    /// Ends the machine as one that did not come to what was awaited; returns before it has ended.
    pub(crate) fn give_up(&self, awaited: &'static str, after: Duration) {
        let reached = self.timeline().last().map_or("nothing".into(), |e| format!("{:?}", e.what));
        let millis = after.as_millis();
        self.request(Request::Deadline(Failure::Deadline { awaited, millis, reached }));
    }

    /// Tells the guest to finish what is under way and to power off, and ends it if it has not within `deadline`. Returns at
    /// once; [`wait_exit`](Self::wait_exit) waits.
    pub fn drain(&self, deadline: Duration) {
        self.request(Request::Drain(deadline));
    }

    fn request(&self, request: Request) {
        if let Some(requests) = &self.requests {
            // A supervisor that is gone has ended the machine already.
            let _ = requests.send(request);
        }
    }

    /// Waits for `done`; past the deadline the machine is ended, which makes the view final.
    fn wait(
        &self,
        awaited: &'static str,
        deadline: Duration,
        done: impl Fn(&View) -> bool,
    ) -> Result<MutexGuard<'_, View>, LaunchError> {
        // A deadline beyond the clock's range is none.
        let until = Instant::now().checked_add(deadline);
        let mut view = self.shared.view();
        let mut told = false;
        loop {
            if done(&view) || view.state.is_final() {
                return Ok(view);
            }
            let left = until.map_or(LOOK, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() && !told {
                let reached = view.timeline.last().map_or("nothing".into(), |e| format!("{:?}", e.what));
                let millis = deadline.as_millis();
                self.request(Request::Deadline(Failure::Deadline { awaited, millis, reached }));
                told = true;
            }
            let pause = if told { Duration::from_millis(50) } else { left.min(LOOK) };
            let waited = self.shared.changed.wait_timeout(view, pause);
            view = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Hanging up is the order to kill; joining makes sure that nothing is left when drop returns.
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn failed(view: &View) -> LaunchError {
    failure(view, view.failure.clone().unwrap_or(Failure::Unsupervised))
}

fn failure(view: &View, failure: Failure) -> LaunchError {
    let at_ms = view.timeline.last().map_or(0, |e| e.at_ms);
    let console = view.console.tail(CONSOLE_LINES);
    LaunchError::Failed { seconds: Duration::from_millis(at_ms).as_secs_f64(), failure, console }
}

#[cfg(test)]
pub(crate) mod play;
#[cfg(test)]
mod tests;
