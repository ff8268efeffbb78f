//! Compiles NVIDIA's open kernel modules against the locked kernel's headers, in the tools root.
//!
//! ```text
//! linux-headers-*, linux-kbuild-*     at /usr/src, /usr/lib: where Debian's makefiles look for them
//! nvidia-open-kernel-dkms, patched    at /chrysalis/nvidia
//!   --kbuild--> nvidia.ko, nvidia-uvm.ko --strip--> cache/gpu/<hash of all inputs>/
//! ```
//! Paths, user, host and time that a build could write down are fixed. The result is not signed: Debian's kernel believes
//! Debian's key alone, and a signature of ours would be one more secret (decision 0061).
//!
//! Deliberately absent: nvidia-drm, nvidia-modeset (no display), nvidia-peermem (no RDMA).

use super::lock::GpuLock;
use super::patch::Patch;
use crate::hash;
use crate::lock::Package;
use crate::progress::{Report, say};
use crate::rootfs::{Unpacked, copy_tree};
use crate::tools::{Tools, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Raised when other bytes are to come from the same inputs.
const GENERATION: u32 = 1;
/// Where the patched source is seen while it is compiled.
const INSIDE: &str = "/chrysalis/nvidia";
/// The package with the source.
pub(crate) const SOURCE: &str = "nvidia-open-kernel-dkms";
/// What is built, by module and by its file below the source.
const BUILT: [(&str, &str); 2] = [("nvidia", "nvidia.ko"), ("nvidia_uvm", "nvidia-uvm.ko")];

/// A module that was built.
#[derive(Debug, Clone)]
pub(crate) struct BuiltModule {
    /// As the kernel calls it.
    pub name: &'static str,
    pub file: &'static str,
    pub bytes: Vec<u8>,
}

/// Everything that decides the modules' bytes.
pub(super) struct Inputs<'a> {
    pub lock: &'a GpuLock,
    pub patches: &'a [Patch],
    pub packages: &'a [Unpacked],
    pub kernel: &'a Package,
    pub tools: &'a Tools,
}

/// The modules: from `cache`, else built there.
pub(super) fn build(inputs: &Inputs<'_>, cache: &Path, report: Report<'_>) -> Result<Vec<BuiltModule>> {
    let dir = cache.join(&inputs.id()?[..32]);
    if !dir.is_dir() {
        fs::create_dir_all(cache).with_context(|| format!("{}: can't make", cache.display()))?;
        let _lock = crate::checkout::exclusive(&dir.with_extension("lock"))?;
        if !dir.is_dir() {
            inputs.compile(&dir, report)?;
        }
    }
    let read = |(name, file): (&'static str, &'static str)| {
        let path = dir.join(file);
        let bytes = fs::read(&path).with_context(|| format!("{}: can't read", path.display()))?;
        Ok(BuiltModule { name, file, bytes })
    };
    BUILT.into_iter().map(read).collect()
}

impl Inputs<'_> {
    fn id(&self) -> Result<String> {
        let mut text = format!("{GENERATION} {} {}\n", self.tools.id(), self.lock.debian.epoch());
        for name in self.used() {
            text += &format!("{name} {}\n", self.package(&name)?.package.sha256);
        }
        self.patches.iter().for_each(|patch| text += &patch.id());
        Ok(hash::bytes(text.as_bytes()))
    }

    /// Version of the kernel, as its folders have it.
    fn release(&self) -> &str {
        self.kernel.name.trim_start_matches("linux-image-")
    }

    fn used(&self) -> [String; 4] {
        let [headers, common, kbuild] = header_packages(self.kernel);
        [headers, common, kbuild, SOURCE.to_owned()]
    }

    fn package(&self, name: &str) -> Result<&Unpacked> {
        let found = self.packages.iter().find(|unpacked| unpacked.package.name == name);
        found
            .with_context(|| format!("image/gpu.lock has no {name}; move it with `chrysalis image lock gpu`"))
    }

    /// The source folder inside the unpacked package; it is named after the driver's version.
    fn source(&self) -> Result<PathBuf> {
        let package = self.package(SOURCE)?;
        let dir = package.dir.join(format!("usr/src/nvidia-current-open-{}", self.lock.driver));
        if !dir.join("Kbuild").is_file() {
            bail!("{SOURCE} {}: no source of driver {} in it", package.package.version, self.lock.driver);
        }
        Ok(dir)
    }

    fn compile(&self, dir: &Path, report: Report<'_>) -> Result<()> {
        say(report, "gpu", format!("compiling driver {} for kernel {}", self.lock.driver, self.release()));
        let scratch = dir.with_extension("building");
        let _ = fs::remove_dir_all(&scratch);
        let source = scratch.join("source");
        copy_tree(&self.source()?, &source)?;
        for patch in self.patches.iter().filter(|patch| patch.package == SOURCE) {
            patch.apply_in(&source)?;
        }
        let tools = self.bound(&source)?;
        self.make(&tools)?;
        let made = scratch.join("modules");
        fs::create_dir_all(&made)?;
        for (_, file) in BUILT {
            let mut strip = tools.command("strip");
            run(&format!("strip {file}"), strip.arg("--strip-debug").arg(format!("{INSIDE}/{file}")))?;
            let from = source.join(file);
            fs::copy(&from, made.join(file)).with_context(|| format!("{}: not built", from.display()))?;
        }
        fs::rename(&made, dir).with_context(|| format!("{}: can't put in place", dir.display()))?;
        fs::remove_dir_all(&scratch).with_context(|| format!("{}: can't remove", scratch.display()))
    }

    /// The tools root with source and headers at their places.
    fn bound(&self, source: &Path) -> Result<Tools> {
        let [headers, common, kbuild] = header_packages(self.kernel);
        let mut tools = self.tools.clone().bind(source, Path::new(INSIDE));
        for (name, place) in [(headers, "usr/src"), (common, "usr/src"), (kbuild, "usr/lib")] {
            let inside = format!("{place}/{name}");
            tools = tools.bind(&self.package(&name)?.dir.join(&inside), &Path::new("/").join(&inside));
        }
        Ok(tools)
    }

    fn make(&self, tools: &Tools) -> Result<()> {
        let [headers, common, _] = header_packages(self.kernel);
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let mut make = tools.command("make");
        make.args(["-C", INSIDE, &format!("-j{jobs}"), "modules"]);
        make.arg(format!("SYSSRC=/usr/src/{common}")).arg(format!("SYSOUT=/usr/src/{headers}"));
        make.arg(format!("KERNEL_UNAME={}", self.release()));
        make.arg("NV_EXCLUDE_KERNEL_MODULES=nvidia-drm nvidia-modeset nvidia-peermem");
        // Type information for BPF would want pahole, and nothing in the guest reads it.
        make.arg("CONFIG_DEBUG_INFO_BTF_MODULES=");
        for (name, value) in
            [("KBUILD_BUILD_USER", "chrysalis"), ("KBUILD_BUILD_HOST", "chrysalis"), ("NV_VERBOSE", "1")]
        {
            make.env(name, value);
        }
        let epoch = self.lock.debian.epoch();
        make.env("SOURCE_DATE_EPOCH", epoch.to_string()).env("KBUILD_BUILD_TIMESTAMP", format!("@{epoch}"));
        for name in ["MAKEFLAGS", "CFLAGS", "KCFLAGS", "CC", "LD", "ARCH", "CROSS_COMPILE"] {
            make.env_remove(name);
        }
        run("compiling NVIDIA's kernel modules", &mut make).map(|_| ())
    }
}

/// Packages of a kernel's headers: its own, those of all flavours, and the build programs.
pub(super) fn header_packages(kernel: &Package) -> [String; 3] {
    let release = kernel.name.trim_start_matches("linux-image-");
    // 6.12.107+deb13-cloud-amd64: what comes before the flavour.
    let base = release.split('-').next().unwrap_or(release);
    [
        format!("linux-headers-{release}"),
        format!("linux-headers-{base}-common"),
        format!("linux-kbuild-{base}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_of_a_kernel_are_three_packages() {
        let kernel = Package {
            name: "linux-image-6.12.107+deb13-cloud-amd64".into(),
            version: "6.12.107-1".into(),
            arch: "amd64".into(),
            sha256: "ab".repeat(32),
            size: 1,
            pool: "pool/main/l/x.deb".into(),
        };
        assert_eq!(
            header_packages(&kernel),
            [
                "linux-headers-6.12.107+deb13-cloud-amd64",
                "linux-headers-6.12.107+deb13-common",
                "linux-kbuild-6.12.107+deb13"
            ]
        );
    }
}
