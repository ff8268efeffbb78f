//! Calling a peer, and calling it again.
//!
//! ```text
//! connect (10 s) -> meet -> served for a while: start over at once, from the shortest pause
//!     \__ failed, refused ->  pause, twice as long each time, up to a minute
//! ```
//! Pauses are spread by up to a half, so that many guests of one proxy that went away do not come back in step.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddrV4;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

const CONNECT: Duration = Duration::from_secs(10);
const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// How a meeting with a peer went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// It was attested and the connection was used until it ended.
    Served,
    /// It did not come to that.
    Failed,
}

/// Calls `address` until `stop` is true; `meet` takes each connection to its end.
pub async fn keep_calling<F, M>(address: SocketAddrV4, mut stop: watch::Receiver<bool>, mut meet: F)
where
    F: FnMut(TcpStream) -> M,
    M: Future<Output = Met>,
{
    let mut pause = Pause::default();
    loop {
        let connecting = tokio::time::timeout(CONNECT, TcpStream::connect(address));
        let connected = tokio::select! {
            _ = stopped(&mut stop) => return,
            connected = connecting => connected,
        };
        // Nobody there is the same as a peer that fails: one calls again later.
        if let Ok(Ok(tcp)) = connected {
            let _ = tcp.set_nodelay(true);
            if meet(tcp).await == Met::Served {
                pause = Pause::default();
            }
        }
        tokio::select! {
            _ = stopped(&mut stop) => return,
            () = tokio::time::sleep(pause.next()) => {}
        }
    }
}

/// Ends when `stop` is true or can't become true any more.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Doubling pauses with a spread.
struct Pause {
    next: Duration,
    // Keyed at random by the standard library: spread, not secrecy.
    spread: RandomState,
}

impl Default for Pause {
    fn default() -> Self {
        Pause { next: SHORTEST, spread: RandomState::new() }
    }
}

impl Pause {
    fn next(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(LONGEST);
        let part = self.spread.hash_one(whole) % 1000;
        whole / 2 + whole.mul_f64(part as f64 / 2000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::net::TcpListener;

    #[test]
    fn pauses_double_up_to_a_minute_and_stay_within_their_spread() {
        let mut pause = Pause::default();
        let mut whole = SHORTEST;
        for _ in 0..12 {
            let next = pause.next();
            assert!((whole / 2..=whole).contains(&next), "{next:?} of {whole:?}");
            whole = (whole * 2).min(LONGEST);
        }
        assert_eq!(whole, LONGEST);
    }

    #[tokio::test]
    async fn a_peer_is_called_again_until_told_to_stop() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let std::net::SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("IPv4") };
        let (stop, stopping) = watch::channel(false);
        let met = Arc::new(AtomicUsize::new(0));
        let count = met.clone();
        let calling = tokio::spawn(keep_calling(address, stopping, move |_| {
            let count = count.clone();
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                Met::Served
            }
        }));
        for _ in 0..2 {
            listener.accept().await.unwrap();
        }
        while met.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        stop.send(true).unwrap();
        calling.await.unwrap();
    }
}
