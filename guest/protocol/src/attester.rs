//! The one trait at the hardware edge (RFC 9334: Attester).

/// Produces a TDX quote over 64 bytes of report data.
///
/// Implemented by `attest` on configfs-tsm; the simulated platform is reached through the very same files.
pub trait Attester: Send + Sync {
    /// Returns the raw quote (Intel TDX DCAP quote, version 4 or 5) whose report data equals `report_data`.
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError>;

    /// Returns the firmware's event log of this boot, as the platform recorded it.
    fn event_log(&self) -> Result<crate::evidence::EventLog, AttestError>;

    /// Returns the record of the guest's own events ([`crate::runtime::RuntimeRecord`]), as it was sealed.
    fn runtime(&self) -> Result<Vec<u8>, AttestError>;
}

/// Why this machine could not produce evidence.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// There is no quote provider at the given place.
    #[error("no quote provider at {path}: {reason}; load the TDX guest driver, or boot on a TDX host")]
    NoProvider {
        /// Where it was looked for.
        path: String,
        /// What was found instead.
        reason: String,
    },
    /// The platform answered, but not with a quote.
    #[error("the platform refused a quote at step `{step}`: {reason}")]
    Refused {
        /// Which file operation failed.
        step: &'static str,
        /// The operating system's words.
        reason: String,
    },
    /// The platform did not answer in time.
    #[error("no quote within {millis} ms; is the quote generation service running on the host?")]
    Timeout {
        /// How long was waited.
        millis: u64,
    },
}
