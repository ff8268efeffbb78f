//! `chrysalis measure eventlog`: parse a firmware event log (CCEL or TPM) and replay it.

use crate::input::read;
use crate::output::{Outcome, facts};
use anyhow::{Context, Result};
use measure::tcg::{Bank, EventLog, LogEvent, describe};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// Prints the events and the replay of the log in `file`.
pub fn run(file: &Path, json: bool) -> Result<Outcome> {
    let bytes = read(file)?;
    let log = EventLog::parse(&bytes).with_context(|| format!("{}", file.display()))?;
    let replay = replay(&log)?;
    let events: Vec<Value> = log.events.iter().map(event_json).collect();
    facts(json, &json!({ "events": events, "replay": replay }), || {
        let mut text = String::new();
        for event in &log.events {
            let described = describe(event);
            text += &format!("{:>3} {:<36} {}\n", event.index, described.kind, described.detail);
        }
        for (name, value) in &replay {
            text += &format!("{name:<6} {}\n", value.as_str().unwrap_or_default());
        }
        text
    })?;
    Ok(Outcome::Fine)
}

fn event_json(event: &LogEvent<'_>) -> Value {
    let described = describe(event);
    let digest = event.sha384().map(|digest| digest.to_string());
    json!({ "index": event.index, "name": described.kind, "detail": described.detail, "digest": digest })
}

/// Replay of every index that has events, in the SHA-384 bank: `pcr0`... of a TPM log, `mrtd`, `rtmr0`... of a CCEL.
fn replay(log: &EventLog<'_>) -> Result<Map<String, Value>> {
    let mut replay = Map::new();
    let indices: BTreeSet<u32> = log.events.iter().map(|event| event.index).collect();
    let ccel = !indices.iter().any(|index| *index > 4);
    for index in indices {
        let name = match (ccel, index) {
            (true, 0) => "mrtd".to_owned(),
            (true, index) => format!("rtmr{}", index - 1),
            (false, index) => format!("pcr{index}"),
        };
        replay.insert(name, Value::String(hex::encode(log.replay(Bank::Sha384, index)?)));
    }
    Ok(replay)
}
