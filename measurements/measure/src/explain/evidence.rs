//! What a machine showed: its registers and, where there is one, its event log. Read from the files that this and other
//! projects write.
//!
//! Liberal in names, strict in values. Each thing may stand under any of several names ([`REGISTERS`], [`QUOTE`],
//! [`LOG`]), at the top or inside `evidence`; but a value that is there must be right, and two that speak of the same
//! thing must agree. Nothing is verified here: whether a quote is signed is for `evidence` to say.

use super::encoding::decode;
use super::record::{Form, Log, MAX_EVENTS, Record};
use crate::error::MeasureError;
use crate::register::{Digest384, Register};
use crate::runtime::{Extension, RuntimeRecord};
use crate::wire;
use serde::Serialize;
use serde_json::{Map, Value};

/// Largest evidence file: a quote and a log in hex are below 1.2 MB.
pub const MAX_FILE: usize = 8 * 1024 * 1024;
/// Names of the registers, MRTD first.
const REGISTERS: [[&str; 3]; 5] = [
    ["mrtd", "MRTD", "mr_td"],
    ["rtmr0", "RTMR0", "rt_mr0"],
    ["rtmr1", "RTMR1", "rt_mr1"],
    ["rtmr2", "RTMR2", "rt_mr2"],
    ["rtmr3", "RTMR3", "rt_mr3"],
];
const QUOTE: [&str; 4] = ["quote", "tdx_quote", "intel_quote", "td_quote"];
const LOG: [&str; 6] = ["event_log", "eventlog", "cc_eventlog", "ccel", "log", "tcb_info_event_log"];
const CONFIG: [&str; 2] = ["vm_config", "vmConfig"];
/// Start of a TDX quote: version 4 or 5, ECDSA P-256.
const QUOTE_MAGIC: [[u8; 4]; 2] = [[4, 0, 2, 0], [5, 0, 2, 0]];

/// Why an evidence file can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// A field has a value that can't be right.
    #[error("evidence, {field}: expected {expected}, found {found}; see docs/reference/explain.md")]
    Field {
        /// Which field.
        field: String,
        /// What may stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// The file is no JSON.
    #[error(
        "evidence at line {line}, column {column}: {fault}; give a JSON object with registers, a quote or a log"
    )]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong.
        fault: String,
    },
    /// The binary log inside.
    #[error("evidence, {field}: {source}")]
    Log {
        /// Which field.
        field: String,
        /// Where and why.
        source: MeasureError,
    },
}

fn wrong(field: &str, expected: impl Into<String>, found: impl Into<String>) -> EvidenceError {
    EvidenceError::Field { field: field.to_owned(), expected: expected.into(), found: found.into() }
}

/// What whoever wrote the file says of the machine. Only a hint where to search first: it proves nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Claims {
    /// Virtual CPUs.
    pub vcpus: Option<u32>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// GPUs.
    pub gpus: Option<u32>,
    /// NVSwitches.
    pub nvswitches: Option<u32>,
    /// QEMU's version, such as `9.2.1`.
    pub qemu: Option<String>,
}

/// What a machine showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// MRTD, RTMR0 to 3, as far as they were shown.
    pub registers: [Option<Digest384>; 5],
    /// The event log.
    pub log: Option<Log>,
    /// What is said of the machine beside.
    pub claims: Claims,
}

impl Evidence {
    /// Reads a file: a JSON object, evidence as it travels ([`wire::Evidence`]), or a bare quote.
    pub fn parse(bytes: &[u8]) -> Result<Self, EvidenceError> {
        if bytes.len() > MAX_FILE {
            return Err(wrong("size", format!("at most {MAX_FILE} bytes"), bytes.len().to_string()));
        }
        let mut evidence = Evidence::default();
        if QUOTE_MAGIC.iter().any(|magic| bytes.starts_with(magic)) {
            evidence.set_quote("quote", bytes)?;
        } else if let Ok(wire) = wire::Evidence::from_bytes(bytes) {
            evidence.set_quote("quote", &wire.quote)?;
            evidence.log = binary_log("event log", &wire.event_log.bytes, Some(form(wire.event_log.format)))?;
            evidence.add_runtime("runtime record", &wire.runtime)?;
        } else {
            evidence.read_json(bytes)?;
        }
        if evidence.registers.iter().all(Option::is_none) && evidence.log.is_none() {
            return Err(wrong("evidence", "registers, a quote or an event log", "none of them"));
        }
        Ok(evidence)
    }

    fn read_json(&mut self, bytes: &[u8]) -> Result<(), EvidenceError> {
        let json: Value = serde_json::from_slice(bytes).map_err(|e| EvidenceError::Json {
            line: e.line(),
            column: e.column(),
            fault: e.to_string(),
        })?;
        let Value::Object(object) = json else {
            return Err(wrong("evidence", "a JSON object", kind(&json)));
        };
        self.read_object(&object)?;
        for field in ["evidence", "registers", "measurements"] {
            match object.get(field) {
                None | Some(Value::Null) => {}
                Some(Value::Object(inner)) => self.read_object(inner)?,
                Some(other) => return Err(wrong(field, "an object", kind(other))),
            }
        }
        Ok(())
    }

    fn read_object(&mut self, object: &Map<String, Value>) -> Result<(), EvidenceError> {
        for (register, names) in Register::ALL.into_iter().zip(REGISTERS) {
            if let Some((field, value)) = pick(object, &names) {
                self.set(field, register, digest(field, value)?)?;
            }
        }
        if let Some(value) = object.get("rtmrs") {
            let list = value.as_array().filter(|list| list.len() <= 4);
            let list = list.ok_or_else(|| wrong("rtmrs", "a list of at most 4 registers", kind(value)))?;
            for (register, value) in Register::ALL.into_iter().skip(1).zip(list) {
                self.set("rtmrs", register, digest("rtmrs", value)?)?;
            }
        }
        if let Some((field, value)) = pick(object, &QUOTE) {
            self.set_quote(field, &encoded(field, value)?)?;
        }
        if let Some((field, value)) = pick(object, &LOG) {
            let log = any_log(field, value, declared_form(object)?)?;
            if self.log.is_some() && log != self.log {
                return Err(wrong(field, "one event log", "two that differ"));
            }
            self.log = log;
        }
        if let Some(value) = object.get("runtime").filter(|value| !value.is_null()) {
            self.add_runtime("runtime", &encoded("runtime", value)?)?;
        }
        if let Some((field, value)) = pick(object, &CONFIG) {
            self.claims = claims(field, value)?;
        }
        Ok(())
    }

    /// MRTD and RTMR0 to 3 of a quote's TD report (Intel TDX DCAP Quoting Library API, appendix A.3.2 and A.4.2).
    fn set_quote(&mut self, field: &str, quote: &[u8]) -> Result<(), EvidenceError> {
        const MRTD: usize = 136;
        const RTMR0: usize = 328;
        let body = match quote.get(..4) {
            Some(magic) if magic == QUOTE_MAGIC[0] => quote.get(48..),
            Some(magic) if magic == QUOTE_MAGIC[1] => quote.get(54..),
            _ => {
                return Err(wrong(
                    field,
                    "a TDX quote of version 4 or 5",
                    format!("{} other bytes", quote.len()),
                ));
            }
        };
        let tdx = quote.get(4..8) == Some(&[0x81, 0, 0, 0]);
        let body = body.filter(|body| tdx && body.len() >= RTMR0 + 4 * 48);
        let body = body.ok_or_else(|| wrong(field, "a whole TDX quote", format!("{} bytes", quote.len())))?;
        let places = [MRTD, RTMR0, RTMR0 + 48, RTMR0 + 96, RTMR0 + 144];
        for (register, at) in Register::ALL.into_iter().zip(places) {
            let mut value = Digest384::ZERO;
            value.0.copy_from_slice(&body[at..at + 48]);
            self.set(field, register, value)?;
        }
        Ok(())
    }

    /// Events that the guest extended RTMR3 by; a guest that couldn't extend it shows nothing by them.
    fn add_runtime(&mut self, field: &str, bytes: &[u8]) -> Result<(), EvidenceError> {
        let Some(log) = self.log.as_mut().filter(|_| !bytes.is_empty()) else { return Ok(()) };
        let record = RuntimeRecord::from_bytes(bytes);
        let record = record.map_err(|error| wrong(field, "a runtime record", error.to_string()))?;
        if record.extension == Extension::Extended {
            log.records.extend(record.log.events().iter().map(|event| Record {
                register: Register::Rtmr3,
                pcr: None,
                event_type: 0,
                digest: event.digest(),
                data: Vec::new(),
                label: event.to_string(),
            }));
        }
        Ok(())
    }

    fn set(&mut self, field: &str, register: Register, value: Digest384) -> Result<(), EvidenceError> {
        let place = &mut self.registers[register as usize];
        match place.replace(value) {
            Some(other) if other != value => {
                let expected = format!("the {register} that is given elsewhere too, {other}");
                Err(wrong(field, expected, value.to_string()))
            }
            _ => Ok(()),
        }
    }
}

fn form(format: wire::LogFormat) -> Form {
    match format {
        wire::LogFormat::Ccel => Form::Ccel,
        wire::LogFormat::Tpm => Form::Tpm,
    }
}

fn pick<'a, 'n>(object: &'a Map<String, Value>, names: &[&'n str]) -> Option<(&'n str, &'a Value)> {
    names.iter().find_map(|name| Some((*name, object.get(*name).filter(|v| !v.is_null())?)))
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "true or false".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.len() <= 40 => format!("{text:?}"),
        Value::String(text) => format!("text of {} bytes", text.len()),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

fn encoded(field: &str, value: &Value) -> Result<Vec<u8>, EvidenceError> {
    let decoded = value.as_str().and_then(decode);
    decoded.ok_or_else(|| wrong(field, "hex or base64", kind(value)))
}

fn digest(field: &str, value: &Value) -> Result<Digest384, EvidenceError> {
    let text = value.as_str().map(|text| text.strip_prefix("0x").unwrap_or(text));
    text.and_then(|text| text.parse().ok()).ok_or_else(|| wrong(field, "96 hex digits", kind(value)))
}

fn declared_form(object: &Map<String, Value>) -> Result<Option<Form>, EvidenceError> {
    match object.get("log_format") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_str() {
            Some("ccel") => Ok(Some(Form::Ccel)),
            Some("tpm") => Ok(Some(Form::Tpm)),
            _ => Err(wrong("log_format", "ccel or tpm", kind(value))),
        },
    }
}

fn binary_log(field: &str, bytes: &[u8], form: Option<Form>) -> Result<Option<Log>, EvidenceError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let log = Log::parse(bytes, form);
    log.map(Some).map_err(|source| EvidenceError::Log { field: field.to_owned(), source })
}

/// A list of events, text that holds such a list, or an encoded binary log. An empty one is none.
fn any_log(field: &str, value: &Value, form: Option<Form>) -> Result<Option<Log>, EvidenceError> {
    if let Value::Array(list) = value {
        return json_log(field, list);
    }
    let text = value.as_str().ok_or_else(|| wrong(field, "a list or text", kind(value)))?;
    if !text.trim_start().starts_with('[') {
        return binary_log(field, &encoded(field, value)?, form);
    }
    let list: Vec<Value> =
        serde_json::from_str(text).map_err(|e| wrong(field, "a JSON list", e.to_string()))?;
    json_log(field, &list)
}

fn json_log(field: &str, list: &[Value]) -> Result<Option<Log>, EvidenceError> {
    if list.len() > MAX_EVENTS {
        return Err(wrong(field, format!("at most {MAX_EVENTS} events"), list.len().to_string()));
    }
    let records = list.iter().enumerate().map(|(i, value)| json_record(&format!("{field}[{i}]"), value));
    let records = records.collect::<Result<Vec<_>, _>>()?;
    Ok((!records.is_empty()).then_some(Log { form: Form::Json, records }))
}

/// `{imr, event_type, digest, event, event_payload}`: `event` is the payload where there is no `event_payload`.
fn json_record(field: &str, value: &Value) -> Result<Record, EvidenceError> {
    let object = value.as_object().ok_or_else(|| wrong(field, "an object", kind(value)))?;
    let number = |names: [&str; 2]| {
        let found = pick(object, &names).map(|(_, value)| value);
        let number = found.and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        number.ok_or_else(|| {
            wrong(&format!("{field}.{}", names[0]), "a number", found.map_or("nothing".into(), kind))
        })
    };
    let imr = number(["imr", "rtmr"])?;
    let register = imr.checked_add(1).and_then(Register::from_cc_index);
    let register = register.ok_or_else(|| wrong(&format!("{field}.imr"), "0 to 3", imr.to_string()))?;
    let given = object.get("digest").unwrap_or(&Value::Null);
    let digest = digest(&format!("{field}.digest"), given)?;
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let payload = object
        .get("event_payload")
        .map_or(Ok(Vec::new()), |value| encoded(&format!("{field}.event_payload"), value))?;
    let (data, label) = match object.contains_key("event_payload") {
        true => (payload, text("event").to_owned()),
        false => (decode(text("event")).unwrap_or_else(|| text("event").as_bytes().to_vec()), String::new()),
    };
    Ok(Record { register, pcr: None, event_type: number(["event_type", "type"])?, digest, data, label })
}

/// dstack's `vm_config`, as an object or as text that holds one. Fields of other meaning are passed over.
fn claims(field: &str, value: &Value) -> Result<Claims, EvidenceError> {
    let parsed;
    let value = match value {
        Value::String(text) if text.is_empty() => return Ok(Claims::default()),
        Value::String(text) => {
            parsed = serde_json::from_str::<Value>(text)
                .map_err(|e| wrong(field, "a JSON object", e.to_string()))?;
            &parsed
        }
        other => other,
    };
    let object = value.as_object().ok_or_else(|| wrong(field, "an object", kind(value)))?;
    let number = |name: &str| object.get(name).and_then(Value::as_u64);
    let small = |name: &str| number(name).and_then(|n| u32::try_from(n).ok());
    Ok(Claims {
        vcpus: small("cpu_count"),
        memory_mib: number("memory_size").map(|bytes| bytes >> 20),
        gpus: small("num_gpus"),
        nvswitches: small("num_nvswitches"),
        qemu: object.get("qemu_version").and_then(Value::as_str).map(|v| v.chars().take(32).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcg::samples::log as sample_log;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(value: &Value) -> Result<Evidence, EvidenceError> {
        Evidence::parse(value.to_string().as_bytes())
    }

    fn quote(version: u8) -> Vec<u8> {
        let mut quote = vec![0; if version == 4 { 48 } else { 54 }];
        quote[..8].copy_from_slice(&[version, 0, 2, 0, 0x81, 0, 0, 0]);
        let body: Vec<u8> = (0..584u32).map(|i| (i / 48) as u8).collect();
        [quote, body].concat()
    }

    #[test]
    fn registers_are_read_under_every_name() {
        let digest = |byte: u8| Digest384([byte; 48]).to_string();
        for (mrtd, rtmr1, wrapped) in
            [("mrtd", "rtmr1", true), ("MRTD", "RTMR1", false), ("mr_td", "rt_mr1", false)]
        {
            let registers = json!({ mrtd: digest(1), rtmr1: format!("0x{}", digest(2)) });
            let file = if wrapped { json!({ "registers": registers }) } else { registers };
            let evidence = parse(&file).unwrap();
            assert_eq!(evidence.registers[..3], [Some(Digest384([1; 48])), None, Some(Digest384([2; 48]))]);
        }
    }

    #[test]
    fn a_quote_gives_the_registers_in_hex_base64_and_raw() {
        for version in [4, 5] {
            let bytes = quote(version);
            let raw = Evidence::parse(&bytes).unwrap();
            assert_eq!(parse(&json!({ "quote": hex::encode(&bytes) })), Ok(raw.clone()));
            let rtmr0 = raw.registers[1].unwrap();
            assert_eq!((rtmr0.0[0], rtmr0.0[47]), (6, 7), "byte 328 of the body on");
        }
    }

    #[test]
    fn a_quote_and_registers_that_disagree_are_refused() {
        let file = json!({ "quote": hex::encode(quote(4)), "rtmr0": "00".repeat(48) });
        assert!(parse(&file).unwrap_err().to_string().contains("rtmr0"), "{:?}", parse(&file));
    }

    #[test]
    fn logs_are_read_in_every_form() {
        let log = sample_log(&[(1, 4, &[0; 4])]);
        let digest = Digest384::of(&[0; 4]).to_string();
        let list = json!([{ "imr": 0, "event_type": 4, "digest": digest, "event": "", "event_payload": "00000000" }]);
        for file in [
            json!({ "event_log": hex::encode(&log) }),
            json!({ "eventlog": list.clone() }),
            json!({ "event_log": list.to_string() }),
            json!({ "evidence": { "cc_eventlog": hex::encode(&log) } }),
        ] {
            let log = parse(&file).unwrap().log.unwrap();
            let record = &log.records[0];
            assert_eq!((record.register, record.digest.to_string()), (Register::Rtmr0, digest.clone()));
            assert_eq!(record.data, [0; 4]);
        }
    }

    #[test]
    fn wrong_values_are_named_with_their_field() {
        for (file, words) in [
            (json!({ "rtmr0": "abc" }), "rtmr0: expected 96 hex digits"),
            (json!({ "quote": "zz!" }), "quote: expected hex or base64"),
            (json!({ "quote": "00" }), "quote: expected a TDX quote"),
            (json!({ "event_log": [{ "imr": 4 }] }), "event_log[0].imr: expected 0 to 3"),
            (json!({ "event_log": [{ "imr": 1, "digest": 3 }] }), "event_log[0].digest"),
            (json!({ "event_log": "00ff" }), "event_log: event log at offset"),
            (json!({ "event_log": 4 }), "event_log: expected a list or text"),
            (json!({ "log_format": "x", "log": "00" }), "log_format: expected ccel or tpm"),
            (json!({}), "registers, a quote or an event log"),
            (json!([]), "a JSON object"),
        ] {
            let error = parse(&file).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let error = Evidence::parse(b"{\n  x").unwrap_err().to_string();
        assert!(error.contains("line 2, column 3"), "{error}");
    }

    proptest! {
        #[test]
        fn hostile_files_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Evidence::parse(&bytes);
            let _ = Evidence::parse(&[&QUOTE_MAGIC[1][..], &bytes].concat());
        }

        #[test]
        fn hostile_fields_never_panic(name in "[a-z0-9_]{1,12}", text in "\\PC{0,60}", number: u64) {
            for names in [&QUOTE[..], &LOG, &CONFIG, &REGISTERS[1], &["rtmrs", "evidence", name.as_str()]] {
                for field in names {
                    for value in [json!(text), json!(number), json!([text]), json!({ "imr": number }), json!([{ "imr": number, "digest": text }])] {
                        let _ = parse(&json!({ *field: value }));
                    }
                }
            }
        }
    }
}
