//! The logs' files: the highest number is the one that is written, and says all that those before it said.
//!
//! ```text
//! DIR/boot-00000002.wal                     this boot's, or the last one's
//! DIR/boot-00000003.new                     the next one, as it is begun; gone over when somebody died at it
//!   --synced--> boot-00000003.wal --synced--> boot-00000002.wal removed
//! ```
//! A crash leaves the old one, or both, or the new one, and all three are read alike: a log begins with what those before
//! it came to, so to read them first changes nothing. A log of another pool is neither read nor removed.

use super::journal::Journal;
use payment::Address;
use payment::log::{self, Recovered};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
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

    /// Has `bytes` and nothing else on stable storage when it returns; what is put next comes after them.
    ///
    /// # Errors
    /// Whatever the system says; what was there before is as it was.
    fn renew(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// The folder, and the file in it that is written.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    number: u64,
    /// None before the first one was begun.
    file: Option<File>,
    /// What the next one takes the place of.
    before: Vec<PathBuf>,
}

impl Disk for Files {
    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.write_all_at(bytes, offset)?;
        file.sync_data()
    }

    fn renew(&mut self, bytes: &[u8]) -> io::Result<()> {
        let number = self.number + 1;
        let (new, path) = (self.path(number, "new"), self.path(number, "wal"));
        let written = written(&new, bytes).and_then(|file| {
            // Never over a file that is there: two proxies may have been given one folder.
            fs::hard_link(&new, &path)?;
            File::open(&self.folder)?.sync_all()?;
            Ok(file)
        });
        // Without its other name it is nobody's.
        let _ = fs::remove_file(&new);
        self.file = Some(written?);
        self.number = number;
        for old in std::mem::replace(&mut self.before, vec![path]) {
            // What can't be removed now is read once more by the next boot, and changes nothing.
            let _ = fs::remove_file(old);
        }
        Ok(())
    }
}

impl Files {
    /// On a device that has no space, ever.
    #[cfg(test)]
    pub fn full() -> Self {
        let file = OpenOptions::new().write(true).open("/dev/full").ok();
        Files { folder: PathBuf::from("/dev/full"), number: 0, file, before: Vec::new() }
    }

    fn path(&self, number: u64, end: &str) -> PathBuf {
        self.folder.join(format!("boot-{number:08}.{end}"))
    }
}

/// A new file with these bytes, on stable storage.
fn written(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}

/// Reads the logs of boots before and begins this boot's in their place.
///
/// # Errors
/// [`StateError`] where the folder can't be read, or no file be made. A log that can't be understood is no error: to lose it
/// harms its owner alone.
pub fn open(
    folder: &Path,
    pool: &Address,
    key: &[u8; 32],
) -> Result<(Recovered, Journal<Files>), StateError> {
    let failed = |what| {
        let path = folder.to_owned();
        move |source| StateError { path, what, source }
    };
    fs::create_dir_all(folder).map_err(failed("made"))?;
    let logs = numbered(folder).map_err(failed("read"))?;
    let number = logs.last().map_or(0, |(number, _)| *number);
    let mut files = Files { folder: folder.to_owned(), number, file: None, before: Vec::new() };
    let mut known = Recovered::default();
    for (_, path) in logs {
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
        read.map_err(failed("read"))?;
        let log = log::read(&bytes, pool);
        if log.left > 0 {
            let (path, left) = (path.display(), log.left);
            eprintln!(
                "chrysalis-proxy: {path}: the last {left} bytes are no whole records and count as cut off"
            );
        }
        known = log::recover(known, &log);
        // One that is not this pool's is somebody's still.
        files.before.extend((log.good > 0).then_some(path));
    }
    let journal = Journal::after(known.clone(), files, pool, key).map_err(failed("begun"))?;
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
