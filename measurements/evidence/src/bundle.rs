//! A bundle: everything that an appraisal takes but the policy, in one file that anyone verifies again at a time of their
//! choice.
//!
//! ```text
//! "CHRYBN01" | u32 number of parts | parts: u32 kind | field bytes             all numbers big-endian
//! kinds: 1 quote  2 collateral  3 CCEL  4 TPM log  5 static configuration  6 runtime record  7 reference values
//!        8 report data  9 time taken  10 release  32 GPU evidence  33 driver manifest  34 VBIOS manifest  35 OCSP response
//!        36 nonce of the GPUs' reports
//! ```
//! Canonical: kinds ascend, and only those of GPUs repeat; the same parts always give the same bytes. Unknown kinds are
//! refused. A bundle is not signed: each part proves itself, or is held against what the verifier has. Deliberately absent:
//! the policy, since what is accepted is for the one who verifies to say.

use crate::collateral::{Collateral, CollateralError, MAX_COLLATERAL};
use crate::gpu::{MAX_ENVELOPE, MAX_OCSP};
use crate::reference::{MAX_REFERENCE, Reference, ReferenceError};
use measure::codec::{CodecError, Reader, put};
use measure::runtime::MAX_RECORD;
use measure::wire::{EventLog, LogFormat, MAX_EVENT_LOG, MAX_QUOTE, MAX_STATIC_CONFIG};
use serde::Serialize;
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"CHRYBN01";
/// Most bytes of a bundle that are read.
pub const MAX_BUNDLE: usize = 32 * 1024 * 1024;
/// Most parts in one bundle.
const MAX_PARTS: usize = 256;
/// Largest description of a release.
const MAX_RELEASE: usize = 4 * 1024 * 1024;
/// Largest manifest of a GPU's firmware; NVIDIA's are about 200 KiB.
const MAX_MANIFEST: usize = 4 * 1024 * 1024;

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BundlePart {
    /// TDX quote.
    Quote,
    /// JSON with the fields of QuoteCollateralV3.
    Collateral,
    /// CC event log.
    Ccel,
    /// TPM event log, of a simulated platform.
    TpmLog,
    /// Bytes that MRCONFIGID commits to.
    StaticConfig,
    /// The guest's own events.
    RuntimeRecord,
    /// Reference values (JSON).
    Reference,
    /// What the quote was asked to contain.
    ReportData,
    /// When the evidence was taken: Unix seconds, big-endian.
    TakenAt,
    /// Signed description of the release, as it was published.
    Release,
    /// Evidence of GPUs, as their driver gives it.
    GpuEvidence,
    /// Reference manifest of a GPU's driver.
    DriverRim,
    /// Reference manifest of a GPU's VBIOS.
    VbiosRim,
    /// OCSP response for certificates of a GPU.
    Ocsp,
    /// What the GPUs' reports were asked to contain.
    GpuNonce,
}

/// Kind on the wire, part, most bytes, whether it may repeat.
const PARTS: [(u32, BundlePart, usize, bool); 15] = [
    (1, BundlePart::Quote, MAX_QUOTE, false),
    (2, BundlePart::Collateral, MAX_COLLATERAL, false),
    (3, BundlePart::Ccel, MAX_EVENT_LOG, false),
    (4, BundlePart::TpmLog, MAX_EVENT_LOG, false),
    (5, BundlePart::StaticConfig, MAX_STATIC_CONFIG, false),
    (6, BundlePart::RuntimeRecord, MAX_RECORD, false),
    (7, BundlePart::Reference, MAX_REFERENCE, false),
    (8, BundlePart::ReportData, 64, false),
    (9, BundlePart::TakenAt, 8, false),
    (10, BundlePart::Release, MAX_RELEASE, false),
    (32, BundlePart::GpuEvidence, MAX_ENVELOPE, true),
    (33, BundlePart::DriverRim, MAX_MANIFEST, true),
    (34, BundlePart::VbiosRim, MAX_MANIFEST, true),
    (35, BundlePart::Ocsp, MAX_OCSP, true),
    (36, BundlePart::GpuNonce, 32, false),
];

/// Why bytes are no bundle, or a part does not read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Too many bytes.
    #[error("bundle: expected at most {MAX_BUNDLE} bytes, found {found}; is this file a bundle?")]
    TooLong {
        /// Length of the input.
        found: usize,
    },
    /// The container is broken.
    #[error("bundle: {0}; make it anew with `chrysalis evidence bundle`")]
    Container(#[from] CodecError),
    /// Parts that don't stand where they may.
    #[error("bundle: part {at} is {found}, expected {expected}")]
    Order {
        /// Counted from 0.
        at: usize,
        /// What stands there.
        found: String,
        /// What may.
        expected: &'static str,
    },
    /// A part that every bundle has is missing.
    #[error("bundle: no {0}; a bundle has a quote and collateral at least")]
    Missing(&'static str),
    /// A part of a fixed length has another.
    #[error("bundle: {what} has {found} bytes, expected {expected}")]
    Length {
        /// Which.
        what: &'static str,
        /// Bytes found.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// The collateral does not read.
    #[error(transparent)]
    Collateral(#[from] CollateralError),
    /// The reference values do not read.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

/// One part, for showing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Content {
    /// What it is.
    pub part: BundlePart,
    /// How large.
    pub bytes: usize,
    /// SHA-256, hex.
    pub sha256: String,
}

/// A bundle, taken apart. Nothing in it is verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    parts: Vec<(BundlePart, Vec<u8>)>,
}

impl Bundle {
    /// Puts parts together, in any order.
    pub fn new(mut parts: Vec<(BundlePart, Vec<u8>)>) -> Result<Self, BundleError> {
        parts.sort_by_key(|(part, _)| *part);
        Bundle { parts }.checked()
    }

    /// The one form that these parts have.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&(self.parts.len() as u32).to_be_bytes());
        for (part, bytes) in &self.parts {
            out.extend_from_slice(&kind(*part).0.to_be_bytes());
            put(&mut out, bytes);
        }
        out
    }

    /// Reads hostile bytes; no more than their number is allocated.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > MAX_BUNDLE {
            return Err(BundleError::TooLong { found: bytes.len() });
        }
        let mut r = Reader::new(bytes);
        r.expect("bundle magic", MAGIC)?;
        let count = r.u32("number of parts")? as usize;
        let mut parts = Vec::new();
        for at in 0..count.min(MAX_PARTS + 1) {
            let found = r.u32("kind of a part")?;
            let Some((_, part, max, _)) = PARTS.iter().find(|(kind, ..)| *kind == found) else {
                return Err(BundleError::Order { at, found: found.to_string(), expected: "a known kind" });
            };
            parts.push((*part, r.field("part", *max)?.to_vec()));
        }
        let bundle = Bundle { parts }.checked()?;
        r.finish()?;
        Ok(bundle)
    }

    /// Order, repetition, lengths and what must be there.
    fn checked(self) -> Result<Self, BundleError> {
        if self.parts.len() > MAX_PARTS {
            let found = format!("one of {}", self.parts.len());
            return Err(BundleError::Order { at: MAX_PARTS, found, expected: "256 parts at most" });
        }
        for (at, pair) in self.parts.windows(2).enumerate() {
            let (before, part) = (pair[0].0, pair[1].0);
            let repeats = kind(part).2;
            if part < before || (part == before && !repeats) {
                let found = format!("{part:?} after {before:?}");
                return Err(BundleError::Order { at: at + 1, found, expected: "kinds that ascend" });
            }
        }
        for (part, bytes) in &self.parts {
            let (_, max, _) = kind(*part);
            use BundlePart::{GpuNonce, ReportData, TakenAt};
            let fixed = matches!(part, ReportData | TakenAt | GpuNonce);
            if bytes.len() > max || (fixed && bytes.len() != max) {
                return Err(BundleError::Length { what: name(*part), found: bytes.len(), expected: max });
            }
        }
        for part in [BundlePart::Quote, BundlePart::Collateral] {
            self.part(part).ok_or(BundleError::Missing(name(part)))?;
        }
        Ok(self)
    }

    /// The only part of this kind, or the first.
    pub fn part(&self, part: BundlePart) -> Option<&[u8]> {
        self.parts_of(part).next()
    }

    /// Every part of this kind.
    pub fn parts_of(&self, part: BundlePart) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().filter(move |(found, _)| *found == part).map(|(_, bytes)| bytes.as_slice())
    }

    /// The quote.
    pub fn quote(&self) -> &[u8] {
        self.part(BundlePart::Quote).unwrap_or_default()
    }

    /// The collateral, read.
    pub fn collateral(&self) -> Result<Collateral, BundleError> {
        Ok(Collateral::parse(self.part(BundlePart::Collateral).unwrap_or_default())?)
    }

    /// The reference values, read. They are the bundle's own word: worth as much as whoever gave it.
    pub fn reference(&self) -> Result<Option<Reference>, BundleError> {
        Ok(self.part(BundlePart::Reference).map(Reference::parse).transpose()?)
    }

    /// The event log, a CCEL where there are both.
    pub fn event_log(&self) -> Option<EventLog> {
        let log = |part, format| self.part(part).map(|bytes| EventLog { format, bytes: bytes.to_vec() });
        log(BundlePart::Ccel, LogFormat::Ccel).or_else(|| log(BundlePart::TpmLog, LogFormat::Tpm))
    }

    /// What the quote was asked to contain.
    pub fn report_data(&self) -> Option<[u8; 64]> {
        self.part(BundlePart::ReportData)?.try_into().ok()
    }

    /// When the evidence was taken, as its maker says; Unix seconds.
    pub fn taken_at(&self) -> Option<u64> {
        self.part(BundlePart::TakenAt)?.try_into().ok().map(u64::from_be_bytes)
    }

    /// What is in it, in order.
    pub fn contents(&self) -> Vec<Content> {
        let content = |(part, bytes): &(BundlePart, Vec<u8>)| Content {
            part: *part,
            bytes: bytes.len(),
            sha256: hex::encode(Sha256::digest(bytes)),
        };
        self.parts.iter().map(content).collect()
    }
}

/// Kind on the wire, most bytes, whether it may repeat. Every part has a row.
fn kind(part: BundlePart) -> (u32, usize, bool) {
    let row = PARTS.iter().find(|(_, found, ..)| *found == part);
    row.map_or((0, 0, false), |(kind, _, max, repeats)| (*kind, *max, *repeats))
}

fn name(part: BundlePart) -> &'static str {
    match part {
        BundlePart::Quote => "quote",
        BundlePart::Collateral => "collateral",
        BundlePart::ReportData => "report data",
        BundlePart::TakenAt => "time taken",
        BundlePart::GpuNonce => "nonce of the GPUs' reports",
        _ => "part",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Bundle {
        Bundle::new(vec![
            (BundlePart::DriverRim, vec![3; 10]),
            (BundlePart::Collateral, b"{}".to_vec()),
            (BundlePart::DriverRim, vec![2; 10]),
            (BundlePart::Quote, vec![1; 100]),
            (BundlePart::TakenAt, 7u64.to_be_bytes().to_vec()),
        ])
        .unwrap()
    }

    #[test]
    fn parts_survive_their_bytes_whatever_order_they_were_given_in() {
        let bundle = sample();
        assert_eq!(Bundle::from_bytes(&bundle.to_bytes()).unwrap(), bundle);
        assert_eq!((bundle.quote(), bundle.taken_at()), (&[1u8; 100][..], Some(7)));
        let manifests: Vec<u8> = bundle.parts_of(BundlePart::DriverRim).map(|bytes| bytes[0]).collect();
        assert_eq!(manifests, [3, 2]);
        assert!(bundle.contents().iter().all(|content| content.sha256.len() == 64));
    }

    #[test]
    fn a_part_twice_out_of_order_unknown_or_of_a_wrong_length_is_refused() {
        let two = vec![(BundlePart::Quote, vec![1]), (BundlePart::Quote, vec![2])];
        assert!(matches!(Bundle::new(two), Err(BundleError::Order { at: 1, .. })));
        let short = vec![
            (BundlePart::Quote, vec![1]),
            (BundlePart::Collateral, vec![1]),
            (BundlePart::ReportData, vec![0; 63]),
        ];
        assert!(matches!(Bundle::new(short), Err(BundleError::Length { found: 63, .. })));
        assert!(matches!(
            Bundle::new(vec![(BundlePart::Quote, vec![1])]),
            Err(BundleError::Missing("collateral"))
        ));
        let good = sample().to_bytes();
        let mut unknown = good.clone();
        unknown[15] = 99;
        assert!(matches!(Bundle::from_bytes(&unknown), Err(BundleError::Order { at: 0, .. })));
        let mut trailing = good.clone();
        trailing.push(0);
        assert!(matches!(Bundle::from_bytes(&trailing), Err(BundleError::Container(_))));
        for end in 0..good.len() {
            assert!(Bundle::from_bytes(&good[..end]).is_err(), "{end} bytes");
        }
    }

    #[test]
    fn a_count_that_lies_is_refused_before_anything_is_allocated_for_it() {
        let mut bytes = sample().to_bytes();
        bytes[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(
            Bundle::from_bytes(&bytes),
            Err(BundleError::Container(CodecError::Truncated { .. }))
        ));
    }

    proptest! {
        #[test]
        fn hostile_bundles_never_panic_and_good_ones_are_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let framed = [MAGIC.as_slice(), &[0, 0, 0, 3], &bytes].concat();
            for bytes in [bytes, framed] {
                if let Ok(bundle) = Bundle::from_bytes(&bytes) {
                    prop_assert_eq!(bundle.to_bytes(), bytes);
                }
            }
        }

        #[test]
        fn a_changed_byte_of_a_bundle_is_read_back_as_it_is_or_refused(at: prop::sample::Index, change in 1u8..) {
            let mut bytes = sample().to_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            if let Ok(bundle) = Bundle::from_bytes(&bytes) {
                prop_assert_eq!(bundle.to_bytes(), bytes);
            }
        }
    }
}
