//! Crash reports: what a person may attach to a bug report without reading it first.
//!
//! Every value is of a closed list or a number: kinds, states, stages, sizes. There is no console, no word of the guest, no
//! last words of a process, no path and no address in it; the files of the run have those, and stay where they are.

use crate::error::{Failure, LaunchError};
use crate::machine::Platform;
use crate::settings::Settings;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Folder of the reports in a work folder.
pub const CRASHES: &str = "crashes";
/// Most reports that are kept; older ones are removed.
const KEPT: usize = 10;

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    program: &'static str,
    /// Unix seconds.
    at: u64,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sign: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    /// The last states, with milliseconds since QEMU's start.
    states: Vec<String>,
    platform: &'static str,
    vcpus: u32,
    memory_mib: u64,
    model_disks: usize,
    gpus: usize,
}

/// Writes a report of a machine that failed. Returns its path.
pub(super) fn write(
    dir: &Path,
    settings: &Settings,
    error: &LaunchError,
    states: Vec<String>,
) -> Result<PathBuf, LaunchError> {
    let folder = dir.join(CRASHES);
    fs::create_dir_all(&folder).map_err(LaunchError::file("folder of crash reports", &folder))?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let report = report(settings, error, states, since.as_secs());
    // Two in one second get two names, the later one behind the earlier.
    let name = |n: u32| folder.join(format!("{:012}-{n:03}.json", since.as_secs()));
    let path = name((0..999).rev().find(|n| name(*n).exists()).map_or(0, |n| n + 1));
    let text = serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
    fs::write(&path, text).map_err(LaunchError::file("crash report", &path))?;
    prune(&folder);
    Ok(path)
}

fn report<'a>(settings: &Settings, error: &'a LaunchError, states: Vec<String>, at: u64) -> Report<'a> {
    let mut report = Report {
        schema: 1,
        program: concat!("chrysalis ", env!("CARGO_PKG_VERSION")),
        at,
        kind: kind(error),
        step: None,
        sign: None,
        process: None,
        status: None,
        seconds: None,
        states,
        platform: match settings.platform {
            Platform::Emulated => "emulated",
            Platform::Tdx(_) => "tdx",
        },
        vcpus: settings.vcpus,
        memory_mib: settings.memory_mib,
        model_disks: settings.models.len(),
        gpus: settings.platform.trust_domain().map_or(0, |domain| domain.gpus.len()),
    };
    if let LaunchError::Failed { seconds, failure, .. } = error {
        report.seconds = Some(*seconds);
        match failure {
            // A step's name is a word of the gate; anything else is none.
            Failure::Guest { step, .. } => {
                report.step = Some(step).map(String::as_str).filter(|s| protocol::progress::is_reason(s));
            }
            Failure::Console { sign, .. } => report.sign = Some(*sign),
            Failure::Ended { process, status, .. } => {
                (report.process, report.status) = (Some(*process), Some(status.as_str()));
            }
            Failure::Flood { .. }
            | Failure::Vanished { .. }
            | Failure::NotGivenBack { .. }
            | Failure::Deadline { .. }
            | Failure::EndedEarly
            | Failure::Unsupervised => {}
        }
    }
    report
}

fn kind(error: &LaunchError) -> &'static str {
    match error {
        LaunchError::Settings(_) => "settings",
        LaunchError::File { .. } => "file",
        LaunchError::Measure(_) => "measure",
        LaunchError::NotForetold { .. } => "not-foretold",
        LaunchError::Host { .. } => "host",
        LaunchError::Gpu(_) => "gpu",
        LaunchError::Unprepared { .. } => "unprepared",
        LaunchError::Busy { .. } => "busy",
        LaunchError::Handoff { .. } => "handoff",
        LaunchError::Tool { .. } => "tool",
        LaunchError::Monitor { .. } => "monitor",
        LaunchError::Failed { failure, .. } => failure.kind(),
    }
}

/// Removes the oldest; names sort by time.
fn prune(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort_unstable();
    for old in paths.iter().take(paths.len().saturating_sub(KEPT)) {
        // What can't be removed is only in the way of nobody.
        let _ = fs::remove_file(old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::settings;

    const CANARY: &str = "a-prompt-of-a-user";

    #[test]
    fn a_report_has_no_word_of_the_guest_whatever_it_said() {
        let words = || CANARY.to_owned();
        for failure in [
            Failure::Guest { step: words(), reason: words() },
            Failure::Guest { step: format!("{CANARY} model"), reason: words() },
            Failure::Console { sign: "Kernel panic", line: words(), hint: "" },
            Failure::Ended { process: "qemu-system-x86_64", status: "signal: 9".into(), log: words() },
            Failure::Vanished { device: words() },
            Failure::NotGivenBack { reason: words() },
            Failure::Deadline { awaited: "serving", millis: 5, reached: words() },
        ] {
            let dir = tempfile::tempdir().unwrap();
            let error = LaunchError::Failed { seconds: 1.5, failure, console: words() };
            let path = write(dir.path(), &settings(), &error, vec!["booting".into()]).unwrap();
            let text = fs::read_to_string(path).unwrap();
            assert!(!text.contains(CANARY) && text.contains("\"kind\""), "{text}");
        }
    }

    #[test]
    fn a_step_and_a_status_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let failure = Failure::Guest { step: "model".into(), reason: "x".into() };
        let error = LaunchError::Failed { seconds: 1.5, failure, console: String::new() };
        let text = fs::read_to_string(write(dir.path(), &settings(), &error, Vec::new()).unwrap()).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((read["kind"].as_str(), read["step"].as_str()), (Some("guest"), Some("model")));
    }

    #[test]
    fn only_the_last_reports_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let error = LaunchError::Busy { path: "/x".into() };
        let paths: Vec<_> =
            (0..KEPT + 3).map(|_| write(dir.path(), &settings(), &error, Vec::new()).unwrap()).collect();
        assert_eq!(fs::read_dir(dir.path().join(CRASHES)).unwrap().count(), KEPT);
        assert!(paths.last().unwrap().exists() && !paths[0].exists());
    }
}
