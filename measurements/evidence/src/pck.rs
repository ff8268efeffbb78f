//! What a PCK certificate says of its platform, read for our own evaluation of the levels.
//!
//! dcap-qvl reads the same for itself; the two evaluations must agree. Intel SGX PCK Certificate and Certificate Revocation
//! List Profile Specification, section 1.3.5: a sequence of pairs of identifier and value, the TCB such a sequence itself.

use x509_cert::Certificate;
use x509_cert::der::asn1::{AnyRef, ObjectIdentifier};
use x509_cert::der::{Decode, Reader, SliceReader, Tag, Tagged};

const SGX: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1");
const TCB: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.2");
const PCE_SVN: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.2.17");
const CPU_SVN: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.2.18");
const PCE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.3");
const FMSPC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.4");

/// Family and SVNs of a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pck {
    pub(crate) fmspc: [u8; 6],
    pub(crate) pce_id: Vec<u8>,
    pub(crate) cpu_svn: [u8; 16],
    pub(crate) pce_svn: u16,
}

impl Pck {
    /// From the leaf of a PCK chain.
    pub(crate) fn read(certificate: &Certificate) -> Result<Self, String> {
        let extensions = certificate.tbs_certificate().extensions().map_or(&[][..], Vec::as_slice);
        let mut extensions = extensions.iter().filter(|extension| extension.extn_id == SGX);
        let (Some(extension), None) = (extensions.next(), extensions.next()) else {
            return Err("expected one SGX extension, found none or several".into());
        };
        let extension = AnyRef::from_der(extension.extn_value.as_bytes()).map_err(|e| e.to_string())?;
        let tcb = find(extension, &TCB)?;
        let pce_svn = match *find(tcb, &PCE_SVN)?.value() {
            [low] => u16::from(low),
            [high, low] => u16::from_be_bytes([high, low]),
            ref other => return Err(format!("PCE SVN: expected 1 or 2 bytes, found {}", other.len())),
        };
        Ok(Pck {
            fmspc: array("FMSPC", find(extension, &FMSPC)?)?,
            pce_id: find(extension, &PCE_ID)?.value().to_vec(),
            cpu_svn: array("CPU SVN", find(tcb, &CPU_SVN)?)?,
            pce_svn,
        })
    }
}

fn array<const N: usize>(what: &str, value: AnyRef<'_>) -> Result<[u8; N], String> {
    let bytes = value.value();
    bytes.try_into().map_err(|_| format!("{what}: expected {N} bytes, found {}", bytes.len()))
}

/// The value of the first pair with this identifier.
fn find<'a>(list: AnyRef<'a>, wanted: &ObjectIdentifier) -> Result<AnyRef<'a>, String> {
    let read = || -> x509_cert::der::Result<Option<AnyRef<'a>>> {
        list.tag().assert_eq(Tag::Sequence)?;
        let mut pairs = SliceReader::new(list.value())?;
        while !pairs.is_finished() {
            let pair = AnyRef::decode(&mut pairs)?;
            pair.tag().assert_eq(Tag::Sequence)?;
            let mut pair = SliceReader::new(pair.value())?;
            if ObjectIdentifier::decode(&mut pair)? == *wanted {
                return AnyRef::decode(&mut pair).map(Some);
            }
        }
        Ok(None)
    };
    read().map_err(|e| e.to_string())?.ok_or_else(|| format!("expected an entry {wanted}, found none"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dcap_qvl::intel::parse_pck_extension;
    use simulator::fault::Fault;

    fn leaf() -> Vec<u8> {
        let quote = crate::Quote::parse(&Fault::None.case().unwrap().evidence.quote).unwrap();
        let pem = String::from_utf8(quote.signature.pck_chain).unwrap();
        crate::certificate::ders("", &pem).unwrap().remove(0)
    }

    /// `None` where either can't read it.
    fn agree(der: &[u8]) -> Option<bool> {
        let ours = Pck::read(&Certificate::from_der(der).ok()?).ok()?;
        let theirs = parse_pck_extension(der).ok()?;
        let (fmspc, pce_id) = (theirs.fmspc, theirs.pce_id);
        Some(ours == Pck { fmspc, pce_id, cpu_svn: theirs.cpu_svn, pce_svn: theirs.pce_svn })
    }

    #[test]
    fn a_certificate_with_any_byte_changed_is_read_as_the_library_reads_it() {
        let good = leaf();
        assert_eq!(agree(&good), Some(true));
        let mut read = 0;
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let both = agree(&bad);
            assert_ne!(both, Some(false), "byte {at}");
            read += usize::from(both.is_some());
        }
        assert!(read > 100, "{read} of {} changed certificates could be read", good.len());
    }
}
