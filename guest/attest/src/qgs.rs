//! Quotes from the host's quote generation service (QGS) over vsock, past the kernel's GetQuote.
//!
//! ```text
//! report data --TDX_CMD_GET_REPORT0--> TDREPORT (/dev/tdx_guest, the processor's own MAC)
//! TDREPORT --frame: u32 BE | header 1.1, GET_QUOTE_REQ--> QGS at host CID 2, port 4050 --GET_QUOTE_RESP--> quote
//! ```
//! Why: with QEMU the kernel's GetQuote returns at once and is then looked at each second, under one lock
//! (`wait_for_quote_completion` in Linux `drivers/virt/coco/tdx-guest/tdx-guest.c`), so a machine gets one quote a second.
//! Here a quote takes what the service needs, and several are made at once. The host is trusted no more than on the other
//! way: it gets the same TDREPORT, and whoever reads the quote checks its signature.
//!
//! Message layout: Intel SGX DCAP `QuoteGeneration/quote_wrapper/qgs_msg_lib`, little-endian; the frame before it is
//! big-endian, as QEMU's `target/i386/kvm/tdx-quote-generator.c` and Intel's guest library write it. A reader takes any
//! minor version: services of 1.0 and of 1.1 answer alike.

use crate::sys::tdx as sys;
use protocol::evidence::MAX_QUOTE;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(crate) const TDREPORT: usize = 1024;
const HEADER: usize = 16;
/// Header, size of the report or selected identity, size of the identity list or quote.
const FIXED: usize = HEADER + 8;
const GET_QUOTE_REQ: u32 = 0;
const GET_QUOTE_RESP: u32 = 1;
const VERSION: (u16, u16) = (1, 1);
/// An answer names the attestation key's identity (16 bytes at most so far) before the quote.
const MAX_IDENTITY: usize = 256;
const MAX_ANSWER: usize = FIXED + MAX_IDENTITY + MAX_QUOTE;

/// Where the service is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qgs {
    /// The kernel's device for TDREPORTs.
    pub device: PathBuf,
    /// Context identifier of the host; 2 by vsock's definition.
    pub cid: u32,
    /// Port of the service; 4050 in Intel's own configuration.
    pub port: u32,
    /// How long a quote may take, from the first byte sent.
    pub deadline: Duration,
}

impl Default for Qgs {
    fn default() -> Self {
        Qgs { device: "/dev/tdx_guest".into(), cid: 2, port: 4050, deadline: Duration::from_secs(15) }
    }
}

/// Why this way gave no quote.
#[derive(Debug, thiserror::Error)]
pub enum QgsError {
    /// No TDREPORT.
    #[error("{path}: no TDREPORT: {source}")]
    Report {
        /// The device.
        path: String,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// The service was not reached, or fell silent.
    #[error("vsock {cid}:{port}: {source}")]
    Io {
        /// Context identifier.
        cid: u32,
        /// Port.
        port: u32,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// The service said that it can't.
    #[error("the quoting service refused with code {code:#x}")]
    Refused {
        /// `qgs_msg_error_t`, or the code of the quoting library behind it.
        code: u32,
    },
    /// The service answered in another language.
    #[error("the quoting service's answer of {length} bytes: {field}: expected {expected}, found {found}")]
    Malformed {
        /// Bytes of the answer, or what its frame claimed.
        length: usize,
        /// Which field.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: u64,
    },
}

impl Qgs {
    /// A raw quote over `report_data`; nothing of it is verified here.
    pub fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, QgsError> {
        let report = self
            .report(report_data)
            .map_err(|source| QgsError::Report { path: self.device.display().to_string(), source })?;
        let failed = |source| QgsError::Io { cid: self.cid, port: self.port, source };
        let mut socket = sys::connect(self.cid, self.port).map_err(failed)?;
        let end = Instant::now() + self.deadline;
        let arm = |socket: &std::fs::File| {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { sys::limit(socket, left) }
        };
        arm(&socket).and_then(|()| socket.write_all(&request(&report))).map_err(failed)?;
        let answer = receive(&mut socket, arm, failed)?;
        answered(&answer)
    }

    fn report(&self, report_data: &[u8; 64]) -> io::Result<[u8; TDREPORT]> {
        let device = OpenOptions::new().read(true).write(true).open(&self.device)?;
        sys::report(&device, report_data)
    }
}

/// A framed request for a quote over `report`.
fn request(report: &[u8; TDREPORT]) -> Vec<u8> {
    let size = (FIXED + TDREPORT) as u32;
    let mut bytes = Vec::with_capacity(4 + FIXED + TDREPORT);
    bytes.extend(size.to_be_bytes());
    bytes.extend(VERSION.0.to_le_bytes());
    bytes.extend(VERSION.1.to_le_bytes());
    // Type, size of the whole message, error code; size of the report, and an empty list of wanted identities.
    for word in [GET_QUOTE_REQ, size, 0, TDREPORT as u32, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(report);
    bytes
}

/// The message of one frame. `arm` sets the time that is left before each read.
fn receive<S: Read>(
    socket: &mut S,
    arm: impl Fn(&S) -> io::Result<()>,
    failed: impl Fn(io::Error) -> QgsError,
) -> Result<Vec<u8>, QgsError> {
    let mut fill = |bytes: &mut [u8]| -> io::Result<()> {
        let mut filled = 0;
        while filled < bytes.len() {
            arm(socket)?;
            match socket.read(&mut bytes[filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    };
    let mut size = [0; 4];
    fill(&mut size).map_err(&failed)?;
    let length = u32::from_be_bytes(size) as usize;
    if !(FIXED..=MAX_ANSWER).contains(&length) {
        let expected = "a quote's size and some";
        return Err(QgsError::Malformed { length, field: "frame", expected, found: length as u64 });
    }
    let mut message = vec![0; length];
    fill(&mut message).map_err(failed)?;
    Ok(message)
}

/// The quote in an answer.
fn answered(message: &[u8]) -> Result<Vec<u8>, QgsError> {
    let length = message.len();
    let malformed = |field, expected, found: u32| {
        Err(QgsError::Malformed { length, field, expected, found: u64::from(found) })
    };
    let Some((fixed, rest)) = message.split_first_chunk::<FIXED>() else {
        return malformed("length", "24 bytes at least", length as u32);
    };
    let word = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let major = word(0) & 0xffff;
    if major != u32::from(VERSION.0) {
        return malformed("major version", "1", major);
    }
    if word(4) != GET_QUOTE_RESP {
        return malformed("type", "1 (GET_QUOTE_RESP)", word(4));
    }
    if word(8) as usize != length {
        return malformed("size", "the frame's", word(8));
    }
    if word(12) != 0 {
        return Err(QgsError::Refused { code: word(12) });
    }
    let (identity, quote) = (word(16) as usize, word(20) as usize);
    if identity > MAX_IDENTITY || identity.checked_add(quote) != Some(rest.len()) || quote == 0 {
        return malformed("quote size", "the rest of the message", word(20));
    }
    Ok(rest[identity..].to_vec())
}

#[cfg(test)]
mod tests;
