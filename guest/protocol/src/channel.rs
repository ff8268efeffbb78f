//! The attestation exchange that follows the TLS handshake, version 2: its messages, and what a quote's report data binds.
//!
//! ```text
//! initiator (TLS client)                        responder (TLS server)
//!    |---- TLS 1.3 handshake, ALPN chrysalis/2 -------|
//!    |---- Challenge -------------------------------->|
//!    |<--- Retry (under load) ------------------------|   admission: work over the exporter
//!    |---- Challenge with a solution ---------------->|
//!    |<--- Challenge (where the initiator attests) ---|
//!    |<--- Evidence ----------------------------------|   binding: what the quote commits to
//!    |---- Evidence (where the initiator attests) --->|
//!    |<--- Accepted ----------------------------------|
//!    |==== application bytes =========================|   Refuse may stand for any of the responder's messages
//! ```
//! A frame is a big-endian `u32` length and that many bytes, which begin with eight that name the message. Every message
//! has one encoding. `docs/reference/channel.md` is the specification.
//!
//! Pure: nonces are passed in, and so is time.

mod admission;
mod binding;
mod challenge;
mod control;
mod keys;
mod part;
mod shown;

pub use admission::{MAX_DIFFICULTY, difficulty, solve, solves};
pub use binding::{Binding, EXPORTER_LABEL, gpu_nonce};
pub use challenge::{Challenge, GpuDemand, MAX_CHALLENGE};
pub use control::{Control, MAX_CONTROL, Refuse};
pub use keys::{ApplicationKey, ApplicationKeys, KeysError, MAX_KEY, MAX_KEY_NAME, MAX_KEYS};
pub use part::{Direction, Part, pair_allowed};
pub use shown::{GpuShown, MAX_ENVELOPE, MAX_MACHINE, MAX_SHOWN, MAX_SHOWN_WITHOUT_GPU, Shown};
