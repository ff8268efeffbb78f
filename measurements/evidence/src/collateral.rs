//! Collateral (Endorsements, in RFC 9334's words): what Intel publishes about platforms, with the time it holds.
//!
//! The form is the usual JSON of `QuoteCollateralV3`: PEM chains and JSON documents as strings, CRLs and signatures as hex.
//! Intel SGX and TDX Provisioning Certification Service API, version 4.

use crate::certificate::{self, Known};
use crate::time;
use dcap_qvl::{QeIdentity, QuoteCollateralV3, TcbInfo};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::sync::Arc;
use x509_cert::der::asn1::AnyRef;
use x509_cert::der::{Decode, SliceReader};
use x509_cert::time::Time;

/// Most bytes of a collateral file that are read; Intel's is about 20 KiB.
pub const MAX_COLLATERAL: usize = 1024 * 1024;

pub(crate) const PCK_CHAIN: &str = "PCK chain";

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
    /// Each certificate that `documents` counts already.
    seen: Vec<Arc<Known>>,
    /// Of which chain, and the certificate in which it ends.
    ends: Vec<(&'static str, Arc<Known>)>,
    info: Result<Arc<TcbInfo>, String>,
    identity: Result<Arc<QeIdentity>, String>,
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
    pub(crate) fn ends(&self) -> impl Iterator<Item = (&'static str, &Known)> {
        self.own.iter().flat_map(|own| &own.ends).map(|(what, end)| (*what, end.as_ref()))
    }

    /// The PCK chain that counts, certificates that are the collateral's as well read only once.
    pub(crate) fn read_pck_chain(&self, from_quote: &[u8]) -> Result<Vec<Arc<Known>>, String> {
        let bytes = self.pck_chain(from_quote);
        let pem = std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed);
        let known = self.own.as_ref().map_or(&[][..], |own| &own.seen);
        certificate::chain(PCK_CHAIN, &pem, known)
    }

    /// Every dated part, those of this PCK chain among them.
    pub(crate) fn with_chain(&self, pck: &Result<Vec<Arc<Known>>, String>) -> Result<Vec<Document>, String> {
        let own = self.own.as_ref().map_err(String::clone)?;
        let mut documents = own.documents.clone();
        let pck = pck.as_ref().map_err(String::clone)?;
        for (at, certificate) in pck.iter().enumerate() {
            if !own.seen.iter().chain(&pck[..at]).any(|earlier| earlier.der() == certificate.der()) {
                documents.push(certificate.document(PCK_CHAIN)?);
            }
        }
        Ok(documents)
    }

    /// TCB info and QE identity as dcap-qvl reads them.
    pub(crate) fn signed(&self) -> Result<(&TcbInfo, &QeIdentity), String> {
        let own = self.own.as_ref().map_err(String::clone)?;
        Ok((own.info.as_deref().map_err(String::clone)?, own.identity.as_deref().map_err(String::clone)?))
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
        let info: Result<TcbInfo, _> = read_json("TCB info", &fields.tcb_info);
        let identity: Result<QeIdentity, _> = read_json("QE identity", &fields.qe_identity);
        let dates = info.as_ref().ok().map(|info| (info.issue_date.as_str(), info.next_update.as_str()));
        let info_dates = dated_json("TCB info", &fields.tcb_info, dates)?;
        let dates = identity.as_ref().ok().map(|qe| (qe.issue_date.as_str(), qe.next_update.as_str()));
        let identity_dates = dated_json("QE identity", &fields.qe_identity, dates)?;
        let mut documents = vec![
            info_dates,
            identity_dates,
            dated_crl("root CA CRL", &fields.root_ca_crl)?,
            dated_crl("PCK CRL", &fields.pck_crl)?,
        ];
        let (mut seen, mut ends): (Vec<Arc<Known>>, Vec<_>) = (Vec::new(), Vec::new());
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
            let chain = certificate::chain(what, pem, &seen)?;
            for certificate in &chain {
                if !seen.iter().any(|earlier| earlier.der() == certificate.der()) {
                    documents.push(certificate.document(what)?);
                    seen.push(certificate.clone());
                }
            }
            // dcap-qvl takes the issuer of the PCK CRL from the PCK chain.
            if what != "PCK CRL chain" {
                ends.extend(chain.last().map(|end| (what, end.clone())));
            }
        }
        Ok(Own { documents, seen, ends, info: info.map(Arc::new), identity: identity.map(Arc::new) })
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

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dates {
    issue_date: String,
    next_update: String,
}

fn read_json<'a, T: serde::Deserialize<'a>>(what: &str, json: &'a str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|e| format!("{what}: {e}"))
}

/// `dates`: issued and next update, where the whole document could be read; else they are read alone.
fn dated_json(what: &str, json: &str, dates: Option<(&str, &str)>) -> Result<Document, String> {
    let read = |text: &str| time::read(text).ok_or_else(|| format!("{what}: `{text}` is no UTC date"));
    let document = |from, until| Ok(Document { what: what.into(), from: read(from)?, until: read(until)? });
    if let Some((from, until)) = dates {
        return document(from, until);
    }
    let dates: Dates = read_json(what, json)?;
    document(&dates.issue_date, &dates.next_update)
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
