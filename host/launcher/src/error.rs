//! What can go wrong between settings and a serving guest: which input or process, what was found, what to do next.

use crate::settings::SettingsError;
use std::path::PathBuf;

/// Why there is no serving guest.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The settings were refused.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A file of this run can't be made or read.
    #[error("{what} {path}: {source}; check that its folder exists, is yours and has room", path = path.display())]
    File {
        /// What the file is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: std::io::Error,
    },
    /// An artifact can't be measured.
    #[error(transparent)]
    Measure(#[from] measure::MeasureError),
    /// The prediction has holes, so nothing could be verified against it.
    #[error(
        "{registers}: can't be foretold for this machine; `chrysalis measure predict` says which event and why"
    )]
    NotForetold {
        /// Names of the registers.
        registers: String,
    },
    /// The host lacks something that the settings name, or somebody else has it.
    #[error("{what}: found {found}, expected {expected}; {next}")]
    Host {
        /// A device, a service, or a field of the settings.
        what: String,
        /// What is there.
        found: String,
        /// What was looked for.
        expected: String,
        /// What to do.
        next: &'static str,
    },
    /// A device for the machine is not as it must be, or could not be made so.
    #[error(transparent)]
    Gpu(#[from] crate::gpu::GpuError),
    /// Whoever keeps the machine could not say what to start.
    #[error("nothing to start: {reason}")]
    Unprepared {
        /// Why.
        reason: String,
    },
    /// Another launch runs from the same folder.
    #[error("work folder {path} is in use by another guest; stop that one or set another `work_dir`", path = path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// A generated file would not be read by the guest.
    #[error("{what}: {reason}")]
    Handoff {
        /// Which part.
        what: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A host tool could not be started or failed.
    #[error("{tool} {reason}")]
    Tool {
        /// Its name.
        tool: String,
        /// How it failed, its own last words, what to do.
        reason: String,
    },
    /// QEMU's monitor did not do what it was asked.
    #[error("QEMU's monitor, command `{command}`: {reason}")]
    Monitor {
        /// The QMP command.
        command: String,
        /// What came back.
        reason: String,
    },
    /// The guest started and failed.
    #[error("the guest failed {seconds:.1} s after QEMU's start: {failure}{}", console_tail(console))]
    Failed {
        /// When.
        seconds: f64,
        /// How.
        failure: Failure,
        /// Last lines of its console (which carries no user data by construction).
        console: String,
    },
}

/// How a started guest failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The guest said so itself, on the progress port.
    #[error("step `{step}`: {reason}")]
    Guest {
        /// The step that it names.
        step: String,
        /// Its reason.
        reason: String,
    },
    /// Firmware or kernel gave up, seen on the console.
    #[error("the console shows `{line}`: {hint}")]
    Console {
        /// Which sign (see [`crate::watch::SIGNS`]).
        sign: &'static str,
        /// The line that shows it.
        line: String,
        /// What it means and what to do.
        hint: &'static str,
    },
    /// A host process ended unasked.
    #[error("{process} ended unasked ({status}){log}")]
    Ended {
        /// `qemu-system-x86_64` or `swtpm`.
        process: &'static str,
        /// Exit status or signal.
        status: String,
        /// Its last words.
        log: String,
    },
    /// The guest wrote more than any right guest does.
    #[error("it wrote more than {limit} bytes to its {what}; no right guest does, so it was ended")]
    Flood {
        /// `console` or `progress port`.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// A device that was passed through is gone.
    #[error(
        "device {device} vanished from the host's PCI bus; look into the kernel's log, reset or restart the host, then \
         start the machine again"
    )]
    Vanished {
        /// Its address.
        device: String,
    },
    /// The machine is over, and its devices could not be given back.
    #[error("the machine is over, and its devices are not where they were before: {reason}")]
    NotGivenBack {
        /// Which, and what to do.
        reason: String,
    },
    /// A deadline of the caller passed.
    #[error(
        "no `{awaited}` within {millis} ms, last seen: {reached}; it was ended. Allow more time on a busy host"
    )]
    Deadline {
        /// What was waited for.
        awaited: &'static str,
        /// How long.
        millis: u128,
        /// The last stage that was seen.
        reached: String,
    },
    /// It was stopped on request, or left by itself, before it served.
    #[error("it ended before it served")]
    EndedEarly,
    /// The supervising thread ended: a defect of this program.
    #[error("its supervisor ended unexpectedly; report this as a defect")]
    Unsupervised,
}

fn console_tail(console: &str) -> String {
    match console.is_empty() {
        true => "\nits console is empty".into(),
        false => format!("\nlast lines of its console:\n{}", crate::watch::indent(console)),
    }
}

impl LaunchError {
    /// For `map_err` on file operations.
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| LaunchError::File { what, path, source }
    }
}
