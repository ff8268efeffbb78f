//! What a keeper writes down for others: one small file, replaced as a whole at each change, and the lock that says whether
//! somebody keeps it up.
//!
//! ```text
//! WORK_DIR/keeper.json   how the machine stands, and the socket to ask on
//! WORK_DIR/keeper.lock   held while a keeper lives
//! ```

use crate::error::LaunchError;
use crate::life::State;
use crate::settings::Settings;
use protocol::control::Health;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Name of the file.
pub const KEEPER_FILE: &str = "keeper.json";
const LOCK: &str = "keeper.lock";
/// Largest file that is read.
const MAX_FILE: u64 = 64 * 1024;
/// Most states that are remembered for a crash report.
const REMEMBERED: usize = 16;

/// Where a kept machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// In a state of its life.
    Machine(State),
    /// Between a failure and the next start.
    Waiting,
    /// Over, as asked for.
    Stopped,
    /// Over, given up.
    Failed,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self {
            Step::Machine(state) => serde_json::to_value(state),
            Step::Waiting => return f.write_str("waiting to be started again"),
            Step::Stopped => serde_json::to_value(State::Stopped),
            Step::Failed => serde_json::to_value(State::Failed),
        };
        f.write_str(state.ok().as_ref().and_then(|state| state.as_str()).unwrap_or_default())
    }
}

/// How a kept machine stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Always 1.
    pub schema: u32,
    /// Process of the launcher.
    pub pid: u32,
    /// Socket to ask on.
    pub control: PathBuf,
    /// Where it stands.
    pub step: Step,
    /// Since when, Unix seconds.
    pub since: u64,
    /// Folder of the image.
    pub image: PathBuf,
    /// Where its service appears.
    pub endpoint: Option<SocketAddr>,
    /// How often it was started by this launcher.
    pub starts: u32,
    /// How the last one failed, if any did.
    pub last_failure: Option<String>,
    /// Whether the quote service ceased to answer.
    pub quotes_missing: bool,
    /// What the guest last said of itself; only in an answer, never in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// How old that is, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_age_ms: Option<u64>,
}

/// The file, kept up.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    lock: File,
    status: Status,
    states: Vec<String>,
    began: Instant,
}

impl Drop for Record {
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

impl Record {
    /// Of a work folder that nobody else keeps.
    pub(super) fn open(dir: &Path) -> Result<Self, LaunchError> {
        fs::create_dir_all(dir).map_err(LaunchError::file("work folder", dir))?;
        let path = dir.join(LOCK);
        let lock = File::create(&path).map_err(LaunchError::file("lock", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LaunchError::Busy { path: dir.into() }),
            Err(TryLockError::Error(source)) => {
                return Err(LaunchError::File { what: "lock", path, source });
            }
        }
        let status = Status {
            schema: 1,
            pid: std::process::id(),
            control: PathBuf::new(),
            step: Step::Waiting,
            since: now(),
            image: PathBuf::new(),
            endpoint: None,
            starts: 0,
            last_failure: None,
            quotes_missing: false,
            health: None,
            health_age_ms: None,
        };
        Ok(Record { path: dir.join(KEEPER_FILE), lock, status, states: Vec::new(), began: Instant::now() })
    }

    pub(super) fn control(&mut self, socket: PathBuf) {
        self.status.control = socket;
        self.write();
    }

    pub(super) fn step(&mut self, step: Step) {
        if step == Step::Machine(State::Prepared) {
            self.began = Instant::now();
            self.states.clear();
        }
        let state = format!("{} ms: {step}", self.began.elapsed().as_millis());
        if self.status.step != step && self.states.len() < REMEMBERED {
            self.states.push(state);
        }
        (self.status.step, self.status.since) = (step, now());
        self.write();
    }

    pub(super) fn image(&mut self, settings: &Settings) {
        self.status.starts += 1;
        self.status.image = settings.image.uki.parent().unwrap_or(&settings.image.uki).into();
        self.status.quotes_missing = false;
        self.write();
    }

    pub(super) fn endpoint(&mut self, endpoint: Option<SocketAddr>) {
        self.status.endpoint = endpoint;
        self.write();
    }

    pub(super) fn failure(&mut self, words: &str) {
        self.status.last_failure = Some(words.into());
        self.write();
    }

    pub(super) fn quotes(&mut self, answer: bool) {
        self.status.quotes_missing = !answer;
        self.write();
    }

    pub(super) fn status(&self, health: Option<(Duration, Health)>) -> Status {
        let (age, health) = health.unzip();
        let health_age_ms = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        Status { health, health_age_ms, ..self.status.clone() }
    }

    pub(super) fn last_states(&self) -> Vec<String> {
        self.states.clone()
    }

    /// A full disk must not end a machine that runs: the file is then old, and the socket answers.
    fn write(&self) {
        let scratch = self.path.with_extension("json.new");
        let text = serde_json::to_string_pretty(&self.status).unwrap_or_default() + "\n";
        if fs::write(&scratch, text).and_then(|()| fs::rename(&scratch, &self.path)).is_err() {
            let _ = fs::remove_file(&scratch);
        }
    }
}

/// What the file of a work folder says, and whether a keeper lives that keeps it up.
pub fn read_status(dir: &Path) -> Result<(Status, bool), LaunchError> {
    let path = dir.join(KEEPER_FILE);
    let size = fs::metadata(&path).map_err(LaunchError::file("record of a launcher", &path))?.len();
    let broken = |reason: String| LaunchError::Handoff {
        what: "record of a launcher",
        reason: format!("{}: {reason}; use the program of the same version", path.display()),
    };
    if size > MAX_FILE {
        return Err(broken(format!("{size} bytes, expected at most {MAX_FILE}")));
    }
    let text = fs::read_to_string(&path).map_err(LaunchError::file("record of a launcher", &path))?;
    let status = serde_json::from_str(&text).map_err(|e| broken(e.to_string()))?;
    let lock = File::open(dir.join(LOCK));
    let free = lock.is_ok_and(|lock| lock.try_lock_shared().is_ok_and(|()| lock.unlock().is_ok()));
    Ok((status, !free))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
