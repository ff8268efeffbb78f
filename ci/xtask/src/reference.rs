//! References to compare with, run anew for every test run: sentence-transformers in a locked root of its own, and the
//! wheels of TUF's reference client, which the tests start themselves.

use crate::host;
use crate::steps::{House, MODEL, show};
use anyhow::{Context, Result, bail};
use builder::Tools;
use builder::lock::Kind;
use std::path::{Path, PathBuf};

/// The root's Python; the pinned wheels are for it.
const PYTHON: &str = "3.13";
/// Binary wheels that this Python takes.
const PLATFORMS: [&str; 3] = ["manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"];

/// Computes the vectors of `ci/reference/texts.json` and returns the file that holds them.
pub fn vectors(house: &House) -> Result<PathBuf> {
    let site = wheels(house)?;
    let root = Tools::of_lock(&house.checkout, Kind::Reference, &mut show)?;
    let inputs = house.checkout.root().join("ci/reference");
    let out = house.out("reference.json");
    std::fs::create_dir_all(house.out("")).context("out/: can't make")?;
    let mut python = root.command("python3");
    python.env("PYTHONPATH", &site).env("PYTHONDONTWRITEBYTECODE", "1");
    python.arg(inputs.join("embed.py")).arg(house.checkout.cache().join("models").join(MODEL));
    host::run(python.arg(inputs.join("texts.json")).arg(&out))?;
    Ok(out)
}

/// Makes small random decoders and what transformers computes with them; returns the folder that holds both.
pub fn decoders(house: &House) -> Result<PathBuf> {
    let site = wheels(house)?;
    let root = Tools::of_lock(&house.checkout, Kind::Reference, &mut show)?;
    let out = house.out("decoders");
    let mut python = root.command("python3");
    python.env("PYTHONPATH", &site).env("PYTHONDONTWRITEBYTECODE", "1");
    host::run(python.arg(house.checkout.root().join("ci/reference/causal.py")).arg(&out))?;
    Ok(out)
}

/// The pinned wheels, unpacked side by side; they are fetched again when the pins change.
pub fn wheels(house: &House) -> Result<PathBuf> {
    let pins = house.checkout.root().join("ci/reference/requirements.txt");
    wheels_of(house, &pins, &house.checkout.cache().join("reference"))
}

/// The wheels of other pins, in a folder of their own.
pub fn wheels_of(house: &House, pins: &Path, folder: &Path) -> Result<PathBuf> {
    let site = folder.join("site");
    let stamp = folder.join("requirements.txt");
    let wanted = std::fs::read(pins).with_context(|| format!("cannot read {}", pins.display()))?;
    if std::fs::read(&stamp).is_ok_and(|there| there == wanted) {
        return Ok(site);
    }
    let downloads = folder.join("wheels");
    for dir in [&site, &downloads] {
        let _ = std::fs::remove_dir_all(dir);
        std::fs::create_dir_all(dir).with_context(|| format!("{}: can't make", dir.display()))?;
    }
    let mut pip = host::online(&house.tools).command("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"]);
    pip.args(["--python-version", PYTHON]).args(PLATFORMS.iter().flat_map(|name| ["--platform", name]));
    host::run(pip.arg("--dest").arg(&downloads).arg("--requirement").arg(pins))?;
    unpack(house, &downloads, &site)?;
    std::fs::write(&stamp, wanted).with_context(|| format!("{}: can't write", stamp.display()))?;
    Ok(site)
}

/// Unpacks all wheels of a folder side by side.
pub fn unpack(house: &House, downloads: &Path, site: &Path) -> Result<()> {
    let entries =
        std::fs::read_dir(downloads).with_context(|| format!("{}: unreadable", downloads.display()))?;
    let mut count = 0;
    for entry in entries {
        let wheel = entry.context("the folder of wheels broke off")?.path();
        host::run(house.tools.command("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(site))?;
        count += 1;
    }
    if count == 0 {
        bail!("{}: pip downloaded nothing", downloads.display());
    }
    Ok(())
}
