//! Whether a log is a TPM's or a confidential guest's: the bytes carry no mark, so the content decides.
//!
//! A CCEL of TDX has one bank, SHA-384 (UEFI 2.10 section 38.4.1), speaks of RTMR0 to RTMR3 (MR indices 1 to 4) and can't
//! extend MRTD (index 0), while a TPM's firmware starts with its own version in PCR 0 and soon uses PCR 7.

use super::{EV_NO_ACTION, EventLog, startup_locality};
use crate::wire::LogFormat;

impl EventLog<'_> {
    /// The format, and the reason, as words.
    ///
    /// A TPM's log with no bank but SHA-384 and no events but in PCR 1 to 4 would be taken for a CCEL. No firmware makes
    /// one; who knows better what is read needs no guess.
    pub fn format(&self) -> (LogFormat, &'static str) {
        let extends =
            |high: fn(u32) -> bool| self.events.iter().any(|e| e.event_type != EV_NO_ACTION && high(e.index));
        let locality =
            |e: &super::LogEvent<'_>| e.event_type == EV_NO_ACTION && startup_locality(e.data).is_some();
        if extends(|index| index > 4) {
            (LogFormat::Tpm, "events beyond index 4, which is RTMR3")
        } else if extends(|index| index == 0) {
            (LogFormat::Tpm, "index 0 is extended, which MRTD can't be")
        } else if self.algorithms.iter().any(|(id, _)| *id != super::Bank::Sha384.id()) {
            (LogFormat::Tpm, "it has other banks than SHA-384")
        } else if self.events.iter().any(locality) {
            (LogFormat::Tpm, "it has a StartupLocality event")
        } else {
            (LogFormat::Ccel, "SHA-384 alone, and no index but those of RTMR0 to RTMR3")
        }
    }
}
