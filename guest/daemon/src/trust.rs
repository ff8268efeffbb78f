//! From the measured configuration and the handed files to what peers are appraised with.
//!
//! ```text
//! static configuration (measured)                 handed files (the host's)
//!   trust.policy          text            ------>  policy
//!   trust.publication     root, keys, k   ------>  publication            verified, then renewed from a mirror
//!   trust.references      SHA-256 of each ------>  reference values       debug image only; no such file: refused
//!   trust.simulated_root  SHA-256         ------>  root, debug image only
//!   trust.not_before                      ------>  floor of the clock
//!   trust.gpu             demand, roots   ------>  what is wanted of peers' GPUs, by [gpu] of the policy
//!                                                  gpu-collateral.json    signed by the vendor, dated
//!                                                  collateral.json        signed by the vendor, dated
//! ```
//! A production image accepts Intel's root alone: a policy for a simulated platform needs the debug profile's marker beside
//! the daemon's own program, and that folder is part of the verified root. No option names another place. The same holds for
//! reference values by their hash: a production image takes what is published alone, since that can be revoked
//! (`docs/decisions/0046-consumers-of-a-publication.md`).

use crate::{Clock, Published, Reporter};
use evidence::gpu::{GpuCollateral, GpuPolicy};
use evidence::{Collateral, Platform, Policy, PolicyFile, Reference};
use protocol::channel::{GpuDemand, Part};
use protocol::config::{ConfigError, PeerGpuConfig, StaticConfig, TrustConfig};
use protocol::handoff::{COLLATERAL_FILE, File, GPU_COLLATERAL_FILE, MAX_FILE, MAX_FILES, PUBLICATION_FILE};
use protocol::names::SIMULATED_MARKER;
use ratls::{GpuTrust, Wanted};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a daemon can't tell whom to believe. It does not start then.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A handed file can't be read.
    #[error("{path}: cannot read what was handed over: {source}; chrysalis-init writes it", path = .path.display())]
    Unreadable {
        /// Which file or folder.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: std::io::Error,
    },
    /// More or larger files than a handoff holds.
    #[error("{path}: expected at most {MAX_FILES} files of at most {MAX_FILE} bytes, found more", path = .path.display())]
    TooMuch {
        /// Which folder.
        path: PathBuf,
    },
    /// A file that the measured configuration names is not there.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The measured policy can't be used here.
    #[error("trust.policy: {0}")]
    Policy(#[from] evidence::PolicyError),
    /// Collateral is missing.
    #[error(
        "handed files: expected {COLLATERAL_FILE}, found none; hand over the collateral of the peers' platforms"
    )]
    NoCollateral,
    /// Collateral can't be read.
    #[error("{COLLATERAL_FILE}: {0}")]
    Collateral(#[from] evidence::CollateralError),
    /// Evidence of GPUs is demanded, and there is nothing to hold it against.
    #[error(
        "handed files: expected {GPU_COLLATERAL_FILE}, found none, and trust.gpu demands GPUs of peers; hand over their \
         manifests and OCSP responses"
    )]
    NoGpuCollateral,
    /// Collateral of GPUs can't be read.
    #[error("{GPU_COLLATERAL_FILE}: {0}")]
    GpuCollateral(#[source] evidence::gpu::GpuError),
    /// What is demanded of GPUs can't be used here.
    #[error("trust.gpu: {0}")]
    GpuPolicy(#[from] evidence::gpu::GpuPolicyError),
    /// Simulated GPUs, in an image for production.
    #[error("trust.gpu.simulated_roots: a production image believes NVIDIA's roots alone; remove them")]
    SimulatedGpus,
    /// Reference values can't be read.
    #[error("reference values {sha256}: {source}")]
    Reference {
        /// Hash of the file.
        sha256: String,
        /// What is wrong with it.
        #[source]
        source: evidence::ReferenceError,
    },
    /// Two files that name different configurations can't both hold.
    #[error(
        "reference values: expected files that name one and the same mrconfigid or none, found different ones; name the \
         configuration in one file only"
    )]
    DifferentConfigurations,
    /// The publication can't be used.
    #[error("trust.publication: {0}")]
    Publication(#[from] release::ReleaseError),
    /// Nobody handed over where to start from.
    #[error(
        "handed files: expected {PUBLICATION_FILE}, found none; hand over the publication that trust.publication pins"
    )]
    NoPublication,
    /// Values that nobody can revoke, in an image for production.
    #[error(
        "trust.references: a production image takes reference values from a publication alone, since these could never be          revoked; give trust.publication"
    )]
    NotPublished,
    /// No thread for renewal.
    #[error("cannot start to renew the publication: {0}")]
    Thread(#[source] std::io::Error),
    /// Nothing says where this program is.
    #[error("cannot tell where this program lies: {0}")]
    Nowhere(#[source] std::io::Error),
}

/// What peers are appraised with.
#[derive(Debug)]
pub struct Believed {
    /// What is accepted, and the root.
    pub policy: Policy,
    /// As it was handed over; nothing in it is verified yet.
    pub collateral: Collateral,
    /// Releases that are accepted.
    pub accepted: Accepted,
    /// What evidence of their GPUs is held against, where it is demanded.
    pub gpu: Option<GpuTrust>,
    /// What is demanded of their GPUs.
    demand: GpuDemand,
    /// Time of appraisal.
    pub clock: Clock,
}

/// Where the releases that are accepted come from.
#[derive(Debug)]
pub enum Accepted {
    /// From files that were measured, for good; debug images only.
    Fixed(Reference),
    /// From a publication, for as long as it says.
    Published(Published),
}

impl Believed {
    /// Reads what `config` names from `folder`. Whether simulated platforms may be believed is decided by the folder of the
    /// program that runs.
    pub fn load(config: &TrustConfig, folder: &Path) -> Result<Self, TrustError> {
        let program = std::env::current_exe().map_err(TrustError::Nowhere)?;
        let marked = program.with_file_name(SIMULATED_MARKER).is_file();
        Believed::of(config, &handed(folder)?, marked)
    }

    fn of(config: &TrustConfig, files: &[File], marked: bool) -> Result<Self, TrustError> {
        let policy = policy(config, files, marked)?;
        let collateral = files.iter().find(|file| file.name == COLLATERAL_FILE);
        let collateral = Collateral::parse(&collateral.ok_or(TrustError::NoCollateral)?.bytes)?;
        let accepted = match &config.publication {
            Some(text) => {
                let handed = files.iter().find(|file| file.name == PUBLICATION_FILE);
                let handed = handed.ok_or(TrustError::NoPublication)?;
                Accepted::Published(Published::read(text, &handed.bytes, config.not_before)?)
            }
            None if marked => Accepted::Fixed(reference(config, files)?),
            None => return Err(TrustError::NotPublished),
        };
        let gpu = config.gpu.as_ref().map(|gpu| gpu_trust(gpu, &policy, files, marked)).transpose()?;
        let demand = config.gpu.as_ref().map_or(GpuDemand::None, |gpu| match gpu.max_age {
            None => GpuDemand::Fresh,
            Some(max_age_s) => GpuDemand::Cached { max_age_s },
        });
        Ok(Believed { policy, collateral, accepted, gpu, demand, clock: Clock::new(config.not_before) })
    }

    /// What is wanted of a peer that is this part.
    pub fn wanted(&self, part: Part) -> Wanted {
        Wanted { gpu: self.demand, ..Wanted::part(part) }
    }

    /// What the handshake takes. Published reference values are renewed from `mirror` for as long as it lives; how they
    /// stand is told.
    pub fn verifier(
        self,
        mirror: Option<&str>,
        reporter: &Reporter,
    ) -> Result<Arc<ratls::Verifier>, TrustError> {
        let clock = Arc::new(self.clock);
        let none = Reference { schema: 1, releases: Vec::new(), mrconfigid: None };
        let gpu = self.gpu;
        let trust =
            |reference| ratls::Trust { gpu, ..ratls::Trust::new(self.policy, self.collateral, reference) };
        match self.accepted {
            Accepted::Fixed(reference) => {
                Ok(Arc::new(ratls::Verifier::new(trust(reference), move || clock.now())))
            }
            Accepted::Published(published) => published.keep(trust(none), clock, mirror, reporter.clone()),
        }
    }

    /// Whether those who are believed run on a simulated platform, which proves nothing about hardware.
    pub fn is_simulated(&self) -> bool {
        self.policy.platform() == Platform::Simulated
    }
}

fn policy(config: &TrustConfig, files: &[File], marked: bool) -> Result<Policy, TrustError> {
    let file = PolicyFile::parse(&config.policy)?;
    if file.platform() == Platform::Simulated && marked {
        let root = config.simulated_root(files)?;
        return Ok(file.resolve(root.map(|root| root.bytes.as_slice()))?);
    }
    Ok(file.resolve_production()?)
}

/// What peers' GPUs are held against: `[gpu]` of the policy, under NVIDIA's roots or simulated ones.
fn gpu_trust(
    config: &PeerGpuConfig,
    policy: &Policy,
    files: &[File],
    marked: bool,
) -> Result<GpuTrust, TrustError> {
    let base = match config.roots(files)? {
        Some(_) if !marked => return Err(TrustError::SimulatedGpus),
        Some([device, manifest]) => GpuPolicy::simulated(&device.bytes, &manifest.bytes)?,
        None => GpuPolicy::production(),
    };
    let handed = files.iter().find(|file| file.name == GPU_COLLATERAL_FILE);
    let handed = handed.ok_or(TrustError::NoGpuCollateral)?;
    let collateral = GpuCollateral::parse(&handed.bytes).map_err(TrustError::GpuCollateral)?;
    Ok(GpuTrust::new(base.with(policy.gpu().clone())?, collateral))
}

/// The accepted releases of all files together.
fn reference(config: &TrustConfig, files: &[File]) -> Result<Reference, TrustError> {
    let parse = |(file, sha256): (&File, &String)| {
        Reference::parse(&file.bytes)
            .map_err(|source| TrustError::Reference { sha256: sha256.clone(), source })
    };
    let found = config.references(files)?.into_iter().zip(&config.references);
    let mut parsed = found.map(parse).collect::<Result<Vec<_>, _>>()?.into_iter();
    let Some(mut all) = parsed.next() else {
        // A configuration without any is refused where it is parsed; an empty list accepts nothing.
        return Ok(Reference { schema: 1, releases: Vec::new(), mrconfigid: None });
    };
    for more in parsed {
        if more.mrconfigid != all.mrconfigid {
            return Err(TrustError::DifferentConfigurations);
        }
        all.releases.extend(more.releases);
    }
    Ok(all)
}

/// Every handed file, as the gate left them in `folder`.
fn handed(folder: &Path) -> Result<Vec<File>, TrustError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| TrustError::Unreadable { path, source }
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable(folder))? {
        let path = entry.map_err(unreadable(folder))?.path();
        let mut bytes = Vec::new();
        let opened = fs::File::open(&path).map_err(unreadable(&path))?;
        opened.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(unreadable(&path))?;
        if bytes.len() > MAX_FILE || files.len() == MAX_FILES {
            return Err(TrustError::TooMuch { path: folder.into() });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push(File { name, bytes });
    }
    Ok(files)
}

/// A peer's own configuration, if such a peer belongs to `own`: the counterpart's role, the same network. The error is the
/// name of the rule that it breaks, for [`crate::Reporter::refused`].
pub fn belongs(peer: &[u8], own: &StaticConfig) -> Result<StaticConfig, &'static str> {
    let config = StaticConfig::parse(peer).map_err(|_| "static_config")?;
    if config.role != own.role.peer() {
        return Err("role");
    }
    if config.network != own.network {
        return Err("network");
    }
    Ok(config)
}

#[cfg(test)]
mod tests;
