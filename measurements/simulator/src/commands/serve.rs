//! `serve`: the SIMULATED platform inside a guest.
//!
//! ```text
//! disk with serial chrysalis-sim -> identity, MRCONFIGID      TPM log = live PCRs ? -> registers
//!                                   \--------> tmpfs over /sys/kernel/config: tsm/report <---/
//!                                                                                           \-- RTMR3
//! tmpfs over /sys/devices/virtual/misc: tdx_guest/measurements/rtmr3:sha384 <- the guest's own events
//! ```
//! The registers of every quote come from the live firmware log at the time of the request, after it was found to replay
//! to the live PCRs: never from a prediction. RTMR3 is what was written to its file, as in the kernel.

use super::notify;
use super::rtmr::Rtmr3;
use super::tsm::Entries;
use anyhow::{Context, Result, ensure};
use measure::wire::MAX_EVENT_LOG;
use measure::wire::SIMULATOR_DISK_SERIAL;
use measure::wire::SimulatedPlatform;
use rustix::mount::{MountFlags, mount};
use simulator::{Identity, tpm};
use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const CONFIGFS: &str = "/sys/kernel/config";
const SECURITYFS: &str = "/sys/kernel/security";
/// Where the kernel shows the attributes of `/dev/tdx_guest`, and of devices that no program of the image looks up here.
const MISC_DEVICES: &str = "/sys/devices/virtual/misc";
/// Identity, MRCONFIGID and their framing, rounded up.
const MAX_DISK: u64 = 128 * 1024;
/// Until the disk shows up: its driver may be probing still.
const DISK_DEADLINE: Duration = Duration::from_secs(10);

/// `serve [--base DIR] [--log FILE] [--pcrs DIR] [--disk FILE] [--misc DIR]`
#[derive(clap::Args)]
pub struct Args {
    /// Folder in which to play report entries; without it a tmpfs over configfs.
    #[arg(long)]
    base: Option<PathBuf>,
    /// The firmware's TPM log.
    #[arg(long, default_value = "/sys/kernel/security/tpm0/binary_bios_measurements")]
    log: PathBuf,
    /// Folder with one file a PCR, SHA-384 in hex.
    #[arg(long, default_value = "/sys/class/tpm/tpm0/pcr-sha384")]
    pcrs: PathBuf,
    /// The simulator's disk; without it the one whose serial says so.
    #[arg(long)]
    disk: Option<PathBuf>,
    /// Folder in which to play the file of RTMR3; without it a tmpfs over the kernel's.
    #[arg(long)]
    misc: Option<PathBuf>,
}

/// Serves until it is killed.
pub fn run(args: &Args) -> Result<()> {
    let disk = match &args.disk {
        Some(disk) => disk.clone(),
        None => find_disk()?,
    };
    let platform = SimulatedPlatform::from_disk(&read(&disk, MAX_DISK)?)
        .with_context(|| format!("{}: not the simulator's disk", disk.display()))?;
    let identity = Identity::from_bytes(&platform.identity)?;
    let base = match &args.base {
        Some(base) => base.clone(),
        None => mount_over_configfs()?,
    };
    let misc = match &args.misc {
        Some(misc) => misc.clone(),
        None => mount_over(MISC_DEVICES)?,
    };
    if !args.log.exists() && args.log.starts_with(SECURITYFS) {
        attach("securityfs", c"securityfs", SECURITYFS, None)?;
    }
    // Once before anybody asks: a machine whose log explains nothing is better told so now.
    registers(args)?;
    let mut rtmr3 = Rtmr3::new(&misc)?;
    let mut entries = Entries::new(base);
    println!("SIMULATED platform: signs quotes that prove nothing about hardware");
    notify::ready().context("cannot tell the service manager that requests are answered")?;
    loop {
        rtmr3.serve()?;
        let pause = entries.serve(&mut |report_data| {
            let mut registers = registers(args)?;
            registers.rtmr[3] = rtmr3.value();
            let td = identity.td_report(&registers, platform.mrconfigid, *report_data);
            Ok(identity.quote(&td))
        })?;
        std::thread::sleep(pause);
    }
}

fn registers(args: &Args) -> Result<measure::Registers> {
    let log = read(&args.log, MAX_EVENT_LOG as u64)?;
    let pcrs: Vec<[u8; 48]> = (0..tpm::PCRS).map(|pcr| read_pcr(&args.pcrs, pcr)).collect::<Result<_>>()?;
    Ok(tpm::registers(&log, &pcrs)?)
}

fn read_pcr(folder: &Path, pcr: u32) -> Result<[u8; 48]> {
    let path = folder.join(pcr.to_string());
    let text = fs::read_to_string(&path)
        .with_context(|| format!("{}: is there a TPM with its SHA-384 bank active?", path.display()))?;
    let mut value = [0; 48];
    hex::decode_to_slice(text.trim(), &mut value)
        .with_context(|| format!("{}: expected 96 hex digits, found `{}`", path.display(), text.trim()))?;
    Ok(value)
}

fn read(path: &Path, max: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.take(max + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
    // A disk is longer than what stands at its front; a log is not.
    if path.starts_with("/dev") {
        bytes.truncate(max as usize);
    }
    ensure!(bytes.len() as u64 <= max, "{}: expected at most {max} bytes, found more", path.display());
    Ok(bytes)
}

fn find_disk() -> Result<PathBuf> {
    let start = Instant::now();
    loop {
        for entry in fs::read_dir("/sys/block").context("cannot list /sys/block")?.flatten() {
            let serial = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
            if serial.trim() == SIMULATOR_DISK_SERIAL {
                return Ok(Path::new("/dev").join(entry.file_name()));
            }
        }
        ensure!(
            start.elapsed() < DISK_DEADLINE,
            "no disk has serial {SIMULATOR_DISK_SERIAL}; launch with `simulated_platform` set, or boot an image without \
             the debug profile"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Hides the kernel's own configfs, if it has one, behind a folder of ordinary files.
fn mount_over_configfs() -> Result<PathBuf> {
    let base = mount_over(CONFIGFS)?.join("tsm/report");
    fs::create_dir_all(&base).with_context(|| format!("cannot make {}", base.display()))?;
    Ok(base)
}

fn mount_over(folder: &str) -> Result<PathBuf> {
    ensure!(Path::new(folder).is_dir(), "{folder} is not there; load the modules before this service");
    attach("tmpfs", c"tmpfs", folder, Some(c"mode=0755,size=8m"))?;
    Ok(folder.into())
}

fn attach(name: &str, kind: &CStr, target: &str, options: Option<&CStr>) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match mount(kind, target, kind, flags, options) {
        // Somebody else was faster with the one instance that there is.
        Err(error) if std::io::Error::from(error).kind() == ErrorKind::ResourceBusy => Ok(()),
        other => other.with_context(|| format!("cannot mount {name} on {target}; this must run as root")),
    }
}
