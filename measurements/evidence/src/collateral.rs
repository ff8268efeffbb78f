//! Collateral (Endorsements, in RFC 9334's words): what Intel publishes about platforms, with the time it holds.
//!
//! The form is the usual JSON of `QuoteCollateralV3`: PEM chains and JSON documents as strings, CRLs and signatures as hex.
//! Intel SGX and TDX Provisioning Certification Service API, version 4.

use crate::time;
use dcap_qvl::QuoteCollateralV3;
use std::collections::BTreeSet;
use x509_cert::der::{Decode, Encode};

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

/// Collateral for one kind of platform. Nothing in it is verified yet.
#[derive(Debug, Clone)]
pub struct Collateral(pub(crate) QuoteCollateralV3);

impl Collateral {
    /// Reads the JSON form.
    pub fn parse(json: &[u8]) -> Result<Self, CollateralError> {
        if json.len() > MAX_COLLATERAL {
            return Err(CollateralError::TooLong { found: json.len() });
        }
        Ok(Collateral(serde_json::from_slice(json)?))
    }

    /// Writes the JSON form.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(&self.0).unwrap_or_default()
    }

    /// When the first of its parts stops to hold, Unix seconds; `None` if a part can't be read.
    pub fn expires(&self) -> Option<u64> {
        let parts = parts(&self.0, "").ok()?;
        parts.iter().map(|part| part.until).min()
    }
}

impl From<QuoteCollateralV3> for Collateral {
    fn from(fields: QuoteCollateralV3) -> Self {
        Collateral(fields)
    }
}

/// One dated document or certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dated {
    pub(crate) what: String,
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl Dated {
    /// What is wrong with it at this time, if anything.
    pub(crate) fn fault(&self, at: u64) -> Option<String> {
        if at < self.from {
            return Some(format!("{} is valid only from {}", self.what, time::show(self.from)));
        }
        (at >= self.until).then(|| format!("{} expired {}", self.what, time::show(self.until)))
    }
}

/// Every dated part of the collateral and of the quote's own chain.
pub(crate) fn parts(collateral: &QuoteCollateralV3, pck_chain: &str) -> Result<Vec<Dated>, String> {
    let mut parts = vec![
        dated_json("TCB info", &collateral.tcb_info)?,
        dated_json("QE identity", &collateral.qe_identity)?,
        dated_crl("root CA CRL", &collateral.root_ca_crl)?,
        dated_crl("PCK CRL", &collateral.pck_crl)?,
    ];
    let mut seen = BTreeSet::new();
    let chains = [
        ("TCB info chain", collateral.tcb_info_issuer_chain.as_str()),
        ("QE identity chain", &collateral.qe_identity_issuer_chain),
        ("PCK CRL chain", &collateral.pck_crl_issuer_chain),
        ("PCK chain", pck_chain),
    ];
    for (what, pem) in chains {
        for certificate in certificates(what, pem)? {
            if !seen.insert(certificate.to_der().map_err(|e| format!("{what}: {e}"))?) {
                continue;
            }
            let tbs = certificate.tbs_certificate();
            let (from, until) = (tbs.validity().not_before, tbs.validity().not_after);
            parts.push(Dated {
                what: format!("certificate `{}`", common_name(tbs.subject())),
                from: from.to_unix_duration().as_secs(),
                until: until.to_unix_duration().as_secs(),
            });
        }
    }
    Ok(parts)
}

/// The certificates of a PEM chain, leaf first; empty text has none.
pub(crate) fn certificates(what: &str, pem: &str) -> Result<Vec<x509_cert::Certificate>, String> {
    // Quoting libraries append the NUL of a C string.
    let pem = pem.trim_end_matches('\0').trim();
    if pem.is_empty() {
        return Ok(Vec::new());
    }
    let chain = x509_cert::Certificate::load_pem_chain(pem.as_bytes()).map_err(|e| format!("{what}: {e}"))?;
    if chain.len() > MAX_CHAIN {
        return Err(format!("{what}: expected at most {MAX_CHAIN} certificates, found {}", chain.len()));
    }
    Ok(chain)
}

/// The PCK chain that counts: the collateral's where it brings one, else the quote's.
pub(crate) fn pck_chain(collateral: &QuoteCollateralV3, from_quote: &[u8]) -> String {
    match &collateral.pck_certificate_chain {
        Some(chain) => chain.clone(),
        None => String::from_utf8_lossy(from_quote).into_owned(),
    }
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

fn dated_json(what: &str, json: &str) -> Result<Dated, String> {
    let dates: Dates = serde_json::from_str(json).map_err(|e| format!("{what}: {e}"))?;
    let read = |text: &str| time::read(text).ok_or_else(|| format!("{what}: `{text}` is no UTC date"));
    Ok(Dated { what: what.into(), from: read(&dates.issue_date)?, until: read(&dates.next_update)? })
}

fn dated_crl(what: &str, der: &[u8]) -> Result<Dated, String> {
    let list: x509_cert::crl::CertificateList<x509_cert::certificate::Rfc5280> =
        x509_cert::crl::CertificateList::from_der(der).map_err(|e| format!("{what}: {e}"))?;
    let until = list.tbs_cert_list.next_update.ok_or_else(|| format!("{what}: has no nextUpdate"))?;
    Ok(Dated {
        what: what.into(),
        from: list.tbs_cert_list.this_update.to_unix_duration().as_secs(),
        until: until.to_unix_duration().as_secs(),
    })
}
