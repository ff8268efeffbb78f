//! What was before, kept until it is again; and locks, so that one device has one owner.
//!
//! ```text
//! STATE/  lock  before.json  lock-0000:17:00.0 ...  taken-0000:17:00.0.json ...
//! ```
//! `before.json` is complete on disk before the first change, and goes when everything is as it says. It tells one boot of
//! the host from the next: drivers do not outlive it, modes do. It also names the devices in which a mode was stored that is
//! not active yet: no register shows that, and the next reset would bring it about.
//!
//! `taken-` is the same of one device that a launcher took for its machine, written by whoever holds that device's lock.

use super::error::GpuError;
use super::plan::Target;
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Where the state is, unless named otherwise: gone with a reboot, as the bindings are.
pub const STATE: &str = "/run/chrysalis/gpu";
const NAME: &str = "before.json";
/// Before the address of a device, in the name of its journal.
const TAKEN: &str = "taken-";
/// Larger than any host's.
const MAX_JOURNAL: u64 = 1 << 20;

/// Devices as they were before the first change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    schema: u32,
    /// The kernel's boot identifier then.
    boot: String,
    /// How each device was.
    pub before: Vec<Target>,
    /// Devices whose stored mode may differ from their active one.
    pub stored: Vec<String>,
}

impl Journal {
    /// Of the boot of this identifier, with nothing stored.
    pub fn new(boot: &str, before: Vec<Target>) -> Self {
        Journal { schema: 1, boot: boot.trim().to_owned(), before, stored: Vec::new() }
    }

    /// Whether it was written in the boot of this identifier.
    pub fn is_of(&self, boot: &str) -> bool {
        self.boot == boot.trim()
    }
}

/// The state folder, held by this process alone for as long as this value lives.
#[derive(Debug)]
pub struct State {
    dir: PathBuf,
    boot: String,
    _lock: Lock,
}

impl State {
    /// Takes the folder; `boot` is the kernel's boot identifier.
    pub fn open(dir: &Path, boot: &str) -> Result<Self, GpuError> {
        let lock = Lock::take(dir, "lock")?;
        Ok(State { dir: dir.into(), boot: boot.trim().to_owned(), _lock: lock })
    }

    fn path(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    /// What was written down, if anything.
    pub fn journal(&self) -> Result<Option<Journal>, GpuError> {
        read(&self.path())
    }

    /// Whether the journal was written in this boot of the host.
    pub fn is_of_this_boot(&self, journal: &Journal) -> bool {
        journal.is_of(&self.boot)
    }

    /// A journal of this boot, with nothing stored.
    pub fn begin(&self, before: Vec<Target>) -> Journal {
        Journal::new(&self.boot, before)
    }

    /// Writes it down: whole, or not at all.
    pub fn write(&self, journal: &Journal) -> Result<(), GpuError> {
        write(&self.path(), journal)
    }

    /// Everything is as it was.
    pub fn forget(&self) -> Result<(), GpuError> {
        forget(&self.path())
    }
}

/// Writes a journal down: whole, or not at all.
pub fn write(path: &Path, journal: &Journal) -> Result<(), GpuError> {
    let draft = path.with_extension("draft");
    let fault = |source| GpuError::State { path: path.into(), source };
    let text = serde_json::to_vec_pretty(journal).map_err(|e| fault(e.into()))?;
    let mut file = File::create(&draft).map_err(fault)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(fault)?;
    std::fs::rename(&draft, path).map_err(fault)?;
    File::open(path.parent().unwrap_or(path)).and_then(|dir| dir.sync_all()).map_err(fault)
}

/// Removes a journal, if it is there.
pub fn forget(path: &Path) -> Result<(), GpuError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(GpuError::State { path: path.into(), source: e })
        }
        _ => Ok(()),
    }
}

/// Path of the journal of one device that a launcher took.
pub fn taken(dir: &Path, address: &str) -> PathBuf {
    dir.join(format!("{TAKEN}{address}.json"))
}

/// Paths of all such journals.
pub fn all_taken(dir: &Path) -> Vec<PathBuf> {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let ours = |name: &String| {
        name.strip_prefix(TAKEN).and_then(|rest| rest.strip_suffix(".json")).is_some_and(is_address)
    };
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).filter(ours).collect();
    names.sort();
    names.into_iter().map(|name| dir.join(name)).collect()
}

/// Reads without a lock, for those who only look.
pub fn read(path: &Path) -> Result<Option<Journal>, GpuError> {
    let wrong = |reason: String| GpuError::Journal { path: path.into(), reason };
    let mut text = String::new();
    match File::open(path) {
        Ok(file) => file.take(MAX_JOURNAL).read_to_string(&mut text).map_err(|e| wrong(e.to_string()))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(wrong(e.to_string())),
    };
    let journal: Journal = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let plain = |t: &Target| {
        is_address(&t.address) && [&t.driver, &t.driver_override].into_iter().flatten().all(|d| is_name(d))
    };
    if journal.schema != 1
        || !journal.before.iter().all(plain)
        || !journal.stored.iter().all(|a| is_address(a))
    {
        return Err(wrong("not a state of schema 1".into()));
    }
    Ok(Some(journal))
}

/// Path of the journal in a state folder.
pub fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// `0000:17:00.0`; an address becomes part of a path.
fn is_address(text: &str) -> bool {
    text.len() <= 16
        && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.')
        && !text.contains("..")
}

/// A driver's name.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Devices held for a guest, all or none, until this is dropped or the process ends.
#[derive(Debug)]
pub struct Held {
    _locks: Vec<Lock>,
}

impl Held {
    /// Takes the devices.
    pub fn take<'a>(dir: &Path, addresses: impl IntoIterator<Item = &'a str>) -> Result<Self, GpuError> {
        let mut sorted: Vec<&str> = addresses.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        let locks = sorted.into_iter().map(|address| Lock::take(dir, &format!("lock-{address}")));
        Ok(Held { _locks: locks.collect::<Result<_, _>>()? })
    }
}

#[derive(Debug)]
struct Lock(File);

impl Lock {
    fn take(dir: &Path, name: &str) -> Result<Self, GpuError> {
        let path = dir.join(name);
        let fault = |source| GpuError::State { path: path.clone(), source };
        std::fs::create_dir_all(dir).map_err(fault)?;
        let file = File::create(&path).map_err(fault)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => {
                Err(GpuError::Busy { what: name.strip_prefix("lock-").unwrap_or("the state of GPUs").into() })
            }
            Err(TryLockError::Error(source)) => Err(fault(source)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would not do where another thread's child, just forked, still has the file open.
        let _ = self.0.unlock();
    }
}
