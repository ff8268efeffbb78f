//! Who talks to whom: the parts of the system, and the end of a connection at which each stands.

use measure::codec::{CodecError, Reader};
use std::fmt;

/// What an end of a channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Somebody's own machine; never attested.
    Client = 1,
    /// Routes requests to workers.
    Proxy = 2,
    /// Runs inference.
    Worker = 3,
    /// A service of another kind behind a tunnel; its guest's measured configuration says which.
    Service = 4,
}

impl Part {
    /// Whether such an end proves what it runs.
    pub fn is_attested(self) -> bool {
        match self {
            Part::Client => false,
            Part::Proxy | Part::Worker | Part::Service => true,
        }
    }

    /// Reads one from a message.
    pub(crate) fn read(r: &mut Reader<'_>, what: &'static str, offset: usize) -> Result<Self, CodecError> {
        match r.u32(what)? {
            1 => Ok(Part::Client),
            2 => Ok(Part::Proxy),
            3 => Ok(Part::Worker),
            4 => Ok(Part::Service),
            other => Err(CodecError::Wrong {
                what,
                offset,
                expected: "1 (client), 2 (proxy), 3 (worker) or 4 (service)".into(),
                found: other.to_string(),
            }),
        }
    }

    /// As it travels.
    pub(crate) fn to_bytes(self) -> [u8; 4] {
        (self as u32).to_be_bytes()
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Client => "client",
            Part::Proxy => "proxy",
            Part::Worker => "worker",
            Part::Service => "service",
        })
    }
}

/// Whether `initiator` may open a channel to `responder`. A worker behind NAT dials its proxy and serves on that channel.
pub fn pair_allowed(initiator: Part, responder: Part) -> bool {
    use Part::{Client, Proxy, Service, Worker};
    matches!(
        (initiator, responder),
        (Client, Proxy | Worker | Service) | (Proxy, Worker) | (Worker, Proxy) | (Service, Service)
    )
}

/// An end of one connection. In a binding it says which end the attester is, so that evidence is worth nothing when it is
/// sent back to where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The TLS client.
    Initiator = 1,
    /// The TLS server.
    Responder = 2,
}

impl Direction {
    /// The end that faces this one.
    pub fn other(self) -> Self {
        match self {
            Direction::Initiator => Direction::Responder,
            Direction::Responder => Direction::Initiator,
        }
    }

    /// As it is hashed.
    pub(crate) fn to_bytes(self) -> [u8; 4] {
        (self as u32).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_connects_to_a_client_and_a_client_connects_to_every_attested_part() {
        let all = [Part::Client, Part::Proxy, Part::Worker, Part::Service];
        for part in all {
            assert!(!pair_allowed(part, Part::Client), "{part}");
            assert_eq!(pair_allowed(Part::Client, part), part.is_attested(), "{part}");
        }
        assert!(!pair_allowed(Part::Worker, Part::Worker) && !pair_allowed(Part::Proxy, Part::Proxy));
        assert!(pair_allowed(Part::Worker, Part::Proxy) && pair_allowed(Part::Proxy, Part::Worker));
    }
}
