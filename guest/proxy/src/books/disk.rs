//! The log's files: one for each boot, read once by the next.
//!
//! ```text
//! DIR/boot-00000001.wal   DIR/boot-00000002.wal   ...        the highest number is this boot's
//! ```
//! Bytes that could not be written are kept and written again at the same place: after an error nobody can tell what of
//! them is on disk, and a reader stops where a record is torn.

use payment::Address;
use payment::log::{self, LogWriter, Record, Recovered};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Of a log no more is read than this, 512 MiB; what is beyond counts as cut off.
const LONGEST: u64 = 512 * 1024 * 1024;

/// Why the folder of the logs can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: the proxy's log can't be {what} there: {source}; name a folder that can be written with --state", path = .path.display())]
pub struct StateError {
    path: PathBuf,
    what: &'static str,
    #[source]
    source: io::Error,
}

/// What is written to.
pub trait Disk: Send + 'static {
    /// Writes all bytes at `offset` and has them on stable storage when it returns.
    ///
    /// # Errors
    /// Whatever the system says; nothing is known of the bytes then.
    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

impl Disk for File {
    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)?;
        self.sync_data()
    }
}

/// A boot's log, as it grows.
#[derive(Debug)]
pub struct Journal<D> {
    disk: D,
    writer: LogWriter,
    /// Bytes that are on disk.
    good: u64,
    /// Those that are to follow.
    pending: Vec<u8>,
}

impl<D: Disk> Journal<D> {
    /// A new log on an empty disk.
    pub fn begin(disk: D, pool: &Address, key: &[u8; 32]) -> Self {
        let (pending, writer) = LogWriter::begin(pool, key);
        Self { disk, writer, good: 0, pending }
    }

    /// Lines records up to be written.
    pub fn add(&mut self, records: &[Record]) {
        for record in records {
            self.pending.extend_from_slice(&self.writer.append(record));
        }
    }

    /// Whether everything is on disk.
    pub fn is_written(&self) -> bool {
        self.pending.is_empty()
    }

    /// Writes what is lined up.
    ///
    /// # Errors
    /// As [`Disk::put`]; it stays lined up.
    pub fn write(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.disk.put(self.good, &self.pending)?;
            self.good += self.pending.len() as u64;
            self.pending.clear();
        }
        Ok(())
    }
}

/// Reads the logs of boots before and begins this boot's.
///
/// # Errors
/// [`StateError`] where the folder can't be read, or no file be made. A log that can't be understood is no error: to lose it
/// harms its owner alone.
pub fn open(folder: &Path, pool: &Address, key: &[u8; 32]) -> Result<(Recovered, Journal<File>), StateError> {
    let failed = |what| {
        let path = folder.to_owned();
        move |source| StateError { path, what, source }
    };
    fs::create_dir_all(folder).map_err(failed("made"))?;
    let logs = numbered(folder).map_err(failed("read"))?;
    let mut known = Recovered::default();
    for (_, path) in &logs {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
        read.map_err(failed("read"))?;
        let log = log::read(&bytes, pool);
        if log.left > 0 {
            let (path, left) = (path.display(), log.left);
            eprintln!(
                "chrysalis-proxy: {path}: the last {left} bytes are no whole records and count as cut off"
            );
        }
        known = log::recover(known, &log);
    }
    let next = logs.last().map_or(1, |(number, _)| number + 1);
    let path = folder.join(format!("boot-{next:08}.wal"));
    let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed("begun"))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("begun"))?;
    let mut journal = Journal::begin(file, pool, key);
    journal.write().map_err(failed("begun"))?;
    Ok((known, journal))
}

/// Logs in the order of their boots.
fn numbered(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix("boot-").and_then(|name| name.strip_suffix(".wal"));
        if let Some(number) = number.and_then(|digits| digits.parse().ok()) {
            logs.push((number, path));
        }
    }
    logs.sort();
    Ok(logs)
}
