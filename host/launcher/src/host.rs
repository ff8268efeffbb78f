//! A host, seen through questions: each has one answer in text, or a reason why there is none.
//!
//! ```text
//! doctor --Question--> Host: Real (this machine) | Recorded (a fixture) | Recorder (asks another and remembers) --Answer--> doctor
//! ```
//! All that is known of a host goes through [`Host::ask`], so that a recording holds exactly what was looked at, and a
//! fixture in text plays any host. Questions are closed: no path or program that a file names is ever opened or run,
//! except those that the asker put together itself.
//!
//! Deliberately absent: any way to change a host.

mod real;
mod recorded;
mod redact;

pub use real::Real;
pub use recorded::{FixtureError, Recorded, Recorder};

use std::fmt;

/// Where a service may listen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// A virtual socket: context and port.
    Vsock(u32, u32),
    /// A Unix socket.
    Unix(String),
    /// Host name or address, and port.
    Tcp(String, u16),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Vsock(cid, port) => write!(f, "vsock {cid}:{port}"),
            Endpoint::Unix(path) => write!(f, "unix {path}"),
            Endpoint::Tcp(host, port) => write!(f, "tcp {host}:{port}"),
        }
    }
}

/// The programs that may be run to learn something; none of them changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// `qemu-system-x86_64 --version`.
    QemuVersion,
    /// `qemu-system-x86_64 -object help`.
    QemuObjects,
}

impl Program {
    /// Name and arguments.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Program::QemuVersion => &["qemu-system-x86_64", "--version"],
            Program::QemuObjects => &["qemu-system-x86_64", "-object", "help"],
        }
    }
}

/// What may be asked. The form that [`fmt::Display`] writes is the key in a fixture.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// Text of a plain file, at most its first [`MAX_ANSWER`] bytes.
    File(String),
    /// The first line of a plain file that starts so; only its first [`MAX_FILE`] bytes are looked at.
    Line(String, &'static str),
    /// The first 64 bytes of a plain file in hexadecimal.
    Hex(String),
    /// Names in a folder, one a line, in order; at most [`MAX_NAMES`].
    Dir(String),
    /// Those of them that start so.
    Names(String, &'static str),
    /// What stands there: `file`, `dir`, `char`, `block`, `socket` or `fifo`.
    Kind(String),
    /// Last name in the target of a symbolic link.
    Link(String),
    /// A model-specific register: its distinct values over all processors, one a line.
    Msr(u32),
    /// A leaf and subleaf of CPUID: eax, ebx, ecx, edx.
    Cpuid(u32, u32),
    /// Lines of the kernel's log that concern a confidential host ([`CONCERNS`]).
    KernelLog,
    /// Output of a program.
    Run(Program),
    /// Whether something listens; the answer is `listening`.
    Reach(Endpoint),
    /// Free bytes where the path is; one path a host.
    Space(String),
    /// Functions of a PCI vendor: address, device, class, one a line.
    Pci(u16),
    /// A 32-bit register in region 0 of a PCI function.
    Register(String, u32),
    /// A firmware file: `BYTES bytes, N sections` if it has TDX metadata.
    Tdvf(String),
    /// Seconds since 1970.
    Clock,
}

/// Words by which a line of the kernel's log is known to matter here; all others stay unread, and out of recordings.
pub const CONCERNS: &[&str] =
    &["tdx", "x86/tme", "x86/mktme", "DMAR", "iommu:", "sgx:", "NVRM", "vfio", "kvm_intel", "can't assign"];
/// Longest answer in bytes.
pub const MAX_ANSWER: usize = 64 << 10;
/// Most bytes of a file that are looked at.
pub const MAX_FILE: usize = 1 << 20;
/// Most names of a folder.
pub const MAX_NAMES: usize = 4096;

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Question::File(path) => write!(f, "file {path}"),
            Question::Line(path, start) => write!(f, "line {path} {start}"),
            Question::Hex(path) => write!(f, "hex {path}"),
            Question::Dir(path) => write!(f, "dir {path}"),
            Question::Names(path, start) => write!(f, "names {path} {start}"),
            Question::Kind(path) => write!(f, "kind {path}"),
            Question::Link(path) => write!(f, "link {path}"),
            Question::Msr(index) => write!(f, "msr {index:#x}"),
            Question::Cpuid(leaf, subleaf) => write!(f, "cpuid {leaf:#x} {subleaf:#x}"),
            Question::KernelLog => f.write_str("kernel log"),
            Question::Run(program) => write!(f, "run {}", program.words().join(" ")),
            Question::Reach(endpoint) => write!(f, "reach {endpoint}"),
            // Not where: that is the owner's.
            Question::Space(_) => f.write_str("space"),
            Question::Pci(vendor) => write!(f, "pci {vendor:#06x}"),
            Question::Register(address, offset) => write!(f, "register {address} {offset:#x}"),
            Question::Tdvf(path) => write!(f, "tdvf {path}"),
            Question::Clock => f.write_str("clock"),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Miss {
    /// It does not exist.
    #[error("is not there")]
    Absent,
    /// It is there, but not for this user.
    #[error("may not be read by this user")]
    Denied,
    /// It is there and is something else, such as a named pipe.
    #[error("is of another kind ({0})")]
    OtherKind(String),
    /// It did not answer in time.
    #[error("did not answer in time")]
    Late,
    /// Nobody asked it when this host was recorded.
    #[error("was not recorded")]
    NotRecorded,
    /// It failed in its own words.
    #[error("{0}")]
    Failed(String),
}

/// One answer.
pub type Answer = Result<String, Miss>;

/// A host.
pub trait Host: Send + Sync {
    /// Answers, in bounded time and space, and changes nothing.
    fn ask(&self, question: &Question) -> Answer;
}

/// What an answer says, where it has a form.
impl dyn Host + '_ {
    pub(crate) fn file(&self, path: &str) -> Answer {
        self.ask(&Question::File(path.into())).map(|text| text.trim().to_owned())
    }

    /// What follows `start` in the first line that starts so.
    pub(crate) fn line(&self, path: &str, start: &'static str) -> Answer {
        let line = self.ask(&Question::Line(path.into(), start))?;
        Ok(line.strip_prefix(start).unwrap_or(&line).trim_start_matches([' ', '\t', ':', '=']).trim().into())
    }

    pub(crate) fn names(&self, path: &str) -> Result<Vec<String>, Miss> {
        let text = self.ask(&Question::Dir(path.into()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    pub(crate) fn kind(&self, path: &str) -> Answer {
        self.ask(&Question::Kind(path.into()))
    }

    /// The one value that all processors agree on.
    pub(crate) fn msr(&self, index: u32) -> Result<u64, Miss> {
        let text = self.ask(&Question::Msr(index))?;
        let values: Vec<&str> = text.split_whitespace().collect();
        match values[..] {
            [one] => hex(one).ok_or_else(|| Miss::Failed(format!("MSR {index:#x} reads `{one}`"))),
            _ => {
                Err(Miss::Failed(format!("MSR {index:#x} differs between processors: {}", values.join(", "))))
            }
        }
    }

    /// eax, ebx, ecx, edx.
    pub(crate) fn cpuid(&self, leaf: u32, subleaf: u32) -> Result<[u32; 4], Miss> {
        let text = self.ask(&Question::Cpuid(leaf, subleaf))?;
        let values: Option<Vec<u32>> =
            text.split_whitespace().map(|word| hex(word).and_then(|v| v.try_into().ok())).collect();
        values.and_then(|v| v.try_into().ok()).ok_or_else(|| Miss::Failed(format!("CPUID reads `{text}`")))
    }

    pub(crate) fn register(&self, address: &str, offset: u32) -> Result<u32, Miss> {
        let text = self.ask(&Question::Register(address.into(), offset))?;
        let value = hex(text.trim()).and_then(|value| value.try_into().ok());
        value.ok_or_else(|| Miss::Failed(format!("register {offset:#x} reads `{text}`")))
    }

    /// An unsigned decimal number.
    pub(crate) fn number(&self, question: &Question) -> Result<u64, Miss> {
        let text = self.ask(question)?;
        text.trim().parse().map_err(|_| Miss::Failed(format!("reads `{}`, no number", text.trim())))
    }

    /// The last line of the kernel's log with any of these words.
    pub(crate) fn logged(&self, words: &[&str]) -> Result<Option<String>, Miss> {
        let log = self.ask(&Question::KernelLog)?;
        let found = log.lines().rfind(|line| words.iter().any(|word| line.contains(word)));
        Ok(found.map(|line| line.trim().to_owned()))
    }
}

/// A number in hexadecimal with `0x`.
pub(crate) fn hex(word: &str) -> Option<u64> {
    u64::from_str_radix(word.trim().strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests;
