//! Boot progress, one JSON object a line, from guest to host over the port [`crate::names::PROGRESS_PORT`].
//!
//! A closed vocabulary: nothing a user typed can be said in it. The host believes none of it; it is for people.

use crate::config::Role;
use serde::{Deserialize, Serialize};

/// How far the guest has come, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Stage {
    /// `init` runs: firmware, kernel and verified root are behind us.
    Started,
    /// The static configuration was read and, where the platform shows MRCONFIGID, equals it.
    ConfigMeasured {
        /// SHA-384 of the static configuration, hex.
        mrconfigid: String,
    },
    /// The network interface is up.
    NetworkUp {
        /// Address with prefix length.
        address: String,
    },
    /// A model disk was opened under its pinned root.
    ModelOpened {
        /// Name of the pin.
        name: String,
        /// dm-verity root hash, hex.
        root: String,
    },
    /// The guest's GPUs were accepted and set ready.
    GpusReady {
        /// How many.
        count: u32,
        /// Whether they are simulated ones, which prove nothing about hardware.
        simulated: bool,
    },
    /// The guest's GPUs were refused and closed; it goes on without, as its configuration allows.
    GpusRefused {
        /// What was expected, what was found, what to do.
        reason: String,
    },
    /// The guest's own events are measured and sealed.
    Sealed {
        /// Whether RTMR3 holds them; false where the kernel can't extend it.
        extended: bool,
        /// What the events come to, hex.
        rtmr3: String,
    },
    /// The daemon answers on this port.
    Serving {
        /// TCP port.
        port: u16,
    },
    /// An attested peer was let in, or let this guest in.
    PeerJoined {
        /// What it is.
        part: Role,
        /// Whether its platform is a simulated one, which proves nothing about hardware.
        simulated: bool,
    },
    /// A peer's evidence was refused.
    PeerRefused {
        /// What it should have been.
        part: Role,
        /// Names of the checks that failed, or of the rule that was broken; see [`is_reason`].
        reasons: Vec<String>,
    },
    /// An attested peer is gone.
    PeerLeft {
        /// What it was.
        part: Role,
    },
    /// How published reference values stand.
    Publication {
        /// Whether they could be renewed, still hold, or ended.
        standing: Standing,
        /// Releases that are accepted.
        accepted: u32,
        /// When what is held ends, Unix seconds; 0 where nothing is.
        until: u64,
        /// Name of what stands in the way, if anything; see [`is_reason`].
        reason: Option<String>,
    },
    /// The guest gives up and powers off.
    Failed {
        /// Which step failed.
        step: String,
        /// What was expected, what was found, what to do.
        reason: String,
    },
}

/// How published reference values stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// The last refresh succeeded.
    Fresh,
    /// They could not be renewed, and hold until their end.
    Stale,
    /// Nothing is accepted.
    Lapsed,
}

impl Stage {
    /// Whether a daemon may say it; the other stages are the first service's own.
    pub fn is_of_daemon(&self) -> bool {
        match self {
            Stage::PeerJoined { .. } | Stage::PeerLeft { .. } => true,
            Stage::PeerRefused { reasons, .. } => {
                reasons.len() <= MAX_REASONS && reasons.iter().all(|reason| is_reason(reason))
            }
            Stage::Publication { reason, .. } => reason.as_deref().is_none_or(is_reason),
            Stage::Started
            | Stage::ConfigMeasured { .. }
            | Stage::NetworkUp { .. }
            | Stage::ModelOpened { .. }
            | Stage::GpusReady { .. }
            | Stage::GpusRefused { .. }
            | Stage::Sealed { .. }
            | Stage::Serving { .. }
            | Stage::Failed { .. } => false,
        }
    }
}

/// Most reasons of one refusal.
pub const MAX_REASONS: usize = 32;

/// Whether a text can name a check: 1 to 32 lower-case letters, digits and `_`.
pub fn is_reason(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (1..=32).contains(&text.len()) && text.bytes().all(plain)
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Milliseconds since the guest's kernel started.
    pub uptime_ms: u64,
    /// What was reached.
    #[serde(flatten)]
    pub stage: Stage,
}

/// Longest line a reader accepts, in bytes.
pub const MAX_LINE: usize = 4096;

impl Line {
    /// One JSON line with its newline.
    pub fn to_line(&self) -> String {
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads one line; `None` if it is not ours or too long.
    pub fn parse(line: &str) -> Option<Self> {
        if line.len() > MAX_LINE {
            return None;
        }
        serde_json::from_str(line.trim_end()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_survives_the_port() {
        let line = Line { uptime_ms: 1200, stage: Stage::Serving { port: 8443 } };
        assert_eq!(line.to_line(), "{\"uptime_ms\":1200,\"stage\":\"serving\",\"port\":8443}\n");
        assert_eq!(Line::parse(&line.to_line()), Some(line));
    }

    #[test]
    fn a_daemon_speaks_of_peers_alone_and_in_names_of_checks() {
        let refused = |reasons: &[&str]| Stage::PeerRefused {
            part: Role::Worker,
            reasons: reasons.iter().map(|r| (*r).into()).collect(),
        };
        assert!(refused(&["registers", "tcb_qe"]).is_of_daemon());
        assert!(Stage::PeerLeft { part: Role::Proxy }.is_of_daemon());
        for bad in ["", "a prompt", "Text", "x\n", &"a".repeat(33)] {
            assert!(!refused(&[bad]).is_of_daemon(), "accepted {bad:?}");
        }
        assert!(!refused(&["a"; 33]).is_of_daemon());
        let published = |reason: Option<&str>| Stage::Publication {
            standing: Standing::Stale,
            accepted: 1,
            until: 5,
            reason: reason.map(str::to_owned),
        };
        assert!(published(None).is_of_daemon() && published(Some("mirror_unreachable")).is_of_daemon());
        assert!(!published(Some("a prompt")).is_of_daemon());
        assert!(!Stage::Serving { port: 1 }.is_of_daemon());
        let longest = refused(&["a".repeat(32).as_str(); MAX_REASONS]);
        assert!(Line { uptime_ms: u64::MAX, stage: longest }.to_line().len() <= MAX_LINE);
    }

    #[test]
    fn other_words_are_not_progress() {
        assert_eq!(Line::parse("{\"uptime_ms\":1,\"stage\":\"prompt\",\"text\":\"x\"}"), None);
    }
}
