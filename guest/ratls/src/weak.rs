//! WEAKER than the channel: a certificate that carries evidence over its own key, for tools that know nothing else.
//!
//! ```text
//! extension 2.23.133.5.4.9 (TCG: tcg-dice-tagged-evidence), not critical:
//!   60000([ quote, claims ])            CBOR; tag 60000 is IANA's for a quote of an Intel TEE
//!   claims = { "pubkey-hash": << [1, SHA-256(SubjectPublicKeyInfo)] >> }
//! report data = SHA-256(claims) | 32 zero bytes
//! ```
//! That is the form of the Confidential Computing Consortium's Interoperable RA-TLS, so what reads that reads this. It says that
//! a guest of these registers made this key, some time ago. It does not say who is at the other end of a connection: whoever
//! has the key is believed, and evidence of it can be relayed. No function here verifies one, [`crate::connect`] turns a
//! peer away that shows nothing else, and its report data is never that of a channel, whose hash fills all 64 bytes
//! (`docs/decisions/0026-a-weaker-certificate.md`).

use crate::tls;
use protocol::{AttestError, Attester};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, PublicKeyData};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// `tcg-dice-tagged-evidence`, by now `tcg-dice-conceptual-message-wrapper`; the Trusted Computing Group owns the arc.
pub const EVIDENCE_OID: [u64; 6] = [2, 23, 133, 5, 4, 9];
/// The same as it stands in a certificate.
const EVIDENCE_OID_DER: [u8; 8] = [6, 6, 0x67, 0x81, 5, 5, 4, 9];
/// Whom the certificate names: what it is worth.
pub const SUBJECT: &str = "WEAKER: evidence over a key, not over this connection";

/// A key in memory and a certificate with evidence over it.
pub struct WeakCertificate {
    identity: tls::Identity,
}

impl WeakCertificate {
    /// Makes key, quote and certificate. Blocks as long as the platform takes for one quote; the key is no channel's.
    pub fn make(attester: &dyn Attester) -> Result<Self, AttestError> {
        // Fails only without entropy, which can't be mended at run time.
        let key = KeyPair::generate().expect("a P-256 key can be made");
        let public_key = key.subject_public_key_info();
        let quote = attester.quote(&report_data(&public_key))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, SUBJECT);
        let evidence = tagged_evidence(&quote, &claims(&public_key));
        params.custom_extensions = vec![CustomExtension::from_oid_content(&EVIDENCE_OID, evidence)];
        let made = params.self_signed(&key).expect("fixed fields and our own key make a certificate");
        let certificate = made.der().clone();
        Ok(WeakCertificate { identity: tls::Identity { certificate, private_key: key.into(), public_key } })
    }

    /// The certificate, DER.
    pub fn der(&self) -> &[u8] {
        &self.identity.certificate
    }

    /// Serves it: TLS 1.3 with the key exchanges that common tools have, and these application protocols.
    pub fn acceptor(&self, alpn: &[&[u8]]) -> Result<WeakAcceptor, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(
                vec![self.identity.certificate.clone()],
                self.identity.private_key.clone_key(),
            )?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(WeakAcceptor(TlsAcceptor::from(Arc::new(config))))
    }
}

/// Accepts TLS connections whose peers learn nothing but the certificate.
#[derive(Clone)]
pub struct WeakAcceptor(TlsAcceptor);

impl WeakAcceptor {
    /// Takes one connection through its TLS handshake, within the deadline of that step.
    pub async fn accept<S>(&self, io: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let deadline = crate::Step::Handshake.deadline();
        tokio::time::timeout(deadline, self.0.accept(io)).await.unwrap_or_else(|late| Err(late.into()))
    }
}

/// Whether a certificate carries evidence, well-formed or not: for the reason that a peer is refused with.
pub(crate) fn is_shown_in(certificate: &CertificateDer<'_>) -> bool {
    certificate.windows(EVIDENCE_OID_DER.len()).any(|window| window == EVIDENCE_OID_DER)
}

/// What the quote is over: a hash that leaves the upper half zero, which a channel's never does.
pub fn report_data(public_key: &[u8]) -> [u8; 64] {
    let mut report_data = [0; 64];
    report_data[..32].copy_from_slice(&Sha256::digest(claims(public_key)));
    report_data
}

/// The claims buffer: a map of one, from text to bytes.
fn claims(public_key: &[u8]) -> Vec<u8> {
    // An array of two: 1, which is SHA-256 in IANA's registry of named information, and the hash.
    let hash_entry = [&[0x82, 0x01, 0x58, 0x20][..], &Sha256::digest(public_key)].concat();
    let mut out = vec![0xa1, 0x6b];
    out.extend(b"pubkey-hash");
    put_bytes(&mut out, &hash_entry);
    out
}

fn tagged_evidence(quote: &[u8], claims: &[u8]) -> Vec<u8> {
    // Tag 60000, then an array of two.
    let mut out = vec![0xd9, 0xea, 0x60, 0x82];
    put_bytes(&mut out, quote);
    put_bytes(&mut out, claims);
    out
}

/// A byte string in the shortest form (RFC 8949 section 4.2.1). A quote is far below 4 GiB.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        len @ 0..=23 => out.push(0x40 | len as u8),
        len @ 24..=0xff => out.extend([0x58, len as u8]),
        len @ 0x100..=0xffff => {
            out.push(0x59);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(0x5a);
            out.extend((len as u32).to_be_bytes());
        }
    }
    out.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_strings_have_the_shortest_heads() {
        for (len, head) in [
            (0, &[0x40][..]),
            (23, &[0x57]),
            (24, &[0x58, 24]),
            (255, &[0x58, 255]),
            (256, &[0x59, 1, 0]),
            (65_536, &[0x5a, 0, 1, 0, 0]),
        ] {
            let mut out = vec![];
            put_bytes(&mut out, &vec![7; len]);
            assert_eq!(&out[..head.len()], head, "{len}");
            assert_eq!(out.len(), head.len() + len);
        }
    }

    #[test]
    fn the_claims_are_a_map_of_the_keys_hash() {
        let claims = claims(b"key");
        assert_eq!(&claims[..13], b"\xa1\x6bpubkey-hash");
        assert_eq!(&claims[13..19], b"\x58\x24\x82\x01\x58\x20");
        assert_eq!(&claims[19..], &Sha256::digest(b"key")[..]);
        assert_eq!(report_data(b"key")[32..], [0; 32]);
        assert_ne!(report_data(b"key"), report_data(b"kez"));
    }
}
