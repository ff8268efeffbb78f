//! Certificates as our own part reads them: each is decoded and parsed once, in however many chains it stands.

use crate::collateral::Document;
use crate::pck::Pck;
use crate::policy;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::asn1::{ObjectIdentifier, PrintableStringRef, Utf8StringRef};
use x509_cert::name::Name;

/// Most certificates looked at in one chain; real chains have two or three.
const MAX_CHAIN: usize = 8;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// One certificate, read.
#[derive(Debug)]
pub(crate) struct Known {
    /// Its PEM block, by which it is found again.
    text: String,
    der: Vec<u8>,
    parsed: Result<Certificate, String>,
}

impl Known {
    pub(crate) fn der(&self) -> &[u8] {
        &self.der
    }

    /// Name and dates.
    pub(crate) fn document(&self, what: &str) -> Result<Document, String> {
        let tbs = self.parsed.as_ref().map_err(|why| format!("{what}: {why}"))?.tbs_certificate();
        Ok(Document {
            what: format!("certificate `{}`", common_name(tbs.subject())),
            from: tbs.validity().not_before.to_unix_duration().as_secs(),
            until: tbs.validity().not_after.to_unix_duration().as_secs(),
        })
    }

    /// SEC1, uncompressed; `None` if it can't be read.
    pub(crate) fn public_key(&self) -> Option<&[u8]> {
        let tbs = self.parsed.as_ref().ok()?.tbs_certificate();
        Some(tbs.subject_public_key_info().subject_public_key.raw_bytes())
    }

    /// What it says of a platform, as the leaf of a PCK chain.
    pub(crate) fn pck(&self) -> Result<Pck, String> {
        self.parsed.as_ref().map_err(String::clone).and_then(Pck::read)
    }

    /// Whether it names itself as its issuer and has another key than that of this id (SHA-384, hex).
    pub(crate) fn other_root(&self, key_id: &str) -> bool {
        self.parsed.as_ref().is_ok_and(|certificate| {
            let tbs = certificate.tbs_certificate();
            tbs.issuer() == tbs.subject() && policy::key_id(certificate) != key_id
        })
    }

    /// Subject and SHA-256, for a person.
    pub(crate) fn words(&self) -> String {
        let subject =
            self.parsed.as_ref().map(|certificate| certificate.tbs_certificate().subject().to_string());
        format!("`{}`, SHA-256 {}", subject.unwrap_or_default(), policy::fingerprint(&self.der))
    }
}

/// The certificates of a PEM chain, leaf first; text without any has none. Those among `known` are taken from there.
pub(crate) fn chain(what: &str, pem: &str, known: &[Arc<Known>]) -> Result<Vec<Arc<Known>>, String> {
    let mut out: Vec<Arc<Known>> = Vec::new();
    for block in blocks(what, pem) {
        let block = block?;
        let before = known.iter().chain(&out).find(|earlier| earlier.text == block).cloned();
        let certificate = match before {
            Some(certificate) => certificate,
            None => {
                let der = decode(what, block)?;
                let parsed = Certificate::from_der(&der).map_err(|e| e.to_string());
                Arc::new(Known { text: block.to_owned(), der, parsed })
            }
        };
        out.push(certificate);
    }
    Ok(out)
}

/// The same as DER.
pub(crate) fn ders(what: &str, pem: &str) -> Result<Vec<Vec<u8>>, String> {
    blocks(what, pem).map(|block| decode(what, block?)).collect()
}

/// Lines may have any length, as in dcap-qvl.
fn decode(what: &str, block: &str) -> Result<Vec<u8>, String> {
    let text = block.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END)).unwrap_or(block);
    let text: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(text).map_err(|e| format!("{what}: a certificate that is no base64: {e}"))
}

/// The PEM blocks in a text. What stands between them is nobody's business, as in dcap-qvl: quoting libraries append the
/// NUL of a C string. Ends with the first error.
fn blocks<'a>(what: &'a str, pem: &'a str) -> impl Iterator<Item = Result<&'a str, String>> {
    let (mut rest, mut count) = (Some(pem), 0);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let text = &text[text.find(BEGIN)?..];
        let Some(end) = text.find(END) else {
            return Some(Err(format!("{what}: a certificate without its end")));
        };
        count += 1;
        if count > MAX_CHAIN {
            return Some(Err(format!("{what}: expected at most {MAX_CHAIN} certificates, found more")));
        }
        let (block, after) = text.split_at(end + END.len());
        rest = Some(after);
        Some(Ok(block))
    })
}

/// The common name alone; the rest of Intel's subjects is the same everywhere.
fn common_name(subject: &Name) -> String {
    let mut names = subject.iter().filter(|attribute| attribute.oid == COMMON_NAME);
    if let (Some(only), None) = (names.next(), names.next()) {
        let value = &only.value;
        let utf8 = value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned());
        let text =
            utf8.or_else(|_| value.decode_as::<PrintableStringRef<'_>>().map(|t| t.as_str().to_owned()));
        // Those of RFC 4514, section 2.4, which the whole name would write with a backslash.
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b" -_.:()/".contains(&b));
        if let Some(text) = text.ok().filter(|text| plain(text) && text.trim() == text) {
            return text;
        }
    }
    let full = subject.to_string();
    let name = full.split(',').find_map(|part| part.trim().strip_prefix("CN="));
    name.map_or_else(|| full.clone(), str::to_owned)
}
