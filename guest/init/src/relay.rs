//! Passes on what the daemon says of its peers. The daemon holds user data and so has no device at all; what it may say is
//! a closed vocabulary ([`protocol::progress::Stage::is_of_daemon`]), read here and written anew, so that no other byte of it can reach the
//! host this way.
//!
//! Deliberately absent: anything that comes back, and a promise that every line arrives.

use crate::{control, port};
use anyhow::{Context, Result};
use protocol::names::{PROGRESS_SOCKET, WORKER_PORT};
use protocol::progress::{MAX_LINE, Stage};
use std::convert::Infallible;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Most lines passed on in one boot: the host reads a bounded file, and peers must not be able to fill it.
const MAX_LINES: usize = 1000;

/// Tells the host that the daemon serves, then stays to pass on what it says, and to attend to the control port.
pub(crate) fn announce() -> Result<()> {
    port::report(Stage::Serving { port: WORKER_PORT });
    control::attend();
    let socket = bind(Path::new(PROGRESS_SOCKET))?;
    match relay(&socket, port::report)? {}
}

fn bind(path: &Path) -> Result<UnixDatagram> {
    // The folder is on a file system that was empty at boot; what is there is ours, from before a restart.
    let _ = fs::remove_file(path);
    UnixDatagram::bind(path).with_context(|| format!("cannot listen on {}", path.display()))
}

fn relay(socket: &UnixDatagram, mut report: impl FnMut(Stage)) -> Result<Infallible> {
    let mut left = MAX_LINES;
    let mut buffer = [0; MAX_LINE];
    loop {
        let length = socket.recv(&mut buffer).context("the progress socket broke")?;
        let Some(stage) = said(&buffer[..length]).filter(|_| left > 0) else { continue };
        left -= 1;
        report(stage);
    }
}

/// What a datagram says, if a daemon may say it.
fn said(bytes: &[u8]) -> Option<Stage> {
    serde_json::from_slice(bytes).ok().filter(Stage::is_of_daemon)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::config::Role;
    use std::sync::mpsc;

    #[test]
    fn only_closed_words_of_a_daemon_are_passed_on_and_not_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("progress");
        let socket = bind(&path).unwrap();
        let (lines, passed) = mpsc::channel();
        std::thread::spawn(move || relay(&socket, move |stage| lines.send(stage).unwrap()));
        let sender = UnixDatagram::unbound().unwrap();
        let refused = |reason: &str| {
            format!("{{\"stage\":\"peer-refused\",\"part\":\"worker\",\"reasons\":[\"{reason}\"]}}")
        };
        for other in [
            "a prompt",
            "{\"stage\":\"serving\",\"port\":1}",
            &refused("a prompt"),
            &refused("registers"),
            "",
        ] {
            sender.send_to(other.as_bytes(), &path).unwrap();
        }
        let registers = Stage::PeerRefused { part: Role::Worker, reasons: vec!["registers".into()] };
        assert_eq!(passed.recv().unwrap(), registers);
        for _ in 0..MAX_LINES + 10 {
            sender.send_to(refused("tcb").as_bytes(), &path).unwrap();
        }
        sender.send_to(b"x", &path).unwrap();
        let mut count = 0;
        while passed.recv_timeout(std::time::Duration::from_millis(500)).is_ok() {
            count += 1;
        }
        assert_eq!(count, MAX_LINES - 1);
    }
}
