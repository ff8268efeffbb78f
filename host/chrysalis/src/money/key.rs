//! Key files: one line of 64 hexadecimal digits, an Ed25519 seed. Wallets and vaults' channel keys have the same form.
//!
//! A file that others can read is refused, and no file is overwritten.

use anyhow::{Context, Result, bail, ensure};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Makes a key from the system's randomness and writes it, readable by its owner alone.
pub fn make(path: &Path) -> Result<[u8; 32]> {
    let mut seed = [0; 32];
    let random = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut seed));
    random.context("/dev/urandom: no randomness for a key")?;
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.with_context(|| {
        format!("{}: can't make the key file; give a new name, no key is ever overwritten", path.display())
    })?;
    let written = writeln!(file, "{}", hex::encode(seed)).and_then(|()| file.sync_all());
    written.with_context(|| format!("{}: can't write", path.display()))?;
    Ok(seed)
}

/// Reads a key.
pub fn read(path: &Path) -> Result<[u8; 32]> {
    let place = path.display();
    let file = std::fs::File::open(path)
        .with_context(|| format!("{place}: can't read the key; make one with `chrysalis wallet new`"))?;
    let mode = file.metadata().with_context(|| format!("{place}: can't look at it"))?.permissions().mode();
    ensure!(
        mode & 0o077 == 0,
        "{place}: others can read this key (mode {:o}); run `chmod 600 {place}`",
        mode & 0o777
    );
    let mut text = String::new();
    file.take(256).read_to_string(&mut text).with_context(|| format!("{place}: can't read"))?;
    let mut seed = [0; 32];
    if hex::decode_to_slice(text.trim(), &mut seed).is_err() {
        bail!("{place}: expected one line of 64 hexadecimal digits; is this a key file?");
    }
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_never_overwritten_and_refused_where_others_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let seed = make(&path).unwrap();
        assert_eq!(read(&path).unwrap(), seed);
        assert!(make(&path).unwrap_err().to_string().contains("overwritten"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for wrong in ["zz", "", "secret", "abab"] {
            std::fs::write(&path, wrong).unwrap();
            let error = format!("{:#}", read(&path).unwrap_err());
            // What stands there is a secret, or was meant to be one.
            assert!(error.contains("64 hexadecimal") && !error.contains("secret"), "{error}");
        }
    }
}
