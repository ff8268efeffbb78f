//! GPU cases: the evidence as NVIDIA's envelope, with the manifests, OCSP responses and roots that its appraisal takes.
//!
//! dcap-qvl knows nothing of GPUs, so these rows have our verifier only.

use crate::matrix::Row;
use crate::verifiers::Library;
use anyhow::{Context, Result};
use evidence::Name;
use evidence::gpu::{DeviceEvidence, verify_gpus};
use simulator::gpu::{GpuCase, GpuFault};
use std::collections::BTreeSet;
use std::path::Path;

/// Writes every case below `dir` and judges it.
pub fn rows(dir: &Path) -> Result<Vec<Row>> {
    [GpuFault::None].iter().chain(GpuFault::ALL).map(|fault| row(dir, *fault)).collect()
}

fn row(dir: &Path, fault: GpuFault) -> Result<Row> {
    let name = format!("gpu-{}", fault.name());
    let case = fault.case().with_context(|| name.clone())?;
    write(&dir.join(&name), &case)?;
    Ok(Row {
        name,
        at: case.at,
        expected: fault.expected().iter().map(|check| check.text()).collect(),
        ours: failing(&case)?,
        dcap_qvl: Library::NotItsSubject,
    })
}

/// The checks that fail, each once however many devices fail it.
fn failing(case: &GpuCase) -> Result<Vec<&'static str>> {
    let policy = case.policy()?;
    let verdict = verify_gpus(&case.inputs(&policy));
    let names: BTreeSet<_> = verdict.failed().map(|entry| entry.check.name.text()).collect();
    Ok(names.into_iter().collect())
}

fn write(dir: &Path, case: &GpuCase) -> Result<()> {
    let envelope = DeviceEvidence::to_envelope(&case.devices, &case.nonce);
    crate::vectors::put(dir, "evidence.json", envelope.as_bytes())?;
    crate::vectors::put(dir, "nonce.hex", hex::encode(case.nonce).as_bytes())?;
    crate::vectors::put(dir, "device-root.der", &case.device_root)?;
    crate::vectors::put(dir, "rim-root.der", &case.rim_root)?;
    let kinds = [
        ("driver-rim", "xml", &case.driver_rims),
        ("vbios-rim", "xml", &case.vbios_rims),
        ("ocsp", "der", &case.ocsp),
    ];
    for (kind, ending, files) in kinds {
        for (i, bytes) in files.iter().enumerate() {
            crate::vectors::put(dir, &format!("{kind}-{i}.{ending}"), bytes)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_was_written_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let row = row(dir.path(), GpuFault::StaleNonce).unwrap();
        assert!(row.is_right() && row.ours == ["gpu_nonce"], "{:?}", row.ours);
        let folder = dir.path().join("gpu-stale-nonce");
        let envelope = std::fs::read(folder.join("evidence.json")).unwrap();
        assert_eq!(DeviceEvidence::read_envelope(&envelope).unwrap().len(), 1);
        assert!(folder.join("driver-rim-0.xml").is_file() && folder.join("ocsp-0.der").is_file());
    }
}
