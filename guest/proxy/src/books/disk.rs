//! The logs' files: the highest number is the one that is written, and says all that those before it said.
//!
//! ```text
//! DIR/boot-00000002.wal                     this boot's, or the last one's
//! DIR/boot-00000003.new                     the next one, as it is begun; gone over when somebody died at it
//!   --synced--> boot-00000003.wal --synced--> boot-00000002.wal removed
//! ```
//! A crash leaves the old one, or both, or the new one, and all three are read alike: a log begins with what those before
//! it came to, so to read them first changes nothing. A log of another pool is neither read nor removed.
//!
//! Behind what was written there are zeros, synced before they are needed. To write over them changes nothing but the blocks
//! themselves; a file that grows takes the file system's journal along, and with it whatever others have lined up there.
//! Zeros are never a record: each record carries a hash that is chained to those before it.

use super::journal::Journal;
use payment::Address;
use payment::log::{self, Recovered};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Of a log no more is read than this, 512 MiB; what is beyond counts as cut off.
const LONGEST: u64 = 512 * 1024 * 1024;

/// Zeros that are made at once.
const ROOM: u64 = 1024 * 1024;

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

    /// Makes room behind the first `used` bytes, so that what is put there next is put sooner; where it can't, it is put all
    /// the same. Called while nobody waits.
    fn prepare(&mut self, used: u64);
}

/// The folder, and the file in it that is written.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    number: u64,
    /// None before the first one was begun.
    file: Option<File>,
    /// Up to where there are zeros, or were to be.
    room: u64,
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
        let room = bytes.len() as u64 + ROOM;
        let written = written(&new, bytes, room).and_then(|file| {
            // Never over a file that is there: two proxies may have been given one folder.
            fs::hard_link(&new, &path)?;
            File::open(&self.folder)?.sync_all()?;
            Ok(file)
        });
        // Without its other name it is nobody's.
        let _ = fs::remove_file(&new);
        self.file = Some(written?);
        (self.number, self.room) = (number, room);
        for old in std::mem::replace(&mut self.before, vec![path]) {
            // What can't be removed now is read once more by the next boot, and changes nothing.
            let _ = fs::remove_file(old);
        }
        Ok(())
    }

    fn prepare(&mut self, used: u64) {
        let Some(file) = self.file.as_ref().filter(|_| self.room < used + ROOM / 2) else { return };
        let (from, to) = (self.room.max(used), used + ROOM);
        // Where there is no space, the log grows by what is put for as long as that fits; it is tried again further on.
        let _ = zeros(file, from, to).and_then(|()| file.sync_data());
        self.room = to;
    }
}

impl Files {
    /// On a device that has no space, ever.
    #[cfg(test)]
    pub fn full() -> Self {
        let file = OpenOptions::new().write(true).open("/dev/full").ok();
        Files { folder: PathBuf::from("/dev/full"), number: 0, file, room: 0, before: Vec::new() }
    }

    fn path(&self, number: u64, end: &str) -> PathBuf {
        self.folder.join(format!("boot-{number:08}.{end}"))
    }
}

/// A new file with these bytes, on stable storage, and zeros up to `room` where there is space for them.
fn written(path: &Path, bytes: &[u8], room: u64) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    let _ = zeros(&file, bytes.len() as u64, room);
    file.sync_all()?;
    Ok(file)
}

fn zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    const SOME: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut at = from;
    while at < to {
        let length = (to - at).min(SOME.len() as u64);
        file.write_all_at(&SOME[..length as usize], at)?;
        at += length;
    }
    Ok(())
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
    let mut files = Files { folder: folder.to_owned(), number, file: None, room: 0, before: Vec::new() };
    let mut known = Recovered::default();
    for (_, path) in logs {
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
        read.map_err(failed("read"))?;
        let log = log::read(&bytes, pool);
        let left = bytes[log.good..].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if left > 0 {
            let path = path.display();
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
