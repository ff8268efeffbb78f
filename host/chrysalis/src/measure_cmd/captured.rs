//! A folder with what a machine that isn't the launcher's showed: ACPI files and boot variables.

use crate::input::read;
use anyhow::{Context, Result, ensure};
use measure::BootVariables;
use measure::acpi::{self, AcpiBlobs};
use std::path::Path;

/// What the folder holds.
pub struct Captured {
    /// ACPI files; loader and root pointer are derived where they were not captured. `None` without tables.
    pub acpi: Option<AcpiBlobs>,
    /// Boot variables' data.
    pub boot_variables: BootVariables,
}

impl Captured {
    /// Reads `acpi_tables.bin`, `table_loader.bin`, `rsdp.bin`, `BootOrder.bin` and each `Boot####.bin`.
    pub fn read(dir: &Path) -> Result<Self> {
        let boot_variables = boot_variables(dir)?;
        let tables = dir.join("acpi_tables.bin");
        let some = boot_variables != BootVariables::default();
        ensure!(
            tables.exists() || some,
            "{}: neither acpi_tables.bin nor boot variables (BootOrder.bin, Boot0000.bin) are there",
            dir.display()
        );
        let acpi = if tables.exists() { Some(acpi_files(dir, &tables)?) } else { None };
        Ok(Captured { acpi, boot_variables })
    }
}

fn acpi_files(dir: &Path, tables: &Path) -> Result<AcpiBlobs> {
    let mut blobs = acpi::derive(&read(tables)?).with_context(|| format!("{}", tables.display()))?;
    for (name, blob) in [("table_loader.bin", &mut blobs.loader), ("rsdp.bin", &mut blobs.rsdp)] {
        let path = dir.join(name);
        if path.exists() {
            *blob = read(&path)?;
        }
    }
    Ok(blobs)
}

fn boot_variables(dir: &Path) -> Result<BootVariables> {
    let mut variables = BootVariables::default();
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
        let name = entry.file_name();
        let Some(variable) = name.to_str().and_then(|n| n.strip_prefix("Boot")?.strip_suffix(".bin")) else {
            continue;
        };
        if variable == "Order" {
            variables.order = Some(read(&entry.path())?);
        } else if variable.len() == 4
            && let Ok(number) = u16::from_str_radix(variable, 16)
        {
            variables.options.insert(number, read(&entry.path())?);
        }
    }
    Ok(variables)
}
