//! Quotes as bytes: our own strict view, beside the one that checks signatures.
//!
//! ```text
//! header 48 | [v5: body type u16, body size u32] | TD report body | length u32 | signature data | zeros
//! signature data: signature 64 | attestation key 64 | type 6 u16 | length u32 | QE report 384 | signature 64
//!                 | length u16 | QE authentication data | type u16 | length u32 | PCK certificates (PEM)
//! ```
//! Layout: Intel TDX DCAP Quoting Library API, appendix A.3 (version 4) and A.4 (version 5); all numbers little-endian.
//! The quoting library hands out zero-padded buffers, so zeros may follow the signature data; nothing else may, anywhere.

use crate::bytes::{Hex, Reader};
use crate::td::{TD10_LEN, TD15_EX_LEN, TD15_LEN, TdReport};
use measure::wire::MAX_QUOTE;

const TEE_TYPE_TDX: u32 = 0x81;
const KEY_TYPE_ECDSA_P256: u16 = 2;
const HEADER_LEN: usize = 48;
const CERTIFIED_BY_QE_REPORT: u16 = 6;
const PCK_CERT_CHAIN: u16 = 5;

/// Vendor of Intel's quoting enclave (appendix A.3.1, QE Vendor ID).
pub const INTEL_QE_VENDOR: Hex<16> =
    Hex([0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07]);

/// Why bytes are no TDX quote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// More bytes than any quote has.
    #[error("quote: expected at most {max} bytes, found {found}; is this file a quote?")]
    TooLong {
        /// The bound.
        max: usize,
        /// Length of the input.
        found: usize,
    },
    /// The input ends inside a field.
    #[error(
        "quote: {what} at byte {offset} takes {expected} bytes, found {found}; the quote was cut: get it whole"
    )]
    Truncated {
        /// Name of the field.
        what: &'static str,
        /// Where it starts.
        offset: usize,
        /// Its length.
        expected: usize,
        /// How many bytes are left.
        found: usize,
    },
    /// A field has a value that this verifier does not read.
    #[error("quote: {what} at byte {offset}: expected {expected}, found {found}")]
    Wrong {
        /// Name of the field.
        what: &'static str,
        /// Where it starts.
        offset: usize,
        /// What may stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
}

/// A quote, taken apart. Nothing in it is verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// 4 or 5.
    pub version: u16,
    /// Who made the quoting enclave.
    pub qe_vendor: Hex<16>,
    /// First 20 bytes of user data of the header; the first 16 name the quoting enclave's instance.
    pub user_data: Hex<20>,
    /// What the TDX module says.
    pub td: TdReport,
    /// Who signed it.
    pub signature: SignatureData,
    /// How many bytes the signature covers, from the start.
    pub signed_len: usize,
    /// How many zero bytes follow the signature data.
    pub padding: usize,
}

/// Appendix A.3.8: signature data of ECDSA with P-256, certified by a QE report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureData {
    /// `r || s` over the header and the body.
    pub signature: Hex<64>,
    /// The attestation key, `x || y`.
    pub attestation_key: Hex<64>,
    /// Report of the quoting enclave that holds the key.
    pub qe_report: Hex<384>,
    /// `r || s` of the PCK over the QE report.
    pub qe_report_signature: Hex<64>,
    /// What the QE report commits to beside the key.
    pub qe_auth_data: Vec<u8>,
    /// PEM, leaf first.
    pub pck_chain: Vec<u8>,
}

impl Quote {
    /// Reads a quote; at most [`MAX_QUOTE`] bytes are looked at and no more than their number is allocated.
    pub fn parse(bytes: &[u8]) -> Result<Self, QuoteError> {
        if bytes.len() > MAX_QUOTE {
            return Err(QuoteError::TooLong { max: MAX_QUOTE, found: bytes.len() });
        }
        let mut r = Reader::new(bytes, 0);
        let version = r.u16("version")?;
        expect("version", 0, "4 or 5", version, |v| matches!(v, 4 | 5))?;
        let key_type = r.u16("attestation key type")?;
        expect("attestation key type", 2, "2 (ECDSA P-256)", key_type, |k| *k == KEY_TYPE_ECDSA_P256)?;
        let tee = r.u32("TEE type")?;
        expect("TEE type", 4, "129 (TDX)", tee, |t| *t == TEE_TYPE_TDX)?;
        r.take("reserved", 4)?;
        let qe_vendor = r.hex("QE vendor")?;
        let vendor = |v: &Hex<16>| *v == INTEL_QE_VENDOR;
        expect("QE vendor", 12, INTEL_QE_VENDOR, qe_vendor, vendor)?;
        let user_data = r.hex("user data")?;
        let body_len = body_len(version, &mut r)?;
        let body_at = r.offset();
        let td = TdReport::read(r.take("TD report body", body_len)?, body_at)?;
        let signed_len = r.offset();
        let len = r.u32("length of the signature data")? as usize;
        let signature_at = r.offset();
        let signature = SignatureData::read(r.take("signature data", len)?, signature_at)?;
        let padding = padding(r.rest(), r.offset())?;
        Ok(Quote { version, qe_vendor, user_data, td, signature, signed_len, padding })
    }
}

/// Version 5 says which body follows; version 4 has only one.
fn body_len(version: u16, r: &mut Reader<'_>) -> Result<usize, QuoteError> {
    if version == 4 {
        return Ok(TD10_LEN);
    }
    let kind = r.u16("body type")?;
    let size = r.u32("body size")? as usize;
    let want = match kind {
        2 => TD10_LEN,
        3 => TD15_LEN,
        4 => TD15_EX_LEN,
        _ => {
            let expected = "2, 3 or 4 (TDX 1.0, 1.5, 1.5 extended)".into();
            let (what, offset) = ("body type", HEADER_LEN);
            return Err(QuoteError::Wrong { what, offset, expected, found: kind.to_string() });
        }
    };
    expect("body size", HEADER_LEN + 2, want, size, |s| *s == want)?;
    Ok(want)
}

impl SignatureData {
    fn read(bytes: &[u8], offset: usize) -> Result<Self, QuoteError> {
        let mut r = Reader::new(bytes, offset);
        let signature = r.hex("quote signature")?;
        let attestation_key = r.hex("attestation key")?;
        let (outer_at, outer) = (r.offset(), r.u16("certification data type")?);
        expect("certification data type", outer_at, "6 (QE report)", outer, |t| {
            *t == CERTIFIED_BY_QE_REPORT
        })?;
        let len = r.u32("length of the certification data")? as usize;
        let at = r.offset();
        let mut c = Reader::new(r.take("certification data", len)?, at);
        r.finish("signature data")?;
        let qe_report = c.hex("QE report")?;
        let qe_report_signature = c.hex("QE report signature")?;
        let auth_len = usize::from(c.u16("length of the QE authentication data")?);
        let qe_auth_data = c.take("QE authentication data", auth_len)?.to_vec();
        let (inner_at, inner) = (c.offset(), c.u16("PCK certification data type")?);
        expect("PCK certification data type", inner_at, "5 (PCK certificates)", inner, |t| {
            *t == PCK_CERT_CHAIN
        })?;
        let chain_len = c.u32("length of the PCK certificates")? as usize;
        let pck_chain = c.take("PCK certificates", chain_len)?.to_vec();
        c.finish("certification data")?;
        Ok(SignatureData {
            signature,
            attestation_key,
            qe_report,
            qe_report_signature,
            qe_auth_data,
            pck_chain,
        })
    }
}

fn padding(rest: &[u8], offset: usize) -> Result<usize, QuoteError> {
    match rest.iter().position(|b| *b != 0) {
        None => Ok(rest.len()),
        Some(at) => Err(QuoteError::Wrong {
            what: "trailing bytes",
            offset: offset + at,
            expected: "nothing but zeros after the signature data".into(),
            found: format!("byte {:#04x}", rest[at]),
        }),
    }
}

fn expect<T: std::fmt::Display>(
    what: &'static str,
    offset: usize,
    expected: impl std::fmt::Display,
    found: T,
    good: impl Fn(&T) -> bool,
) -> Result<(), QuoteError> {
    if good(&found) {
        return Ok(());
    }
    Err(QuoteError::Wrong { what, offset, expected: expected.to_string(), found: found.to_string() })
}
