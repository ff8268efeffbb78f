//! The accept loop: bounded connections, attestation, HTTP/1.1, and an orderly end.
//!
//! ```text
//! accept -> [handshaking: 64] -> attested -> [open: 256] -> HTTP/1.1 until idle, old or draining -> closed
//! ```

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ratls::{Acceptor, ChannelStream};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

#[cfg(test)]
mod tests;

/// Connections on their way through handshake and attestation; further ones wait in the listen queue.
const HANDSHAKING: usize = 64;
/// Attested connections.
const OPEN: usize = 256;
/// How long a request's header may take, idling between requests included.
const HEADER_DEADLINE: Duration = Duration::from_secs(60);
/// Largest request header, in bytes.
const MAX_HEADER: usize = 16 * 1024;
/// After this age a connection finishes its request and closes, so that a peer attests anew.
const MAX_AGE: Duration = Duration::from_secs(15 * 60);
/// How long a request under way may still take once its connection is to close.
const GRACE: Duration = Duration::from_secs(20);

/// How the end went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut because they did not finish in time.
    pub cut: usize,
}

/// Serves until `stop` becomes true, then lets requests under way finish.
pub async fn serve(
    listener: TcpListener,
    acceptor: Arc<Acceptor>,
    router: Router,
    mut stop: watch::Receiver<bool>,
) -> Drained {
    let handshaking = Arc::new(Semaphore::new(HANDSHAKING));
    let open = Arc::new(Semaphore::new(OPEN));
    let mut tasks = JoinSet::new();
    loop {
        let next = async {
            let place = handshaking.clone().acquire_owned().await.expect("the semaphore is never closed");
            (place, accept(&listener).await)
        };
        let (place, tcp) = tokio::select! {
            _ = stopped(&mut stop) => break,
            next = next => next,
        };
        while tasks.try_join_next().is_some() {}
        let peer = Peer { acceptor: acceptor.clone(), open: open.clone(), stop: stop.clone() };
        tasks.spawn(peer.serve(tcp, place, router.clone()));
    }
    drop(listener);
    let drain = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(GRACE, drain).await;
    Drained { cut: tasks.len() }
}

/// Ends when `stop` is true or can't become true any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The next connection. Errors of accept(2) pass: a peer that left, or a table that is full for a moment.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => return tcp,
            Err(error) => {
                eprintln!("chrysalis-worker: accept: {error}; trying again");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// One connection's share of the server.
struct Peer {
    acceptor: Arc<Acceptor>,
    open: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

impl Peer {
    async fn serve(mut self, tcp: TcpStream, handshaking: OwnedSemaphorePermit, router: Router) {
        // Answers are written whole; waiting for more to send would only delay them.
        let _ = tcp.set_nodelay(true);
        let accepted = tokio::select! {
            _ = stopped(&mut self.stop) => return,
            accepted = self.acceptor.accept(tcp) => accepted,
        };
        drop(handshaking);
        match accepted {
            Ok(accepted) => {
                // A full house closes the connection rather than letting attested peers pile up.
                let Ok(_place) = self.open.clone().try_acquire_owned() else { return };
                let (_, _, stream) = accepted.into_parts();
                talk(stream, router, &mut self.stop).await;
            }
            // A peer's fault would fill the log at the peer's will; ours must be seen.
            Err(error) if error.is_peer_fault() => {}
            Err(error) => eprintln!("chrysalis-worker: a connection was not attested: {error}"),
        }
    }
}

/// HTTP/1.1 on one attested connection until it closes, grows old or the worker stops.
async fn talk<S>(stream: ChannelStream<S>, router: Router, stop: &mut watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = tokio::time::sleep(MAX_AGE) => {}
        _ = stopped(stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GRACE, connection).await;
}
