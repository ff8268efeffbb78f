//! How a machine is kept alive: when it is started again, and how long things may take.

use super::check::quoted;
use super::{Input, SettingsError};
use serde::Deserialize;
use std::time::Duration;

/// As written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LifeFragment {
    /// `never`, `on-failure` or `always`.
    pub restart: Option<String>,
    /// Failures in a row after which it is given up.
    pub attempts: Option<u32>,
    /// Longest time from QEMU's start to serving.
    pub boot_seconds: Option<u64>,
    /// Longest time that requests under way get when it is told to end.
    pub drain_seconds: Option<u64>,
}

impl LifeFragment {
    pub(super) fn under(self, base: Self) -> Self {
        LifeFragment {
            restart: self.restart.or(base.restart),
            attempts: self.attempts.or(base.attempts),
            boot_seconds: self.boot_seconds.or(base.boot_seconds),
            drain_seconds: self.drain_seconds.or(base.drain_seconds),
        }
    }
}

/// When a machine that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Never.
    Never,
    /// When it failed.
    OnFailure,
    /// Also when it left by itself without a complaint.
    Always,
}

/// How a machine is kept alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When it is started again.
    pub restart: Restart,
    /// Failures in a row after which it is given up: 1 to 100.
    pub attempts: u32,
    /// Longest time from QEMU's start to serving.
    pub boot: Duration,
    /// Longest time for a drain.
    pub drain: Duration,
}

impl Default for Life {
    /// A boot under software emulation takes half a minute on an idle machine; a busy one gets ten. A daemon gives the
    /// requests under way 25 seconds.
    fn default() -> Self {
        let (boot, drain) = (Duration::from_secs(600), Duration::from_secs(40));
        Life { restart: Restart::Never, attempts: 5, boot, drain }
    }
}

impl Input {
    pub(super) fn life(&self) -> Result<Life, SettingsError> {
        let (written, default) = (&self.life, Life::default());
        let restart = match written.restart.as_deref() {
            None => default.restart,
            Some("never") => Restart::Never,
            Some("on-failure") => Restart::OnFailure,
            Some("always") => Restart::Always,
            Some(other) => {
                let hint = "leave it out for \"never\"";
                let expected = "\"never\", \"on-failure\" or \"always\"";
                return Err(self.value("life.restart", quoted(other), expected, hint));
            }
        };
        let within = |field: &str, found: Option<u64>, most: u64, default: u64| match found {
            None => Ok(default),
            Some(n) if (1..=most).contains(&n) => Ok(n),
            Some(n) => {
                let hint = format!("leave it out for {default}");
                Err(self.value(field, n.to_string(), &format!("1 to {most}"), &hint))
            }
        };
        let seconds = Duration::as_secs;
        let attempts =
            within("life.attempts", written.attempts.map(u64::from), 100, default.attempts.into())?;
        let boot = within("life.boot_seconds", written.boot_seconds, 86_400, seconds(&default.boot))?;
        let drain = within("life.drain_seconds", written.drain_seconds, 3600, seconds(&default.drain))?;
        Ok(Life {
            restart,
            attempts: u32::try_from(attempts).unwrap_or(default.attempts),
            boot: Duration::from_secs(boot),
            drain: Duration::from_secs(drain),
        })
    }
}
