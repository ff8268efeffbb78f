//! The first program of the guest: opens the root file system under dm-verity and hands over to systemd.
//!
//! ```text
//! mount devtmpfs, proc, sysfs -> load /modules/order -> roothash= -> disk by serial -> partitions -> dm-verity
//!   -> erofs on /sysroot -> move mounts -> switch root -> exec systemd
//! any fault -> one line on the console -> reboot (the virtual machine is started with -no-reboot, so it ends)
//! ```
//! Runs as pid 1 out of a cpio archive that holds nothing but this program and the kernel modules it loads. There is no
//! shell, no fallback and no option that opens an unverified root. The root hash comes from the kernel command line,
//! which is measured; disks, partition tables and superblocks are the host's word and are checked by `verity`.
//!
//! Deliberately absent: emptying the archive before the switch (its pages are part of what was measured and cost
//! little), handling of any other root layout, reading anything from the host but block devices.

mod cmdline;
mod switch;

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};
use std::fs;
use std::path::Path;
use std::time::Duration;
use verity::{Disk, Places};

/// As in `protocol::names::ROOT_DISK_SERIAL`, which is not linked here to keep this program small; a test compares.
const ROOT_DISK_SERIAL: &str = "chrysalis-root";
/// How long a disk or partition may take to appear. Under software emulation it takes well under a second.
const DEVICE_LIMIT: Duration = Duration::from_secs(20);
/// Long enough for a serial console to drain before the machine goes away.
const LAST_WORDS: Duration = Duration::from_secs(1);
const SYSROOT: &str = "/sysroot";
const INIT: &str = "/usr/lib/systemd/systemd";

fn main() {
    // Whoever starts this elsewhere than as pid 1 of a guest must not have their machine rebooted.
    if std::process::id() != 1 {
        eprintln!(
            "chrysalis initrd: expected to run as pid 1, found pid {}; it only boots guests",
            std::process::id()
        );
        std::process::exit(2);
    }
    let Err(reason) = boot();
    eprintln!("chrysalis initrd: stopped: {reason}");
    std::thread::sleep(LAST_WORDS);
    let _ = reboot(RebootCommand::Restart);
    // Leaving pid 1 makes the kernel panic, which also ends the machine.
    std::process::exit(1);
}

/// Returns only on failure, with a line for the console.
fn boot() -> Result<std::convert::Infallible, String> {
    mount_api("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC)?;
    mount_api("proc", "/proc", MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV)?;
    mount_api("sysfs", "/sys", MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV)?;
    // A panic (dm-verity's on corruption, above all) ends the machine at once, whatever the command line says.
    fs::write("/proc/sys/kernel/panic", "-1").map_err(|e| format!("cannot set kernel.panic: {e}"))?;
    let root = cmdline::root_hash(&read("/proc/cmdline")?)?;
    verity::kmods::load_all(Path::new("/modules")).map_err(|e| e.to_string())?;
    let places = Places::default();
    let disk = Disk::wait(&places, ROOT_DISK_SERIAL, DEVICE_LIMIT).map_err(|e| e.to_string())?;
    let device =
        verity::open::root(&places, &disk, "root", &root, DEVICE_LIMIT).map_err(|e| e.to_string())?;
    fs::create_dir_all(SYSROOT).map_err(|e| format!("cannot make {SYSROOT}: {e}"))?;
    mount(&device, SYSROOT, "erofs", MountFlags::RDONLY | MountFlags::NODEV, None).map_err(|e| {
        format!("cannot mount {} as erofs: {e}; expected an erofs root image", device.display())
    })?;
    switch::to(SYSROOT, INIT)
}

fn mount_api(kind: &str, at: &str, flags: MountFlags) -> Result<(), String> {
    fs::create_dir_all(at).map_err(|e| format!("cannot make {at}: {e}"))?;
    mount(kind, at, kind, flags, None).map_err(|e| format!("cannot mount {kind} on {at}: {e}"))
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("cannot read {path}: {e}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_root_disk_is_looked_for_under_the_name_the_launcher_gives_it() {
        assert_eq!(super::ROOT_DISK_SERIAL, protocol::names::ROOT_DISK_SERIAL);
    }
}
