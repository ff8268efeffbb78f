//! Certificates of NVIDIA's devices and manifests: ECDSA P-384 with SHA-384 throughout.
//!
//! ```text
//! leaf (the firmware's key) <- device identity <- provisioner <- model <- root, known by its key
//! ```
//! RFC 5280, 6.1: signature, issuer, basic constraints with path length, key usage, key identifiers, no critical extension
//! that is not understood. Validity is told apart ([`window`]), since NVIDIA's leafs begin before their issuers and end in
//! 9999, RFC 5280's "no well-defined expiration" (4.1.2.5). Deliberately absent: revocation, which is [`super::ocsp`]'s.

use super::error::GpuError;
use super::forms::{MAX_CERTIFICATE, MAX_CERTIFICATES};
use ring::signature::{ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use sha2::{Digest, Sha256};
use x509_cert::Certificate;
use x509_cert::der::asn1::{ObjectIdentifier, OctetStringRef};
use x509_cert::der::{Decode, Encode, Header, Reader, SliceReader};
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectKeyIdentifier,
};
use x509_cert::spki::AlgorithmIdentifierOwned;

/// ecdsa-with-SHA384 (RFC 5758, 3.2).
pub(crate) const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const EC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// Critical extensions that are understood: basic constraints, key usage, extended key usage, and of TCG DICE the firmware's
/// identity and the device's, which only names it (UEID).
const UNDERSTOOD: [&str; 6] =
    ["2.5.29.19", "2.5.29.15", "2.5.29.37", super::dice::TCB_INFO, super::dice::TCB_INFO_1, "2.23.133.5.4.4"];
/// 9999-12-31T23:59:59Z, Unix seconds.
const NO_END: u64 = 253_402_300_799;

/// A certificate with what its verification needs.
#[derive(Debug, Clone)]
pub(crate) struct Cert {
    pub(crate) parsed: Certificate,
    /// The signed part, as it stands in `der`.
    tbs: Vec<u8>,
    /// SEC1 point, uncompressed.
    pub(crate) key: Vec<u8>,
}

impl Cert {
    pub(crate) fn parse(der: &[u8]) -> Result<Self, String> {
        if der.len() > MAX_CERTIFICATE {
            return Err(format!("expected at most {MAX_CERTIFICATE} bytes, found {}", der.len()));
        }
        let parsed = Certificate::from_der(der).map_err(|e| e.to_string())?;
        let tbs = signed_part(der).map_err(|e| e.to_string())?;
        let info = parsed.tbs_certificate().subject_public_key_info();
        let curve = info.algorithm.parameters.as_ref().and_then(|p| p.decode_as::<ObjectIdentifier>().ok());
        let key = info.subject_public_key.raw_bytes().to_vec();
        if info.algorithm.oid != EC_KEY || curve != Some(SECP384R1) || key.len() != 97 {
            return Err(format!("expected a P-384 key, found algorithm {}", info.algorithm.oid));
        }
        Ok(Cert { parsed, tbs, key })
    }

    pub(crate) fn subject(&self) -> String {
        self.parsed.tbs_certificate().subject().to_string()
    }

    /// SHA-256 of the public key info, DER: what a root is known by.
    pub(crate) fn key_fingerprint(&self) -> String {
        let info = self.parsed.tbs_certificate().subject_public_key_info();
        info.to_der().map(|der| hex::encode(Sha256::digest(der))).unwrap_or_default()
    }

    pub(crate) fn common_name(&self) -> Option<String> {
        let name = self.parsed.tbs_certificate().subject();
        let found = name.iter().find(|entry| entry.oid == COMMON_NAME)?;
        std::str::from_utf8(found.value.value()).ok().map(str::to_owned)
    }

    pub(crate) fn serial(&self) -> &[u8] {
        self.parsed.tbs_certificate().serial_number().as_bytes()
    }

    /// Content of an extension, if it is there once.
    pub(crate) fn extension(&self, oid: &str) -> Option<&[u8]> {
        let all = self.parsed.tbs_certificate().extensions()?;
        let mut found = all.iter().filter(|e| e.extn_id.to_string() == oid);
        let one = found.next()?;
        found.next().is_none().then(|| one.extn_value.as_bytes())
    }

    /// Whether this key signed these bytes, `r || s`.
    pub(crate) fn signed_fixed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &self.key).verify(bytes, signature).is_ok()
    }

    /// Whether this key signed these bytes, DER signature.
    pub(crate) fn signed_asn1(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, &self.key).verify(bytes, signature).is_ok()
    }

    fn self_issued(&self) -> bool {
        let tbs = self.parsed.tbs_certificate();
        tbs.issuer() == tbs.subject()
    }

    fn get<'a, T>(&'a self) -> Result<Option<T>, String>
    where
        T: Decode<'a, Error = x509_cert::der::Error> + x509_cert::der::oid::AssociatedOid,
    {
        let found = self.parsed.tbs_certificate().get_extension::<T>();
        found
            .map(|f| f.map(|(_, value)| value))
            .map_err(|e| format!("{}: extension {}: {e}", self.subject(), T::OID))
    }

    /// Whether this certificate may stand below `issuer`, which `below` issuers follow down to the leaf.
    pub(crate) fn issued_by(&self, issuer: &Cert, below: usize) -> Result<(), String> {
        let (tbs, name) = (self.parsed.tbs_certificate(), self.subject());
        algorithm(&name, self.parsed.signature_algorithm())?;
        algorithm(&name, tbs.signature())?;
        if tbs.issuer() != issuer.parsed.tbs_certificate().subject() {
            return Err(format!("{name} names as its issuer {}, found {}", tbs.issuer(), issuer.subject()));
        }
        let wanted = self.get::<AuthorityKeyIdentifier>()?.and_then(|id| id.key_identifier);
        let found = issuer.get::<SubjectKeyIdentifier>()?.map(|id| id.0);
        if let (Some(wanted), Some(found)) = (wanted, found)
            && wanted != found
        {
            return Err(format!("{name} names another issuer key than that of {}", issuer.subject()));
        }
        issuer.may_issue(below)?;
        if !issuer.signed_asn1(&self.tbs, self.parsed.signature().raw_bytes()) {
            return Err(format!("the signature of {} under {name} does not hold", issuer.subject()));
        }
        Ok(())
    }

    fn may_issue(&self, below: usize) -> Result<(), String> {
        let name = self.subject();
        let constraints = self.get::<BasicConstraints>()?;
        let Some(constraints) = constraints.filter(|c| c.ca) else {
            return Err(format!("{name} is no CA"));
        };
        if constraints.path_len_constraint.is_some_and(|most| usize::from(most) < below) {
            return Err(format!("{name} allows fewer CAs below it than the {below} that are there"));
        }
        let usage = self.get::<KeyUsage>()?;
        if !usage.is_some_and(|usage| usage.key_cert_sign()) {
            return Err(format!("{name} may not sign certificates"));
        }
        self.no_unknown_critical()
    }

    /// Whether this certificate may sign evidence, and no certificates.
    pub(crate) fn may_sign(&self) -> Result<(), String> {
        let name = self.subject();
        if self.get::<BasicConstraints>()?.is_some_and(|c| c.ca) {
            return Err(format!("{name} is a CA, expected a leaf"));
        }
        if !self.get::<KeyUsage>()?.is_some_and(|usage| usage.digital_signature()) {
            return Err(format!("{name} may not sign data"));
        }
        self.no_unknown_critical()
    }

    /// Whether this certificate may be used for this purpose.
    pub(crate) fn has_purpose(&self, oid: &ObjectIdentifier) -> bool {
        self.get::<ExtendedKeyUsage>().ok().flatten().is_some_and(|usage| usage.0.contains(oid))
    }

    fn no_unknown_critical(&self) -> Result<(), String> {
        let all = self.parsed.tbs_certificate().extensions().into_iter().flatten();
        for extension in all.filter(|e| e.critical) {
            if !UNDERSTOOD.contains(&extension.extn_id.to_string().as_str()) {
                let name = self.subject();
                return Err(format!(
                    "{name} has the critical extension {}, which is not known",
                    extension.extn_id
                ));
            }
        }
        Ok(())
    }

    /// From when to when it holds, Unix seconds; no end if it has none.
    pub(crate) fn window(&self) -> (u64, Option<u64>) {
        let validity = self.parsed.tbs_certificate().validity();
        let until = validity.not_after.to_unix_duration().as_secs();
        (validity.not_before.to_unix_duration().as_secs(), Some(until).filter(|until| *until < NO_END))
    }
}

/// The first element of the outermost sequence, with its own tag and length.
fn signed_part(der: &[u8]) -> x509_cert::der::Result<Vec<u8>> {
    let mut outer = SliceReader::new(der)?;
    Header::decode(&mut outer)?;
    Ok(outer.tlv_bytes()?.to_vec())
}

fn algorithm(name: &str, found: &AlgorithmIdentifierOwned) -> Result<(), String> {
    if found.oid == ECDSA_SHA384 {
        return Ok(());
    }
    Err(format!("{name}: expected a signature with ECDSA and SHA-384, found algorithm {}", found.oid))
}

/// A chain, leaf first, that was read and not verified yet.
#[derive(Debug, Clone)]
pub(crate) struct Chain(pub(crate) Vec<Cert>);

impl Chain {
    /// Reads the certificates.
    pub(crate) fn parse(input: &'static str, ders: &[Vec<u8>]) -> Result<Self, GpuError> {
        GpuError::bound(input, "certificates", MAX_CERTIFICATES, ders.len())?;
        let mut offset = 0;
        let mut out = Vec::with_capacity(ders.len());
        for der in ders {
            let cert = Cert::parse(der).map_err(|why| {
                GpuError::wrong(input, "certificate", offset, "X.509 with a P-384 key", why)
            })?;
            offset += der.len();
            out.push(cert);
        }
        if out.len() < 2 {
            let found = format!("{} certificates", out.len());
            return Err(GpuError::wrong(input, "chain", 0, "a leaf, its issuers and the root", found));
        }
        Ok(Chain(out))
    }

    /// The certificate that signs evidence. A chain has at least two.
    pub(crate) fn leaf(&self) -> &Cert {
        &self.0[0]
    }

    /// The last certificate.
    pub(crate) fn root(&self) -> &Cert {
        &self.0[self.0.len() - 1]
    }

    /// Whether it ends in a self-issued certificate with this key.
    pub(crate) fn ends_in(&self, key_fingerprint: &str) -> Result<(), String> {
        let root = self.root();
        let found = root.key_fingerprint();
        if !root.self_issued() {
            return Err(format!("ends in {}, which is no root", root.subject()));
        }
        if found != key_fingerprint {
            return Err(format!("{}, key SHA-256 {found}", root.subject()));
        }
        Ok(())
    }

    /// Every link, without the times.
    pub(crate) fn verify(&self) -> Result<(), String> {
        self.leaf().may_sign()?;
        for (below, pair) in self.0.windows(2).enumerate() {
            pair[0].issued_by(&pair[1], below)?;
        }
        Ok(())
    }

    /// When all of it holds: from, until.
    pub(crate) fn window(&self) -> (u64, Option<u64>) {
        let windows = self.0.iter().map(Cert::window);
        windows.fold((0, None), |(from, until), (f, u)| (from.max(f), [until, u].into_iter().flatten().min()))
    }

    /// What does not hold at this time, in words.
    pub(crate) fn faults(&self, at: u64) -> Vec<String> {
        let fault = |cert: &Cert| {
            let (from, until) = cert.window();
            let show = crate::time::show;
            if at < from {
                return Some(format!("{} begins {}", cert.subject(), show(from)));
            }
            until.filter(|until| at > *until).map(|until| format!("{} ended {}", cert.subject(), show(until)))
        };
        self.0.iter().filter_map(fault).collect()
    }
}

/// The octets inside an OCTET STRING.
pub(crate) fn octets<'a>(reader: &mut SliceReader<'a>) -> x509_cert::der::Result<&'a [u8]> {
    <&OctetStringRef>::decode(reader).map(OctetStringRef::as_bytes)
}
