//! Quotes off the request path: a bounded queue, a few at a time, one quote for all who wait when it starts.
//!
//! ```text
//! quote(leaf) --> waiting (bounded) --> a blocking thread takes all that wait, up to a batch
//!                     |                     Merkle root -> platform -> a proof for each, quote and logs shared
//!                     '-- full: Busy        refused -> Refusing: fail at once, one probe after a growing pause
//! ```
//! Nobody waits for a batch to fill: an idle queue makes a quote for one, and a busy one has work for the next batch by the
//! time a quote is done. So the platform's rate bounds how old an answer gets, and not how many are answered.
//!
//! Deliberately absent: what a quote means, and retries of a single quote (those are the attester's).

use protocol::batch::{self, Leaf, MAX_LEAVES, Proof};
use protocol::evidence::EventLog;
use protocol::{AttestError, Attester};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What a queue may grow to, and how it treats a platform that refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuoteLimits {
    /// Quotes in the making at one time.
    pub at_once: usize,
    /// Challenges that may wait; one more is refused as busy.
    pub waiting: usize,
    /// Challenges that share a quote, at most [`MAX_LEAVES`]; 1 gives each its own.
    pub batch: usize,
    /// How long a challenge may take, waiting included.
    pub deadline: Duration,
    /// Pause after the first refusal of the platform; it doubles with each further one.
    pub first_pause: Duration,
    /// Longest pause.
    pub last_pause: Duration,
}

impl Default for QuoteLimits {
    /// 2 at once, 256 waiting, batches of 64, 45 s (the kernel gives the host's quoting service 30 s), pauses of 250 ms
    /// to 30 s.
    fn default() -> Self {
        QuoteLimits {
            at_once: 2,
            waiting: 256,
            batch: MAX_LEAVES,
            deadline: crate::Step::Quote.deadline(),
            first_pause: Duration::from_millis(250),
            last_pause: Duration::from_secs(30),
        }
    }
}

/// What a challenge gets: a quote over the root that its proof leads to, and what travels with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted {
    /// The raw quote.
    pub quote: Vec<u8>,
    /// From the leaf to the quote's report data.
    pub proof: Proof,
    /// The firmware's event log.
    pub event_log: EventLog,
    /// The record of the guest's own events.
    pub runtime: Vec<u8>,
}

/// Whether the platform gives quotes, as far as the last attempt tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuoteState {
    /// It did, or was never asked.
    Ready,
    /// It did not.
    Refusing {
        /// For how long by now.
        since: Duration,
        /// How often in a row.
        times: u32,
        /// The last error, in words.
        reason: String,
        /// When it is asked again at the earliest, on demand.
        retry_in: Duration,
    },
}

/// What a queue has done since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuoteStats {
    /// Quotes that the platform made.
    pub quotes: u64,
    /// Challenges that were answered with them.
    pub answered: u64,
    /// Attempts that the platform refused.
    pub refusals: u64,
    /// Challenges turned away because too many waited.
    pub busy: u64,
    /// How long the last quote took.
    pub last: Duration,
    /// How long all of them took.
    pub total: Duration,
}

/// Why a challenge got no quote. Never the peer's fault.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QuoteError {
    /// Too many wait already.
    #[error("{waiting} challenges wait for a quote already, no more are taken; try again later")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// The platform refused lately and is left alone for a moment.
    #[error("the platform gives no quotes at the moment, it is asked again in {} ms; last it said: {reason}",
        .retry_in.as_millis())]
    Refusing {
        /// Its last error, in words.
        reason: String,
        /// When it is asked again at the earliest.
        retry_in: Duration,
    },
    /// The platform refused this one.
    #[error(transparent)]
    Platform(Arc<AttestError>),
    /// Neither a quote nor a refusal came in time.
    #[error("no quote within {} s; is the host's quoting service overloaded?", .limit.as_secs())]
    Deadline {
        /// How long was waited.
        limit: Duration,
    },
    /// The thread that made it stopped without an answer.
    #[error("the quote's thread stopped without an answer; restart the daemon and report this")]
    Stopped,
}

/// The way to the platform. Clones share it.
#[derive(Clone)]
pub struct QuoteQueue {
    shared: Arc<Shared>,
}

struct Shared {
    attester: Arc<dyn Attester>,
    limits: QuoteLimits,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Waiter>,
    /// Threads that make quotes.
    making: usize,
    /// Challenges in their hands.
    in_hand: usize,
    refused: Option<Refused>,
    stats: QuoteStats,
    /// Read once: neither log changes after the gate has opened.
    logs: Option<(EventLog, Vec<u8>)>,
}

struct Refused {
    since: Instant,
    times: u32,
    reason: String,
    until: Instant,
}

struct Waiter {
    leaf: Leaf,
    reply: oneshot::Sender<Result<Quoted, QuoteError>>,
}

impl QuoteQueue {
    /// A queue before `attester`.
    pub fn new(attester: Arc<dyn Attester>, limits: QuoteLimits) -> Self {
        QuoteQueue { shared: Arc::new(Shared { attester, limits, inner: Mutex::default() }) }
    }

    /// A quote whose report data `leaf` is proved to be in. Must be called inside a tokio runtime.
    pub async fn quote(&self, leaf: Leaf) -> Result<Quoted, QuoteError> {
        let limit = self.shared.limits.deadline;
        let answer = self.enter(leaf)?;
        match tokio::time::timeout(limit, answer).await {
            Ok(answered) => answered.unwrap_or(Err(QuoteError::Stopped)),
            Err(_) => Err(QuoteError::Deadline { limit }),
        }
    }

    /// Challenges that wait or whose quote is in the making, now.
    pub fn depth(&self) -> usize {
        let inner = self.shared.lock();
        inner.waiting.len() + inner.in_hand
    }

    /// Most challenges that may wait.
    pub fn limits(&self) -> &QuoteLimits {
        &self.shared.limits
    }

    /// Whether the platform gives quotes.
    pub fn state(&self) -> QuoteState {
        match &self.shared.lock().refused {
            None => QuoteState::Ready,
            Some(refused) => QuoteState::Refusing {
                since: refused.since.elapsed(),
                times: refused.times,
                reason: refused.reason.clone(),
                retry_in: refused.retry_in(),
            },
        }
    }

    /// What it has done.
    pub fn stats(&self) -> QuoteStats {
        self.shared.lock().stats
    }

    /// Takes a place, and starts a thread if one more may run.
    fn enter(&self, leaf: Leaf) -> Result<oneshot::Receiver<Result<Quoted, QuoteError>>, QuoteError> {
        let mut inner = self.shared.lock();
        let mut at_once = self.shared.limits.at_once;
        if let Some(refused) = &inner.refused {
            let retry_in = refused.retry_in();
            if !retry_in.is_zero() {
                return Err(QuoteError::Refusing { reason: refused.reason.clone(), retry_in });
            }
            // One probe at a time.
            at_once = 1;
        }
        if inner.waiting.len() >= self.shared.limits.waiting {
            inner.stats.busy += 1;
            return Err(QuoteError::Busy { waiting: inner.waiting.len() });
        }
        let (reply, answer) = oneshot::channel();
        inner.waiting.push_back(Waiter { leaf, reply });
        if inner.making < at_once {
            inner.making += 1;
            let shared = self.shared.clone();
            tokio::task::spawn_blocking(move || Maker { shared, in_hand: 0, placed: true }.run());
        }
        Ok(answer)
    }
}

impl std::fmt::Debug for QuoteQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuoteQueue").field("depth", &self.depth()).field("state", &self.state()).finish()
    }
}

impl Refused {
    fn retry_in(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Event log and runtime record.
    fn logs(&self) -> Result<(EventLog, Vec<u8>), AttestError> {
        if let Some(logs) = self.lock().logs.clone() {
            return Ok(logs);
        }
        let logs = (self.attester.event_log()?, self.attester.runtime()?);
        self.lock().logs = Some(logs.clone());
        Ok(logs)
    }
}

/// One thread's turn at the platform: batch after batch until nobody waits or the platform refuses.
struct Maker {
    shared: Arc<Shared>,
    in_hand: usize,
    /// Whether it still counts as one that makes quotes.
    placed: bool,
}

impl Maker {
    fn run(mut self) {
        while let Some(batch) = self.take() {
            let leaves: Vec<_> = batch.iter().map(|waiter| waiter.leaf).collect();
            // `take` gives at least one leaf and at most a tree's.
            let Some((root, proofs)) = batch::batch(&leaves) else { return };
            let began = Instant::now();
            let made =
                self.shared.attester.quote(&root).and_then(|quote| {
                    self.shared.logs().map(|(event_log, runtime)| (quote, event_log, runtime))
                });
            match made {
                Ok((quote, event_log, runtime)) => {
                    self.made(began.elapsed(), batch.len());
                    let quoted = |proof| Quoted {
                        quote: quote.clone(),
                        proof,
                        event_log: event_log.clone(),
                        runtime: runtime.clone(),
                    };
                    for (waiter, proof) in batch.into_iter().zip(proofs) {
                        let _ = waiter.reply.send(Ok(quoted(proof)));
                    }
                }
                Err(error) => return self.refused(Arc::new(error), batch),
            }
        }
    }

    /// The next batch, of those who still wait for an answer. Gives the thread's place up if there is none, under the
    /// same lock, so that whoever comes later starts another.
    fn take(&mut self) -> Option<Vec<Waiter>> {
        let shared = self.shared.clone();
        let mut inner = shared.lock();
        inner.in_hand -= std::mem::take(&mut self.in_hand);
        inner.waiting.retain(|waiter| !waiter.reply.is_closed());
        let count = inner.waiting.len().min(self.shared.limits.batch.clamp(1, MAX_LEAVES));
        if count == 0 {
            self.leave(&mut inner);
            return None;
        }
        self.in_hand = count;
        inner.in_hand += count;
        Some(inner.waiting.drain(..count).collect())
    }

    /// Gives the thread's place up, once.
    fn leave(&mut self, inner: &mut Inner) {
        inner.in_hand -= std::mem::take(&mut self.in_hand);
        inner.making -= usize::from(std::mem::take(&mut self.placed));
    }

    fn made(&self, took: Duration, answered: usize) {
        let mut inner = self.shared.lock();
        inner.refused = None;
        inner.stats.quotes += 1;
        inner.stats.answered += answered as u64;
        inner.stats.last = took;
        inner.stats.total += took;
    }

    /// Answers everybody: waiting through the pause would only keep connections open.
    fn refused(mut self, error: Arc<AttestError>, batch: Vec<Waiter>) {
        let (shared, limits) = (self.shared.clone(), self.shared.limits);
        let (waiting, reason, retry_in) = {
            let mut inner = shared.lock();
            self.leave(&mut inner);
            inner.stats.refusals += 1;
            let now = Instant::now();
            let (since, times) =
                inner.refused.as_ref().map_or((now, 1), |earlier| (earlier.since, earlier.times + 1));
            let pause = limits.first_pause.saturating_mul(1 << (times - 1).min(16)).min(limits.last_pause);
            let reason = error.to_string();
            inner.refused = Some(Refused { since, times, reason: reason.clone(), until: now + pause });
            (std::mem::take(&mut inner.waiting), reason, pause)
        };
        for waiter in batch {
            let _ = waiter.reply.send(Err(QuoteError::Platform(error.clone())));
        }
        for waiter in waiting {
            let _ = waiter.reply.send(Err(QuoteError::Refusing { reason: reason.clone(), retry_in }));
        }
    }
}

impl Drop for Maker {
    /// Also on a panic of the attester, whose batch learns of it by its closed channel.
    fn drop(&mut self) {
        let shared = self.shared.clone();
        let mut inner = shared.lock();
        self.leave(&mut inner);
        if std::thread::panicking() {
            inner.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests;
