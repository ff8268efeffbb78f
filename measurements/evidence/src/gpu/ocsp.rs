//! Revocation: OCSP responses that were fetched before, read and verified again at the time of the appraisal (RFC 6960).
//!
//! ```text
//! OCSPResponse -> BasicOCSPResponse { data, signature, certificates }
//!                     data -> SingleResponse { which certificate, good | revoked | unknown, from, until }
//! ```
//! A response counts if the issuer of the certificate signed it, or a certificate for OCSP signing that the issuer itself issued
//! (4.2.2.2). It must say until when it holds: what does not end can't be cached. NVIDIA's responder answers for every
//! certificate but a device's leaf, which the device issues itself, and says "good" of device serials that it has
//! never heard of (docs.nvidia.com, OCSP Responses). Written from the specification: no response of NVIDIA's was at hand.

use super::error::GpuError;
use super::forms::MAX_CERTIFICATES;
use super::x509::{Cert, ECDSA_SHA384, octets};
use ring::digest;
use x509_cert::der::asn1::{BitStringRef, GeneralizedTime, Int, ObjectIdentifier};
use x509_cert::der::{Decode, Encode, Error, ErrorKind, Header, Reader, Result, SliceReader, Tag, TagNumber};

/// Longer than any response, in bytes.
pub const MAX_OCSP: usize = 64 * 1024;
/// More responses than any set of devices needs.
pub const MAX_RESPONSES: usize = 1024;
/// More certificates than one response speaks of.
const MAX_SINGLES: usize = 64;
const INPUT: &str = "OCSP response";
const BASIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.1");
const OCSP_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.9");
/// Hashes by which a certificate may be named: SHA-1 by default, as RFC 6960 has it; here it protects nothing.
const SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");

/// A response that was read; nothing is verified by reading.
#[derive(Debug, Clone)]
pub struct OcspResponse {
    /// The signed part, as it was sent.
    data: Vec<u8>,
    singles: Vec<Single>,
    signature: Vec<u8>,
    certificates: Vec<Cert>,
}

#[derive(Debug, Clone)]
struct Single {
    hash: ObjectIdentifier,
    issuer_name: Vec<u8>,
    issuer_key: Vec<u8>,
    serial: Vec<u8>,
    status: CertStatus,
    from: u64,
    until: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CertStatus {
    Good,
    Revoked { at: u64, reason: Option<u8> },
    Unknown,
}

/// What a response is worth for one certificate, in the order in which several of them count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Answer {
    /// It is revoked: nothing outweighs that.
    Revoked(String),
    /// It is good until then.
    Good(u64),
    /// It tells nothing, for this reason.
    Useless(String),
}

impl OcspResponse {
    /// Reads the DER of a response.
    pub fn parse(bytes: &[u8]) -> std::result::Result<Self, GpuError> {
        GpuError::bound(INPUT, "bytes", MAX_OCSP, bytes.len())?;
        let bad = |e: Error| {
            let at = e.position().map_or(0, |at| usize::try_from(u32::from(at)).unwrap_or(0));
            GpuError::wrong(INPUT, "DER", at, "a successful basic response (RFC 6960)", e.to_string())
        };
        let basic = envelope(bytes).map_err(bad)?;
        read_basic(basic).map_err(bad)
    }

    /// What it says of a certificate of this issuer, if anything.
    pub(crate) fn about(&self, cert: &Cert, issuer: &Cert, at: u64) -> Option<Answer> {
        let single = self.singles.iter().find(|single| single.names(cert, issuer))?;
        Some(self.signed_by(issuer, at).map_or_else(Answer::Useless, |()| single.judge(at)))
    }

    fn signed_by(&self, issuer: &Cert, at: u64) -> std::result::Result<(), String> {
        if issuer.signed_asn1(&self.data, &self.signature) {
            return Ok(());
        }
        let mut why = format!("its signature is neither that of {}", issuer.subject());
        for cert in &self.certificates {
            let (from, until) = cert.window();
            let holds = from <= at && until.is_none_or(|until| at <= until);
            let delegated = cert.issued_by(issuer, 0).and_then(|()| cert.may_sign());
            match delegated {
                Ok(()) if !cert.has_purpose(&OCSP_SIGNING) || !holds => {
                    why += &format!(", nor may {} sign OCSP responses now", cert.subject());
                }
                Ok(()) if cert.signed_asn1(&self.data, &self.signature) => return Ok(()),
                Ok(()) => why += &format!(", nor that of {}", cert.subject()),
                Err(reason) => why += &format!(", and {reason}"),
            }
        }
        Err(why)
    }
}

impl Single {
    fn names(&self, cert: &Cert, issuer: &Cert) -> bool {
        let algorithm = match self.hash {
            SHA1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            SHA256 => &digest::SHA256,
            SHA384 => &digest::SHA384,
            _ => return false,
        };
        let hash = |bytes: &[u8]| digest::digest(algorithm, bytes).as_ref().to_vec();
        let Ok(name) = issuer.parsed.tbs_certificate().subject().to_der() else { return false };
        self.serial == cert.serial()
            && self.issuer_name == hash(&name)
            && self.issuer_key == hash(&issuer.key)
    }

    fn judge(&self, at: u64) -> Answer {
        let show = crate::time::show;
        match (self.status, self.until) {
            (CertStatus::Revoked { at, reason }, _) => {
                let reason = reason.map_or_else(|| "no reason given".into(), |r| format!("reason {r}"));
                Answer::Revoked(format!("revoked {}, {reason} (RFC 5280, 5.3.1)", show(at)))
            }
            (CertStatus::Unknown, _) => Answer::Useless("unknown to the responder".into()),
            (CertStatus::Good, None) => Answer::Useless("good, without an end: it can't be cached".into()),
            (CertStatus::Good, Some(until)) if self.from <= at && at <= until => Answer::Good(until),
            (CertStatus::Good, Some(until)) => {
                Answer::Useless(format!("good only from {} until {}", show(self.from), show(until)))
            }
        }
    }
}

fn context(number: u32) -> impl Fn(Tag) -> bool {
    move |tag| matches!(tag, Tag::ContextSpecific { number: TagNumber(n), .. } if n == number)
}

/// The content of the next element, if its tag is this one.
fn optional<'a>(reader: &mut SliceReader<'a>, wanted: impl Fn(Tag) -> bool) -> Result<Option<&'a [u8]>> {
    if reader.is_finished() || !wanted(Header::peek(reader)?.tag()) {
        return Ok(None);
    }
    content(reader).map(Some)
}

fn content<'a>(reader: &mut SliceReader<'a>) -> Result<&'a [u8]> {
    let length = Header::decode(reader)?.length();
    reader.read_slice(length)
}

/// The basic response inside a successful one.
fn envelope(bytes: &[u8]) -> Result<&[u8]> {
    let mut outer = SliceReader::new(bytes)?;
    let mut inner = SliceReader::new(expect(&mut outer, Tag::Sequence)?)?;
    outer.finish()?;
    if expect(&mut inner, Tag::Enumerated)? != [0] {
        return Err(ErrorKind::Value { tag: Tag::Enumerated }.into());
    }
    let explicit = optional(&mut inner, context(0))?.ok_or(Error::from(ErrorKind::Failed))?;
    inner.finish()?;
    let mut explicit = SliceReader::new(explicit)?;
    let mut typed = SliceReader::new(expect(&mut explicit, Tag::Sequence)?)?;
    if ObjectIdentifier::decode(&mut typed)? != BASIC {
        return Err(ErrorKind::Value { tag: Tag::ObjectIdentifier }.into());
    }
    let basic = octets(&mut typed)?;
    typed.finish()?;
    Ok(basic)
}

fn expect<'a>(reader: &mut SliceReader<'a>, tag: Tag) -> Result<&'a [u8]> {
    Header::peek(reader)?.tag().assert_eq(tag)?;
    content(reader)
}

fn read_basic(bytes: &[u8]) -> Result<OcspResponse> {
    let mut outer = SliceReader::new(bytes)?;
    let mut inner = SliceReader::new(expect(&mut outer, Tag::Sequence)?)?;
    outer.finish()?;
    let data = inner.tlv_bytes()?;
    let mut algorithm = SliceReader::new(expect(&mut inner, Tag::Sequence)?)?;
    if ObjectIdentifier::decode(&mut algorithm)? != ECDSA_SHA384 {
        return Err(ErrorKind::Value { tag: Tag::ObjectIdentifier }.into());
    }
    let signature = BitStringRef::decode(&mut inner)?.raw_bytes().to_vec();
    let mut certificates = Vec::new();
    if let Some(explicit) = optional(&mut inner, context(0))? {
        let mut list = SliceReader::new(expect(&mut SliceReader::new(explicit)?, Tag::Sequence)?)?;
        while !list.is_finished() && certificates.len() < MAX_CERTIFICATES {
            // One that can't be read signs nothing here.
            certificates.extend(Cert::parse(list.tlv_bytes()?).ok());
        }
    }
    inner.finish()?;
    Ok(OcspResponse { data: data.to_vec(), singles: read_data(data)?, signature, certificates })
}

fn read_data(data: &[u8]) -> Result<Vec<Single>> {
    let mut inner = SliceReader::new(expect(&mut SliceReader::new(data)?, Tag::Sequence)?)?;
    // Version, which is always the first, who answers, and when.
    optional(&mut inner, context(0))?;
    inner.tlv_bytes()?;
    GeneralizedTime::decode(&mut inner)?;
    let mut list = SliceReader::new(expect(&mut inner, Tag::Sequence)?)?;
    let mut out = Vec::new();
    while !list.is_finished() {
        if out.len() == MAX_SINGLES {
            return Err(ErrorKind::Overlength.into());
        }
        out.push(read_single(&mut SliceReader::new(expect(&mut list, Tag::Sequence)?)?)?);
    }
    Ok(out)
}

fn read_single(single: &mut SliceReader<'_>) -> Result<Single> {
    let mut id = SliceReader::new(expect(single, Tag::Sequence)?)?;
    let mut algorithm = SliceReader::new(expect(&mut id, Tag::Sequence)?)?;
    let hash = ObjectIdentifier::decode(&mut algorithm)?;
    let (issuer_name, issuer_key) = (octets(&mut id)?.to_vec(), octets(&mut id)?.to_vec());
    let serial = Int::decode(&mut id)?.as_bytes().to_vec();
    let status = read_status(single)?;
    let from = seconds(GeneralizedTime::decode(single)?);
    let until = match optional(single, context(0))? {
        Some(explicit) => Some(seconds(GeneralizedTime::from_der(explicit)?)),
        None => None,
    };
    Ok(Single { hash, issuer_name, issuer_key, serial, status, from, until })
}

fn read_status(single: &mut SliceReader<'_>) -> Result<CertStatus> {
    let tag = Header::peek(single)?.tag();
    let value = content(single)?;
    match tag {
        Tag::ContextSpecific { number: TagNumber(0), .. } => Ok(CertStatus::Good),
        Tag::ContextSpecific { number: TagNumber(1), .. } => {
            let mut info = SliceReader::new(value)?;
            let at = seconds(GeneralizedTime::decode(&mut info)?);
            let reason = optional(&mut info, context(0))?.and_then(|explicit| explicit.last().copied());
            Ok(CertStatus::Revoked { at, reason })
        }
        Tag::ContextSpecific { number: TagNumber(2), .. } => Ok(CertStatus::Unknown),
        other => Err(ErrorKind::TagUnexpected { expected: None, actual: other }.into()),
    }
}

fn seconds(time: GeneralizedTime) -> u64 {
    time.to_unix_duration().as_secs()
}
