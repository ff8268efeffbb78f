//! `chrysalis measure eventlog`: parse a firmware event log (CCEL or TPM) and replay it.
//!
//! ```text
//! {"format": "ccel"|"tpm", "format_reason", "banks": [..], "replay_bank", "note",
//!  "events": [{"offset", "index", "register", "type", "name", "detail", "decoded", "data_hashed", "digest", "digests"}],
//!  "replay": {"rtmr0"...|"pcr0"...}, "replays": {bank: {..}}}
//! ```
//! `replay` is in SHA-384, or, where the log lacks that bank, in the first one that it has, and `note` says so.

use crate::input::read;
use crate::output::{Outcome, facts};
use anyhow::{Context, Result, bail};
use measure::tcg::{self, Bank, EventLog, LogEvent, describe};
use measure::wire::LogFormat;
use measure::{Register, pcr_to_register};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Prints the events and the replay of the log in `file`.
pub fn run(file: &Path, json: bool) -> Result<Outcome> {
    let bytes = read(file)?;
    let parsed = EventLog::parse(&bytes).map_err(anyhow::Error::from);
    let told = parsed.and_then(|log| Ok((report(&log)?, log)));
    let (all, log) = told.with_context(|| format!("{}", file.display()))?;
    facts(json, &all, || human(&log, &all))?;
    Ok(Outcome::Fine)
}

/// Everything that the log says.
fn report(log: &EventLog<'_>) -> Result<Value> {
    let (format, reason) = log.format();
    let algorithms: Vec<String> = log.algorithms.iter().map(|(id, _)| tcg::algorithm_name(*id)).collect();
    let banks = log.banks();
    let Some(&first) = banks.first() else {
        let found = algorithms.join(", ");
        bail!(
            "expected a bank of SHA-256, SHA-384 or SHA-512, found {found}; start the TPM with one of these active"
        );
    };
    let main = replay(log, format, first)?;
    let note = (first != Bank::Sha384).then(|| {
        let name = first.name();
        format!(
            "the log has no SHA-384 bank, so nothing in it can be compared with RTMRs; replayed in {name}"
        )
    });
    // A bank beside the first may have gaps; that must not hide what the first one says.
    let other = |bank: &Bank| match replay(log, format, *bank) {
        Ok(values) => (bank.name().to_owned(), Value::Object(values)),
        Err(error) => (bank.name().to_owned(), json!({ "error": error.to_string() })),
    };
    let events: Vec<Value> = log.events.iter().map(|event| event_json(format, event)).collect();
    Ok(json!({
        "format": format_name(format), "format_reason": reason, "banks": algorithms, "events": events,
        "replay_bank": first.name(), "replay": main, "note": note,
        "replays": banks.iter().map(other).collect::<Map<String, Value>>(),
    }))
}

fn human(log: &EventLog<'_>, all: &Value) -> String {
    let (format, reason) = log.format();
    let mut text = format!("{}: {reason}\n", format_name(format));
    for event in &log.events {
        let described = describe(event);
        let register = register(format, event.index).map_or("-".into(), |r| r.to_string());
        text += &format!("{:>3} {register:<6} {:<36} {}\n", event.index, described.kind, described.detail);
    }
    if let Some(note) = all["note"].as_str() {
        text += &format!("note: {note}\n");
    }
    for (name, value) in all["replay"].as_object().into_iter().flatten() {
        text += &format!("{name:<6} {}\n", value.as_str().unwrap_or_default());
    }
    text
}

fn format_name(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Ccel => "ccel",
        LogFormat::Tpm => "tpm",
    }
}

/// The TD register of an index, or the one that a PCR stands in for.
fn register(format: LogFormat, index: u32) -> Option<Register> {
    match format {
        LogFormat::Ccel => Register::from_cc_index(index),
        LogFormat::Tpm => pcr_to_register(index),
    }
}

fn event_json(format: LogFormat, event: &LogEvent<'_>) -> Value {
    let described = describe(event);
    let digests: Map<String, Value> = event
        .digests
        .iter()
        .map(|(id, digest)| (tcg::algorithm_name(*id), hex::encode(digest).into()))
        .collect();
    json!({
        "offset": event.offset, "index": event.index, "register": register(format, event.index),
        "type": event.event_type, "name": described.kind, "detail": described.detail,
        "decoded": tcg::decode(event), "data_hashed": event.data_is_hashed(),
        "digest": event.sha384().map(|digest| digest.to_string()), "digests": digests,
    })
}

/// Replay of a bank: `rtmr0` to `rtmr3` of a CCEL, zeros where there is no event; of a TPM log `pcrN` of every PCR that
/// has one.
fn replay(log: &EventLog<'_>, format: LogFormat, bank: Bank) -> Result<Map<String, Value>> {
    let mut replay = Map::new();
    if format == LogFormat::Ccel {
        for register in &Register::ALL[1..] {
            replay.insert(register.to_string(), hex::encode(log.replay(bank, register.cc_index())?).into());
        }
        return Ok(replay);
    }
    for (index, value) in log.replay_all(bank)? {
        replay.insert(format!("pcr{index}"), hex::encode(value).into());
    }
    Ok(replay)
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::samples;
    use measure::tcg::{EV_EFI_ACTION, EV_SEPARATOR};

    fn told(bytes: &[u8]) -> Value {
        report(&EventLog::parse(bytes).unwrap()).unwrap()
    }

    #[test]
    fn a_ccel_is_told_by_register_with_all_four_rtmrs() {
        let all = told(&samples::ccel());
        assert_eq!((&all["format"], &all["replay_bank"]), (&json!("ccel"), &json!("sha384")));
        let names: Vec<&String> = all["replay"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["rtmr0", "rtmr1", "rtmr2", "rtmr3"]);
        assert_eq!(all["replay"]["rtmr3"], "00".repeat(48));
        let event = &all["events"][4];
        assert_eq!((&event["register"], &event["name"]), (&json!("rtmr0"), &json!("EV_EFI_VARIABLE_BOOT")));
        assert_eq!((&event["detail"], &event["decoded"]["data"]), (&json!("BootOrder"), &json!("0000")));
        assert_eq!(event["digest"], event["digests"]["sha384"]);
        assert!(all["note"].is_null());
    }

    #[test]
    fn a_tpm_log_is_told_by_pcr_in_each_of_its_banks() {
        let all = told(&samples::tpm());
        assert_eq!(all["banks"], json!(["sha256", "sha384"]));
        assert_eq!(all["replay"], all["replays"]["sha384"]);
        assert_eq!(all["replays"]["sha256"]["pcr7"].as_str().unwrap().len(), 64);
        let event = &all["events"][3];
        assert_eq!((&event["index"], &event["register"]), (&json!(7), &json!("rtmr0")));
    }

    #[test]
    fn a_log_without_sha384_is_replayed_in_what_it_has_and_says_so() {
        let events = [(4, EV_EFI_ACTION, &b"a"[..]), (7, EV_SEPARATOR, &[0; 4])];
        let all = told(&samples::log_with(&[Bank::Sha256], &events));
        assert_eq!(all["replay_bank"], "sha256");
        assert!(all["note"].as_str().unwrap().contains("no SHA-384 bank"), "{all}");
        assert_eq!(all["replay"]["pcr4"].as_str().unwrap().len(), 64);
        assert!(all["events"][0]["digest"].is_null());
    }
}
