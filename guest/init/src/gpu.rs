//! The guest's GPUs: appraised, measured and only then set ready.
//!
//! ```text
//! no [gpu] ------------------------------------------------------------> closed, measured as none
//! [gpu] -> Wanted -> driver: how many -> evidence over a nonce of this boot -> appraised here ---> Accepted
//!             \______________\__________________________\_____________________\                   | measured
//!                                                   refused: required -> the boot ends            Measured
//!                                                        \-> else closed, measured as none        | set ready
//!                                                                                                 Outcome::Ready
//! ```
//! What the host hands over (manifests, OCSP responses) is believed for NVIDIA's signatures and dates alone. A GPU that is not
//! accepted is closed: it is never set ready and its device nodes go, so that no program of this boot can open it.
//!
//! Deliberately absent: the network. What was handed over counts while it is in date, whatever is out of reach then.

use anyhow::{Context, Result, bail, ensure};
use attest::rtmr::Measurer;
use evidence::gpu::{
    AppraisedGpus, GpuCollateral, GpuDriver, GpuDriverError, GpuInputs, GpuPlatform, GpuPolicy, GpuSettings,
    appraise_gpus,
};
use protocol::Digest384;
use protocol::config::GpuConfig;
use protocol::handoff::{File, GPU_COLLATERAL_FILE};
use protocol::runtime::{GpuEvidence, GpuVerdict};
use std::fs;
use std::path::Path;

/// First part of what the nonce of a boot is made of.
const NONCE_TAG: &[u8] = b"chrysalis/gpu-boot/1";

/// What is demanded of the GPUs, and what their evidence is held against.
#[derive(Debug)]
pub(crate) struct Wanted {
    policy: GpuPolicy,
    /// Of the policy's text, as it is measured.
    digest: Digest384,
    required: bool,
    not_before: u64,
    /// As it was handed over.
    collateral: Option<Vec<u8>>,
}

/// What became of the GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// None is configured.
    None,
    /// They were accepted, measured and set ready.
    Ready {
        /// How many.
        count: u32,
        /// Whether they are simulated ones.
        simulated: bool,
    },
    /// They were refused and closed; the configuration allows to go on.
    Refused {
        /// Why.
        reason: String,
    },
}

/// GPUs that were appraised and found right.
struct Accepted {
    gpus: AppraisedGpus,
    policy: Digest384,
}

/// The same, measured. Nothing else can be set ready.
struct Measured(AppraisedGpus);

/// What the step works on.
pub(crate) struct Gate<'a> {
    /// What there is.
    pub(crate) driver: &'a dyn GpuDriver,
    /// Folder of the device nodes.
    pub(crate) dev: &'a Path,
    /// What reports of this boot must contain.
    pub(crate) nonce: [u8; 32],
    /// The time of the clock, Unix seconds.
    pub(crate) now: u64,
}

impl Wanted {
    /// What the measured configuration says, with the files that it names; `marked` says whether simulated roots may be
    /// believed.
    pub(crate) fn read(config: &GpuConfig, handed: &[File], marked: bool) -> Result<Self> {
        let settings = GpuSettings::parse(&config.policy).context("static configuration: gpu.policy")?;
        let policy = match config.roots(handed)? {
            Some(_) if !marked => bail!(
                "static configuration: gpu.simulated_roots: a production image believes NVIDIA's roots alone; remove them, or \
                 boot the debug image"
            ),
            Some([device, manifest]) => GpuPolicy::simulated(&device.bytes, &manifest.bytes)?,
            None => GpuPolicy::production(),
        };
        let collateral = handed.iter().find(|file| file.name == GPU_COLLATERAL_FILE);
        Ok(Wanted {
            policy: policy.with(settings)?,
            digest: Digest384::of(config.policy.as_bytes()),
            required: config.required,
            not_before: config.not_before,
            collateral: collateral.map(|file| file.bytes.clone()),
        })
    }

    fn appraise(&self, gate: &Gate<'_>) -> Result<Accepted> {
        let count = self.policy.settings.count;
        let found = gate.driver.count().with_context(|| self.demands())?;
        ensure!(
            found == count,
            "gpu_count: {}, found {found}; pass that many through, or correct the configuration",
            self.demands()
        );
        let collateral = self.collateral.as_ref().with_context(|| {
            format!(
                "handed files: expected {GPU_COLLATERAL_FILE}, found none; fetch manifests and OCSP responses \
                 (`chrysalis gpu trust`) and name their folder in the launcher's settings"
            )
        })?;
        let collateral = GpuCollateral::parse(collateral).context(GPU_COLLATERAL_FILE)?;
        let system = gate.driver.system()?;
        let devices = gate.driver.evidence(&gate.nonce)?;
        let gpus = appraise_gpus(&GpuInputs {
            devices: &devices,
            nonce: Some(&gate.nonce),
            driver_rims: &collateral.driver_rims,
            vbios_rims: &collateral.vbios_rims,
            ocsp: &collateral.ocsp,
            system: Some(system),
            policy: &self.policy,
            at: gate.now.max(self.not_before),
        })?;
        Ok(Accepted { gpus, policy: self.digest })
    }

    fn demands(&self) -> String {
        format!("the measured configuration demands {} GPU(s)", self.policy.settings.count)
    }
}

impl Accepted {
    fn measure(self, measurer: &mut Measurer) -> Result<Measured> {
        let verdict = serde_json::to_vec(self.gpus.verdict()).context("the verdict on the GPUs")?;
        let verdict = GpuVerdict::Accepted(Digest384::of(&verdict));
        measurer.gpu(GpuEvidence { policy: self.policy, verdict })?;
        Ok(Measured(self.gpus))
    }
}

impl Measured {
    fn set_ready(self, driver: &dyn GpuDriver) -> Result<Outcome> {
        driver.set_ready(true)?;
        let verdict = self.0.verdict();
        let count = u32::try_from(verdict.devices.len()).unwrap_or(u32::MAX);
        Ok(Outcome::Ready { count, simulated: verdict.platform == GpuPlatform::Simulated })
    }
}

impl Gate<'_> {
    /// Takes the GPUs through the gate, or closes them. An error ends the boot.
    pub(crate) fn pass(&self, wanted: Option<&Wanted>, measurer: &mut Measurer) -> Result<Outcome> {
        let Some(wanted) = wanted else {
            self.close()?;
            measurer.gpu(GpuEvidence::none())?;
            return Ok(Outcome::None);
        };
        match wanted.appraise(self) {
            Ok(accepted) => accepted.measure(measurer)?.set_ready(self.driver),
            Err(error) => {
                // Whatever state the devices came in. Where there is none, nothing is to be closed.
                let closed = self.driver.set_ready(false);
                if wanted.required {
                    return Err(error);
                }
                if let Err(error @ GpuDriverError::Failed { .. }) = closed {
                    eprintln!("{error}; its device nodes are removed all the same");
                }
                self.close()?;
                measurer.gpu(GpuEvidence { policy: wanted.digest, verdict: GpuVerdict::NoGpu })?;
                Ok(Outcome::Refused { reason: format!("{error:#}") })
            }
        }
    }

    /// Removes the device nodes of GPUs; nothing that runs later can make one.
    fn close(&self) -> Result<()> {
        let at = || format!("{}: cannot close the GPUs there", self.dev.display());
        for entry in fs::read_dir(self.dev).with_context(at)? {
            let entry = entry.with_context(at)?;
            if !entry.file_name().as_encoded_bytes().starts_with(b"nvidia") {
                continue;
            }
            let folder = entry.file_type().with_context(at)?.is_dir();
            let path = entry.path();
            let removed = if folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("{}: cannot close this GPU", path.display()))?;
        }
        Ok(())
    }
}

/// The nonce of this boot: nobody can have known it before, and it names the configuration.
pub(crate) fn nonce(mrconfigid: &[u8; 48], random: &[u8; 32]) -> [u8; 32] {
    let Digest384(digest) = Digest384::of(&[NONCE_TAG, mrconfigid, random].concat());
    let mut nonce = [0; 32];
    nonce.copy_from_slice(&digest[..32]);
    nonce
}

#[cfg(test)]
mod tests;
