//! Holds a session to its peer's proof: by age, by the trust of now, and by each new proof.

use super::{End, Reason, Settings};
use crate::{ChannelError, Endpoint, JudgeError, Link, Peer, Question, Verifier, Wanted};
use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

/// Both ends of one connection, as the session sees them.
pub(super) struct Guard {
    pub(super) me: Arc<Endpoint>,
    pub(super) link: Link,
    pub(super) settings: Settings,
    /// `None` where the peer proves nothing.
    proved: Option<Proved>,
}

struct Proved {
    verifier: Option<(Arc<Verifier>, Wanted)>,
    state: Mutex<State>,
    news: Notify,
}

struct State {
    peer: Peer,
    /// When the session drains unless the peer is proved anew.
    due: Instant,
    /// Asked of the HTTP client end, and not answered yet.
    question: Option<Question>,
    refused: Option<JudgeError>,
}

impl Guard {
    pub(super) fn new(end: End, link: Link, peer: Option<Peer>) -> Self {
        let End { me, verifier, settings } = end;
        let proved = peer.map(|peer| {
            let due = due(verifier.as_ref(), &peer, &settings);
            let state = State { peer, due, question: None, refused: None };
            Proved { verifier, state: Mutex::new(state), news: Notify::new() }
        });
        Guard { me, link, settings, proved }
    }

    /// What the peer was proved to be, last.
    pub(super) fn peer(&self) -> Option<Peer> {
        self.proved.as_ref().map(|proved| proved.lock().peer.clone())
    }

    /// Whether this end has the peer proved anew.
    pub(super) fn verifies(&self) -> bool {
        self.proved.as_ref().is_some_and(|proved| proved.verifier.is_some())
    }

    /// A challenge for the peer; `None` where nothing is verified.
    pub(super) fn ask(&self) -> Option<Result<Question, ChannelError>> {
        let (verifier, wanted) = self.proved.as_ref()?.verifier.as_ref()?;
        Some(verifier.ask(&self.link, wanted))
    }

    /// As [`ask`](Self::ask), and keeps the question for [`answered`](Self::answered); the one before counts no more.
    pub(super) fn ask_and_keep(&self) -> Option<Result<Vec<u8>, ChannelError>> {
        let question = self.ask()?;
        let keep = |question: Question| {
            let bytes = question.to_bytes();
            if let Some(proved) = &self.proved {
                proved.lock().question = Some(question);
            }
            bytes
        };
        Some(question.map(keep))
    }

    /// Judges the answer to the question that was kept; `None` if there was none. One question, one answer.
    pub(super) fn answered(&self, evidence: &[u8]) -> Option<bool> {
        let question = self.proved.as_ref()?.lock().question.take()?;
        self.judge(question, evidence)
    }

    /// Judges a new proof. One that is refused ends the session.
    pub(super) fn judge(&self, question: Question, evidence: &[u8]) -> Option<bool> {
        let proved = self.proved.as_ref()?;
        let (verifier, _) = proved.verifier.as_ref()?;
        // Computed with the lock open.
        let judged = verifier.judge(question, &self.link, evidence);
        let mut state = proved.lock();
        let accepted = judged.is_ok();
        match judged {
            Ok(peer) => {
                state.due = due(proved.verifier.as_ref(), &peer, &self.settings);
                state.peer = peer;
            }
            Err(error) => state.refused = Some(error),
        }
        drop(state);
        proved.news.notify_one();
        Some(accepted)
    }

    /// Returns when the session must end, with the reason.
    pub(super) async fn over(&self, mut stop: watch::Receiver<bool>) -> Reason {
        tokio::select! {
            // No sender, no further word: that is a stop as well.
            _ = stop.wait_for(|stop| *stop) => Reason::Stopped,
            Err(reason) = self.trusted() => reason,
        }
    }

    /// Lasts as long as the peer is trusted.
    async fn trusted(&self) -> Result<Infallible, Reason> {
        let Some(proved) = &self.proved else { return pending().await };
        let mut changed = proved.verifier.as_ref().map(|(verifier, _)| verifier.changed());
        // The trust may have changed between the handshake and the line above; most often it didn't, and a proof is not
        // judged twice by the same trust. Its age is looked after by `due`.
        let mut look = !proved.is_of_the_trust_of_now();
        loop {
            if std::mem::take(&mut look) {
                proved.look()?;
            }
            let due = proved.lock().due;
            tokio::select! {
                () = proved.news.notified() => {
                    if let Some(error) = proved.lock().refused.take() {
                        return Err(Reason::Refused(error));
                    }
                }
                () = changed_in(&mut changed) => look = true,
                () = sleep_until(due) => {
                    if proved.lock().due <= Instant::now() {
                        proved.look()?;
                        return Err(Reason::NotRenewed(self.settings.overdue));
                    }
                }
            }
        }
    }
}

async fn changed_in<T>(changed: &mut Option<watch::Receiver<T>>) {
    let told = match changed {
        Some(changed) => changed.changed().await.is_ok(),
        None => false,
    };
    if !told {
        pending().await
    }
}

/// The age at which a proof is overdue, or the end of what it rests on if that is sooner.
fn due(verifier: Option<&(Arc<Verifier>, Wanted)>, peer: &Peer, settings: &Settings) -> Instant {
    let rests = verifier
        .zip(peer.expires())
        .map(|((verifier, _), expires)| Duration::from_secs(expires.saturating_sub(verifier.now())));
    Instant::now() + rests.map_or(settings.overdue, |rests| rests.min(settings.overdue))
}

impl Proved {
    /// Holds the proof against the trust and the time of now.
    fn look(&self) -> Result<(), Reason> {
        let Some((verifier, _)) = &self.verifier else { return Ok(()) };
        let peer = self.lock().peer.clone();
        verifier.still_trusts(&peer).map_err(|refusal| Reason::Distrusted(Box::new(refusal)))
    }

    fn is_of_the_trust_of_now(&self) -> bool {
        let Some((verifier, _)) = &self.verifier else { return true };
        self.lock().peer.judged_under(&verifier.trust())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
