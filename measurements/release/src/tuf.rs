//! The client side of The Update Framework (TUF specification 1.0), as values: no I/O of its own, no clock.
//!
//! ```text
//! measured settings: SHA-256 of the first root
//!        |                                   role.rs      what each role says
//!        v                                   envelope.rs  signatures, thresholds
//!      root 1 -> root 2 -> ... -> root n     trusted.rs   the order of section 5, and what may not go back
//!                                   |
//!              timestamp -> snapshot -> targets -> the bytes of a target
//! ```
//! A profile of the specification, and inside it no option: Ed25519, consistent snapshots, lengths and SHA-256 on every
//! reference, one targets role. Deliberately absent: delegations. Who else must vouch for a release is no decision of the
//! publisher, so it is not in his metadata (see [`crate::Anchor`]).

pub(crate) mod envelope;
pub(crate) mod role;
pub(crate) mod trusted;

pub use role::{Meta, Role};
pub use trusted::{Expiry, Trusted, fetch_target};
