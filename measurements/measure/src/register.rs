//! Measurement registers and the digests they hold.
//!
//! A TD has five: MRTD (the initial memory, fixed at build time) and RTMR0-3 (extended at run time), each SHA-384
//! (Intel TDX module ABI, TDREPORT). An extend is `new = SHA384(old || digest)`, as for a TPM's PCR.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha384};
use std::fmt;

/// A measurement register of a TD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Register {
    /// Build-time measurement of the TD's initial memory.
    Mrtd,
    /// Firmware configuration: TD HOB, variables, ACPI, boot order.
    Rtmr0,
    /// Boot loader, kernel and partition table.
    Rtmr1,
    /// Kernel command line, initrd, UKI sections.
    Rtmr2,
    /// Left to the operating system.
    Rtmr3,
}

impl Register {
    /// All five, in order.
    pub const ALL: [Register; 5] =
        [Register::Mrtd, Register::Rtmr0, Register::Rtmr1, Register::Rtmr2, Register::Rtmr3];

    /// Index in a CC event log (UEFI CC measurement protocol: MR index 0 is MRTD, 1 to 4 are RTMR0 to 3).
    pub fn cc_index(self) -> u32 {
        self as u32
    }

    /// The register of a CC event log's index, if there is one.
    pub fn from_cc_index(index: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(index).ok()?).copied()
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"][*self as usize])
    }
}

/// The register that stands in for a TPM's PCR (UEFI 2.10 section 38.4.1, the CC protocol's own map for TDX).
///
/// `None` for PCRs above 15, which boot firmware doesn't extend.
pub fn pcr_to_register(pcr: u32) -> Option<Register> {
    match pcr {
        0 => Some(Register::Mrtd),
        1 | 7 => Some(Register::Rtmr0),
        2..=6 => Some(Register::Rtmr1),
        8..=15 => Some(Register::Rtmr2),
        _ => None,
    }
}

macro_rules! hex_digest {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl std::str::FromStr for $name {
            type Err = hex::FromHexError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut out = [0; $len];
                hex::decode_to_slice(text, &mut out)?;
                Ok($name(out))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.to_string())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(|e| {
                    serde::de::Error::custom(format!("expected {} hex digits: {e}", 2 * $len))
                })
            }
        }
    };
}

hex_digest!(
    /// A SHA-384 digest or the value of a register; hex in text and JSON.
    Digest384,
    48
);
hex_digest!(
    /// A SHA-256 digest; hex in text and JSON.
    Digest256,
    32
);

impl Digest384 {
    /// A register before its first extend.
    pub const ZERO: Digest384 = Digest384([0; 48]);

    /// SHA-384 of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Digest384(Sha384::digest(bytes).into())
    }

    /// Extends this register value by a digest.
    pub fn extend(&mut self, digest: &Digest384) {
        self.0 = Sha384::new().chain_update(self.0).chain_update(digest.0).finalize().into();
    }
}

impl Digest256 {
    /// SHA-256 of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Digest256(sha2::Sha256::digest(bytes).into())
    }
}

/// All measurement registers of a TD, compared as one tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Flat", into = "Flat")]
pub struct Registers {
    /// Build-time measurement.
    pub mrtd: Digest384,
    /// RTMR0 to RTMR3.
    pub rtmr: [Digest384; 4],
}

impl Registers {
    /// All zeros: nothing was extended yet.
    pub const ZERO: Registers = Registers { mrtd: Digest384::ZERO, rtmr: [Digest384::ZERO; 4] };

    /// The value of one register.
    pub fn get(&self, register: Register) -> Digest384 {
        match register {
            Register::Mrtd => self.mrtd,
            other => self.rtmr[other as usize - 1],
        }
    }

    /// The place of one register.
    pub fn get_mut(&mut self, register: Register) -> &mut Digest384 {
        match register {
            Register::Mrtd => &mut self.mrtd,
            other => &mut self.rtmr[other as usize - 1],
        }
    }
}

/// The JSON form: one field a register.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Flat {
    mrtd: Digest384,
    rtmr0: Digest384,
    rtmr1: Digest384,
    rtmr2: Digest384,
    rtmr3: Digest384,
}

impl From<Flat> for Registers {
    fn from(f: Flat) -> Self {
        Registers { mrtd: f.mrtd, rtmr: [f.rtmr0, f.rtmr1, f.rtmr2, f.rtmr3] }
    }
}

impl From<Registers> for Flat {
    fn from(r: Registers) -> Self {
        let [rtmr0, rtmr1, rtmr2, rtmr3] = r.rtmr;
        Flat { mrtd: r.mrtd, rtmr0, rtmr1, rtmr2, rtmr3 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_hex_in_json_and_come_back() {
        let mut registers = Registers::ZERO;
        registers.get_mut(Register::Rtmr2).extend(&Digest384::of(b"x"));
        let json = serde_json::to_string(&registers).unwrap();
        assert!(json.starts_with("{\"mrtd\":\"000000"), "{json}");
        assert_eq!(serde_json::from_str::<Registers>(&json).unwrap(), registers);
    }

    #[test]
    fn a_short_digest_is_refused() {
        assert!(serde_json::from_str::<Digest384>("\"00ff\"").is_err());
    }

    #[test]
    fn an_extend_is_the_hash_of_old_value_and_digest() {
        let mut value = Digest384::ZERO;
        value.extend(&Digest384([1; 48]));
        let mut both = vec![0; 48];
        both.extend([1; 48]);
        assert_eq!(value, Digest384::of(&both));
    }

    #[test]
    fn pcrs_map_to_registers_as_the_cc_protocol_says() {
        let map: Vec<_> = (0..17).map(|pcr| pcr_to_register(pcr).map(|r| r.cc_index())).collect();
        let expected = [0, 1, 2, 2, 2, 2, 2, 1, 3, 3, 3, 3, 3, 3, 3, 3].map(Some);
        assert_eq!(map[..16], expected);
        assert_eq!(map[16], None);
    }
}
