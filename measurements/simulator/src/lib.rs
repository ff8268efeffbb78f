//! A SIMULATED TDX platform, for the debug profile and tests only: it proves nothing about hardware.
//!
//! ```text
//! Pki: root CA -> PCK platform CA -> PCK      root CA -> TCB signer -> TCB info, QE identity
//!                                     \-> QE report -> attestation key -> quote
//! ```
//! The bytes are those of a real platform, so they go through the very verifier that real ones go through; only the trust
//! root differs, and it says SIMULATED in its name. All keys but the attestation key are gone once a [`Platform`] is
//! dropped: what is handed over is an [`Identity`].
//!
//! Deliberately absent from every production image; `cargo xtask tidy` looks for it in their dependency trees.

mod der;
mod description;
mod documents;
pub mod fault;
pub mod gpu;
mod guest;
mod identity;
mod pki;
mod platform;
pub mod tpm;

pub use description::Part;
pub use guest::{Guest, RELEASE, record, reference};
pub use identity::{Identity, IdentityError};
pub use platform::{Options, Platform};

/// Why a simulated platform could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// A certificate or CRL could not be encoded or signed.
    #[error("SIMULATED platform: {what}: {reason}; check the times that were asked for (years 1970 to 2049)")]
    Certificate {
        /// Which.
        what: &'static str,
        /// What the encoder says.
        reason: String,
    },
    /// A description that does not read.
    #[error("SIMULATED platform: description: {0}")]
    Description(Box<toml::de::Error>),
    /// No randomness for keys.
    #[error("SIMULATED platform: no random numbers for keys: {0}; is /dev/urandom there?")]
    Random(String),
    /// The log of a test case does not hold together.
    #[error(transparent)]
    Tpm(#[from] tpm::TpmError),
    /// Events that no guest could have.
    #[error("SIMULATED guest: {0}")]
    Runtime(#[from] measure::runtime::RuntimeError),
}
