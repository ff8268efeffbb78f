//! Keys, signed vouchers, and proof of a checked signature as a value.

use crate::error::VoucherError;
use crate::voucher::Voucher;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// A secret key. It has no `Debug` and no way out but signing; memory is cleared when it goes.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key of a seed, which must be random and secret.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The key that others know it by.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs a voucher.
    pub fn sign<V: Voucher>(&self, voucher: V) -> Signed<V> {
        let signature = self.0.sign(&voucher.encode()).to_bytes();
        Signed { voucher, signature }
    }
}

/// A public key in the prime-order group. Other points have signatures that one verifier takes and another does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Checks 32 bytes; costs about as much as a signature, once for each key.
    ///
    /// # Errors
    /// [`VoucherError::Key`] for bytes that are no point, or one outside the prime-order group.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, VoucherError> {
        let wrong = || VoucherError::Key(hex::encode(bytes));
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| wrong())?;
        let canonical = key.to_edwards().compress().to_bytes() == *bytes;
        if !canonical || key.is_weak() || !key.to_edwards().is_torsion_free() {
            return Err(wrong());
        }
        Ok(Self(key))
    }

    /// The 32 bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The key as the signature crate has it.
    pub(crate) fn inner(&self) -> &VerifyingKey {
        &self.0
    }
}

/// A voucher and a signature that nobody has checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed<V> {
    /// What was signed.
    pub voucher: V,
    /// Ed25519 over [`Voucher::encode`].
    pub signature: [u8; 64],
}

impl<V: Voucher> Signed<V> {
    /// The voucher's bytes, then the signature's.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.voucher.encode();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// Reads what [`Signed::to_bytes`] wrote; says nothing about the signature.
    ///
    /// # Errors
    /// [`VoucherError::Length`] and [`VoucherError::Tag`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, VoucherError> {
        let Some((voucher, signature)) = bytes.split_last_chunk::<64>() else {
            let what = String::from_utf8_lossy(&V::TAG).into_owned();
            return Err(VoucherError::Length { what, expected: V::LENGTH + 64, found: bytes.len() });
        };
        Ok(Self { voucher: V::decode(voucher)?, signature: *signature })
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`VoucherError::Signature`].
    pub fn verify(self, key: &PublicKey) -> Result<Verified<V>, VoucherError> {
        let signature = Signature::from_bytes(&self.signature);
        // Strict refuses what TVM takes (R of small order) and takes nothing that TVM refuses.
        match key.0.verify_strict(&self.voucher.encode(), &signature) {
            Ok(()) => Ok(Verified { signed: self, key: *key }),
            Err(_) => Err(self.refused(key)),
        }
    }

    /// The error for a signature that is not by `key`.
    pub(crate) fn refused(&self, key: &PublicKey) -> VoucherError {
        let what = String::from_utf8_lossy(&V::TAG).into_owned();
        VoucherError::Signature { what, key: hex::encode(key.to_bytes()) }
    }

    /// For a signature by `key` that was checked in a batch.
    pub(crate) fn trusted(self, key: PublicKey) -> Verified<V> {
        Verified { signed: self, key }
    }
}

/// A voucher whose signature was checked; nothing but the check makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified<V> {
    signed: Signed<V>,
    key: PublicKey,
}

impl<V> Verified<V> {
    /// What was signed.
    pub fn voucher(&self) -> &V {
        &self.signed.voucher
    }

    /// With its signature, to be shown to others.
    pub fn signed(&self) -> &Signed<V> {
        &self.signed
    }

    /// The key that it is signed by.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }
}
