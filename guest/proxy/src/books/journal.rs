//! This boot's log as it grows, and how it is begun anew when it has grown long.
//!
//! ```text
//! add --> lined up --write--> on disk ... LONG --compact--> a new log that begins with what the old one comes to
//!              ^ \-- failed: lined up still                 \-- failed: the old one goes on
//! ```
//! Bytes that could not be written are kept and written again at the same place: after an error nobody can tell what of
//! them is on disk, and a reader stops where a record is torn.

use super::disk::Disk;
use payment::Address;
use payment::log::{Fold, LogWriter, Record, Recovered};
use std::io;

/// Bytes that a log may have before it is begun anew, where what it comes to is short; otherwise four times that.
const LONG: u64 = 16 * 1024 * 1024;

/// A boot's log, as it grows.
#[derive(Debug)]
pub struct Journal<D> {
    disk: D,
    pool: Address,
    key: [u8; 32],
    writer: LogWriter,
    /// What a reader would know of it.
    fold: Fold,
    /// Bytes that are on disk.
    good: u64,
    /// Those that are to follow.
    pending: Vec<u8>,
    /// What it may grow by before it is begun anew.
    step: u64,
    /// Bytes at which it is.
    long: u64,
}

impl<D: Disk> Journal<D> {
    /// A new log on an empty disk.
    pub fn begin(disk: D, pool: &Address, key: &[u8; 32]) -> Self {
        let (pending, writer) = LogWriter::begin(pool, key);
        let fold = Fold::after(Recovered::default(), *key);
        let (pool, key) = (*pool, *key);
        Self { disk, pool, key, writer, fold, good: 0, pending, step: LONG, long: LONG }
    }

    /// The log of a boot whose `disk` holds what logs before it said, which was `known`: it takes their place.
    ///
    /// # Errors
    /// As [`Disk::renew`]; the logs before are as they were.
    pub fn after(known: Recovered, disk: D, pool: &Address, key: &[u8; 32]) -> io::Result<Self> {
        let mut journal = Self::begin(disk, pool, key);
        journal.fold = Fold::after(known, *key);
        journal.renew()?;
        Ok(journal)
    }

    /// Is begun anew each time it has grown by so many bytes.
    #[must_use]
    pub fn renewed_every(mut self, step: u64) -> Self {
        (self.step, self.long) = (step, self.good + step);
        self
    }

    /// Lines records up to be written.
    pub fn add(&mut self, records: &[Record]) {
        for record in records {
            self.pending.extend_from_slice(&self.writer.append(record));
            self.fold.apply(record);
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

    /// Makes room for what comes next, so that it is written sooner.
    pub fn prepare(&mut self) {
        if self.is_written() {
            self.disk.prepare(self.good);
        }
    }

    /// Whether [`Journal::compact`] has something to do.
    pub fn is_long(&self) -> bool {
        self.is_written() && self.good >= self.long
    }

    /// Begins it anew, if it is long: without what brings nobody anything any more (see [`Fold::forget`]).
    ///
    /// # Errors
    /// As [`Disk::renew`]; the log goes on as it was, and this is tried again when it has grown as much once more.
    pub fn compact(&mut self, now: u64, pays: impl Fn(u32) -> bool) -> io::Result<()> {
        if !self.is_long() {
            return Ok(());
        }
        self.fold.forget(now, pays);
        self.long = self.good + self.step;
        self.renew()
    }

    fn renew(&mut self) -> io::Result<()> {
        let (mut bytes, mut writer) = LogWriter::begin(&self.pool, &self.key);
        self.fold.snapshot().iter().for_each(|record| bytes.extend_from_slice(&writer.append(record)));
        self.disk.renew(&bytes)?;
        self.writer = writer;
        self.pending.clear();
        self.good = bytes.len() as u64;
        self.long = self.good.saturating_mul(4).max(self.good + self.step);
        Ok(())
    }
}
