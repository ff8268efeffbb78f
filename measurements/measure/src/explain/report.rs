//! What an explanation says, as values: the stable JSON form, and the one line that a person understands.

use super::artifacts::Kind;
use super::fact::{Axis, Fact};
use super::forward::{EventReport, EventStatus};
use super::record::Form;
use crate::register::{Digest384, Register};
use crate::shape::Shape;
use serde::Serialize;
use std::collections::BTreeSet;

/// Differing events that are named in one line.
const MAX_NAMED: usize = 3;

/// What came of one register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is what was expected.
    Equal,
    /// It is not, but it is known what it is.
    Explained,
    /// No search gave it, but the log shows which events differ.
    Located,
    /// Nothing that was tried gives it.
    Unexplained,
    /// It is extended at run time, so artifacts don't foretell it.
    Runtime,
    /// The evidence doesn't show it.
    NotShown,
}

impl Verdict {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Equal => "equal",
            Verdict::Explained => "explained",
            Verdict::Located => "located",
            Verdict::Unexplained => "unexplained",
            Verdict::Runtime => "run time",
            Verdict::NotShown => "not shown",
        }
    }
}

/// One register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegisterReport {
    /// Which one.
    pub register: Register,
    /// What came of it.
    pub verdict: Verdict,
    /// One line: what it is, or what was tried.
    pub text: String,
    /// What a machine as expected has, where that can be foretold.
    pub expected: Option<Digest384>,
    /// What the evidence shows.
    pub found: Option<Digest384>,
    /// Releases whose artifacts give it.
    pub releases: BTreeSet<String>,
    /// What it was found to be made of.
    pub facts: Vec<Fact>,
    /// Values that were computed in the search.
    pub tried: usize,
    /// Axes along which was searched.
    pub axes: BTreeSet<Axis>,
    /// Whether the log adds up to it; nothing without a log.
    pub replays: Option<bool>,
    /// Its events, in measurement order.
    pub events: Vec<EventReport>,
}

impl RegisterReport {
    /// Events that aren't as foretold.
    pub fn differences(&self) -> impl Iterator<Item = &EventReport> {
        let differs = |e: &&EventReport| !matches!(e.status, EventStatus::Same | EventStatus::Open);
        self.events.iter().filter(differs)
    }
}

/// The log in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogReport {
    /// How it came.
    pub form: Form,
    /// Measured events.
    pub events: usize,
    /// Whether it adds up to every register that is shown.
    pub replays: bool,
}

/// A file of the artifacts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Path below the folder.
    pub path: String,
    /// What it was taken for.
    pub kind: Kind,
    /// Why it could not be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// Everything that is said about some evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Always 1.
    pub schema: u32,
    /// Whether the evidence is exactly what was expected.
    pub equal: bool,
    /// The one line.
    pub headline: String,
    /// The release that all registers belong to.
    pub release: Option<String>,
    /// The machine, as far as the registers show it.
    pub machine: Option<Shape>,
    /// All facts, each once.
    pub facts: Vec<Fact>,
    /// The log, where there is one.
    pub log: Option<LogReport>,
    /// MRTD and RTMR0 to 3.
    pub registers: Vec<RegisterReport>,
    /// What each file was taken for.
    pub artifacts: Vec<FileReport>,
}

/// Releases that all explained registers have in common.
pub(super) fn common_releases(registers: &[RegisterReport]) -> BTreeSet<String> {
    let mut sets = registers.iter().map(|r| &r.releases).filter(|set| !set.is_empty());
    let first = sets.next().cloned().unwrap_or_default();
    sets.fold(first, |common, set| common.intersection(set).cloned().collect())
}

/// Facts of all registers, each once; what departs wins over what doesn't.
pub(super) fn all_facts(registers: &[RegisterReport]) -> Vec<Fact> {
    let mut all: Vec<Fact> = registers.iter().flat_map(|r| r.facts.iter().cloned()).collect();
    all.sort_by_key(|fact| (fact.axis, !fact.departs()));
    all.dedup();
    all
}

/// The one line.
pub(super) fn headline(
    registers: &[RegisterReport],
    release: Option<&str>,
    facts: &[Fact],
    log: Option<&LogReport>,
    equal: bool,
) -> String {
    let of = |verdict: Verdict| {
        registers
            .iter()
            .filter(move |r| r.verdict == verdict)
            .map(|r| r.register.to_string())
            .collect::<Vec<_>>()
    };
    let mut parts = Vec::new();
    if log.is_some_and(|log| !log.replays) {
        parts.push("The event log does not add up to the registers, so it proves nothing".to_owned());
    }
    let machine =
        sentence(&release.map_or_else(|| mixture(registers), |name| format!("release {name}")), facts);
    let known = registers
        .iter()
        .any(|r| matches!(r.verdict, Verdict::Equal | Verdict::Explained) && r.register != Register::Rtmr3);
    let unexplained = of(Verdict::Unexplained);
    let located = registers
        .iter()
        .filter(|r| r.verdict == Verdict::Located)
        .map(|r| format!("{} {}", r.register, r.text));
    let located: Vec<_> = located.collect();
    let this_is = if known {
        format!("this is {machine}")
    } else {
        "no known artifacts or machines have these registers".to_owned()
    };
    let mut line = match (equal, known, unexplained.is_empty()) {
        (true, ..) => format!("As expected: {this_is}"),
        (_, true, true) => format!("Not as expected: {this_is}"),
        (_, true, false) => format!("Only in part explained: {this_is}"),
        (_, false, _) => format!("Unexplained: {this_is}"),
    };
    if !known && !facts.is_empty() {
        line += &format!(", but the log shows {}", facts.iter().map(short).collect::<Vec<_>>().join(", "));
    }
    if !located.is_empty() {
        line += &format!("; {}", located.join("; "));
    }
    if known && !unexplained.is_empty() {
        let verb = if unexplained.len() == 1 { "is" } else { "are" };
        line += &format!("; {} {verb} unexplained", list(&unexplained));
    }
    parts.push(line);
    parts.join(". ")
}

/// One line on a register: what it is made of, which events differ, or what was tried.
pub(super) fn describe(report: &RegisterReport) -> String {
    let facts: Vec<_> = report.facts.iter().map(short).collect();
    match report.verdict {
        Verdict::Equal if report.register == Register::Rtmr3 => "nothing was extended".to_owned(),
        Verdict::Equal | Verdict::Explained => facts.join(", "),
        Verdict::NotShown => "the evidence doesn't show it".to_owned(),
        Verdict::Runtime if report.events.is_empty() => "extended at run time".to_owned(),
        Verdict::Runtime => format!("extended at run time by {} events", report.events.len()),
        Verdict::Located => {
            let names: Vec<_> = report.differences().map(|e| e.name.clone()).take(MAX_NAMED).collect();
            let more = report.differences().count() - names.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("differs in {}{more}", names.join(", "))
        }
        Verdict::Unexplained => {
            let axes: Vec<_> = report.axes.iter().map(|axis| axis.name()).collect();
            let along = if axes.is_empty() { String::new() } else { format!(" along {}", axes.join(", ")) };
            let seen = if facts.is_empty() {
                String::new()
            } else {
                format!("; the log shows {}", facts.join(", "))
            };
            match report.tried {
                0 => format!("nothing to try: no artifact foretells it{seen}"),
                tried => format!("tried {tried} candidates{along}{seen}"),
            }
        }
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Registers of several releases: which has which.
fn mixture(registers: &[RegisterReport]) -> String {
    let of = registers.iter().filter(|r| !r.releases.is_empty());
    let of = of.map(|r| {
        format!("{} of release {}", r.register, r.releases.iter().cloned().collect::<Vec<_>>().join(" or "))
    });
    format!("a mixture ({})", of.collect::<Vec<_>>().join(", "))
}

/// `release 1.2 on 31 vCPUs (expected 32 vCPUs), 64 GiB, two-pass VMM (expected ...)`.
fn sentence(what: &str, facts: &[Fact]) -> String {
    let told = |axis: Axis| facts.iter().filter(move |f| f.axis == axis).map(Fact::to_string);
    let machine: Vec<_> = [Axis::Vcpus, Axis::Memory, Axis::Devices].into_iter().flat_map(told).collect();
    let mut out =
        if machine.is_empty() { what.to_owned() } else { format!("{what} on {}", machine.join(", ")) };
    if let Some(qemu) = told(Axis::Qemu).next() {
        out += &format!(" with {qemu}");
    }
    let quiet = [Axis::Vcpus, Axis::Memory, Axis::Devices, Axis::Qemu];
    let rest: Vec<_> = facts.iter().filter(|f| f.departs() && !quiet.contains(&f.axis)).map(short).collect();
    if rest.is_empty() { out } else { format!("{out}, {}", rest.join(", ")) }
}

/// A departure; the expected command line is too long for a sentence.
fn short(fact: &Fact) -> String {
    if fact.axis == Axis::CommandLine { fact.found.clone() } else { fact.to_string() }
}
