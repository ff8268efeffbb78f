//! The ledger as a guest may believe it: account state proven to a signed masterchain block, never a server's word.
//!
//! ```text
//!  Ledger (trait)  <-- LiteClient --- Link: frames over TCP ---> a server: the local chain now, a lite server later
//!                        |
//!                        +-- trust: pinned zero state, validators, the newest block seen     (pure)
//!                        +-- proof: block header, shard, account, configuration, all Merkle   (pure)
//!                        +-- get:   get-methods run here, on the proven state                 (pure)
//!  wallet, message, contract: what is sent, and what contracts say, as cells (pure)
//! ```
//! The trait has the shape of what a proof-checking lite client can give, so that a chain in the next process is no special
//! case: it is checked with the same code. Sending is a broadcast and promises nothing; who needs certainty waits until a
//! proven state shows the effect.
//!
//! What a server sends is hostile: its length is bounded before it is read, nothing in it can stop the process, and
//! [`LedgerError::is_peer_fault`] tells a lie from a failure. Deliberately absent: a clock (times are passed in), trust in
//! unproven answers, and following key blocks: validators come from the pinned zero state, which suffices for a chain whose
//! validators never change. Following them on test and main net is the next part of `trust`.
//!
//! Forms: TON's TL-B schemes (block.tlb) and lite server API (lite_api.tl).

pub mod contract;
pub mod forms;
mod get;
mod ledger;
mod link;
mod lite;
pub mod message;
pub mod proof;
mod transaction;
mod trust;
pub mod wallet;

pub use get::{Arg, GetError, Values};
pub use ledger::{Answer, Ledger, LedgerError, ProvenAccount, ProvenBlock, changed, shown};
pub use link::{FRAME_LIMIT, Link, read_frame, write_frame};
pub use lite::LiteClient;
pub use transaction::ProvenTransaction;
pub use trust::{Network, Trust, TrustError, node_id};

/// An account's address: workchain and 256 bits.
pub type Address = tycho_types::models::StdAddr;
pub use tycho_types::cell::{Cell, HashBytes};

/// Reads an address in raw (`0:ab..`) or user-friendly form, as people and configuration write it.
///
/// # Errors
/// Says what is wrong with the text; a checksum that does not match is an error.
pub fn parse_address(text: &str) -> Result<Address, String> {
    use tycho_types::models::StdAddrFormat;
    Address::from_str_ext(text, StdAddrFormat::any()).map(|(address, _)| address).map_err(|error| {
        format!("`{text}` is no TON address: {error}; expected 0:<64 hex digits> or 48 characters of base64")
    })
}
