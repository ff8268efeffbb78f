//! This machine. Every answer is bounded: files are opened without waiting, read up to a limit and only if they are plain;
//! programs and connections have a deadline.
//!
//! A read that hangs inside the kernel can't be ended from here; the asker runs each of its checks on a thread of its own
//! and goes on without those that do not come back.

use super::{Answer, CONCERNS, Endpoint, Host, MAX_ANSWER, MAX_FILE, MAX_NAMES, Miss, Program, Question};
use crate::raw;
use measure::firmware::tdvf;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, addr::SocketAddrArg};
use std::fs::File;
use std::io::Read;
use std::net::ToSocketAddrs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a program may run.
const PROGRAM: Duration = Duration::from_millis(700);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_millis(400);
/// Most bytes of the kernel's log that are read.
const MAX_LOG: usize = 8 << 20;
/// No firmware has more.
const MAX_FIRMWARE: usize = 64 << 20;
/// More processors than any host has.
const MAX_PROCESSORS: usize = 4096;
/// Where programs may be.
const BINARIES: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/libexec"];

/// This machine, or a folder that stands for its root.
#[derive(Debug, Clone)]
pub struct Real {
    root: PathBuf,
}

impl Default for Real {
    fn default() -> Self {
        Real { root: "/".into() }
    }
}

impl Real {
    /// Files are looked up below `root` instead of `/`; processor, programs, connections and clock stay this machine's.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Real { root: root.into() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, Miss> {
        read(&self.path(path), limit)
    }

    fn names(&self, path: &str, start: &str) -> Answer {
        let entries = std::fs::read_dir(self.path(path)).map_err(|e| miss(&e))?;
        let names = entries.take(MAX_NAMES).flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> =
            names.filter(|name| name.starts_with(start) && !name.contains('\n')).collect();
        names.sort();
        Ok(names.join("\n"))
    }

    fn kind(&self, path: &str) -> Answer {
        let kind = std::fs::metadata(self.path(path)).map_err(|e| miss(&e))?.file_type();
        let name = match () {
            () if kind.is_file() => "file",
            () if kind.is_dir() => "dir",
            () if kind.is_char_device() => "char",
            () if kind.is_block_device() => "block",
            () if kind.is_socket() => "socket",
            () => "fifo",
        };
        Ok(name.into())
    }

    fn link(&self, path: &str) -> Answer {
        let target = std::fs::read_link(self.path(path)).map_err(|e| miss(&e))?;
        Ok(target.file_name().unwrap_or_default().to_string_lossy().into_owned())
    }

    /// Registers are read through the files of the kernel's msr module: 8 bytes at the register's number.
    fn msr(&self, index: u32) -> Answer {
        let dir = self.path("/dev/cpu");
        let mut values: Vec<u64> = Vec::new();
        let mut found = false;
        for entry in std::fs::read_dir(&dir).map_err(|e| miss(&e))?.take(MAX_PROCESSORS).flatten() {
            if !entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            let file = open(&entry.path().join("msr"), &[FileType::CharacterDevice, FileType::RegularFile])?;
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, u64::from(index)).map_err(|e| match e.raw_os_error() {
                Some(code) if code == Errno::IO.raw_os_error() => {
                    Miss::Failed(format!("MSR {index:#x} does not exist on this processor"))
                }
                _ => miss(&e),
            })?;
            found = true;
            values.push(u64::from_le_bytes(bytes));
            values.sort_unstable();
            values.dedup();
        }
        if !found {
            return Err(Miss::Absent);
        }
        Ok(values.iter().map(|value| format!("{value:#x}")).collect::<Vec<_>>().join("\n"))
    }

    /// The log as `/dev/kmsg` gives it: one record a read, `PRIORITY,NUMBER,MICROSECONDS,...;TEXT`.
    fn kernel_log(&self) -> Answer {
        let log = open(&self.path("/dev/kmsg"), &[FileType::CharacterDevice, FileType::RegularFile])?;
        let (mut record, mut seen, mut out) = (vec![0; 16 << 10], 0, String::new());
        while seen < MAX_LOG && out.len() < MAX_ANSWER {
            let length = match (&log).read(&mut record) {
                Ok(0) => break,
                Ok(length) => length,
                // The log moved on under us: the next read is at its new beginning.
                Err(e) if e.raw_os_error() == Some(Errno::PIPE.raw_os_error()) => 0,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(miss(&e)),
            };
            seen += length.max(64);
            for line in String::from_utf8_lossy(&record[..length]).lines() {
                let text = line.split_once(';').map_or(line, |(_, text)| text);
                if CONCERNS.iter().any(|word| text.contains(word)) {
                    out.push_str(text);
                    out.push('\n');
                }
            }
        }
        Ok(out)
    }

    /// Functions of one vendor, from sysfs.
    fn pci(&self, vendor: u16) -> Answer {
        let base = "/sys/bus/pci/devices";
        let mut out = Vec::new();
        for address in self.names(base, "")?.lines() {
            let field = |name: &str| {
                let bytes = self.read(&format!("{base}/{address}/{name}"), 64)?;
                Ok::<_, Miss>(String::from_utf8_lossy(&bytes).trim().to_owned())
            };
            // A device may go while its folder is read: then it is not there.
            if field("vendor").is_ok_and(|found| found == format!("{vendor:#06x}"))
                && let (Ok(device), Ok(class)) = (field("device"), field("class"))
            {
                out.push(format!("{address} {device} {class}"));
            }
        }
        Ok(out.join("\n"))
    }

    fn register(&self, address: &str, offset: u32) -> Answer {
        let path = self.path(&format!("/sys/bus/pci/devices/{address}/resource0"));
        let region = open(&path, &[FileType::RegularFile])?;
        Ok(format!("{:#x}", raw::register(&region, offset).map_err(|e| miss(&e))?))
    }

    fn tdvf(&self, path: &str) -> Answer {
        let bytes = self.read(path, MAX_FIRMWARE)?;
        let sections = tdvf::metadata(&bytes).map_err(|e| Miss::Failed(e.to_string()))?;
        Ok(format!("{} bytes, {} sections", bytes.len(), sections.len()))
    }

    fn space(&self, path: &str) -> Answer {
        let found = rustix::fs::statvfs(self.path(path)).map_err(|e| miss(&e.into()))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize).to_string())
    }
}

impl Host for Real {
    fn ask(&self, question: &Question) -> Answer {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        match question {
            Question::File(path) => self.read(path, MAX_ANSWER).map(text),
            Question::Line(path, start) => {
                let text = text(self.read(path, MAX_FILE)?);
                text.lines().find(|line| line.starts_with(start)).map(str::to_owned).ok_or(Miss::Absent)
            }
            Question::Hex(path) => {
                let bytes = self.read(path, 64)?;
                Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
            }
            Question::Dir(path) => self.names(path, ""),
            Question::Names(path, start) => self.names(path, start),
            Question::Kind(path) => self.kind(path),
            Question::Link(path) => self.link(path),
            Question::Msr(index) => self.msr(*index),
            Question::Cpuid(leaf, subleaf) => cpuid(*leaf, *subleaf),
            Question::KernelLog => self.kernel_log(),
            Question::Run(program) => run(*program),
            Question::Reach(endpoint) => reach(endpoint),
            Question::Space(path) => self.space(path),
            Question::Pci(vendor) => self.pci(*vendor),
            Question::Register(address, offset) => self.register(address, *offset),
            Question::Tdvf(path) => self.tdvf(path),
            Question::Clock => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                since.map(|t| t.as_secs().to_string()).map_err(|_| Miss::Failed("before 1970".into()))
            }
        }
    }
}

fn miss(error: &std::io::Error) -> Miss {
    match error.kind() {
        std::io::ErrorKind::NotFound => Miss::Absent,
        std::io::ErrorKind::PermissionDenied => Miss::Denied,
        std::io::ErrorKind::TimedOut => Miss::Late,
        _ => Miss::Failed(error.to_string()),
    }
}

/// Opens for reading without ever waiting, if it is of one of these kinds. The kind is looked at before, so that nothing
/// is woken by being opened, and again after, since it may have changed.
fn open(path: &Path, kinds: &[FileType]) -> Result<File, Miss> {
    let wanted = |mode| {
        let found = FileType::from_raw_mode(mode);
        if kinds.contains(&found) { Ok(()) } else { Err(Miss::OtherKind(format!("{found:?}"))) }
    };
    wanted(rustix::fs::stat(path).map_err(|e| miss(&e.into()))?.st_mode)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| miss(&e.into()))?;
    wanted(fstat(&file).map_err(|e| miss(&e.into()))?.st_mode)?;
    Ok(File::from(file))
}

/// At most `limit` bytes from the beginning of a plain file.
fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Miss> {
    let file = open(path, &[FileType::RegularFile])?;
    let mut bytes = Vec::new();
    file.take(limit as u64).read_to_end(&mut bytes).map_err(|e| miss(&e))?;
    Ok(bytes)
}

#[cfg(target_arch = "x86_64")]
fn cpuid(leaf: u32, subleaf: u32) -> Answer {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    let highest = __cpuid(leaf & 0x8000_0000).eax;
    if leaf > highest {
        return Err(Miss::Absent);
    }
    let found = __cpuid_count(leaf, subleaf);
    Ok(format!("{:#x} {:#x} {:#x} {:#x}", found.eax, found.ebx, found.ecx, found.edx))
}

#[cfg(not(target_arch = "x86_64"))]
fn cpuid(_: u32, _: u32) -> Answer {
    Err(Miss::Failed("this is no x86-64 processor".into()))
}

/// Runs a program with nothing to read, an empty environment and a deadline, and ends its whole group.
fn run(program: Program) -> Answer {
    let [name, arguments @ ..] = program.words() else { return Err(Miss::Absent) };
    let found = BINARIES.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file());
    let mut command = Command::new(found.ok_or(Miss::Absent)?);
    command.args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.process_group(0);
    let mut child = command.spawn().map_err(|e| miss(&e))?;
    let out = child.stdout.take();
    let (send, output) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = out.map(|out| out.take(MAX_ANSWER as u64).read_to_end(&mut bytes));
        // Nobody waits any more if it came too late.
        let _ = send.send(read.map(|_| String::from_utf8_lossy(&bytes).into_owned()));
    });
    let text = output.recv_timeout(PROGRAM);
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // It may have ended by itself, which is what is wanted.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
    match text {
        Ok(Some(text)) if !text.trim().is_empty() => Ok(text),
        Ok(_) => Err(Miss::Failed(format!("`{}` says nothing", program.words().join(" ")))),
        Err(_) => Err(Miss::Late),
    }
}

fn reach(endpoint: &Endpoint) -> Answer {
    match endpoint {
        Endpoint::Vsock(cid, port) => {
            connect(AddressFamily::VSOCK, &raw::VsockAddr::new(*cid, *port)).map_err(|e| match e {
                Miss::Failed(why) => Miss::Failed(format!("vsock: {why}")),
                other => other,
            })?;
        }
        Endpoint::Unix(path) => {
            let address = rustix::net::SocketAddrUnix::new(path.as_str()).map_err(|e| miss(&e.into()))?;
            connect(AddressFamily::UNIX, &address)?;
        }
        Endpoint::Tcp(host, port) => {
            let addresses = (host.as_str(), *port).to_socket_addrs().map_err(|e| miss(&e))?;
            let mut last = Miss::Failed(format!("{host} has no address"));
            let found = addresses.take(4).any(|address| {
                let tried = std::net::TcpStream::connect_timeout(&address, CONNECT);
                tried.map_err(|e| last = miss(&e)).is_ok()
            });
            if !found {
                return Err(last);
            }
        }
    }
    Ok("listening".into())
}

/// Connects within [`CONNECT`] and hangs up.
fn connect(family: AddressFamily, address: &impl SocketAddrArg) -> Result<(), Miss> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket: OwnedFd =
        rustix::net::socket_with(family, SocketType::STREAM, flags, None).map_err(|e| miss(&e.into()))?;
    match rustix::net::connect(&socket, address) {
        Ok(()) => return Ok(()),
        Err(Errno::INPROGRESS) => (),
        Err(e) => return Err(miss(&e.into())),
    }
    let until = Instant::now() + CONNECT;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let wait = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&wait)) {
            Ok(0) => return Err(Miss::Late),
            Err(Errno::INTR) if !left.is_zero() => (),
            Err(e) => return Err(miss(&e.into())),
            Ok(_) => break,
        }
    }
    match rustix::net::sockopt::socket_error(&socket) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) | Err(e) => Err(miss(&e.into())),
    }
}
