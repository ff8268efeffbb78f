//! The attestation report of an NVIDIA GPU or NVSwitch: one SPDM 1.1 exchange, as the device signed it.
//!
//! ```text
//! GET_MEASUREMENTS (37 bytes) | MEASUREMENTS: header, measurement record, nonce, opaque data | signature (96 bytes)
//! \------------------------------ what the signature is over ------------------------------/
//! ```
//! DMTF DSP0274 1.1.0, 10.11 (tables 28 to 32): the transcript is request and response up to the signature, here ECDSA P-384
//! with SHA-384, `r || s`. The opaque data is NVIDIA's own ([`super::Opaque`]).

use super::error::{Fields, GpuError};
use super::opaque::{DeviceKind, Opaque};
use crate::Hex;
use std::collections::BTreeMap;

/// Longer than any report (NVML hands over at most 8 KiB), in bytes.
pub const MAX_REPORT: usize = 64 * 1024;
/// Length of the request, with the nonce and the slot that it asks for.
const REQUEST_LEN: usize = 37;
const SIGNATURE_LEN: usize = 96;
const SPDM_1_1: u8 = 0x11;
const GET_MEASUREMENTS: u8 = 0xe0;
const MEASUREMENTS: u8 = 0x60;
/// Bit of the request's first parameter that asks for a signature.
const SIGNED: u8 = 1;
/// The request's second parameter: every measurement block.
const ALL_BLOCKS: u8 = 0xff;
/// Measurement specification of DMTF.
const DMTF: u8 = 1;
const INPUT: &str = "GPU report";

/// A report, read strictly; nothing is verified by reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What the verifier asked to be signed.
    pub nonce: Hex<32>,
    /// Certificate slot that was asked for.
    pub slot: u8,
    /// Measurements by their SPDM index, 1 to 254. A RIM counts from 0: its index is one less.
    pub measurements: BTreeMap<u8, Measurement>,
    /// The device's own random number.
    pub responder_nonce: Hex<32>,
    /// NVIDIA's own data.
    pub opaque: Opaque,
    /// `r || s`, big-endian.
    pub signature: Hex<SIGNATURE_LEN>,
    /// How many bytes from the front are signed.
    pub signed_len: usize,
}

/// One DMTF measurement block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measurement {
    /// DMTFSpecMeasurementValueType: bit 7 says that the value is raw and no digest, bits 6:0 what was measured.
    pub kind: u8,
    /// The digest, or the raw value.
    pub value: Vec<u8>,
}

impl Report {
    /// Reads the bytes of a report; what kind of device it is of is told by its certificates.
    pub fn parse(bytes: &[u8], kind: DeviceKind) -> Result<Self, GpuError> {
        GpuError::bound(INPUT, "bytes", MAX_REPORT, bytes.len())?;
        let mut fields = Fields::new(INPUT, bytes, 0);
        let (nonce, slot) = request(Fields::new(INPUT, fields.take("request", REQUEST_LEN)?, 0))?;
        let measurements = response(&mut fields)?;
        let responder_nonce = Hex(fields.array("responder nonce")?);
        let opaque_len = usize::from(fields.u16("opaque data length")?);
        let at = fields.offset();
        let opaque = Opaque::parse(fields.take("opaque data", opaque_len)?, at, kind)?;
        let signed_len = fields.offset();
        let signature = Hex(fields.array("signature")?);
        fields.finish("report")?;
        Ok(Report { nonce, slot, measurements, responder_nonce, opaque, signature, signed_len })
    }
}

fn request(mut fields: Fields<'_>) -> Result<(Hex<32>, u8), GpuError> {
    fields.exactly("request: SPDM version", SPDM_1_1)?;
    fields.exactly("request: code", GET_MEASUREMENTS)?;
    let offset = fields.offset();
    let attributes = fields.u8("request: attributes")?;
    if attributes & SIGNED == 0 {
        let found = format!("0x{attributes:02x}");
        return Err(GpuError::wrong(INPUT, "request: attributes", offset, "a signature asked for", found));
    }
    fields.exactly("request: measurement operation", ALL_BLOCKS)?;
    let nonce = Hex(fields.array("request: nonce")?);
    let slot = fields.u8("request: slot")?;
    fields.finish("request")?;
    Ok((nonce, slot))
}

/// Header and measurement record of the response.
fn response(fields: &mut Fields<'_>) -> Result<BTreeMap<u8, Measurement>, GpuError> {
    fields.exactly("response: SPDM version", SPDM_1_1)?;
    fields.exactly("response: code", MEASUREMENTS)?;
    // Number of indices and slot: the record and the certificates say the same.
    fields.take("response: parameters", 2)?;
    let at = fields.offset();
    let count = fields.u8("response: number of blocks")?;
    let record_len = fields.u24("response: measurement record length")?;
    let record_at = fields.offset();
    let record = fields.take("measurement record", record_len)?;
    let mut record = Fields::new(INPUT, record, record_at);
    let mut out = BTreeMap::new();
    for _ in 0..count {
        let offset = record.offset();
        let (index, measurement) = block(&mut record)?;
        if out.insert(index, measurement).is_some() || index == 0 || index == u8::MAX {
            let found = index.to_string();
            return Err(GpuError::wrong(INPUT, "measurement index", offset, "1 to 254, each once", found));
        }
    }
    record.finish("measurement record")?;
    if out.is_empty() {
        return Err(GpuError::wrong(INPUT, "response: number of blocks", at, "at least 1", "0"));
    }
    Ok(out)
}

fn block(record: &mut Fields<'_>) -> Result<(u8, Measurement), GpuError> {
    let index = record.u8("measurement: index")?;
    record.exactly("measurement: specification", DMTF)?;
    let len = usize::from(record.u16("measurement: length")?);
    let at = record.offset();
    let mut inner = Fields::new(INPUT, record.take("measurement", len)?, at);
    let kind = inner.u8("measurement: value type")?;
    let value_len = usize::from(inner.u16("measurement: value length")?);
    let value = inner.take("measurement: value", value_len)?.to_vec();
    inner.finish("measurement")?;
    Ok((index, Measurement { kind, value }))
}
