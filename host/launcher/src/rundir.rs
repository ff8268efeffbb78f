//! The folder of one run: what QEMU reads and writes besides the image.
//!
//! ```text
//! WORK_DIR/               lock  vars.fd  handoff.img  simulator.img  console.log  progress.jsonl  qemu.log  swtpm.log
//! /tmp/chrysalis-PID-N/   lock  qmp  control  tpm  state/
//! ```
//! The second folder is short-lived and has a plain name: a Unix socket's path may have 107 bytes, and the TPM
//! emulator can't be told a path with a comma. One that a killed launcher left behind is removed by the next launch.
//! A lock keeps two guests from one folder; the operating system drops it with the process. Everything is made anew
//! at each launch; console and logs stay for the reader afterwards.

use crate::error::LaunchError;
use crate::handoff;
use crate::machine::Platform;
use crate::process;
use crate::settings::Settings;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The one place that a tools root shares under the same path.
pub(crate) const SHORT: &str = "/tmp";
/// How the short-lived folders' names begin.
const PREFIX: &str = "chrysalis-";
/// Tells short-lived folders of one process apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The folder, locked for as long as this value lives.
#[derive(Debug)]
pub struct RunDir {
    dir: PathBuf,
    short: PathBuf,
    locks: [File; 2],
}

impl RunDir {
    /// Makes and locks the folder.
    pub fn open(dir: &Path) -> Result<Self, LaunchError> {
        fs::create_dir_all(dir).map_err(LaunchError::file("work folder", dir))?;
        let Some(lock) = lock(dir)? else { return Err(LaunchError::Busy { path: dir.into() }) };
        sweep(Path::new(SHORT));
        let (short, short_lock) = short_dir(Path::new(SHORT))?;
        Ok(RunDir { dir: dir.into(), short, locks: [lock, short_lock] })
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
        if let Some(vars) = &settings.firmware.vars {
            let mut copy = tools("cp");
            copy.arg("--").arg(vars).arg(self.vars());
            process::run("cp", copy, &self.log("firmware"))?;
        }
        match settings.platform {
            Platform::Emulated => self.manufacture_tpm(tools),
            Platform::Tdx(_) => Ok(()),
        }
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

    /// The control port's socket.
    pub fn control(&self) -> PathBuf {
        self.short.join("control")
    }

    /// The TPM emulator's control socket.
    pub fn tpm(&self) -> PathBuf {
        self.short.join("tpm")
    }

    #[cfg(test)]
    pub(crate) fn fixed(dir: &str, short: &str) -> Self {
        let lock = || tempfile::tempfile().unwrap();
        RunDir { dir: dir.into(), short: short.into(), locks: [lock(), lock()] }
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // Only what ended processes used is in it; a stray folder harms nobody.
        let _ = fs::remove_dir_all(&self.short);
        for lock in &self.locks {
            // Closing would not do where another thread's child, just forked, still has the file open.
            let _ = lock.unlock();
        }
    }
}

/// Takes the folder's lock; `None` if somebody holds it.
fn lock(dir: &Path) -> Result<Option<File>, LaunchError> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(LaunchError::file("lock", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(LaunchError::File { what: "lock", path, source }),
    }
}

/// A new private folder with a short name, locked.
pub(crate) fn short_dir(base: &Path) -> Result<(PathBuf, File), LaunchError> {
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("{PREFIX}{}-{n}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {
                return match lock(&path)? {
                    Some(lock) => Ok((path, lock)),
                    None => Err(LaunchError::Busy { path }),
                };
            }
            // Left by a killed process of the same id: never reused, since somebody else may have made it.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && n < 10_000 => {}
            Err(source) => return Err(LaunchError::File { what: "short-lived folder", path, source }),
        }
    }
}

/// Removes the folders of launchers that were killed: ours by name, and with a lock that nobody holds. What can't be
/// removed (another user's) is left.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let plain = entry.file_type().is_ok_and(|t| t.is_dir());
        if ours && plain && File::open(path.join("lock")).is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_killed_launchers_are_swept_and_living_ones_stay() {
        let base = tempfile::tempdir().unwrap();
        let (dead, lock) = short_dir(base.path()).unwrap();
        let (living, _held) = short_dir(base.path()).unwrap();
        let foreign = base.path().join("other");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("lock"), "").unwrap();
        drop(lock);
        sweep(base.path());
        assert_eq!((dead.exists(), living.exists(), foreign.exists()), (false, true, true));
    }
}
