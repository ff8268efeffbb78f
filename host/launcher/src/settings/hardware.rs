//! The parts of settings that name hardware: the platform, a trust domain's devices and sockets, and the placement on the
//! host. Shape and addresses are checked here; whether the host has what they name is seen when a machine is prepared.

use super::check::{Firmware, absolute, quoted};
use super::{Input, SettingsError};
use crate::gpu::chip::Mode;
use crate::machine::{After, HugePages, PciAddress, Placement, Platform, QuoteService, TrustDomain, Vsock};
use measure::Digest256;
use measure::shape::{Gpu, QemuVersion};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Most GPUs and NVSwitches: each has its own fixed root port.
const MAX: [usize; 2] = [8, 4];
/// vsock contexts below are the host's own (vsock(7)); the highest means "any".
const FIRST_CID: u32 = 3;
/// The port that Intel's quote generation service listens on.
const QGS: QuoteService = QuoteService::Vsock { cid: 2, port: 4050 };

/// A trust domain's own part, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxFragment {
    /// The quote generation service: `vsock:CONTEXT:PORT` or `unix:PATH`.
    pub quotes: Option<String>,
    /// Who carries the guest's vsock: `vhost`, `vhost-user` or `none`.
    pub vsock: Option<String>,
    /// The guest's vsock context, unique on the host.
    pub cid: Option<u32>,
    /// Socket of the process that carries vsock (`vhost-user`).
    pub vsock_socket: Option<PathBuf>,
    /// PCI addresses of the GPUs that are passed through.
    pub gpus: Option<Vec<String>>,
    /// Their model: `h100`, `h200`, `b200` or `b300`.
    pub gpu: Option<String>,
    /// PCI addresses of the NVSwitches that are passed through.
    pub nvswitches: Option<Vec<String>>,
    /// The mode that they must be in: `on` or `protected-pcie`.
    pub gpu_mode: Option<String>,
    /// What becomes of them when the machine is over: `keep` or `give-back`.
    pub gpus_after: Option<String>,
    /// Physical address bits that the firmware works with.
    pub phys_bits: Option<u8>,
    /// QEMU's release.
    pub qemu: Option<String>,
}

impl TdxFragment {
    pub(super) fn under(self, base: Self) -> Self {
        TdxFragment {
            quotes: self.quotes.or(base.quotes),
            vsock: self.vsock.or(base.vsock),
            cid: self.cid.or(base.cid),
            vsock_socket: self.vsock_socket.or(base.vsock_socket),
            gpus: self.gpus.or(base.gpus),
            gpu: self.gpu.or(base.gpu),
            nvswitches: self.nvswitches.or(base.nvswitches),
            gpu_mode: self.gpu_mode.or(base.gpu_mode),
            gpus_after: self.gpus_after.or(base.gpus_after),
            phys_bits: self.phys_bits.or(base.phys_bits),
            qemu: self.qemu.or(base.qemu),
        }
    }
}

/// Where on the host, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacementFragment {
    /// The host's processor of each virtual one.
    pub cpus: Option<Vec<u32>>,
    /// NUMA nodes of the memory.
    pub nodes: Option<Vec<u32>>,
    /// `2M` or `1G`.
    pub hugepages: Option<String>,
}

impl PlacementFragment {
    pub(super) fn under(self, base: Self) -> Self {
        PlacementFragment {
            cpus: self.cpus.or(base.cpus),
            nodes: self.nodes.or(base.nodes),
            hugepages: self.hugepages.or(base.hugepages),
        }
    }
}

impl Input {
    pub(super) fn platform(&self) -> Result<Platform, SettingsError> {
        match (self.platform.as_str(), &self.tdx) {
            ("emulated", None) => Ok(Platform::Emulated),
            ("emulated", Some(_)) => {
                let hint = "set platform = \"tdx\", or remove [tdx]";
                Err(self.value("tdx", "there".into(), "nothing beside platform \"emulated\"", hint))
            }
            ("tdx", tdx) => {
                let none = TdxFragment::default();
                self.trust_domain(tdx.as_ref().unwrap_or(&none)).map(Platform::Tdx)
            }
            (other, _) => {
                let hint = "emulated is for trying things out, tdx is the real thing";
                Err(self.value("platform", quoted(other), "\"emulated\" or \"tdx\"", hint))
            }
        }
    }

    fn trust_domain(&self, tdx: &TdxFragment) -> Result<TrustDomain, SettingsError> {
        let [gpus, nvswitches] = [
            self.devices("tdx.gpus", tdx.gpus.as_deref(), MAX[0])?,
            self.devices("tdx.nvswitches", tdx.nvswitches.as_deref(), MAX[1])?,
        ];
        let mut all = BTreeSet::new();
        if let Some(twice) = gpus.iter().chain(&nvswitches).find(|device| !all.insert(*device)) {
            let hint = "name each device once: a GPU is no NVSwitch";
            return Err(self.value("tdx.gpus", format!("{twice} twice"), "each device once", hint));
        }
        if gpus.is_empty() && !nvswitches.is_empty() {
            let hint = "pass the GPUs through that they connect";
            return Err(self.value("tdx.nvswitches", "there".into(), "GPUs beside them", hint));
        }
        let phys_bits = tdx.phys_bits.unwrap_or(46);
        if !(46..=52).contains(&phys_bits) {
            let hint = "it is `address sizes` of /proc/cpuinfo, at most 46 without five-level paging";
            return Err(self.value("tdx.phys_bits", phys_bits.to_string(), "46 to 52", hint));
        }
        Ok(TrustDomain {
            quotes: self.quotes(tdx.quotes.as_deref())?,
            vsock: self.vsock(tdx)?,
            gpu: self.gpu(tdx, gpus.len())?,
            gpu_mode: self.gpu_mode(tdx, gpus.len(), nvswitches.len())?,
            gpus_after: self.gpus_after(tdx, gpus.len())?,
            gpus,
            nvswitches,
            phys_bits,
            qemu: self.qemu(tdx.qemu.as_deref())?,
        })
    }

    fn quotes(&self, written: Option<&str>) -> Result<QuoteService, SettingsError> {
        let Some(text) = written else { return Ok(QGS) };
        let refuse = || {
            let expected = "\"vsock:2:4050\" (context and port) or \"unix:/path/of/the/socket\"";
            let hint = "leave it out for Intel's quote generation service on this host";
            self.value("tdx.quotes", quoted(text), expected, hint)
        };
        if let Some(path) = text.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
            return Ok(QuoteService::Unix(path.into()));
        }
        let numbers = text.strip_prefix("vsock:").and_then(|rest| rest.split_once(':'));
        let (cid, port) = numbers.ok_or_else(refuse)?;
        match (cid.parse(), port.parse()) {
            (Ok(cid), Ok(port)) => Ok(QuoteService::Vsock { cid, port }),
            _ => Err(refuse()),
        }
    }

    fn vsock(&self, tdx: &TdxFragment) -> Result<Option<Vsock>, SettingsError> {
        let kind = tdx.vsock.as_deref().unwrap_or("vhost");
        let unused = |field: &str, set: bool| match set {
            true => {
                let expected = format!("nothing beside vsock \"{kind}\"");
                Err(self.value(field, "there".into(), &expected, "remove one of the two"))
            }
            false => Ok(()),
        };
        if kind != "vhost-user" {
            unused("tdx.vsock_socket", tdx.vsock_socket.is_some())?;
        }
        if kind != "vhost" {
            unused("tdx.cid", tdx.cid.is_some())?;
        }
        match (kind, &tdx.vsock_socket) {
            ("none", _) => Ok(None),
            ("vhost", _) => Ok(Some(Vsock::Vhost { cid: self.cid(tdx.cid)? })),
            ("vhost-user", Some(socket)) => Ok(Some(Vsock::VhostUser { socket: absolute(socket)? })),
            ("vhost-user", None) => {
                let hint = "start vhost-device-vsock and name its socket";
                Err(self.value("tdx.vsock_socket", "missing".into(), "a socket", hint))
            }
            (other, _) => {
                let expected = "\"vhost\", \"vhost-user\" or \"none\"";
                let hint = "vhost-user is for kernels without /dev/vhost-vsock";
                Err(self.value("tdx.vsock", quoted(other), expected, hint))
            }
        }
    }

    /// The context as set; else one that follows from the work folder, which is one machine's at a time.
    fn cid(&self, written: Option<u32>) -> Result<u32, SettingsError> {
        match written {
            Some(cid) if (FIRST_CID..u32::MAX).contains(&cid) => Ok(cid),
            Some(cid) => {
                let hint = "leave it out: one is chosen for each work folder";
                Err(self.value("tdx.cid", cid.to_string(), "3 to 4294967294", hint))
            }
            None => {
                let dir = absolute(&self.work_dir)?;
                let hash = Digest256::of(dir.as_os_str().as_encoded_bytes());
                let [a, b, c, d, ..] = hash.0;
                Ok(FIRST_CID + u32::from_be_bytes([a, b, c, d]) % (u32::MAX - FIRST_CID))
            }
        }
    }

    fn devices(
        &self,
        field: &str,
        written: Option<&[String]>,
        most: usize,
    ) -> Result<Vec<PciAddress>, SettingsError> {
        let written = written.unwrap_or_default();
        if written.len() > most {
            let expected = format!("at most {most}");
            let hint = "each has a root port of its own; give the others to a second machine";
            return Err(self.value(field, format!("{} devices", written.len()), &expected, hint));
        }
        let one = |text: &String| {
            PciAddress::parse(text).ok_or_else(|| {
                let hint = "`lspci -D -d 10de:` lists NVIDIA's";
                self.value(field, quoted(text), "PCI addresses such as \"0000:17:00.0\"", hint)
            })
        };
        written.iter().map(one).collect()
    }

    fn gpu(&self, tdx: &TdxFragment, count: usize) -> Result<Option<Gpu>, SettingsError> {
        let known = [Gpu::H100, Gpu::H200, Gpu::B200, Gpu::B300];
        let expected = "\"h100\", \"h200\", \"b200\" or \"b300\"";
        match (tdx.gpu.as_deref(), count) {
            (None, 0) => Ok(None),
            (None, _) => {
                let hint = "the size of its BARs is part of what is foretold";
                Err(self.value("tdx.gpu", "missing".into(), expected, hint))
            }
            (Some(model), 0) => {
                let hint = "name the devices in `gpus`, or remove it";
                Err(self.value("tdx.gpu", quoted(model), "nothing without `gpus`", hint))
            }
            (Some(model), _) => match known.into_iter().find(|gpu| gpu.name() == model) {
                Some(gpu) => Ok(Some(gpu)),
                None => {
                    let hint = "measurements are foretold for no other";
                    Err(self.value("tdx.gpu", quoted(model), expected, hint))
                }
            },
        }
    }

    /// The mode as set; else protected PCIe with switches, and each GPU by itself without.
    fn gpu_mode(&self, tdx: &TdxFragment, gpus: usize, switches: usize) -> Result<Mode, SettingsError> {
        let (field, expected) = ("tdx.gpu_mode", "\"on\" or \"protected-pcie\"");
        match tdx.gpu_mode.as_deref() {
            Some(mode) if gpus == 0 => {
                let hint = "name the devices in `gpus`, or remove it";
                Err(self.value(field, quoted(mode), "nothing without `gpus`", hint))
            }
            Some("on") => Ok(Mode::On),
            Some("protected-pcie") => Ok(Mode::ProtectedPcie),
            Some(other) => {
                let hint = "the host could read what a guest computes on a GPU in any other mode";
                Err(self.value(field, quoted(other), expected, hint))
            }
            None if switches > 0 => Ok(Mode::ProtectedPcie),
            None => Ok(Mode::On),
        }
    }

    fn gpus_after(&self, tdx: &TdxFragment, gpus: usize) -> Result<After, SettingsError> {
        let field = "tdx.gpus_after";
        match tdx.gpus_after.as_deref() {
            Some(after) if gpus == 0 => {
                let hint = "name the devices in `gpus`, or remove it";
                Err(self.value(field, quoted(after), "nothing without `gpus`", hint))
            }
            None | Some("keep") => Ok(After::Keep),
            Some("give-back") => Ok(After::GiveBack),
            Some(other) => {
                let hint = "give-back returns them to the host's driver when the machine is over";
                Err(self.value(field, quoted(other), "\"keep\" or \"give-back\"", hint))
            }
        }
    }

    fn qemu(&self, written: Option<&str>) -> Result<QemuVersion, SettingsError> {
        // Upstream starts trust domains from 10.1 on.
        let able = QemuVersion::ALL.into_iter().filter(|version| *version >= QemuVersion::V10_1);
        let Some(text) = written else { return Ok(QemuVersion::V10_2) };
        able.clone().find(|version| version.name() == text).ok_or_else(|| {
            let names: Vec<_> = able.map(|version| format!("\"{version}\"")).collect();
            let hint = "`qemu-system-x86_64 --version` says which is installed";
            self.value("tdx.qemu", quoted(text), &names.join(", "), hint)
        })
    }

    pub(super) fn firmware(&self, platform: &Platform) -> Result<Firmware, SettingsError> {
        let or = |path: &Option<PathBuf>, default: &str| path.as_deref().unwrap_or(Path::new(default)).into();
        let written = &self.firmware;
        match (platform, &written.vars) {
            (Platform::Emulated, vars) => Ok(Firmware {
                code: or(&written.code, "/usr/share/OVMF/OVMF_CODE_4M.fd"),
                vars: Some(or(vars, "/usr/share/OVMF/OVMF_VARS_4M.fd")),
            }),
            (Platform::Tdx(_), None) => {
                Ok(Firmware { code: or(&written.code, "/usr/share/ovmf/OVMF.fd"), vars: None })
            }
            (Platform::Tdx(_), Some(vars)) => {
                let found = format!("{:?}", vars.display());
                let hint = "the image of a trust domain's firmware carries its variables: remove it";
                Err(self.value("firmware.vars", found, "nothing beside platform \"tdx\"", hint))
            }
        }
    }

    pub(super) fn placement(&self) -> Result<Placement, SettingsError> {
        let PlacementFragment { cpus, nodes, hugepages } = self.placement.clone();
        let (cpus, nodes) = (cpus.unwrap_or_default(), nodes.unwrap_or_default());
        if !cpus.is_empty() && u32::try_from(cpus.len()) != Ok(self.vcpus) {
            let found = format!("{} processors", cpus.len());
            let expected = format!("{}, one for each of `shape.vcpus`", self.vcpus);
            let hint = "leave it out and the scheduler chooses";
            return Err(self.value("placement.cpus", found, &expected, hint));
        }
        for (field, numbers) in [("placement.cpus", &cpus), ("placement.nodes", &nodes)] {
            let mut seen = BTreeSet::new();
            if let Some(twice) = numbers.iter().find(|number| !seen.insert(**number)) {
                return Err(self.value(field, format!("{twice} twice"), "each once", "remove one"));
            }
        }
        let hugepages = match hugepages.as_deref() {
            None => None,
            Some("2M") => Some(HugePages::Mega2),
            Some("1G") => Some(HugePages::Giga1),
            Some(other) => {
                let hint = "leave it out for the kernel's own choice";
                return Err(self.value("placement.hugepages", quoted(other), "\"2M\" or \"1G\"", hint));
            }
        };
        if let Some(pages) = hugepages
            && !(self.memory_mib * 1024).is_multiple_of(pages.kib())
        {
            let expected = format!("a whole number of {} pages", pages.name());
            let hint = "round `shape.memory_mib` up, or take smaller pages";
            return Err(self.value("shape.memory_mib", self.memory_mib.to_string(), &expected, hint));
        }
        Ok(Placement { cpus, nodes, hugepages })
    }
}
