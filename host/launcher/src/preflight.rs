//! What a launch needs of its host, looked at before QEMU is started: devices, placement, the quote service, and that no other
//! launcher has the same device. Then the devices are taken ([`Claims::attach`]) and, when the machine is over, given back.
//!
//! Only what this machine's settings name is looked at. `chrysalis doctor` looks at everything and knows the fixes.
//!
//! Deliberately absent: changing GPU modes, which is a matter of all devices of the host (`chrysalis gpu apply`).

use crate::error::LaunchError;
use crate::gpu::{Attached, Board, GpuError, Held, Patience, RealSysfs, STATE, Sysfs, boot_id};
use crate::host::{Endpoint, Host, Question, Real};
use crate::machine::{After, HugePages, PciAddress, Platform, QuoteService, TrustDomain, Vsock};
use crate::settings::Settings;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// The folders in which a host shows itself; those of the running system, unless a test puts others in their place.
#[derive(Debug, Clone)]
pub struct HostDirs {
    /// `/sys`.
    pub sysfs: Arc<dyn Sysfs>,
    /// `/dev`.
    pub dev: PathBuf,
    /// Folder of one lock a device, shared by everybody on the host who takes devices, and of what was before.
    pub locks: PathBuf,
}

impl Default for HostDirs {
    fn default() -> Self {
        HostDirs { sysfs: Arc::new(RealSysfs::default()), dev: "/dev".into(), locks: STATE.into() }
    }
}

/// The devices of one machine, held against other launchers and `chrysalis gpu` for as long as this value lives.
#[derive(Debug)]
pub struct Claims {
    host: HostDirs,
    boot: String,
    domain: Option<TrustDomain>,
    devices: Devices,
}

/// How far they are.
#[derive(Debug)]
enum Devices {
    /// There are none, or they are given back.
    None,
    /// Nobody else gets them.
    Held(Held),
    /// QEMU can be started with them.
    Attached(Attached),
}

impl Claims {
    /// Makes the devices ready: vfio-pci's, reset, in their mode, each with a file that QEMU can open.
    pub fn attach(&mut self) -> Result<(), LaunchError> {
        let Some(domain) = &self.domain else { return Ok(()) };
        let held = match std::mem::replace(&mut self.devices, Devices::None) {
            Devices::Held(held) => held,
            other => {
                self.devices = other;
                return Ok(());
            }
        };
        let attached = self.host.board(&self.boot).attach(held, &names(domain), domain.gpu_mode)?;
        let missing = attached.files().iter().find(|name| !self.host.vfio_file(name).exists()).cloned();
        self.devices = Devices::Attached(attached);
        match missing {
            None => Ok(()),
            Some(name) => {
                let found = format!("no {}", self.host.vfio_file(&name).display());
                let next = "mount devtmpfs on /dev, or let udev make it; QEMU opens it to take the device";
                Err(host("this host", found, "a file for each device of vfio-pci", next))
            }
        }
    }

    /// Gives the devices back, if the settings say so.
    pub fn give_back(&mut self) -> Result<(), LaunchError> {
        let after = self.domain.as_ref().map(|domain| domain.gpus_after);
        match (std::mem::replace(&mut self.devices, Devices::None), after) {
            (Devices::Attached(attached), Some(After::GiveBack)) => {
                Ok(self.host.board(&self.boot).give_back(attached).map(drop)?)
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        // A launch that failed on its way: why is said already, and what stays is known to `chrysalis gpu restore`.
        let _ = self.give_back();
    }
}

fn names(domain: &TrustDomain) -> Vec<&str> {
    domain.devices().map(PciAddress::as_str).collect()
}

impl HostDirs {
    /// Checks what these settings name, and holds the devices; changes nothing.
    pub fn claim(&self, settings: &Settings) -> Result<Claims, LaunchError> {
        self.placement(settings)?;
        let mut claims =
            Claims { host: self.clone(), boot: String::new(), domain: None, devices: Devices::None };
        let Platform::Tdx(domain) = &settings.platform else { return Ok(claims) };
        self.files(domain)?;
        self.quotes(domain)?;
        if domain.devices().next().is_none() {
            return Ok(claims);
        }
        claims.boot = boot_id().map_err(LaunchError::file("identifier of this boot", "/proc"))?;
        claims.domain = Some(domain.clone());
        let board = self.board(&claims.boot);
        // The locks first: somebody else may be about to give a device back.
        claims.devices = Devices::Held(board.hold(&names(domain)).map_err(named)?);
        board.plan_attach(&names(domain), domain.gpu_mode)?;
        Ok(claims)
    }

    fn board<'a>(&'a self, boot: &'a str) -> Board<'a> {
        Board { sysfs: &*self.sysfs, admin: None, state: &self.locks, boot, patience: Patience::default() }
    }

    fn vfio_file(&self, name: &str) -> PathBuf {
        self.dev.join("vfio/devices").join(name)
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
        self.sysfs.root().join("bus/pci/devices").join(device.as_str())
    }

    fn placement(&self, settings: &Settings) -> Result<(), LaunchError> {
        let system = self.sysfs.root().join("devices/system");
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
        let node =
            |node: &u32| of(self.sysfs.root().join(format!("devices/system/node/node{node}/hugepages")));
        let free: u64 = match nodes.is_empty() {
            true => of(self.sysfs.root().join("kernel/mm/hugepages")),
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

/// The words of a settings file for what a device's lock or place says.
fn named(error: GpuError) -> LaunchError {
    match error {
        GpuError::Busy { what } => {
            let next = "stop the machine that has it (`chrysalis machine status` on each run folder), or name another";
            host(&format!("device {what}"), "in use by another launcher".into(), "one that is free", next)
        }
        GpuError::Gone { address } => {
            let next = "correct `tdx.gpus`; if the device was there before, it fell off the bus: look into the kernel's log and \
                        restart the host";
            host(&format!("device {address}"), "not on the PCI bus".into(), "a device at that address", next)
        }
        other => other.into(),
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
