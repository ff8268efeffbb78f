//! Key files: made, read, and kept away from checkouts.

use anyhow::{Context, Result, bail, ensure};
use release::{SigningKey, seed_to_pem};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Longest key file.
const MAX_KEY: u64 = 4096;

/// Keys of the roles that a command signs for.
#[derive(Debug, clap::Args)]
pub struct RoleKeys {
    /// Private key of the targets role (PKCS#8 PEM); repeat for a threshold.
    #[arg(long)]
    pub targets_key: Vec<PathBuf>,
    /// Private key of the snapshot role; repeat for a threshold.
    #[arg(long)]
    pub snapshot_key: Vec<PathBuf>,
    /// Private key of the timestamp role; repeat for a threshold.
    #[arg(long, required = true)]
    pub timestamp_key: Vec<PathBuf>,
}

/// Reads private keys.
pub fn read(paths: &[PathBuf]) -> Result<Vec<SigningKey>> {
    paths.iter().map(|path| read_one(path)).collect()
}

/// Reads a private key, which nobody else on this machine may read.
pub fn read_one(path: &Path) -> Result<SigningKey> {
    let shown = path.display();
    let file = fs::File::open(path).with_context(|| format!("{shown}: cannot read the key"))?;
    let mode = file.metadata().with_context(|| format!("{shown}"))?.permissions().mode() & 0o777;
    ensure!(mode & 0o077 == 0, "{shown}: a private key that others may read (mode {mode:o}); chmod 600 it");
    let mut pem = String::new();
    file.take(MAX_KEY).read_to_string(&mut pem).with_context(|| format!("{shown}: not a key file"))?;
    Ok(SigningKey::from_pem(&shown.to_string(), &pem)?)
}

/// Makes a key file; an existing one is taken as it is.
pub fn make(path: &Path) -> Result<SigningKey> {
    if path.exists() {
        return read_one(path);
    }
    outside_checkouts(path)?;
    let mut seed = [0; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut seed))
        .context("/dev/urandom")?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.as_mut().map_err(|e| anyhow::anyhow!("{}: can't make the key: {e}", path.display()))?;
    file.write_all(seed_to_pem(&seed).as_bytes()).and_then(|()| file.sync_all()).context("key file")?;
    read_one(path)
}

/// A key in a checkout is one `git add .` away from the world.
fn outside_checkouts(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = fs::canonicalize(folder).with_context(|| format!("{}: no such folder", folder.display()))?;
    if let Some(checkout) = folder.ancestors().find(|above| above.join(".git").exists()) {
        bail!("{}: inside the checkout {}; keep keys outside of it", path.display(), checkout.display());
    }
    Ok(())
}
