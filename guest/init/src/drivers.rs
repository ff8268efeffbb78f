//! NVIDIA's driver in a GPU image: its modules, then its device nodes, since there is no udev.
//!
//! ```text
//! no list of GPU modules in the root ------------------------> NotInImage
//! load in order; nvidia.ko finds no device (ENODEV) ---------> NoGpu, said on the console; the rest is not loaded
//! /proc/devices, /proc/driver/nvidia/gpus --> mknod ---------> Ready
//! ```
//! A guest without a GPU goes on: whether it may serve is for the configuration to say. Whatever else fails stops the boot.
//!
//! Deliberately absent: believing any GPU (evidence comes later), MIG, modeset, nvidia-uvm-tools.

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::fs;
use std::path::Path;
use verity::kmods::{self, Loaded};

/// Beside the other modules in the verified root.
const MODULES: &str = "/usr/lib/chrysalis/gpu-modules";
/// The module that looks for GPUs.
const DRIVER: &str = "nvidia.ko";
const PROC_DEVICES: &str = "/proc/devices";
const PROC_GPUS: &str = "/proc/driver/nvidia/gpus";
/// `NV_MINOR_DEVICE_NUMBER_CONTROL_DEVICE` of the driver's nv-chardev-numbers.h.
const CONTROL_MINOR: u32 = 255;
/// More than any machine has; what the driver lists beyond is refused.
const MAX_GPUS: usize = 16;

/// What became of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Drivers {
    /// This image carries none.
    NotInImage,
    /// The driver found no GPU.
    NoGpu,
    /// The driver runs these GPUs; nothing is known of them yet.
    Ready {
        /// How many.
        gpus: usize,
    },
}

/// Loads the driver and makes its nodes. Says on the console what was found.
pub(crate) fn bring_up() -> Result<Drivers> {
    let drivers = load(Path::new(MODULES))?;
    let line = match &drivers {
        Drivers::NotInImage => return Ok(drivers),
        Drivers::NoGpu => format!(
            "no GPU: {DRIVER} found no device; a worker that is configured for a GPU will refuse to serve. Pass one through, \
             in confidential mode, or configure the worker for the CPU"
        ),
        Drivers::Ready { gpus } => format!("{gpus} GPU(s) found, not yet attested"),
    };
    // For people at a serial console; there may be none.
    let _ = fs::write("/dev/console", format!("chrysalis-init: {line}\n"));
    Ok(drivers)
}

fn load(modules: &Path) -> Result<Drivers> {
    if !modules.is_dir() {
        return Ok(Drivers::NotInImage);
    }
    let mut found = true;
    kmods::load_each(modules, |name, loaded| {
        found = !(name == DRIVER && loaded == Loaded::NoHardware);
        found
    })?;
    if !found {
        return Ok(Drivers::NoGpu);
    }
    let devices = fs::read_to_string(PROC_DEVICES).with_context(|| format!("{PROC_DEVICES}: cannot read"))?;
    let minors = minors(Path::new(PROC_GPUS))?;
    ensure!(!minors.is_empty(), "{PROC_GPUS}: the driver loaded and lists no GPU; expected at least one");
    for (name, major, minor) in nodes(&devices, &minors)? {
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, format!("/dev/{name}"), FileType::CharacterDevice, mode, makedev(major, minor))
            .with_context(|| format!("/dev/{name}: cannot make the device node {major}:{minor}"))?;
    }
    Ok(Drivers::Ready { gpus: minors.len() })
}

/// Name, major and minor of every node.
fn nodes(devices: &str, minors: &[u32]) -> Result<Vec<(String, u32, u32)>> {
    let (driver, uvm) = (major(devices, &["nvidia", "nvidia-frontend"])?, major(devices, &["nvidia-uvm"])?);
    let shared = [("nvidiactl".to_owned(), driver, CONTROL_MINOR), ("nvidia-uvm".to_owned(), uvm, 0)];
    let gpus = minors.iter().map(|&minor| (format!("nvidia{minor}"), driver, minor));
    Ok(shared.into_iter().chain(gpus).collect())
}

/// Major number of a character device, by any of its names in the text of `/proc/devices`.
fn major(devices: &str, names: &[&str]) -> Result<u32> {
    let characters = devices.split("Block devices:").next().unwrap_or_default();
    let found = characters.lines().find_map(|line| {
        let (major, name) = line.trim().split_once(' ')?;
        names.contains(&name).then(|| major.parse().ok()).flatten()
    });
    found.with_context(|| format!("{PROC_DEVICES}: expected a character device `{}`, found none", names[0]))
}

/// Minor numbers of the GPUs that the driver lists, sorted.
fn minors(gpus: &Path) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(gpus).with_context(|| format!("{}: cannot list", gpus.display()))? {
        let path = entry?.path().join("information");
        let text = fs::read_to_string(&path).with_context(|| format!("{}: cannot read", path.display()))?;
        found.push(minor(&text).with_context(|| format!("{}: no `Device Minor:`", path.display()))?);
        ensure!(found.len() <= MAX_GPUS, "{}: more than {MAX_GPUS} GPUs", gpus.display());
    }
    found.sort_unstable();
    Ok(found)
}

fn minor(information: &str) -> Option<u32> {
    let value = information.lines().find_map(|line| line.strip_prefix("Device Minor:"))?;
    value.trim().parse().ok().filter(|&minor| minor < CONTROL_MINOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEVICES: &str = "Character devices:\n  1 mem\n195 nvidia\n195 nvidiactl\n236 nvidia-uvm\n\nBlock devices:\n  7 nvidia\n";

    #[test]
    fn an_image_without_gpu_modules_has_no_driver() {
        assert_eq!(load(Path::new("/nowhere/gpu-modules")).unwrap(), Drivers::NotInImage);
    }

    #[test]
    fn nodes_follow_what_the_kernel_and_the_driver_say() {
        let made = nodes(DEVICES, &[0, 3]).unwrap();
        let text: Vec<String> = made.iter().map(|(name, a, b)| format!("{name} {a}:{b}")).collect();
        assert_eq!(text, ["nvidiactl 195:255", "nvidia-uvm 236:0", "nvidia0 195:0", "nvidia3 195:3"]);
    }

    #[test]
    fn a_driver_that_registered_no_device_is_named() {
        let error = nodes("Character devices:\n195 nvidia\n", &[0]).unwrap_err().to_string();
        assert!(error.contains("nvidia-uvm"), "{error}");
        assert!(nodes("Block devices:\n195 nvidia\n236 nvidia-uvm\n", &[0]).is_err());
    }

    #[test]
    fn minors_come_from_the_drivers_list_in_order() {
        let gpus = tempfile::tempdir().unwrap();
        for (bus, minor) in [("0000:02:00.0", 1), ("0000:01:00.0", 0)] {
            fs::create_dir(gpus.path().join(bus)).unwrap();
            let text = format!("Model: \t\t NVIDIA H100\nDevice Minor: \t {minor}\n");
            fs::write(gpus.path().join(bus).join("information"), text).unwrap();
        }
        assert_eq!(minors(gpus.path()).unwrap(), [0, 1]);
        fs::write(gpus.path().join("0000:01:00.0/information"), "Device Minor: 255\n").unwrap();
        assert!(minors(gpus.path()).unwrap_err().to_string().contains("Device Minor"));
    }

    proptest! {
        #[test]
        fn any_text_of_the_kernel_is_read_or_refused(text in "\\PC{0,300}") {
            let _ = nodes(&text, &[0]);
            let _ = minor(&text);
        }
    }
}
