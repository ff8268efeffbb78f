//! The virtio-serial ports, and progress lines over one of them. A host that attached none, or does not read it, loses nothing but the
//! lines: the guest goes on.

use protocol::names::PROGRESS_PORT;
use protocol::progress::{Line, Stage};
use rustix::fs::OFlags;
use rustix::time::{ClockId, clock_gettime};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a line may wait for the host to make room.
const LIMIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);
/// Where the kernel lists ports, and where their nodes are.
const CLASS: &str = "/sys/class/virtio-ports";
const DEV: &str = "/dev";

/// Sends one line, if there is a port to send it to.
pub(crate) fn report(stage: Stage) {
    let uptime_ms = uptime_ms();
    let Some(node) = find(PROGRESS_PORT, Path::new(CLASS), Path::new(DEV)) else { return };
    // Without O_NONBLOCK a write would wait for ever on a port that nobody holds open.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let Ok(port) = fs::OpenOptions::new().write(true).custom_flags(flags).open(node) else { return };
    send(port, Line { uptime_ms, stage }.to_line().as_bytes());
}

/// Milliseconds since the kernel started.
pub(crate) fn uptime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec * 1000 + now.tv_nsec / 1_000_000).unwrap_or_default()
}

/// Opens a port for reading and writing, both of which wait for a host that listens.
pub(crate) fn open_both_ways(name: &str) -> Option<File> {
    let node = find(name, Path::new(CLASS), Path::new(DEV))?;
    fs::OpenOptions::new().read(true).write(true).open(node).ok()
}

fn find(name: &str, class: &Path, dev: &Path) -> Option<PathBuf> {
    let ports = fs::read_dir(class).ok()?;
    let is_ours = |path: &PathBuf| fs::read_to_string(path.join("name")).is_ok_and(|n| n.trim() == name);
    let port = ports.flatten().map(|entry| entry.path()).find(is_ours)?;
    Some(dev.join(port.file_name()?))
}

fn send(mut port: File, mut bytes: &[u8]) {
    let start = Instant::now();
    while !bytes.is_empty() && start.elapsed() < LIMIT {
        match port.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                std::thread::sleep(POLL);
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let find = |name| find(name, dir.path(), Path::new("/dev"));
        assert_eq!(find(PROGRESS_PORT), None);
        for (port, name) in [("vport1p1", "org.other\n"), ("vport1p2", "org.chrysalis.progress\n")] {
            fs::create_dir(dir.path().join(port)).unwrap();
            fs::write(dir.path().join(port).join("name"), name).unwrap();
        }
        assert_eq!(find(PROGRESS_PORT), Some("/dev/vport1p2".into()));
        assert_eq!(find("org.other"), Some("/dev/vport1p1".into()));
    }
}
