//! The desk: a Unix socket in a folder of the launcher's user alone, on which `chrysalis machine` asks. One JSON line each way a
//! connection.
//!
//! Whoever can open the socket can end the launcher anyway. A caller that says nothing is let go after a few seconds, and
//! there is room for a few at a time, so that none can keep the others out for long.

use super::record::Status;
use super::{Sender, Signal};
use crate::error::LaunchError;
use crate::rundir::short_dir;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Longest line, in bytes.
const MAX_LINE: u64 = 64 * 1024;
/// How long a caller may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most callers at a time.
const MAX_CALLERS: usize = 8;

/// What may be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// How it stands.
    Status,
    /// End the machine and its launcher; answered when it is over.
    Stop {
        /// Without giving requests under way their time.
        now: bool,
    },
    /// Put another image in the place of the present one; answered when that serves, or the present one does again.
    Upgrade {
        /// Folder of the image.
        image: PathBuf,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// To a question.
    Status(Box<Status>),
    /// It was done.
    Done,
    /// The new machine did not serve; the one before it serves again.
    RolledBack {
        /// What became of the new one.
        reason: String,
    },
    /// It was not done.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}

/// The open socket; dropping it closes and removes it.
#[derive(Debug)]
pub(super) struct Desk {
    folder: PathBuf,
    lock: File,
    callers: Arc<AtomicUsize>,
}

impl Desk {
    /// Opens a socket whose callers' questions go to `signals`.
    pub(super) fn open(signals: Sender<Signal>) -> Result<Self, LaunchError> {
        let (folder, lock) = short_dir(Path::new(crate::rundir::SHORT))?;
        let callers = Arc::new(AtomicUsize::new(0));
        let desk = Desk { folder, lock, callers: Arc::clone(&callers) };
        let socket = desk.socket();
        let listener = UnixListener::bind(&socket).map_err(LaunchError::file("control socket", &socket))?;
        let thread = std::thread::Builder::new().name("desk".into());
        let spawned = thread.spawn(move || {
            // The thread ends when the socket does, or with the process; it owns nothing else.
            for stream in listener.incoming().map_while(Result::ok) {
                if callers.fetch_add(1, Ordering::Relaxed) >= MAX_CALLERS {
                    callers.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                let (signals, callers) = (signals.clone(), Arc::clone(&callers));
                std::thread::spawn(move || {
                    serve(stream, &signals);
                    callers.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        spawned.map(|_| ()).map_err(LaunchError::file("thread of the control socket", &socket))?;
        Ok(desk)
    }

    /// Lets the answers that are given reach their callers: the process may end right after. Bounded, since a caller may stall.
    pub(super) fn finish(self) {
        let until = Instant::now() + PATIENCE;
        while self.callers.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("desk")
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        let _ = self.lock.unlock();
    }
}

/// One question, one answer. A caller that breaks off is nobody's loss.
fn serve(stream: UnixStream, signals: &Sender<Signal>) {
    let reply = question(&stream).and_then(|ask| {
        let (sender, answer) = channel();
        let _ = signals.send(Signal::Ask(ask, sender));
        answer.recv().map_err(|_| "the launcher is ending".to_owned())
    });
    let reply = reply.unwrap_or_else(|reason| Reply::Refused { reason });
    let _ = (&stream).write_all(line(&reply).as_bytes());
}

fn question(stream: &UnixStream) -> Result<Ask, String> {
    let limits = stream.set_read_timeout(Some(PATIENCE)).and(stream.set_write_timeout(Some(PATIENCE)));
    limits.map_err(|e| e.to_string())?;
    read(stream)
}

fn read<T: for<'de> Deserialize<'de>>(stream: &UnixStream) -> Result<T, String> {
    let mut text = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut text).map_err(|e| e.to_string())?;
    serde_json::from_str(&text)
        .map_err(|e| format!("not understood ({e}); use the program of the same version"))
}

fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

/// Asks the launcher behind this socket, and waits for its answer however long that takes.
pub fn ask(socket: &Path, ask: &Ask) -> Result<Reply, LaunchError> {
    let lost = |reason: String| LaunchError::Tool {
        tool: "the launcher".into(),
        reason: format!("did not answer on {}: {reason}; is it still running?", socket.display()),
    };
    let mut stream = UnixStream::connect(socket).map_err(|e| lost(e.to_string()))?;
    stream.write_all(line(ask).as_bytes()).map_err(|e| lost(e.to_string()))?;
    read(&stream).map_err(lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_and_nonsense_refused() {
        let (signals, inbox) = channel();
        let desk = Desk::open(signals).unwrap();
        std::thread::spawn(move || {
            for signal in inbox {
                let Signal::Ask(ask, reply) = signal else { continue };
                reply.send(Reply::Refused { reason: format!("{ask:?}") }).unwrap();
            }
        });
        let reply = ask(&desk.socket(), &Ask::Stop { now: true }).unwrap();
        assert_eq!(reply, Reply::Refused { reason: "Stop { now: true }".into() });
        let mut stream = UnixStream::connect(desk.socket()).unwrap();
        stream.write_all(b"{\"reboot\":{}}\n").unwrap();
        let reply: Reply = read(&stream).unwrap();
        assert!(matches!(reply, Reply::Refused { reason } if reason.contains("not understood")));
        let socket = desk.socket();
        drop(desk);
        assert!(ask(&socket, &Ask::Status).unwrap_err().to_string().contains("is it still running?"));
    }
}
