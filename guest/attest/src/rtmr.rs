//! RTMR3, extended by the guest's own events through the kernel (Linux 6.16,
//! `Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest`).
//!
//! ```text
//! no file      -> the events are only recorded: "not extended"
//! file, zeros  -> 48 bytes written at offset 0 extend the register -> read until it shows the fold of the events
//! file, else   -> refused: something measured before us
//! ```
//! Whether there is a file is the kernel's doing alone, and the kernel is measured: a host can't take the file away
//! without another RTMR1, and a verifier knows from the release which of the two it must see. Every extend is read back,
//! so that a write that went elsewhere, or one from elsewhere, ends the boot.

use crate::read_bounded;
use protocol::Digest384;
use protocol::runtime::{Extension, GpuEvidence, Open, RuntimeError, RuntimeLog, RuntimeRecord};
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The kernel's file of RTMR3.
pub const RTMR3: &str = "/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384";
/// The kernel answers within the write; a platform that answers from user space may need a moment.
const LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(2);

/// Why an event could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The event may not stand there.
    #[error(transparent)]
    Event(#[from] RuntimeError),
    /// The kernel's file does not do what it should.
    #[error("{path}: cannot {what}: {source}; does this kernel's TDX driver let RTMR3 be extended?")]
    File {
        /// Which file.
        path: String,
        /// `read` or `write`.
        what: &'static str,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// The register is not what our events come to.
    #[error(
        "{path}: expected RTMR3 to be {expected}, found {found}; something else extended it, or nothing was extended"
    )]
    Register {
        /// Which file.
        path: String,
        /// Fold of the events so far.
        expected: String,
        /// What the register holds, or how many bytes were found.
        found: String,
    },
}

/// Measures the events of one boot, in order; made once, by the first service.
#[derive(Debug)]
pub struct Measurer {
    log: RuntimeLog<Open>,
    register: Option<Rtmr3>,
}

impl Measurer {
    /// Begins with the static configuration, in the kernel's file at `path` if there is one.
    pub fn begin(path: &Path, static_config: Digest384) -> Result<Self, MeasureError> {
        let register = Rtmr3::find(path)?;
        let (log, digest) = RuntimeLog::begin(static_config);
        let mut measurer = Measurer { log, register };
        measurer.extend(&digest)?;
        Ok(measurer)
    }

    /// Measures a model that was opened under this root.
    pub fn model(&mut self, name: &str, root: [u8; 32]) -> Result<(), MeasureError> {
        let digest = self.log.model(name, root)?;
        self.extend(&digest)
    }

    /// Measures what was found of the GPUs.
    pub fn gpu(&mut self, gpu: GpuEvidence) -> Result<(), MeasureError> {
        let digest = self.log.gpu(gpu)?;
        self.extend(&digest)
    }

    /// Ends it: nothing is extended from here on.
    pub fn seal(self) -> Result<RuntimeRecord, MeasureError> {
        let Measurer { log, mut register } = self;
        let (log, digest) = log.seal()?;
        if let Some(register) = &mut register {
            register.extend(&digest)?;
        }
        let extension = if register.is_some() { Extension::Extended } else { Extension::NotExtended };
        Ok(RuntimeRecord { extension, log })
    }

    fn extend(&mut self, digest: &Digest384) -> Result<(), MeasureError> {
        self.register.as_mut().map_or(Ok(()), |register| register.extend(digest))
    }
}

/// The kernel's register, and what it must hold.
#[derive(Debug)]
struct Rtmr3 {
    path: PathBuf,
    value: Digest384,
}

impl Rtmr3 {
    /// `None` where the kernel has no such file.
    fn find(path: &Path) -> Result<Option<Self>, MeasureError> {
        let register = Rtmr3 { path: path.to_owned(), value: Digest384::ZERO };
        match read_bounded(path, 48) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(register.file("read", source)),
            Ok(found) if found == register.value.0 => Ok(Some(register)),
            Ok(found) => Err(register.differs(&found)),
        }
    }

    fn extend(&mut self, digest: &Digest384) -> Result<(), MeasureError> {
        let write = || OpenOptions::new().write(true).open(&self.path)?.write_all(&digest.0);
        write().map_err(|source| self.file("write", source))?;
        self.value.extend(digest);
        let start = Instant::now();
        loop {
            let found = read_bounded(&self.path, 48).map_err(|source| self.file("read", source))?;
            if found == self.value.0 {
                return Ok(());
            }
            if start.elapsed() > LIMIT {
                return Err(self.differs(&found));
            }
            std::thread::sleep(POLL);
        }
    }

    fn file(&self, what: &'static str, source: io::Error) -> MeasureError {
        MeasureError::File { path: self.path.display().to_string(), what, source }
    }

    fn differs(&self, found: &[u8]) -> MeasureError {
        let found = match <[u8; 48]>::try_from(found) {
            Ok(value) => Digest384(value).to_string(),
            Err(_) => format!("{} bytes", found.len()),
        };
        let path = self.path.display().to_string();
        MeasureError::Register { path, expected: self.value.to_string(), found }
    }
}

#[cfg(test)]
mod tests;
