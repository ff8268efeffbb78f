//! The floor: how long the barest comparable guest takes from QEMU's start to its first word.
//!
//! A distribution's kernel and a busybox initrd as one UKI, booted by the very same launcher on the very same machine
//! type: what remains above it is Chrysalis' own. Measure it in the same run as what it is compared with.

use crate::error::LaunchError;
use crate::life::{Guest, launch};
use crate::process;
use crate::settings::{Firmware, Settings};
use protocol::names;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Kernel command line: as quiet as the real image's, since a serial console is slow to emulate.
pub const CMDLINE: &str = "console=ttyS0 quiet panic=-1";

/// What the floor is built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Floor {
    /// A kernel (bzImage) with virtio PCI, virtio console and devtmpfs built in, such as Debian's cloud kernel.
    pub kernel: PathBuf,
    /// A static busybox with `sh`, `mount`, `cat` and `poweroff`.
    pub busybox: PathBuf,
    /// Folder for the UKI and the run.
    pub work_dir: PathBuf,
    /// Virtual CPUs: as many as the guest has that it is compared with.
    pub vcpus: u32,
    /// Memory in MiB: likewise.
    pub memory_mib: u64,
    /// The firmware: likewise.
    pub firmware: Firmware,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FloorTime {
    /// Milliseconds from QEMU's start to the first line of the guest's first program.
    pub first_line_ms: u64,
    /// Milliseconds from QEMU's start to QEMU's end.
    pub off_ms: u64,
    /// Bytes of the UKI: firmware and stub hash each of them.
    pub uki_bytes: u64,
}

impl Floor {
    /// Builds the stand-in guest, boots it once and waits for its end.
    pub fn measure(
        &self,
        tools: impl Fn(&str) -> Command + Send + 'static,
        deadline: Duration,
    ) -> Result<FloorTime, LaunchError> {
        let settings = self.build(&tools)?;
        let uki_bytes = fs::metadata(&settings.image.uki)
            .map_err(LaunchError::file("stand-in UKI", &settings.image.uki))?
            .len();
        let guest = launch(&settings, tools, |_| ())?;
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let first_line_ms = millis(guest.wait_progress(deadline)?);
        let off_ms = millis(Guest::wait_exit(&guest, deadline)?);
        Ok(FloorTime { first_line_ms, off_ms, uki_bytes })
    }

    /// Builds the stand-in guest and returns settings that launch it.
    pub fn build(&self, tools: &dyn Fn(&str) -> Command) -> Result<Settings, LaunchError> {
        let absolute = |p: &Path| std::path::absolute(p).map_err(LaunchError::file("path of the floor", p));
        let dir = absolute(&self.work_dir)?;
        fs::create_dir_all(&dir).map_err(LaunchError::file("folder of the floor", &dir))?;
        let busybox = fs::read(&self.busybox).map_err(LaunchError::file("static busybox", &self.busybox))?;
        let plain = dir.join("initrd.cpio");
        fs::write(&plain, initrd(&busybox)).map_err(LaunchError::file("stand-in initrd", &plain))?;
        let (packed, uki) = (dir.join("initrd.cpio.zst"), dir.join("floor.efi"));
        let mut zstd = tools("zstd");
        zstd.args(["-q", "-f", "-19"]).arg(&plain).arg("-o").arg(&packed);
        process::run("zstd", zstd, &dir.join("zstd.log"))?;
        let mut ukify = tools("ukify");
        ukify.arg("build").arg("--linux").arg(absolute(&self.kernel)?).arg("--initrd").arg(&packed);
        ukify.arg("--cmdline").arg(CMDLINE).arg("--output").arg(&uki);
        process::run("ukify", ukify, &dir.join("ukify.log"))?;
        let bare = Settings::bare(uki, self.firmware.clone(), dir.join("run"));
        Ok(Settings { vcpus: self.vcpus, memory_mib: self.memory_mib, ..bare })
    }
}

/// The stand-in's only program: says one line on the progress port, shows the registers on the console, leaves.
fn script() -> String {
    let port = names::PROGRESS_PORT;
    format!(
        r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs none /dev; $b mount -t sysfs none /sys; $b mount -t proc none /proc
read up _ < /proc/uptime
for p in /sys/class/virtio-ports/*; do
  read name < $p/name
  [ "$name" = {port} ] && echo "{{\"uptime_ms\":$((${{up%.*}} * 1000)),\"stage\":\"started\"}}" > /dev/${{p##*/}}
done
for i in 0 1 2 3 4 5 6 7 9 11 12; do echo "PCR $i $($b cat /sys/class/tpm/tpm0/pcr-sha384/$i)"; done > /dev/console
$b poweroff -f
"#
    )
}

/// The archive: newc format of cpio (Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`).
fn initrd(busybox: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for dir in ["bin", "dev", "proc", "sys"] {
        entry(&mut archive, dir, 0o040_755, &[]);
    }
    entry(&mut archive, "bin/busybox", 0o100_755, busybox);
    entry(&mut archive, "init", 0o100_755, script().as_bytes());
    entry(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
    // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name's size, checksum
    let fields = [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
