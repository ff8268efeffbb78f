//! Plays the kernel's file of RTMR3 (Linux 6.16 `Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest`) with an
//! ordinary one.
//!
//! ```text
//! 48 bytes written at offset 0 -> register = SHA-384(register || bytes) -> the file holds the register again
//! ```
//! The kernel answers within the write, this file a moment later: a writer reads until it sees the new value. Bytes count
//! as written once two looks in a row find the same, so that no half of a write is ever extended.

use anyhow::{Context, Result, bail};
use measure::Digest384;
use std::fs;
use std::path::{Path, PathBuf};

/// The file below the folder of a device's attributes.
const FILE: &str = "tdx_guest/measurements/rtmr3:sha384";

/// The register and the file that shows it.
pub struct Rtmr3 {
    path: PathBuf,
    value: Digest384,
    /// What the last look found, if that was not the register.
    seen: Option<[u8; 48]>,
}

impl Rtmr3 {
    /// Plays below this folder, from zeros.
    pub fn new(base: &Path) -> Result<Self> {
        let rtmr3 = Rtmr3 { path: base.join(FILE), value: Digest384::ZERO, seen: None };
        let folder = rtmr3.path.parent().unwrap_or(base);
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        rtmr3.show()?;
        Ok(rtmr3)
    }

    /// Looks at the file once.
    pub fn serve(&mut self) -> Result<()> {
        let bytes = fs::read(&self.path).with_context(|| format!("cannot read {}", self.path.display()))?;
        // The kernel would have refused the write; here it is too late for that.
        let Ok(found) = <[u8; 48]>::try_from(bytes) else {
            bail!("{}: expected writes of 48 bytes at offset 0", self.path.display());
        };
        if found == self.value.0 {
            self.seen = None;
        } else if self.seen == Some(found) {
            self.value.extend(&Digest384(found));
            self.seen = None;
            self.show()?;
        } else {
            self.seen = Some(found);
        }
        Ok(())
    }

    /// The register.
    pub fn value(&self) -> Digest384 {
        self.value
    }

    /// Replaces the file as a whole.
    fn show(&self) -> Result<()> {
        let new = self.path.with_extension("new");
        fs::write(&new, self.value.0)
            .and_then(|()| fs::rename(&new, &self.path))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn write(rtmr3: &Rtmr3, digest: &Digest384) {
        fs::OpenOptions::new().write(true).open(&rtmr3.path).unwrap().write_all(&digest.0).unwrap();
    }

    #[test]
    fn a_write_extends_once_and_the_same_digest_extends_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut rtmr3 = Rtmr3::new(dir.path()).unwrap();
        assert_eq!(fs::read(&rtmr3.path).unwrap(), [0; 48]);
        let mut expected = Digest384::ZERO;
        for _ in 0..2 {
            write(&rtmr3, &Digest384([7; 48]));
            expected.extend(&Digest384([7; 48]));
            for _ in 0..4 {
                rtmr3.serve().unwrap();
            }
            assert_eq!(rtmr3.value(), expected);
            assert_eq!(fs::read(&rtmr3.path).unwrap(), expected.0);
        }
    }

    #[test]
    fn bytes_are_extended_only_once_they_are_settled() {
        let dir = tempfile::tempdir().unwrap();
        let mut rtmr3 = Rtmr3::new(dir.path()).unwrap();
        write(&rtmr3, &Digest384([1; 48]));
        rtmr3.serve().unwrap();
        write(&rtmr3, &Digest384([2; 48]));
        rtmr3.serve().unwrap();
        assert_eq!(rtmr3.value(), Digest384::ZERO);
        rtmr3.serve().unwrap();
        let mut expected = Digest384::ZERO;
        expected.extend(&Digest384([2; 48]));
        assert_eq!(rtmr3.value(), expected);
    }

    #[test]
    fn a_write_of_another_length_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut rtmr3 = Rtmr3::new(dir.path()).unwrap();
        fs::write(&rtmr3.path, [1; 47]).unwrap();
        assert!(rtmr3.serve().unwrap_err().to_string().contains("48 bytes"));
    }
}
