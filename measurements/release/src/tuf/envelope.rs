//! Signed metadata as they lie on the mirror: what is signed, and by whom.

use super::role::Authority;
use crate::error::ReleaseError;
use crate::json::Value;
use serde::Deserialize;
use std::collections::BTreeSet;

/// Most signatures of a file that are looked at.
const MAX_SIGNATURES: usize = 64;

/// Parsed, not verified.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    what: String,
    signed: Value,
    signatures: Vec<Signature>,
}

#[derive(Debug, Clone, Deserialize)]
struct Signature {
    keyid: String,
    sig: String,
}

impl Envelope {
    pub(crate) fn parse(what: &str, bytes: &[u8], max: usize) -> Result<Self, ReleaseError> {
        let whole = Value::parse(what, bytes, max)?;
        let missing = |field: &str| ReleaseError::value(what, field, "missing", "`signatures` and `signed`");
        let signed = whole.get("signed").ok_or_else(|| missing("signed"))?.clone();
        let signatures = whole.get("signatures").ok_or_else(|| missing("signatures"))?;
        let signatures: Vec<Signature> = signatures.read(what)?;
        if signatures.len() > MAX_SIGNATURES {
            let expected = format!("at most {MAX_SIGNATURES}");
            return Err(ReleaseError::value(what, "signatures", signatures.len(), expected));
        }
        Ok(Envelope { what: what.into(), signed, signatures })
    }

    /// What was signed, if enough different keys of the authority did. A key that signs twice, under one id or two, is one.
    pub(crate) fn verified(&self, authority: &Authority) -> Result<&Value, ReleaseError> {
        let message = self.signed.canonical();
        let (mut signers, mut why) = (BTreeSet::new(), Vec::new());
        for Signature { keyid, sig } in &self.signatures {
            let short = keyid.get(..8).unwrap_or(keyid);
            let Some(key) = authority.keys.get(keyid) else {
                why.push(format!("{short}: not a key of {}", authority.role));
                continue;
            };
            let valid = hex::decode(sig).is_ok_and(|signature| key.verifies(&message, &signature));
            if !valid {
                why.push(format!("{short}: wrong signature"));
            } else if !signers.insert(*key) {
                why.push(format!("{short}: signed twice, counts once"));
            }
        }
        let valid = signers.len() as u32;
        if valid < authority.threshold {
            let (what, role) = (self.what.clone(), authority.role.to_string());
            return Err(ReleaseError::Signatures { what, role, threshold: authority.threshold, valid, why });
        }
        Ok(&self.signed)
    }

    /// Key ids and signatures, for whoever adds one; those that are no hex are left out.
    pub(crate) fn signatures(&self) -> impl Iterator<Item = (&str, Vec<u8>)> {
        let decoded = |signature: &'_ Signature| hex::decode(&signature.sig).ok();
        self.signatures.iter().filter_map(move |one| Some((one.keyid.as_str(), decoded(one)?)))
    }

    /// What was signed, by whomever: to find out who should have.
    pub(crate) fn unverified(&self) -> &Value {
        &self.signed
    }
}
