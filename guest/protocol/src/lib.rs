//! Versioned wire types shared by guest and host: the handoff disk, the static configuration, boot progress,
//! the evidence exchange, the OpenAI-shaped bodies and what is said of money and load beside them.
//!
//! Pure: no I/O, no clock, no async. Every parser here reads hostile bytes: it bounds what it allocates, names the
//! offset of the fault and never panics.
//!
//! Deliberately absent: anything secret. What crosses from host to guest here is public by design.

pub mod attester;
pub mod batch;
pub mod channel;
pub mod config;
pub mod control;
pub mod handoff;
pub mod market;
pub mod names;
pub mod openai;
pub mod progress;

pub use attester::{AttestError, Attester};
pub use measure::Digest384;
pub use measure::codec::CodecError;
/// The guest's own events, which RTMR3 holds; the type lives with the verifier.
pub use measure::runtime;
/// Evidence as it travels; its types live with the verifier.
pub use measure::wire as evidence;
