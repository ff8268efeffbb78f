//! The manifests at hand, each read and verified once, whatever the number of devices.

use super::appraise::GpuInputs;
use super::collateral::MAX_RIMS;
use super::device::generation;
use super::error::GpuError;
use super::rim::Rim;

/// One manifest, with what its signature is worth.
pub(crate) struct Manifest {
    pub(crate) rim: Rim,
    /// Why it is not NVIDIA's, if so: the root, or the signature.
    pub(crate) fault: Option<String>,
    /// Certificates that do not hold at the time, in words.
    pub(crate) stale: Vec<String>,
    /// When the first of them ends.
    pub(crate) until: Option<u64>,
}

/// All of them.
pub(crate) struct Manifests {
    driver: Vec<Result<Manifest, GpuError>>,
    vbios: Vec<Result<Manifest, GpuError>>,
}

/// What a manifest is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firmware {
    Driver,
    Vbios,
}

impl Manifests {
    pub(crate) fn read(inputs: &GpuInputs<'_>) -> Self {
        let read =
            |all: &[Vec<u8>]| all.iter().take(MAX_RIMS).map(|bytes| Manifest::read(bytes, inputs)).collect();
        Manifests { driver: read(inputs.driver_rims), vbios: read(inputs.vbios_rims) }
    }

    /// The manifest of this version and generation of chips, or else the first one: then its version tells.
    pub(crate) fn of(
        &self,
        what: Firmware,
        version: &str,
        model: &str,
    ) -> Option<&Result<Manifest, GpuError>> {
        let all = if what == Firmware::Driver { &self.driver } else { &self.vbios };
        let fits =
            |found: &&Result<Manifest, GpuError>| found.as_ref().is_ok_and(|m| m.is_of(version, model));
        all.iter().find(fits).or(all.first())
    }

    /// Every manifest that could be read.
    pub(crate) fn readable(&self) -> impl Iterator<Item = &Manifest> {
        self.driver.iter().chain(&self.vbios).filter_map(|found| found.as_ref().ok())
    }
}

impl Manifest {
    /// NVIDIA publishes one driver manifest for all chips of a generation, so that their numbers may differ.
    pub(crate) fn is_of(&self, version: &str, model: &str) -> bool {
        let Rim { version: own, product, .. } = &self.rim;
        own.eq_ignore_ascii_case(version) && (product == model || same_generation(product, model))
    }

    fn read(bytes: &[u8], inputs: &GpuInputs<'_>) -> Result<Self, GpuError> {
        let rim = Rim::parse(bytes)?;
        let root = rim
            .chain()
            .ends_in(inputs.policy.rim_root())
            .map_err(|why| format!("ends in another root: {why}"));
        let fault = root.and_then(|()| rim.verify()).err();
        let stale = rim.chain().faults(inputs.at);
        let (_, until) = rim.chain().window();
        Ok(Manifest { rim, fault, stale, until })
    }
}

fn same_generation(one: &str, other: &str) -> bool {
    let (_, one) = generation(one);
    one.is_some() && one == generation(other).1
}
