//! What a daemon says to the host about its peers: lines of a closed vocabulary, handed to the first service, which alone
//! holds the port.
//!
//! Nobody waits for a line: where no relay listens (yet), a few are kept and sent again for a while, and what does not fit
//! is dropped.

use protocol::config::Role;
use protocol::progress::{Stage, Standing};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;

/// Lines that wait for the relay.
const WAITING: usize = 32;
const AGAIN: Duration = Duration::from_secs(1);
/// How often a line is tried before it is dropped.
const TRIES: usize = 60;
/// A refusal for the same reasons is told once in this time: a peer that calls again and again is no news.
const SAME: Duration = Duration::from_secs(600);

/// A handle; clones share one queue.
#[derive(Debug, Clone)]
pub struct Reporter(mpsc::Sender<Stage>);

impl Reporter {
    /// Starts the task that sends, on the present tokio runtime; it ends with the last handle.
    pub fn start(socket: PathBuf) -> Self {
        let (lines, queue) = mpsc::channel(WAITING);
        tokio::spawn(send_all(socket, queue));
        Reporter(lines)
    }

    /// An attested peer is there.
    pub fn joined(&self, part: Role, simulated: bool) {
        self.say(Stage::PeerJoined { part, simulated });
    }

    /// A peer was refused, for these reasons (names of checks).
    pub fn refused(&self, part: Role, reasons: &[&str]) {
        let reasons = reasons.iter().map(|reason| (*reason).to_owned()).collect();
        self.say(Stage::PeerRefused { part, reasons });
    }

    /// An attested peer is gone.
    pub fn left(&self, part: Role) {
        self.say(Stage::PeerLeft { part });
    }

    /// Published reference values stand otherwise than before.
    pub fn published(&self, standing: Standing, accepted: u32, until: u64, reason: Option<&str>) {
        self.say(Stage::Publication { standing, accepted, until, reason: reason.map(str::to_owned) });
    }

    fn say(&self, stage: Stage) {
        debug_assert!(stage.is_of_daemon(), "{stage:?}");
        // A full queue means that nobody listens.
        let _ = self.0.try_send(stage);
    }
}

async fn send_all(socket: PathBuf, mut queue: mpsc::Receiver<Stage>) {
    let Ok(from) = UnixDatagram::unbound() else { return };
    let mut told: Option<(Stage, Instant)> = None;
    while let Some(stage) = queue.recv().await {
        let refusal = matches!(stage, Stage::PeerRefused { .. });
        if refusal && told.as_ref().is_some_and(|(last, at)| *last == stage && at.elapsed() < SAME) {
            continue;
        }
        let line = serde_json::to_vec(&stage).unwrap_or_default();
        for _ in 0..TRIES {
            if from.send_to(&line, &socket).await.is_ok() {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        if refusal {
            told = Some((stage, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lines_wait_for_the_relay_and_a_repeated_refusal_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("progress");
        let reporter = Reporter::start(path.clone());
        reporter.refused(Role::Worker, &["registers"]);
        reporter.refused(Role::Worker, &["registers"]);
        reporter.joined(Role::Worker, true);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let relay = UnixDatagram::bind(&path).unwrap();
        let mut lines = Vec::new();
        for _ in 0..2 {
            let mut buffer = [0; 256];
            let length = relay.recv(&mut buffer).await.unwrap();
            lines.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        let refused = r#"{"stage":"peer-refused","part":"worker","reasons":["registers"]}"#;
        assert_eq!(lines, [refused, r#"{"stage":"peer-joined","part":"worker","simulated":true}"#]);
    }
}
