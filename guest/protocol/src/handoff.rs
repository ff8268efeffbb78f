//! The handoff disk: how the host gives a guest its configuration.
//!
//! ```text
//! "CHRYHO01" | field static configuration | field runtime configuration | zeros to a multiple of 512
//! ```
//! The host writes it, so the guest trusts none of it: the static part must hash to MRCONFIGID, and the runtime part
//! can't affect safety.

pub use measure::wire::SimulatedPlatform;

use crate::evidence::MAX_STATIC_CONFIG;
use measure::codec::{CodecError, Reader, put};

const MAGIC: &[u8; 8] = b"CHRYHO01";
const MAX_RUNTIME_CONFIG: usize = 64 * 1024;
/// No handoff disk is larger than this; a reader needs no more bytes.
pub const MAX_SIZE: usize = 8 + 4 + MAX_STATIC_CONFIG + 4 + MAX_RUNTIME_CONFIG + 512;

/// Both parts of the configuration, as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handoff {
    /// Bound by MRCONFIGID; see [`crate::config::StaticConfig`].
    pub static_config: Vec<u8>,
    /// Unmeasured; see [`crate::config::RuntimeConfig`].
    pub runtime_config: Vec<u8>,
}

impl Handoff {
    /// The bytes of the disk, a multiple of 512.
    pub fn to_disk(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        put(&mut out, &self.static_config);
        put(&mut out, &self.runtime_config);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }

    /// Reads the front of a disk; padding is ignored.
    pub fn from_disk(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        r.expect("handoff magic", MAGIC)?;
        let static_config = r.field("static configuration", MAX_STATIC_CONFIG)?.to_vec();
        let runtime_config = r.field("runtime configuration", MAX_RUNTIME_CONFIG)?.to_vec();
        Ok(Handoff { static_config, runtime_config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_handoff_survives_the_disk() {
        let handoff = Handoff { static_config: b"schema = 1".to_vec(), runtime_config: vec![] };
        let disk = handoff.to_disk();
        assert_eq!(disk.len() % 512, 0);
        assert_eq!(Handoff::from_disk(&disk).unwrap(), handoff);
    }

    #[test]
    fn an_empty_disk_is_refused_by_its_magic() {
        let error = Handoff::from_disk(&[0; 512]).unwrap_err();
        assert!(matches!(error, CodecError::Wrong { what: "handoff magic", .. }));
    }

    proptest! {
        #[test]
        fn hostile_disks_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Handoff::from_disk(&bytes);
            let _ = Handoff::from_disk(&[MAGIC.as_slice(), &bytes].concat());
        }
    }
}
