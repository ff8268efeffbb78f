//! NVIDIA's opaque data in an attestation report: type, length, value.
//!
//! ```text
//! until version 1:   (type u16, length u16, value)*
//! since version 2:   "NVDAOD", profile u16, major u8, minor u8, 2 bytes, then (type u16, value type u16, length u16, value)*
//! ```
//! Types as in NVIDIA's nv-local-gpu-verifier 2.7.3 (`attestation/spdm_msrt_resp_msg.py`) and NVIDIA/attestation-sdk
//! (`gpu_opaque_data_parser.hpp`, `switch_opaque_data_parser.hpp`); 22 to 27 mean other things on a GPU and on an NVSwitch.
//! The form with the header, and everything of switches, is written from that source: no report of hardware had it yet.

use super::error::{Fields, GpuError};
use crate::Hex;
use serde::Serialize;
use std::collections::BTreeSet;

const INPUT: &str = "GPU report";
const MAGIC: &[u8; 6] = b"NVDAOD";
/// The newest version whose fields are known.
const NEWEST: u64 = 2;
const MAX_TEXT: usize = 64;
/// A switch names the GPUs behind its ports by so many entries, then the ports.
const GPUS_OF_A_SWITCH: usize = 8;

/// What a report is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A GPU.
    Gpu,
    /// An NVSwitch.
    Switch,
}

/// A switch of hardware that is written as 0xAA or 0x55.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Toggle {
    /// 0xAA.
    On,
    /// 0x55.
    Off,
    /// Anything else.
    Unknown(u8),
}

impl From<u8> for Toggle {
    fn from(byte: u8) -> Self {
        match byte {
            0xaa => Toggle::On,
            0x55 => Toggle::Off,
            other => Toggle::Unknown(other),
        }
    }
}

/// How a GPU in confidential computing is passed to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Single-GPU passthrough.
    Spt,
    /// Multi-GPU passthrough with encrypted NVLink (Blackwell).
    Mpt,
    /// Protected PCIe: NVLink in the clear, NVSwitches inside the trust boundary (Hopper, eight GPUs).
    Ppcie,
    /// A value that no source names.
    #[serde(skip_deserializing)]
    Unknown(u64),
}

impl Mode {
    fn of(value: u64) -> Self {
        match value {
            0 => Mode::Spt,
            1 => Mode::Mpt,
            2 => Mode::Ppcie,
            other => Mode::Unknown(other),
        }
    }

    /// In words.
    pub fn words(self) -> String {
        match self {
            Mode::Spt => "single-GPU passthrough (SPT)".into(),
            Mode::Mpt => "multi-GPU passthrough (MPT)".into(),
            Mode::Ppcie => "protected PCIe (PPCIE)".into(),
            Mode::Unknown(value) => format!("unknown mode {value}"),
        }
    }
}

/// NVIDIA's fields, typed. A field that the report does not have is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Opaque {
    /// Version of the data: 0 where it does not say.
    pub version: u64,
    /// Whether it has the header of version 2.
    pub header: bool,
    /// Driver, as in `550.90.07`.
    pub driver_version: Option<String>,
    /// VBIOS, as in `96.00.5E.00.01`.
    pub vbios_version: Option<String>,
    /// Board.
    pub board_id: Option<u32>,
    /// Chip SKU.
    pub chip_sku: Option<String>,
    /// Its modification.
    pub chip_sku_mod: Option<String>,
    /// Board project.
    pub project: Option<String>,
    /// Board project's SKU.
    pub project_sku: Option<String>,
    /// Its modification.
    pub project_sku_mod: Option<String>,
    /// Name of the chip.
    pub chip_info: Option<String>,
    /// GPU information, not described by any source.
    pub gpu_info: Option<u64>,
    /// CPR information, not described by any source.
    pub cpr_info: Option<u32>,
    /// First video decoder; while it is off, measurement 35 of a RIM has no meaning.
    pub nvdec0: Option<Toggle>,
    /// How often each measurement was extended.
    pub measurement_counts: Vec<u32>,
    /// Identity of the firmware that signed, SHA-384.
    pub fwid: Option<Hex<48>>,
    /// Protected PCIe.
    pub protected_pcie: Option<Toggle>,
    /// Mode, since version 1.
    pub mode: Option<Mode>,
    /// Of a GPU: the NVSwitch at the end of each NVLink.
    pub switch_pdis: Vec<Hex<8>>,
    /// Of a switch: its own identity.
    pub device_pdi: Option<Hex<8>>,
    /// Of a switch: the GPUs behind it.
    pub gpu_pdis: Vec<Hex<8>>,
    /// Of a switch: to which of them each port leads.
    pub ports: Option<String>,
    /// Of a switch: ports that are off, a bit each, hex.
    pub disabled_ports: Option<String>,
    /// Of a switch: its place on the board, hex.
    pub position_id: Option<String>,
    /// Of a switch: whether its registers are locked.
    pub lock_status: Option<Toggle>,
    /// Fields that are not interpreted: type and value, hex.
    pub other: Vec<(u16, String)>,
}

impl Opaque {
    /// Reads the data; `offset` is where it starts in the report.
    pub fn parse(bytes: &[u8], offset: usize, kind: DeviceKind) -> Result<Self, GpuError> {
        let mut fields = Fields::new(INPUT, bytes, offset);
        let mut out = Opaque::default();
        if bytes.starts_with(MAGIC) {
            out.header = true;
            out.version = header(&mut fields)?;
        }
        let mut seen = BTreeSet::new();
        while !fields.is_empty() {
            let at = fields.offset();
            let id = fields.u16("opaque data: type")?;
            if out.header {
                fields.u16("opaque data: value type")?;
            }
            let len = usize::from(fields.u16("opaque data: length")?);
            let start = fields.offset();
            let value = Value { id, at: start, bytes: fields.take("opaque data: value", len)? };
            if !seen.insert(id) {
                return Err(GpuError::wrong(
                    INPUT,
                    "opaque data: type",
                    at,
                    "each type once",
                    id.to_string(),
                ));
            }
            out.set(&value, kind)?;
        }
        if out.version > NEWEST {
            let (expected, found) = (format!("at most {NEWEST}"), out.version.to_string());
            return Err(GpuError::wrong(INPUT, "opaque data: version", offset, expected, found));
        }
        Ok(out)
    }

    fn set(&mut self, value: &Value<'_>, kind: DeviceKind) -> Result<(), GpuError> {
        match (value.id, kind) {
            (3, _) => self.driver_version = Some(value.text()?),
            (4, _) => self.gpu_info = Some(value.number()?),
            (6, DeviceKind::Gpu) => self.vbios_version = Some(value.vbios()?),
            (6, DeviceKind::Switch) => self.vbios_version = Some(value.text()?),
            (11, _) => self.nvdec0 = Some(value.array::<1>()?[0].into()),
            (12, _) => self.measurement_counts = value.list().map(u32::from_le_bytes)?,
            (13, _) => self.cpr_info = Some(u32::from_le_bytes(value.array()?)),
            (14, _) => self.board_id = Some(u32::from_le_bytes(value.array()?)),
            (15, _) => self.chip_sku = Some(value.text()?),
            (16, _) => self.chip_sku_mod = Some(value.text()?),
            (17, _) => self.project = Some(value.text()?),
            (18, _) => self.project_sku = Some(value.text()?),
            (19, _) => self.project_sku_mod = Some(value.text()?),
            (20, _) => self.fwid = Some(Hex(value.array()?)),
            (21, _) => self.protected_pcie = Some(value.array::<1>()?[0].into()),
            (22, DeviceKind::Gpu) => self.switch_pdis = value.list().map(Hex)?,
            (22..=27, DeviceKind::Switch) => self.set_switch(value)?,
            (34, _) if !self.header => self.version = value.number()?,
            (35, _) => self.chip_info = Some(value.text()?),
            (36, _) => self.mode = Some(Mode::of(value.number()?)),
            (id, _) => self.other.push((id, hex::encode(value.bytes))),
        }
        Ok(())
    }

    fn set_switch(&mut self, value: &Value<'_>) -> Result<(), GpuError> {
        match value.id {
            22 => self.device_pdi = Some(Hex(value.array()?)),
            23 => self.disabled_ports = Some(hex::encode(value.bytes)),
            24 => self.position_id = Some(hex::encode(value.bytes)),
            25 => self.lock_status = Some(value.array::<1>()?[0].into()),
            26 => {
                let mut fields = Fields::new(INPUT, value.bytes, value.at);
                for _ in 0..GPUS_OF_A_SWITCH {
                    self.gpu_pdis.push(Hex(fields.array("opaque data: GPUs of a switch")?));
                }
                let rest = &value.bytes[GPUS_OF_A_SWITCH * 8..];
                self.ports = (!rest.is_empty()).then(|| hex::encode(rest));
            }
            _ => self.ports = Some(hex::encode(value.bytes)),
        }
        Ok(())
    }
}

/// Major version of the form with a header.
fn header(fields: &mut Fields<'_>) -> Result<u64, GpuError> {
    fields.take("opaque data: magic", MAGIC.len())?;
    let at = fields.offset();
    let profile = fields.u16("opaque data: profile")?;
    if profile != 0 {
        return Err(GpuError::wrong(INPUT, "opaque data: profile", at, "0", profile.to_string()));
    }
    let major = fields.u8("opaque data: major version")?;
    fields.take("opaque data: minor version and padding", 3)?;
    Ok(u64::from(major))
}

/// One field.
struct Value<'a> {
    id: u16,
    at: usize,
    bytes: &'a [u8],
}

impl Value<'_> {
    fn wrong(&self, expected: impl Into<String>) -> GpuError {
        let found =
            format!("{} bytes, {}", self.bytes.len(), hex::encode(&self.bytes[..self.bytes.len().min(16)]));
        let expected = format!("{} for type {}", expected.into(), self.id);
        GpuError::wrong(INPUT, "opaque data: value", self.at, expected, found)
    }

    fn array<const N: usize>(&self) -> Result<[u8; N], GpuError> {
        self.bytes.try_into().map_err(|_| self.wrong(format!("{N} bytes")))
    }

    /// Elements of `N` bytes each.
    fn list<const N: usize>(&self) -> List<N> {
        if !self.bytes.len().is_multiple_of(N) {
            return List(Err(self.wrong(format!("a multiple of {N} bytes"))));
        }
        let (chunks, _) = self.bytes.as_chunks();
        List(Ok(chunks.to_vec()))
    }

    /// A little-endian number of at most eight bytes.
    fn number(&self) -> Result<u64, GpuError> {
        let mut out = [0; 8];
        match out.get_mut(..self.bytes.len()) {
            Some(head) if !head.is_empty() => head.copy_from_slice(self.bytes),
            _ => return Err(self.wrong("1 to 8 bytes")),
        }
        Ok(u64::from_le_bytes(out))
    }

    /// Printable ASCII up to the first zero; nothing but zeros behind it.
    fn text(&self) -> Result<String, GpuError> {
        let end = self.bytes.iter().position(|b| *b == 0).unwrap_or(self.bytes.len());
        let (text, padding) = self.bytes.split_at(end);
        let plain = text.iter().all(|b| b.is_ascii_graphic() || *b == b' ') && text.len() <= MAX_TEXT;
        match std::str::from_utf8(text) {
            Ok(text) if plain && padding.iter().all(|b| *b == 0) => Ok(text.to_owned()),
            _ => Err(self.wrong("ASCII text, then zeros")),
        }
    }

    /// Two little-endian words: `00 5e 00 96 01 00 00 00` is `96.00.5E.00.01`.
    fn vbios(&self) -> Result<String, GpuError> {
        let [a, b, c, d, e, ..] = self.array::<8>()?;
        Ok(format!("{d:02X}.{c:02X}.{b:02X}.{a:02X}.{e:02X}"))
    }
}

struct List<const N: usize>(Result<Vec<[u8; N]>, GpuError>);

impl<const N: usize> List<N> {
    fn map<T>(self, f: impl Fn([u8; N]) -> T) -> Result<Vec<T>, GpuError> {
        Ok(self.0?.into_iter().map(f).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(id: u16, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(value.len()).unwrap();
        [&id.to_le_bytes()[..], &len.to_le_bytes(), value].concat()
    }

    #[test]
    fn a_vbios_version_is_two_words() {
        let data = field(6, &[0x00, 0xa5, 0x00, 0x96, 0x01, 0, 0, 0]);
        let opaque = Opaque::parse(&data, 0, DeviceKind::Gpu).unwrap();
        assert_eq!(opaque.vbios_version.as_deref(), Some("96.00.A5.00.01"));
    }

    #[test]
    fn a_type_that_stands_twice_is_refused_where_it_stands() {
        let data = [field(14, &[1, 0, 0, 0]), field(14, &[2, 0, 0, 0])].concat();
        let error = Opaque::parse(&data, 100, DeviceKind::Gpu).unwrap_err();
        assert!(error.to_string().contains("offset 108: expected each type once, found 14"), "{error}");
    }

    #[test]
    fn the_form_with_a_header_is_read() {
        let mut data = b"NVDAOD\0\0\x02\0\0\0".to_vec();
        data.extend([36, 0, 0x87, 0, 2, 0, 1, 0]);
        let opaque = Opaque::parse(&data, 0, DeviceKind::Gpu).unwrap();
        assert_eq!((opaque.version, opaque.header, opaque.mode), (2, true, Some(Mode::Mpt)));
        data[8] = 3;
        let error = Opaque::parse(&data, 0, DeviceKind::Gpu).unwrap_err();
        assert!(error.to_string().contains("at most 2, found 3"), "{error}");
    }

    #[test]
    fn text_with_control_characters_is_refused() {
        let error = Opaque::parse(&field(3, b"550\x1b[2J"), 0, DeviceKind::Gpu).unwrap_err();
        assert!(error.to_string().contains("ASCII text"), "{error}");
    }

    #[test]
    fn the_same_type_means_another_thing_on_a_switch() {
        let data = field(22, &[7; 8]);
        let gpu = Opaque::parse(&data, 0, DeviceKind::Gpu).unwrap();
        let switch = Opaque::parse(&data, 0, DeviceKind::Switch).unwrap();
        assert_eq!((gpu.switch_pdis, gpu.device_pdi), (vec![Hex([7; 8])], None));
        assert_eq!((switch.switch_pdis, switch.device_pdi), (vec![], Some(Hex([7; 8]))));
    }
}
