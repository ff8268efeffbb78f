//! Progress of a long step, told to whoever asked for it; nothing here prints.

use std::fmt;

/// One line of progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Which part speaks: `tools`, `packages`, `guest`, `image`, `prove`.
    pub step: &'static str,
    /// What is done, in words.
    pub text: String,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8}: {}", self.step, self.text)
    }
}

/// Whoever listens; callers usually print to standard error.
pub type Report<'a> = &'a mut dyn FnMut(Progress);

/// Says one line.
pub(crate) fn say(report: Report<'_>, step: &'static str, text: impl Into<String>) {
    report(Progress { step, text: text.into() });
}
