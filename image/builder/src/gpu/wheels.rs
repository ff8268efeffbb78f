//! Wheels: fetched by SHA-256, unpacked into the layout of a CUDA folder.
//!
//! ```text
//! nvidia/<part>/include/...   ->  usr/lib/cuda/include/...
//! nvidia/<part>/lib/...       ->  usr/lib/cuda/lib64/...
//! *.dist-info/License.txt     ->  usr/lib/cuda/licenses/<wheel>.txt
//! ```
//! What else a wheel holds (programs, Python's own files) is left behind. pip only downloads: nothing of a wheel runs.

use super::lock::Wheel;
use crate::progress::{Report, say};
use crate::rootfs::{Unpacked, copy_tree};
use crate::tools::{Tools, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// What pip asks the index for: every wheel of these libraries carries it.
const PLATFORM: &str = "manylinux2014_x86_64";
/// Where the folder that programs know as `CUDA_PATH` lies in the image.
const CUDA: &str = "usr/lib/cuda";

/// Downloads `NAME==VERSION` into the empty folder `to` and returns the file.
pub(super) fn download(tools: &Tools, name: &str, version: &str, to: &Path) -> Result<PathBuf> {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).with_context(|| format!("{}: can't make", to.display()))?;
    let tools = tools.online().bind(to, to);
    let mut pip = tools.command("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]);
    pip.args(["--platform", PLATFORM, "--dest"]).arg(to).arg(format!("{name}=={version}"));
    run(&format!("pip download {name}=={version}"), &mut pip)?;
    let mut files = crate::hash::walk(to)?.into_iter();
    match (files.next(), files.next()) {
        (Some(file), None) => Ok(to.join(file)),
        _ => bail!("pip download {name}=={version}: expected one file in {}", to.display()),
    }
}

/// Makes sure that every wheel lies in the cache with the right hash.
pub(super) fn fetch(tools: &Tools, wheels: &[Wheel], cache: &Path, report: Report<'_>) -> Result<()> {
    let _lock = crate::checkout::exclusive(&cache.join("wheels/lock"))?;
    fs::create_dir_all(cache.join("wheels/sha256")).with_context(|| format!("{}", cache.display()))?;
    for wheel in wheels {
        let cached = wheel.cached(cache);
        if cached.is_file() && crate::hash::file(&cached)? == wheel.sha256 {
            continue;
        }
        say(report, "gpu", format!("{} {}, {} MB", wheel.name, wheel.version, wheel.size / 1_000_000));
        let scratch = cache.join("wheels/incoming");
        let file = download(tools, &wheel.name, &wheel.version, &scratch).with_context(|| {
            format!("{} is in image/gpu.lock and neither in the cache nor to be had", wheel.file)
        })?;
        let found = crate::hash::file(&file)?;
        if found != wheel.sha256 {
            bail!(
                "{}: SHA-256 {found}, image/gpu.lock says {}; the index gives other bytes under this name: do not use \
                 them, or move the lock on purpose with `chrysalis image lock gpu`",
                wheel.file,
                wheel.sha256
            );
        }
        fs::rename(&file, &cached).with_context(|| format!("{}: can't put in place", cached.display()))?;
        let _ = fs::remove_dir_all(&scratch);
    }
    Ok(())
}

/// Unpacks a wheel of the cache into `unpacked`, once, by hash.
pub(super) fn unpack(tools: &Tools, wheel: &Wheel, cache: &Path, unpacked: &Path) -> Result<Unpacked> {
    let dir = unpacked.join(&wheel.sha256);
    if !dir.is_dir() {
        let (raw, scratch) = (dir.with_extension("raw"), dir.with_extension("unpacking"));
        for leftover in [&raw, &scratch] {
            let _ = fs::remove_dir_all(leftover);
        }
        let seen = tools.clone().bind(unpacked, unpacked);
        let mut zip = seen.command("python3");
        zip.args(["-m", "zipfile", "-e"]).arg(wheel.cached(cache)).arg(&raw);
        run(&format!("unpacking {}", wheel.file), &mut zip)?;
        arrange(&raw, &scratch, &wheel.name)?;
        fs::remove_dir_all(&raw).with_context(|| format!("{}: can't remove", raw.display()))?;
        fs::rename(&scratch, &dir).with_context(|| format!("{}: can't put in place", dir.display()))?;
    }
    Ok(Unpacked { package: wheel.package(), dir })
}

/// Moves what an unpacked wheel holds to its place in the image.
fn arrange(raw: &Path, to: &Path, name: &str) -> Result<()> {
    let cuda = to.join(CUDA);
    fs::create_dir_all(cuda.join("licenses")).with_context(|| format!("{}: can't make", cuda.display()))?;
    for entry in fs::read_dir(raw).with_context(|| format!("{}: can't list", raw.display()))? {
        let path = entry?.path();
        let license = path.join("License.txt");
        if path.extension().is_some_and(|end| end == "dist-info") && license.is_file() {
            fs::copy(&license, cuda.join(format!("licenses/{name}.txt")))?;
        }
    }
    let parts = raw.join("nvidia");
    for entry in fs::read_dir(&parts).with_context(|| format!("{name}: no folder `nvidia` in the wheel"))? {
        let part = entry?.path();
        for (from, target) in [("include", "include"), ("lib", "lib64")] {
            if part.join(from).is_dir() {
                copy_tree(&part.join(from), &cuda.join(target))?;
            }
        }
    }
    // Python's own, which an allow list with a star would otherwise take along.
    for file in crate::hash::walk(&cuda)?.iter().filter(|file| file.ends_with("__init__.py")) {
        fs::remove_file(cuda.join(file))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_is_laid_out_as_a_cuda_folder_and_python_files_stay_behind() {
        let (raw, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for file in [
            "nvidia/__init__.py",
            "nvidia/cuda_nvrtc/__init__.py",
            "nvidia/cuda_nvrtc/include/__init__.py",
            "nvidia/cuda_nvrtc/include/nvrtc.h",
            "nvidia/cuda_nvrtc/include/crt/mma.h",
            "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
            "nvidia/cuda_nvrtc/bin/ptxas",
            "n-1.dist-info/License.txt",
            "n-1.dist-info/RECORD",
        ] {
            let path = raw.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        arrange(raw.path(), to.path(), "n").unwrap();
        let found: Vec<String> =
            crate::hash::walk(to.path()).unwrap().iter().map(|f| f.display().to_string()).collect();
        assert_eq!(
            found,
            [
                "usr/lib/cuda/include/crt/mma.h",
                "usr/lib/cuda/include/nvrtc.h",
                "usr/lib/cuda/lib64/libnvrtc.so.12",
                "usr/lib/cuda/licenses/n.txt"
            ]
        );
    }
}
