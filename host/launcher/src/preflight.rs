//! What a launch needs of its host, looked at before QEMU is started: devices, placement, the quote service, and that no other
//! launcher has the same device.
//!
//! Only what this machine's settings name is looked at. `chrysalis doctor` looks at everything and knows the fixes.
//!
//! Deliberately absent: changing anything (binding drivers, GPU modes).

use crate::error::LaunchError;
use crate::gpu::{GpuError, Held, STATE};
use crate::host::{Endpoint, Host, Question, Real};
use crate::machine::{HugePages, PciAddress, Platform, QuoteService, TrustDomain, Vsock};
use crate::settings::Settings;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The folders in which a host shows itself; those of the running system, unless a test puts others in their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDirs {
    /// `/sys`.
    pub sysfs: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
    /// Folder of one lock a device, shared by everybody on the host who takes devices.
    pub locks: PathBuf,
}

impl Default for HostDirs {
    fn default() -> Self {
        HostDirs { sysfs: "/sys".into(), dev: "/dev".into(), locks: STATE.into() }
    }
}

/// The devices of one machine, held against other launchers and `chrysalis gpu` for as long as this value lives.
#[derive(Debug)]
pub struct Claims {
    _held: Option<Held>,
}

impl HostDirs {
    /// Checks what these settings name, and takes the devices.
    pub fn claim(&self, settings: &Settings) -> Result<Claims, LaunchError> {
        self.placement(settings)?;
        let Platform::Tdx(domain) = &settings.platform else { return Ok(Claims { _held: None }) };
        self.files(domain)?;
        self.quotes(domain)?;
        if domain.devices().next().is_none() {
            return Ok(Claims { _held: None });
        }
        // The locks first: somebody else may be about to give a device back.
        let held = self.hold(domain)?;
        domain.devices().try_for_each(|device| self.device(device))?;
        Ok(Claims { _held: Some(held) })
    }

    /// The first device of a trust domain that is no longer there.
    pub fn vanished<'a>(&self, domain: &'a TrustDomain) -> Option<&'a PciAddress> {
        domain.devices().find(|device| !self.pci(device).exists())
    }

    /// Whether the quote service answers.
    pub fn quotes_answer(&self, service: &QuoteService) -> bool {
        let endpoint = match service {
            QuoteService::Vsock { cid, port } => Endpoint::Vsock(*cid, *port),
            QuoteService::Unix(path) => Endpoint::Unix(path.display().to_string()),
        };
        Real::default().ask(&Question::Reach(endpoint)).is_ok()
    }

    fn quotes(&self, domain: &TrustDomain) -> Result<(), LaunchError> {
        if !self.quotes_answer(&domain.quotes) {
            let found = format!("nobody answers on {}", domain.quotes);
            let next =
                "start Intel's quote generation service (`systemctl start qgsd`), or correct `tdx.quotes`";
            return Err(host("the quote service", found, "one that answers", next));
        }
        Ok(())
    }

    fn files(&self, domain: &TrustDomain) -> Result<(), LaunchError> {
        let kvm = "load kvm_intel with tdx=1 on a host that has TDX; `chrysalis doctor` says what is missing";
        let iommu = "enable the IOMMU and load iommufd; `chrysalis doctor` says what is missing";
        let vsock = "load vhost_vsock, or set `tdx.vsock` to \"vhost-user\" or \"none\"";
        let passes = domain.devices().next().is_some();
        let wanted = [
            ("kvm", true, kvm),
            ("iommu", passes, iommu),
            ("vhost-vsock", matches!(domain.vsock, Some(Vsock::Vhost { .. })), vsock),
        ];
        for (name, needed, next) in wanted {
            let path = self.dev.join(name);
            if needed && !path.exists() {
                let found = format!("no {}", path.display());
                return Err(host("this host", found, "that device", next));
            }
        }
        match &domain.vsock {
            Some(Vsock::VhostUser { socket }) if !socket.exists() => {
                let found = format!("no {}", socket.display());
                let next = "start vhost-device-vsock with that socket, or correct `tdx.vsock_socket`";
                Err(host("the vsock process", found, "its socket", next))
            }
            _ => Ok(()),
        }
    }

    fn pci(&self, device: &PciAddress) -> PathBuf {
        self.sysfs.join("bus/pci/devices").join(device.as_str())
    }

    fn device(&self, device: &PciAddress) -> Result<(), LaunchError> {
        let path = self.pci(device);
        let what = format!("device {device}");
        if !path.exists() {
            let next = "correct `tdx.gpus`; if the device was there before, it fell off the bus: look into the kernel's log and \
                        restart the host";
            return Err(host(&what, "not on the PCI bus".into(), "a device at that address", next));
        }
        let driver = fs::read_link(path.join("driver")).ok();
        let driver = driver.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
        match driver.as_deref() {
            Some("vfio-pci") => Ok(()),
            other => {
                let found = format!("bound to {}", other.unwrap_or("no driver"));
                let next = "hand it to guests with `chrysalis gpu apply`, which binds it to vfio-pci";
                Err(host(&what, found, "bound to vfio-pci", next))
            }
        }
    }

    fn hold(&self, domain: &TrustDomain) -> Result<Held, LaunchError> {
        Held::take(&self.locks, domain.devices().map(PciAddress::as_str)).map_err(|error| match error {
            GpuError::Busy { what } => {
                let next = "stop the machine that has it (`chrysalis machine status` on each run folder), or name another";
                let what = format!("device {what}");
                host(&what, "in use by another launcher".into(), "one that is free", next)
            }
            GpuError::State { path, source } => LaunchError::File { what: "lock of a device", path, source },
            other => LaunchError::Unprepared { reason: other.to_string() },
        })
    }

    fn placement(&self, settings: &Settings) -> Result<(), LaunchError> {
        let system = self.sysfs.join("devices/system");
        let placement = &settings.placement;
        for (field, wanted, online) in [
            ("placement.cpus", &placement.cpus, system.join("cpu/online")),
            ("placement.nodes", &placement.nodes, system.join("node/online")),
        ] {
            if wanted.is_empty() {
                continue;
            }
            let text = fs::read_to_string(&online).unwrap_or_default();
            if let Some(missing) = wanted.iter().find(|number| !listed(&text, **number)) {
                let expected = format!("of those online, {}", text.trim());
                return Err(host(field, missing.to_string(), &expected, "name others, or leave it out"));
            }
        }
        match placement.hugepages {
            Some(pages) => self.pages(pages, settings),
            None => Ok(()),
        }
    }

    /// Free pages of the nodes that are named, else of the host.
    fn pages(&self, pages: HugePages, settings: &Settings) -> Result<(), LaunchError> {
        let name = format!("hugepages-{}kB/free_hugepages", pages.kib());
        let of = |folder: PathBuf| -> u64 {
            let text = fs::read_to_string(folder.join(&name)).unwrap_or_default();
            text.trim().parse().unwrap_or(0)
        };
        let nodes = &settings.placement.nodes;
        let node = |node: &u32| of(self.sysfs.join(format!("devices/system/node/node{node}/hugepages")));
        let free: u64 = match nodes.is_empty() {
            true => of(self.sysfs.join("kernel/mm/hugepages")),
            false => nodes.iter().map(node).sum(),
        };
        let needed = settings.memory_mib * 1024 / pages.kib();
        if free < needed {
            let found = format!("{free} free pages of {}", pages.name());
            let next = "set aside more (`hugepages=` on the host's command line, or nr_hugepages)";
            return Err(host("placement.hugepages", found, &needed.to_string(), next));
        }
        Ok(())
    }
}

fn host(what: &str, found: String, expected: &str, next: &'static str) -> LaunchError {
    LaunchError::Host { what: what.into(), found, expected: expected.into(), next }
}

/// Refuses a QEMU of another release than the shape's, whose tables would measure otherwise.
pub(crate) fn release_of_qemu(
    domain: &TrustDomain,
    tools: &dyn Fn(&str) -> Command,
) -> Result<(), LaunchError> {
    const NAME: &str = "qemu-system-x86_64";
    let output =
        tools(NAME).arg("--version").stdin(Stdio::null()).output().map_err(|e| LaunchError::Tool {
            tool: NAME.into(),
            reason: format!("could not be started ({e}); is it installed?"),
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    // `QEMU emulator version 10.2.1 (...)`.
    let word = text.split_whitespace().nth(3).unwrap_or("of no version");
    let found: Vec<&str> = word.split('.').take(2).collect();
    if found.join(".") == domain.qemu.name() {
        return Ok(());
    }
    let next =
        "set `tdx.qemu` to what is installed, if it is a release that can be foretold, or install that one";
    Err(host("QEMU's release", word.chars().take(40).collect(), domain.qemu.name(), next))
}

/// Whether a list of the kernel (`0-3,8`) has a number.
fn listed(text: &str, number: u32) -> bool {
    text.trim().split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<u32>(), last.parse::<u32>()) {
            (Ok(first), Ok(last)) => (first..=last).contains(&number),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests;
