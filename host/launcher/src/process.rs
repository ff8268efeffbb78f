//! Host processes on a leash: none outlives the launcher, however it ends.
//!
//! Each gets a process group of its own (a terminal's Ctrl-C reaches only the launcher) and the kernel's parent-death
//! signal, so that even a killed launcher leaves no QEMU behind. That signal follows the *thread* that started the
//! process: whoever starts a long-lived one must be a thread that lives as long.

use crate::error::LaunchError;
use crate::raw;
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// Longest tail of a log that goes into a message, in bytes.
const TAIL: u64 = 2048;

/// A started process; dropping it kills its whole group.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output going to the file `log`.
    pub fn start(name: &'static str, mut command: Command, log: &Path) -> Result<Self, LaunchError> {
        let out = File::create(log).map_err(LaunchError::file("log", log))?;
        let err = out.try_clone().map_err(LaunchError::file("log", log))?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        raw::tie(&mut command);
        let child = command.spawn().map_err(|e| LaunchError::Tool {
            tool: name.into(),
            reason: format!("could not be started ({e}); is the tools root complete?"),
        })?;
        Ok(Process { name, child, log: log.into() })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        // An error here means that the child was reaped elsewhere: as good as ended.
        self.child.try_wait().unwrap_or(Some(ExitStatus::default()))
    }

    /// Its last words, ready to be appended to a message; empty if it said nothing.
    pub fn last_words(&self) -> String {
        last_words(&self.log)
    }

    /// Kills the group and reaps the process.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                // It may have ended meanwhile, which is what is wanted.
                let _ = kill_process_group(pid, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a short-lived tool to its end.
pub fn run(name: &'static str, command: Command, log: &Path) -> Result<(), LaunchError> {
    let mut process = Process::start(name, command, log)?;
    match process.child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(LaunchError::Tool {
            tool: name.into(),
            reason: format!("failed ({status}); its output is in {}{}", log.display(), last_words(log)),
        }),
        Err(e) => Err(LaunchError::Tool { tool: name.into(), reason: format!("was lost: {e}") }),
    }
}

fn last_words(log: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let start = file.metadata()?.len().saturating_sub(TAIL);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let mut console = crate::watch::Console::default();
    console.push(&bytes);
    match console.tail(8) {
        text if text.is_empty() => String::new(),
        text => format!(", last words:\n{}", crate::watch::indent(&text)),
    }
}
