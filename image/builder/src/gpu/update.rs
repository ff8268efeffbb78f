//! Moves `image/gpu.lock` on purpose, as `lock::update` moves the others.

use super::lock::{FILE, GpuLock, Wheel};
use super::module::header_packages;
use super::wanted::Wanted;
use super::wheels;
use crate::checkout::Checkout;
use crate::lock::{Apt, Changes, Lock, Package, SUITE, Sources, changes};
use crate::progress::{Report, say};
use crate::tools::Tools;
use anyhow::{Context, Result, ensure};
use std::fs;

const PARTS: &str = "main contrib non-free non-free-firmware";

/// Resolves and writes the lock for the kernel of `packages.lock`; returns what changed.
pub fn update(checkout: &Checkout, report: Report<'_>) -> Result<Changes> {
    let image = checkout.image();
    let wanted = Wanted::load(&image.join("gpu.packages"))?;
    let packages = Lock::load(&image.join("packages.lock"))?;
    let kernel = super::kernel_of(&packages)?;
    let path = checkout.root().join(FILE);
    let old = if path.exists() { GpuLock::load(&path)?.all() } else { Vec::new() };
    let apt = Apt::new(&checkout.cache().join("apt-gpu"), Sources::of_this_host().mirror()?, PARTS)?;
    say(report, "gpu", format!("reading the package lists of {SUITE}: {PARTS}"));
    apt.run("apt-get", &["-q", "update"])?;
    let headers = header_packages(kernel);
    let names: Vec<String> = headers.iter().chain(&wanted.packages).cloned().collect();
    let found = apt.show(&names).with_context(|| {
        format!(
            "the mirror lacks one of {}. If it has moved on from kernel {}, move packages.lock first (measurements move \
             with it), or name an older mirror in $CHRYSALIS_DEBIAN_MIRROR",
            names.join(", "),
            kernel.version
        )
    })?;
    check_headers(&found, &headers, kernel)?;
    let lock = GpuLock {
        driver: wanted.driver.clone(),
        kernel: kernel.version.clone(),
        debian: Lock { suite: SUITE.into(), snapshot: apt.snapshot()?, packages: found },
        wheels: lock_wheels(checkout, &wanted, report)?,
    };
    // What is written must be read back: the rules of the lock hold for what a mirror says as well.
    let text = lock.to_text();
    GpuLock::parse(FILE, &text)?;
    let changes = changes(&old, &lock.all());
    if !changes.is_empty() || !path.exists() {
        fs::write(&path, text).with_context(|| format!("{}: can't write", path.display()))?;
    }
    say(report, "gpu", format!("{FILE}: driver {}, {} changes", lock.driver, changes.len()));
    Ok(Changes(changes))
}

/// The headers are those of exactly the locked kernel.
fn check_headers(found: &[Package], headers: &[String], kernel: &Package) -> Result<()> {
    for header in found.iter().filter(|package| headers.contains(&package.name)) {
        ensure!(
            header.version == kernel.version,
            "the mirror has {} {}, packages.lock has {} {}: modules built with these headers would not load; move \
             packages.lock first",
            header.name,
            header.version,
            kernel.name,
            kernel.version
        );
    }
    Ok(())
}

/// Downloads each wheel, takes its hash and keeps it for the build.
fn lock_wheels(checkout: &Checkout, wanted: &Wanted, report: Report<'_>) -> Result<Vec<Wheel>> {
    let tools = Tools::open(checkout, report)?;
    let cache = checkout.cache();
    let _lock = crate::checkout::exclusive(&cache.join("wheels/lock"))?;
    fs::create_dir_all(cache.join("wheels/sha256")).with_context(|| format!("{}", cache.display()))?;
    let mut locked = Vec::new();
    for (name, version) in &wanted.wheels {
        say(report, "gpu", format!("{name} {version}"));
        let file = wheels::download(&tools, name, version, &cache.join("wheels/incoming"))?;
        let size = fs::metadata(&file)?.len();
        let wheel = Wheel {
            name: name.clone(),
            version: version.clone(),
            sha256: crate::hash::file(&file)?,
            size,
            file: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        fs::rename(&file, wheel.cached(cache))?;
        locked.push(wheel);
    }
    locked.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(locked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package {
            name: name.into(),
            version: version.into(),
            arch: "amd64".into(),
            sha256: "ab".repeat(32),
            size: 1,
            pool: "pool/main/x.deb".into(),
        }
    }

    #[test]
    fn headers_of_another_kernel_are_refused_with_both_versions() {
        let kernel = package("linux-image-6.12.107+deb13-cloud-amd64", "6.12.107-1");
        let headers = header_packages(&kernel);
        let of = |version: &str| headers.each_ref().map(|name| package(name, version));
        check_headers(&of("6.12.107-1"), &headers, &kernel).unwrap();
        let error = check_headers(&of("6.12.107-2"), &headers, &kernel).unwrap_err().to_string();
        assert!(error.contains("6.12.107-2") && error.contains("packages.lock has linux-image"), "{error}");
    }
}
