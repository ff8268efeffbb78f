//! Where things lie: the checkout, its outputs, and the cache that all checkouts of a user share.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A checkout of this repository.
#[derive(Debug, Clone)]
pub struct Checkout {
    root: PathBuf,
    cache: PathBuf,
    // Where a kit gave it.
    toolchain: Option<PathBuf>,
}

impl Checkout {
    /// The checkout at `root`, with the user's cache.
    pub fn at(root: &Path) -> Result<Self> {
        let root = checked(root)?;
        Ok(Checkout { root, cache: cache_folder()?, toolchain: None })
    }

    /// A checkout that has everything already, the toolchain included: nothing is fetched, and nothing in the tools root
    /// sees a network. What [`crate::kit::unpack`] makes.
    pub(crate) fn supplied(root: &Path, cache: &Path, toolchain: &Path) -> Result<Self> {
        let whole =
            |path: &Path| path.canonicalize().with_context(|| format!("{}: no such folder", path.display()));
        Ok(Checkout { root: checked(root)?, cache: whole(cache)?, toolchain: Some(whole(toolchain)?) })
    }

    /// The checkout that holds the current folder.
    pub fn find() -> Result<Self> {
        let here =
            std::env::current_dir().context("the current folder is gone; change to an existing one")?;
        match here.ancestors().find(|dir| dir.join("image/mkosi.conf").is_file()) {
            Some(root) => Checkout::at(root),
            None => bail!("{}: not inside a checkout of Chrysalis; change into one", here.display()),
        }
    }

    /// The same checkout with another cache folder: what `prove` builds in.
    pub fn with_cache(&self, cache: &Path) -> Self {
        Checkout { root: self.root.clone(), cache: cache.to_owned(), toolchain: self.toolchain.clone() }
    }

    /// Root folder of the checkout.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The `image` room.
    pub fn image(&self) -> PathBuf {
        self.root.join("image")
    }

    /// The toolchain that came with it; `None` where the host's is used.
    pub(crate) fn toolchain(&self) -> Option<&Path> {
        self.toolchain.as_deref()
    }

    /// Where artifacts of a profile are written.
    pub fn out(&self, profile: crate::Profile) -> PathBuf {
        self.root.join("out").join(profile.name())
    }

    /// `$CHRYSALIS_CACHE`, else `$XDG_CACHE_HOME/chrysalis`, else `~/.cache/chrysalis`.
    pub fn cache(&self) -> &Path {
        &self.cache
    }
}

/// The folder, if it is a checkout.
fn checked(root: &Path) -> Result<PathBuf> {
    let root = root.canonicalize().with_context(|| format!("{}: no such folder", root.display()))?;
    if !root.join("image/mkosi.conf").is_file() {
        bail!("{}: not a checkout of Chrysalis (no image/mkosi.conf); run this inside one", root.display());
    }
    Ok(root)
}

/// Takes a lock file, waiting for whoever has it; let go when the handle is dropped. For threads and processes alike.
pub(crate) fn exclusive(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("{}: can't make", parent.display()))?;
    }
    let file = File::create(path).with_context(|| format!("{}: can't make the lock file", path.display()))?;
    file.lock().with_context(|| format!("{}: can't lock", path.display()))?;
    Ok(file)
}

fn cache_folder() -> Result<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = var("CHRYSALIS_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("chrysalis")))
        .or_else(|| var("HOME").map(|dir| dir.join(".cache/chrysalis")));
    let Some(folder) = folder else { bail!("no cache folder: set $CHRYSALIS_CACHE or $HOME") };
    std::fs::create_dir_all(&folder).with_context(|| {
        format!("{}: can't make the cache folder; set $CHRYSALIS_CACHE", folder.display())
    })?;
    folder.canonicalize().with_context(|| format!("{}: unreadable", folder.display()))
}
