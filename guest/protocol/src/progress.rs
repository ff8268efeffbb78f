//! Boot progress, one JSON object a line, from guest to host over the port [`crate::names::PROGRESS_PORT`].
//!
//! A closed vocabulary: nothing a user typed can be said in it. The host believes none of it; it is for people.

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
    /// The guest gives up and powers off.
    Failed {
        /// Which step failed.
        step: String,
        /// What was expected, what was found, what to do.
        reason: String,
    },
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
    fn other_words_are_not_progress() {
        assert_eq!(Line::parse("{\"uptime_ms\":1,\"stage\":\"prompt\",\"text\":\"x\"}"), None);
    }
}
