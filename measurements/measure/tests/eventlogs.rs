//! Logs of real machines against another program's parse of them, field by field, and mutated logs of our own.
//!
//! The vectors are kept outside the repository; where they are missing, this is said loudly.

use measure::tcg::{Bank, Decoded, EventLog, LogEvent, decode, describe};
use measure::wire::LogFormat;
use serde_json::Value;
use std::path::PathBuf;

fn vector(name: &str) -> Option<Vec<u8>> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let folder = std::env::var_os("CHRYSALIS_VECTORS").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    let path = folder.join("eventlogs").join(name);
    if !path.is_file() {
        eprintln!("SKIPPED: no {}; set CHRYSALIS_VECTORS to check against real logs", path.display());
        return None;
    }
    Some(std::fs::read(path).unwrap())
}

fn base64(text: &Value) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.as_str().unwrap().bytes().filter(|b| *b != b'=');
    let (mut bits, mut held, mut out) = (0u32, 0, Vec::new());
    for digit in digits {
        bits = bits << 6 | DIGITS.iter().position(|d| *d == digit).unwrap() as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out
}

/// That program writes GUIDs in the order of their bytes.
fn swapped(guid: &str) -> String {
    let raw = hex::decode(guid.replace('-', "")).unwrap();
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    hex::encode(order.map(|i| raw[i]))
}

/// Nodes of a device path, in that program's words.
fn node(ours: &str) -> String {
    let hex = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let inner = ours.split_once('(').map_or("", |(_, rest)| rest.trim_end_matches(')'));
    let (first, second) = inner.split_once(',').unwrap_or((inner, ""));
    match ours.split('(').next().unwrap() {
        "PciRoot" => format!("ACPI(PNP0A03,{})", hex(inner)),
        "Pci" => format!("Pci({},{})", hex(second), hex(first)),
        "VenMedia" => format!("VenMedia({},)", inner.to_uppercase()),
        "HD" => format!("HD({})", inner.to_uppercase().replace("0X", "0x")),
        _ => ours.to_owned(),
    }
}

fn check_details(at: &str, details: &Value, event: &LogEvent<'_>) {
    let text = |key: &str| details[key].as_str().unwrap();
    match decode(event) {
        Decoded::Variable { guid, name, length, data, .. } => {
            assert_eq!(name, text("unicode_name"), "{at}");
            assert_eq!(details["unicode_name_length"], name.chars().count(), "{at}");
            assert_eq!(details["variable_data_length"], length, "{at}");
            assert_eq!(data, hex::encode(base64(&details["variable_data"])), "{at}");
            assert_eq!(guid.replace('-', ""), swapped(text("variable_name")), "{at}");
        }
        Decoded::Image { path, .. } => {
            let paths: Vec<&str> =
                details["device_paths"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
            assert_eq!(path.iter().map(|p| node(p)).collect::<Vec<_>>(), paths, "{at}");
        }
        Decoded::Blob { name, .. } | Decoded::Tables { name, .. } => assert_eq!(name, text("string"), "{at}"),
        Decoded::Text { text: ours } => {
            assert_eq!(ours, text("string").chars().take(512).collect::<String>(), "{at}");
        }
        Decoded::Tagged { id, text: ours } => {
            assert_eq!(ours, text("string"), "{at}");
            if let Some(name) = details["unicode_name"].as_str() {
                assert_eq!(id.to_be_bytes(), name.as_bytes(), "{at}");
            }
        }
        Decoded::PartitionTable { .. } | Decoded::Separator { .. } => {
            assert_eq!(details, &serde_json::json!({}), "{at}");
        }
        Decoded::Raw { .. } => panic!("{at}: not taken apart"),
    }
}

#[test]
fn every_field_of_a_real_log_is_as_another_program_reads_it() {
    for (name, events) in [("trustee_ovmf", 20), ("trustee_alibaba_rtmr3", 87)] {
        let Some(bytes) = vector(&format!("{name}.ccel")) else { return };
        let Some(json) = vector(&format!("{name}.parsed.json")) else { return };
        let parsed: Value = serde_json::from_slice(&json).unwrap();
        let theirs = parsed["uefi_event_logs"].as_array().unwrap();
        let log = EventLog::parse(&bytes).unwrap();
        let ours: Vec<_> = log.events.iter().collect();
        assert_eq!((ours.len(), theirs.len()), (events, events), "{name}");
        for (n, (event, their)) in ours.iter().zip(theirs).enumerate() {
            let at = format!("{name}, event {n}");
            assert_eq!(their["index"], event.index, "{at}");
            assert_eq!(their["type_name"], describe(event).kind, "{at}");
            assert_eq!(base64(&their["event"]), event.data, "{at}");
            assert_eq!(their["digests"].as_array().unwrap().len(), event.digests.len(), "{at}");
            assert_eq!(their["digests"][0]["alg"], "SHA-384", "{at}");
            assert_eq!(their["digests"][0]["digest"], event.sha384().unwrap().to_string(), "{at}");
            assert_eq!(their["digest_matches_event"], event.data_is_hashed().unwrap(), "{at}");
            check_details(&at, &their["details"], event);
        }
    }
}

#[test]
fn real_ccels_are_told_from_tpm_logs_and_have_one_bank() {
    for name in ["trustee_ovmf", "trustee_gcp", "trustee_alibaba_rtmr3", "cos113"] {
        let Some(bytes) = vector(&format!("{name}.ccel")) else { return };
        let log = EventLog::parse(&bytes).unwrap();
        assert_eq!(log.format().0, LogFormat::Ccel, "{name}");
        assert_eq!(log.banks(), [Bank::Sha384], "{name}");
        let all = log.replay_all(Bank::Sha384).unwrap();
        for (index, value) in all {
            assert_eq!(value, log.replay(Bank::Sha384, index).unwrap(), "{name}");
        }
    }
}
