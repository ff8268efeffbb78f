//! Keys and certificates of simulated devices and manifests, P-384, shaped as NVIDIA's.
//!
//! The chains are described as text; a device's own two certificates are made for each device.

use super::der::{bits, integer, octets, oid, seq, set, tagged, time, tlv, truth, utf8};
use crate::SimulatorError;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair,
};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Every certificate that is not a device's own: subject, issuer (its own name for a root) and how many CAs may follow.
const DESCRIPTION: &str = r#"
device-root = { subject = "SIMULATED Device Identity CA", issuer = "device-root" }
device-model = { subject = "SIMULATED GPU Identity", issuer = "device-root" }
device-provisioner = { subject = "SIMULATED GPU Provisioner ICA 1", issuer = "device-model" }
rim-root = { subject = "SIMULATED RIM signing Root CA", issuer = "rim-root" }
rim-model = { subject = "SIMULATED Reference Value CA", issuer = "rim-root" }
rim-driver = { subject = "SIMULATED Reference Value Driver", issuer = "rim-model", ca-below = 0 }
rim-vbios = { subject = "SIMULATED Reference Value VBIOS", issuer = "rim-model", ca-below = 0 }
driver-signer = { subject = "SIMULATED RIM Signer 1", issuer = "rim-driver", leaf = "sign" }
vbios-signer = { subject = "SIMULATED RIM Signer 2", issuer = "rim-vbios", leaf = "sign" }
ocsp = { subject = "SIMULATED OCSP Responder", issuer = "rim-driver", leaf = "ocsp" }
"#;
const ECDSA_SHA384: &str = "1.2.840.10045.4.3.3";
/// Ends in 9999, as NVIDIA's do.
pub(crate) const NO_END: u64 = 253_402_300_799;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Line {
    subject: String,
    issuer: String,
    ca_below: Option<u8>,
    leaf: Option<String>,
}

/// A key with its certificate.
pub(crate) struct Entity {
    fixed: EcdsaKeyPair,
    asn1: EcdsaKeyPair,
    /// DER.
    pub(crate) certificate: Vec<u8>,
    /// Name, DER.
    pub(crate) name: Vec<u8>,
    pub(crate) serial: Vec<u8>,
}

/// What a certificate is to be.
pub(crate) struct Wanted<'a> {
    pub(crate) subject: &'a str,
    pub(crate) from: u64,
    pub(crate) until: u64,
    /// Bits of the key usage: 0x80 for data, 0x04 for certificates.
    pub(crate) usage: u8,
    pub(crate) ca: Option<Option<u8>>,
    pub(crate) extensions: Vec<Vec<u8>>,
}

impl<'a> Wanted<'a> {
    pub(crate) fn leaf(subject: &'a str) -> Self {
        let (from, until, usage, ca) = (0, NO_END, 0x80, None);
        Wanted { subject, from, until, usage, ca, extensions: Vec::new() }
    }

    pub(crate) fn ca(subject: &'a str) -> Self {
        Wanted { usage: 0x06, ca: Some(None), ..Wanted::leaf(subject) }
    }
}

fn random(e: impl std::fmt::Display) -> SimulatorError {
    SimulatorError::Random(e.to_string())
}

impl Entity {
    /// A new key, certified by `issuer` or by itself.
    pub(crate) fn make(wanted: &Wanted<'_>, issuer: Option<&Entity>) -> Result<Self, SimulatorError> {
        let rng = SystemRandom::new();
        let secret = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &rng).map_err(random)?;
        let pair = |algorithm: &'static EcdsaSigningAlgorithm| {
            EcdsaKeyPair::from_pkcs8(algorithm, secret.as_ref(), &rng).map_err(random)
        };
        let (asn1, fixed) = (pair(&ECDSA_P384_SHA384_ASN1_SIGNING)?, pair(&ECDSA_P384_SHA384_FIXED_SIGNING)?);
        let part = |oid_text: &str, text: &str| set(&[seq(&[oid(oid_text), utf8(text)])]);
        let name = seq(&[part("2.5.4.3", wanted.subject), part("2.5.4.10", "Chrysalis")]);
        let serial =
            ring::digest::digest(&ring::digest::SHA256, asn1.public_key().as_ref()).as_ref()[..16].to_vec();
        let mut out = Entity { fixed, asn1, certificate: Vec::new(), name, serial };
        let signer = issuer.unwrap_or(&out);
        let body = out.body(wanted, signer);
        let signature = signer.sign_asn1(&body)?;
        out.certificate = seq(&[body, seq(&[oid(ECDSA_SHA384)]), bits(&signature)]);
        Ok(out)
    }

    fn body(&self, wanted: &Wanted<'_>, issuer: &Entity) -> Vec<u8> {
        let extension = |id: &str, critical: bool, value: Vec<u8>| {
            let flag = if critical { truth() } else { Vec::new() };
            seq(&[oid(id), flag, octets(&value)])
        };
        let mut extensions = vec![
            extension("2.5.29.15", true, tlv(0x03, &[wanted.usage.trailing_zeros() as u8, wanted.usage])),
            extension("2.5.29.14", false, octets(&self.key_id())),
            extension("2.5.29.35", false, seq(&[tlv(0x80, &issuer.key_id())])),
        ];
        if let Some(below) = wanted.ca {
            let below = below.map(|below| integer(&[below])).unwrap_or_default();
            extensions.push(extension("2.5.29.19", true, seq(&[truth(), below])));
        }
        extensions.extend(wanted.extensions.iter().cloned());
        seq(&[
            tagged(0, &integer(&[2])),
            integer(&self.serial),
            seq(&[oid(ECDSA_SHA384)]),
            issuer.name.clone(),
            seq(&[time(wanted.from), time(wanted.until)]),
            self.name.clone(),
            self.key_info(),
            tagged(3, &seq(&extensions)),
        ])
    }

    /// SubjectPublicKeyInfo, DER.
    pub(crate) fn key_info(&self) -> Vec<u8> {
        seq(&[seq(&[oid("1.2.840.10045.2.1"), oid("1.3.132.0.34")]), bits(self.point())])
    }

    /// SEC1 point, uncompressed.
    pub(crate) fn point(&self) -> &[u8] {
        self.asn1.public_key().as_ref()
    }

    fn key_id(&self) -> Vec<u8> {
        ring::digest::digest(&ring::digest::SHA256, self.point()).as_ref()[..20].to_vec()
    }

    /// DER signature.
    pub(crate) fn sign_asn1(&self, bytes: &[u8]) -> Result<Vec<u8>, SimulatorError> {
        let signature = self.asn1.sign(&SystemRandom::new(), bytes).map_err(random)?;
        Ok(signature.as_ref().to_vec())
    }

    /// `r || s`.
    pub(crate) fn sign_fixed(&self, bytes: &[u8]) -> Result<Vec<u8>, SimulatorError> {
        let signature = self.fixed.sign(&SystemRandom::new(), bytes).map_err(random)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// An extension that is not critical.
pub(crate) fn extension(id: &str, value: &[u8]) -> Vec<u8> {
    seq(&[oid(id), octets(value)])
}

/// Everything that is not a device's own.
pub(crate) struct Pki(BTreeMap<String, (Arc<Entity>, String)>);

impl Pki {
    /// The one whose certificates hold always: made once, since keys take their time.
    pub(crate) fn lasting() -> Result<Arc<Self>, SimulatorError> {
        static MADE: OnceLock<Arc<Pki>> = OnceLock::new();
        if let Some(made) = MADE.get() {
            return Ok(made.clone());
        }
        let made = Arc::new(Pki::make(&[])?);
        Ok(MADE.get_or_init(|| made).clone())
    }

    /// Makes every certificate; those named in `windows` hold from and until then, all others always.
    pub(crate) fn make(windows: &[(&str, u64, u64)]) -> Result<Self, SimulatorError> {
        let lines: BTreeMap<String, Line> =
            toml::from_str(DESCRIPTION).map_err(|e| SimulatorError::Description(Box::new(e)))?;
        let mut pki = Pki(BTreeMap::new());
        for id in lines.keys() {
            pki.add(id, &lines, windows)?;
        }
        Ok(pki)
    }

    fn add(
        &mut self,
        id: &str,
        lines: &BTreeMap<String, Line>,
        windows: &[(&str, u64, u64)],
    ) -> Result<(), SimulatorError> {
        let Some(line) = lines.get(id).filter(|_| !self.0.contains_key(id)) else { return Ok(()) };
        let root = line.issuer == id;
        if !root {
            self.add(&line.issuer, lines, windows)?;
        }
        let mut wanted = match line.leaf {
            Some(_) => Wanted::leaf(&line.subject),
            None => Wanted { ca: Some(line.ca_below), ..Wanted::ca(&line.subject) },
        };
        if line.leaf.as_deref() == Some("ocsp") {
            wanted.extensions.push(extension("2.5.29.37", &seq(&[oid("1.3.6.1.5.5.7.3.9")])));
        }
        if let Some((_, from, until)) = windows.iter().find(|(name, ..)| *name == id) {
            (wanted.from, wanted.until) = (*from, *until);
        }
        let issuer = self.0.get(&line.issuer).map(|(entity, _)| entity.clone());
        let entity = Entity::make(&wanted, issuer.as_deref())?;
        self.0.insert(id.to_owned(), (Arc::new(entity), line.issuer.clone()));
        Ok(())
    }

    /// The entity of this name in the description, and its issuers up to the root.
    pub(crate) fn chain(&self, id: &str) -> Vec<Arc<Entity>> {
        let mut out = Vec::new();
        let mut next = id;
        while let Some((entity, issuer)) = self.0.get(next) {
            out.push(entity.clone());
            if issuer == next {
                break;
            }
            next = issuer;
        }
        out
    }

    /// The certificate of this name, DER; empty if the description has none.
    pub(crate) fn der(&self, id: &str) -> Vec<u8> {
        self.0.get(id).map(|(entity, _)| entity.certificate.clone()).unwrap_or_default()
    }
}
