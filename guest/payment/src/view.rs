//! What somebody saw of the chain: plain values, proven by whoever reads the chain.
//!
//! Every view carries the masterchain block that it was proven to. The machines ignore a view that is older than one
//! they had, and stop promising when the newest is too old.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A masterchain block that state was proven to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seen {
    /// Sequence number of the block.
    pub seqno: u32,
    /// Unix time of the block in seconds.
    pub time: u32,
}

/// A pool, with the pots of all sessions that are live: the current one, and those whose grace has not run out. The
/// contract keeps eight of them at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolView {
    /// The block.
    pub seen: Seen,
    /// Seconds that a session's vouchers stay good after the session ended.
    pub grace: u32,
    /// Of the newest session; 0 if there was none yet.
    pub epoch: u32,
    /// By epoch.
    pub pots: BTreeMap<u32, PotView>,
    /// Closed for ever.
    pub closed: bool,
}

impl PoolView {
    /// The current session's pot; none before the first, after a retirement and once the pool is closed.
    pub fn current(&self) -> Option<&PotView> {
        self.pots.get(&self.epoch).filter(|pot| pot.closes_at == 0 && !self.closed)
    }
}

/// One session's pot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PotView {
    /// The session's key.
    pub key: [u8; 32],
    /// When its vouchers are good no longer; 0 while it is current.
    pub closes_at: u32,
    /// nanoTON ever put in; never goes down.
    pub funded: u64,
    /// nanoTON ever taken out; never goes down.
    pub spent: u64,
}

/// A vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultView {
    /// The block.
    pub seen: Seen,
    /// The client's channel key.
    pub client_key: [u8; 32],
    /// The pool that it pays.
    pub pool: crate::Address,
    /// nanoTON that the pool was paid.
    pub claimed: u64,
    /// nanoTON that can still be claimed.
    pub free: u64,
    /// When the owner may take the rest; 0 while no close was started.
    pub closes_at: u32,
    /// Closed for ever.
    pub closed: bool,
}

impl VaultView {
    /// nanoTON that claims can reach in all.
    pub fn deposited(&self) -> u64 {
        self.claimed.saturating_add(self.free)
    }
}
