//! Whether the guest's own events are what the release promises of RTMR3 ([`measure::runtime`]).
//!
//! ```text
//! release says            record says     RTMR3 of the quote
//! events                  extended        fold of the events
//! nothing                 not extended    zeros
//! a value                 either          as the record says, and the value (the check `registers`)
//! ```
//! In every row the record must be a sealed log whose first event is the quote's MRCONFIGID. A record that was not
//! extended proves nothing by itself: it is held against the quote only so that it can't contradict it.

use crate::reference::{Reference, Rtmr3};
use crate::td::TdReport;
use crate::td_checks::brief;
use crate::verdict::{CheckName, Checks};
use measure::Digest384;
use measure::runtime::{Extension, RuntimeEvent, RuntimeRecord};

const NAME: CheckName = CheckName::RuntimeEvents;

/// What is known beforehand of RTMR3.
#[derive(Clone, Copy)]
enum Promise {
    /// No reference values: the record is held against the quote alone.
    Unknown,
    /// Zeros.
    NotExtended,
    /// The fold of the guest's events.
    Events,
    /// This value, whatever was extended.
    Value(Digest384),
}

impl Promise {
    fn of(reference: Option<&Reference>, td: &TdReport) -> Self {
        let registers = td.registers();
        let release =
            reference.and_then(|reference| reference.matching(&registers).or(reference.closest(&registers)));
        match release.map(|release| release.rtmr3) {
            None => Promise::Unknown,
            Some(None) => Promise::NotExtended,
            Some(Some(Rtmr3::Events)) => Promise::Events,
            Some(Some(Rtmr3::Value(value))) => Promise::Value(value),
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Promise::Unknown | Promise::Value(_) => {
                "a sealed runtime log that agrees with RTMR3 and MRCONFIGID"
            }
            Promise::NotExtended => "RTMR3 zeros, and a runtime log that says not extended",
            Promise::Events => {
                "a sealed runtime log, extended, that replays to RTMR3 and begins with MRCONFIGID"
            }
        }
    }

    fn source(self) -> &'static str {
        match self {
            Promise::Unknown => "runtime log and quote",
            _ => "reference values, runtime log and quote",
        }
    }
}

pub(crate) fn check(
    checks: &mut Checks,
    td: &TdReport,
    record: Option<&[u8]>,
    reference: Option<&Reference>,
) {
    let promise = Promise::of(reference, td);
    let expected = promise.expected();
    let result = match (record, promise) {
        (Some(bytes), _) => judge(td, bytes, promise),
        (None, Promise::NotExtended) => register(td, &Digest384::ZERO, "no runtime log given"),
        (None, Promise::Value(value)) => register(td, &value, "no runtime log given"),
        (None, Promise::Unknown | Promise::Events) => {
            return checks.skip(NAME, expected, "no runtime log given");
        }
    };
    let (good, found) = match result {
        Ok(found) => (true, found),
        Err(found) => (false, found),
    };
    checks.judge(NAME, good, expected, &found, promise.source());
}

/// What was found, as an error where it is not as promised.
fn judge(td: &TdReport, bytes: &[u8], promise: Promise) -> Result<String, String> {
    let record = RuntimeRecord::from_bytes(bytes).map_err(|e| e.to_string())?;
    let (events, extension) = (record.log.events(), record.extension);
    if let Some(RuntimeEvent::StaticConfig { sha384 }) = events.first().filter(|e| !begins(e, td)) {
        let mrconfigid = brief(&td.mrconfigid);
        return Err(format!(
            "the log begins with static configuration {sha384}, quoted MRCONFIGID {mrconfigid}"
        ));
    }
    let promised = match promise {
        Promise::Events => Extension::Extended,
        Promise::NotExtended => Extension::NotExtended,
        Promise::Unknown | Promise::Value(_) => extension,
    };
    if extension != promised {
        return Err(format!("a log that says {extension}, with RTMR3 {}", brief(&td.rtmr3)));
    }
    let folded = match extension {
        Extension::Extended => record.log.rtmr3(),
        Extension::NotExtended => Digest384::ZERO,
    };
    let names: Vec<String> = events.iter().map(ToString::to_string).collect();
    register(td, &folded, &format!("{extension}: {}", names.join(", ")))
}

fn begins(event: &RuntimeEvent, td: &TdReport) -> bool {
    matches!(event, RuntimeEvent::StaticConfig { sha384 } if *sha384 == td.mrconfigid)
}

fn register(td: &TdReport, wanted: &Digest384, about: &str) -> Result<String, String> {
    if td.rtmr3 == *wanted {
        return Ok(format!("{about}; RTMR3 {}", brief(wanted)));
    }
    Err(format!("RTMR3 should be {}, quoted {}; {about}", brief(wanted), brief(&td.rtmr3)))
}
