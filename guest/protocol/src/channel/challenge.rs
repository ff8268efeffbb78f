//! The challenge: what a verifier asks, in at most 512 bytes.
//!
//! ```text
//! "CHRYCH02" | 32 bytes nonce | u32 part of the verifier | u32 part wanted | field release (0 or 32 bytes)
//!   | field name, field key of the identity wanted (both empty: none) | u32 GPU demand | u32 seconds
//!   | field solution (0 or 8 bytes)
//! ```

use super::keys::ApplicationKey;
use super::part::Part;
use measure::codec::{CodecError, Reader, put};
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"CHRYCH02";
/// Largest challenge that is read, in bytes; the longest one is 400.
pub const MAX_CHALLENGE: usize = 512;

/// What a verifier wants to see of the attester's GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GpuDemand {
    /// Nothing.
    #[default]
    None,
    /// Reports over a nonce that this challenge and this connection determine.
    Fresh,
    /// Reports that the attester took before, at most so many seconds ago.
    Cached {
        /// Greatest age, in seconds.
        max_age_s: u32,
    },
}

/// What a verifier sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// 32 fresh random bytes.
    pub nonce: [u8; 32],
    /// What the verifier itself is.
    pub from: Part,
    /// What the attester should be.
    pub wants: Part,
    /// The one release that the verifier will accept (`evidence::Release::digest`), if it wants a certain one.
    pub release: Option<[u8; 32]>,
    /// The application key that the attester must have, if a certain one is wanted.
    pub identity: Option<ApplicationKey>,
    /// What is wanted of GPUs.
    pub gpu: GpuDemand,
    /// Answer to the responder's demand for work.
    pub solution: Option<u64>,
}

impl Challenge {
    /// One that wants a part and nothing more.
    pub fn new(nonce: [u8; 32], from: Part, wants: Part) -> Self {
        let (release, identity, gpu, solution) = (None, None, GpuDemand::None, None);
        Challenge { nonce, from, wants, release, identity, gpu, solution }
    }

    /// Encodes for the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.from.to_bytes());
        out.extend_from_slice(&self.wants.to_bytes());
        put(&mut out, self.release.as_ref().map_or(&[], |digest| digest.as_slice()));
        match &self.identity {
            Some(key) => key.put(&mut out),
            None => (0..2).for_each(|_| put(&mut out, &[])),
        }
        let (kind, seconds): (u32, u32) = match self.gpu {
            GpuDemand::None => (0, 0),
            GpuDemand::Fresh => (1, 0),
            GpuDemand::Cached { max_age_s } => (2, max_age_s),
        };
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&seconds.to_be_bytes());
        put(&mut out, self.solution.map(u64::to_be_bytes).as_ref().map_or(&[], |bytes| bytes.as_slice()));
        out
    }

    /// Decodes bytes from a peer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        r.expect("challenge magic", MAGIC)?;
        let mut nonce = [0; 32];
        nonce.copy_from_slice(r.take("nonce", 32)?);
        let from = Part::read(&mut r, "part of the verifier", 40)?;
        let wants = Part::read(&mut r, "part wanted", 44)?;
        let release = exact::<32>(r.field("release", 32)?, "release", 48)?;
        let identity = ApplicationKey::read(&mut r, "identity wanted", 52)?;
        let gpu = read_demand(&mut r)?;
        let solution = exact::<8>(r.field("solution", 8)?, "solution", bytes.len())?;
        r.finish()?;
        let solution = solution.map(u64::from_be_bytes);
        Ok(Challenge { nonce, from, wants, release, identity, gpu, solution })
    }

    /// SHA-256 of the encoding: what a binding commits to.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.to_bytes()).into()
    }
}

/// A field that is empty or of one length.
fn exact<const N: usize>(
    field: &[u8],
    what: &'static str,
    offset: usize,
) -> Result<Option<[u8; N]>, CodecError> {
    if field.is_empty() {
        return Ok(None);
    }
    field.try_into().map(Some).map_err(|_| CodecError::Wrong {
        what,
        offset,
        expected: format!("0 or {N} bytes"),
        found: format!("{} bytes", field.len()),
    })
}

fn read_demand(r: &mut Reader<'_>) -> Result<GpuDemand, CodecError> {
    const WHAT: &str = "GPU demand";
    let kind = r.u32(WHAT)?;
    let seconds = r.u32("greatest age of GPU evidence")?;
    match (kind, seconds) {
        (0, 0) => Ok(GpuDemand::None),
        (1, 0) => Ok(GpuDemand::Fresh),
        (2, max_age_s) => Ok(GpuDemand::Cached { max_age_s }),
        _ => Err(CodecError::Wrong {
            what: WHAT,
            offset: 60,
            expected: "0 (none) or 1 (fresh) with 0 seconds, or 2 (cached)".into(),
            found: format!("{kind} with {seconds} seconds"),
        }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn sample() -> Challenge {
        Challenge {
            nonce: std::array::from_fn(|i| 32 + i as u8),
            from: Part::Proxy,
            wants: Part::Worker,
            release: Some([0x72; 32]),
            identity: Some(ApplicationKey { name: "session".into(), key: vec![0x6b; 32] }),
            gpu: GpuDemand::Cached { max_age_s: 3600 },
            solution: Some(7),
        }
    }

    #[test]
    fn challenges_survive_the_wire_and_fit_their_bound() {
        let bare = Challenge::new([1; 32], Part::Client, Part::Proxy);
        let fresh = Challenge { gpu: GpuDemand::Fresh, ..bare.clone() };
        for challenge in [bare, fresh, sample()] {
            assert_eq!(Challenge::from_bytes(&challenge.to_bytes()).unwrap(), challenge);
        }
        let long = ApplicationKey { name: "a".repeat(32), key: vec![1; 256] };
        let longest = Challenge { identity: Some(long), ..sample() };
        assert_eq!(longest.to_bytes().len(), 400);
        assert_eq!(Challenge::from_bytes(&longest.to_bytes()).unwrap(), longest);
    }

    #[test]
    fn a_challenge_cut_anywhere_or_with_trailing_bytes_is_refused() {
        let mut bytes = sample().to_bytes();
        for end in 0..bytes.len() {
            assert!(Challenge::from_bytes(&bytes[..end]).is_err(), "accepted {end} of {}", bytes.len());
        }
        bytes.push(0);
        assert!(matches!(Challenge::from_bytes(&bytes), Err(CodecError::Trailing { extra: 1, .. })));
    }

    #[test]
    fn a_challenge_of_version_1_is_refused() {
        let bytes = [b"CHRYCH01".as_slice(), &[7; 32]].concat();
        let error = Challenge::from_bytes(&bytes).unwrap_err();
        assert!(matches!(error, CodecError::Wrong { what: "challenge magic", .. }), "{error}");
    }

    #[test]
    fn seconds_without_a_demand_for_cached_evidence_are_refused() {
        let mut bytes = Challenge::new([1; 32], Part::Client, Part::Worker).to_bytes();
        let at = bytes.len() - 5;
        bytes[at] = 9;
        let error = Challenge::from_bytes(&bytes).unwrap_err();
        assert!(matches!(error, CodecError::Wrong { what: "GPU demand", .. }), "{error}");
    }

    proptest! {
        #[test]
        fn hostile_challenges_never_panic_and_have_one_encoding(
            bytes in proptest::collection::vec(any::<u8>(), 0..MAX_CHALLENGE),
            at in 0_usize..200,
            to in any::<u8>(),
        ) {
            let mut near = sample().to_bytes();
            let at = at % near.len();
            near[at] = to;
            for bytes in [[MAGIC.as_slice(), &bytes].concat(), bytes, near] {
                if let Ok(challenge) = Challenge::from_bytes(&bytes) {
                    prop_assert_eq!(challenge.to_bytes(), bytes);
                }
            }
        }
    }
}
