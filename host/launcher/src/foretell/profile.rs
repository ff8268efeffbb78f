//! Predictions that remember the firmware: its own measurements are computed once a firmware file, then read back.
//!
//! ```text
//! code --SHA-256--> <cache>/firmware/<hash>.json --checked--> predict_with      a few ms
//!                           |  absent, damaged, of another program or owner
//!                           '--> predict_keeping, then written                  unpacks LZMA
//! ```
//! The entry is host-side and unmeasured, but a wrong one would make wrong predictions. So it is used only if it is
//! this user's alone, names this firmware, was written by this very program file, and hashes to what it says; all else
//! is computed anew and overwritten. Whoever can write such an entry can write this program as well.
//!
//! Deliberately absent: errors about the cache (one that can't be used costs time, nothing else), and a limit on its
//! size (an entry has about a KiB, and there is one a firmware file).

use measure::{Digest256, FirmwareProfile, Inputs, MeasureError, Platform, Prediction, TdxOptions};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Form of an entry.
const SCHEMA: u32 = 2;
/// No entry is longer.
const MAX_ENTRY: u64 = 16 * 1024;
/// Permission bits that let others write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A folder of firmware profiles, one file a firmware.
#[derive(Debug, Clone)]
pub struct ProfileCache {
    folder: PathBuf,
    program: String,
}

/// What a file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    content: Content,
    /// SHA-256 of `content` as compact JSON.
    sha256: Digest256,
}

/// What is hashed of an entry.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    schema: u32,
    /// SHA-256 of the code volume.
    firmware: Digest256,
    /// What it was made for: a trust domain measures no volumes.
    platform: Platform,
    /// The program file that wrote it.
    program: String,
    profile: FirmwareProfile,
}

impl Content {
    fn hash(&self) -> Option<Digest256> {
        Some(Digest256::of(&serde_json::to_vec(self).ok()?))
    }
}

impl ProfileCache {
    /// The user's: `$CHRYSALIS_CACHE`, else `$XDG_CACHE_HOME/chrysalis`, else `~/.cache/chrysalis`. `None` where there
    /// is no such folder to be had.
    pub fn of_user() -> Option<Self> {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = var("CHRYSALIS_CACHE")
            .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("chrysalis")))
            .or_else(|| var("HOME").map(|dir| dir.join(".cache/chrysalis")));
        Some(ProfileCache::of(&folder?, this_program()?))
    }

    fn of(cache: &Path, program: String) -> Self {
        ProfileCache { folder: cache.join("firmware"), program }
    }

    /// As [`measure::predict`], with the firmware's part from this cache where it is there.
    pub fn predict(&self, inputs: &Inputs<'_>) -> Result<Prediction, MeasureError> {
        if inputs.platform == Platform::Tdx {
            return self.predict_tdx(inputs, &TdxOptions::default());
        }
        let firmware = Digest256::of(inputs.firmware_code);
        if let Some(profile) = self.load(Platform::Emulated, firmware) {
            return measure::predict_with(&profile, inputs);
        }
        let (prediction, profile) = measure::predict_keeping(inputs)?;
        let _ = self.store(Platform::Emulated, firmware, profile);
        Ok(prediction)
    }

    /// As [`measure::predict_tdx`], with the firmware's profile from this cache where it is there.
    pub fn predict_tdx(
        &self,
        inputs: &Inputs<'_>,
        options: &TdxOptions<'_>,
    ) -> Result<Prediction, MeasureError> {
        let firmware = Digest256::of(inputs.firmware_code);
        if let Some(profile) = self.load(Platform::Tdx, firmware) {
            return measure::predict_tdx_with(&profile, inputs, options);
        }
        let Ok(profile) = FirmwareProfile::of_tdvf(inputs.firmware_code) else {
            // A td-shim, or nothing that can be foretold.
            return measure::predict_tdx(inputs, options);
        };
        let prediction = measure::predict_tdx_with(&profile, inputs, options)?;
        let _ = self.store(Platform::Tdx, firmware, profile);
        Ok(prediction)
    }

    fn path(&self, platform: Platform, firmware: Digest256) -> PathBuf {
        let platform = if platform == Platform::Tdx { "tdx" } else { "emulated" };
        self.folder.join(format!("{firmware}.{platform}.json"))
    }

    fn load(&self, platform: Platform, firmware: Digest256) -> Option<FirmwareProfile> {
        let file = File::open(self.path(platform, firmware)).ok()?;
        let metadata = file.metadata().ok()?;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & WRITABLE_BY_OTHERS != 0
        {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(MAX_ENTRY).read_to_end(&mut bytes).ok()?;
        let Entry { content, sha256 } = serde_json::from_slice(&bytes).ok()?;
        let ours = content.schema == SCHEMA
            && content.firmware == firmware
            && content.platform == platform
            && content.program == self.program
            && content.hash() == Some(sha256);
        ours.then_some(content.profile)
    }

    /// Writes an entry under a name of its own and renames it, so that a reader sees all of it or none.
    fn store(&self, platform: Platform, firmware: Digest256, profile: FirmwareProfile) -> Option<()> {
        let program = self.program.clone();
        let content = Content { schema: SCHEMA, firmware, platform, program, profile };
        let sha256 = content.hash()?;
        let bytes = serde_json::to_vec(&Entry { content, sha256 }).ok()?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).ok()?;
        let scratch = self.folder.join(format!(".{firmware}.{}", std::process::id()));
        // What a killed process of the same number left.
        let _ = fs::remove_file(&scratch);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&scratch);
        let written = file.and_then(|mut file| file.write_all(&bytes));
        let placed = written.and_then(|()| fs::rename(&scratch, self.path(platform, firmware)));
        if placed.is_err() {
            let _ = fs::remove_file(&scratch);
        }
        placed.ok()
    }
}

/// Which program file this is: a rebuilt or reinstalled one may compute otherwise. The inode's change time can't be set
/// by whoever installs, unlike its modification time, which reproducible packages all give the same value.
fn this_program() -> Option<String> {
    let file = fs::metadata("/proc/self/exe").ok()?;
    Some(format!(
        "inode {}, {} bytes, changed {}.{:09}",
        file.ino(),
        file.size(),
        file.ctime(),
        file.ctime_nsec()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const PLATFORM: Platform = Platform::Emulated;

    /// A profile whose digests are all `byte`.
    fn profile(byte: u8) -> FirmwareProfile {
        let (long, short) = (format!("{byte:02x}").repeat(48), format!("{byte:02x}").repeat(32));
        let digests = serde_json::json!({ "Ok": { "sha384": long, "sha256": short } });
        serde_json::from_value(serde_json::json!({
            "version": digests,
            "pei": { "Err": { "reason": "the timer's place is not unique" } },
            "dxe": digests,
            "boot_manager": { "volume": vec![byte; 16], "has_ui_app": true, "has_menu": false, "has_shell": false },
            "kernel_loader": { "named_blobs": { "Ok": true }, "initrd_argument": { "Ok": "before" } },
            "separator": { "Ok": "rtmr1" },
            "secure_boot": false,
            "measures_smbios": false,
        }))
        .unwrap()
    }

    fn cache() -> (tempfile::TempDir, ProfileCache, Digest256) {
        let dir = tempfile::tempdir().unwrap();
        let cache = ProfileCache::of(dir.path(), this_program().unwrap());
        (dir, cache, Digest256::of(b"firmware"))
    }

    #[test]
    fn a_stored_profile_is_found_for_its_firmware_only() {
        let (_dir, cache, firmware) = cache();
        assert!(cache.load(PLATFORM, firmware).is_none());
        cache.store(PLATFORM, firmware, profile(1)).unwrap();
        assert_eq!(cache.load(PLATFORM, firmware), Some(profile(1)));
        let other = Digest256::of(b"another firmware");
        assert!(cache.load(PLATFORM, other).is_none());
        fs::copy(cache.path(PLATFORM, firmware), cache.path(PLATFORM, other)).unwrap();
        assert!(cache.load(PLATFORM, other).is_none(), "an entry under another firmware's name");
        fs::copy(cache.path(PLATFORM, firmware), cache.path(Platform::Tdx, firmware)).unwrap();
        assert!(cache.load(Platform::Tdx, firmware).is_none(), "an entry under another platform's name");
    }

    #[test]
    fn an_entry_of_another_program_is_computed_anew() {
        let (dir, cache, firmware) = cache();
        ProfileCache::of(dir.path(), "an older build".into()).store(PLATFORM, firmware, profile(1)).unwrap();
        assert!(cache.load(PLATFORM, firmware).is_none());
        cache.store(PLATFORM, firmware, profile(2)).unwrap();
        assert_eq!(cache.load(PLATFORM, firmware), Some(profile(2)));
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), 1, "nothing is left beside the entry");
    }

    #[test]
    fn no_changed_byte_changes_the_profile() {
        let (_dir, cache, firmware) = cache();
        cache.store(PLATFORM, firmware, profile(1)).unwrap();
        let path = cache.path(PLATFORM, firmware);
        let entry = fs::read(&path).unwrap();
        for at in 0..entry.len() {
            let mut damaged = entry.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert!(
                cache.load(PLATFORM, firmware).is_none(),
                "byte {at}: {}",
                String::from_utf8_lossy(&damaged)
            );
        }
        fs::write(&path, &entry[..entry.len() - 1]).unwrap();
        assert!(cache.load(PLATFORM, firmware).is_none(), "cut short");
        fs::write(&path, &entry).unwrap();
        assert_eq!(cache.load(PLATFORM, firmware), Some(profile(1)));
    }

    #[test]
    fn an_entry_that_others_may_write_is_not_read() {
        let (_dir, cache, firmware) = cache();
        cache.store(PLATFORM, firmware, profile(1)).unwrap();
        for (mode, read) in [(0o620, false), (0o602, false), (0o644, true)] {
            fs::set_permissions(cache.path(PLATFORM, firmware), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(cache.load(PLATFORM, firmware).is_some(), read, "{mode:o}");
        }
    }

    #[test]
    fn a_firmware_that_is_none_is_refused_and_leaves_no_entry() {
        let (_dir, cache, firmware) = cache();
        let shape = measure::Shape::new(1, 512);
        let inputs = Inputs {
            platform: Platform::Emulated,
            boot: measure::Boot::Direct,
            shape: &shape,
            firmware_code: b"firmware",
            firmware_vars: b"",
            payload: None,
            disk_head: None,
        };
        assert!(cache.predict(&inputs).is_err());
        assert!(!cache.path(PLATFORM, firmware).exists());
    }
}
