//! One case as files: what `chrysalis evidence verify` takes, and the same as one bundle.

use anyhow::{Context, Result};
use evidence::{Bundle, BundlePart};
use simulator::fault::Case;
use std::fs;
use std::path::Path;

const POLICY: &str = "\
# Policy for one SIMULATED platform: what it accepts proves nothing about hardware.
schema = 1
platform = \"simulated\"
root = \"root.der\"
";

/// Writes the folder of one case.
pub fn write(dir: &Path, case: &Case) -> Result<()> {
    let (evidence, reference) = (&case.evidence, serde_json::to_vec_pretty(&case.reference)?);
    let collateral = case.collateral.to_json().into_bytes();
    let report_data = hex::encode(case.report_data);
    let files: [(&str, &[u8]); 9] = [
        ("quote.bin", &evidence.quote),
        ("collateral.json", &collateral),
        ("root.der", &case.root_der),
        ("policy.toml", POLICY.as_bytes()),
        ("tpm-log.bin", &evidence.event_log.bytes),
        ("static-config.toml", &evidence.static_config),
        ("runtime.bin", &evidence.runtime),
        ("reference.json", &reference),
        ("report-data.hex", report_data.as_bytes()),
    ];
    for (name, bytes) in files {
        put(dir, name, bytes)?;
    }
    let bundle = Bundle::new(vec![
        (BundlePart::Quote, evidence.quote.clone()),
        (BundlePart::Collateral, collateral.clone()),
        (BundlePart::TpmLog, evidence.event_log.bytes.clone()),
        (BundlePart::StaticConfig, evidence.static_config.clone()),
        (BundlePart::RuntimeRecord, evidence.runtime.clone()),
        (BundlePart::Reference, reference.clone()),
        (BundlePart::ReportData, case.report_data.to_vec()),
    ])?;
    put(dir, "bundle.bin", &bundle.to_bytes())
}

/// Writes one file of a case, making the case's folder where it is missing.
pub fn put(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join(name);
    fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use simulator::fault::Fault;

    #[test]
    fn a_bundle_that_was_written_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let case = Fault::None.case().unwrap();
        write(dir.path(), &case).unwrap();
        let bundle = Bundle::from_bytes(&fs::read(dir.path().join("bundle.bin")).unwrap()).unwrap();
        assert_eq!(bundle.quote(), case.evidence.quote);
        assert_eq!(bundle.reference().unwrap().unwrap(), case.reference);
        assert_eq!(bundle.report_data(), Some(case.report_data));
    }
}
