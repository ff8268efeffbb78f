//! What differs between a prediction and a log, event by event, with names.
//!
//! The two lists are aligned first (longest common subsequence by place and name, equal digests weighing more), so
//! that one event too many is reported as one, and not as a change of everything behind it.

use crate::event::{PredictedEvent, Prediction};
use crate::hash::Digests;
use crate::register::{Digest256, Digest384, Register, pcr_to_register};
use crate::tcg::{self, Bank, EventLog, LogEvent};
use serde::Serialize;
use std::fmt;

/// A boot has some fifty events; what a log has beyond this is reported without being aligned.
const MAX_ALIGNED: usize = 4096;

/// Digests of a log's event, as far as the log has those banks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Logged {
    /// SHA-384 bank.
    pub sha384: Option<Digest384>,
    /// SHA-256 bank.
    pub sha256: Option<Digest256>,
}

/// How an event differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum DifferenceKind {
    /// The event is there with another digest.
    Changed {
        /// Foretold digests.
        expected_sha384: Digest384,
        /// Foretold digests.
        expected_sha256: Digest256,
        /// What the log says.
        found: Logged,
    },
    /// The event was foretold but isn't in the log.
    Missing {
        /// Foretold digest.
        expected_sha384: Option<Digest384>,
    },
    /// The log has an event that wasn't foretold.
    Unexpected {
        /// What the log says.
        found: Logged,
    },
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Index among the log's events; for a missing event, where it would stand.
    pub position: usize,
    /// PCR.
    pub pcr: u32,
    /// Register that the PCR stands in for.
    pub register: Option<Register>,
    /// What is measured: the foretold name, or the log's own description.
    pub name: String,
    /// How it differs.
    #[serde(flatten)]
    pub kind: DifferenceKind,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (PCR {}", self.name, self.pcr)?;
        if let Some(register) = self.register {
            write!(f, ", {register}")?;
        }
        match &self.kind {
            DifferenceKind::Changed { expected_sha384, expected_sha256, found } => match found.sha384 {
                Some(found) if found != *expected_sha384 => {
                    write!(f, ", event {}): expected {expected_sha384}, found {found}", self.position)
                }
                Some(_) => {
                    let found = found.sha256.map(|d| d.to_string()).unwrap_or_default();
                    write!(f, ", event {}): expected SHA-256 {expected_sha256}, found {found}", self.position)
                }
                None => write!(f, ", event {}): the log has no SHA-384 digest of it", self.position),
            },
            DifferenceKind::Missing { .. } => {
                write!(f, "): expected before event {}, not found", self.position)
            }
            DifferenceKind::Unexpected { .. } => write!(f, ", event {}): not expected", self.position),
        }
    }
}

/// Compares a prediction with a TPM log; empty if the log holds exactly what was foretold.
///
/// EV_NO_ACTION events aren't measured and are passed over; an unpredicted event matches any digest.
pub fn compare(predicted: &Prediction, log: &EventLog<'_>) -> Vec<Difference> {
    let found: Vec<(usize, &LogEvent<'_>)> =
        log.events.iter().enumerate().filter(|(_, e)| e.event_type != tcg::EV_NO_ACTION).collect();
    let (aligned, rest) = found.split_at(found.len().min(MAX_ALIGNED));
    let mut differences = walk(&predicted.events, aligned);
    differences.extend(rest.iter().map(|(i, e)| unexpected(*i, e)));
    differences
}

fn walk(predicted: &[PredictedEvent], found: &[(usize, &LogEvent<'_>)]) -> Vec<Difference> {
    let scores = scores(predicted, found);
    let width = found.len() + 1;
    let (mut p, mut l) = (0, 0);
    let mut out = Vec::new();
    while p < predicted.len() || l < found.len() {
        let here = scores[p * width + l];
        let pair = predicted.get(p).zip(found.get(l));
        let weight = pair.map_or(0, |(expected, (_, event))| weight(expected, event));
        if weight > 0 && here == weight + scores[(p + 1) * width + l + 1] {
            let (position, event) = found[l];
            out.extend(changed(position, &predicted[p], event));
            (p, l) = (p + 1, l + 1);
        } else if p < predicted.len() && here == scores[(p + 1) * width + l] {
            let position = found.get(l).map_or_else(|| found.last().map_or(0, |(i, _)| i + 1), |(i, _)| *i);
            out.push(missing(position, &predicted[p]));
            p += 1;
        } else {
            out.push(unexpected(found[l].0, found[l].1));
            l += 1;
        }
    }
    out
}

/// Best total weight of aligning the tails that begin at each pair.
fn scores(predicted: &[PredictedEvent], found: &[(usize, &LogEvent<'_>)]) -> Vec<u32> {
    let width = found.len() + 1;
    let mut scores = vec![0; (predicted.len() + 1) * width];
    for p in (0..predicted.len()).rev() {
        for l in (0..found.len()).rev() {
            let weight = weight(&predicted[p], found[l].1);
            let skip = scores[(p + 1) * width + l].max(scores[p * width + l + 1]);
            let pair = if weight > 0 { weight + scores[(p + 1) * width + l + 1] } else { 0 };
            scores[p * width + l] = skip.max(pair);
        }
    }
    scores
}

/// 0 if the two can't be the same event, 2 if they name the same thing, 3 if their digests agree as well.
fn weight(expected: &PredictedEvent, event: &LogEvent<'_>) -> u32 {
    let same_place = expected.pcr == event.index && expected.event.event_type() == event.event_type;
    if !same_place || expected.event.logged_detail().is_some_and(|d| d != tcg::describe(event).detail) {
        return 0;
    }
    if changed(0, expected, event).is_none() { 3 } else { 2 }
}

fn logged(event: &LogEvent<'_>) -> Logged {
    let sha256 = event.digest(Bank::Sha256).and_then(|d| d.try_into().ok()).map(Digest256);
    Logged { sha384: event.sha384(), sha256 }
}

fn changed(position: usize, expected: &PredictedEvent, event: &LogEvent<'_>) -> Option<Difference> {
    let digests: &Digests = expected.digests.as_ref().ok()?;
    let found = logged(event);
    let same = found.sha384 == Some(digests.sha384) && found.sha256.is_none_or(|d| d == digests.sha256);
    if same {
        return None;
    }
    let kind =
        DifferenceKind::Changed { expected_sha384: digests.sha384, expected_sha256: digests.sha256, found };
    let (pcr, name) = (expected.pcr, expected.event.to_string());
    Some(Difference { position, pcr, register: Some(expected.register), name, kind })
}

fn missing(position: usize, expected: &PredictedEvent) -> Difference {
    let expected_sha384 = expected.digests.as_ref().ok().map(|d| d.sha384);
    let (pcr, name) = (expected.pcr, expected.event.to_string());
    let kind = DifferenceKind::Missing { expected_sha384 };
    Difference { position, pcr, register: Some(expected.register), name, kind }
}

fn unexpected(position: usize, event: &LogEvent<'_>) -> Difference {
    Difference {
        position,
        pcr: event.index,
        register: pcr_to_register(event.index),
        name: tcg::describe(event).to_string(),
        kind: DifferenceKind::Unexpected { found: logged(event) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::shape::{Boot, Platform};
    use crate::tcg::samples::log as sample_log;
    use crate::tcg::{EV_EFI_ACTION, EV_NO_ACTION, EV_SEPARATOR};

    const CALLING: &[u8] = b"Calling EFI Application from Boot Option";
    const EXIT: &[u8] = b"Exit Boot Services Invocation";

    fn prediction() -> Prediction {
        let event = |pcr, event: Event, bytes: &[u8]| PredictedEvent {
            event,
            pcr,
            register: pcr_to_register(pcr).unwrap(),
            digests: Ok(Digests::of(bytes)),
            hashed: crate::Hashed::Unknown,
        };
        let events = vec![
            event(4, Event::CallingBootOption, CALLING),
            event(4, Event::Separator, &[0; 4]),
            event(5, Event::Separator, &[0; 4]),
            event(5, Event::ExitInvoked, EXIT),
        ];
        Prediction { platform: Platform::Emulated, boot: Boot::Direct, mrtd: None, events, assumed: vec![] }
    }

    fn differences(events: &[(u32, u32, &[u8])]) -> Vec<String> {
        let bytes = sample_log(events);
        compare(&prediction(), &EventLog::parse(&bytes).unwrap()).iter().map(Difference::to_string).collect()
    }

    #[test]
    fn a_log_as_foretold_has_no_differences() {
        let log: [(u32, u32, &[u8]); 5] = [
            (0, EV_NO_ACTION, b"passed over"),
            (4, EV_EFI_ACTION, CALLING),
            (4, EV_SEPARATOR, &[0; 4]),
            (5, EV_SEPARATOR, &[0; 4]),
            (5, EV_EFI_ACTION, EXIT),
        ];
        assert_eq!(differences(&log), [""; 0]);
    }

    #[test]
    fn a_changed_event_is_named_alone() {
        let found = differences(&[
            (4, EV_EFI_ACTION, CALLING),
            (4, EV_SEPARATOR, &[1; 4]),
            (5, EV_SEPARATOR, &[0; 4]),
            (5, EV_EFI_ACTION, EXIT),
        ]);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("separator (PCR 4, rtmr1, event 1): expected 394341b7"), "{found:?}");
    }

    #[test]
    fn missing_and_unexpected_events_do_not_shift_the_rest() {
        let found = differences(&[
            (4, EV_EFI_ACTION, CALLING),
            (4, EV_EFI_ACTION, b"Returning from EFI Application"),
            (5, EV_SEPARATOR, &[0; 4]),
            (5, EV_EFI_ACTION, EXIT),
        ]);
        assert_eq!(
            found,
            [
                "separator (PCR 4, rtmr1): expected before event 1, not found",
                "EV_EFI_ACTION Returning from EFI Application (PCR 4, rtmr1, event 1): not expected",
            ]
        );
    }

    #[test]
    fn an_empty_log_misses_everything() {
        assert_eq!(differences(&[]).len(), 4);
    }

    #[test]
    fn an_endless_log_is_answered_in_bounded_time() {
        let many = vec![(4, EV_SEPARATOR, [0u8; 4].as_slice()); 20_000];
        assert_eq!(differences(&many).len(), 20_000 - 1 + 3);
    }
}
