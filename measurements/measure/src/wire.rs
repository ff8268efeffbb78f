//! What a verifier is shown, as it travels (RFC 9334: Evidence): the quote, the firmware's event log and the guest's own,
//! which explain its registers, and the static configuration that its MRCONFIGID commits to. And what the host hands to a
//! simulated platform.
//!
//! Here, in the measured half of the house, because both the guest that sends and the verifier that reads need it.
//!
//! ```text
//! "CHRYEV02" | field quote | u32 log format | field log | field static configuration | field runtime record
//! ```
//! Version 1 had no runtime record. It is refused by its name: evidence of a guest that keeps silent about RTMR3 can't be
//! appraised in full, and no release ever sent it.

use crate::codec::{CodecError, Reader, put};
use crate::runtime::MAX_RECORD;
use sha2::{Digest, Sha384};

const MAGIC: &[u8; 8] = b"CHRYEV02";
/// Of the version without a runtime record.
const MAGIC_1: &[u8; 8] = b"CHRYEV01";
/// Largest quote accepted; a TDX v4/v5 quote with its PCK chain is about 5 KiB, padded ones 8 KiB.
pub const MAX_QUOTE: usize = 32 * 1024;
/// Largest event log accepted; CCEL areas in the field are 64 to 256 KiB.
pub const MAX_EVENT_LOG: usize = 512 * 1024;
/// Largest static configuration accepted.
pub const MAX_STATIC_CONFIG: usize = 64 * 1024;

/// Which registers an event log speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// CC event log (UEFI CC measurement protocol): register indices are MRTD and RTMR0..3 (0, 1..4).
    Ccel,
    /// TCG2 crypto-agile TPM log: register indices are PCRs. Only a simulated platform has one behind its quote.
    Tpm,
}

/// An event log with the format of its register indices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog {
    /// How register indices are to be read.
    pub format: LogFormat,
    /// TCG PC Client Platform Firmware Profile, crypto-agile log.
    pub bytes: Vec<u8>,
}

/// Everything an Attester sends about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Raw TDX quote.
    pub quote: Vec<u8>,
    /// Event log of the boot.
    pub event_log: EventLog,
    /// Exact bytes of the static configuration; MRCONFIGID is their SHA-384.
    pub static_config: Vec<u8>,
    /// The guest's own events, which RTMR3 holds where the kernel can extend it; see [`crate::runtime::RuntimeRecord`].
    pub runtime: Vec<u8>,
}

impl Evidence {
    /// Encodes for the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        put(&mut out, &self.quote);
        let format: u32 = match self.event_log.format {
            LogFormat::Ccel => 1,
            LogFormat::Tpm => 2,
        };
        out.extend_from_slice(&format.to_be_bytes());
        put(&mut out, &self.event_log.bytes);
        put(&mut out, &self.static_config);
        put(&mut out, &self.runtime);
        out
    }

    /// Decodes bytes from a peer. What the parts hold is for the verifier to judge.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        if bytes.starts_with(MAGIC_1) {
            return Err(CodecError::Wrong {
                what: "evidence version",
                offset: 0,
                expected: "2 (CHRYEV02)".into(),
                found: "1 (CHRYEV01), which has no runtime record; start the guest from a newer image".into(),
            });
        }
        r.expect("evidence magic", MAGIC)?;
        let quote = r.field("quote", MAX_QUOTE)?.to_vec();
        let format = match r.u32("event log format")? {
            1 => LogFormat::Ccel,
            2 => LogFormat::Tpm,
            other => {
                return Err(CodecError::Wrong {
                    what: "event log format",
                    offset: MAGIC.len() + 4 + quote.len(),
                    expected: "1 (CCEL) or 2 (TPM)".into(),
                    found: other.to_string(),
                });
            }
        };
        let log = r.field("event log", MAX_EVENT_LOG)?.to_vec();
        let static_config = r.field("static configuration", MAX_STATIC_CONFIG)?.to_vec();
        let runtime = r.field("runtime record", MAX_RECORD)?.to_vec();
        r.finish()?;
        Ok(Evidence { quote, event_log: EventLog { format, bytes: log }, static_config, runtime })
    }
}

/// MRCONFIGID of a guest that is handed these static bytes: their SHA-384. No canonical form is needed, since the bytes
/// are what is handed over.
pub fn mrconfigid(static_config: &[u8]) -> [u8; 48] {
    Sha384::digest(static_config).into()
}

/// File beside the guest's programs that the debug profile's root alone holds: where it lies, a policy for a simulated
/// platform may be used. The builder refuses it in every other profile.
pub const SIMULATED_MARKER: &str = "SIMULATED";
/// virtio-blk serial of the simulated platform's disk; only the debug image profile looks for it.
pub const SIMULATOR_DISK_SERIAL: &str = "chrysalis-sim";
const SIMULATOR_MAGIC: &[u8; 8] = b"CHRYSI01";

/// What the launcher hands to the debug profile's simulated platform, standing in for the host side of TDX: the
/// platform's identity (opaque here) and the MRCONFIGID that a TDX host would set on the TD.
///
/// ```text
/// "CHRYSI01" | field platform identity | field MRCONFIGID (48 bytes) | zeros to a multiple of 512
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedPlatform {
    /// Opaque to everybody but the simulator.
    pub identity: Vec<u8>,
    /// As the launcher would give it to QEMU's `tdx-guest` object.
    pub mrconfigid: [u8; 48],
}

impl SimulatedPlatform {
    /// The bytes of the disk, a multiple of 512.
    pub fn to_disk(&self) -> Vec<u8> {
        let mut out = SIMULATOR_MAGIC.to_vec();
        put(&mut out, &self.identity);
        put(&mut out, &self.mrconfigid);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }

    /// Reads the front of a disk; padding is ignored.
    pub fn from_disk(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        r.expect("simulated platform magic", SIMULATOR_MAGIC)?;
        let identity = r.field("platform identity", 64 * 1024)?.to_vec();
        r.expect("MRCONFIGID length", &48u32.to_be_bytes())?;
        let mut mrconfigid = [0; 48];
        mrconfigid.copy_from_slice(r.take("MRCONFIGID", 48)?);
        Ok(SimulatedPlatform { identity, mrconfigid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Evidence {
        Evidence {
            quote: vec![1; 5006],
            event_log: EventLog { format: LogFormat::Tpm, bytes: vec![2; 9000] },
            static_config: b"schema = 1\n".to_vec(),
            runtime: vec![3; 281],
        }
    }

    #[test]
    fn evidence_survives_the_wire() {
        assert_eq!(Evidence::from_bytes(&sample().to_bytes()).unwrap(), sample());
    }

    #[test]
    fn evidence_cut_anywhere_is_refused() {
        let bytes = sample().to_bytes();
        for end in 0..bytes.len() {
            assert!(Evidence::from_bytes(&bytes[..end]).is_err(), "accepted {end} of {} bytes", bytes.len());
        }
    }

    #[test]
    fn evidence_of_version_1_is_refused_by_its_name() {
        let mut bytes = sample().to_bytes();
        bytes[..8].copy_from_slice(MAGIC_1);
        let text = Evidence::from_bytes(&bytes).unwrap_err().to_string();
        assert!(text.contains("evidence version") && text.contains("CHRYEV01"), "{text}");
    }

    #[test]
    fn a_lying_length_is_refused_without_allocating_it() {
        let mut bytes = sample().to_bytes();
        bytes[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(Evidence::from_bytes(&bytes), Err(CodecError::TooLong { what: "quote", .. })));
    }

    #[test]
    fn a_simulated_platform_survives_the_disk() {
        let platform = SimulatedPlatform { identity: vec![5; 700], mrconfigid: [6; 48] };
        assert_eq!(SimulatedPlatform::from_disk(&platform.to_disk()).unwrap(), platform);
    }

    #[test]
    fn one_changed_byte_changes_mrconfigid() {
        assert_ne!(mrconfigid(b"schema = 1"), mrconfigid(b"schema = 1 "));
    }

    proptest! {
        #[test]
        fn hostile_evidence_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Evidence::from_bytes(&bytes);
            let _ = SimulatedPlatform::from_disk(&[SIMULATOR_MAGIC.as_slice(), &bytes].concat());
            let mut framed = MAGIC.to_vec();
            framed.extend(bytes);
            if let Ok(e) = Evidence::from_bytes(&framed) {
                prop_assert_eq!(e.to_bytes(), framed);
            }
        }
    }
}
