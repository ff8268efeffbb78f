//! What the GPU profiles add to an image: NVIDIA's driver, compiled here, and what compiles the worker's kernels.
//!
//! ```text
//! gpu.packages --lock gpu--> gpu.lock --fetch, unpack--> files that gpu.allow names --+
//!                               |                                                    +--> the root
//!                               +--kernel headers, source, gpu.patches--> modules ----+
//! ```
//! A lock, an allow list and patches of their own: no image without a GPU depends on any of it. Nothing of NVIDIA's is in
//! this repository; what is fetched stays in the cache of whoever builds (docs/how-to/gpu-image.md).
//!
//! Deliberately absent: a choice among drivers. One version is locked, and it fits one kernel.

mod lock;
mod module;
mod patch;
mod twice;
mod update;
mod wanted;
mod wheels;

pub(crate) use lock::FILE;
pub(crate) use module::{BuiltModule, SOURCE};
pub use twice::{CompiledTwice, compile_twice};
pub use update::update;

use crate::allow::AllowList;
use crate::checkout::Checkout;
use crate::hash;
use crate::lock::{Lock, Package, Sources, fetch};
use crate::progress::Report;
use crate::rootfs::Unpacked;
use crate::tools::Tools;
use anyhow::{Context, Result, bail};
use lock::{GpuLock, Wheel};
use std::path::Path;

/// Lock, allow list and patches of the GPU profiles.
#[derive(Debug)]
pub(crate) struct Gpu {
    lock: GpuLock,
    /// To be added to `rootfs.allow`.
    pub allow: AllowList,
    patches: Vec<patch::Patch>,
    inputs: String,
}

/// Identity and contents of a `gpu.lock`: Debian packages and wheels alike.
pub fn locked(file: &Path) -> Result<(String, Vec<Package>)> {
    let lock = GpuLock::load(file)?;
    Ok((lock.id(), lock.all()))
}

/// What the image takes of it.
#[derive(Default)]
pub(crate) struct Parts {
    pub packages: Vec<Unpacked>,
    pub modules: Vec<BuiltModule>,
}

impl Gpu {
    /// Reads the files of the checkout and checks that they belong to this kernel.
    pub(crate) fn load(checkout: &Checkout, packages: &Lock) -> Result<Self> {
        let image = checkout.image();
        if checkout.toolchain().is_some() {
            bail!(
                "a source kit holds nothing of NVIDIA's, so no GPU image can be rebuilt from one; build it from a checkout: \
                 `chrysalis image build`"
            );
        }
        let lock = GpuLock::load(&checkout.root().join(lock::FILE))?;
        lock.check_kernel(kernel_of(packages)?)?;
        let list = image.join("gpu.allow");
        let text =
            std::fs::read_to_string(&list).with_context(|| format!("{}: can't read", list.display()))?;
        let allow =
            AllowList::parse_more(&text).with_context(|| format!("{}: not an allow list", list.display()))?;
        let patches = patch::load(&image.join("gpu.patches"))?;
        let patched: String = patches.iter().map(patch::Patch::id).collect();
        let inputs = format!("{} {}\n{patched}", lock.id(), hash::bytes(text.as_bytes()));
        Ok(Gpu { lock, allow, patches, inputs })
    }

    /// For the hash over all inputs of an image.
    pub(crate) fn inputs(&self) -> &str {
        &self.inputs
    }

    /// Identity of the lock.
    pub(crate) fn lock_id(&self) -> String {
        self.lock.id()
    }

    /// Version of NVIDIA's driver.
    pub(crate) fn driver(&self) -> &str {
        &self.lock.driver
    }

    /// Fetches everything that is locked.
    pub(crate) fn fetch(&self, checkout: &Checkout, tools: &Tools, report: Report<'_>) -> Result<()> {
        fetch(&self.lock.debian, checkout.cache(), &Sources::of_this_host(), report)?;
        wheels::fetch(tools, &self.lock.wheels, checkout.cache(), report)
    }

    /// The locked Debian packages, to be unpacked as all others are.
    pub(crate) fn debian(&self) -> &[Package] {
        &self.lock.debian.packages
    }

    /// Unpacks the wheels, compiles the modules; `debian` are the unpacked packages of [`Gpu::debian`].
    pub(crate) fn parts(
        &self,
        mut debian: Vec<Unpacked>,
        packages: &Lock,
        places: &Places<'_>,
        report: Report<'_>,
    ) -> Result<Parts> {
        let inputs = module::Inputs {
            lock: &self.lock,
            patches: &self.patches,
            packages: &debian,
            kernel: kernel_of(packages)?,
            tools: places.tools,
        };
        let modules = module::build(&inputs, places.modules, report)?;
        let unpack = |wheel: &Wheel| wheels::unpack(places.tools, wheel, places.cache, places.unpacked);
        let wheels: Vec<Unpacked> = self.lock.wheels.iter().map(unpack).collect::<Result<_>>()?;
        debian.extend(wheels);
        Ok(Parts { packages: debian, modules })
    }
}

/// Where the parts are made.
pub(crate) struct Places<'a> {
    pub tools: &'a Tools,
    pub cache: &'a Path,
    /// Unpacked packages by hash.
    pub unpacked: &'a Path,
    /// Built modules by the hash of their inputs.
    pub modules: &'a Path,
}

/// The kernel of `packages.lock`.
fn kernel_of(packages: &Lock) -> Result<&Package> {
    let kernel = packages.packages.iter().find(|package| package.name.starts_with("linux-image-"));
    kernel.context("packages.lock: no linux-image package; move the lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The locks in the checkout fit each other: moving one alone is noticed here, without any download.
    #[test]
    fn the_gpu_lock_of_this_house_fits_its_kernel_and_its_list() {
        let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let packages = Lock::load(&image.join("packages.lock")).unwrap();
        let lock = GpuLock::load(&image.join("gpu.lock")).unwrap();
        lock.check_kernel(kernel_of(&packages).unwrap()).unwrap();
        let wanted = wanted::Wanted::load(&image.join("gpu.packages")).unwrap();
        assert_eq!(wanted.driver, lock.driver);
        let locked = |name: &str| lock.debian.packages.iter().any(|package| package.name == name);
        assert_eq!(wanted.packages.iter().find(|name| !locked(name)), None);
        let wheels: Vec<(String, String)> =
            lock.wheels.iter().map(|wheel| (wheel.name.clone(), wheel.version.clone())).collect();
        assert!(wanted.wheels.iter().all(|wheel| wheels.contains(wheel)));
        let allow = AllowList::load(&image.join("rootfs.allow")).unwrap();
        let more = AllowList::parse_more(&std::fs::read_to_string(image.join("gpu.allow")).unwrap()).unwrap();
        let all = allow.with(&more).unwrap();
        let owned = |name: &str| lock.all().iter().chain(&packages.packages).any(|p| p.name == name);
        assert_eq!(all.packages().find(|name| !owned(name)), None);
    }

    /// Words of the kernel's command line in a file of mkosi's.
    fn words(file: &str) -> Vec<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        let text = std::fs::read_to_string(path).unwrap();
        let list = text.rsplit("KernelCommandLine=\n").next().unwrap();
        list.lines().take_while(|line| line.starts_with(' ')).map(|line| line.trim().to_owned()).collect()
    }

    /// Only what would refuse the driver is left out of the command line, and only what it needs is added.
    #[test]
    fn the_command_line_of_the_gpu_profiles_differs_in_three_words() {
        let mut common = words("mkosi.conf");
        assert!(common.len() > 10, "{common:?}");
        common.retain(|word| word != "module.sig_enforce=1" && word != "lockdown=confidentiality");
        common.push("swiotlb=1048576".into());
        assert_eq!(words("mkosi.profiles/gpu/mkosi.conf"), common);
    }
}
