//! What a rebuild determines, all of it and nothing else: `<release>.measurements.json`, schema 1.
//!
//! Whoever rebuilds the same source with the same locks gets these very bytes, so that one hash says "the same". It is
//! canonical JSON: another spelling is refused. What is a decision of the publisher stands in [`crate::document`].
//! Registers are tuples, one for each machine: a hash of one machine never completes another's.

use crate::error::ReleaseError;
use crate::json::Value;
use crate::version::{ReleaseId, Version};
use evidence::{Release, Rtmr3};
use measure::{Boot, Digest256, Digest384, Platform, Shape};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most bytes that are read.
pub const MAX_MEASUREMENTS: usize = 512 * 1024;
/// Only this schema is read.
pub(crate) const SCHEMA: u32 = 1;

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurements {
    /// Always 1.
    pub schema: u32,
    /// Name of the release, such as `worker`.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// Which image: the profile that was built.
    pub profile: String,
    /// Commit of the source, 40 hex digits.
    pub commit: String,
    /// Compiler of the guest's programs.
    pub toolchain: String,
    /// Kernel version.
    pub kernel: String,
    /// SHA-256 of each lock, by its file name.
    pub locks: BTreeMap<String, Digest256>,
    /// The files of the build, by name.
    pub artifacts: Vec<File>,
    /// Firmware images that the machines below start with.
    pub firmware: Vec<File>,
    /// What MRCONFIGID must be.
    pub mrconfigid: ConfigRule,
    /// The machines, with the registers of each.
    pub machines: Vec<Machine>,
    /// Model disks that belong to the release; empty where the configuration alone names them.
    pub models: Vec<Model>,
}

/// A file by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// File name.
    pub name: String,
    /// SHA-256.
    pub sha256: Digest256,
    /// Bytes.
    pub size: u64,
}

/// What MRCONFIGID must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigRule {
    /// SHA-384 of the static configuration's bytes, as the guest was given them and shows them with its evidence.
    Sha384OfStaticConfiguration,
}

/// A machine that runs the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// `tdx`, or `emulated` in a development release.
    pub platform: Platform,
    /// How the kernel image is booted.
    pub boot: Boot,
    /// SHA-256 of the firmware, which is one of the document's.
    pub firmware: Digest256,
    /// The VMM and the order in which it builds the machine, such as `qemu 10.2, single-pass`.
    pub vmm: String,
    /// The stub in the kernel image, such as `systemd-stub 257`.
    pub stub: String,
    /// Size and devices.
    pub shape: Shape,
    /// What it must show, as one tuple.
    pub registers: Tuple,
}

/// Registers of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuple {
    /// Initial memory.
    pub mrtd: Digest384,
    /// Firmware's configuration.
    pub rtmr0: Digest384,
    /// Boot loader and kernel.
    pub rtmr1: Digest384,
    /// Command line and initrd.
    pub rtmr2: Digest384,
    /// `"events"`, or a value; zeros where absent. See [`evidence::Release::rtmr3`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtmr3: Option<Rtmr3>,
}

/// A model disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name by which requests ask for it.
    pub name: String,
    /// Its dm-verity root hash.
    pub root: Digest256,
    /// SPDX expression of its licence.
    pub license: String,
}

impl Measurements {
    /// Reads and validates; the bytes must be canonical.
    pub fn parse(what: &str, bytes: &[u8]) -> Result<Self, ReleaseError> {
        let read: Measurements = Value::read_canonical(what, bytes, MAX_MEASUREMENTS)?;
        read.check(what)?;
        Ok(read)
    }

    /// The bytes whose hash is stated, published and compared.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ReleaseError> {
        let what = "measurements";
        self.check(what)?;
        let bytes = Value::of(what, self)?.canonical();
        if bytes.len() > MAX_MEASUREMENTS {
            let (what, max, found) = (what.into(), MAX_MEASUREMENTS, bytes.len());
            return Err(ReleaseError::TooLong { what, max, found });
        }
        Ok(bytes)
    }

    /// Name and version.
    pub fn id(&self) -> Result<ReleaseId, ReleaseError> {
        ReleaseId::new(&self.name, self.version)
            .map_err(|why| ReleaseError::value("measurements", "name", why, "a release's name"))
    }

    /// One entry a machine, for appraisal.
    pub fn releases(&self) -> impl Iterator<Item = Release> + '_ {
        self.machines.iter().map(|machine| Release {
            name: format!("{} {}, {}", self.name, self.version, machine.title()),
            mrtd: machine.registers.mrtd,
            rtmr0: machine.registers.rtmr0,
            rtmr1: machine.registers.rtmr1,
            rtmr2: machine.registers.rtmr2,
            rtmr3: machine.registers.rtmr3,
        })
    }

    fn check(&self, what: &str) -> Result<(), ReleaseError> {
        let bad = |field: &str, found: &dyn ToString, expected: &str| {
            Err(ReleaseError::value(what, field, found.to_string(), expected))
        };
        if self.schema != SCHEMA {
            return bad("schema", &self.schema, "1; use the verifier that came with the release");
        }
        self.id()?;
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if self.commit.len() != 40 || !self.commit.chars().all(hex) {
            return bad("commit", &self.commit, "40 hex digits: build from a clean checkout");
        }
        distinct(what, "artifacts", self.artifacts.iter().map(|file| file.name.as_str()))?;
        distinct(what, "firmware", self.firmware.iter().map(|file| file.name.as_str()))?;
        distinct(what, "models", self.models.iter().map(|model| model.name.as_str()))?;
        if self.machines.is_empty() {
            return bad("machines", &"empty", "one or more; an empty list accepts nothing");
        }
        for machine in &self.machines {
            if !self.firmware.iter().any(|file| file.sha256 == machine.firmware) {
                return bad("firmware of a machine", &machine.firmware, "one that the document lists");
            }
            let shape = machine.shape.check(machine.platform);
            shape
                .map_err(|why| ReleaseError::value(what, "shape", why, "one that this platform can have"))?;
        }
        Ok(())
    }
}

impl Machine {
    /// For people.
    pub fn title(&self) -> String {
        let Shape { vcpus, memory_mib, gpus, nvswitches, .. } = &self.shape;
        let mut title = format!("{vcpus} vCPU, {memory_mib} MiB");
        for (count, name) in [(gpus, "GPU"), (nvswitches, "NVSwitch")] {
            if *count > 0 {
                title += &format!(", {count} {name}");
            }
        }
        let platform = if self.platform == Platform::Emulated { ", emulated" } else { "" };
        title + platform + ", " + &self.vmm
    }
}

/// Refuses a name that stands there twice.
fn distinct<'a>(what: &str, field: &str, names: impl Iterator<Item = &'a str>) -> Result<(), ReleaseError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(ReleaseError::value(what, field, format!("`{name}` twice"), "each once"));
        }
    }
    Ok(())
}
