//! Why something published was refused: which input, what was expected, what was found, what to do next.

use crate::mirror::MirrorError;
use evidence::show_time;

/// Why metadata, a document or a statement was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Too many bytes.
    #[error(
        "{what}: {found} bytes or more, expected at most {max}; the mirror serves something else: try another"
    )]
    TooLong {
        /// Which file.
        what: String,
        /// Most that is read.
        max: usize,
        /// How many there are.
        found: usize,
    },
    /// Not the JSON that its schema wants.
    #[error("{what}: {why}; expected the strict JSON of docs/reference/release.md")]
    Syntax {
        /// Which file.
        what: String,
        /// The parser's word.
        why: String,
    },
    /// JSON, but not in the one spelling that is hashed and signed.
    #[error("{what}: not in canonical form; write it with `chrysalis release draft`")]
    NotCanonical {
        /// Which file.
        what: String,
    },
    /// A value that may not stand there.
    #[error("{what}: {field} is {found}, expected {expected}")]
    Value {
        /// Which file.
        what: String,
        /// Which field.
        field: String,
        /// What stands there.
        found: String,
        /// What may.
        expected: String,
    },
    /// Too few keys of the role signed.
    #[error(
        "{what}: {valid} valid signatures by different keys of {role}, expected {threshold}{}; the publisher must sign it, or this is not his", note(.why)
    )]
    Signatures {
        /// Which file.
        what: String,
        /// Whose keys.
        role: String,
        /// How many are needed.
        threshold: u32,
        /// How many there are.
        valid: u32,
        /// What is wrong with the others.
        why: Vec<String>,
    },
    /// Older than what was seen before.
    #[error(
        "{what}: {field} {found} is older than {seen}, which was seen before: a rollback; try another mirror"
    )]
    Rollback {
        /// Which file.
        what: String,
        /// Which version went back.
        field: String,
        /// What is offered.
        found: u64,
        /// What was seen.
        seen: u64,
    },
    /// Its end has passed.
    #[error("{what}: expired {}, and it is {} or later; the publisher must renew it, or the mirror holds it back", show_time(*.expired), show_time(*.now))]
    Expired {
        /// Which file.
        what: String,
        /// Its end, Unix seconds.
        expired: u64,
        /// The time, Unix seconds.
        now: u64,
    },
    /// Other bytes than those that were signed for.
    #[error(
        "{what}: {field} is {found}, {signed_by} says {expected}; the mirror mixes versions or tampers: try another"
    )]
    Mismatch {
        /// Which file.
        what: String,
        /// Hash, length or version.
        field: &'static str,
        /// What was found.
        found: String,
        /// What the signed metadata say.
        expected: String,
        /// Which metadata.
        signed_by: String,
    },
    /// A file that must be there is not.
    #[error("{what}: not on the mirror, and {named_by} names it; the mirror is incomplete: try another")]
    Missing {
        /// Which file.
        what: String,
        /// What names it.
        named_by: String,
    },
    /// A name that is no name of a target here.
    #[error(
        "{what}: target name {found:?} is refused: {why}; a name is a-z, 0-9, `.`, `_`, `+`, `-`, at most 128 bytes, and no path"
    )]
    Name {
        /// Which file.
        what: String,
        /// The name.
        found: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The mirror gave nothing.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
}

fn note(why: &[String]) -> String {
    if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) }
}

impl ReleaseError {
    /// Whether the mirror or the publisher is at fault, rather than this machine.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            ReleaseError::TooLong { .. }
            | ReleaseError::Syntax { .. }
            | ReleaseError::NotCanonical { .. }
            | ReleaseError::Value { .. }
            | ReleaseError::Signatures { .. }
            | ReleaseError::Rollback { .. }
            | ReleaseError::Mismatch { .. }
            | ReleaseError::Missing { .. }
            | ReleaseError::Name { .. } => true,
            // A clock that runs ahead looks the same.
            ReleaseError::Expired { .. } => false,
            ReleaseError::Mirror(error) => error.is_peer_fault(),
        }
    }

    /// Its kind as one word of `a-z` and `_`, for reports in a closed vocabulary.
    pub fn name(&self) -> &'static str {
        match self {
            ReleaseError::TooLong { .. } => "too_long",
            ReleaseError::Syntax { .. } => "syntax",
            ReleaseError::NotCanonical { .. } => "not_canonical",
            ReleaseError::Value { .. } => "value",
            ReleaseError::Signatures { .. } => "signatures",
            ReleaseError::Rollback { .. } => "rollback",
            ReleaseError::Expired { .. } => "expired",
            ReleaseError::Mismatch { .. } => "mismatch",
            ReleaseError::Missing { .. } => "missing",
            ReleaseError::Name { .. } => "name",
            ReleaseError::Mirror(MirrorError::Unreachable { .. }) => "mirror_unreachable",
            ReleaseError::Mirror(MirrorError::Status { .. }) => "mirror_status",
            ReleaseError::Mirror(MirrorError::Endless { .. }) => "mirror_endless",
            ReleaseError::Mirror(MirrorError::Budget { .. }) => "mirror_budget",
        }
    }

    pub(crate) fn value(what: &str, field: &str, found: impl ToString, expected: impl ToString) -> Self {
        ReleaseError::Value {
            what: what.into(),
            field: field.into(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }
}
