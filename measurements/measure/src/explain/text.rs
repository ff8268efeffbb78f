//! An explanation on one screen.

use super::forward::EventStatus;
use super::report::{Explanation, RegisterReport, Verdict};
use super::words;
use std::fmt::Write;

/// Differing events that are listed; the JSON and HTML forms have all.
const MAX_EVENTS: usize = 10;
/// Longest line before it is cut.
const MAX_LINE: usize = 160;

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

impl Explanation {
    /// For a person: the one line, a table of registers, the events that differ. `colour` if it goes to a terminal.
    pub fn table(&self, colour: bool) -> String {
        let paint =
            |code: &str, text: &str| if colour { format!("{code}{text}{PLAIN}") } else { text.to_owned() };
        let mut out = format!("{}\n\n", paint(BOLD, &printable(&self.headline)));
        for register in &self.registers {
            let verdict = format!("{:<12}", register.verdict.name());
            let verdict = match register.verdict {
                Verdict::Equal => paint(GREEN, &verdict),
                Verdict::Runtime | Verdict::NotShown => verdict,
                _ => paint(RED, &verdict),
            };
            let _ = writeln!(out, "  {:<6} {verdict} {}", register.register.to_string(), cut(&register.text));
        }
        let events: Vec<String> = self.registers.iter().flat_map(events).collect();
        for event in events.iter().take(MAX_EVENTS) {
            let _ = writeln!(out, "{}{event}", if std::ptr::eq(event, &events[0]) { "\n" } else { "" });
        }
        if events.len() > MAX_EVENTS {
            let _ = writeln!(out, "  ... {} more, see --json or --html", events.len() - MAX_EVENTS);
        }
        out + &self.footer()
    }

    fn footer(&self) -> String {
        let mut out = String::new();
        if let Some(log) = &self.log {
            let verb = if log.replays { "adds up" } else { "does NOT add up" };
            let _ = writeln!(out, "\n  event log: {} events, {verb} to the registers", log.events);
        }
        let used = self.artifacts.iter().filter(|f| f.kind != super::Kind::Unused).count();
        let _ = writeln!(out, "  artifacts: {used} of {} files used", self.artifacts.len());
        for file in self.artifacts.iter().filter(|f| f.fault.is_some()).take(3) {
            let _ = writeln!(
                out,
                "    {}: {}",
                printable(&file.path),
                cut(file.fault.as_deref().unwrap_or_default())
            );
        }
        out
    }
}

/// Differing events of a register, one line each; of RTMR3 none, since none was foretold.
fn events(register: &RegisterReport) -> Vec<String> {
    if register.register == crate::register::Register::Rtmr3 {
        return Vec::new();
    }
    let line = |event: &super::EventReport| {
        let what = match event.status {
            EventStatus::Missing => "missing",
            EventStatus::Unexpected => "not expected",
            _ => "differs",
        };
        let why = if event.why.is_empty() { shown(event) } else { event.why.join("; ") };
        let why = if why.is_empty() { why } else { format!(": {why}") };
        cut(&format!("  {} {} {what}{why}", register.register, event.name))
    };
    register.differences().map(line).collect()
}

fn shown(event: &super::EventReport) -> String {
    if !event.words.is_empty() {
        return words::phrase(&event.words);
    }
    let first =
        |text: &Option<String>| text.as_deref().and_then(|text| text.lines().next()).map(str::to_owned);
    match (first(&event.expected_text), first(&event.found_text)) {
        (Some(expected), Some(found)) if expected != found => format!("expected {expected}; found {found}"),
        (None, Some(found)) => found,
        _ => String::new(),
    }
}

fn cut(text: &str) -> String {
    let text = printable(text);
    if text.chars().count() <= MAX_LINE {
        return text;
    }
    text.chars().take(MAX_LINE - 3).chain("...".chars()).collect()
}

/// Names and texts come from evidence and file names: nothing in them may steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
