//! What the report data of a channel's quote commits to.
//!
//! ```text
//! SHA-512( field "chrysalis/channel/2" | field direction | field part of the attester | field part of the verifier
//!   | field exporter | field SHA-256 of the challenge | field attester's key | field verifier's key
//!   | field application keys | field GPU )
//! key: DER of the SubjectPublicKeyInfo in the responder's certificate; an initiator shows none, and its key is empty
//! GPU: empty, or SHA-256 of the envelope | nonce | u32 age in seconds
//! ```
//! Each field is of another length or behind a length, so no two lists of fields are the same bytes.

use super::keys::ApplicationKeys;
use super::part::{Direction, Part};
use super::shown::GpuShown;
use measure::codec::put;
use sha2::{Digest, Sha256, Sha512};

/// Exporter label (RFC 5705, RFC 8446 section 7.5); 32 bytes are taken with an empty context.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-chrysalis-channel-2";
const TAG: &[u8] = b"chrysalis/channel/2";
const GPU_TAG: &[u8] = b"chrysalis/gpu-nonce/1";

/// The fields of one binding.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// Which end of the connection attests.
    pub direction: Direction,
    /// What the attester is.
    pub attester: Part,
    /// What the verifier is.
    pub verifier: Part,
    /// TLS exporter of the connection.
    pub exporter: &'a [u8; 32],
    /// SHA-256 of the verifier's challenge as it was sent, with nonce, release, identity and demand in it.
    pub challenge: &'a [u8; 32],
    /// DER of the SubjectPublicKeyInfo in the responder's certificate, whichever end attests.
    pub responder_key: &'a [u8],
    /// What the attester names as its own.
    pub keys: &'a ApplicationKeys,
    /// GPU evidence that goes with it.
    pub gpu: Option<&'a GpuShown>,
}

impl Binding<'_> {
    /// 64 bytes: the report data of a quote that is not shared, or a leaf of a batch.
    pub fn report_data(&self) -> [u8; 64] {
        let (attester_key, verifier_key): (&[u8], &[u8]) = match self.direction {
            Direction::Initiator => (&[], self.responder_key),
            Direction::Responder => (self.responder_key, &[]),
        };
        let mut transcript = Vec::new();
        put(&mut transcript, TAG);
        put(&mut transcript, &self.direction.to_bytes());
        put(&mut transcript, &self.attester.to_bytes());
        put(&mut transcript, &self.verifier.to_bytes());
        put(&mut transcript, self.exporter);
        put(&mut transcript, self.challenge);
        put(&mut transcript, attester_key);
        put(&mut transcript, verifier_key);
        put(&mut transcript, &self.keys.to_bytes());
        let gpu = self.gpu.map(|gpu| {
            let envelope: [u8; 32] = Sha256::digest(&gpu.envelope).into();
            [envelope.as_slice(), &gpu.nonce, &gpu.age_s.to_be_bytes()].concat()
        });
        put(&mut transcript, &gpu.unwrap_or_default());
        Sha512::digest(&transcript).into()
    }
}

/// The nonce of fresh GPU evidence: SHA-256 over tag, exporter, the challenge's SHA-256 and the attester's direction, each a
/// field. It is known to nobody before the challenge, and is of this connection alone.
pub fn gpu_nonce(exporter: &[u8; 32], challenge: &[u8; 32], direction: Direction) -> [u8; 32] {
    let mut input = Vec::new();
    put(&mut input, GPU_TAG);
    put(&mut input, exporter);
    put(&mut input, challenge);
    put(&mut input, &direction.to_bytes());
    Sha256::digest(&input).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::ApplicationKey;

    #[test]
    fn every_field_of_the_binding_matters() {
        let key = ApplicationKey { name: "session".into(), key: vec![1] };
        let keys = ApplicationKeys::new(vec![key]).unwrap();
        let none = ApplicationKeys::default();
        let gpu = GpuShown { envelope: b"[]".to_vec(), nonce: [4; 32], age_s: 5 };
        let older = GpuShown { age_s: 6, ..gpu.clone() };
        let other_nonce = GpuShown { nonce: [5; 32], ..gpu.clone() };
        let other_envelope = GpuShown { envelope: b"[1]".to_vec(), ..gpu.clone() };
        let base = Binding {
            direction: Direction::Responder,
            attester: Part::Worker,
            verifier: Part::Proxy,
            exporter: &[1; 32],
            challenge: &[2; 32],
            responder_key: b"key",
            keys: &none,
            gpu: Some(&gpu),
        };
        let all = [
            base,
            Binding { direction: Direction::Initiator, ..base },
            Binding { attester: Part::Proxy, ..base },
            Binding { verifier: Part::Client, ..base },
            Binding { exporter: &[9; 32], ..base },
            Binding { challenge: &[9; 32], ..base },
            Binding { responder_key: b"kez", ..base },
            Binding { responder_key: b"", ..base },
            Binding { keys: &keys, ..base },
            Binding { gpu: None, ..base },
            Binding { gpu: Some(&older), ..base },
            Binding { gpu: Some(&other_nonce), ..base },
            Binding { gpu: Some(&other_envelope), ..base },
        ];
        for (i, one) in all.iter().enumerate() {
            for other in &all[..i] {
                assert_ne!(one.report_data(), other.report_data(), "{one:?} and {other:?}");
            }
        }
    }

    #[test]
    fn every_input_of_the_gpu_nonce_matters() {
        let base = gpu_nonce(&[1; 32], &[2; 32], Direction::Responder);
        assert_ne!(base, gpu_nonce(&[9; 32], &[2; 32], Direction::Responder));
        assert_ne!(base, gpu_nonce(&[1; 32], &[9; 32], Direction::Responder));
        assert_ne!(base, gpu_nonce(&[1; 32], &[2; 32], Direction::Initiator));
    }
}
