//! The attestation exchange that follows the TLS handshake, and what a quote's report data binds.
//!
//! ```text
//! verifier                                attester
//!    |---- TLS 1.3 handshake, ALPN chrysalis/1 ----|
//!    |---- frame: Challenge (nonce) --------------->|
//!    |<--- frame: Evidence (quote over binding) ----|
//!    |---- HTTP/1.1 on the same connection -------->|
//! ```
//! A frame is a big-endian `u32` length and that many bytes. The binding covers the TLS exporter of this very
//! connection (RFC 8446 section 7.5), so evidence relayed from or to another connection does not match.

use measure::codec::{CodecError, Reader, put};
use sha2::{Digest, Sha512};

/// Exporter label (RFC 5705), 32 bytes are taken with an empty context.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-chrysalis-channel-1";
/// Domain tag of the binding.
const BINDING_TAG: &[u8] = b"chrysalis/channel/1";
const CHALLENGE_MAGIC: &[u8; 8] = b"CHRYCH01";
/// Largest frame accepted before a peer is attested.
pub const MAX_FRAME: usize = 1024 * 1024;

/// What a verifier sends first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// 32 fresh random bytes.
    pub nonce: [u8; 32],
}

impl Challenge {
    /// Encodes for the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        [CHALLENGE_MAGIC.as_slice(), &self.nonce].concat()
    }

    /// Decodes bytes from a peer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        r.expect("challenge magic", CHALLENGE_MAGIC)?;
        let mut nonce = [0; 32];
        nonce.copy_from_slice(r.take("nonce", 32)?);
        r.finish()?;
        Ok(Challenge { nonce })
    }
}

/// What the report data of a channel's quote commits to.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// TLS exporter of the connection.
    pub exporter: &'a [u8; 32],
    /// The verifier's nonce.
    pub nonce: &'a [u8; 32],
    /// DER of the attester's SubjectPublicKeyInfo.
    pub public_key: &'a [u8],
}

impl Binding<'_> {
    /// 64 bytes of report data: SHA-512 over the domain tag and each field, all length-prefixed.
    pub fn report_data(&self) -> [u8; 64] {
        let mut transcript = Vec::new();
        put(&mut transcript, BINDING_TAG);
        put(&mut transcript, self.exporter);
        put(&mut transcript, self.nonce);
        put(&mut transcript, self.public_key);
        Sha512::digest(&transcript).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_binding_matters() {
        let base = Binding { exporter: &[1; 32], nonce: &[2; 32], public_key: b"key" };
        let other_exporter = Binding { exporter: &[9; 32], ..base };
        let other_nonce = Binding { nonce: &[9; 32], ..base };
        let other_key = Binding { public_key: b"kez", ..base };
        for changed in [other_exporter, other_nonce, other_key] {
            assert_ne!(base.report_data(), changed.report_data());
        }
    }

    #[test]
    fn a_challenge_with_trailing_bytes_is_refused() {
        let mut bytes = Challenge { nonce: [7; 32] }.to_bytes();
        assert_eq!(Challenge::from_bytes(&bytes).unwrap().nonce, [7; 32]);
        bytes.push(0);
        assert!(matches!(Challenge::from_bytes(&bytes), Err(CodecError::Trailing { extra: 1, .. })));
    }
}
