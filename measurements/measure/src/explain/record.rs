//! An event log in one form, whatever form it came in: CCEL, TPM log, or a JSON list as dstack writes it.
//!
//! A CCEL names measurement registers (0 is MRTD, 1 to 4 are RTMR0 to 3), a TPM log PCRs, a JSON list `imr` (0 to 3 are
//! RTMR0 to 3). Which of the first two a binary log is shows in its indices: only PCRs go beyond 4, and a TPM log
//! always has PCR 7.

use crate::error::MeasureError;
use crate::register::{Digest384, Register, Registers, pcr_to_register};
use crate::tcg::{self, EV_NO_ACTION, EventLog, LogEvent};
use serde::Serialize;

/// More than any boot has; a runtime log of RTMR3 grows, but not to this.
pub const MAX_EVENTS: usize = 4096;

/// How a log came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// CC event log.
    Ccel,
    /// TPM log; a simulated platform's registers are folded from it.
    Tpm,
    /// JSON list with register numbers.
    Json,
}

/// One measured event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Register that it extended.
    pub register: Register,
    /// PCR, where the log is a TPM's.
    pub pcr: Option<u32>,
    /// TCG event type.
    pub event_type: u32,
    /// What was extended.
    pub digest: Digest384,
    /// Event data: what the log shows, often not what was hashed.
    pub data: Vec<u8>,
    /// A name that the log gives beside the data (dstack's runtime events).
    pub label: String,
}

impl Record {
    /// What the event says of itself; control characters are replaced.
    pub fn described(&self) -> tcg::Described {
        let digests = Vec::new();
        let mut described = tcg::describe(&LogEvent {
            offset: 0,
            index: 0,
            event_type: self.event_type,
            digests,
            data: &self.data,
        });
        if !self.label.is_empty() {
            described.detail =
                self.label.chars().take(128).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        }
        described
    }
}

/// A log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How it came.
    pub form: Form,
    /// Measured events in log order.
    pub records: Vec<Record>,
}

impl Log {
    /// Reads a binary log; `form` if it is known which.
    pub fn parse(bytes: &[u8], form: Option<Form>) -> Result<Self, MeasureError> {
        let log = EventLog::parse(bytes)?;
        let tpm = || if log.events.iter().any(|e| e.index > 4) { Form::Tpm } else { Form::Ccel };
        let form = form.unwrap_or_else(tpm);
        let measured = log.events.iter().filter(|e| e.event_type != EV_NO_ACTION);
        let records = measured.map(|e| record(e, form)).collect::<Result<Vec<_>, _>>()?;
        if records.len() > MAX_EVENTS {
            return Err(fault(&log.events[MAX_EVENTS], format!("more than {MAX_EVENTS} events")));
        }
        Ok(Log { form, records })
    }

    /// The registers that the log adds up to.
    pub fn replay(&self) -> Registers {
        let mut registers = Registers::ZERO;
        for record in &self.records {
            registers.get_mut(record.register).extend(&record.digest);
        }
        registers
    }
}

fn record(event: &LogEvent<'_>, form: Form) -> Result<Record, MeasureError> {
    let (register, pcr) = match form {
        Form::Tpm => (pcr_to_register(event.index), Some(event.index)),
        Form::Ccel | Form::Json => (Register::from_cc_index(event.index), None),
    };
    let register =
        register.ok_or_else(|| fault(event, format!("index {} stands for no register", event.index)))?;
    let digest = event.sha384().ok_or_else(|| fault(event, "the event has no SHA-384 digest".to_owned()))?;
    Ok(Record {
        register,
        pcr,
        event_type: event.event_type,
        digest,
        data: event.data.to_vec(),
        label: String::new(),
    })
}

fn fault(event: &LogEvent<'_>, fault: String) -> MeasureError {
    MeasureError::Malformed { input: crate::error::Input::Log, offset: event.offset, fault }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcg::samples::log as sample_log;
    use crate::tcg::{EV_EFI_ACTION, EV_SEPARATOR};

    #[test]
    fn indices_beyond_four_make_a_tpm_log() {
        let tpm = sample_log(&[(0, EV_EFI_ACTION, b"a"), (7, EV_SEPARATOR, b"b"), (1, EV_NO_ACTION, b"c")]);
        let log = Log::parse(&tpm, None).unwrap();
        assert_eq!((log.form, log.records.len()), (Form::Tpm, 2));
        assert_eq!((log.records[1].register, log.records[1].pcr), (Register::Rtmr0, Some(7)));
        let ccel = sample_log(&[(1, EV_EFI_ACTION, b"a"), (4, EV_SEPARATOR, b"b")]);
        let log = Log::parse(&ccel, None).unwrap();
        assert_eq!((log.form, log.records[1].register), (Form::Ccel, Register::Rtmr3));
        assert_eq!(log.replay(), {
            let mut registers = Registers::ZERO;
            registers.rtmr[0].extend(&Digest384::of(b"a"));
            registers.rtmr[3].extend(&Digest384::of(b"b"));
            registers
        });
    }

    #[test]
    fn an_index_without_register_is_refused() {
        let log = sample_log(&[(17, EV_SEPARATOR, b"a")]);
        assert!(Log::parse(&log, None).unwrap_err().to_string().contains("index 17"));
    }
}
