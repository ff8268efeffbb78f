//! Simulated OCSP responses (RFC 6960): one certificate each.

use super::der::{bits, implicit, integer, octets, oid, seq, tagged, time, tlv};
use super::pki::Entity;
use crate::SimulatorError;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// What a response says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Good,
    Revoked,
    Unknown,
}

/// The answer about a certificate of `issuer`, signed by `signer`; its certificate is enclosed if it is another.
pub(crate) fn response(
    subject: &Entity,
    issuer: &Entity,
    signer: &Entity,
    answer: Answer,
    (from, until): (u64, u64),
) -> Result<Vec<u8>, SimulatorError> {
    let sha1 = |bytes: &[u8]| octets(digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref());
    let algorithm = seq(&[oid("1.3.14.3.2.26"), tlv(0x05, &[])]);
    let id = seq(&[algorithm, sha1(&issuer.name), sha1(issuer.point()), integer(&subject.serial)]);
    let status = match answer {
        Answer::Good => implicit(0, &[]),
        // Reason 1: key compromise.
        Answer::Revoked => tagged(1, &[time(from), tagged(0, &tlv(0x0a, &[1]))].concat()),
        Answer::Unknown => implicit(2, &[]),
    };
    let single = seq(&[id, status, time(from), tagged(0, &time(until))]);
    let data = seq(&[tagged(1, &signer.name), time(from), seq(&[single])]);
    let signature = signer.sign_asn1(&data)?;
    let enclosed = match signer.point() == issuer.point() {
        true => Vec::new(),
        false => tagged(0, &seq(std::slice::from_ref(&signer.certificate))),
    };
    let basic = seq(&[data, seq(&[oid("1.2.840.10045.4.3.3")]), bits(&signature), enclosed]);
    let typed = seq(&[oid("1.3.6.1.5.5.7.48.1.1"), octets(&basic)]);
    Ok(seq(&[tlv(0x0a, &[0]), tagged(0, &typed)]))
}
