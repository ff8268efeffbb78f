//! The firmware's identity in a leaf certificate (TCG DICE).
//!
//! Hopper's leafs carry a CompositeDeviceID (version, device key, FWID) under the OID 2.23.133.5.4.1; later ones a
//! DiceTcbInfo, under that OID or 2.23.133.5.4.1.1 (TCG DICE Attestation Architecture 1.1, 6.1.1). The two can be told by
//! their tags: universal against context-specific. Of DiceTcbInfo, only the first SHA-384 FWID and the flags are read; no
//! certificate of hardware with one was at hand.

use super::x509::{Cert, octets};
use crate::Hex;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Error, ErrorKind, Header, Reader, SliceReader, Tag, TagNumber};

/// OID of CompositeDeviceID in Hopper's leafs, and of DiceTcbInfo elsewhere.
pub(crate) const TCB_INFO: &str = "2.23.133.5.4.1";
/// OID of DiceTcbInfo.
pub(crate) const TCB_INFO_1: &str = "2.23.133.5.4.1.1";
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const FWIDS: TagNumber = TagNumber(6);
const FLAGS: TagNumber = TagNumber(7);

/// What the leaf says of the firmware that holds its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FirmwareId {
    /// SHA-384 of the firmware.
    pub(crate) fwid: Hex<48>,
    /// Operational flags of a DiceTcbInfo, bit 0 first: not configured, not secure, recovery, debug.
    pub(crate) flags: Option<u8>,
}

impl FirmwareId {
    /// Reads it from a leaf: none if there is no such extension.
    pub(crate) fn of(leaf: &Cert) -> Result<Option<Self>, String> {
        let Some(bytes) = leaf.extension(TCB_INFO_1).or_else(|| leaf.extension(TCB_INFO)) else {
            return Ok(None);
        };
        let read = if is_composite(bytes) { composite(bytes) } else { tcb_info(bytes) };
        read.map(Some).map_err(|e| format!("firmware identity in the leaf: {e}"))
    }
}

/// A sequence that begins with an INTEGER.
fn is_composite(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, len, 0x02, ..] if *len < 0x80)
        || matches!(bytes, [0x30, 0x81, _, 0x02, ..] | [0x30, 0x82, _, _, 0x02, ..])
}

fn composite(bytes: &[u8]) -> Result<FirmwareId, Error> {
    let mut outer = SliceReader::new(bytes)?;
    let fwid = outer.sequence(|inner| {
        inner.tlv_bytes()?;
        inner.tlv_bytes()?;
        fwid(inner)
    })?;
    outer.finish()?;
    Ok(FirmwareId { fwid, flags: None })
}

/// `SEQUENCE { hashAlg OID, digest OCTET STRING }`.
fn fwid(reader: &mut SliceReader<'_>) -> Result<Hex<48>, Error> {
    reader.sequence(|inner| {
        let algorithm = ObjectIdentifier::decode(inner)?;
        let digest = octets(inner)?;
        match digest.try_into() {
            Ok(digest) if algorithm == SHA384 => Ok(Hex(digest)),
            _ => Err(ErrorKind::Value { tag: Tag::OctetString }.into()),
        }
    })
}

fn tcb_info(bytes: &[u8]) -> Result<FirmwareId, Error> {
    let mut outer = SliceReader::new(bytes)?;
    let (fwid, flags) = outer.sequence(|inner| {
        let (mut found, mut flags) = (None, None);
        while !inner.is_finished() {
            let tag = Header::peek(inner)?.tag();
            let field = inner.tlv_bytes()?;
            let mut content = SliceReader::new(field)?;
            let length = Header::decode(&mut content)?.length();
            let value = content.read_slice(length)?;
            match tag {
                Tag::ContextSpecific { number: FWIDS, .. } => {
                    found = Some(fwid(&mut SliceReader::new(value)?)?)
                }
                // BIT STRING: the number of unused bits, then the bits, the first one highest.
                Tag::ContextSpecific { number: FLAGS, .. } => {
                    flags = value.get(1).map(|bits| bits.reverse_bits())
                }
                _ => {}
            }
        }
        Ok::<_, Error>((found, flags))
    })?;
    outer.finish()?;
    Ok(FirmwareId { fwid: fwid.ok_or(Error::from(ErrorKind::Failed))?, flags })
}
