//! The short messages: work is demanded, a peer is turned away, a peer is accepted.
//!
//! ```text
//! "CHRYRT02" | u32 difficulty            Retry
//! "CHRYRF02" | u32 reason                Refuse
//! "CHRYOK02"                             Accepted
//! ```

use super::admission::MAX_DIFFICULTY;
use measure::codec::{CodecError, Reader};
use std::fmt;

const RETRY: &[u8; 8] = b"CHRYRT02";
const REFUSE: &[u8; 8] = b"CHRYRF02";
const ACCEPTED: &[u8; 8] = b"CHRYOK02";
/// Length of the longest of them.
pub const MAX_CONTROL: usize = 12;

/// Why a peer turns another away. The list is closed; it says nothing of what was found in evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refuse {
    /// Too many connections wait for a quote.
    Busy = 1,
    /// The work that was demanded was not done.
    Admission = 2,
    /// This end is not the part that was wanted, or does not talk to parts such as the asker.
    Part = 3,
    /// This end does not have the identity that was wanted.
    Identity = 4,
    /// This end can't show the GPU evidence that was wanted.
    Gpu = 5,
    /// The platform of this end gives no quote.
    Platform = 6,
    /// The asker's evidence was not accepted.
    Evidence = 7,
    /// The asker broke the protocol.
    Protocol = 8,
}

impl Refuse {
    const ALL: [Refuse; 8] = [
        Refuse::Busy,
        Refuse::Admission,
        Refuse::Part,
        Refuse::Identity,
        Refuse::Gpu,
        Refuse::Platform,
        Refuse::Evidence,
        Refuse::Protocol,
    ];
}

impl fmt::Display for Refuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refuse::Busy => "it has too many connections waiting for a quote; try again later",
            Refuse::Admission => "the work that it demanded was not done; are both ends of one version?",
            Refuse::Part => "it is another part, or does not talk to such as this end; check the address",
            Refuse::Identity => "it does not have the identity that was wanted; is the registry up to date?",
            Refuse::Gpu => "it can't show the GPU evidence that was wanted; ask another machine or policy",
            Refuse::Platform => "its platform gives no quote now; its own log says why",
            Refuse::Evidence => "it did not accept the evidence of this end; its own log says why",
            Refuse::Protocol => "it saw the protocol broken; are both ends of one version?",
        })
    }
}

/// A short message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// The challenge must come again, with a solution of so many bits.
    Retry {
        /// Leading zero bits, 1 to [`MAX_DIFFICULTY`].
        difficulty: u32,
    },
    /// The peer is turned away; nothing follows.
    Refuse(Refuse),
    /// The initiator's evidence was accepted; application bytes follow.
    Accepted,
}

impl Control {
    /// Encodes for the wire.
    pub fn to_bytes(self) -> Vec<u8> {
        match self {
            Control::Retry { difficulty } => [RETRY.as_slice(), &difficulty.to_be_bytes()].concat(),
            Control::Refuse(reason) => [REFUSE.as_slice(), &(reason as u32).to_be_bytes()].concat(),
            Control::Accepted => ACCEPTED.to_vec(),
        }
    }

    /// Whether these bytes name one of the short messages.
    pub fn is_named(bytes: &[u8]) -> bool {
        [RETRY, REFUSE, ACCEPTED].iter().any(|magic| bytes.starts_with(*magic))
    }

    /// Decodes bytes from a peer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let magic = r.take("name of a message", 8)?;
        let wrong = |what, expected: String, found: u32| CodecError::Wrong {
            what,
            offset: 8,
            expected,
            found: found.to_string(),
        };
        let control = if magic == RETRY {
            let difficulty = r.u32("difficulty")?;
            if !(1..=MAX_DIFFICULTY).contains(&difficulty) {
                return Err(wrong("difficulty", format!("1 to {MAX_DIFFICULTY} bits"), difficulty));
            }
            Control::Retry { difficulty }
        } else if magic == REFUSE {
            let code = r.u32("reason")?;
            let reason = Refuse::ALL.into_iter().find(|reason| *reason as u32 == code);
            Control::Refuse(reason.ok_or_else(|| wrong("reason", "1 to 8".into(), code))?)
        } else if magic == ACCEPTED {
            Control::Accepted
        } else {
            return Err(CodecError::Wrong {
                what: "name of a message",
                offset: 0,
                expected: "CHRYRT02, CHRYRF02 or CHRYOK02".into(),
                found: magic.escape_ascii().to_string(),
            });
        };
        r.finish().map(|()| control)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_messages_survive_the_wire_and_are_refused_cut_or_extended() {
        let refusals = Refuse::ALL.map(Control::Refuse);
        let others = [Control::Retry { difficulty: 1 }, Control::Retry { difficulty: MAX_DIFFICULTY }];
        for control in refusals.into_iter().chain(others).chain([Control::Accepted]) {
            let mut bytes = control.to_bytes();
            assert!(bytes.len() <= MAX_CONTROL && Control::is_named(&bytes));
            assert_eq!(Control::from_bytes(&bytes).unwrap(), control);
            for end in 0..bytes.len() {
                assert!(Control::from_bytes(&bytes[..end]).is_err(), "{control:?} {end}");
            }
            bytes.push(0);
            assert!(Control::from_bytes(&bytes).is_err(), "{control:?}");
        }
    }

    #[test]
    fn unknown_reasons_and_endless_work_are_refused() {
        for bad in [
            [REFUSE.as_slice(), &0_u32.to_be_bytes()],
            [REFUSE.as_slice(), &9_u32.to_be_bytes()],
            [RETRY.as_slice(), &0_u32.to_be_bytes()],
            [RETRY.as_slice(), &(MAX_DIFFICULTY + 1).to_be_bytes()],
        ] {
            assert!(matches!(Control::from_bytes(&bad.concat()), Err(CodecError::Wrong { .. })));
        }
    }

    proptest! {
        #[test]
        fn hostile_short_messages_never_panic_and_have_one_encoding(
            name in 0_usize..4, bytes in proptest::collection::vec(any::<u8>(), 0..16),
        ) {
            let name: &[u8] = [RETRY, REFUSE, ACCEPTED].get(name).map_or(&[], |name| name.as_slice());
            let bytes = [name, &bytes].concat();
            if let Ok(control) = Control::from_bytes(&bytes) {
                prop_assert_eq!(control.to_bytes(), bytes);
            }
        }
    }
}
