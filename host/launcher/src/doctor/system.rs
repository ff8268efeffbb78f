//! IOMMU and devices for guests, memory, disk and clock.
//!
//! DMA mappings of a TD are pages of 4 KiB: type 1 VFIO counts them (`dma_entry_limit`, 65,535 unless raised; 4,194,304 for a
//! guest of 16 GiB), iommufd does not (cover letter "KVM: TDX: shared device assignment", linux-coco, March 2025).

use super::{Finding, Seen, fail, pass, unknown, unseen};
use crate::host::{Miss, Question};
use std::time::Duration;
use x509_cert::der::DateTime;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// What a host with one small guest needs to have free.
const MIN_MEMORY: u64 = 8 * GIB;
/// Mappings for a guest of 16 GiB.
const MIN_ENTRIES: u64 = 4 << 20;
/// An image, a model and logs.
const MIN_DISK: u64 = 20 * GIB;
/// Seconds between the system's clock and the board's.
const MAX_SKEW: u64 = 120;
/// 2026-01-01: no right clock is before this program.
const WRITTEN: u64 = 1_767_225_600;

pub(super) fn iommu(seen: &Seen<'_>) -> Finding {
    let fix = "in the BIOS: VT-d on; then `intel_iommu=on` on the kernel's command line, and reboot";
    let units = match seen.host.names("/sys/class/iommu") {
        Ok(units) => units,
        Err(Miss::Absent) => Vec::new(),
        Err(miss) => return unseen("/sys/class/iommu", &miss, fix),
    };
    let groups = seen.host.names("/sys/kernel/iommu_groups").map_or(0, |groups| groups.len());
    let shown = format!("{} IOMMU units, {groups} groups", units.len());
    if units.is_empty() || groups == 0 { fail(shown, fix) } else { pass(shown) }
}

pub(super) fn vfio(seen: &Seen<'_>) -> Finding {
    let fix = "run `modprobe vfio-pci`; name it in /etc/modules-load.d to have it after a reboot";
    match seen.host.kind("/sys/bus/pci/drivers/vfio-pci") {
        Ok(_) => pass("driver vfio-pci is there"),
        Err(Miss::Absent) => fail("no driver vfio-pci", fix),
        Err(miss) => unseen("/sys/bus/pci/drivers/vfio-pci", &miss, fix),
    }
}

pub(super) fn dma_limits(seen: &Seen<'_>) -> Finding {
    let locked = seen.host.line("/proc/self/limits", "Max locked memory").ok();
    let locked = locked.map_or(String::new(), |line| {
        let words: Vec<&str> = line.split_whitespace().take(2).collect();
        format!("; locked memory of this user {}", words.join("/"))
    });
    if seen.host.kind("/dev/iommu").is_ok_and(|kind| kind == "char") {
        return pass(format!("/dev/iommu is there, which counts no entries{locked}"));
    }
    let path = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";
    let fix = "run `modprobe iommufd` (Linux 6.6 or later with CONFIG_IOMMUFD); else `options vfio_iommu_type1 dma_entry_limit=4194304` \
               in /etc/modprobe.d, for each 16 GiB of guest";
    match seen.host.number(&Question::File(path.into())) {
        Ok(entries) if entries >= MIN_ENTRIES => pass(format!("dma_entry_limit {entries}{locked}")),
        Ok(entries) => {
            fail(format!("dma_entry_limit {entries}, {MIN_ENTRIES} for a guest of 16 GiB{locked}"), fix)
        }
        Err(miss) => unseen(path, &miss, fix),
    }
}

/// A field of /proc/meminfo in bytes (or pieces, where the kernel counts those).
fn meminfo(seen: &Seen<'_>, name: &'static str) -> Result<u64, Miss> {
    let line = seen.host.line("/proc/meminfo", name)?;
    let mut words = line.split_whitespace();
    let number: Option<u64> = words.next().and_then(|word| word.parse().ok());
    let unit = if words.next() == Some("kB") { 1024 } else { 1 };
    number.map(|n| n.saturating_mul(unit)).ok_or_else(|| Miss::Failed(format!("/proc/meminfo says `{line}`")))
}

pub(super) fn memory(seen: &Seen<'_>) -> Finding {
    match (meminfo(seen, "MemTotal"), meminfo(seen, "MemAvailable")) {
        (Ok(total), Ok(free)) => {
            let shown = format!("{} of {} MiB available", free / MIB, total / MIB);
            if free >= MIN_MEMORY {
                pass(shown)
            } else {
                fail(
                    format!("{shown}, {} wanted", MIN_MEMORY / MIB),
                    "end what uses it; a guest with a GPU wants as much memory as the GPU has",
                )
            }
        }
        (Err(miss), _) | (_, Err(miss)) => unseen("/proc/meminfo", &miss, "mount /proc"),
    }
}

/// Private memory of a TD comes from guest_memfd, which takes none from the pools of huge pages.
pub(super) fn huge_pages(seen: &Seen<'_>) -> Finding {
    let fix = "free the pools (`sysctl vm.nr_hugepages=0`, no hugepages= on the kernel's command line): a TD's private memory can't come from them";
    let pools = || {
        let size = meminfo(seen, "Hugetlb")?;
        Ok::<_, Miss>((size, meminfo(seen, "MemTotal")?))
    };
    match pools() {
        Ok((pools, total)) => {
            let shown = format!("{} of {} MiB are in pools of huge pages", pools / MIB, total / MIB);
            if pools > total / 2 { fail(shown, fix) } else { pass(shown) }
        }
        Err(Miss::Absent) => pass("this kernel has no pools of huge pages"),
        Err(miss) => unseen("/proc/meminfo", &miss, "mount /proc"),
    }
}

pub(super) fn disk(seen: &Seen<'_>) -> Finding {
    let at = &seen.options.models;
    match seen.host.number(&Question::Space(at.clone())) {
        Ok(free) => {
            let shown = format!("{} MiB free at {at}", free / MIB);
            if free >= MIN_DISK {
                pass(shown)
            } else {
                fail(
                    format!("{shown}, {} wanted", MIN_DISK / MIB),
                    "free some, or name another place with `--models`",
                )
            }
        }
        Err(miss) => {
            unseen(&format!("free space at {at}"), &miss, "name the folder of the models with `--models`")
        }
    }
}

/// As ISO 8601 has it; the bare number where it is beyond the year 9999.
fn date(seconds: u64) -> String {
    let date = DateTime::from_unix_duration(Duration::from_secs(seconds));
    date.map_or_else(|_| format!("{seconds} s since 1970"), |date| date.to_string())
}

/// Certificates and collateral have dates.
pub(super) fn time(seen: &Seen<'_>) -> Finding {
    let fix = "start a time service (chrony, systemd-timesyncd) and wait until it has set the clock";
    let now = match seen.host.number(&Question::Clock) {
        Ok(now) if now < WRITTEN => {
            return fail(format!("the clock says {}, before this program", date(now)), fix);
        }
        Ok(now) => now,
        Err(miss) => return unseen("the clock", &miss, fix),
    };
    let board = seen.host.number(&Question::File("/sys/class/rtc/rtc0/since_epoch".into()));
    if let Ok(board) = board
        && board.abs_diff(now) > MAX_SKEW
    {
        return fail(format!("the system's clock and the board's are {} s apart", board.abs_diff(now)), fix);
    }
    let marks = [
        "/run/systemd/timesync/synchronized",
        "/run/chrony/chronyd.sock",
        "/run/chrony/chronyd.pid",
        "/run/ntpd.pid",
    ];
    match marks.iter().find(|mark| seen.host.kind(mark).is_ok()) {
        Some(mark) => pass(format!("{}; {mark} is there", date(now))),
        None => unknown(format!("{}; no sign of a time service", date(now)), fix),
    }
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn the_clock_is_told_as_a_date() {
        assert_eq!(date(1_795_330_205), "2026-11-22T06:50:05Z");
        assert_eq!(date(u64::MAX), format!("{} s since 1970", u64::MAX));
    }
}
