//! The report for people: what to mend first, and all of it on one screen where there is no TDX.

use super::{Check, NOT_JUDGED, Report, Status};
use std::fmt::Write;

/// Columns of the narrowest terminal that is usual.
const WIDTH: usize = 80;
/// Names of checks take this much.
const NAME: usize = 19;

impl Report {
    /// The report in lines of at most 80 columns; with `all`, what passed as well.
    pub fn to_text(&self, all: bool) -> String {
        let judged = |check: &&Check| !check.evidence.starts_with(NOT_JUDGED);
        let count = |status| self.checks.iter().filter(judged).filter(|c| c.status == status).count();
        let waiting = self.checks.iter().filter(|c| !judged(c)).count();
        let mut out = String::new();
        let counts = [Status::Pass, Status::Fail, Status::Unknown].map(count);
        // A string takes everything.
        let _ = writeln!(
            out,
            "{} of {} checks pass, {} fail, {} unknown, {waiting} not judged yet",
            counts[0],
            self.checks.len(),
            counts[1],
            counts[2]
        );
        let shown = |check: &&Check| all || check.status != Status::Pass;
        for check in self.checks.iter().filter(judged).filter(shown) {
            entry(&mut out, check);
        }
        let later: Vec<&str> = self.checks.iter().filter(|c| !judged(c)).map(|c| c.name).collect();
        if !later.is_empty() {
            paragraph(
                &mut out,
                "later    ",
                &format!("not judged until the above is mended: {}", later.join(" ")),
            );
        }
        let good: Vec<&str> =
            self.checks.iter().filter(|c| c.status == Status::Pass).map(|c| c.name).collect();
        if !all && !good.is_empty() {
            paragraph(&mut out, "good     ", &good.join(" "));
        }
        if ["cpu", "bios_tdx"].iter().any(|name| self.check(name).is_some_and(|c| c.status == Status::Fail)) {
            out.push_str(
                "Without TDX all runs SIMULATED here, with none of this mended: `cargo xtask up`\n\
                 brings its own QEMU and firmware, boots a worker in emulation, and verifies it.\n",
            );
        }
        out
    }
}

fn entry(out: &mut String, check: &Check) {
    let mark = match check.status {
        Status::Pass => "pass",
        Status::Fail => "FAIL",
        Status::Unknown => "?   ",
    };
    let head = format!("{mark} {:<width$} ", check.name, width = NAME - 1);
    paragraph(out, &head, &check.evidence);
    if !check.fix.is_empty() {
        paragraph(out, "     -> ", &check.fix);
    }
}

/// Words behind a head, with what does not fit under it.
fn paragraph(out: &mut String, head: &str, text: &str) {
    let indent = 8;
    let mut line = head.to_owned();
    let mut fresh = true;
    for word in text.split_whitespace() {
        let word: String = word.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        if !fresh && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(line.trim_end());
            out.push('\n');
            line = " ".repeat(indent);
            fresh = true;
        }
        if !fresh {
            line.push(' ');
        }
        line.push_str(&word);
        fresh = false;
    }
    out.push_str(line.trim_end());
    out.push('\n');
}
