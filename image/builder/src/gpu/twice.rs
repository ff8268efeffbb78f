//! Compiles the driver's modules twice in different surroundings and compares them: what `prove` does for a whole image,
//! in the minutes that the modules alone take.

use super::lock::GpuLock;
use super::module::{self, BuiltModule, header_packages};
use super::{Gpu, kernel_of};
use crate::checkout::Checkout;
use crate::hash;
use crate::lock::{Lock, Package, Sources, fetch};
use crate::progress::{Report, say};
use crate::prove::surroundings;
use crate::recipe::unpack;
use crate::tools::Tools;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fs;

/// Both builds of every module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CompiledTwice {
    /// Version of NVIDIA's driver.
    pub driver: String,
    /// Kernel that the modules are for.
    pub kernel: String,
    /// File name, bytes, and SHA-256 of the first and the second build.
    pub modules: Vec<(String, usize, String, String)>,
}

impl CompiledTwice {
    /// True if both builds gave the same bytes.
    pub fn equal(&self) -> bool {
        self.modules.iter().all(|(_, _, first, second)| first == second)
    }
}

impl std::fmt::Display for CompiledTwice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "driver {} for kernel {}, compiled twice", self.driver, self.kernel)?;
        for (name, size, first, second) in &self.modules {
            match first == second {
                true => writeln!(f, "  equal    {name:<14} {size:>10} bytes  sha256 {first}")?,
                false => writeln!(f, "  DIFFERS  {name:<14} sha256 {first} and {second}")?,
            }
        }
        Ok(())
    }
}

/// Compiles them in the surroundings that `prove` varies; what was made is removed again if it is equal.
pub fn compile_twice(checkout: &Checkout, report: Report<'_>) -> Result<CompiledTwice> {
    let tools = Tools::open(checkout, report)?;
    let packages = Lock::load(&checkout.image().join("packages.lock"))?;
    let gpu = Gpu::load(checkout, &packages)?;
    let kernel = kernel_of(&packages)?;
    let needed = needed(&gpu.lock, kernel);
    let lock = Lock { packages: needed, ..gpu.lock.debian.clone() };
    fetch(&lock, checkout.cache(), &Sources::of_this_host(), report)?;
    let mut builds: Vec<Vec<BuiltModule>> = Vec::new();
    let around = surroundings(checkout);
    for around in &around {
        say(report, "gpu", format!("in {}", around.folder.display()));
        fs::create_dir_all(&around.folder)
            .with_context(|| format!("{}: can't make", around.folder.display()))?;
        let tools = tools.clone().around(around);
        let inputs = module::Inputs {
            lock: &gpu.lock,
            patches: &gpu.patches,
            packages: &unpack(&lock.packages, &tools, checkout.cache(), &around.folder.join("unpacked"))?,
            kernel,
            tools: &tools,
        };
        builds.push(module::build(&inputs, &around.folder.join("modules"), report)?);
    }
    let pairs = builds[0].iter().zip(&builds[1]);
    let modules =
        pairs.map(|(a, b)| (a.file.to_owned(), a.bytes.len(), hash::bytes(&a.bytes), hash::bytes(&b.bytes)));
    let twice = CompiledTwice {
        driver: gpu.lock.driver.clone(),
        kernel: kernel.version.clone(),
        modules: modules.collect(),
    };
    if twice.equal() {
        for around in &around {
            fs::remove_dir_all(&around.folder)
                .with_context(|| format!("{}: can't remove", around.folder.display()))?;
        }
    }
    Ok(twice)
}

/// The packages that the modules are compiled from.
fn needed(lock: &GpuLock, kernel: &Package) -> Vec<Package> {
    let headers = header_packages(kernel);
    let wanted = |package: &&Package| headers.contains(&package.name) || package.name == super::SOURCE;
    lock.debian.packages.iter().filter(wanted).cloned().collect()
}
