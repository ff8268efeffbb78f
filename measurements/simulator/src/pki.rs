//! Keys, certificates and CRLs of the simulated platform, shaped as Intel's (Intel SGX PCK Certificate and Certificate
//! Revocation List Profile Specification).

use crate::SimulatorError;
use p256::ecdsa::{DerSignature, Signature, SigningKey, signature::Signer};
use p256::elliptic_curve::Generate;
use std::str::FromStr;
use std::time::Duration;
use x509_cert::Certificate;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder, CertificateBuilder, CrlBuilder};
use x509_cert::certificate::{Rfc5280, TbsCertificate};
use x509_cert::crl::RevokedCert;
use x509_cert::der::asn1::{OctetString, UtcTime};
use x509_cert::der::{Encode, EncodePem, pem::LineEnding};
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, CrlNumber, KeyUsage, KeyUsages, SubjectKeyIdentifier,
};
use x509_cert::ext::{Extension, ToExtension};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};
use x509_cert::time::{Time, Validity};

/// A key with its certificate.
#[derive(Clone)]
pub(crate) struct Entity {
    pub(crate) key: SigningKey,
    pub(crate) certificate: Certificate,
}

/// What a certificate is to be.
pub(crate) struct Wanted {
    /// Common name; the rest of the subject is the same everywhere.
    pub(crate) name: &'static str,
    pub(crate) serial: u32,
    /// How many CAs may follow it; none for a leaf.
    pub(crate) ca_below: Option<u8>,
    /// Extensions of its own.
    pub(crate) extensions: Vec<Extension>,
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl Entity {
    /// Makes a key and its certificate, signed by `issuer` or by itself.
    pub(crate) fn make(wanted: Wanted, issuer: Option<&Entity>) -> Result<Self, SimulatorError> {
        let key = new_key()?;
        let what = wanted.name;
        let certificate = certify(wanted, &key, issuer).map_err(|reason| failed(what, reason))?;
        Ok(Entity { key, certificate })
    }

    /// This key under the name of another.
    pub(crate) fn named(&self, other: &Entity) -> Entity {
        Entity { key: self.key.clone(), certificate: other.certificate.clone() }
    }

    pub(crate) fn der(&self) -> Result<Vec<u8>, SimulatorError> {
        self.certificate.to_der().map_err(|e| failed("certificate", e))
    }

    /// This certificate and those of its issuers, as PEM.
    pub(crate) fn chain(&self, issuers: &[&Entity]) -> Result<String, SimulatorError> {
        let mut pem = String::new();
        for entity in [self].iter().chain(issuers) {
            pem += &entity.certificate.to_pem(LineEnding::LF).map_err(|e| failed("certificate chain", e))?;
        }
        Ok(pem)
    }

    /// `r || s` over the bytes, ECDSA P-256 with SHA-256.
    pub(crate) fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        sign(&self.key, bytes)
    }

    /// The list of certificates that this one revokes, DER.
    pub(crate) fn crl(&self, revoked: &[u32], from: u64, until: u64) -> Result<Vec<u8>, SimulatorError> {
        self.build_crl(revoked, from, until).map_err(|e| failed("CRL", e))
    }

    fn build_crl(
        &self,
        revoked: &[u32],
        from: u64,
        until: u64,
    ) -> Result<Vec<u8>, x509_cert::builder::Error> {
        let number = CrlNumber::try_from(1u128)?;
        let mut crl = CrlBuilder::<Rfc5280>::new_with_this_update(&self.certificate, number, time(from)?)?
            .with_next_update(Some(time(until)?));
        if !revoked.is_empty() {
            let revocation_date = time(from)?;
            let entry = |serial: &u32| RevokedCert {
                serial_number: SerialNumber::from(*serial),
                revocation_date,
                crl_entry_extensions: None,
            };
            crl = crl.with_certificates(revoked.iter().map(entry));
        }
        Ok(crl.build::<_, DerSignature>(&self.key)?.to_der()?)
    }
}

/// A key that nobody has seen.
pub(crate) fn new_key() -> Result<SigningKey, SimulatorError> {
    SigningKey::try_generate().map_err(|e| SimulatorError::Random(e.to_string()))
}

pub(crate) fn sign(key: &SigningKey, bytes: &[u8]) -> [u8; 64] {
    let signature: Signature = key.sign(bytes);
    signature.to_bytes().into()
}

/// `x || y` of the key's point.
pub(crate) fn public_point(key: &SigningKey) -> [u8; 64] {
    let point = key.verifying_key().to_sec1_point(false);
    let mut out = [0; 64];
    out.copy_from_slice(&point.as_bytes()[1..]);
    out
}

fn failed(what: &'static str, reason: impl ToString) -> SimulatorError {
    SimulatorError::Certificate { what, reason: reason.to_string() }
}

fn time(at: u64) -> x509_cert::der::Result<Time> {
    Ok(Time::UtcTime(UtcTime::from_unix_duration(Duration::from_secs(at))?))
}

fn certify(
    wanted: Wanted,
    key: &SigningKey,
    issuer: Option<&Entity>,
) -> Result<Certificate, x509_cert::builder::Error> {
    let subject = Name::from_str(&format!("CN={},O=Chrysalis,C=XX", wanted.name))?;
    let issuer_name = match issuer {
        Some(issuer) => issuer.certificate.tbs_certificate().subject().clone(),
        None => subject.clone(),
    };
    let profile =
        Profile { issuer: issuer_name, subject, ca_below: wanted.ca_below, extensions: wanted.extensions };
    let public = SubjectPublicKeyInfoOwned::from_key(key.verifying_key())?;
    let validity = Validity::new(time(wanted.from)?, time(wanted.until)?);
    let builder = CertificateBuilder::new(profile, SerialNumber::from(wanted.serial), validity, public)?;
    builder.build::<_, DerSignature>(issuer.map_or(key, |issuer| &issuer.key))
}

/// Extensions as in Intel's certificates: basic constraints, key usage and key identifiers.
struct Profile {
    issuer: Name,
    subject: Name,
    ca_below: Option<u8>,
    extensions: Vec<Extension>,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, _subject: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        key: SubjectPublicKeyInfoRef<'_>,
        issuer_key: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        let constraints =
            BasicConstraints { ca: self.ca_below.is_some(), path_len_constraint: self.ca_below };
        let usage = match self.ca_below {
            Some(_) => KeyUsages::KeyCertSign | KeyUsages::CRLSign,
            None => KeyUsages::DigitalSignature | KeyUsages::NonRepudiation,
        };
        let issuer_id = SubjectKeyIdentifier::try_from(issuer_key)?;
        let authority =
            AuthorityKeyIdentifier { key_identifier: Some(issuer_id.0), ..AuthorityKeyIdentifier::default() };
        let subject = tbs.subject();
        let mut all = vec![
            authority.to_extension(subject, &[])?,
            SubjectKeyIdentifier::try_from(key)?.to_extension(subject, &[])?,
            KeyUsage(usage).to_extension(subject, &[])?,
            constraints.to_extension(subject, &[])?,
        ];
        all.extend(self.extensions.iter().cloned());
        Ok(all)
    }
}

/// An extension that is not critical.
pub(crate) fn extension(
    oid: x509_cert::der::oid::ObjectIdentifier,
    der: Vec<u8>,
) -> Result<Extension, SimulatorError> {
    let extn_value = OctetString::new(der).map_err(|e| failed("extension", e))?;
    Ok(Extension { extn_id: oid, critical: false, extn_value })
}
