//! The accept loop: bounded connections, the handshake with its attestation, and an orderly end.
//!
//! ```text
//! accept -> [handshaking: 64] -> Accepted -> [open] -> the daemon's own, until it closes or the daemon stops
//! ```

use crate::Reporter;
use crate::dial::stopped;
use protocol::config::Role;
use ratls::{Accepted, Acceptor};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

/// Connections on their way through handshake and attestation; further ones wait in the listen queue.
const HANDSHAKING: usize = 64;
/// How long connections may take to end once the daemon is to stop; the session's own grace is shorter.
const GRACE: Duration = Duration::from_secs(25);

/// How the end went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut because they did not finish in time.
    pub cut: usize,
}

/// The way in.
pub struct Door {
    /// Name of the daemon, for its log.
    pub name: &'static str,
    /// Both halves of the handshake.
    pub acceptor: Arc<Acceptor>,
    /// Role of attested peers that come in.
    pub peers: Role,
    /// To the host.
    pub reporter: Reporter,
    /// Connections past the handshake at one time.
    pub open: usize,
}

impl Door {
    /// Serves until `stop` becomes true; `meet` takes each connection to its end, and is expected to end soon after that.
    pub async fn serve<M, F>(self, listener: TcpListener, mut stop: watch::Receiver<bool>, meet: M) -> Drained
    where
        M: Fn(Accepted<TcpStream>) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let door = Arc::new(self);
        let (handshaking, open) =
            (Arc::new(Semaphore::new(HANDSHAKING)), Arc::new(Semaphore::new(door.open)));
        let mut tasks = JoinSet::new();
        loop {
            let next = async {
                let place = handshaking.clone().acquire_owned().await.expect("the semaphore is never closed");
                (place, door.next(&listener).await)
            };
            let (place, tcp) = tokio::select! {
                () = stopped(&mut stop) => break,
                next = next => next,
            };
            while tasks.try_join_next().is_some() {}
            tasks.spawn(door.clone().take(tcp, place, open.clone(), stop.clone(), meet.clone()));
        }
        drop(listener);
        let drain = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, drain).await;
        Drained { cut: tasks.len() }
    }

    /// The next connection. Errors of accept(2) pass: a peer that left, or a table that is full for a moment.
    async fn next(&self, listener: &TcpListener) -> TcpStream {
        loop {
            match listener.accept().await {
                Ok((tcp, _)) => return tcp,
                Err(error) => {
                    eprintln!("{}: accept: {error}; trying again", self.name);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn take<M, F>(
        self: Arc<Self>,
        tcp: TcpStream,
        handshaking: OwnedSemaphorePermit,
        open: Arc<Semaphore>,
        mut stop: watch::Receiver<bool>,
        meet: M,
    ) where
        M: Fn(Accepted<TcpStream>) -> F,
        F: Future<Output = ()>,
    {
        // What is sent is written whole; waiting for more to send would only delay it.
        let _ = tcp.set_nodelay(true);
        let accepted = tokio::select! {
            () = stopped(&mut stop) => return,
            accepted = self.acceptor.accept(tcp) => accepted,
        };
        drop(handshaking);
        match accepted {
            Ok(accepted) => {
                // A full house closes the connection rather than letting attested peers pile up.
                let Ok(_place) = open.try_acquire_owned() else { return };
                meet(accepted).await;
            }
            Err(error) => {
                if let Some(refusal) = error.refusal() {
                    self.reporter.refused(self.peers, &refusal.reasons());
                }
                // A peer's fault would fill the log at the peer's will; ours must be seen.
                if !error.is_peer_fault() {
                    eprintln!("{}: a connection was not attested: {error}", self.name);
                }
            }
        }
    }
}
