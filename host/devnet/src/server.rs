//! The chain's door: TCP on loopback, one frame a question, one frame an answer, and a block every so often.

use crate::node::Node;
use crate::store::StoreError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use ton::forms::{Question, Reply};
use ton::{read_frame, write_frame};

/// Longest that a question may wait for a head.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// What connections share.
#[derive(Clone)]
struct Shared {
    node: Arc<Mutex<Node>>,
    /// Number of the newest block.
    head: Arc<watch::Sender<u32>>,
    /// What stopped the chain.
    failed: mpsc::Sender<StoreError>,
}

impl Shared {
    fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the node and tells everybody who waits for a new head.
    fn with<T>(&self, act: impl FnOnce(&mut Node) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut node = self.node();
        let result = act(&mut node);
        let seqno = node.chain().seqno();
        self.head.send_if_modified(|head| std::mem::replace(head, seqno) != seqno);
        result
    }
}

/// Serves until the chain can't go on. `period`: time between two blocks; zero: only when ordered.
///
/// # Errors
/// What stopped the chain.
pub async fn serve(listener: TcpListener, node: Node, period: Duration) -> Result<(), StoreError> {
    let (failed, mut failure) = mpsc::channel(1);
    let head = Arc::new(watch::Sender::new(node.chain().seqno()));
    let shared = Shared { node: Arc::new(Mutex::new(node)), head, failed };
    if !period.is_zero() {
        tokio::spawn(tick(shared.clone(), period));
    }
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                tokio::spawn(connection(shared.clone(), stream));
            },
            Some(error) = failure.recv() => return Err(error),
        }
    }
}

async fn tick(shared: Shared, period: Duration) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        if let Err(error) = shared.with(|node| node.produce(wall())) {
            let _ = shared.failed.send(error).await;
            return;
        }
    }
}

/// Answers until the other end leaves or breaks the protocol.
async fn connection(shared: Shared, mut stream: TcpStream) {
    loop {
        let reply = match read_frame::<Question>(&mut stream).await {
            Ok(Some(question)) => reply(&shared, question).await,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Reply::Refused(format!("no question: {error}"))
            }
            Ok(None) | Err(_) => return,
        };
        if write_frame(&mut stream, &reply).await.is_err() {
            return;
        }
    }
}

async fn reply(shared: &Shared, question: Question) -> Reply {
    if let Question::Head { seqno, wait_ms } = question {
        let mut head = shared.head.subscribe();
        let wait = Duration::from_millis(u64::from(wait_ms)).min(WAIT_LIMIT);
        // Whether it came or not, the newest head is the answer.
        let _ = timeout(wait, head.wait_for(|head| *head > seqno)).await;
    }
    match shared.with(|node| node.answer(question, wall())) {
        Ok(reply) => reply,
        Err(error) => {
            let text = error.to_string();
            let _ = shared.failed.send(error).await;
            Reply::Refused(text)
        }
    }
}

/// The machine's time, seconds since 1970.
fn wall() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}
