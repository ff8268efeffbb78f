//! The measurements behind a simulated quote: the firmware's TPM log, checked against the live PCRs.
//!
//! TCG PC Client Platform Firmware Profile, section 10 (crypto-agile log). The registers come from
//! [`measure::tcg::emulated_registers`], which the verifier uses as well; never from a prediction.

use measure::tcg::{Bank, EV_IPL, EV_NO_ACTION, EV_SEPARATOR, EventLog};
use measure::{MeasureError, Registers};
use std::collections::BTreeSet;

/// TPM_ALG_SHA384.
const SHA384: u16 = 0x0c;
/// PCRs that firmware and boot loaders extend, and that stand in for a register.
pub const PCRS: u32 = 16;
/// The kernel's IMA extends this one by itself at boot, with what is not in the firmware's log.
const IMA_PCR: u32 = 10;

/// Why a quote was not signed.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The log can't be read.
    #[error("SIMULATED platform: {0}")]
    Log(#[from] MeasureError),
    /// A register is not what the log says.
    #[error(
        "SIMULATED platform: PCR {pcr} holds {live}, but the firmware's log replays to {replayed}; something extended it \
         that the log does not record: do that without the TPM, or the registers can't be explained"
    )]
    Differs {
        /// Which PCR.
        pcr: u32,
        /// SHA-384 value read from the TPM, hex.
        live: String,
        /// What the log comes to, hex.
        replayed: String,
    },
    /// The TPM shows fewer registers than are needed.
    #[error(
        "SIMULATED platform: expected {PCRS} SHA-384 PCRs, found {found}; start the TPM with its SHA-384 bank active"
    )]
    Missing {
        /// How many were given.
        found: usize,
    },
}

/// The registers of a TD that booted as this log says. `pcrs`: SHA-384 values of PCR 0 to 15, in order, as they are now.
///
/// Every PCR must hold what the log replays to; one that the log is silent about must be zeros, but for the kernel's own.
pub fn registers(log: &[u8], pcrs: &[[u8; 48]]) -> Result<Registers, TpmError> {
    let log = EventLog::parse(log)?;
    if pcrs.len() < PCRS as usize {
        return Err(TpmError::Missing { found: pcrs.len() });
    }
    let logged: BTreeSet<u32> = log.events.iter().map(|event| event.index).collect();
    for (pcr, live) in (0..PCRS).zip(pcrs) {
        if pcr == IMA_PCR && !logged.contains(&pcr) {
            continue;
        }
        let replayed = log.replay(Bank::Sha384, pcr)?;
        if replayed != live {
            let (live, replayed) = (hex::encode(live), hex::encode(replayed));
            return Err(TpmError::Differs { pcr, live, replayed });
        }
    }
    Ok(measure::tcg::emulated_registers(&log)?)
}

/// The PCRs that a log replays to, for tests without a TPM.
pub fn replayed(log: &[u8]) -> Result<Vec<[u8; 48]>, TpmError> {
    let log = EventLog::parse(log)?;
    let one = |pcr| {
        let mut value = [0; 48];
        value.copy_from_slice(&log.replay(Bank::Sha384, pcr)?);
        Ok(value)
    };
    (0..PCRS).map(one).collect()
}

/// A small log with an event in every register, for tests.
pub fn sample_log() -> Vec<u8> {
    let mut log = Vec::new();
    let mut spec = b"Spec ID Event03\0".to_vec();
    spec.extend_from_slice(&[0, 0, 0, 0, 0, 2, 0, 2]);
    spec.extend_from_slice(&1u32.to_le_bytes());
    spec.extend_from_slice(&SHA384.to_le_bytes());
    spec.extend_from_slice(&48u16.to_le_bytes());
    spec.push(0);
    log.extend_from_slice(&0u32.to_le_bytes());
    log.extend_from_slice(&EV_NO_ACTION.to_le_bytes());
    log.extend_from_slice(&[0; 20]);
    log.extend_from_slice(&(spec.len() as u32).to_le_bytes());
    log.extend_from_slice(&spec);
    for pcr in [0, 1, 2, 4, 7] {
        event(&mut log, pcr, EV_SEPARATOR, &[0; 4]);
    }
    for text in ["SIMULATED command line", "SIMULATED initrd"] {
        event(&mut log, 9, EV_IPL, text.as_bytes());
    }
    log
}

fn event(log: &mut Vec<u8>, pcr: u32, kind: u32, data: &[u8]) {
    use sha2::{Digest, Sha384};
    log.extend_from_slice(&pcr.to_le_bytes());
    log.extend_from_slice(&kind.to_le_bytes());
    log.extend_from_slice(&1u32.to_le_bytes());
    log.extend_from_slice(&SHA384.to_le_bytes());
    log.extend_from_slice(&Sha384::digest(data));
    log.extend_from_slice(&(data.len() as u32).to_le_bytes());
    log.extend_from_slice(data);
}

/// Flips a bit in the digest of [`sample_log`]'s last event.
pub(crate) fn flip_last_digest(log: &mut [u8]) {
    let data = "SIMULATED initrd".len() + 4;
    let at = log.len() - data - 48;
    log[at] ^= 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_given_when_the_log_replays_to_the_pcrs() {
        let log = sample_log();
        let registers = registers(&log, &replayed(&log).unwrap()).unwrap();
        assert_ne!(registers, Registers::ZERO);
        assert_eq!(registers.rtmr[3], measure::Digest384::ZERO);
    }

    #[test]
    fn a_pcr_that_the_log_does_not_explain_is_refused() {
        let log = sample_log();
        for pcr in [4, 15] {
            let mut pcrs = replayed(&log).unwrap();
            pcrs[pcr][0] ^= 1;
            let error = registers(&log, &pcrs).unwrap_err();
            assert!(
                matches!(error, TpmError::Differs { .. })
                    && error.to_string().contains(&format!("PCR {pcr} "))
            );
        }
    }

    #[test]
    fn the_kernels_own_pcr_may_be_used() {
        let log = sample_log();
        let mut pcrs = replayed(&log).unwrap();
        pcrs[IMA_PCR as usize] = [7; 48];
        assert!(registers(&log, &pcrs).is_ok());
        assert!(matches!(registers(&log, &pcrs[..9]), Err(TpmError::Missing { found: 9 })));
    }
}
