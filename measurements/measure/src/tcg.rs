//! Firmware event logs in the crypto-agile format (TCG PC Client Platform Firmware Profile 1.06, section 10).
//!
//! ```text
//! legacy header event { pcr, type EV_NO_ACTION, SHA-1 zeros, "Spec ID Event03", algorithms and their digest sizes }
//! event { index u32, type u32, count u32, count x { algorithm u16, digest }, size u32, data }   repeated
//! ```
//! The same format carries a TPM's log (`index` is a PCR) and a confidential guest's CCEL (`index` is an MR: 0 is
//! MRTD, 1 to 4 are RTMR0 to 3). A CCEL is a fixed area: after the last event it is filled with 0xff or zeros. Anything
//! else behind the last event is refused, with its offset: bytes that are neither event nor filling explain nothing.
//!
//! The bytes come from whoever sent the evidence. Nothing is allocated but one entry an event, and an event takes at
//! least 16 bytes of input; parsing and replay look at each byte a fixed number of times.

mod decode;
mod describe;
mod device_path;
mod header;
mod kind;

use crate::error::{Input, MeasureError, View};
use crate::register::{Digest384, Register, Registers, pcr_to_register};
use describe::{ascii, guid, text, utf16};
use sha2::{Digest, Sha256, Sha384, Sha512};
use std::collections::BTreeMap;

pub use decode::{Decoded, decode};
pub use describe::{Described, describe, event_type_name};

/// EV_NO_ACTION: informative, never extended.
pub const EV_NO_ACTION: u32 = 3;
/// EV_SEPARATOR.
pub const EV_SEPARATOR: u32 = 4;
/// EV_ACTION-like tagged event of an OS loader (EV_EVENT_TAG).
pub const EV_EVENT_TAG: u32 = 6;
/// EV_S_CRTM_VERSION.
pub const EV_S_CRTM_VERSION: u32 = 8;
/// EV_PLATFORM_CONFIG_FLAGS.
pub const EV_PLATFORM_CONFIG_FLAGS: u32 = 0xa;
/// EV_IPL: systemd-stub's name and data events.
pub const EV_IPL: u32 = 0xd;
/// EV_EFI_VARIABLE_DRIVER_CONFIG: Secure Boot variables.
pub const EV_EFI_VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
/// EV_EFI_VARIABLE_BOOT.
pub const EV_EFI_VARIABLE_BOOT: u32 = 0x8000_0002;
/// EV_EFI_BOOT_SERVICES_APPLICATION: a loaded PE image.
pub const EV_EFI_BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
/// EV_EFI_BOOT_SERVICES_DRIVER: a loaded PE image.
pub const EV_EFI_BOOT_SERVICES_DRIVER: u32 = 0x8000_0004;
/// EV_EFI_RUNTIME_SERVICES_DRIVER: a loaded PE image.
pub const EV_EFI_RUNTIME_SERVICES_DRIVER: u32 = 0x8000_0005;
/// EV_EFI_GPT_EVENT.
pub const EV_EFI_GPT_EVENT: u32 = 0x8000_0006;
/// EV_EFI_ACTION: a string.
pub const EV_EFI_ACTION: u32 = 0x8000_0007;
/// EV_EFI_PLATFORM_FIRMWARE_BLOB.
pub const EV_EFI_PLATFORM_FIRMWARE_BLOB: u32 = 0x8000_0008;

/// EV_EFI_PLATFORM_FIRMWARE_BLOB2.
pub const EV_EFI_PLATFORM_FIRMWARE_BLOB2: u32 = 0x8000_000a;
/// EV_EFI_HANDOFF_TABLES2.
pub const EV_EFI_HANDOFF_TABLES2: u32 = 0x8000_000b;
/// EV_EFI_VARIABLE_BOOT2.
pub const EV_EFI_VARIABLE_BOOT2: u32 = 0x8000_000c;
/// EV_EFI_VARIABLE_AUTHORITY: what a Secure Boot signature was checked with.
pub const EV_EFI_VARIABLE_AUTHORITY: u32 = 0x8000_00e0;

/// Index, type, digest count and data size.
const MIN_EVENT: usize = 16;
const SPEC_ID: &[u8; 16] = b"Spec ID Event03\0";

/// A digest algorithm by its TPM identifier (TCG Algorithm Registry).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bank {
    /// TPM_ALG_SHA256.
    Sha256,
    /// TPM_ALG_SHA384.
    Sha384,
    /// TPM_ALG_SHA512.
    Sha512,
}

impl Bank {
    /// Every bank that can be replayed, the one of RTMRs first.
    pub const ALL: [Bank; 3] = [Bank::Sha384, Bank::Sha256, Bank::Sha512];

    /// `sha256`, `sha384` or `sha512`.
    pub fn name(self) -> &'static str {
        match self {
            Bank::Sha256 => "sha256",
            Bank::Sha384 => "sha384",
            Bank::Sha512 => "sha512",
        }
    }

    fn id(self) -> u16 {
        match self {
            Bank::Sha256 => 0x0b,
            Bank::Sha384 => 0x0c,
            Bank::Sha512 => 0x0d,
        }
    }

    fn size(self) -> usize {
        match self {
            Bank::Sha256 => 32,
            Bank::Sha384 => 48,
            Bank::Sha512 => 64,
        }
    }

    fn hash(self, parts: [&[u8]; 2]) -> Vec<u8> {
        let [a, b] = parts;
        match self {
            Bank::Sha256 => Sha256::new().chain_update(a).chain_update(b).finalize().to_vec(),
            Bank::Sha384 => Sha384::new().chain_update(a).chain_update(b).finalize().to_vec(),
            Bank::Sha512 => Sha512::new().chain_update(a).chain_update(b).finalize().to_vec(),
        }
    }
}

/// Name of a digest algorithm (TCG Algorithm Registry, table 3), `0x....` for those that no log in the field has.
pub fn algorithm_name(id: u16) -> String {
    match id {
        0x04 => "sha1".into(),
        0x0b => "sha256".into(),
        0x0c => "sha384".into(),
        0x0d => "sha512".into(),
        0x12 => "sm3_256".into(),
        0x27 => "sha3_256".into(),
        0x28 => "sha3_384".into(),
        0x29 => "sha3_512".into(),
        other => format!("{other:#06x}"),
    }
}

/// One event, borrowed from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEvent<'a> {
    /// Byte offset of the event in the log.
    pub offset: usize,
    /// PCR of a TPM log, MR index of a CCEL.
    pub index: u32,
    /// TCG event type.
    pub event_type: u32,
    /// Digests in log order: algorithm identifier and value.
    pub digests: Vec<(u16, &'a [u8])>,
    /// Event data; often *not* what was hashed.
    pub data: &'a [u8],
}

impl<'a> LogEvent<'a> {
    /// The digest of one bank.
    pub fn digest(&self, bank: Bank) -> Option<&'a [u8]> {
        let found = self.digests.iter().find(|(id, _)| *id == bank.id())?;
        (found.1.len() == bank.size()).then_some(found.1)
    }

    /// The SHA-384 digest, if the log has that bank.
    pub fn sha384(&self) -> Option<Digest384> {
        self.digest(Bank::Sha384).and_then(|d| d.try_into().ok()).map(Digest384)
    }

    /// Whether the digests are those of the data as it stands in the log, in every bank that can be hashed here; `None`
    /// if there is none.
    pub fn data_is_hashed(&self) -> Option<bool> {
        let banks = Bank::ALL.into_iter().filter_map(|bank| Some((bank, self.digest(bank)?)));
        banks.map(|(bank, digest)| bank.hash([self.data, &[]]) == digest).reduce(|a, b| a && b)
    }
}

/// A parsed log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog<'a> {
    /// Algorithm identifier and digest size, as the header declares them.
    pub algorithms: Vec<(u16, u16)>,
    /// Events after the header, in log order.
    pub events: Vec<LogEvent<'a>>,
}

impl<'a> EventLog<'a> {
    /// Parses a whole log; filling (0xff or zeros to the end) may follow the last event.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, MeasureError> {
        let view = View::new(Input::Log, bytes);
        let (algorithms, mut offset) = header::parse(&view)?;
        let mut events = Vec::new();
        let filling = Filling::of(bytes);
        while offset < bytes.len() && !filling.starts_at(offset) {
            let (event, next) = parse_event(&view, offset, &algorithms)?;
            events.push(event);
            offset = next;
        }
        Ok(EventLog { algorithms, events })
    }

    /// The banks that the header declares, of those that can be replayed; SHA-384 first.
    pub fn banks(&self) -> Vec<Bank> {
        Bank::ALL.into_iter().filter(|bank| self.algorithms.iter().any(|(id, _)| *id == bank.id())).collect()
    }

    /// Replays one index in one bank: zeros, extended by each event's digest in log order.
    ///
    /// A StartupLocality event (PFP 10.4.5.3) sets the first value of PCR 0.
    pub fn replay(&self, bank: Bank, index: u32) -> Result<Vec<u8>, MeasureError> {
        let replayed = replay(bank, self.events.iter().filter(|e| e.index == index))?;
        Ok(replayed.into_values().next().unwrap_or_else(|| vec![0; bank.size()]))
    }

    /// Replays every index that has events, in one bank.
    pub fn replay_all(&self, bank: Bank) -> Result<BTreeMap<u32, Vec<u8>>, MeasureError> {
        replay(bank, self.events.iter())
    }

    /// The RTMRs that a CCEL replays to.
    pub fn ccel_rtmrs(&self) -> Result<[Digest384; 4], MeasureError> {
        let mut rtmrs = Registers::ZERO;
        for event in self.events.iter().filter(|e| e.event_type != EV_NO_ACTION) {
            let register = Register::from_cc_index(event.index)
                .ok_or_else(|| at(event, format!("MR index {} is none of 0 to 4", event.index)))?;
            let digest = event.sha384().ok_or_else(|| lacks(event, Bank::Sha384))?;
            rtmrs.get_mut(register).extend(&digest);
        }
        Ok(rtmrs.rtmr)
    }
}

fn replay<'a, 'b: 'a>(
    bank: Bank,
    events: impl Iterator<Item = &'a LogEvent<'b>>,
) -> Result<BTreeMap<u32, Vec<u8>>, MeasureError> {
    let mut values = BTreeMap::new();
    for event in events {
        let value = values.entry(event.index).or_insert_with(|| vec![0; bank.size()]);
        if event.event_type == EV_NO_ACTION {
            if let (0, Some(locality)) = (event.index, startup_locality(event.data)) {
                value.fill(0);
                value[bank.size() - 1] = locality;
            }
            continue;
        }
        let digest = event.digest(bank).ok_or_else(|| lacks(event, bank))?;
        *value = bank.hash([value, digest]);
    }
    Ok(values)
}

/// The registers of the emulated platform: its TPM log's SHA-384 digests, folded in log order into the register that
/// each PCR stands in for ([`pcr_to_register`]). RTMR3 stays zero; EV_NO_ACTION is not folded.
pub fn emulated_registers(log: &EventLog<'_>) -> Result<Registers, MeasureError> {
    let mut registers = Registers::ZERO;
    for event in log.events.iter().filter(|e| e.event_type != EV_NO_ACTION) {
        let register = pcr_to_register(event.index).ok_or_else(|| {
            at(event, format!("PCR {} stands in for no register (0 to 15 do)", event.index))
        })?;
        let digest = event.sha384().ok_or_else(|| lacks(event, Bank::Sha384))?;
        registers.get_mut(register).extend(&digest);
    }
    Ok(registers)
}

fn at(event: &LogEvent<'_>, fault: String) -> MeasureError {
    MeasureError::Malformed { input: Input::Log, offset: event.offset, fault }
}

fn lacks(event: &LogEvent<'_>, bank: Bank) -> MeasureError {
    at(event, format!("the event has no {bank:?} digest; start the TPM with that bank active"))
}

/// What a fixed area holds behind its last event.
struct Filling {
    /// From here on there is nothing but 0xff, or nothing but zeros.
    ones: usize,
    zeros: usize,
    end: usize,
}

impl Filling {
    fn of(bytes: &[u8]) -> Self {
        let from = |fill: u8| bytes.iter().rposition(|b| *b != fill).map_or(0, |last| last + 1);
        Filling { ones: from(0xff), zeros: from(0), end: bytes.len() }
    }

    /// Fewer zeros than the smallest event may be the front of a cut event of index 0, so they aren't filling.
    fn starts_at(&self, offset: usize) -> bool {
        offset >= self.ones || (offset >= self.zeros && self.end - offset >= MIN_EVENT)
    }
}

fn startup_locality(data: &[u8]) -> Option<u8> {
    data.strip_prefix(b"StartupLocality\0")?.first().copied()
}

fn parse_event<'a>(
    view: &View<'a>,
    offset: usize,
    algorithms: &[(u16, u16)],
) -> Result<(LogEvent<'a>, usize), MeasureError> {
    let index = view.u32(offset, "event index")?;
    let event_type = view.u32(offset + 4, "event type")?;
    let count = view.u32(offset + 8, "digest count")?;
    if count as usize > algorithms.len() {
        let most = algorithms.len();
        return Err(
            view.fault(offset + 8, format!("{count} digests, but the header declares {most} algorithms"))
        );
    }
    let mut cursor = offset + 12;
    let mut digests = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let id = view.u16(cursor, "digest algorithm")?;
        let size = algorithms.iter().find(|(known, _)| *known == id).map(|(_, size)| usize::from(*size));
        let size =
            size.ok_or_else(|| view.fault(cursor, format!("algorithm {id:#06x} isn't in the header")))?;
        if digests.iter().any(|(other, _)| *other == id) {
            return Err(view.fault(cursor, format!("a second digest of algorithm {id:#06x}, expected one")));
        }
        digests.push((id, view.slice(cursor + 2, size, "digest")?));
        cursor += 2 + size;
    }
    let size = view.u32(cursor, "event size")? as usize;
    let data = view.slice(cursor + 4, size, "event data")?;
    Ok((LogEvent { offset, index, event_type, digests, data }, cursor + 4 + size))
}

#[cfg(test)]
mod mutated;
#[cfg(any(test, feature = "samples"))]
pub(crate) mod samples;

#[cfg(test)]
mod tests {
    use super::samples::log as sample_log;
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        sample_log(&[
            (0, EV_S_CRTM_VERSION, b"v"),
            (7, EV_SEPARATOR, &[0; 4]),
            (4, EV_EFI_ACTION, b"Calling"),
        ])
    }

    #[test]
    fn replay_folds_the_digests_of_one_index() {
        let bytes = sample();
        let log = EventLog::parse(&bytes).unwrap();
        let mut expected = Digest384::ZERO;
        expected.extend(&Digest384::of(&[0; 4]));
        assert_eq!(log.replay(Bank::Sha384, 7).unwrap(), expected.0);
        assert_eq!(log.replay(Bank::Sha384, 1).unwrap(), [0; 48]);
        assert!(log.replay(Bank::Sha512, 7).unwrap_err().to_string().contains("no Sha512 digest"));
    }

    #[test]
    fn emulated_registers_fold_pcr_1_and_7_in_log_order() {
        let bytes = sample_log(&[(7, EV_SEPARATOR, b"a"), (1, EV_SEPARATOR, b"b"), (7, EV_NO_ACTION, b"c")]);
        let registers = emulated_registers(&EventLog::parse(&bytes).unwrap()).unwrap();
        let mut expected = Digest384::ZERO;
        expected.extend(&Digest384::of(b"a"));
        expected.extend(&Digest384::of(b"b"));
        assert_eq!(
            registers,
            Registers {
                rtmr: [expected, Digest384::ZERO, Digest384::ZERO, Digest384::ZERO],
                ..Registers::ZERO
            }
        );
    }

    #[test]
    fn an_event_of_a_pcr_without_register_is_refused() {
        let bytes = sample_log(&[(17, EV_SEPARATOR, b"a")]);
        let error = emulated_registers(&EventLog::parse(&bytes).unwrap()).unwrap_err();
        assert!(error.to_string().contains("PCR 17"), "{error}");
    }

    #[test]
    fn startup_locality_sets_the_first_value_of_pcr_0() {
        let bytes = sample_log(&[(0, EV_NO_ACTION, b"StartupLocality\0\x03")]);
        let value = EventLog::parse(&bytes).unwrap().replay(Bank::Sha256, 0).unwrap();
        assert_eq!((value[31], value[0]), (3, 0));
    }

    #[test]
    fn filling_after_the_last_event_is_skipped_and_garbage_is_not() {
        for fill in [0, 0xff] {
            let mut bytes = sample();
            bytes.extend([fill; 64]);
            assert_eq!(EventLog::parse(&bytes).unwrap().events.len(), 3);
            *bytes.last_mut().unwrap() ^= 1;
            assert!(EventLog::parse(&bytes).is_err());
        }
    }

    #[test]
    fn a_log_cut_inside_an_event_is_refused_with_its_offset() {
        let bytes = sample();
        let whole = EventLog::parse(&bytes).unwrap();
        let boundaries: Vec<_> = whole.events.iter().map(|e| e.offset).collect();
        for end in 0..bytes.len() {
            let cut = EventLog::parse(&bytes[..end]);
            assert_eq!(cut.is_ok(), boundaries.contains(&end), "cut at {end}");
        }
    }

    #[test]
    fn a_legacy_sha1_log_is_refused() {
        let mut bytes = sample();
        bytes[32..47].copy_from_slice(b"Spec ID Event02");
        assert!(EventLog::parse(&bytes).unwrap_err().to_string().contains("crypto-agile"));
    }

    proptest! {
        #[test]
        fn a_mutated_log_never_panics(at in 0usize..600, value: u8, cut in 0usize..600) {
            let mut bytes = sample();
            let len = bytes.len();
            bytes[at % len] = value;
            let parts = [bytes.as_slice(), &bytes[..cut % len]];
            for log in parts.iter().filter_map(|b| EventLog::parse(b).ok()) {
                let _ = emulated_registers(&log);
                let _ = log.ccel_rtmrs();
                for event in &log.events {
                    let _ = describe(event).to_string();
                }
            }
        }
    }
}
