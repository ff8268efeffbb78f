//! What a client must not forget of a vault, on disk: written whole beside the old file, synced, renamed, synced.
//!
//! ```text
//! {"schema":1,"global_id":..,"vault":"0:..","used":..,"allowed":..,"day":..,"at_dawn":..,"check":"first 16 hex digits"}
//! ```
//! A crash leaves the old file or the new one, never a part. `check` is over all other fields, so that a file that a disk or
//! an editor changed is refused, not believed. The folder is locked: two gateways with one vault would each allow what the
//! other doesn't know of.

use payment::Address;
use payment::client::Ledger;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Why what is kept can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The disk says no.
    #[error("{path}: can't {what}: {source}; nothing was allowed by it")]
    Disk {
        /// File or folder.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// Somebody else has the folder.
    #[error(
        "{path}: another gateway has this folder; stop it, or give each its own --state and its own vaults"
    )]
    Taken {
        /// The folder.
        path: PathBuf,
    },
    /// The file is not what was written.
    #[error(
        "{path}: {reason}; restore it from a copy that is not older, or close the vault: what was allowed can't be known"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// The file's fields.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    schema: u32,
    global_id: i32,
    vault: String,
    used: u64,
    allowed: u64,
    day: u64,
    at_dawn: u64,
    check: String,
}

/// A folder that one gateway has for itself.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Locked until this process ends, however it ends.
    _lock: File,
}

impl Folder {
    /// Makes and locks a folder.
    ///
    /// # Errors
    /// [`KeepError`].
    pub fn open(path: &Path) -> Result<Self, KeepError> {
        let disk = |what| move |source| KeepError::Disk { path: path.into(), what, source };
        fs::create_dir_all(path).map_err(disk("make the folder"))?;
        let file = path.join("lock");
        let lock = File::create(&file).map_err(disk("make the lock"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.into(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(KeepError::Taken { path: path.into() }),
            Err(error) => Err(disk("lock the folder")(error.into())),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The place of one vault, with what was kept there; nothing was allowed yet where there is no file.
    ///
    /// # Errors
    /// [`KeepError`].
    pub fn vault(&self, global_id: i32, vault: Address) -> Result<(Keep, Ledger), KeepError> {
        let path = self.path.join(format!("vault-{}.json", hex::encode(vault.hash)));
        let keep = Keep { path, global_id, vault };
        let ledger = keep.load()?;
        Ok((keep, ledger))
    }
}

/// Where one vault's ledger is kept.
#[derive(Debug)]
pub struct Keep {
    path: PathBuf,
    global_id: i32,
    vault: Address,
}

impl Keep {
    fn load(&self) -> Result<Ledger, KeepError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ledger::default()),
            Err(source) => return Err(self.disk("read", source)),
        };
        let changed = |reason: String| KeepError::Changed { path: self.path.clone(), reason };
        let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| changed(error.to_string()))?;
        let ledger = Ledger { used: kept.used, allowed: kept.allowed, day: kept.day, at_dawn: kept.at_dawn };
        let expected = self.kept(&ledger);
        let pairs = [
            ("schema", kept.schema.to_string(), expected.schema.to_string()),
            ("global_id", kept.global_id.to_string(), expected.global_id.to_string()),
            ("vault", kept.vault, expected.vault),
            ("check", kept.check, expected.check),
        ];
        match pairs.into_iter().find(|(_, found, expected)| found != expected) {
            None => Ok(ledger),
            Some((field, found, expected)) => {
                Err(changed(format!("`{field}` is {found}, {expected} expected")))
            }
        }
    }

    /// Replaces what is kept; it is on disk when this returns.
    ///
    /// # Errors
    /// [`KeepError::Disk`]; then what was kept before still is.
    pub fn save(&self, ledger: &Ledger) -> Result<(), KeepError> {
        // A struct of numbers and strings always has a JSON.
        let mut bytes = serde_json::to_vec(&self.kept(ledger)).unwrap_or_default();
        bytes.push(b'\n');
        let fresh = self.path.with_extension("new");
        let write = || {
            let mut file = File::create(&fresh)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &self.path)?;
            // The new name is on disk only when the folder is.
            File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(|source| self.disk("write", source))
    }

    fn kept(&self, ledger: &Ledger) -> Kept {
        let Ledger { used, allowed, day, at_dawn } = *ledger;
        let (global_id, vault) = (self.global_id, self.vault.to_string());
        let text = format!("chrysalis/kept/1 {global_id} {vault} {used} {allowed} {day} {at_dawn}");
        let check = hex::encode(&Sha256::digest(text.as_bytes())[..8]);
        Kept { schema: 1, global_id, vault, used, allowed, day, at_dawn, check }
    }

    fn disk(&self, what: &'static str, source: io::Error) -> KeepError {
        KeepError::Disk { path: self.path.clone(), what, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VAULT: Address = Address { workchain: 0, hash: [7; 32] };
    const LEDGER: Ledger = Ledger { used: 5, allowed: 900, day: 20_000, at_dawn: 3 };

    #[test]
    fn what_was_saved_is_what_is_loaded_and_nothing_is_allowed_without_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let (keep, ledger) = folder.vault(-3, VAULT).unwrap();
        assert_eq!(ledger, Ledger::default());
        keep.save(&LEDGER).unwrap();
        assert_eq!(folder.vault(-3, VAULT).unwrap().1, LEDGER);
    }

    #[test]
    fn a_second_gateway_is_kept_out_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = Folder::open(dir.path()).unwrap();
        assert!(matches!(Folder::open(dir.path()), Err(KeepError::Taken { .. })));
        drop(first);
        assert!(Folder::open(dir.path()).is_ok());
    }

    #[test]
    fn a_file_that_was_changed_is_refused_with_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let (keep, _) = folder.vault(-3, VAULT).unwrap();
        keep.save(&LEDGER).unwrap();
        let text = fs::read_to_string(&keep.path).unwrap();
        let refused = |text: &str| {
            fs::write(&keep.path, text).unwrap();
            folder.vault(-3, VAULT).unwrap_err().to_string()
        };
        // Less than was allowed: a proxy could then be refused, or worse, be believed.
        assert!(refused(&text.replace("\"allowed\":900", "\"allowed\":100")).contains("`check`"));
        for cut in 0..text.len() - 1 {
            let error = refused(&text[..cut]);
            assert!(error.contains("restore it"), "{cut}: {error}");
        }
        fs::write(&keep.path, &text).unwrap();
        assert!(folder.vault(-239, VAULT).unwrap_err().to_string().contains("`global_id`"));
    }

    #[test]
    fn a_disk_that_takes_nothing_leaves_what_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let (keep, _) = folder.vault(-3, VAULT).unwrap();
        keep.save(&LEDGER).unwrap();
        // A folder stands where the new file would be written.
        fs::create_dir(keep.path.with_extension("new")).unwrap();
        assert!(matches!(keep.save(&Ledger::default()), Err(KeepError::Disk { what: "write", .. })));
        assert_eq!(folder.vault(-3, VAULT).unwrap().1, LEDGER);
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_refused_or_changes_nothing(at in 0usize..300, bits in 1u8..) {
            let dir = tempfile::tempdir().unwrap();
            let folder = Folder::open(dir.path()).unwrap();
            let (keep, _) = folder.vault(-3, VAULT).unwrap();
            keep.save(&LEDGER).unwrap();
            let mut bytes = fs::read(&keep.path).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= bits;
            fs::write(&keep.path, &bytes).unwrap();
            // White space at the end means nothing.
            prop_assert!(folder.vault(-3, VAULT).map_or(true, |(_, ledger)| ledger == LEDGER));
        }

        #[test]
        fn hostile_files_never_panic(bytes in prop::collection::vec(any::<u8>(), 1..300)) {
            let dir = tempfile::tempdir().unwrap();
            let folder = Folder::open(dir.path()).unwrap();
            let (keep, _) = folder.vault(-3, VAULT).unwrap();
            fs::write(&keep.path, &bytes).unwrap();
            prop_assert!(folder.vault(-3, VAULT).is_err());
        }
    }
}
