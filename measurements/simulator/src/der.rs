//! The SGX extension of a PCK certificate, as DER.
//!
//! Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3.5 (OID tree below
//! 1.2.840.113741.1.13.1): a sequence of pairs of OID and value.

use x509_cert::der::oid::ObjectIdentifier;

/// OID of the extension.
pub(crate) const SGX_EXTENSIONS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1");

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const BOOLEAN: u8 = 0x01;
const SEQUENCE: u8 = 0x30;

/// What the extension says of a platform.
pub(crate) struct SgxExtensions {
    pub(crate) ppid: [u8; 16],
    pub(crate) cpu_svn: [u8; 16],
    pub(crate) pce_svn: u8,
    pub(crate) pce_id: [u8; 2],
    pub(crate) fmspc: [u8; 6],
}

impl SgxExtensions {
    pub(crate) fn to_der(&self) -> Vec<u8> {
        let components = self.cpu_svn.iter().zip(1u8..).map(|(svn, i)| pair(&[2, i], &integer(*svn)));
        let tcb: Vec<Vec<u8>> = components
            .chain([pair(&[2, 17], &integer(self.pce_svn)), pair(&[2, 18], &tlv(OCTETS, &self.cpu_svn))])
            .collect();
        let flags = [1u8, 2, 3].map(|flag| pair(&[7, flag], &tlv(BOOLEAN, &[0])));
        let fields = [
            pair(&[1], &tlv(OCTETS, &self.ppid)),
            pair(&[2], &tlv(SEQUENCE, &tcb.concat())),
            pair(&[3], &tlv(OCTETS, &self.pce_id)),
            pair(&[4], &tlv(OCTETS, &self.fmspc)),
            pair(&[5], &tlv(ENUMERATED, &[1])),
            pair(&[6], &tlv(OCTETS, &[0; 16])),
            pair(&[7], &tlv(SEQUENCE, &flags.concat())),
        ];
        tlv(SEQUENCE, &fields.concat())
    }
}

/// A sequence of the OID below the extension's own and a value.
fn pair(below: &[u8], value: &[u8]) -> Vec<u8> {
    // Every arc below is under 128, so that each is one byte.
    let oid = [SGX_EXTENSIONS.as_bytes(), below].concat();
    tlv(SEQUENCE, &[tlv(OID, &oid), value.to_vec()].concat())
}

fn integer(value: u8) -> Vec<u8> {
    if value < 0x80 { tlv(INTEGER, &[value]) } else { tlv(INTEGER, &[0, value]) }
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len();
    let mut out = vec![tag];
    // The whole extension has a few hundred bytes.
    match u8::try_from(len) {
        Ok(short) if short < 0x80 => out.push(short),
        Ok(long) => out.extend([0x81, long]),
        Err(_) => out.extend([0x82, (len >> 8) as u8, len as u8]),
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_in_their_shortest_form() {
        assert_eq!(tlv(OCTETS, &[7]), [4, 1, 7]);
        assert_eq!(tlv(OCTETS, &[0; 0x80])[..3], [4, 0x81, 0x80]);
        assert_eq!(tlv(OCTETS, &[0; 0x1234])[..4], [4, 0x82, 0x12, 0x34]);
        assert_eq!(integer(0xff), [2, 2, 0, 0xff]);
    }
}
