//! The handoff disk: how the host gives a guest its configuration.
//!
//! ```text
//! "CHRYHO02" | field static configuration | field runtime configuration
//!            | u32 number of files | field name, field bytes of each | zeros to a multiple of 512
//! ```
//! The host writes it, so the guest trusts none of it: the static part must hash to MRCONFIGID, the runtime part can't affect
//! safety, and a file is believed only where the static part names its hash or others signed it (collateral).
//! Version 1 had no files.

pub use measure::wire::SimulatedPlatform;

use crate::evidence::MAX_STATIC_CONFIG;
use measure::codec::{CodecError, Reader, put};

const MAGIC: &[u8; 8] = b"CHRYHO02";
const MAX_RUNTIME_CONFIG: usize = 64 * 1024;
/// Most files.
pub const MAX_FILES: usize = 16;
/// Largest file, in bytes; collateral is about 20 KiB.
pub const MAX_FILE: usize = 1024 * 1024;
const MAX_NAME: usize = 64;
/// No handoff disk is larger than this; a reader needs no more bytes.
pub const MAX_SIZE: usize =
    8 + 4 + MAX_STATIC_CONFIG + 4 + MAX_RUNTIME_CONFIG + 4 + MAX_FILES * (8 + MAX_NAME + MAX_FILE) + 512;
/// Name of the file with the collateral that the guest's peers are appraised with.
pub const COLLATERAL_FILE: &str = "collateral.json";
/// Name of the file with the publication that the guest starts from, as `release::Bundle` writes it.
pub const PUBLICATION_FILE: &str = "publication";

/// Name of the file with what GPU evidence is held against, the guest's own and its peers': manifests and OCSP responses, as
/// `evidence::gpu::GpuCollateral` reads it.
pub const GPU_COLLATERAL_FILE: &str = "gpu-collateral.json";

/// A file that the host hands over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// 1 to 64 lower-case letters, digits, `-` or `.`, the first of them a letter or digit.
    pub name: String,
    /// Contents, at most [`MAX_FILE`] bytes.
    pub bytes: Vec<u8>,
}

/// Both parts of the configuration, as bytes, and files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handoff {
    /// Bound by MRCONFIGID; see [`crate::config::StaticConfig`].
    pub static_config: Vec<u8>,
    /// Unmeasured; see [`crate::config::RuntimeConfig`].
    pub runtime_config: Vec<u8>,
    /// At most [`MAX_FILES`], by name, each name once.
    pub files: Vec<File>,
}

impl Handoff {
    /// The bytes of the disk, a multiple of 512.
    pub fn to_disk(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        put(&mut out, &self.static_config);
        put(&mut out, &self.runtime_config);
        // More than fit are refused by every reader.
        out.extend_from_slice(&u32::try_from(self.files.len()).unwrap_or(u32::MAX).to_be_bytes());
        for file in &self.files {
            put(&mut out, file.name.as_bytes());
            put(&mut out, &file.bytes);
        }
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }

    /// Reads the front of a disk; padding is ignored.
    pub fn from_disk(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        r.expect("handoff magic", MAGIC)?;
        let static_config = r.field("static configuration", MAX_STATIC_CONFIG)?.to_vec();
        let runtime_config = r.field("runtime configuration", MAX_RUNTIME_CONFIG)?.to_vec();
        let files = files(&mut r)?;
        Ok(Handoff { static_config, runtime_config, files })
    }
}

fn files(r: &mut Reader<'_>) -> Result<Vec<File>, CodecError> {
    let count = r.u32("number of files")?;
    let wrong = |what, expected: &str, found: String| CodecError::Wrong {
        what,
        offset: 0,
        expected: expected.into(),
        found,
    };
    if count as usize > MAX_FILES {
        return Err(wrong("number of files", "at most 16", count.to_string()));
    }
    let mut files: Vec<File> = Vec::new();
    for _ in 0..count {
        let name = r.field("name of a file", MAX_NAME)?;
        let name = match std::str::from_utf8(name) {
            Ok(name) if is_name(name) => name.to_owned(),
            _ => {
                let expected = "lower-case letters, digits, '-' or '.', the first a letter or digit";
                return Err(wrong("name of a file", expected, name.escape_ascii().to_string()));
            }
        };
        if files.last().is_some_and(|last| last.name >= name) {
            return Err(wrong("name of a file", "names in order, each once", name));
        }
        files.push(File { name, bytes: r.field("file", MAX_FILE)?.to_vec() });
    }
    Ok(files)
}

fn is_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    name.bytes().all(inner) && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(name: &str) -> File {
        File { name: name.into(), bytes: name.into() }
    }

    #[test]
    fn names_that_are_no_plain_file_or_stand_twice_are_refused() {
        let read = |files: &[&str]| {
            let files = files.iter().map(|name| file(name)).collect();
            Handoff::from_disk(&Handoff { files, ..Handoff::default() }.to_disk())
        };
        assert!(read(&["collateral.json", "root.der"]).is_ok());
        for bad in [&["../x"][..], &[".."], &[""], &["A"], &["a/b"], &["b", "a"], &["a", "a"]] {
            assert!(matches!(read(bad), Err(CodecError::Wrong { .. })), "accepted {bad:?}");
        }
        let many: Vec<String> = (0..17).map(|i| format!("f{i:02}")).collect();
        assert!(read(&many.iter().map(String::as_str).collect::<Vec<_>>()).is_err());
    }

    #[test]
    fn a_handoff_survives_the_disk() {
        let files = vec![file("a"), file("b.json")];
        let handoff = Handoff { static_config: b"schema = 1".to_vec(), runtime_config: vec![], files };
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
