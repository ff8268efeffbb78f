//! DER as certificates and OCSP responses need it: each function gives one element with tag and length.

use std::time::Duration;
use x509_cert::der::DateTime;
use x509_cert::der::asn1::ObjectIdentifier;

pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len();
    let mut out = vec![tag];
    match len {
        0..0x80 => out.push(len as u8),
        0x80..0x100 => out.extend([0x81, len as u8]),
        _ => out.extend([0x82, (len >> 8) as u8, len as u8]),
    }
    out.extend_from_slice(content);
    out
}

pub(crate) fn seq(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

pub(crate) fn set(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x31, &parts.concat())
}

pub(crate) fn oid(text: &str) -> Vec<u8> {
    tlv(0x06, ObjectIdentifier::new_unwrap(text).as_bytes())
}

/// A positive integer, big-endian.
pub(crate) fn integer(bytes: &[u8]) -> Vec<u8> {
    let bytes = &bytes[bytes.iter().take_while(|b| **b == 0).count().min(bytes.len() - 1)..];
    match bytes[0] < 0x80 {
        true => tlv(0x02, bytes),
        false => tlv(0x02, &[&[0], bytes].concat()),
    }
}

pub(crate) fn octets(content: &[u8]) -> Vec<u8> {
    tlv(0x04, content)
}

/// A BIT STRING without unused bits.
pub(crate) fn bits(content: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[0], content].concat())
}

pub(crate) fn utf8(text: &str) -> Vec<u8> {
    tlv(0x0c, text.as_bytes())
}

pub(crate) fn truth() -> Vec<u8> {
    tlv(0x01, &[0xff])
}

/// `[number] EXPLICIT`, or an implicit one that is constructed.
pub(crate) fn tagged(number: u8, content: &[u8]) -> Vec<u8> {
    tlv(0xa0 | number, content)
}

/// `[number] IMPLICIT`, primitive.
pub(crate) fn implicit(number: u8, content: &[u8]) -> Vec<u8> {
    tlv(0x80 | number, content)
}

/// GeneralizedTime of Unix seconds.
pub(crate) fn time(at: u64) -> Vec<u8> {
    let text = match DateTime::from_unix_duration(Duration::from_secs(at)) {
        Ok(d) => format!(
            "{:04}{:02}{:02}{:02}{:02}{:02}Z",
            d.year(),
            d.month(),
            d.day(),
            d.hour(),
            d.minutes(),
            d.seconds()
        ),
        Err(_) => "99991231235959Z".into(),
    };
    tlv(0x18, text.as_bytes())
}
