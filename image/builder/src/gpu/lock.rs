//! `image/gpu.lock`: exactly which packages and wheels the GPU profiles take beyond `packages.lock`, by SHA-256.
//!
//! ```text
//! # suite: trixie
//! # snapshot: 20260912T075541Z
//! # driver: 550.163.01
//! # kernel: 6.12.107-1
//! name version architecture sha256 size pool/...      as in packages.lock
//! wheel name version sha256 size file.whl
//! ```
//! A lock of its own, so that moving a driver moves no measurement of an image without one. It belongs to one kernel: the
//! modules are compiled against that kernel's headers, and no other kernel loads them.

use crate::lock::{Lock, LockError, Package, is_sha256};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// From the root of the checkout.
pub(crate) const FILE: &str = "image/gpu.lock";
const AGAIN: &str = "move the lock with `chrysalis image lock gpu`";

/// One locked wheel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wheel {
    pub name: String,
    pub version: String,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// Its file name in the index.
    pub file: String,
}

/// The whole lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GpuLock {
    /// Version of NVIDIA's driver.
    pub driver: String,
    /// Version of the kernel whose headers are locked.
    pub kernel: String,
    pub debian: Lock,
    /// Sorted by name.
    pub wheels: Vec<Wheel>,
}

impl GpuLock {
    /// Reads the lock.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{}: no lock of the GPU profiles; {AGAIN}", path.display()))?;
        Ok(GpuLock::parse(&path.display().to_string(), &text)?)
    }

    /// Parses the lock's text; `file` is used in errors.
    pub(crate) fn parse(file: &str, text: &str) -> Result<Self, LockError> {
        let fail = |line, fault: String| LockError { file: file.into(), line, fault };
        let (mut driver, mut kernel, mut wheels) = (None, None, Vec::<Wheel>::new());
        // Line by line the same length as the file, so that errors of the Debian part name the right line.
        let mut debian = String::new();
        for (i, line) in text.lines().enumerate() {
            match line.strip_prefix("# ").and_then(|comment| comment.split_once(": ")) {
                Some(("driver", version)) => driver = Some(version.to_owned()),
                Some(("kernel", version)) => kernel = Some(version.to_owned()),
                _ => {}
            }
            if let Some(rest) = line.strip_prefix("wheel ") {
                let wheel = parse_wheel(rest).map_err(|fault| fail(i + 1, fault))?;
                if wheels.last().is_some_and(|last| last.name >= wheel.name) {
                    return Err(fail(i + 1, format!("`{}` is out of order or twice", wheel.name)));
                }
                wheels.push(wheel);
            } else {
                debian.push_str(line);
            }
            debian.push('\n');
        }
        let lock = GpuLock {
            driver: driver.ok_or_else(|| fail(0, "no `# driver:` line".into()))?,
            kernel: kernel.ok_or_else(|| fail(0, "no `# kernel:` line".into()))?,
            debian: Lock::parse(file, &debian)?,
            wheels,
        };
        lock.check_driver().map_err(|fault| fail(0, fault))?;
        Ok(lock)
    }

    /// Every package outside Debian's main archive is of the one driver version: its parts fit together at no other.
    fn check_driver(&self) -> Result<(), String> {
        let main = |package: &&Package| package.pool.starts_with("pool/main/");
        let mut of_driver = self.debian.packages.iter().filter(|package| !main(package));
        let fits = |package: &Package| {
            package.version.strip_prefix(&self.driver).is_some_and(|rest| rest.starts_with('-'))
        };
        match of_driver.find(|package| !fits(package)) {
            Some(package) => Err(format!(
                "driver {} is meant, and {} is {}; all parts of the driver must have one version",
                self.driver, package.name, package.version
            )),
            None => Ok(()),
        }
    }

    /// Refuses a kernel other than the one whose headers are locked.
    pub(crate) fn check_kernel(&self, kernel: &Package) -> Result<()> {
        let headers = kernel.name.replacen("linux-image-", "linux-headers-", 1);
        let locked = self.debian.packages.iter().find(|package| package.name == headers);
        ensure!(
            kernel.version == self.kernel && locked.is_some_and(|p| p.version == kernel.version),
            "{FILE} is for kernel {}, and packages.lock has {} {}: the driver's modules would not load; {AGAIN}",
            self.kernel,
            kernel.name,
            kernel.version
        );
        Ok(())
    }

    /// The file's text.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!(
            "# What the GPU profiles take beyond packages.lock: Debian packages as there, then wheels.\n\
             # Written by `chrysalis image lock gpu`, which shows what moves; never edited by hand.\n\
             # suite: {}\n# snapshot: {}\n# driver: {}\n# kernel: {}\n",
            self.debian.suite, self.debian.snapshot, self.driver, self.kernel
        );
        text.push_str(&self.lines());
        text
    }

    /// Identity: SHA-256 of all lines that are not comments.
    pub(crate) fn id(&self) -> String {
        crate::hash::bytes(self.lines().as_bytes())
    }

    /// Packages and wheels alike, sorted by name.
    pub(crate) fn all(&self) -> Vec<Package> {
        let wheels = self.wheels.iter().map(Wheel::package);
        let mut all: Vec<Package> = self.debian.packages.iter().cloned().chain(wheels).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn lines(&self) -> String {
        let mut text = self.debian.lines();
        for Wheel { name, version, sha256, size, file } in &self.wheels {
            // Writing to a String can't fail.
            let _ = writeln!(text, "wheel {name} {version} {sha256} {size} {file}");
        }
        text
    }
}

impl Wheel {
    /// Where the file lies in the cache.
    pub(crate) fn cached(&self, cache: &Path) -> PathBuf {
        cache.join("wheels/sha256").join(&self.sha256)
    }

    /// As a package, which staging and manifest know.
    pub(crate) fn package(&self) -> Package {
        Package {
            name: self.name.clone(),
            version: self.version.clone(),
            arch: "amd64".into(),
            sha256: self.sha256.clone(),
            size: self.size,
            pool: self.file.clone(),
        }
    }
}

fn parse_wheel(rest: &str) -> Result<Wheel, String> {
    let fields: Vec<&str> = rest.split(' ').collect();
    let &[name, version, sha256, size, file] = fields.as_slice() else {
        return Err(format!("expected `wheel` and 5 fields, found {}", fields.len()));
    };
    if !is_sha256(sha256) {
        return Err(format!("`{sha256}` is not a SHA-256 in lower-case hex"));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+');
    let named = !name.is_empty() && !version.is_empty() && !name.starts_with('-');
    if !named || !fields.iter().all(|field| field.bytes().all(plain)) || !file.ends_with(".whl") {
        return Err(format!("`{}` does not describe a wheel", rest.escape_debug()));
    }
    let size = size.parse().map_err(|_| format!("`{size}` is not a size in bytes"))?;
    let owned = str::to_owned;
    Ok(Wheel { name: owned(name), version: owned(version), sha256: owned(sha256), size, file: owned(file) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn package(name: &str, version: &str, area: &str) -> Package {
        Package {
            name: name.into(),
            version: version.into(),
            arch: "amd64".into(),
            sha256: "ab".repeat(32),
            size: 7,
            pool: format!("pool/{area}/x/{name}.deb"),
        }
    }

    fn lock() -> GpuLock {
        let packages = vec![
            package("libcuda1", "550.163.01-2", "non-free"),
            package("linux-headers-6.12.107+deb13-cloud-amd64", "6.12.107-1", "main"),
        ];
        let wheel = Wheel {
            name: "nvidia-cuda-nvrtc-cu12".into(),
            version: "12.4.127".into(),
            sha256: "cd".repeat(32),
            size: 9,
            file: "nvidia_cuda_nvrtc_cu12-12.4.127-py3-none-manylinux2014_x86_64.whl".into(),
        };
        GpuLock {
            driver: "550.163.01".into(),
            kernel: "6.12.107-1".into(),
            debian: Lock { suite: "trixie".into(), snapshot: "20260912T075541Z".into(), packages },
            wheels: vec![wheel],
        }
    }

    #[test]
    fn a_lock_survives_its_text() {
        assert_eq!(GpuLock::parse("x", &lock().to_text()).unwrap(), lock());
    }

    #[test]
    fn a_wheel_of_other_bytes_is_another_lock() {
        let mut other = lock();
        other.wheels[0].sha256 = "ce".repeat(32);
        assert_ne!(other.id(), lock().id());
    }

    #[test]
    fn parts_of_two_driver_versions_are_refused() {
        let mut mixed = lock();
        mixed.debian.packages[0].version = "555.58-1".into();
        let error = GpuLock::parse("x", &mixed.to_text()).unwrap_err().to_string();
        assert!(error.contains("libcuda1 is 555.58-1") && error.contains("550.163.01"), "{error}");
        mixed.debian.packages[0].version = "550.163.011-2".into();
        assert!(GpuLock::parse("x", &mixed.to_text()).is_err());
    }

    #[test]
    fn a_lock_for_another_kernel_is_refused() {
        let image = |name: &str, version: &str| package(name, version, "main");
        let fits = image("linux-image-6.12.107+deb13-cloud-amd64", "6.12.107-1");
        lock().check_kernel(&fits).unwrap();
        for other in [
            image("linux-image-6.12.117+deb13-cloud-amd64", "6.12.117-1"),
            image("linux-image-6.12.107+deb13-cloud-amd64", "6.12.107-2"),
            image("linux-image-6.12.107+deb13-amd64", "6.12.107-1"),
        ] {
            let error = lock().check_kernel(&other).unwrap_err().to_string();
            assert!(error.contains("6.12.107-1") && error.contains("chrysalis image lock gpu"), "{error}");
        }
    }

    #[test]
    fn a_bad_wheel_is_refused_with_its_line() {
        let good = lock().to_text();
        for (from, to) in [
            (" 9 ", " nine "),
            ("wheel nvidia", "wheel --nvidia"),
            (".whl", ".tar"),
            ("nvidia_cuda_nvrtc", "../nvidia"),
        ] {
            let error = GpuLock::parse("image/gpu.lock", &good.replace(from, to)).unwrap_err();
            assert_eq!(error.line, 9, "{to}: {error}");
        }
        assert!(GpuLock::parse("x", &good.replace("# driver", "# dr")).is_err());
        assert!(GpuLock::parse("x", &good.replace("# kernel", "# ker")).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_kept(text in "(#? ?[a-z:0-9T/.]{0,20}[ \n]){0,40}(wheel [a-z. 0-9]{0,90}\n)?") {
            if let Ok(lock) = GpuLock::parse("x", &text) {
                prop_assert_eq!(GpuLock::parse("x", &lock.to_text()).unwrap(), lock);
            }
        }
    }
}
