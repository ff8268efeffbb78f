//! Collateral (Endorsements, in RFC 9334's words): what Intel publishes about platforms, with the time it holds.
//!
//! The form is the usual JSON of `QuoteCollateralV3`: PEM chains and JSON documents as strings, CRLs and signatures as hex.
//! Intel SGX and TDX Provisioning Certification Service API, version 4.

use crate::{policy, time};
use dcap_qvl::QuoteCollateralV3;
use serde::Serialize;
use sha2::{Digest, Sha256};
use x509_cert::Certificate;
use x509_cert::der::asn1::AnyRef;
use x509_cert::der::{Decode, SliceReader};
use x509_cert::time::Time;

/// Most bytes of a collateral file that are read; Intel's is about 20 KiB.
pub const MAX_COLLATERAL: usize = 1024 * 1024;
/// Most certificates looked at in one chain; real chains have two or three.
const MAX_CHAIN: usize = 8;

/// Why collateral was refused.
#[derive(Debug, thiserror::Error)]
pub enum CollateralError {
    /// Too many bytes.
    #[error("collateral: expected at most {MAX_COLLATERAL} bytes, found {found}; is this the right file?")]
    TooLong {
        /// Length of the input.
        found: usize,
    },
    /// Not the JSON of QuoteCollateralV3.
    #[error("collateral: {0}; expected the fields of QuoteCollateralV3")]
    Syntax(#[from] serde_json::Error),
}

/// Collateral for one kind of platform. Nothing in it is verified yet; its dates and its hash are read once, when it is
/// made, and it can't be changed after.
#[derive(Debug, Clone)]
pub struct Collateral {
    fields: QuoteCollateralV3,
    digest: [u8; 32],
    own: Result<Own, String>,
}

/// What the collateral's own parts say, before any quote is looked at.
#[derive(Debug, Clone)]
struct Own {
    documents: Vec<Document>,
    /// Each certificate that `documents` counts already, DER.
    seen: Vec<Vec<u8>>,
    /// Where its signers' chains end, and the DER of that certificate.
    ends: Vec<(Vec<u8>, ChainEnd)>,
}

/// The last certificate of a chain.
#[derive(Debug, Clone)]
pub(crate) struct ChainEnd {
    /// Of which chain.
    pub(crate) what: &'static str,
    pub(crate) self_issued: bool,
    pub(crate) subject: String,
    /// SHA-384 of its public key, hex.
    pub(crate) key_id: String,
    /// SHA-256 of itself, hex.
    pub(crate) fingerprint: String,
}

impl Collateral {
    /// Reads the JSON form.
    pub fn parse(json: &[u8]) -> Result<Self, CollateralError> {
        if json.len() > MAX_COLLATERAL {
            return Err(CollateralError::TooLong { found: json.len() });
        }
        let fields: QuoteCollateralV3 = serde_json::from_slice(json)?;
        Ok(Collateral::from(fields))
    }

    /// Writes the JSON form.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(&self.fields).unwrap_or_default()
    }

    /// When the first of its parts stops to hold, Unix seconds; `None` if a part can't be read.
    pub fn expires(&self) -> Option<u64> {
        self.documents()?.iter().map(|part| part.until).min()
    }

    /// Every dated document, CRL and certificate in it; `None` if a part can't be read.
    pub fn documents(&self) -> Option<&[Document]> {
        self.own.as_ref().ok().map(|own| own.documents.as_slice())
    }

    /// SHA-256 over all fields, each with its length: what a cache knows it by.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The fields as they were published.
    pub fn fields(&self) -> &QuoteCollateralV3 {
        &self.fields
    }

    /// The PCK chain that counts: the collateral's where it brings one, else the quote's.
    pub(crate) fn pck_chain<'a>(&'a self, from_quote: &'a [u8]) -> &'a [u8] {
        self.fields.pck_certificate_chain.as_ref().map_or(from_quote, |chain| chain.as_bytes())
    }

    /// Where the chains of its signers end, as far as they can be read.
    pub(crate) fn ends(&self) -> impl Iterator<Item = &ChainEnd> {
        self.own.iter().flat_map(|own| &own.ends).map(|(_, end)| end)
    }

    /// Where the PCK chain ends; that certificate is mostly one that was read already.
    pub(crate) fn end_of_pck(&self, chain: &[Vec<u8>]) -> Option<ChainEnd> {
        const WHAT: &str = "PCK chain";
        let last = chain.last()?;
        let known = self.own.iter().flat_map(|own| &own.ends).find(|(der, _)| der == last);
        known
            .map_or_else(|| ChainEnd::of(WHAT, last), |(_, end)| Some(ChainEnd { what: WHAT, ..end.clone() }))
    }

    /// Every dated part, those of this PCK chain among them.
    pub(crate) fn with_chain(&self, pck: &Result<Vec<Vec<u8>>, String>) -> Result<Vec<Document>, String> {
        let own = self.own.as_ref().map_err(String::clone)?;
        let mut documents = own.documents.clone();
        for (at, der) in pck.as_ref().map_err(String::clone)?.iter().enumerate() {
            if !own.seen.contains(der) && !pck.iter().flatten().take(at).any(|earlier| earlier == der) {
                documents.push(dated_certificate("PCK chain", der)?);
            }
        }
        Ok(documents)
    }
}

impl From<QuoteCollateralV3> for Collateral {
    fn from(fields: QuoteCollateralV3) -> Self {
        Collateral { digest: digest(&fields), own: Own::read(&fields), fields }
    }
}

fn digest(fields: &QuoteCollateralV3) -> [u8; 32] {
    let parts: [&[u8]; 10] = [
        fields.pck_crl_issuer_chain.as_bytes(),
        &fields.root_ca_crl,
        &fields.pck_crl,
        fields.tcb_info_issuer_chain.as_bytes(),
        fields.tcb_info.as_bytes(),
        &fields.tcb_info_signature,
        fields.qe_identity_issuer_chain.as_bytes(),
        fields.qe_identity.as_bytes(),
        &fields.qe_identity_signature,
        fields.pck_certificate_chain.as_deref().unwrap_or_default().as_bytes(),
    ];
    let mut hash = Sha256::new();
    hash.update([u8::from(fields.pck_certificate_chain.is_some())]);
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

impl Own {
    fn read(fields: &QuoteCollateralV3) -> Result<Self, String> {
        let mut documents = vec![
            dated_json("TCB info", &fields.tcb_info)?,
            dated_json("QE identity", &fields.qe_identity)?,
            dated_crl("root CA CRL", &fields.root_ca_crl)?,
            dated_crl("PCK CRL", &fields.pck_crl)?,
        ];
        let (mut seen, mut ends): (Vec<Vec<u8>>, Vec<_>) = (Vec::new(), Vec::new());
        let signers = [
            ("TCB info chain", fields.tcb_info_issuer_chain.as_str()),
            ("QE identity chain", &fields.qe_identity_issuer_chain),
            ("PCK CRL chain", &fields.pck_crl_issuer_chain),
        ];
        for (at, (what, pem)) in signers.into_iter().enumerate() {
            // Intel's signer is the same for both documents.
            if signers[..at].iter().any(|(_, earlier)| *earlier == pem) {
                continue;
            }
            let chain = ders(what, pem)?;
            for der in &chain {
                if !seen.contains(der) {
                    documents.push(dated_certificate(what, der)?);
                    seen.push(der.clone());
                }
            }
            // dcap-qvl takes the issuer of the PCK CRL from the PCK chain.
            if what != "PCK CRL chain" {
                ends.extend(chain.last().and_then(|der| Some((der.clone(), ChainEnd::of(what, der)?))));
            }
        }
        Ok(Own { documents, seen, ends })
    }
}

impl ChainEnd {
    fn of(what: &'static str, der: &[u8]) -> Option<Self> {
        let last = Certificate::from_der(der).ok()?;
        let tbs = last.tbs_certificate();
        Some(ChainEnd {
            what,
            self_issued: tbs.issuer() == tbs.subject(),
            subject: tbs.subject().to_string(),
            key_id: policy::key_id(&last),
            fingerprint: policy::fingerprint(der),
        })
    }
}

/// One dated document, CRL or certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Document {
    /// Which.
    pub what: String,
    /// Issued, or valid from: Unix seconds.
    pub from: u64,
    /// Next update, or valid until: Unix seconds.
    pub until: u64,
}

impl Document {
    /// What is wrong with it at this time, if anything.
    pub(crate) fn fault(&self, at: u64) -> Option<String> {
        if at < self.from {
            return Some(format!("{} is valid only from {}", self.what, time::show(self.from)));
        }
        (at >= self.until).then(|| format!("{} expired {}", self.what, time::show(self.until)))
    }
}

fn dated_certificate(what: &str, der: &[u8]) -> Result<Document, String> {
    let certificate = Certificate::from_der(der).map_err(|e| format!("{what}: {e}"))?;
    let tbs = certificate.tbs_certificate();
    Ok(Document {
        what: format!("certificate `{}`", common_name(tbs.subject())),
        from: tbs.validity().not_before.to_unix_duration().as_secs(),
        until: tbs.validity().not_after.to_unix_duration().as_secs(),
    })
}

/// The certificates of a PEM chain, leaf first, DER; text without any has none. Text between them is nobody's business, as
/// in dcap-qvl: quoting libraries append the NUL of a C string.
pub(crate) fn ders(what: &str, pem: &str) -> Result<Vec<Vec<u8>>, String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut out = Vec::new();
    let mut rest = pem;
    while let Some(start) = rest.find(BEGIN) {
        let end = rest[start..].find(END).ok_or_else(|| format!("{what}: a certificate without its end"))?;
        let (block, after) = rest[start..].split_at(end + END.len());
        let (_, der) =
            x509_cert::der::pem::decode_vec(block.as_bytes()).map_err(|e| format!("{what}: {e}"))?;
        out.push(der);
        if out.len() > MAX_CHAIN {
            return Err(format!("{what}: expected at most {MAX_CHAIN} certificates, found more"));
        }
        rest = after;
    }
    Ok(out)
}

/// The common name alone; the rest of Intel's subjects is the same everywhere.
fn common_name(subject: &x509_cert::name::Name) -> String {
    let full = subject.to_string();
    let name = full.split(',').find_map(|part| part.trim().strip_prefix("CN="));
    name.map_or_else(|| full.clone(), str::to_owned)
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dates {
    issue_date: String,
    next_update: String,
}

fn dated_json(what: &str, json: &str) -> Result<Document, String> {
    let dates: Dates = serde_json::from_str(json).map_err(|e| format!("{what}: {e}"))?;
    let read = |text: &str| time::read(text).ok_or_else(|| format!("{what}: `{text}` is no UTC date"));
    Ok(Document { what: what.into(), from: read(&dates.issue_date)?, until: read(&dates.next_update)? })
}

/// The dates alone: what a CRL lists is dcap-qvl's to read, and may be long.
///
/// RFC 5280, section 5.1: `SEQUENCE { SEQUENCE { version?, signature, issuer, thisUpdate, nextUpdate?, .. }, .. }`
fn dated_crl(what: &str, der: &[u8]) -> Result<Document, String> {
    let read = || -> x509_cert::der::Result<(Time, Option<Time>)> {
        let list = AnyRef::from_der(der)?;
        let tbs = AnyRef::decode(&mut SliceReader::new(list.value())?)?;
        let mut fields = SliceReader::new(tbs.value())?;
        Option::<u8>::decode(&mut fields)?;
        AnyRef::decode(&mut fields)?;
        AnyRef::decode(&mut fields)?;
        Ok((Time::decode(&mut fields)?, Option::<Time>::decode(&mut fields)?))
    };
    let (from, until) = read().map_err(|e| format!("{what}: {e}"))?;
    let until = until.ok_or_else(|| format!("{what}: has no nextUpdate"))?;
    Ok(Document {
        what: what.into(),
        from: from.to_unix_duration().as_secs(),
        until: until.to_unix_duration().as_secs(),
    })
}
