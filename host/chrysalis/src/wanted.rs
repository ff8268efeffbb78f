//! What a peer must be, beyond being right: its part, one release, one identity, GPUs. Shared by everything that connects.

use crate::evidence_gpu;
use anyhow::{Context, Result, bail, ensure};
use client::{GpuTrust, Trust};
use evidence::gpu::GpuPolicy;
use evidence::{Platform, Reference};
use protocol::channel::{ApplicationKey, GpuDemand, Part};
use ratls::Wanted;
use std::path::PathBuf;

/// Options of `connect` and `tunnel` that say whom one wants to talk to.
#[derive(Debug, Clone, clap::Args)]
pub struct WantedArgs {
    /// The one release that is accepted: its name in the reference values, or its digest (64 hex digits); any of them if absent.
    #[arg(long, value_name = "NAME|DIGEST")]
    release: Option<String>,
    /// The application key that the peer must show, such as `session=HEX` of a proxy in the registry.
    #[arg(long, value_name = "NAME=HEX")]
    identity: Option<String>,
    /// Evidence of GPUs: `fresh`, taken for this connection, or `cached:SECONDS`, taken at most so long ago; none if absent.
    #[arg(long, value_name = "fresh|cached:SECONDS")]
    gpu: Option<String>,
    /// Manifest of the GPU driver (XML, or JSON as NVIDIA's RIM service answers).
    #[arg(long, requires = "gpu")]
    driver_rim: Vec<PathBuf>,
    /// Manifest of a VBIOS, or of an NVSwitch's firmware.
    #[arg(long, requires = "gpu")]
    vbios_rim: Vec<PathBuf>,
    /// OCSP response (DER) about certificates of devices and manifests.
    #[arg(long, requires = "gpu")]
    ocsp: Vec<PathBuf>,
}

impl WantedArgs {
    /// What is wanted of a peer of this part, with a trust that can judge it.
    pub fn resolve(&self, part: Part, trust: &mut Trust) -> Result<Wanted> {
        let release = self.release.as_deref().map(|text| release(text, &trust.reference)).transpose()?;
        let identity = self.identity.as_deref().map(identity).transpose()?;
        let gpu = self.gpu.as_deref().map_or(Ok(GpuDemand::None), demand)?;
        self.equip(trust)?;
        Ok(Wanted { part, release, identity, gpu })
    }

    /// Puts what GPU evidence is held against into a trust, if any is demanded.
    pub fn equip(&self, trust: &mut Trust) -> Result<()> {
        if self.gpu.is_some() {
            trust.gpu = Some(self.gpu_trust(trust)?);
        }
        Ok(())
    }

    /// Always NVIDIA's roots, and `[gpu]` of the policy.
    fn gpu_trust(&self, trust: &Trust) -> Result<GpuTrust> {
        let simulated = trust.policy.platform() == Platform::Simulated;
        ensure!(
            !simulated,
            "--gpu: a simulated platform's policy knows no roots of GPUs; use a policy for hardware"
        );
        let rims =
            |paths: &[PathBuf]| paths.iter().map(|path| evidence_gpu::rim(path)).collect::<Result<_>>();
        Ok(GpuTrust {
            policy: GpuPolicy::production().with(trust.policy.gpu().clone())?,
            driver_rims: rims(&self.driver_rim)?,
            vbios_rims: rims(&self.vbios_rim)?,
            ocsp: self.ocsp.iter().map(|path| evidence_gpu::response(path)).collect::<Result<_>>()?,
        })
    }
}

/// The digest of a release that is named, or given by its digest.
fn release(text: &str, reference: &Reference) -> Result<[u8; 32]> {
    if let Ok(digest) = <[u8; 32]>::try_from(hex::decode(text).unwrap_or_default()) {
        return Ok(digest);
    }
    let mut named: Vec<[u8; 32]> =
        reference.releases.iter().filter(|release| release.name == text).map(|r| r.digest()).collect();
    named.sort_unstable();
    named.dedup();
    match named[..] {
        [digest] => Ok(digest),
        [] => {
            let names: Vec<_> = reference.releases.iter().map(|release| release.name.as_str()).collect();
            bail!("--release: expected one of `{}` or a digest, found `{text}`", names.join("`, `"))
        }
        _ => {
            let digests: Vec<_> = named.iter().map(hex::encode).collect();
            bail!(
                "--release: `{text}` names {} sets of registers; give one of {}",
                named.len(),
                digests.join(", ")
            )
        }
    }
}

fn identity(text: &str) -> Result<ApplicationKey> {
    let (name, key) = text.split_once('=').context("--identity: expected NAME=HEX, found no `=`")?;
    let key = hex::decode(key).with_context(|| format!("--identity: `{key}`: expected hex digits"))?;
    let key = ApplicationKey { name: name.into(), key };
    key.check().context("--identity")?;
    Ok(key)
}

fn demand(text: &str) -> Result<GpuDemand> {
    if text == "fresh" {
        return Ok(GpuDemand::Fresh);
    }
    let age = text.strip_prefix("cached:").and_then(|seconds| seconds.parse().ok());
    let max_age_s =
        age.with_context(|| format!("--gpu: expected `fresh` or `cached:SECONDS`, found `{text}`"))?;
    Ok(GpuDemand::Cached { max_age_s })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_read_or_refused_by_the_name_of_its_option() {
        assert_eq!(demand("fresh").unwrap(), GpuDemand::Fresh);
        assert_eq!(demand("cached:60").unwrap(), GpuDemand::Cached { max_age_s: 60 });
        assert!(demand("cached:soon").unwrap_err().to_string().contains("--gpu"));
        assert_eq!(identity("session=00ff").unwrap().key, [0, 255]);
        for wrong in ["session", "session=xyz", "Session!=00", "session="] {
            let error = format!("{:#}", identity(wrong).unwrap_err());
            assert!(error.contains("--identity"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_release_is_known_by_its_name_or_its_digest() {
        let reference = Reference { schema: 1, releases: vec![], mrconfigid: None };
        assert_eq!(release(&"ab".repeat(32), &reference).unwrap(), [0xab; 32]);
        let error = release("1.0", &reference).unwrap_err().to_string();
        assert!(error.contains("--release") && error.contains("found `1.0`"), "{error}");
    }
}
