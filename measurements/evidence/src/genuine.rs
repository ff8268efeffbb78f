//! Whether collateral may take the place of older collateral, for those who fetch it: genuine, of the right platform, and
//! holding now.
//!
//! Collateral that refuses the platform (revoked, out of date) is genuine all the same: a node that kept its old copy
//! instead would hide a revocation from itself until that copy expires.

use crate::appraise::{Inputs, verify};
use crate::certificate::ders;
use crate::collateral::Collateral;
use crate::quote::Quote;
use crate::verdict::{Check, CheckName, Status, Verdict};
use crate::{Hex, Policy};
use dcap_qvl::config::{ParsedCert, PckCa, X509Codec};
use dcap_qvl::intel::parse_pck_extension;
use dcap_qvl::x509::X509CertBackend;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use std::fmt;
use x509_cert::Certificate;
use x509_cert::certificate::Rfc5280;
use x509_cert::crl::CertificateList;
use x509_cert::der::{Decode, Encode};

/// For which platforms collateral is published: family, and who issues their certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlatformId {
    /// Family, model, stepping, platform type and custom SKU.
    pub fmspc: Hex<6>,
    /// Whether its PCK certificate is of the Platform CA (else the Processor CA).
    pub platform_ca: bool,
}

impl PlatformId {
    /// Of the quote's own PCK certificate; nothing is verified. The error says what could not be read.
    pub fn of_quote(quote: &[u8]) -> Result<Self, String> {
        let quote = Quote::parse(quote).map_err(|e| e.to_string())?;
        let chain = ders("PCK chain", &String::from_utf8_lossy(&quote.signature.pck_chain))?;
        let der = chain.first().ok_or("PCK chain: empty, expected the platform's certificate first")?;
        let extension = parse_pck_extension(der).map_err(|e| format!("PCK certificate: {e:#}"))?;
        let parsed = X509CertBackend::from_der(der).map_err(|e| format!("PCK certificate: {e:#}"))?;
        Ok(PlatformId { fmspc: Hex(extension.fmspc), platform_ca: parsed.pck_ca() == Some(PckCa::Platform) })
    }

    /// `platform` or `processor`, as the service calls it.
    pub fn ca(&self) -> &'static str {
        if self.platform_ca { PckCa::Platform.as_id_str() } else { PckCa::Processor.as_id_str() }
    }
}

impl fmt::Display for PlatformId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.fmspc, self.ca())
    }
}

/// Checks collateral against a quote of the platform that it was fetched for, under the policy's root, at this time (Unix
/// seconds). The error says which check failed and why.
pub fn genuine(quote: &[u8], collateral: &Collateral, policy: &Policy, at: u64) -> Result<(), String> {
    let (event_log, static_config, runtime, reference, report_data) = (None, None, None, None, None);
    let verdict = verify(&Inputs {
        quote,
        collateral,
        policy,
        event_log,
        static_config,
        runtime,
        reference,
        report_data,
        at,
    });
    use CheckName::*;
    for name in [QuoteFormat, TrustRoot, CollateralWindow, TcbInfo, QeIdentity, Fmspc] {
        if let Some(check) = failed(&verdict, name) {
            return Err(format!("{}: {}", name.as_str(), check.actual));
        }
    }
    match failed(&verdict, PckChain) {
        Some(check) if !crl_is_signed(quote, collateral) => {
            Err(format!("{}: {}; the PCK CRL is not its issuer's", PckChain.as_str(), check.actual))
        }
        _ => Ok(()),
    }
}

fn failed(verdict: &Verdict, name: CheckName) -> Option<&Check> {
    verdict.check(name).filter(|check| check.status == Status::Fail)
}

/// Whether the PCK CRL is signed by the issuer of the quote's PCK certificate: then what it revokes is revoked.
fn crl_is_signed(quote: &[u8], collateral: &Collateral) -> bool {
    let attempt = || -> Option<bool> {
        let quote = Quote::parse(quote).ok()?;
        let chain = ders("", &String::from_utf8_lossy(&quote.signature.pck_chain)).ok()?;
        let crl = CertificateList::<Rfc5280>::from_der(&collateral.fields().pck_crl).ok()?;
        Some(signed_by(&crl, &Certificate::from_der(chain.get(1)?).ok()?))
    };
    attempt().unwrap_or(false)
}

fn signed_by(crl: &CertificateList<Rfc5280>, issuer: &Certificate) -> bool {
    let (Ok(tbs), Some(signature)) = (crl.tbs_cert_list.to_der(), crl.signature.as_bytes()) else {
        return false;
    };
    let key = issuer.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(&tbs, signature).is_ok()
}
