//! Sizes of what is handed out.

use crate::report::{Limit, Number, Unit};
use anyhow::{Context, Result};
use e2e::Stage;

/// Artifact, its name in the report, and how many megabytes it may have.
const SIZES: [(&str, &str, f64); 2] = [("uki.efi", "UKI", 20.0), ("disk.raw", "raw disk", 160.0)];

/// The UKI and the raw disk.
pub fn measure(stage: &Stage) -> Result<Vec<Number>> {
    SIZES
        .iter()
        .map(|(file, name, limit)| {
            let path = stage.image().join(file);
            let bytes =
                std::fs::metadata(&path).with_context(|| format!("{}: unreadable", path.display()))?.len();
            let number =
                Number::new(name, Unit::Megabytes, &[bytes as f64 / 1e6]).limit(Limit::AtMost(*limit));
            Ok(number.covers(format!(
                "{file} of the debug image, which has the simulated platform on top of the worker's"
            )))
        })
        .collect()
}
