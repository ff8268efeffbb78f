//! Whether the event log explains the registers.
//!
//! On TDX the log is a CCEL and speaks of RTMR0 to RTMR3; MRTD is no log's business. On a simulated platform it is the
//! TPM's, whose registers [`measure::tcg::emulated_registers`] gives, the very function that the simulator signs by. RTMR3
//! is extended at run time by what no firmware log records: a log that is silent about it is held against the other
//! registers only, and RTMR3 itself against the guest's own events ([`crate::runtime`]).

use crate::policy::Platform;
use crate::replays::{Replayed, Replays};
use crate::td::{TdReport, named};
use crate::td_checks::brief;
use crate::verdict::{CheckName, Checks};
use measure::tcg;
use measure::wire::{EventLog, LogFormat, MAX_EVENT_LOG};
use measure::{Digest384, Register, Registers};
use std::sync::Arc;

const EXPECTED: &str = "a log that replays to the registers of the quote";

/// `known` are logs that were replayed before, and take this one where `genuine`: where the quote's signatures hold.
pub(crate) fn check(
    checks: &mut Checks,
    td: &TdReport,
    log: Option<&EventLog>,
    platform: Platform,
    known: Option<&Replays>,
    genuine: bool,
) {
    let Some(log) = log else {
        return checks.skip(CheckName::EventLog, EXPECTED, "no event log given");
    };
    let before = known.and_then(|known| known.find(log, platform));
    let (good, found) =
        match before.as_ref().map_or_else(|| replay(log, platform).map(Arc::new), |b| Ok(b.clone())) {
            Err(why) => (false, why),
            Ok(replayed) => {
                let (good, found) = compare(td, &replayed);
                if let Some(known) = known.filter(|_| good && genuine && before.is_none()) {
                    known.keep(log, platform, &replayed);
                }
                (good, found)
            }
        };
    checks.judge(CheckName::EventLog, good, EXPECTED, &found, "event log and quote");
}

fn replay(log: &EventLog, platform: Platform) -> Result<Replayed, String> {
    if log.bytes.len() > MAX_EVENT_LOG {
        return Err(format!("a log of {} bytes, expected at most {MAX_EVENT_LOG}", log.bytes.len()));
    }
    let parsed = tcg::EventLog::parse(&log.bytes).map_err(|e| e.to_string())?;
    let events = parsed.events.len();
    match (log.format, platform) {
        (LogFormat::Ccel, _) => {
            let rtmr = parsed.ccel_rtmrs().map_err(|e| e.to_string())?;
            let registers = Registers { mrtd: Digest384::ZERO, rtmr };
            let mut covers = vec![Register::Rtmr0, Register::Rtmr1, Register::Rtmr2];
            if parsed.events.iter().any(|event| event.index == Register::Rtmr3.cc_index()) {
                covers.push(Register::Rtmr3);
            }
            Ok(Replayed { registers, covers, events })
        }
        (LogFormat::Tpm, Platform::Simulated) => {
            let registers = tcg::emulated_registers(&parsed).map_err(|e| e.to_string())?;
            let covers = vec![Register::Mrtd, Register::Rtmr0, Register::Rtmr1, Register::Rtmr2];
            Ok(Replayed { registers, covers, events })
        }
        (LogFormat::Tpm, Platform::Tdx) => {
            Err("a TPM's log, which explains nothing of a TDX quote; expected a CCEL".into())
        }
    }
}

fn compare(td: &TdReport, replayed: &Replayed) -> (bool, String) {
    let quoted = td.registers();
    let differs = |r: &&Register| replayed.registers.get(**r) != quoted.get(**r);
    let names = named(&quoted).map(|(name, _)| name);
    let name = |r: &Register| names[r.cc_index() as usize];
    let differing: Vec<String> = replayed
        .covers
        .iter()
        .filter(differs)
        .map(|r| {
            let (log, quote) = (brief(&replayed.registers.get(*r)), brief(&quoted.get(*r)));
            format!("{} replays to {log}, quoted {quote}", name(r))
        })
        .collect();
    if !differing.is_empty() {
        return (false, differing.join("; "));
    }
    let covered: Vec<&str> = replayed.covers.iter().map(name).collect();
    (true, format!("{} events replay to {}", replayed.events, covered.join(", ")))
}
