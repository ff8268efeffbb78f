//! One TLS connection as a binding sees it: its exporter, and the part and key of each end.

use protocol::channel::{ApplicationKeys, Binding, Direction, GpuShown, Part, gpu_nonce};
use std::fmt;
use std::sync::Arc;

/// What bindings of this connection are made of. It outlives the handshake, so that either end can be asked again on the same
/// connection; cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    exporter: [u8; 32],
    /// The end that this process is.
    me: Direction,
    initiator: End,
    responder: End,
}

/// One end.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) part: Part,
    /// DER of the SubjectPublicKeyInfo; empty without a certificate.
    pub(crate) key: Arc<[u8]>,
}

impl Link {
    pub(crate) fn new(exporter: [u8; 32], me: Direction, mine: End, theirs: End) -> Self {
        match me {
            Direction::Initiator => Link { exporter, me, initiator: mine, responder: theirs },
            Direction::Responder => Link { exporter, me, initiator: theirs, responder: mine },
        }
    }

    /// Which end of the connection this process is.
    pub fn direction(&self) -> Direction {
        self.me
    }

    /// What this process is on it.
    pub fn part(&self) -> Part {
        self.end(self.me).part
    }

    /// What the peer says that it is; proved where there is a [`crate::Peer`].
    pub fn peer_part(&self) -> Part {
        self.end(self.me.other()).part
    }

    pub(crate) fn exporter(&self) -> &[u8; 32] {
        &self.exporter
    }

    fn end(&self, direction: Direction) -> &End {
        match direction {
            Direction::Initiator => &self.initiator,
            Direction::Responder => &self.responder,
        }
    }

    /// What the quote of the end `attester` must be bound to.
    pub(crate) fn report_data(
        &self,
        attester: Direction,
        challenge: &[u8; 32],
        keys: &ApplicationKeys,
        gpu: Option<&GpuShown>,
    ) -> [u8; 64] {
        let (from, to) = (self.end(attester), self.end(attester.other()));
        let binding = Binding {
            direction: attester,
            attester: from.part,
            verifier: to.part,
            exporter: &self.exporter,
            challenge,
            attester_key: &from.key,
            verifier_key: &to.key,
            keys,
            gpu,
        };
        binding.report_data()
    }

    /// What fresh GPU reports of the end `attester` must contain.
    pub(crate) fn gpu_nonce(&self, attester: Direction, challenge: &[u8; 32]) -> [u8; 32] {
        gpu_nonce(&self.exporter, challenge, attester)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The exporter is a secret of the connection.
        write!(f, "Link({} to {}, {:?} here)", self.initiator.part, self.responder.part, self.me)
    }
}
