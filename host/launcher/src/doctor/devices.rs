//! GPUs and NVSwitches: model, firmware, mode, who holds them, their memory windows and their place.
//!
//! Registers: [`crate::gpu::chip`]. Manifests (RIMs) that were seen published, or seen missing: NVIDIA/nvtrust issues 66, 101
//! and 144. Without a driver of NVIDIA's on the host a VBIOS version can't be read without changing the device's state.

use super::{Finding, Seen, fail, pass, unknown, unseen};
use crate::gpu::chip::{Kind, Mode, NVIDIA};
use crate::host::{Miss, Question, hex};

const GIB: u64 = 1 << 30;
const SYSFS: &str = "/sys/bus/pci/devices";
/// Versions, and whether a manifest was there when somebody said so.
const VBIOS: &[(&str, bool, &str)] = &[
    ("96.00.99.00.08", true, "in NVIDIA's list in August 2024"),
    ("96.00.9D.00.02", false, "missing in August 2024 (nvtrust 66)"),
    ("96.00.A5.00.03", false, "missing in April 2025 (nvtrust 101)"),
    ("96.00.DA.00.16", false, "missing in April 2026 (nvtrust 144)"),
];

/// One function of NVIDIA's.
pub(super) struct Device {
    pub(super) address: String,
    pub(super) kind: Kind,
    id: u16,
}

impl Device {
    fn is_gpu(&self) -> bool {
        !matches!(self.kind, Kind::Switch)
    }

    fn path(&self, name: &str) -> String {
        format!("{SYSFS}/{}/{name}", self.address)
    }
}

/// GPUs and switches, in order of their addresses.
fn devices(seen: &Seen<'_>) -> Result<Vec<Device>, Miss> {
    let list = seen.host.ask(&Question::Pci(NVIDIA))?;
    let device = |line: &str| {
        let mut words = line.split_whitespace();
        let (address, id, class) = (words.next()?, hex(words.next()?)?, hex(words.next()?)?);
        let id = u16::try_from(id).ok()?;
        Some(Device { address: address.into(), kind: Kind::of(id, u32::try_from(class).ok()?)?, id })
    };
    Ok(list.lines().filter_map(device).collect())
}

/// Runs a check over the devices; without a GPU there is nothing to judge.
fn over(seen: &Seen<'_>, judge: impl FnOnce(Vec<Device>) -> Finding) -> Finding {
    match devices(seen) {
        Ok(found) if found.iter().any(Device::is_gpu) => judge(found),
        Ok(_) => unknown("no NVIDIA GPU to look at", "see `gpu`"),
        Err(miss) => unseen(SYSFS, &miss, "mount /sys"),
    }
}

/// Joins what was seen of each device, alike ones once: `off: 0000:17:00.0, 0000:65:00.0`.
fn grouped(pairs: impl IntoIterator<Item = (String, String)>) -> String {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for (what, address) in pairs {
        match groups.iter_mut().find(|(known, _)| *known == what) {
            Some((_, members)) => members.push(address),
            None => groups.push((what, vec![address])),
        }
    }
    let lines = groups.iter().map(|(what, members)| format!("{what}: {}", members.join(", ")));
    lines.collect::<Vec<_>>().join("; ")
}

pub(super) fn model(seen: &Seen<'_>) -> Finding {
    let fix = "guests with GPUs need NVIDIA Hopper or Blackwell for data centres; `--no-gpu` leaves these checks out";
    let found = match devices(seen) {
        Ok(found) => found,
        Err(miss) => return unseen(SYSFS, &miss, "mount /sys"),
    };
    if !found.iter().any(Device::is_gpu) {
        return fail("no NVIDIA GPU on the PCI bus", fix);
    }
    let shown = grouped(found.iter().map(|device| {
        let what = match device.kind {
            Kind::Gpu(chip) => format!("{} ({:#06x})", chip.name, device.id),
            Kind::OldGpu => format!("GPU {:#06x} without confidential computing", device.id),
            Kind::Switch => format!("NVSwitch ({:#06x})", device.id),
        };
        (what, device.address.clone())
    }));
    if found.iter().any(|d| d.kind == Kind::OldGpu) { fail(shown, fix) } else { pass(shown) }
}

pub(super) fn vbios(seen: &Seen<'_>) -> Finding {
    let fix = "look the manifest up by its name, NV_GPU_VBIOS_..._VERSION, with NVIDIA's RIM service; give a kept one with `--rims`; \
               a guest's GPU evidence names the version";
    over(seen, |found| {
        let mut worst = 0;
        let lines: Vec<(String, String)> = found
            .iter()
            .filter(|device| device.is_gpu())
            .map(|device| {
                let told = format!("/proc/driver/nvidia/gpus/{}/information", device.address);
                let (rank, what) = match seen.host.line(&told, "Video BIOS") {
                    Ok(version) => known(&version, &seen.options.vbios),
                    Err(_) => (1, "not told: NVIDIA's driver does not hold it".to_owned()),
                };
                worst = worst.max(rank);
                (what, device.address.clone())
            })
            .collect();
        match worst {
            0 => pass(grouped(lines)),
            1 => unknown(grouped(lines), fix),
            _ => fail(grouped(lines), "ask the vendor for a VBIOS with a published manifest"),
        }
    })
}

/// 0: has a manifest; 1: nobody knows; 2: has none.
fn known(version: &str, given: &[String]) -> (u8, String) {
    if given.iter().any(|have| have.eq_ignore_ascii_case(version)) {
        return (0, format!("{version}, manifest given"));
    }
    match VBIOS.iter().find(|(known, ..)| known.eq_ignore_ascii_case(version)) {
        Some((_, true, when)) => (0, format!("{version}, manifest {when}")),
        Some((_, false, when)) => (2, format!("{version}, manifest {when}")),
        None => (1, format!("{version}, not in this program's list")),
    }
}

pub(super) fn mode(seen: &Seen<'_>) -> Finding {
    over(seen, |found| {
        let modes: Vec<(&Device, Result<Mode, String>)> = found
            .iter()
            .map(|device| {
                let read = |offset| {
                    seen.host
                        .register(&device.address, offset)
                        .map_err(|miss| format!("its registers: {miss}"))
                };
                (device, device.kind.mode(&read))
            })
            .collect();
        let shown = grouped(modes.iter().map(|(device, mode)| {
            let what = mode.as_ref().map_or_else(Clone::clone, Mode::to_string);
            (what, device.address.clone())
        }));
        if modes.iter().any(|(_, mode)| *mode == Ok(Mode::Devtools)) {
            return fail(shown, "devtools is no mode for guests: `chrysalis gpu apply --mode on`");
        }
        if modes.iter().any(|(_, mode)| mode.is_err()) {
            let asleep = shown.contains("asleep");
            let wake =
                "wake it: `echo on > /sys/bus/pci/devices/ADDRESS/power/control`, then run this as root";
            return unknown(
                shown,
                if asleep { wake } else { "run this as root, with no guest running; see `dmesg`" },
            );
        }
        let gpus: Vec<Mode> =
            modes.iter().filter(|(d, _)| d.is_gpu()).filter_map(|(_, m)| m.clone().ok()).collect();
        let switches: Vec<Mode> =
            modes.iter().filter(|(d, _)| !d.is_gpu()).filter_map(|(_, m)| m.clone().ok()).collect();
        match gpus[..] {
            [first, ref rest @ ..] if rest.iter().any(|mode| *mode != first) => {
                fail(format!("GPUs differ: {shown}"), "`chrysalis gpu apply --mode MODE` puts all into one")
            }
            [Mode::ProtectedPcie, ..] if switches.iter().any(|mode| *mode != Mode::ProtectedPcie) => fail(
                format!("switches differ from GPUs: {shown}"),
                "`chrysalis gpu apply --mode protected-pcie`",
            ),
            [Mode::On, ..] if switches.contains(&Mode::ProtectedPcie) => {
                fail(format!("switches differ from GPUs: {shown}"), "`chrysalis gpu apply --mode on`")
            }
            [Mode::Off, ..] => {
                fail(shown, "`chrysalis gpu apply --mode on` (or `protected-pcie` for a whole board)")
            }
            _ => pass(shown),
        }
    })
}

pub(super) fn driver(seen: &Seen<'_>) -> Finding {
    over(seen, |found| {
        let drivers: Vec<(String, String)> = found
            .iter()
            .map(|device| {
                let name = match seen.host.ask(&Question::Link(device.path("driver"))) {
                    Ok(name) => name,
                    Err(Miss::Absent) => "no driver".into(),
                    Err(miss) => format!("its driver {miss}"),
                };
                (name, device.address.clone())
            })
            .collect();
        let fix = "`chrysalis gpu apply` binds them to vfio-pci, `chrysalis gpu restore` gives them back";
        let all = |name: &str| drivers.iter().all(|(driver, _)| driver == name);
        let held = drivers.iter().any(|(driver, _)| {
            !matches!(driver.as_str(), "vfio-pci" | "no driver") && !driver.starts_with("its ")
        });
        let good = all("vfio-pci");
        let shown = grouped(drivers);
        match (good, held) {
            (true, _) => pass(shown),
            (_, true) => fail(shown, fix),
            _ => unknown(shown, fix),
        }
    })
}

/// Whatever shares a group with a GPU goes into the guest with it; bridges stay.
pub(super) fn group(seen: &Seen<'_>) -> Finding {
    over(seen, |found| {
        let mut shared = Vec::new();
        for device in &found {
            let members = match seen.host.names(&device.path("iommu_group/devices")) {
                Ok(members) => members,
                Err(Miss::Absent) => {
                    return fail(format!("{} is in no IOMMU group", device.address), "see `iommu`");
                }
                Err(miss) => {
                    return unseen(
                        &format!("the IOMMU group of {}", device.address),
                        &miss,
                        "run this as root",
                    );
                }
            };
            let foreign = members.into_iter().filter(|member| {
                let same = member.split('.').next() == device.address.split('.').next();
                let bridge = seen
                    .host
                    .file(&format!("{SYSFS}/{member}/class"))
                    .is_ok_and(|class| class.starts_with("0x0604"));
                !same && !bridge
            });
            shared
                .extend(foreign.map(|member| (format!("{} shares its group with", device.address), member)));
        }
        match shared.is_empty() {
            true => pass(format!("each of {} devices is alone in its group", found.len())),
            false => fail(grouped(shared), "put the card into another slot, or turn ACS on in the BIOS"),
        }
    })
}

/// Start and size of each memory region: lines `START END FLAGS` of the file `resource`.
fn regions(text: &str) -> Vec<(u64, u64)> {
    let region = |line: &str| {
        let mut words = line.split_whitespace().map(hex);
        let (start, end) = (words.next()??, words.next()??);
        (end > start).then(|| (start, (end - start).saturating_add(1)))
    };
    text.lines().take(6).filter_map(region).collect()
}

pub(super) fn bars(seen: &Seen<'_>) -> Finding {
    let fix = "in the BIOS: Above 4G Decoding on, MMIO high size as large as it goes, Resizable BAR on; `dmesg | grep -i \"can't assign\"`";
    over(seen, |found| {
        let mut lines = Vec::new();
        for device in found.iter().filter(|device| device.is_gpu()) {
            let regions = match seen.host.file(&device.path("resource")) {
                Ok(text) => regions(&text),
                Err(miss) => return unseen(&format!("the regions of {}", device.address), &miss, fix),
            };
            let large = regions.iter().filter(|(start, size)| *size > GIB && *start > u64::from(u32::MAX));
            let Some((_, size)) = large.max_by_key(|(_, size)| *size) else {
                return fail(
                    format!(
                        "{} has no region above 4 GiB with its memory ({} regions in all)",
                        device.address,
                        regions.len()
                    ),
                    fix,
                );
            };
            lines.push((format!("{} GiB", size / GIB), device.address.clone()));
        }
        pass(format!("largest region {}", grouped(lines)))
    })
}

/// A guest's firmware places the regions of all its GPUs into a 64-bit window, a quarter or an eighth of what the processor
/// can address. Intel counts key bits as address bits: they are taken off.
pub(super) fn window(seen: &Seen<'_>) -> Finding {
    over(seen, |found| {
        let mut wanted = 0u64;
        for device in found.iter().filter(|device| device.is_gpu()) {
            match seen.host.file(&device.path("resource")) {
                Ok(text) => {
                    wanted = regions(&text)
                        .iter()
                        .fold(wanted, |sum, (_, size)| sum.saturating_add(size.next_power_of_two()))
                }
                Err(miss) => {
                    return unseen(&format!("the regions of {}", device.address), &miss, "mount /sys");
                }
            }
        }
        let bits = match (seen.host.cpuid(0x8000_0008, 0), seen.host.msr(0x982)) {
            (Ok([eax, ..]), keys) => (eax & 0xff).saturating_sub(keys.map_or(0, |v| (v >> 32 & 0xf) as u32)),
            (Err(miss), _) => return unseen("CPUID leaf 0x80000008", &miss, "run this on the host itself"),
        };
        let window = 1u64 << bits.saturating_sub(3).min(62);
        let shown = format!(
            "regions of all GPUs {} GiB; {bits} address bits give a window of {} GiB",
            wanted / GIB,
            window / GIB
        );
        let fix = "give each guest fewer GPUs, or name the window with fw_cfg `opt/ovmf/X-PciMmio64Mb`";
        if wanted <= window { pass(shown) } else { fail(shown, fix) }
    })
}

pub(super) fn numa(seen: &Seen<'_>) -> Finding {
    let fix = "in the BIOS: NUMA on (no node interleaving); the launcher places memory and processors beside the GPU";
    over(seen, |found| {
        let nodes = match seen.host.ask(&Question::Names("/sys/devices/system/node".into(), "node")) {
            Ok(names) => names.lines().count(),
            Err(Miss::Absent) => 1,
            Err(miss) => return unseen("/sys/devices/system/node", &miss, fix),
        };
        let mut lines = Vec::new();
        for device in found.iter().filter(|device| device.is_gpu()) {
            match seen.host.file(&device.path("numa_node")) {
                Ok(node) => lines.push((format!("node {node}"), device.address.clone())),
                Err(miss) => return unseen(&format!("the node of {}", device.address), &miss, fix),
            }
        }
        let lost = nodes > 1 && lines.iter().any(|(node, _)| node.starts_with("node -"));
        let shown = format!("{nodes} nodes; {}", grouped(lines));
        if lost { fail(shown, fix) } else { pass(shown) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_read_whatever_the_file_says() {
        let text = "0x0000098042000000 0x0000098042ffffff 0x0000000000140204\n0x0 0x0 0x0\n\
                    0x0000094000000000 0x0000095fffffffff 0x000000000014220c\n";
        assert_eq!(regions(text), [(0x98042000000, 0x1000000), (0x94000000000, 0x2000000000)]);
        assert_eq!(regions("0x0 0xffffffffffffffff 0x0"), [(0, u64::MAX)]);
        assert_eq!(regions("0x5 0x4\nno\n\n0x zz\n\u{0}"), []);
    }
}
