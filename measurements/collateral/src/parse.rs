//! What the service answers, as bytes that are bounded before they come here.
//!
//! A signed document is taken out of its envelope byte for byte: its signature is over the text, not over the values.

use crate::service::FetchError;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A signed document and its signature.
pub(crate) struct Signed {
    pub(crate) text: String,
    pub(crate) signature: Vec<u8>,
}

#[derive(Deserialize)]
struct TcbInfo<'a> {
    #[serde(rename = "tcbInfo", borrow)]
    document: &'a RawValue,
    signature: &'a str,
}

#[derive(Deserialize)]
struct QeIdentity<'a> {
    #[serde(rename = "enclaveIdentity", borrow)]
    document: &'a RawValue,
    signature: &'a str,
}

/// `{"tcbInfo": {...}, "signature": "hex"}`
pub(crate) fn tcb_info(what: &'static str, body: &[u8]) -> Result<Signed, FetchError> {
    let parsed: TcbInfo<'_> = serde_json::from_slice(body).map_err(|e| malformed(what, e))?;
    signed(what, parsed.document, parsed.signature)
}

/// `{"enclaveIdentity": {...}, "signature": "hex"}`
pub(crate) fn qe_identity(what: &'static str, body: &[u8]) -> Result<Signed, FetchError> {
    let parsed: QeIdentity<'_> = serde_json::from_slice(body).map_err(|e| malformed(what, e))?;
    signed(what, parsed.document, parsed.signature)
}

fn signed(what: &'static str, document: &RawValue, signature: &str) -> Result<Signed, FetchError> {
    let signature = hex::decode(signature).map_err(|e| malformed(what, format!("signature: {e}")))?;
    Ok(Signed { text: document.get().to_owned(), signature })
}

/// A CRL: DER from Intel, hex from a PCCS.
pub(crate) fn crl(what: &'static str, body: &[u8]) -> Result<Vec<u8>, FetchError> {
    const SEQUENCE: u8 = 0x30;
    let text = body.trim_ascii();
    // "0" of hex has the value of SEQUENCE as well, but no DER goes on in hex digits alone.
    if let Ok(der) = hex::decode(text)
        && der.first() == Some(&SEQUENCE)
    {
        return Ok(der);
    }
    if body.first() == Some(&SEQUENCE) {
        return Ok(body.to_vec());
    }
    Err(malformed(what, "neither DER nor hex of it"))
}

/// A chain of certificates from a header, percent-encoded.
pub(crate) fn chain(what: &'static str, header: &str) -> Result<String, FetchError> {
    let mut out = Vec::with_capacity(header.len());
    let mut bytes = header.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next(), bytes.next()].map(Option::unwrap_or_default);
        let decoded = hex::decode(digits).map_err(|_| malformed(what, "a % without two hex digits"))?;
        out.extend(decoded);
    }
    let pem = String::from_utf8(out).map_err(|e| malformed(what, e))?;
    if !pem.contains("-----BEGIN CERTIFICATE-----") {
        return Err(malformed(what, "no certificate in it"));
    }
    Ok(pem)
}

fn malformed(what: &'static str, why: impl ToString) -> FetchError {
    FetchError::Malformed { what, why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_document_keeps_the_very_bytes_that_were_signed() {
        let body = br#" {"signature":"00ff", "tcbInfo":{"b": 1,"a":  [ 2 ]} }"#;
        let signed = tcb_info("TCB info", body).unwrap();
        assert_eq!((signed.text.as_str(), signed.signature), (r#"{"b": 1,"a":  [ 2 ]}"#, vec![0, 0xff]));
        assert!(qe_identity("QE identity", body).is_err());
    }

    #[test]
    fn a_crl_is_read_as_der_and_as_hex() {
        assert_eq!(crl("CRL", &[0x30, 0x03, 1, 2, 3]).unwrap(), [0x30, 0x03, 1, 2, 3]);
        assert_eq!(crl("CRL", b"3003010203\n").unwrap(), [0x30, 0x03, 1, 2, 3]);
        assert!(crl("CRL", b"<html>").is_err());
    }

    #[test]
    fn a_chain_is_decoded_from_its_header() {
        let pem = chain("chain", "-----BEGIN%20CERTIFICATE-----%0AMII%2B").unwrap();
        assert_eq!(pem, "-----BEGIN CERTIFICATE-----\nMII+");
        assert!(chain("chain", "%4").is_err() && chain("chain", "no%20chain").is_err());
    }

    proptest! {
        #[test]
        fn hostile_answers_never_panic(body in proptest::collection::vec(any::<u8>(), 0..300), header in ".{0,100}") {
            let _ = (tcb_info("", &body), qe_identity("", &body), crl("", &body), chain("", &header));
        }
    }
}
