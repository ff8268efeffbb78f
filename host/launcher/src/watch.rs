//! Reading what a guest writes: its console and its progress port, both hostile bytes with bounds.
//!
//! QEMU appends to two plain files; they are followed by polling. Files rather than sockets: nothing is lost before
//! the reader connects, the guest never blocks on a slow host, and the record stays for a bug report. The price, that
//! a hostile guest could fill the disk, is paid by a bound after which the guest is ended.

use protocol::progress::{Line, MAX_LINE};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Most bytes that a console may carry.
pub const MAX_CONSOLE: u64 = 16 * 1024 * 1024;
/// Most bytes that a progress port may carry.
pub const MAX_PROGRESS: u64 = 1024 * 1024;
/// How much of the console is kept for messages, in bytes.
const KEPT: usize = 64 * 1024;
/// Most bytes read in one poll.
const CHUNK: u64 = 256 * 1024;
/// Longest console line in a message, in characters.
const SHOWN: usize = 240;

/// Words on the console that mean the boot is over, and what to do about each.
pub const SIGNS: &[(&str, &str)] = &[
    (
        "UEFI Interactive Shell",
        "the firmware found nothing to boot; check that the image is whole and its ESP is FAT with 512-byte sectors",
    ),
    (
        "No bootable option or device was found",
        "the firmware found nothing to boot; check that the image is whole and that it is attached",
    ),
    (
        ">>Start PXE",
        "the firmware could not load the image and tries the network; check that the UKI is whole (a PE file) and the disk attached",
    ),
    (
        "Access Denied",
        "the firmware refused the image; use firmware without enrolled Secure Boot keys or sign the UKI for them",
    ),
    (
        "chrysalis initrd: stopped",
        "the first program could not open the verified root; check that the disk is the one its UKI was built with",
    ),
    (
        "Kernel panic",
        "the kernel stopped the machine, as it does when a verified block does not match; compare the image with its hashes",
    ),
];

/// A growing file, read from the front.
#[derive(Debug)]
pub struct Follow {
    file: File,
    /// Bytes read so far.
    pub total: u64,
}

impl Follow {
    /// Opens an existing file.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Follow { file: File::open(path)?, total: 0 })
    }

    /// What came since the last call, bounded.
    pub fn poll(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&mut self.file).take(CHUNK).read_to_end(&mut bytes)?;
        self.total += bytes.len() as u64;
        Ok(bytes)
    }
}

/// Splits the progress port's bytes into lines and reads them; words outside the closed vocabulary are dropped.
#[derive(Debug, Default)]
pub struct Progress {
    partial: Vec<u8>,
}

impl Progress {
    /// Feeds bytes, returns the lines that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                lines.extend(std::str::from_utf8(&self.partial).ok().and_then(Line::parse));
                self.partial.clear();
            } else if self.partial.len() <= MAX_LINE {
                // One byte beyond the bound is kept, so that the parser refuses the line for its length.
                self.partial.push(byte);
            }
        }
        lines
    }
}

/// A sign of failure on the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sign {
    /// The words.
    pub words: &'static str,
    /// What to do.
    pub hint: &'static str,
}

/// The console as text: terminal sequences removed, a bounded tail kept.
#[derive(Debug, Default)]
pub struct Console {
    text: String,
    /// Where the first line that may still hold an unseen sign starts.
    unscanned: usize,
    escape: Escape,
}

/// Where a terminal sequence (ECMA-48) stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// After ESC.
    Start,
    /// After ESC [, until a final byte.
    Parameters,
}

impl Console {
    /// Feeds bytes; returns the first sign of failure among the lines that they touch, with its line.
    pub fn push(&mut self, bytes: &[u8]) -> Option<(Sign, String)> {
        for &byte in bytes {
            self.put(byte);
        }
        let fresh = &self.text[self.unscanned..];
        let found = fresh.lines().find_map(|line| {
            let (words, hint) = SIGNS.iter().find(|(words, _)| line.contains(words))?;
            Some((Sign { words, hint }, line.trim().chars().take(SHOWN).collect()))
        });
        self.unscanned = self.text.rfind('\n').map_or(0, |i| i + 1);
        self.trim();
        found
    }

    /// The last `lines` lines that are not blank.
    pub fn tail(&self, lines: usize) -> String {
        let mut last: Vec<String> = self
            .text
            .lines()
            .rev()
            .filter(|l| !l.trim().is_empty())
            .take(lines)
            .map(|l| l.trim_end().chars().take(SHOWN).collect())
            .collect();
        last.reverse();
        last.join("\n")
    }

    /// All that is kept.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn put(&mut self, byte: u8) {
        self.escape = match (self.escape, byte) {
            (_, 0x1b) => Escape::Start,
            (Escape::Start, b'[') => Escape::Parameters,
            (Escape::Start, _) => Escape::None,
            (Escape::Parameters, 0x20..=0x3f) => Escape::Parameters,
            (Escape::Parameters, _) => Escape::None,
            (Escape::None, b'\n' | b' '..=b'~') => return self.text.push(byte as char),
            (Escape::None, b'\t') => return self.text.push(' '),
            (Escape::None, 0x80..) => return self.text.push('?'),
            (Escape::None, _) => Escape::None,
        };
    }

    fn trim(&mut self) {
        if self.text.len() > 2 * KEPT {
            // Only ASCII was pushed, so every index is a character boundary.
            let cut = self.text.len() - KEPT;
            self.text.drain(..cut);
            self.unscanned = self.unscanned.saturating_sub(cut);
        }
    }
}

/// A guest's own words, fit for a terminal: control characters become blanks.
pub fn plain(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Each line behind four blanks, for quoting in a message.
pub fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::progress::Stage;

    #[test]
    fn progress_is_read_however_it_is_cut() {
        let text = "{\"uptime_ms\":5,\"stage\":\"started\"}\nnoise\n{\"uptime_ms\":9,\"stage\":\"serving\",\"port\":1}\n";
        for cut in 0..text.len() {
            let mut progress = Progress::default();
            let mut lines = progress.push(&text.as_bytes()[..cut]);
            lines.extend(progress.push(&text.as_bytes()[cut..]));
            let stages: Vec<Stage> = lines.into_iter().map(|l| l.stage).collect();
            assert_eq!(stages, [Stage::Started, Stage::Serving { port: 1 }], "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_progress_line_is_dropped_and_bounded() {
        let mut progress = Progress::default();
        assert!(progress.push(&vec![b' '; 10 * MAX_LINE]).is_empty());
        assert!(progress.partial.len() <= MAX_LINE + 1);
        let next = b"\n{\"uptime_ms\":5,\"stage\":\"started\"}\n";
        assert_eq!(progress.push(next).len(), 1, "the line after it is read again");
    }

    #[test]
    fn a_sign_is_found_across_writes_and_terminal_sequences() {
        let mut console = Console::default();
        assert_eq!(console.push(b"\x1b[2J\x1b[01;01Hhello\r\nKernel \x1b[0mpa"), None);
        let (sign, line) = console.push(b"nic - not syncing").unwrap();
        assert_eq!((sign.words, line.as_str()), ("Kernel panic", "Kernel panic - not syncing"));
        assert_eq!(console.text(), "hello\nKernel panic - not syncing");
    }

    #[test]
    fn a_flooded_console_keeps_a_bounded_tail() {
        let mut console = Console::default();
        for i in 0..100_000 {
            console.push(format!("line {i}\n").as_bytes());
        }
        assert!(console.text().len() <= 2 * KEPT);
        assert_eq!(console.tail(2), "line 99998\nline 99999");
    }

    proptest! {
        #[test]
        fn hostile_output_never_panics(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20),
        ) {
            let (mut console, mut progress) = (Console::default(), Progress::default());
            for chunk in chunks {
                console.push(&chunk);
                progress.push(&chunk);
            }
            prop_assert!(console.tail(5).lines().count() <= 5);
            prop_assert!(console.text().bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)));
        }
    }
}
