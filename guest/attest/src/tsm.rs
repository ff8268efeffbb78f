//! One quote through configfs-tsm (Linux `Documentation/ABI/testing/configfs-tsm-report`).
//!
//! ```text
//! mkdir ENTRY -> provider? -> generation = g -> 64 bytes into inblob -> outblob -> generation = g + 1 ? -> rmdir
//!                                                                                  else once more
//! ```
//! Every request makes an entry of its own, so nobody but this process should write to it; `generation` shows it if
//! somebody does. A platform may need a moment to fill an entry or to answer: absent and empty files, `EBUSY` and
//! `EWOULDBLOCK` mean "not yet" until the deadline.

use crate::{quote, read_bounded};
use protocol::AttestError;
use protocol::evidence::MAX_QUOTE;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PROVIDER: &str = "tdx_guest";
const POLL: Duration = Duration::from_millis(3);
/// Attribute files that are read as text are a line.
const MAX_TEXT: usize = 256;

/// A raw quote over `report_data` from an entry under `base`.
pub(crate) fn quote(base: &Path, report_data: &[u8; 64], limit: Duration) -> Result<Vec<u8>, AttestError> {
    let clock = Clock { start: Instant::now(), limit };
    loop {
        let entry = Entry::make(base)?;
        if let Some(quote) = entry.quote(report_data, &clock)? {
            let refused = |reason| AttestError::Refused { step: "quote", reason };
            check_report_data(&quote, report_data).map_err(refused)?;
            return Ok(quote);
        }
        clock.check()?;
    }
}

/// Whether a quote is one, and over `expected`; else why not, in words.
pub(crate) fn check_report_data(quote: &[u8], expected: &[u8; 64]) -> Result<(), String> {
    match quote::report_data(quote) {
        Ok(found) if found == *expected => Ok(()),
        Ok(_) => Err("it is over other report data than was asked for".into()),
        Err(e) => Err(e.to_string()),
    }
}

struct Clock {
    start: Instant,
    limit: Duration,
}

impl Clock {
    fn check(&self) -> Result<(), AttestError> {
        if self.start.elapsed() < self.limit {
            return Ok(());
        }
        Err(AttestError::Timeout { millis: u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX) })
    }

    /// Repeats `step` while it says "not yet".
    fn poll<T>(
        &self,
        step: &'static str,
        mut attempt: impl FnMut() -> io::Result<Option<T>>,
    ) -> Result<T, AttestError> {
        loop {
            match attempt() {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => {}
                Err(e) if e.kind() == ErrorKind::TimedOut => {
                    let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
                    return Err(AttestError::Timeout { millis });
                }
                Err(e) if not_yet(e.kind()) => {}
                Err(e) => return Err(AttestError::Refused { step, reason: e.to_string() }),
            }
            self.check()?;
            std::thread::sleep(POLL);
        }
    }
}

fn not_yet(kind: ErrorKind) -> bool {
    use ErrorKind::{Interrupted, NotFound, ResourceBusy, WouldBlock};
    matches!(kind, NotFound | WouldBlock | ResourceBusy | Interrupted)
}

/// A report entry, removed when dropped.
struct Entry(PathBuf);

impl Entry {
    fn make(base: &Path) -> Result<Self, AttestError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = base.join(format!("chrysalis-{}-{count}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Entry(path)),
                // Left behind by an earlier process with this id.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                // ENOENT: no configfs-tsm. ENXIO: the kernel has it, but no driver registered as provider.
                Err(e) => {
                    let path = base.display().to_string();
                    return Err(AttestError::NoProvider { path, reason: e.to_string() });
                }
            }
        }
    }

    /// `None` if somebody else wrote to the entry meanwhile.
    fn quote(&self, report_data: &[u8; 64], clock: &Clock) -> Result<Option<Vec<u8>>, AttestError> {
        let provider = clock.poll("provider", || self.text("provider"))?;
        if provider != PROVIDER {
            let reason = format!("expected provider `{PROVIDER}`, found `{provider}`");
            return Err(AttestError::NoProvider { path: self.0.display().to_string(), reason });
        }
        let before = clock.poll("generation", || self.generation())?;
        clock.poll("inblob", || self.write(report_data).map(Some))?;
        let wanted = before.wrapping_add(1);
        // The kernel counts at the write. A platform that answers from user space may need a moment.
        let seen = clock.poll("generation", || Ok(self.generation()?.filter(|g| *g != before)))?;
        if seen != wanted {
            return Ok(None);
        }
        let quote = clock.poll("outblob", || {
            Ok(Some(read_bounded(&self.0.join("outblob"), MAX_QUOTE)?).filter(|q| !q.is_empty()))
        })?;
        let after = clock.poll("generation", || self.generation())?;
        Ok((after == wanted).then_some(quote))
    }

    fn text(&self, file: &str) -> io::Result<Option<String>> {
        let bytes = read_bounded(&self.0.join(file), MAX_TEXT)?;
        Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned()).filter(|t| !t.is_empty()))
    }

    fn generation(&self) -> io::Result<Option<u64>> {
        let Some(text) = self.text("generation")? else { return Ok(None) };
        let not_a_number =
            |_| io::Error::new(ErrorKind::InvalidData, format!("expected a number, found `{text}`"));
        text.parse().map(Some).map_err(not_a_number)
    }

    /// One write: the kernel takes a binary attribute as a whole when it is closed.
    fn write(&self, report_data: &[u8; 64]) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.0.join("inblob"))?.write_all(report_data)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // In configfs the attributes go with their folder; ordinary files must go first. What remains costs a little
        // memory and no correctness, since no entry is ever used twice.
        if fs::remove_dir(&self.0).is_err() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests;
