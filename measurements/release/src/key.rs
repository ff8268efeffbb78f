//! Ed25519 keys: public ones as TUF and the consumer's settings write them, private ones as PKCS#8 files.
//!
//! ```text
//! TUF key object  {"keytype":"ed25519","keyval":{"public":"64 hex"},"scheme":"ed25519"}
//! key id          SHA-256 of its canonical form
//! private key     PEM "PRIVATE KEY" around PKCS#8 version 1 (RFC 8410): what `openssl genpkey -algorithm ed25519` writes
//! ```
//! No other algorithm: one that is not there can't be chosen by an attacker.

use crate::error::ReleaseError;
use crate::json::Value;
use base64::Engine;
use measure::Digest256;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Everything of RFC 8410's PrivateKeyInfo before the 32 bytes of the seed.
const PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
const PEM_LABEL: &str = "PRIVATE KEY";
/// Longest key file that is read.
const MAX_PEM: usize = 1024;

/// A public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads the key object of TUF; `None` for another algorithm, which is no error but never counts.
    pub(crate) fn from_tuf(value: &Value) -> Option<Self> {
        let text = |key: &str| match value.get(key) {
            Some(Value::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        let ed25519 = text("keytype")? == "ed25519" && text("scheme")? == "ed25519";
        match value.get("keyval")?.get("public")? {
            Value::Text(public) if ed25519 => public.parse().ok(),
            _ => None,
        }
    }

    /// The key object of TUF.
    pub(crate) fn to_tuf(self) -> Value {
        let text = |text: &str| Value::Text(text.to_owned());
        let public = Value::Map([("public".to_owned(), Value::Text(self.to_string()))].into());
        let fields = [("keytype", text("ed25519")), ("keyval", public), ("scheme", text("ed25519"))];
        Value::Map(fields.map(|(key, value)| (key.to_owned(), value)).into())
    }

    /// How metadata and statements name it.
    pub fn id(&self) -> Digest256 {
        Digest256::of(&self.to_tuf().canonical())
    }

    /// Whether the signature is this key's over these bytes.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for PublicKey {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut key = [0; 32];
        hex::decode_to_slice(text, &mut key)?;
        Ok(PublicKey(key))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.to_string())
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(|e| {
            serde::de::Error::custom(format!("expected an Ed25519 public key, 64 hex digits: {e}"))
        })
    }
}

/// A private key. It shows itself nowhere.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public)
    }
}

impl SigningKey {
    /// The key of this seed, which must come from a good source.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, ReleaseError> {
        let bad = |_| ReleaseError::value("key", "seed", "refused", "32 random bytes");
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(bad)?;
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Ok(SigningKey { pair, public: PublicKey(public) })
    }

    /// Reads a key file. `what` names it in errors; its contents are never shown.
    pub fn from_pem(what: &str, pem: &str) -> Result<Self, ReleaseError> {
        let expected =
            "an Ed25519 key as `openssl genpkey -algorithm ed25519` or `chrysalis release init` writes it";
        let bad = |found: &str| ReleaseError::value(what, "private key", found, expected);
        if pem.len() > MAX_PEM {
            return Err(bad("too long"));
        }
        let (begin, end) = pem_lines();
        let body = pem.trim().strip_prefix(begin.as_str()).and_then(|rest| rest.strip_suffix(end.as_str()));
        let body: String = body.ok_or_else(|| bad("no PEM `PRIVATE KEY`"))?.split_whitespace().collect();
        let der = base64::prelude::BASE64_STANDARD.decode(body).map_err(|_| bad("no base64"))?;
        let seed = der.strip_prefix(&PKCS8).and_then(|seed| <&[u8; 32]>::try_from(seed).ok());
        Self::from_seed(seed.ok_or_else(|| bad("another kind of key"))?)
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

/// First and last line of a key file.
fn pem_lines() -> (String, String) {
    (format!("-----BEGIN {PEM_LABEL}-----"), format!("-----END {PEM_LABEL}-----"))
}

/// A seed as the text of a key file.
pub fn seed_to_pem(seed: &[u8; 32]) -> String {
    let der = [&PKCS8[..], seed].concat();
    let (begin, end) = pem_lines();
    format!("{begin}\n{}\n{end}\n", base64::prelude::BASE64_STANDARD.encode(der))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_comes_back_and_signs() {
        let key = SigningKey::from_pem("k.pem", &seed_to_pem(&[7; 32])).unwrap();
        let signature = key.sign(b"message");
        assert!(key.public().verifies(b"message", &signature));
        assert!(!key.public().verifies(b"massage", &signature));
        assert!(!key.public().verifies(b"message", &signature[..63]));
        assert_eq!(PublicKey::from_tuf(&key.public().to_tuf()), Some(key.public()));
    }

    #[test]
    fn the_first_vector_of_rfc_8032_is_met() {
        let mut seed = [0; 32];
        hex::decode_to_slice("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", &mut seed)
            .unwrap();
        let key = SigningKey::from_seed(&seed).unwrap();
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(key.public().to_string(), public);
    }

    #[test]
    fn another_kind_of_key_is_refused_without_showing_it() {
        let (begin, end) = pem_lines();
        let rsa = format!("{begin}\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n{end}\n");
        let no_base64 = format!("{begin}\n%%%\n{end}");
        for text in [rsa.as_str(), "secret", &no_base64] {
            let error = SigningKey::from_pem("k.pem", text).unwrap_err().to_string();
            assert!(
                error.contains("k.pem") && !error.contains("MIIE") && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
