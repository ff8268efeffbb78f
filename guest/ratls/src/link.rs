//! One TLS connection as a binding sees it: its exporter, the part of each end, and the responder's key.

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
    initiator: Part,
    responder: Part,
    /// DER of the SubjectPublicKeyInfo in the responder's certificate; an initiator shows none.
    responder_key: Arc<[u8]>,
}

impl Link {
    pub(crate) fn new(
        exporter: [u8; 32],
        me: Direction,
        mine: Part,
        theirs: Part,
        responder_key: Arc<[u8]>,
    ) -> Self {
        let (initiator, responder) = match me {
            Direction::Initiator => (mine, theirs),
            Direction::Responder => (theirs, mine),
        };
        Link { exporter, me, initiator, responder, responder_key }
    }

    /// Which end of the connection this process is.
    pub fn direction(&self) -> Direction {
        self.me
    }

    /// What this process is on it.
    pub fn part(&self) -> Part {
        self.end(self.me)
    }

    /// What the peer says that it is; proved where there is a [`crate::Peer`].
    pub fn peer_part(&self) -> Part {
        self.end(self.me.other())
    }

    pub(crate) fn exporter(&self) -> &[u8; 32] {
        &self.exporter
    }

    #[cfg(test)]
    pub(crate) fn responder_key(&self) -> &[u8] {
        &self.responder_key
    }

    fn end(&self, direction: Direction) -> Part {
        match direction {
            Direction::Initiator => self.initiator,
            Direction::Responder => self.responder,
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
        let binding = Binding {
            direction: attester,
            attester: self.end(attester),
            verifier: self.end(attester.other()),
            exporter: &self.exporter,
            challenge,
            responder_key: &self.responder_key,
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
        write!(f, "Link({} to {}, {:?} here)", self.initiator, self.responder, self.me)
    }
}
