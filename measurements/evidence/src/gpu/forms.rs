//! The forms in which GPU evidence is handed around: a report as binary, hex or base64, certificates as PEM or DER, and NVIDIA's
//! JSON envelope with both (NVIDIA/attestation-sdk, `gpu/evidence.cpp`).

use super::collateral::{GpuCollateral, Text};
use super::error::GpuError;
use super::spdm::MAX_REPORT;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Longer than any envelope that is read, in bytes.
pub const MAX_ENVELOPE: usize = 1024 * 1024;
/// More than any machine has.
pub const MAX_DEVICES: usize = 64;
/// Longer than any chain.
pub const MAX_CERTIFICATES: usize = 10;
/// Longer than any certificate, in bytes.
pub const MAX_CERTIFICATE: usize = 8 * 1024;
/// Longer than any chain in any form, in bytes.
const MAX_CHAIN: usize = 4 * MAX_CERTIFICATES * MAX_CERTIFICATE;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// What one device sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceEvidence {
    /// The report, binary.
    pub report: Vec<u8>,
    /// Its certificates, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Architecture as the envelope names it; the sender's word.
    pub arch: Option<String>,
}

impl DeviceEvidence {
    /// A report and its chain, each in any form.
    pub fn read(report: &[u8], chain: &[u8]) -> Result<Self, GpuError> {
        Ok(DeviceEvidence { report: read_report(report)?, chain: read_chain(chain)?, arch: None })
    }

    /// Whether the bytes look like an envelope.
    pub fn is_envelope(bytes: &[u8]) -> bool {
        matches!(bytes.trim_ascii_start().first(), Some(b'[' | b'{'))
    }

    /// Everything in an envelope: an object or an array of them.
    pub fn read_envelope(bytes: &[u8]) -> Result<Vec<Self>, GpuError> {
        GpuError::bound(ENVELOPE, "bytes", MAX_ENVELOPE, bytes.len())?;
        let syntax = |e: serde_json::Error| {
            let at = format!("{e}");
            GpuError::wrong(ENVELOPE, "JSON", 0, "objects with `evidence` and `certificate`", at)
        };
        let one = bytes.trim_ascii_start().first() == Some(&b'{');
        let entries: Vec<Entry> = if one {
            vec![serde_json::from_slice(bytes).map_err(syntax)?]
        } else {
            serde_json::from_slice(bytes).map_err(syntax)?
        };
        GpuError::bound(ENVELOPE, "devices", MAX_DEVICES, entries.len())?;
        if entries.is_empty() {
            return Err(GpuError::wrong(ENVELOPE, "array", 0, "at least one device", "none"));
        }
        entries.into_iter().map(Entry::read).collect()
    }

    /// The envelope of these devices, as NVIDIA's tools write it.
    pub fn to_envelope(devices: &[Self], nonce: &[u8; 32]) -> String {
        Self::to_envelope_with(devices, nonce, &GpuCollateral::default())
    }

    /// The same, with what it is to be held against; without, where that is more than a reader takes.
    pub fn to_envelope_with(devices: &[Self], nonce: &[u8; 32], collateral: &GpuCollateral) -> String {
        let mut entries: Vec<Entry> = devices.iter().map(|device| Entry::of(device, nonce)).collect();
        let write = |entries: &[Entry]| serde_json::to_string_pretty(entries).unwrap_or_default();
        let plain = write(&entries);
        let Some(first) = entries.first_mut() else { return plain };
        first.collateral = collateral.along();
        let full = write(&entries);
        if full.len() <= MAX_ENVELOPE { full } else { plain }
    }
}

const ENVELOPE: &str = "GPU evidence envelope";

/// One object of the envelope. Other fields are the sender's word about what the report says itself.
#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    arch: Option<String>,
    certificate: String,
    evidence: String,
    #[serde(default)]
    nonce: String,
    /// Ours: no tool of NVIDIA's knows it, and each passes it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    collateral: Option<Text>,
}

/// What stands in the first entry beside its evidence.
pub(crate) fn handed_along(bytes: &[u8]) -> Result<Option<Text>, GpuError> {
    #[derive(Deserialize)]
    struct Beside {
        collateral: Option<Text>,
    }
    GpuError::bound(ENVELOPE, "bytes", MAX_ENVELOPE, bytes.len())?;
    let syntax = |e: serde_json::Error| {
        GpuError::wrong(ENVELOPE, "JSON", 0, "collateral of this form, or none", e.to_string())
    };
    if bytes.trim_ascii_start().first() == Some(&b'{') {
        return Ok(serde_json::from_slice::<Beside>(bytes).map_err(syntax)?.collateral);
    }
    let all: Vec<Beside> = serde_json::from_slice(bytes).map_err(syntax)?;
    Ok(all.into_iter().next().and_then(|first| first.collateral))
}

impl Entry {
    fn read(self) -> Result<DeviceEvidence, GpuError> {
        let report = decode_base64(ENVELOPE, "evidence", &self.evidence)?;
        GpuError::bound(ENVELOPE, "bytes of report", MAX_REPORT, report.len())?;
        let chain = read_chain(&decode_base64(ENVELOPE, "certificate", &self.certificate)?)?;
        Ok(DeviceEvidence { report, chain, arch: self.arch })
    }

    fn of(device: &DeviceEvidence, nonce: &[u8; 32]) -> Self {
        let pem: String = device.chain.iter().map(|der| to_pem(der)).collect();
        Entry {
            arch: device.arch.clone(),
            certificate: STANDARD.encode(pem),
            evidence: STANDARD.encode(&device.report),
            nonce: hex::encode(nonce),
            collateral: None,
        }
    }
}

/// A certificate as PEM, 64 characters a line (RFC 7468).
pub fn to_pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut lines: Vec<&str> = vec![BEGIN];
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        lines.push(line);
        rest = tail;
    }
    lines.push(END);
    lines.join("\n") + "\n"
}

/// The binary form of a report that is binary, hex or base64.
pub fn read_report(bytes: &[u8]) -> Result<Vec<u8>, GpuError> {
    const INPUT: &str = "GPU report";
    // Hex takes two characters a byte, and line ends.
    GpuError::bound(INPUT, "bytes", 3 * MAX_REPORT, bytes.len())?;
    // An SPDM 1.1 request begins with 0x11, which is no text.
    if bytes.first() == Some(&0x11) {
        return Ok(bytes.to_vec());
    }
    Ok(read_text(INPUT, bytes)?.unwrap_or_else(|| bytes.to_vec()))
}

/// What hex or base64 says, line ends anywhere; none if the bytes are neither.
fn read_text(input: &'static str, bytes: &[u8]) -> Result<Option<Vec<u8>>, GpuError> {
    let packed: Vec<u8> = bytes.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    if !packed.is_empty() && packed.iter().all(u8::is_ascii_hexdigit) {
        let decoded = hex::decode(&packed);
        return decoded
            .map(Some)
            .map_err(|e| GpuError::wrong(input, "hex", 0, "two digits a byte", e.to_string()));
    }
    Ok(STANDARD.decode(&packed).ok().filter(|decoded| !decoded.is_empty()))
}

/// The XML of a manifest: as it is, or inside what NVIDIA's RIM service answers (`{"rim": base64, ..}`).
pub fn read_rim(bytes: &[u8]) -> Result<Vec<u8>, GpuError> {
    const INPUT: &str = "RIM";
    #[derive(Deserialize)]
    struct Answer {
        rim: String,
    }
    GpuError::bound(INPUT, "bytes", 2 * MAX_ENVELOPE, bytes.len())?;
    if !DeviceEvidence::is_envelope(bytes) {
        return Ok(bytes.to_vec());
    }
    let answer: Answer = serde_json::from_slice(bytes)
        .map_err(|e| GpuError::wrong(INPUT, "JSON", 0, "an object with `rim`", e.to_string()))?;
    decode_base64(INPUT, "rim", &answer.rim)
}

/// The certificates of a chain, DER, in the order in which they stand; PEM or DER, or hex or base64 of either.
pub fn read_chain(bytes: &[u8]) -> Result<Vec<Vec<u8>>, GpuError> {
    GpuError::bound(CHAIN, "bytes", MAX_CHAIN, bytes.len())?;
    match read_text(CHAIN, bytes)? {
        Some(inner) => read_plain(&inner),
        None => read_plain(bytes),
    }
}

const CHAIN: &str = "certificate chain";

fn read_plain(bytes: &[u8]) -> Result<Vec<Vec<u8>>, GpuError> {
    let out = match std::str::from_utf8(bytes) {
        Ok(text) if text.contains(BEGIN) => read_pem(text)?,
        _ => read_der(bytes)?,
    };
    GpuError::bound(CHAIN, "certificates", MAX_CERTIFICATES, out.len())?;
    if out.is_empty() {
        return Err(GpuError::wrong(
            CHAIN,
            "certificate",
            0,
            "PEM or DER, or hex or base64 of either",
            "no certificate",
        ));
    }
    Ok(out)
}

fn read_pem(text: &str) -> Result<Vec<Vec<u8>>, GpuError> {
    let mut out = Vec::new();
    let mut offset = 0;
    while let Some(start) = text[offset..].find(BEGIN) {
        let from = offset + start + BEGIN.len();
        let Some(len) = text[from..].find(END) else {
            return Err(GpuError::wrong(CHAIN, "PEM", from, END, "the end of the text"));
        };
        out.push(decode_base64(CHAIN, "PEM", &text[from..from + len])?);
        offset = from + len + END.len();
        GpuError::bound(CHAIN, "certificates", MAX_CERTIFICATES, out.len())?;
    }
    Ok(out)
}

/// Certificates one behind the other; only their outermost lengths are looked at.
fn read_der(bytes: &[u8]) -> Result<Vec<Vec<u8>>, GpuError> {
    let mut out = Vec::new();
    let mut offset = 0;
    while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
        let len = match rest {
            [0x30, 0x82, hi, lo, ..] => 4 + (usize::from(*hi) << 8 | usize::from(*lo)),
            _ => {
                let found = hex::encode(&rest[..rest.len().min(4)]);
                return Err(GpuError::wrong(CHAIN, "DER", offset, "3082 and a length", found));
            }
        };
        let Some(der) = rest.get(..len) else {
            let found = rest.len();
            let (input, what) = (CHAIN, "certificate");
            return Err(GpuError::Truncated { input, what, offset, expected: len, found });
        };
        out.push(der.to_vec());
        offset += len;
        GpuError::bound(CHAIN, "certificates", MAX_CERTIFICATES, out.len())?;
    }
    Ok(out)
}

/// Base64 with line ends anywhere.
pub(crate) fn decode_base64(
    input: &'static str,
    what: &'static str,
    text: &str,
) -> Result<Vec<u8>, GpuError> {
    let packed: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    STANDARD.decode(packed).map_err(|e| GpuError::wrong(input, what, 0, "base64", e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_the_same_in_every_form() {
        let der: Vec<u8> = [&[0x30, 0x82, 1, 0][..], &[7; 256]].concat();
        let two = [der.clone(), der.clone()];
        let pem: String = two.iter().map(|der| to_pem(der)).collect();
        let binary = two.concat();
        let coded =
            [hex::encode(&binary), STANDARD.encode(&pem), STANDARD.encode(&binary)].map(String::into_bytes);
        for form in coded.into_iter().chain([pem.into_bytes(), binary]) {
            assert_eq!(read_chain(&form).unwrap(), two);
        }
    }

    #[test]
    fn a_report_is_the_same_as_hex_and_as_bytes() {
        let bytes = [0x11, 0xe0, 1, 0xff];
        assert_eq!(read_report(&bytes).unwrap(), bytes);
        assert_eq!(read_report(b"11e0\n01ff\n").unwrap(), bytes);
        assert_eq!(read_report(STANDARD.encode(bytes).as_bytes()).unwrap(), bytes);
        assert!(read_report(b"11e001f\n").unwrap_err().to_string().contains("two digits a byte"));
    }

    #[test]
    fn a_chain_that_ends_too_early_says_where() {
        let error = read_chain(&[0x30, 0x82, 1, 0, 7]).unwrap_err();
        assert!(error.to_string().contains("at offset 0: expected 260 bytes, found 5"), "{error}");
        let error = read_chain(b"-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap_err();
        assert!(error.to_string().contains("found the end of the text"), "{error}");
    }

    #[test]
    fn more_devices_than_any_machine_has_are_refused() {
        let entry = r#"{"evidence":"","certificate":""}"#;
        let text = format!("[{}]", vec![entry; MAX_DEVICES + 1].join(","));
        let error = DeviceEvidence::read_envelope(text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("at most 64 devices, found 65"), "{error}");
    }
}
