//! `chrysalis gpu trust`: fills a folder with what GPU evidence is held against, for the launcher's `gpu_collateral`.
//!
//! ```text
//! evidence of the very GPUs -> names of their manifests, their certificates -> services -> DIR/{driver,vbios,ocsp}/
//! ```
//! Everything is fetched before anything is written: a service that is away leaves the folder as it was.

use crate::input::read;
use crate::output::{Outcome, facts};
use crate::trust;
use anyhow::{Context, Result};
use collateral::{GpuServices, GpuSettings};
use evidence::gpu::{DeviceEvidence, GpuCollateral, GpuPolicy};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// Options of `gpu trust`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder to fill; what is in its driver/, vbios/ and ocsp/ is replaced.
    dir: PathBuf,
    /// Evidence of the GPUs (JSON as NVIDIA's tools write it): which firmware they have, and their certificates.
    #[arg(long, required = true)]
    evidence: Vec<PathBuf>,
    /// Base URL of the manifests.
    #[arg(long, default_value = "https://rim.attestation.nvidia.com/v1/rim")]
    rim_service: String,
    /// URL of the OCSP responder.
    #[arg(long, default_value = "https://ocsp.ndis.nvidia.com")]
    ocsp_service: String,
    /// Certificates (PEM) to trust for TLS instead of the public ones.
    #[arg(long)]
    tls_roots: Option<PathBuf>,
}

/// Fetches, then writes.
pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let mut devices = Vec::new();
    for path in &args.evidence {
        let read = DeviceEvidence::read_envelope(&read(path)?);
        devices.extend(read.with_context(|| format!("{}", path.display()))?);
    }
    let roots = args.tls_roots.as_deref().map(read).transpose()?;
    let tls_roots = roots.map(String::from_utf8).transpose().context("--tls-roots: expected PEM")?;
    let settings = GpuSettings {
        rim: args.rim_service.clone(),
        ocsp: args.ocsp_service.clone(),
        tls_roots,
        attempts: 3,
    };
    let fetched = GpuServices::new(settings)?.fetch(&devices, &GpuPolicy::production(), trust::now()).context(
        "nothing was written; a guest boots with what is in the folder while that is in date (OCSP responses: days)",
    )?;
    write(&args.dir, &fetched)?;
    let GpuCollateral { driver_rims, vbios_rims, ocsp } = &fetched;
    let shown = json!({
        "folder": args.dir, "devices": devices.len(), "driver_rims": driver_rims.len(), "vbios_rims": vbios_rims.len(),
        "ocsp": ocsp.len(),
    });
    facts(json, &shown, || {
        format!(
            "{}: {} and {} manifests, {} OCSP responses for {} device(s); not verified here, each guest does",
            args.dir.display(),
            driver_rims.len(),
            vbios_rims.len(),
            ocsp.len(),
            devices.len()
        )
    })?;
    Ok(Outcome::Fine)
}

fn write(dir: &Path, fetched: &GpuCollateral) -> Result<()> {
    let parts = [
        ("driver", "xml", &fetched.driver_rims),
        ("vbios", "xml", &fetched.vbios_rims),
        ("ocsp", "der", &fetched.ocsp),
    ];
    for (name, kind, files) in parts {
        let (folder, new) = (dir.join(name), dir.join(format!(".{name}.new")));
        let at = || format!("cannot write {}", folder.display());
        if new.exists() {
            fs::remove_dir_all(&new).with_context(at)?;
        }
        fs::create_dir_all(&new).with_context(at)?;
        for (number, bytes) in files.iter().enumerate() {
            fs::write(new.join(format!("{number:03}.{kind}")), bytes).with_context(at)?;
        }
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(at)?;
        }
        fs::rename(&new, &folder).with_context(at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_replaced_whole_and_what_is_beside_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let count = |name: &str| fs::read_dir(dir.path().join(name)).unwrap().count();
        let of = |ocsp: usize| GpuCollateral {
            driver_rims: vec![b"<a/>".to_vec()],
            vbios_rims: Vec::new(),
            ocsp: vec![vec![1]; ocsp],
        };
        write(dir.path(), &of(9)).unwrap();
        fs::write(dir.path().join("rim-root.der"), "root").unwrap();
        write(dir.path(), &of(3)).unwrap();
        assert_eq!((count("driver"), count("vbios"), count("ocsp"), count(".")), (1, 0, 3, 4));
    }
}
