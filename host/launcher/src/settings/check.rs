//! The last step of settings: every value checked, every file it names read, nothing left optional that is needed.

use super::trust::Trusted;
use super::{Input, Life, ModelFragment, SettingsError};
use crate::machine::{Placement, Platform};
use measure::{Boot, Shape};
use protocol::config::{GpuConfig, ModelPin, Role, RuntimeConfig, StaticConfig, TrustConfig};
use protocol::handoff::File;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

/// Most model disks of one machine: each has its own fixed PCI slot.
pub const MAX_MODELS: usize = 8;

/// OVMF, as the QEMU process sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// Code volume, mapped read-only; of a trust domain the whole image, with its variables.
    pub code: PathBuf,
    /// Empty variable store; each launch gets its own copy. A trust domain has none.
    pub vars: Option<PathBuf>,
}

/// The artifacts that are booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The unified kernel image.
    pub uki: PathBuf,
    /// The raw disk with ESP, root and verity tree; a stand-in guest has none.
    pub disk: Option<PathBuf>,
}

/// A model disk and what it must hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The disk file.
    pub image: PathBuf,
    /// Its pin.
    pub pin: ModelPin,
}

/// Checked settings: enough to launch. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What kind of machine.
    pub platform: Platform,
    /// How the firmware gets the kernel.
    pub boot: Boot,
    /// What is booted.
    pub image: Image,
    /// The firmware.
    pub firmware: Firmware,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Where on the host.
    pub placement: Placement,
    /// How it is kept alive.
    pub life: Life,
    /// Model disks, in the order of the static configuration.
    pub models: Vec<Model>,
    /// Bytes of the static configuration; MRCONFIGID is their SHA-384.
    pub static_config: Vec<u8>,
    /// The unmeasured configuration.
    pub runtime: RuntimeConfig,
    /// Files for the guest, by name: what its static configuration names by hash, and collateral.
    pub files: Vec<File>,
    /// Where the service appears; port 0 lets the system choose.
    pub listen: SocketAddrV4,
    /// Folder of a simulated platform's keys.
    pub simulated_platform: Option<PathBuf>,
    /// Folder of this run.
    pub work_dir: PathBuf,
}

/// A guest's address behind QEMU's user network (its manual, "User mode"), and the host in it.
const GUEST: &str = "10.0.2.15/24";
const HOST: &str = "10.0.2.2";

/// The unmeasured configuration of a guest that calls nobody.
pub(crate) fn runtime() -> RuntimeConfig {
    RuntimeConfig {
        schema: 1,
        address: GUEST.into(),
        gateway: None,
        dial: Vec::new(),
        ledger: Vec::new(),
        mirror: None,
    }
}

impl Settings {
    /// An emulated machine that boots a kernel image directly and has nothing beside: no disk, no model, no configuration.
    pub(crate) fn bare(uki: PathBuf, firmware: Firmware, work_dir: PathBuf) -> Self {
        Settings {
            platform: Platform::Emulated,
            boot: Boot::Direct,
            image: Image { uki, disk: None },
            firmware,
            vcpus: 2,
            memory_mib: 2048,
            placement: Placement::default(),
            life: Life::default(),
            models: Vec::new(),
            static_config: Vec::new(),
            runtime: runtime(),
            files: Vec::new(),
            listen: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0),
            simulated_platform: None,
            work_dir,
        }
    }

    /// The shape that is booted, and that predictions are made for.
    pub fn shape(&self) -> Shape {
        let mut shape = Shape::new(self.vcpus, self.memory_mib);
        // `settle` allows no more model disks than slots; more would share one and QEMU would refuse them.
        shape.model_disks = u8::try_from(self.models.len()).unwrap_or(u8::MAX);
        match &self.platform {
            Platform::Emulated => shape.simulator_disk = self.simulated_platform.is_some(),
            Platform::Tdx(domain) => {
                // `settle` allows no more of them than root ports.
                let count = |devices: usize| u8::try_from(devices).unwrap_or(u8::MAX);
                shape.gpus = count(domain.gpus.len());
                shape.nvswitches = count(domain.nvswitches.len());
                (shape.gpu, shape.vsock) = (domain.gpu, domain.vsock.is_some());
                (shape.phys_bits, shape.qemu) = (domain.phys_bits, domain.qemu);
            }
        }
        shape
    }
}

impl Input {
    /// Checks every value and reads the small files that settings name (pins, a static configuration).
    pub fn settle(self) -> Result<Settings, SettingsError> {
        let boot = self.boot()?;
        let models = self.models.iter().enumerate().map(|(i, m)| self.model(i, m));
        let models = models.collect::<Result<Vec<_>, _>>()?;
        if models.len() > MAX_MODELS {
            let hint = "serve the others from a second guest";
            return Err(self.value("models", format!("{} disks", models.len()), "at most 8", hint));
        }
        let gpus = self.gpus()?;
        let (trust, mut files) = match self.trusted()? {
            Some(Trusted { config, files }) => (Some(TrustConfig { gpu: gpus.peers, ..config }), files),
            None => (None, Vec::new()),
        };
        files.extend(gpus.files);
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let platform = self.platform()?;
        Ok(Settings {
            image: self.image(boot)?,
            boot,
            firmware: self.firmware(&platform)?,
            vcpus: self.vcpus(&platform)?,
            memory_mib: self.memory_mib(&platform)?,
            placement: self.placement()?,
            life: self.life()?,
            static_config: self.static_config(&models, trust, gpus.own)?,
            runtime: RuntimeConfig {
                gateway: Some(HOST.into()),
                dial: self.dial.iter().map(ToString::to_string).collect(),
                ledger: self.lite_servers.iter().map(ToString::to_string).collect(),
                mirror: self.mirror()?,
                ..runtime()
            },
            files,
            listen: self.listen()?,
            simulated_platform: self.simulated_platform(&platform)?,
            platform,
            work_dir: absolute(&self.work_dir)?,
            models,
        })
    }

    /// The mirror, if the guest would take it.
    fn mirror(&self) -> Result<Option<String>, SettingsError> {
        let Some(mirror) = &self.mirror else { return Ok(None) };
        let text = format!("schema = 1\naddress = {GUEST:?}\nmirror = {mirror:?}\n");
        match RuntimeConfig::parse(text.as_bytes()) {
            Ok(_) => Ok(Some(mirror.clone())),
            Err(_) => Err(self.value(
                "mirror",
                quoted(mirror),
                "IPv4 address, port and folder such as \"10.0.2.2:8000/releases\"",
                "a guest looks up no names; give the address as the guest reaches it",
            )),
        }
    }

    fn boot(&self) -> Result<Boot, SettingsError> {
        match self.boot.as_str() {
            "direct" => Ok(Boot::Direct),
            "disk" => Ok(Boot::Disk),
            other => {
                let expected = "\"direct\" or \"disk\"";
                Err(self.value("boot", quoted(other), expected, "direct hands the UKI to the firmware"))
            }
        }
    }

    fn vcpus(&self, platform: &Platform) -> Result<u32, SettingsError> {
        let (most, expected, hint) = match platform {
            Platform::Emulated => {
                (255, "1 to 255", "the emulated machine has no interrupt remapping for more")
            }
            Platform::Tdx(_) => (512, "1 to 512", "measurements are foretold for no more"),
        };
        if !(1..=most).contains(&self.vcpus) {
            return Err(self.value("shape.vcpus", self.vcpus.to_string(), expected, hint));
        }
        Ok(self.vcpus)
    }

    fn memory_mib(&self, platform: &Platform) -> Result<u64, SettingsError> {
        let (range, hint) = match platform {
            Platform::Emulated => {
                (512..=512 * 1024, "the worker image needs 512 MiB before it loads a model")
            }
            Platform::Tdx(_) => (1024..=6 * 1024 * 1024, "the firmware of a trust domain needs room"),
        };
        if !range.contains(&self.memory_mib) {
            let expected = format!("{} to {}", range.start(), range.end());
            return Err(self.value("shape.memory_mib", self.memory_mib.to_string(), &expected, hint));
        }
        Ok(self.memory_mib)
    }

    fn listen(&self) -> Result<SocketAddrV4, SettingsError> {
        let expected = "a loopback address and port such as 127.0.0.1:0";
        let hint = "the guest is reached through this host only; put a proxy in front to publish it";
        let refuse = || self.value("listen", quoted(&self.listen), expected, hint);
        let address: SocketAddrV4 = self.listen.parse().map_err(|_| refuse())?;
        if *address.ip() != Ipv4Addr::LOCALHOST {
            return Err(refuse());
        }
        Ok(address)
    }

    fn image(&self, boot: Boot) -> Result<Image, SettingsError> {
        let Some(dir) = &self.image else {
            let hint = "build one with `chrysalis image build` and name its folder";
            return Err(self.value("image", "missing".into(), "the folder of a built image", hint));
        };
        let image =
            Image { uki: absolute(&dir.join("uki.efi"))?, disk: Some(absolute(&dir.join("disk.raw"))?) };
        let uki = (boot == Boot::Direct).then_some(&image.uki);
        for path in uki.into_iter().chain(&image.disk) {
            readable("image artifact", path, "build it with `chrysalis image build`")?;
        }
        Ok(image)
    }

    fn simulated_platform(&self, platform: &Platform) -> Result<Option<PathBuf>, SettingsError> {
        let Some(dir) = &self.simulated_platform else { return Ok(None) };
        if platform.trust_domain().is_some() {
            let hint = "a trust domain has real quotes: remove it, or set platform = \"emulated\"";
            let found = format!("{:?}", dir.display());
            return Err(self.value("simulated_platform", found, "nothing beside platform \"tdx\"", hint));
        }
        let hint = "make one with `chrysalis-simulator pki DIR`";
        readable("simulated platform's identity", &dir.join("identity.bin"), hint)?;
        absolute(dir).map(Some)
    }

    fn model(&self, index: usize, model: &ModelFragment) -> Result<Model, SettingsError> {
        let field = format!("models[{index}].image");
        let Some(image) = &model.image else {
            let hint = "make one with `chrysalis model pack`";
            return Err(self.value(&field, "missing".into(), "a model disk", hint));
        };
        let hint = "make both with `chrysalis model pack`";
        readable("model disk", image, hint)?;
        let beside = image.with_file_name("model.json");
        let path = model.pin.as_deref().unwrap_or(&beside);
        Ok(Model { image: absolute(image)?, pin: read_pin(path, hint)? })
    }

    /// The bytes of the static configuration: as given, or written from role, network, pins and trust.
    fn static_config(
        &self,
        models: &[Model],
        trust: Option<TrustConfig>,
        gpu: Option<GpuConfig>,
    ) -> Result<Vec<u8>, SettingsError> {
        let pins: Vec<ModelPin> = models.iter().map(|m| m.pin.clone()).collect();
        let Some(path) = &self.static_config else {
            let (role, network) = (self.role()?, self.network()?);
            let (ledger, pool) = (self.ledger.clone(), self.pool.clone());
            let (wallet, worker) = (self.wallet.clone(), self.worker.clone());
            let models = pins;
            let config =
                StaticConfig { schema: 1, role, network, models, trust, gpu, ledger, pool, wallet, worker };
            let bytes = crate::handoff::static_toml(&config).into_bytes();
            let expected = "pins, trust and money that a static configuration may carry";
            let hint = "make the disks anew with `chrysalis model pack`, or correct [trust], [ledger], [pool], [wallet]";
            let parsed = StaticConfig::parse(&bytes);
            return parsed.map(|_| bytes).map_err(|e| self.value("models", e.to_string(), expected, hint));
        };
        self.said_once()?;
        let bytes = read("static configuration", path, "write one or give `role` and `network`", SMALL)?;
        let config = StaticConfig::parse(&bytes).map_err(|e| {
            self.value("static_config", e.to_string(), "a valid static configuration", "correct that file")
        })?;
        if config.models != pins {
            let names =
                |pins: &[ModelPin]| pins.iter().map(|p| format!("{} {}", p.name, p.root)).collect::<Vec<_>>();
            let found = format!("{} with models {:?}", path.display(), names(&config.models));
            let expected = format!("the models of these settings, {:?}", names(&pins));
            return Err(self.value(
                "static_config",
                found,
                &expected,
                "attach the disks that it pins, in its order",
            ));
        }
        if config.trust != trust {
            let expected = "the trust that [trust] of these settings comes to";
            let hint = "hand over, with [trust], the very files that it names, or leave `static_config` out";
            return Err(self.value("static_config", "other trust".into(), expected, hint));
        }
        if config.gpu != gpu {
            let expected = "the GPUs that [gpu] of these settings comes to";
            let hint = "say with [gpu] and `gpu_collateral` what it says, or leave `static_config` out";
            return Err(self.value("static_config", "other GPUs".into(), expected, hint));
        }
        Ok(bytes)
    }

    /// Nothing that a given static configuration says is said here too.
    fn said_once(&self) -> Result<(), SettingsError> {
        let there = |set: bool| set.then(|| "there".to_owned());
        let fields = [
            ("role", self.role.as_deref().map(quoted)),
            ("network", self.network.as_deref().map(quoted)),
            ("ledger", there(self.ledger.is_some())),
            ("pool", there(self.pool.is_some())),
            ("wallet", there(self.wallet.is_some())),
            ("worker", there(self.worker.is_some())),
        ];
        for (field, found) in fields {
            if let Some(found) = found {
                let expected = "nothing beside `static_config`";
                let hint = "the static configuration already says it: remove one of the two";
                return Err(self.value(field, found, expected, hint));
            }
        }
        Ok(())
    }

    fn role(&self) -> Result<Role, SettingsError> {
        match self.role.as_deref() {
            None | Some("worker") => Ok(Role::Worker),
            Some("proxy") => Ok(Role::Proxy),
            Some(other) => {
                let expected = "\"worker\" or \"proxy\"";
                Err(self.value("role", quoted(other), expected, "leave it out for a worker"))
            }
        }
    }

    fn network(&self) -> Result<String, SettingsError> {
        let name = self.network.as_deref().unwrap_or("local");
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            let expected = "1 to 64 letters, digits, '-', '_' or '.'";
            return Err(self.value("network", quoted(name), expected, "leave it out for \"local\""));
        }
        Ok(name.into())
    }

    pub(super) fn value(&self, field: &str, found: String, expected: &str, hint: &str) -> SettingsError {
        let place = self.origin.iter().rev().find_map(|o| o.place(field));
        SettingsError::Value {
            place: place.unwrap_or_else(|| "settings".into()),
            field: field.into(),
            found,
            expected: expected.into(),
            hint: hint.into(),
        }
    }
}

pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf, SettingsError> {
    std::path::absolute(path).map_err(|source| SettingsError::Unreadable {
        what: "path",
        path: path.into(),
        source,
        hint: "give a path that is not empty",
    })
}

fn readable(what: &'static str, path: &Path, hint: &'static str) -> Result<(), SettingsError> {
    let opened = std::fs::File::open(path);
    opened.map(drop).map_err(|source| SettingsError::Unreadable { what, path: path.into(), source, hint })
}

/// Bound of the small files that settings name.
pub(super) const SMALL: usize = 1024 * 1024;

/// Reads a file of at most `max` bytes; a larger one is none of ours.
pub(super) fn read(
    what: &'static str,
    path: &Path,
    hint: &'static str,
    max: usize,
) -> Result<Vec<u8>, SettingsError> {
    let unreadable = |source| SettingsError::Unreadable { what, path: path.into(), source, hint };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > max as u64 {
        let error = std::io::Error::other(format!("{size} bytes, expected at most {max}"));
        return Err(unreadable(error));
    }
    std::fs::read(path).map_err(unreadable)
}

/// Reads a pin; fields beside the pin's own are the packer's and ignored.
fn read_pin(path: &Path, hint: &'static str) -> Result<ModelPin, SettingsError> {
    #[derive(serde::Deserialize)]
    struct PinFile {
        name: String,
        root: String,
        data_blocks: u64,
    }
    let bytes = read("model pin", path, hint, SMALL)?;
    let file: PinFile = serde_json::from_slice(&bytes).map_err(|e| SettingsError::Syntax {
        place: format!("model pin {}", path.display()),
        message: e.to_string(),
        hint: format!("; {hint}"),
    })?;
    Ok(ModelPin { name: file.name, root: file.root, data_blocks: file.data_blocks })
}
