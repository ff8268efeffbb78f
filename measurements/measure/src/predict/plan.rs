//! A list of events with the messages that will be hashed, and the hashing of all of them on several cores.

use crate::event::{Event, Hashed, PredictedEvent, Unpredicted};
use crate::hash::{Digests, Ranges};
use crate::register::{Digest256, Digest384, Register, pcr_to_register};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// Hashing threads. More than a handful gains nothing: one long range bounds the whole.
const WORKERS: usize = 4;
/// Below this, starting threads costs more than hashing.
const WORTH_THREADS: usize = 256 * 1024;

/// What is hashed for an event.
pub(super) enum Message<'a> {
    /// Bytes made for the event.
    Owned(Vec<u8>),
    /// Parts of an input.
    Parts(Ranges<'a>),
    /// Hashed already.
    Known(Digests),
}

impl Message<'_> {
    fn len(&self) -> usize {
        match self {
            Message::Owned(bytes) => bytes.len(),
            Message::Parts(ranges) => ranges.len(),
            Message::Known(_) => 0,
        }
    }

    fn hashed(&self) -> Hashed {
        match self {
            Message::Owned(bytes) if bytes.len() <= Hashed::MAX_KEPT => Hashed::Kept(bytes.clone()),
            Message::Parts(ranges) if ranges.len() <= Hashed::MAX_KEPT => Hashed::Kept(ranges.concat()),
            Message::Owned(_) | Message::Parts(_) => Hashed::Length(self.len()),
            Message::Known(_) => Hashed::Unknown,
        }
    }

    fn sha384(&self) -> Digest384 {
        match self {
            Message::Owned(bytes) => Digest384::of(bytes),
            Message::Parts(ranges) => ranges.sha384(),
            Message::Known(digests) => digests.sha384,
        }
    }

    fn sha256(&self) -> Digest256 {
        match self {
            Message::Owned(bytes) => Digest256::of(bytes),
            Message::Parts(ranges) => ranges.sha256(),
            Message::Known(digests) => digests.sha256,
        }
    }
}

/// An event before hashing.
pub(super) struct Planned<'a> {
    pub(super) event: Event,
    pub(super) pcr: u32,
    pub(super) message: Result<Message<'a>, Unpredicted>,
}

impl<'a> Planned<'a> {
    pub(super) fn owned(pcr: u32, event: Event, bytes: impl Into<Vec<u8>>) -> Self {
        Planned { event, pcr, message: Ok(Message::Owned(bytes.into())) }
    }

    pub(super) fn parts(pcr: u32, event: Event, ranges: Ranges<'a>) -> Self {
        Planned { event, pcr, message: Ok(Message::Parts(ranges)) }
    }

    pub(super) fn known(pcr: u32, event: Event, digests: Result<Digests, Unpredicted>) -> Self {
        Planned { event, pcr, message: digests.map(Message::Known) }
    }

    pub(super) fn unpredicted(pcr: u32, event: Event, reason: &str) -> Self {
        Planned { event, pcr, message: Err(Unpredicted { reason: reason.to_owned() }) }
    }
}

/// Half of the digests of one message.
#[derive(Clone, Copy)]
enum Half {
    Sha384(Digest384),
    Sha256(Digest256),
}

/// Hashes every message once per algorithm, the longest first.
pub(super) fn hash(planned: &[Planned<'_>]) -> Vec<PredictedEvent> {
    let mut jobs: Vec<(usize, bool)> = (0..planned.len())
        .filter(|i| planned[*i].message.is_ok())
        .flat_map(|i| [(i, true), (i, false)])
        .collect();
    let length = |i: usize| planned[i].message.as_ref().map_or(0, Message::len);
    jobs.sort_by_key(|(i, long)| std::cmp::Reverse((length(*i), *long)));
    let total: usize = jobs.iter().map(|(i, _)| length(*i)).sum();
    let workers = if total < WORTH_THREADS { 1 } else { WORKERS };
    let mut sha384 = vec![Digest384::ZERO; planned.len()];
    let mut sha256 = vec![Digest256([0; 32]); planned.len()];
    for (i, half) in run(planned, &jobs, workers) {
        match half {
            Half::Sha384(digest) => sha384[i] = digest,
            Half::Sha256(digest) => sha256[i] = digest,
        }
    }
    let event = |(i, p): (usize, &Planned<'_>)| PredictedEvent {
        event: p.event.clone(),
        pcr: p.pcr,
        // Every PCR of this crate's plans is one of 0 to 15.
        register: pcr_to_register(p.pcr).unwrap_or(Register::Rtmr3),
        digests: match &p.message {
            Ok(_) => Ok(Digests { sha384: sha384[i], sha256: sha256[i] }),
            Err(unpredicted) => Err(unpredicted.clone()),
        },
        hashed: p.message.as_ref().map(Message::hashed).unwrap_or_default(),
    };
    planned.iter().enumerate().map(event).collect()
}

fn run(planned: &[Planned<'_>], jobs: &[(usize, bool)], workers: usize) -> Vec<(usize, Half)> {
    let next = AtomicUsize::new(0);
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || {
                while let Some((i, long)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
                    let Ok(message) = &planned[i].message else { continue };
                    let half =
                        if long { Half::Sha384(message.sha384()) } else { Half::Sha256(message.sha256()) };
                    // The receiver outlives the scope.
                    let _ = send.send((i, half));
                }
            });
        }
    });
    drop(send);
    receive.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_stay_with_their_events_whatever_the_threads_do() {
        let sizes = [0usize, 1, 300_000, 5, 1_000_000, 70_000];
        let planned: Vec<_> =
            sizes.iter().map(|n| Planned::owned(1, Event::Separator, vec![*n as u8; *n])).collect();
        let events = hash(&planned);
        for (event, n) in events.iter().zip(sizes) {
            assert_eq!(event.digests, Ok(Digests::of(&vec![n as u8; n])));
        }
    }

    #[test]
    fn an_unpredicted_event_keeps_its_place_and_reason() {
        let planned =
            [Planned::owned(0, Event::Separator, *b"a"), Planned::unpredicted(1, Event::Separator, "why")];
        let events = hash(&planned);
        assert_eq!(events[1].digests.as_ref().unwrap_err().reason, "why");
        assert_eq!((events[0].register, events[1].register), (Register::Mrtd, Register::Rtmr0));
    }
}
