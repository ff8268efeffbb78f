//! The root file system, file by file: what the allow list names, our binaries, and nothing else.

use crate::allow::{AllowList, Entry, Stage, matches};
use crate::elf;
use crate::guest::Binaries;
use crate::lock::Package;
use crate::modules::{self, Module};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

/// Where our own programs and modules live in the guest.
pub(crate) const OURS: &str = "usr/lib/chrysalis";

/// Where one file of the image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Absolute path in the root, or a name in the UKI.
    pub path: String,
    /// `package NAME VERSION`, `source CRATE`, `recipe FILE` or `mkosi`.
    pub from: String,
    /// SHA-256 of the contents, or the target of a symlink.
    pub content: String,
    /// Why it is there.
    pub reason: String,
}

/// A locked package and where it was unpacked.
pub(crate) struct Unpacked {
    pub package: Package,
    pub dir: PathBuf,
}

/// The tree under construction.
pub(crate) struct Staging<'a> {
    dest: &'a Path,
    origins: BTreeMap<String, Origin>,
}

/// Fills `dest`; returns the origin of every file.
pub(crate) fn stage(
    dest: &Path,
    allow: &AllowList,
    packages: &[Unpacked],
    modules: &[Module],
    binaries: &Binaries,
) -> Result<Vec<Origin>> {
    let mut staging = Staging { dest, origins: BTreeMap::new() };
    staging.folder(dest)?;
    for dir in &allow.dirs {
        staging.folder(&dest.join(&dir[1..]))?;
    }
    for entry in &allow.files {
        let owner = packages.iter().find(|p| p.package.name == entry.package);
        let owner = owner.with_context(|| {
            format!("the allow list names package {}, no lock does: move `packages` or `gpu`", entry.package)
        })?;
        staging.allowed(entry, owner)?;
    }
    staging.modules("modules", Stage::Root, "recipe rootfs.allow", modules, packages)?;
    if modules.iter().any(|module| module.stage == Stage::Gpu) {
        staging.modules("gpu-modules", Stage::Gpu, "recipe gpu.allow", modules, packages)?;
    }
    for (name, file) in binaries.in_root() {
        let bytes = fs::read(file).with_context(|| format!("{}: can't read", file.display()))?;
        staging.write(&format!("{OURS}/{name}"), &bytes, true, &format!("source {name}"), "our program")?;
    }
    staging.check_libraries()?;
    staging.check_no_scripts()?;
    Ok(staging.origins.into_values().collect())
}

/// Fills `dest` with the kernel where mkosi looks for it, and with the empty indexes that tell it that there is nothing
/// to index. mkosi takes this tree after its first look for kernels, at which it would run the image's own depmod.
pub(crate) fn stage_kernel(dest: &Path, packages: &[Unpacked]) -> Result<Vec<Origin>> {
    let mut staging = Staging { dest, origins: BTreeMap::new() };
    // Where mkosi puts the UKI, and from where the EFI partition is filled.
    staging.folder(&dest.join("boot"))?;
    let version = kernel_version(packages)?;
    let image = kernel(packages)?.dir.join(format!("boot/vmlinuz-{version}"));
    let bytes = fs::read(&image).with_context(|| format!("{}: can't read", image.display()))?;
    let dir = format!("usr/lib/modules/{version}");
    staging.write(
        &format!("{dir}/vmlinuz"),
        &bytes,
        false,
        &kernel_origin(packages)?,
        "kernel of the UKI",
    )?;
    for name in ["modules.dep", "modules.dep.bin", "modules.symbols", "modules.symbols.bin"] {
        staging.write(
            &format!("{dir}/{name}"),
            b"",
            false,
            "recipe",
            "mkosi indexes nothing; not in the root",
        )?;
    }
    Ok(staging.origins.into_values().collect())
}

/// Kernel version of the locked kernel package.
pub(crate) fn kernel_version(packages: &[Unpacked]) -> Result<String> {
    let name = &kernel(packages)?.package.name;
    Ok(name.trim_start_matches("linux-image-").to_owned())
}

/// The unpacked kernel package.
pub(crate) fn kernel(packages: &[Unpacked]) -> Result<&Unpacked> {
    let kernel = packages.iter().find(|p| p.package.name.starts_with("linux-image-"));
    kernel.context("packages.lock: no linux-image package; move the lock")
}

/// `from` of whatever the kernel package gives.
pub(crate) fn kernel_origin(packages: &[Unpacked]) -> Result<String> {
    Ok(from_package(&kernel(packages)?.package))
}

/// `from` of what was compiled from the driver's source.
fn gpu_origin(packages: &[Unpacked]) -> Result<String> {
    let source = packages.iter().find(|p| p.package.name == crate::gpu::SOURCE);
    Ok(from_package(&source.context("gpu.lock: the driver's source is not in it; move the lock")?.package))
}

fn from_package(package: &Package) -> String {
    format!("package {} {}", package.name, package.version)
}

impl Staging<'_> {
    /// The modules of a stage in a folder of their own, with their order.
    fn modules(
        &mut self,
        folder: &str,
        stage: Stage,
        list: &str,
        modules: &[Module],
        packages: &[Unpacked],
    ) -> Result<()> {
        for module in modules.iter().filter(|module| module.stage == stage) {
            let path = format!("{OURS}/{folder}/{}", module.file);
            let from = if module.built { gpu_origin(packages)? } else { kernel_origin(packages)? };
            self.write(&path, &module.bytes, false, &from, &module.reason())?;
        }
        let order = modules::order(modules, stage);
        self.write(&format!("{OURS}/{folder}/order"), order.as_bytes(), false, list, "loading order")
    }

    /// Every file of the package that the pattern names, and what symlinks among them point to.
    fn allowed(&mut self, entry: &Entry, owner: &Unpacked) -> Result<()> {
        let files = crate::hash::walk(&owner.dir)?;
        let hits = files.iter().filter(|f| matches(&entry.pattern, &format!("/{}", f.display())));
        let mut todo: Vec<PathBuf> = hits.cloned().collect();
        if todo.is_empty() {
            let Package { name, version, .. } = &owner.package;
            bail!("allow list: {name} {version} has no file {}; correct the list", entry.pattern);
        }
        while let Some(file) = todo.pop() {
            let path = format!("/{}", file.display());
            if self.origins.contains_key(&path) {
                continue;
            }
            let source = owner.dir.join(&file);
            let from = from_package(&owner.package);
            if source.is_symlink() {
                let target = fs::read_link(&source)?;
                self.symlink(&path, &target, &from, &entry.reason)?;
                let next = resolve(&file, &target);
                if files.contains(&next) {
                    todo.push(next);
                }
            } else {
                let executable = fs::metadata(&source)?.permissions().mode() & 0o100 != 0;
                self.write(&path[1..], &fs::read(&source)?, executable, &from, &entry.reason)?;
            }
        }
        Ok(())
    }

    fn symlink(&mut self, path: &str, target: &Path, from: &str, reason: &str) -> Result<()> {
        let to = self.dest.join(&path[1..]);
        self.folder(to.parent().unwrap_or(self.dest))?;
        symlink(target, &to).with_context(|| format!("{}: can't make the symlink", to.display()))?;
        let content = format!("-> {}", target.display());
        self.record(path.to_owned(), from, content, reason);
        Ok(())
    }

    /// Writes a file with a normalised mode, whatever the umask.
    fn write(&mut self, path: &str, bytes: &[u8], executable: bool, from: &str, reason: &str) -> Result<()> {
        let to = self.dest.join(path);
        self.folder(to.parent().unwrap_or(self.dest))?;
        fs::write(&to, bytes).with_context(|| format!("{}: can't write", to.display()))?;
        set_mode(&to, if executable { 0o755 } else { 0o644 })?;
        self.record(format!("/{path}"), from, crate::hash::bytes(bytes), reason);
        Ok(())
    }

    fn record(&mut self, path: String, from: &str, content: String, reason: &str) {
        let origin = Origin { path: path.clone(), from: from.into(), content, reason: reason.into() };
        self.origins.insert(path, origin);
    }

    fn folder(&self, path: &Path) -> Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
        }
        fs::create_dir(path).with_context(|| format!("{}: can't make", path.display()))?;
        set_mode(path, 0o755)
    }

    /// Every library that a program needs must be there.
    fn check_libraries(&self) -> Result<()> {
        let names: BTreeSet<&str> = self.origins.keys().filter_map(|path| path.rsplit('/').next()).collect();
        for path in self.origins.keys() {
            let file = self.dest.join(&path[1..]);
            if file.is_symlink() {
                continue;
            }
            for library in elf::needed(&fs::read(&file)?) {
                if !names.contains(library.as_str()) {
                    bail!(
                        "{path} needs {library}, which is not in the root: add it to rootfs.allow (or gpu.allow)"
                    );
                }
            }
        }
        Ok(())
    }

    /// There is no interpreter, so a script is a mistake.
    fn check_no_scripts(&self) -> Result<()> {
        for path in self.origins.keys() {
            let file = self.dest.join(&path[1..]);
            if !file.is_symlink() && fs::read(&file)?.starts_with(b"#!") {
                bail!("{path} is a script, and the root has no interpreter: take it off rootfs.allow");
            }
        }
        Ok(())
    }
}

/// Where a symlink at `file` (relative to the root) points, as a path relative to the root.
fn resolve(file: &Path, target: &Path) -> PathBuf {
    let mut path =
        if target.is_absolute() { PathBuf::new() } else { file.parent().unwrap_or(file).to_owned() };
    for part in target.components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    let permissions = fs::Permissions::from_mode(mode);
    fs::set_permissions(path, permissions).with_context(|| format!("{}: can't set the mode", path.display()))
}

/// Copies a folder with normalised modes; symlinks stay symlinks.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("{}: can't make", to.display()))?;
    set_mode(to, 0o755)?;
    let mut entries: Vec<_> = fs::read_dir(from)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (source, dest) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&source, &dest)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &dest)?;
        } else {
            fs::copy(&source, &dest).with_context(|| format!("{}: can't copy", source.display()))?;
            let executable = fs::metadata(&source)?.permissions().mode() & 0o100 != 0;
            set_mode(&dest, if executable { 0o755 } else { 0o644 })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symlinks_resolve_within_the_root() {
        assert_eq!(
            resolve(Path::new("usr/lib/liba.so"), Path::new("liba.so.1")),
            Path::new("usr/lib/liba.so.1")
        );
        assert_eq!(resolve(Path::new("etc/os-release"), Path::new("../usr/x")), Path::new("usr/x"));
        assert_eq!(resolve(Path::new("a/b"), Path::new("/c/d")), Path::new("c/d"));
    }

    #[test]
    fn a_copied_tree_has_plain_modes_and_keeps_symlinks() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join("file"), "x").unwrap();
        set_mode(&from.path().join("file"), 0o600).unwrap();
        symlink("/nowhere", from.path().join("link")).unwrap();
        copy_tree(from.path(), &to.path().join("copy")).unwrap();
        let mode = fs::metadata(to.path().join("copy/file")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(fs::read_link(to.path().join("copy/link")).unwrap(), Path::new("/nowhere"));
    }
}
