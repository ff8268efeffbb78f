//! Where packages are downloaded from. No mirror is named in the repository.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Base of Debian's snapshot archive; the timestamp of the lock follows.
const SNAPSHOT: &str = "https://snapshot.debian.org/archive/debian";

/// Places to try for a package, in order.
#[derive(Debug, Clone)]
pub struct Sources {
    /// A mirror's base URL without a trailing slash, such as `http://HOST/debian`; `None` if this host has none.
    pub mirror: Option<String>,
    /// The snapshot archive's base URL without the timestamp.
    pub snapshot: String,
}

impl Sources {
    /// `$CHRYSALIS_DEBIAN_MIRROR`, else this host's own apt sources; `$CHRYSALIS_DEBIAN_SNAPSHOT`, else the archive.
    pub fn of_this_host() -> Self {
        let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mirror = var("CHRYSALIS_DEBIAN_MIRROR").or_else(apt_sources).map(trim);
        let snapshot = var("CHRYSALIS_DEBIAN_SNAPSHOT").unwrap_or_else(|| SNAPSHOT.into());
        Sources { mirror, snapshot: trim(snapshot) }
    }

    /// The mirror, or an error that says how to name one.
    pub(crate) fn mirror(&self) -> Result<&str> {
        match &self.mirror {
            Some(mirror) => Ok(mirror),
            None => bail!(
                "no Debian mirror: this host's apt sources name none; set $CHRYSALIS_DEBIAN_MIRROR to a base URL \
                 that ends in /debian"
            ),
        }
    }
}

fn trim(url: String) -> String {
    url.trim_end_matches('/').to_owned()
}

/// The first source of this host that looks like Debian's main archive.
fn apt_sources() -> Option<String> {
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    let text = String::from_utf8(apt.output().ok()?.stdout).ok()?;
    text.lines().find(|uri| uri.trim_end_matches('/').ends_with("/debian")).map(str::to_owned)
}

/// One file to download.
pub(crate) struct Download {
    pub url: String,
    pub to: PathBuf,
}

/// Downloads with apt's own helper, which every Debian has and which knows this host's proxies. Failures are left for
/// the caller to see: a file that isn't there was not downloaded.
pub(crate) fn download(files: &[Download]) -> Result<()> {
    let helper = Path::new("/usr/lib/apt/apt-helper");
    if !helper.exists() {
        bail!("{}: not found; downloads need apt: run this on Debian 12 or newer", helper.display());
    }
    let mut command = Command::new(helper);
    command.args(["-qq", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=2", "download-file"]);
    for file in files {
        command.arg(&file.url).arg(&file.to);
    }
    command.output().context("apt-helper did not start")?;
    Ok(())
}
