//! The folder of one run: what QEMU reads and writes besides the image.
//!
//! ```text
//! WORK_DIR/               lock  vars.fd  handoff.img  simulator.img  console.log  progress.jsonl  qemu.log  swtpm.log
//! /tmp/chrysalis-PID-N/   qmp  tpm  state/
//! ```
//! The second folder is short-lived and has a plain name: a Unix socket's path may have 107 bytes, and the TPM
//! emulator can't be told a path with a comma.
//! A lock keeps two guests from one folder; the operating system drops it with the process. Everything is made anew
//! at each launch; console and logs stay for the reader afterwards.

use crate::error::LaunchError;
use crate::handoff;
use crate::process;
use crate::settings::Settings;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Tells short-lived folders of one process apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The folder, locked for as long as this value lives.
#[derive(Debug)]
pub struct RunDir {
    dir: PathBuf,
    short: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes and locks the folder.
    pub fn open(dir: &Path) -> Result<Self, LaunchError> {
        fs::create_dir_all(dir).map_err(LaunchError::file("work folder", dir))?;
        let path = dir.join("lock");
        let lock = File::create(&path).map_err(LaunchError::file("lock", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LaunchError::Busy { path: dir.into() }),
            Err(TryLockError::Error(source)) => return Err(LaunchError::File { what: "lock", path, source }),
        }
        Ok(RunDir { dir: dir.into(), short: short_dir()?, _lock: lock })
    }

    /// Writes what this launch hands over and prepares a fresh TPM and a fresh variable store.
    pub fn prepare(&self, settings: &Settings, tools: &dyn Fn(&str) -> Command) -> Result<(), LaunchError> {
        self.write("handoff disk", &self.handoff(), &handoff::handoff_disk(settings))?;
        if let Some(bytes) = handoff::simulator_disk(settings)? {
            self.write("simulator disk", &self.simulator(), &bytes)?;
        }
        for log in [self.console(), self.progress()] {
            self.write("log", &log, b"")?;
        }
        let mut copy = tools("cp");
        copy.arg("--").arg(&settings.firmware.vars).arg(self.vars());
        process::run("cp", copy, &self.log("firmware"))?;
        self.manufacture_tpm(tools)
    }

    /// A TPM as from the factory, with the two banks that predictions are made for and no others: each bank costs
    /// the emulated firmware a hash of every byte it measures.
    fn manufacture_tpm(&self, tools: &dyn Fn(&str) -> Command) -> Result<(), LaunchError> {
        let state = self.tpm_state();
        fs::create_dir(&state).map_err(LaunchError::file("TPM state", &state))?;
        let mut setup = tools("swtpm_setup");
        setup.args(["--tpm2", "--overwrite", "--pcr-banks", "sha256,sha384", "--tpmstate"]).arg(&state);
        process::run("swtpm_setup", setup, &self.log("swtpm_setup"))
    }

    fn write(&self, what: &'static str, path: &Path, bytes: &[u8]) -> Result<(), LaunchError> {
        fs::write(path, bytes).map_err(LaunchError::file(what, path))
    }

    /// This launch's variable store.
    pub fn vars(&self) -> PathBuf {
        self.dir.join("vars.fd")
    }

    /// The TPM emulator's state.
    pub fn tpm_state(&self) -> PathBuf {
        self.short.join("state")
    }

    /// The handoff disk.
    pub fn handoff(&self) -> PathBuf {
        self.dir.join("handoff.img")
    }

    /// The simulator disk.
    pub fn simulator(&self) -> PathBuf {
        self.dir.join("simulator.img")
    }

    /// What the serial console said.
    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// What the progress port said.
    pub fn progress(&self) -> PathBuf {
        self.dir.join("progress.jsonl")
    }

    /// Standard output and error of a tool.
    pub fn log(&self, tool: &str) -> PathBuf {
        self.dir.join(format!("{tool}.log"))
    }

    /// QMP's socket.
    pub fn qmp(&self) -> PathBuf {
        self.short.join("qmp")
    }

    /// The TPM emulator's control socket.
    pub fn tpm(&self) -> PathBuf {
        self.short.join("tpm")
    }

    #[cfg(test)]
    pub(crate) fn fixed(dir: &str, short: &str) -> Self {
        let lock = tempfile::tempfile().unwrap();
        RunDir { dir: dir.into(), short: short.into(), _lock: lock }
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // Only what ended processes used is in it; a stray folder harms nobody.
        let _ = fs::remove_dir_all(&self.short);
    }
}

/// A new private folder with a short name, in the one place that the tools root shares under the same path.
fn short_dir() -> Result<PathBuf, LaunchError> {
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/tmp/chrysalis-{}-{n}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            // Left by a killed process of the same id: never reused, since somebody else may have made it.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && n < 10_000 => {}
            Err(source) => return Err(LaunchError::File { what: "short-lived folder", path, source }),
        }
    }
}
