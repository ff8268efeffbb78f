//! How a failure reaches the host: `boot` keeps it in a file, `failed` sends it.
//!
//! One program reports for all, since a service that was killed can't. The reason never holds user data: it is written
//! before any user could connect, and of a daemon only the name and the way it ended are told.

use crate::port;
use anyhow::{Error, Result};
use protocol::progress::Stage;
use std::fs;
use std::path::Path;
use std::time::Duration;

const FILE: &str = "failure";
/// JSON escapes at most double what [`short`] lets through, so a line stays under `protocol::progress::MAX_LINE`.
pub(crate) const MAX_REASON: usize = 1800;
const MAX_STEP: usize = 64;

/// A unit that never ran because one that it requires failed has nothing to tell; the report on the other one is on its
/// way, and the machine powers off with that.
const OTHERS_FIRST: Duration = Duration::from_secs(3);

/// The step that is being done, for the report.
pub(crate) struct Step(&'static str);

impl Step {
    pub(crate) fn new(name: &'static str) -> Self {
        Step(name)
    }

    pub(crate) fn enter(&mut self, name: &'static str) {
        self.0 = name;
    }

    pub(crate) fn name(&self) -> &'static str {
        self.0
    }
}

/// Keeps the failure of a step under `run`; if even that is impossible, `failed` will report the exit status alone.
pub(crate) fn keep(run: &Path, step: &str, error: &Error) {
    let _ = fs::write(run.join(FILE), format!("{step}\n{error:#}"));
}

/// Tells the host why this guest gives up.
pub(crate) fn report() -> Result<()> {
    let kept = fs::read_to_string(Path::new(crate::boot::RUN).join(FILE)).ok();
    // Set by the service manager for units started through OnFailure= (systemd.exec(5)).
    let monitor = |name: &str| std::env::var(format!("MONITOR_{name}")).ok();
    if monitor("SERVICE_RESULT").is_none_or(|result| result == "success") {
        std::thread::sleep(OTHERS_FIRST);
    }
    let stage = stage(kept.as_deref(), monitor);
    if let Stage::Failed { step, reason } = &stage {
        // For people at a serial console; there may be none.
        let _ = fs::write("/dev/console", format!("chrysalis-init: stopped at step `{step}`: {reason}\n"));
    }
    port::report(stage);
    Ok(())
}

/// The kept failure, else what the service manager says about the unit that ended.
fn stage(kept: Option<&str>, monitor: impl Fn(&str) -> Option<String>) -> Stage {
    if let Some((step, reason)) = kept.and_then(|text| text.split_once('\n')) {
        return Stage::Failed { step: short(step, MAX_STEP), reason: short(reason, MAX_REASON) };
    }
    let or_unknown = |name| monitor(name).unwrap_or_else(|| "unknown".into());
    let unit = or_unknown("UNIT");
    let reason = format!(
        "expected {unit} to keep running, found it ended: result {}, exit {} {}; \
         see the guest's documentation of that unit",
        or_unknown("SERVICE_RESULT"),
        or_unknown("EXIT_CODE"),
        or_unknown("EXIT_STATUS"),
    );
    let step = unit.strip_suffix(".service").unwrap_or(&unit);
    Stage::Failed { step: short(step, MAX_STEP), reason: short(&reason, MAX_REASON) }
}

/// At most `max` bytes of the text, without control characters other than line ends.
pub(crate) fn short(text: &str, max: usize) -> String {
    let mut out = String::new();
    for c in text.chars().filter(|c| !c.is_control() || *c == '\n') {
        if out.len() + c.len_utf8() > max {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::progress::{Line, MAX_LINE};

    #[test]
    fn a_kept_failure_is_reported_with_its_causes() {
        let dir = tempfile::tempdir().unwrap();
        keep(dir.path(), "model", &Error::msg("root differs\nline two").context("disk 0"));
        let kept = fs::read_to_string(dir.path().join(FILE)).unwrap();
        let expected =
            Stage::Failed { step: "model".into(), reason: "disk 0: root differs\nline two".into() };
        assert_eq!(stage(Some(&kept), |_| None), expected);
    }

    #[test]
    fn a_unit_that_ended_is_reported_by_name_and_result() {
        let stage = stage(None, |name| match name {
            "UNIT" => Some("chrysalis-worker.service".into()),
            "SERVICE_RESULT" => Some("exit-code".into()),
            "EXIT_CODE" => Some("exited".into()),
            _ => None,
        });
        let Stage::Failed { step, reason } = stage else { panic!("not a failure") };
        assert_eq!(step, "chrysalis-worker");
        assert!(reason.contains("result exit-code, exit exited unknown"), "{reason}");
    }

    #[test]
    fn the_longest_reason_still_fits_a_line() {
        for filler in ["\"", "\u{1}x", "\u{10348}", "\\", "\n"] {
            let kept = format!("step\n{}", filler.repeat(100_000));
            let line = Line { uptime_ms: u64::MAX, stage: stage(Some(&kept), |_| None) }.to_line();
            assert!(line.len() <= MAX_LINE, "{} bytes of {filler:?}", line.len());
        }
    }
}
