//! Evidence as it travels on a channel: the machine's, the keys that it names, its GPUs', and the place of its binding in a
//! batch.
//!
//! ```text
//! "CHRYCE02" | field evidence of the machine (CHRYEV02) | u32 count, then field name, field key of each application key
//!   | u32 0, or u32 1, field GPU envelope, 32 bytes nonce, u32 age in seconds | field batch proof
//! ```

use super::keys::{ApplicationKeys, MAX_KEY, MAX_KEY_NAME, MAX_KEYS};
use crate::batch::{MAX_PROOF, Proof};
use measure::codec::{CodecError, Reader, put};
use measure::runtime::MAX_RECORD;
use measure::wire::{Evidence, MAX_EVENT_LOG, MAX_QUOTE, MAX_STATIC_CONFIG};

const MAGIC: &[u8; 8] = b"CHRYCE02";
/// Largest evidence of a machine: the sum of its parts' bounds.
pub const MAX_MACHINE: usize = 8 + 5 * 4 + MAX_QUOTE + MAX_EVENT_LOG + MAX_STATIC_CONFIG + MAX_RECORD;
/// Largest envelope of GPU evidence, as `evidence::gpu` reads it.
pub const MAX_ENVELOPE: usize = 1024 * 1024;
/// Largest message where no GPU evidence was asked for.
pub const MAX_SHOWN_WITHOUT_GPU: usize =
    8 + 4 + MAX_MACHINE + 4 + MAX_KEYS * (8 + MAX_KEY_NAME + MAX_KEY) + 4 + 4 + MAX_PROOF;
/// Largest message.
pub const MAX_SHOWN: usize = MAX_SHOWN_WITHOUT_GPU + 4 + MAX_ENVELOPE + 32 + 4;

/// GPU evidence, with what is needed to tell how fresh it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuShown {
    /// Reports and certificates of all devices, in the form of NVIDIA's tools.
    pub envelope: Vec<u8>,
    /// What the reports were asked to contain.
    pub nonce: [u8; 32],
    /// How long ago they were taken, in seconds, by the attester's clock; 0 where the nonce is that of the challenge.
    pub age_s: u32,
}

/// Everything that an attester shows on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Quote, logs and configuration.
    pub machine: Evidence,
    /// What the attester wants believed to be its own.
    pub keys: ApplicationKeys,
    /// GPU evidence, where it was asked for.
    pub gpu: Option<GpuShown>,
    /// Place of the binding among those that share the quote.
    pub batch: Proof,
}

impl Shown {
    /// Encodes for the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        put(&mut out, &self.machine.to_bytes());
        out.extend(self.keys.to_bytes());
        out.extend_from_slice(&u32::from(self.gpu.is_some()).to_be_bytes());
        if let Some(gpu) = &self.gpu {
            put(&mut out, &gpu.envelope);
            out.extend_from_slice(&gpu.nonce);
            out.extend_from_slice(&gpu.age_s.to_be_bytes());
        }
        put(&mut out, &self.batch.to_bytes());
        out
    }

    /// Decodes bytes from a peer. What the parts hold is for the verifier to judge.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        r.expect("evidence magic", MAGIC)?;
        let machine = r.field("evidence of the machine", MAX_MACHINE)?;
        let offset = MAGIC.len() + 4 + machine.len();
        let machine = Evidence::from_bytes(machine)?;
        let keys = ApplicationKeys::read(&mut r, offset)?;
        let gpu = match r.u32("presence of GPU evidence")? {
            0 => None,
            1 => Some(read_gpu(&mut r)?),
            other => {
                return Err(CodecError::Wrong {
                    what: "presence of GPU evidence",
                    offset: offset + keys.to_bytes().len(),
                    expected: "0 (none) or 1".into(),
                    found: other.to_string(),
                });
            }
        };
        let batch = Proof::from_bytes(r.field("batch proof", MAX_PROOF)?)?;
        r.finish()?;
        Ok(Shown { machine, keys, gpu, batch })
    }
}

fn read_gpu(r: &mut Reader<'_>) -> Result<GpuShown, CodecError> {
    let envelope = r.field("GPU envelope", MAX_ENVELOPE)?.to_vec();
    let mut nonce = [0; 32];
    nonce.copy_from_slice(r.take("GPU nonce", 32)?);
    Ok(GpuShown { envelope, nonce, age_s: r.u32("age of GPU evidence")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{MAX_LEAVES, batch};
    use crate::channel::ApplicationKey;
    use measure::wire::{EventLog, LogFormat};
    use proptest::prelude::*;

    /// The last of so many.
    fn of_batch(leaves: usize) -> Proof {
        batch(&vec![[6; 64]; leaves]).unwrap().1.pop().unwrap()
    }

    fn sample() -> Shown {
        let machine = Evidence {
            quote: vec![1; 300],
            event_log: EventLog { format: LogFormat::Ccel, bytes: vec![2; 100] },
            static_config: b"schema = 1\n".to_vec(),
            runtime: vec![3; 60],
        };
        let key = |name: &str| ApplicationKey { name: name.into(), key: vec![4; 32] };
        let keys = ApplicationKeys::new(vec![key("session"), key("billing")]).unwrap();
        let gpu = GpuShown { envelope: b"[]".to_vec(), nonce: [5; 32], age_s: 60 };
        Shown { machine, keys, gpu: Some(gpu), batch: of_batch(3) }
    }

    #[test]
    fn evidence_survives_the_wire() {
        let without =
            Shown { gpu: None, keys: ApplicationKeys::default(), batch: Proof::default(), ..sample() };
        for shown in [sample(), without] {
            assert_eq!(Shown::from_bytes(&shown.to_bytes()).unwrap(), shown);
        }
    }

    #[test]
    fn evidence_cut_anywhere_or_with_trailing_bytes_is_refused() {
        let mut bytes = sample().to_bytes();
        for end in 0..bytes.len() {
            assert!(Shown::from_bytes(&bytes[..end]).is_err(), "accepted {end} of {}", bytes.len());
        }
        bytes.push(0);
        assert!(matches!(Shown::from_bytes(&bytes), Err(CodecError::Trailing { extra: 1, .. })));
    }

    #[test]
    fn the_largest_message_is_the_sum_of_its_parts() {
        let machine = Evidence {
            quote: vec![1; MAX_QUOTE],
            event_log: EventLog { format: LogFormat::Tpm, bytes: vec![2; MAX_EVENT_LOG] },
            static_config: vec![3; MAX_STATIC_CONFIG],
            runtime: vec![3; MAX_RECORD],
        };
        assert_eq!(machine.to_bytes().len(), MAX_MACHINE);
        let name = |n: usize| format!("{n}{}", "a".repeat(MAX_KEY_NAME - 1));
        let keys = (0..MAX_KEYS).map(|n| ApplicationKey { name: name(n), key: vec![4; MAX_KEY] });
        let keys = ApplicationKeys::new(keys.collect()).unwrap();
        let gpu = GpuShown { envelope: vec![5; MAX_ENVELOPE], nonce: [0; 32], age_s: u32::MAX };
        let mut shown = Shown { machine, keys, gpu: Some(gpu), batch: of_batch(MAX_LEAVES) };
        assert_eq!(shown.to_bytes().len(), MAX_SHOWN);
        shown.gpu = None;
        assert_eq!(shown.to_bytes().len(), MAX_SHOWN_WITHOUT_GPU);
    }

    proptest! {
        #[test]
        fn hostile_evidence_never_panics_and_has_one_encoding(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), at in any::<usize>(), to in any::<u8>(),
        ) {
            let mut near = sample().to_bytes();
            let at = at % near.len();
            near[at] = to;
            for bytes in [[MAGIC.as_slice(), &bytes].concat(), bytes, near] {
                if let Ok(shown) = Shown::from_bytes(&bytes) {
                    prop_assert_eq!(shown.to_bytes(), bytes);
                }
            }
        }
    }
}
