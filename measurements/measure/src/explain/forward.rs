//! Event by event: what was foretold beside what the log holds, and where a digest comes from that wasn't foretold.
//!
//! A log names an event and gives its digest, but mostly not the bytes behind it. So a digest is looked up among
//! everything that the artifacts and machines near the expected one hash to.

use super::align::{Pair, align};
use super::decode;
use super::fact::{self, Axis};
use super::known::Known;
use super::record::Record;
use super::registers::{Match, command_line_fact, line_digest, text_of_options};
use super::template::Step;
use super::words::{self, Word};
use crate::event::{AcpiFile, Event};
use crate::register::{Digest384, Register};
use crate::tcg;
use crate::uki::UkiSection;
use serde::Serialize;

/// Events of one register that are aligned; what a log has beyond is reported as not expected.
const MAX_ALIGNED: usize = 1024;

/// How an event stands to what was foretold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventStatus {
    /// As foretold.
    Same,
    /// Another digest.
    Changed,
    /// Foretold, not there.
    Missing,
    /// There, not foretold.
    Unexpected,
    /// It can't be foretold from these artifacts.
    Open,
}

/// One event in a register's lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventReport {
    /// What is measured.
    pub name: String,
    /// How it stands.
    pub status: EventStatus,
    /// Place among the log's measured events, from 0.
    pub position: Option<usize>,
    /// What was foretold.
    pub expected: Option<Digest384>,
    /// What was found.
    pub found: Option<Digest384>,
    /// The foretold bytes in words.
    pub expected_text: Option<String>,
    /// The log's data in words; of a command line, what a search came to.
    pub found_text: Option<String>,
    /// Words of a command line, compared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<Word>,
    /// Where the found digest comes from, or what can be concluded.
    pub why: Vec<String>,
}

/// Compares one register's foretold events with a log's.
///
/// `matched` is what a search came to for the whole register; it explains what follows from the machine.
pub(super) fn compare(
    expected: &[Step],
    found: &[(usize, &Record)],
    known: &Known<'_>,
    matched: Option<&Match>,
) -> Vec<EventReport> {
    let (near, far) = found.split_at(found.len().min(MAX_ALIGNED));
    let pairs = align(expected.len(), near.len(), |l, r| weight(&expected[l], near[r].1));
    let mut reports: Vec<_> = pairs
        .into_iter()
        .map(|pair| match pair {
            Pair::Both(l, r) => both(&expected[l], near[r], known, matched),
            Pair::Left(l) => missing(&expected[l]),
            Pair::Right(r) => unexpected(near[r], known),
        })
        .collect();
    reports.extend(far.iter().map(|record| unexpected(*record, known)));
    reports
}

/// Compares one register's foretold events with those of the machine that a search found.
pub(super) fn compare_steps(expected: &[Step], found: &[Step]) -> Vec<EventReport> {
    let weight = |l: usize, r: usize| match (&expected[l], &found[r]) {
        (a, b) if a.event != b.event => 0,
        (a, b) => 2 + u32::from(a.digest == b.digest),
    };
    let report = |pair| match pair {
        Pair::Both(l, r) => {
            let (was, is): (&Step, &Step) = (&expected[l], &found[r]);
            let mut report = missing(was);
            (report.found, report.found_text) = (is.digest, decode::of_step(is));
            if was.digest.is_some()
                && is.digest.is_some()
                && was.digest != is.digest
                && report.found_text == report.expected_text
            {
                // The list kept the expected bytes, only the digest was exchanged.
                report.found_text = None;
            }
            report.status = status(was.digest, is.digest);
            if let (Event::LoadOptions, Some(from), Some(to)) =
                (&is.event, &report.expected_text, &report.found_text)
            {
                report.words = if from == to { Vec::new() } else { words::diff(from, to) };
            }
            report
        }
        Pair::Left(l) => missing(&expected[l]),
        Pair::Right(r) => {
            let is = &found[r];
            EventReport { status: EventStatus::Unexpected, found: is.digest, expected: None, ..missing(is) }
        }
    };
    align(expected.len(), found.len(), weight).into_iter().map(report).collect()
}

fn status(expected: Option<Digest384>, found: Option<Digest384>) -> EventStatus {
    match (expected, found) {
        (None, _) | (_, None) => EventStatus::Open,
        (a, b) if a == b => EventStatus::Same,
        _ => EventStatus::Changed,
    }
}

/// 0 if the two can't be the same event, more if they name the same thing, most if their digests agree as well.
fn weight(expected: &Step, record: &Record) -> u32 {
    if expected.event.event_type() != record.event_type {
        return 0;
    }
    let same = expected.digest == Some(record.digest);
    match expected.event.logged_detail() {
        Some(name) if name != record.described().detail => u32::from(same),
        Some(_) => 4 + u32::from(same),
        None => 2 + 2 * u32::from(same),
    }
}

fn missing(expected: &Step) -> EventReport {
    EventReport {
        name: expected.event.to_string(),
        status: EventStatus::Missing,
        position: None,
        expected: expected.digest,
        found: None,
        expected_text: decode::of_step(expected),
        found_text: None,
        words: Vec::new(),
        why: Vec::new(),
    }
}

fn unexpected((position, record): (usize, &Record), known: &Known<'_>) -> EventReport {
    let mut why = known.origin(&record.digest);
    why.extend(runtime(record));
    EventReport {
        name: if record.label.is_empty() {
            record.described().to_string()
        } else {
            record.described().detail
        },
        status: EventStatus::Unexpected,
        position: Some(position),
        expected: None,
        found: Some(record.digest),
        expected_text: None,
        found_text: decode::of_record(record),
        words: Vec::new(),
        why,
    }
}

/// Whether an event of RTMR3 is one that dstack's guest agent made, and true to its name and payload.
fn runtime(record: &Record) -> Option<String> {
    // Type 0 is the guest's own record, whose digests were computed from its events.
    if record.register != Register::Rtmr3 || record.label.is_empty() || record.event_type == 0 {
        return None;
    }
    let hashed =
        [&record.event_type.to_le_bytes()[..], b":", record.label.as_bytes(), b":", &record.data].concat();
    let agrees = Digest384::of(&hashed) == record.digest;
    Some(
        if agrees {
            "the digest is that of name and payload"
        } else {
            "the digest isn't that of name and payload"
        }
        .to_owned(),
    )
}

fn both(
    expected: &Step,
    (position, record): (usize, &Record),
    known: &Known<'_>,
    matched: Option<&Match>,
) -> EventReport {
    let mut report = missing(expected);
    report.position = Some(position);
    report.found = Some(record.digest);
    report.found_text = decode::of_record(record);
    report.status = status(expected.digest, report.found);
    if report.status != EventStatus::Same {
        match matched.and_then(|found| from_machine(expected, record, found)) {
            Some(why) => report.why.push(why),
            None => explain(expected, record, known, &mut report),
        }
    }
    report
}

/// What a register's match says of an event that follows from the machine.
fn from_machine(expected: &Step, record: &Record, found: &Match) -> Option<String> {
    let wanted = |fact: &&fact::Fact| match expected.event {
        Event::TdHob => fact.axis == Axis::Memory,
        Event::Acpi(_) => {
            !matches!(fact.axis, Axis::Memory | Axis::Boot | Axis::Separator) && !fact.axis.is_file()
        }
        _ => false,
    };
    found.events.iter().find(|step| step.event == expected.event && step.digest == Some(record.digest))?;
    let facts: Vec<_> =
        found.facts.iter().filter(wanted).filter(|f| f.departs() || f.axis == Axis::Acpi).collect();
    let texts: Vec<_> = facts.iter().map(|fact| fact.to_string()).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

/// Says where a digest comes from that wasn't foretold.
fn explain(expected: &Step, record: &Record, known: &Known<'_>, report: &mut EventReport) {
    report.why = known.origin(&record.digest);
    match &expected.event {
        Event::TdHob => report.why.extend(known.memory(&record.digest)),
        Event::Acpi(AcpiFile::Tables) => report.why.extend(known.machine(AcpiFile::Tables, &record.digest)),
        Event::Acpi(_) if report.why.is_empty() => {
            report.why.push("it follows from the ACPI tables".to_owned())
        }
        Event::LoadOptions | Event::SectionData(UkiSection::Cmdline) => {
            command_line(expected, record, known, report)
        }
        Event::Separator if record.data == [1, 0, 0, 0] => {
            report.why.push("the firmware reported an error".to_owned());
        }
        Event::PartitionTable | Event::SecureBoot(_) | Event::BootOrder | Event::BootOption { .. } => {
            // These logs carry what was hashed; data that doesn't hash to the digest shows nothing.
            let shown = if variable_alone(&expected.event) {
                variable_value(&record.data)
            } else {
                Some(&record.data[..])
            };
            if shown.map(Digest384::of) != Some(record.digest) {
                report.why.push("the log's data isn't what was hashed, so it shows nothing".to_owned());
                report.found_text = None;
            }
        }
        _ => {}
    }
    let told =
        !report.why.is_empty() || report.found_text.is_some() && report.found_text != report.expected_text;
    if !told && report.status == EventStatus::Changed {
        report.why.push("nothing near what was expected has this digest".to_owned());
    }
}

/// Of boot variables only the value is hashed.
fn variable_alone(event: &Event) -> bool {
    matches!(event, Event::BootOrder | Event::BootOption { .. })
}

fn variable_value(data: &[u8]) -> Option<&[u8]> {
    let length = |at: usize| usize::try_from(u64::from_le_bytes(data.get(at..at + 8)?.try_into().ok()?)).ok();
    let start = length(16)?.checked_mul(2)?.checked_add(32)?;
    data.get(start..start.checked_add(length(24)?)?)
}

/// Tries changed command lines until one has the digest.
fn command_line(expected: &Step, record: &Record, known: &Known<'_>, report: &mut EventReport) {
    let Some(line) = line_of(expected) else { return };
    let fits = |other: &String| line_digest(expected, &line, other) == Some(record.digest);
    let mut candidates = known.lines();
    candidates.extend(words::neighbours(&line, false));
    candidates.extend(words::neighbours(&line, true));
    match candidates.into_iter().find(fits) {
        Some(found) => {
            report.why.push(command_line_fact(&line, &found).found);
            report.words = words::diff(&line, &found);
            report.found_text = Some(found);
        }
        None => report.why.push(format!(
            "no command line within two words of the expected one has this digest ({} words)",
            line.split_whitespace().count()
        )),
    }
}

fn line_of(step: &Step) -> Option<String> {
    let bytes = step.hashed.bytes()?;
    match step.event {
        Event::LoadOptions => text_of_options(bytes),
        _ => Some(std::str::from_utf8(bytes).ok()?.trim_matches(|c: char| c <= ' ').to_owned()),
    }
}

/// The TD HOB or ACPI events of a log whose machine isn't otherwise known, for evidence without matching artifacts.
pub(super) fn machine_of(records: &[(usize, &Record)], known: &Known<'_>) -> Vec<fact::Fact> {
    let mut facts = Vec::new();
    for (_, record) in records {
        if record.event_type == tcg::EV_EFI_HANDOFF_TABLES2 {
            facts.extend(known.memory_fact(&record.digest));
        }
    }
    facts
}

/// Foretold events that nothing is held against: no log, and no machine was found.
pub(super) fn open(expected: &[Step]) -> Vec<EventReport> {
    expected.iter().map(|step| EventReport { status: EventStatus::Open, ..missing(step) }).collect()
}
