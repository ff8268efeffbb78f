//! `boot`: every step in order, each with a name under which its failure is reported.

use crate::failure::{self, Step};
use crate::gpu::{Gate, Outcome, Wanted};
use crate::{configured, daemon, drivers, entropy, gpu, handoff, lockdown, models, network, port};
use anyhow::{Context, Result};
use attest::rtmr::{self, Measurer};
use protocol::Digest384;
use protocol::config::{RuntimeConfig, StaticConfig};
use protocol::handoff::Handoff;
use protocol::names::{RUNTIME_RECORD, SIMULATED_MARKER};
use protocol::progress::Stage;
use protocol::runtime::Extension;
use rustix::mount::{MountFlags, mount};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use verity::Places;

/// Where everything that `boot` leaves for others lies.
pub(crate) const RUN: &str = "/run/chrysalis";
/// Modules that the initrd did not need.
const MODULES: &str = "/usr/lib/chrysalis/modules";
/// The kernel's switch that forbids module loading until the next boot.
const MODULES_DISABLED: &str = "/proc/sys/kernel/modules_disabled";

/// The gate. On an error the reason is also kept for `failed` to report.
pub(crate) fn run() -> Result<()> {
    let mut step = Step::new("start");
    let result = gate(&mut step);
    if let Err(error) = &result {
        failure::keep(Path::new(RUN), step.name(), error);
    }
    result
}

/// Module loading only.
pub(crate) fn load_modules() -> Result<()> {
    Ok(verity::kmods::load_all(Path::new(MODULES))?)
}

fn gate(step: &mut Step) -> Result<()> {
    fs::create_dir_all(RUN).with_context(|| format!("cannot make {RUN}"))?;
    port::report(Stage::Started);
    step.enter("entropy");
    entropy::mix()?;
    step.enter("modules");
    load_modules()?;
    mount_once("securityfs", "/sys/kernel/security")?;
    mount_once("configfs", "/sys/kernel/config")?;
    step.enter("gpu-modules");
    drivers::bring_up()?;
    step.enter("lockdown");
    lockdown::raise(Path::new(lockdown::FILE))?;
    step.enter("handoff");
    let places = Places::default();
    let handoff = handoff::read(&places)?;
    step.enter("config");
    let config = StaticConfig::parse(&handoff.static_config).context("handoff disk")?;
    let runtime = RuntimeConfig::parse(&handoff.runtime_config).context("handoff disk")?;
    daemon::check(Path::new(daemon::PROGRAMS), config.role)?;
    step.enter("trust");
    if let Some(trust) = &config.trust {
        // The daemon takes them by the same hashes; a host that left one out is told now, by name.
        trust.references(&handoff.files)?;
        trust.simulated_root(&handoff.files)?;
        trust.gpu.as_ref().map_or(Ok(None), |gpu| gpu.roots(&handoff.files))?;
    }
    let marked = Path::new(daemon::PROGRAMS).join(SIMULATED_MARKER).is_file();
    let wanted = config.gpu.as_ref().map(|gpu| Wanted::read(gpu, &handoff.files, marked)).transpose()?;
    step.enter("quote");
    let mrconfigid = configured::check(&attest::TsmAttester::default(), &handoff.static_config)?;
    step.enter("measure");
    let mut measurer = Measurer::begin(Path::new(rtmr::RTMR3), Digest384(mrconfigid))?;
    port::report(Stage::ConfigMeasured { mrconfigid: hex::encode(mrconfigid) });
    step.enter("network");
    network::up(&runtime)?;
    port::report(Stage::NetworkUp { address: runtime.address });
    step.enter("model");
    models::open_all(&places, Path::new(RUN), &config.models, |pin, root| {
        measurer.model(&pin.name, root.0)?;
        port::report(Stage::ModelOpened { name: pin.name.clone(), root: pin.root.clone() });
        Ok(())
    })?;
    step.enter("gpu");
    gpus(wanted.as_ref(), &mrconfigid, &mut measurer)?;
    step.enter("seal");
    seal(measurer)?;
    leave(Path::new(RUN), &handoff)?;
    fs::write(MODULES_DISABLED, "1").with_context(|| {
        format!("{MODULES_DISABLED}: cannot lock module loading; it must be locked before serving")
    })
}

/// Takes the GPUs through their gate and tells the host what became of them.
fn gpus(wanted: Option<&Wanted>, mrconfigid: &[u8; 48], measurer: &mut Measurer) -> Result<()> {
    let driver = attest::gpu::driver();
    let nonce = gpu::nonce(mrconfigid, &entropy::fresh()?);
    // A clock that stands before 1970 is raised to what was measured.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let gate = Gate { driver: &*driver, dev: Path::new("/dev"), nonce, now };
    match gate.pass(wanted, measurer)? {
        Outcome::None => {}
        Outcome::Ready { count, simulated } => port::report(Stage::GpusReady { count, simulated }),
        Outcome::Refused { reason } => {
            port::report(Stage::GpusRefused { reason: failure::short(&reason, failure::MAX_REASON) });
        }
    }
    Ok(())
}

/// Leaves the configuration and the handed files for the daemon.
fn leave(run: &Path, handoff: &Handoff) -> Result<()> {
    let trust = run.join("trust");
    fs::create_dir_all(&trust).with_context(|| format!("cannot make {}", trust.display()))?;
    for file in &handoff.files {
        write_readable(&trust.join(&file.name), &file.bytes)?;
    }
    write_readable(&run.join("runtime.toml"), &handoff.runtime_config)?;
    write_readable(&run.join("static.toml"), &handoff.static_config)
}

/// Ends the measuring, leaves the record for the daemon and tells the host what became of it.
fn seal(measurer: Measurer) -> Result<()> {
    let record = measurer.seal()?;
    write_readable(Path::new(RUNTIME_RECORD), &record.to_bytes())?;
    let extended = record.extension == Extension::Extended;
    port::report(Stage::Sealed { extended, rtmr3: record.log.rtmr3().to_string() });
    Ok(())
}

/// Mounts a kernel file system unless something is mounted there already.
fn mount_once(kind: &str, at: &str) -> Result<()> {
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev());
    let at_path = Path::new(at);
    let here =
        device(at_path).with_context(|| format!("{at}: expected it to exist once {kind} is loaded"))?;
    let above = device(at_path.parent().unwrap_or(at_path)).with_context(|| format!("parent of {at}"))?;
    if here != above {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    mount(kind, at, kind, flags, None).with_context(|| format!("{at}: cannot mount {kind}"))
}

fn write_readable(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::handoff::File;

    #[test]
    fn the_daemon_finds_its_configuration_and_the_handed_files() {
        let run = tempfile::tempdir().unwrap();
        let files = vec![File { name: "collateral.json".into(), bytes: b"{}".to_vec() }];
        let handoff = Handoff { static_config: b"s".to_vec(), runtime_config: b"r".to_vec(), files };
        leave(run.path(), &handoff).unwrap();
        for (name, bytes) in [("static.toml", "s"), ("runtime.toml", "r"), ("trust/collateral.json", "{}")] {
            assert_eq!(fs::read_to_string(run.path().join(name)).unwrap(), bytes);
        }
        assert!(leave(run.path(), &handoff).is_err(), "nothing that was left is ever replaced");
    }
}
