//! Linker script and root pointer of tables that were captured, for machines that aren't our launcher's.
//!
//! QEMU's script follows from the layout of the tables alone: one blob that begins with the FACS and the DSDT, then the
//! tables that the RSDT lists, then the RSDT.

use super::AcpiBlobs;
use super::linker::{Script, TABLES, Zone};
use super::tables::root_pointer;
use crate::error::{Input, MeasureError, View};

const FACS_LENGTH: u32 = 64;
const HEADER: u32 = 36;
/// Pointers of the FADT: FACS and DSDT, and the 64-bit DSDT.
const FADT_POINTERS: [(u32, u8); 3] = [(36, 4), (40, 4), (140, 8)];
/// Tables without pointers to others, which a script only checksums.
const PLAIN: [&[u8; 4]; 10] =
    [b"DSDT", b"APIC", b"HPET", b"MCFG", b"WAET", b"SRAT", b"SLIT", b"SSDT", b"DMAR", b"VIOT"];

/// Completes captured tables (`etc/acpi/tables`, before linking) with the files that belong to them.
pub fn derive(tables: &[u8]) -> Result<AcpiBlobs, MeasureError> {
    let view = View::new(Input::AcpiTables, tables);
    let mut script = Script::default();
    script.allocate(TABLES, 64, Zone::High);
    let mut at = FACS_LENGTH;
    if view.slice(0, 4, "first table")? != b"FACS" {
        return Err(view.fault(0, "the first table isn't the FACS"));
    }
    loop {
        let signature: [u8; 4] = view.array(at as usize, "table signature")?;
        let length = view.u32(at as usize + 4, "table length")?;
        if length < HEADER {
            return Err(
                view.fault(at as usize + 4, format!("table of {length} bytes, smaller than its header"))
            );
        }
        view.slice(at as usize, length as usize, "table")?;
        match &signature {
            b"FACP" if length >= 148 => {
                FADT_POINTERS
                    .iter()
                    .for_each(|(offset, size)| script.pointer(TABLES, at + offset, *size, TABLES));
            }
            b"RSDT" => {
                (HEADER..length).step_by(4).for_each(|offset| script.pointer(TABLES, at + offset, 4, TABLES));
            }
            plain if PLAIN.contains(&plain) => {}
            other => {
                let name = String::from_utf8_lossy(other).into_owned();
                return Err(
                    view.fault(at as usize, format!("no linker script is known for a table {name:?}"))
                );
            }
        }
        script.checksum(TABLES, at + 9, at, length);
        if &signature == b"RSDT" {
            let rsdp = root_pointer(&mut script, at);
            return Ok(AcpiBlobs { loader: script.finish(), rsdp, tpm_log: None, tables: tables.to_vec() });
        }
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acpi::{Chipset, Machine, generate};
    use crate::shape::Shape;
    use proptest::prelude::*;

    fn without_tpm() -> AcpiBlobs {
        let machine = Machine::emulated(&Shape::new(2, 2048));
        generate(&Machine { chipset: Chipset { tpm: false, ..machine.chipset }, ..machine })
    }

    #[test]
    fn derived_files_equal_generated_ones() {
        let blobs = without_tpm();
        assert_eq!(derive(&blobs.tables).unwrap(), blobs);
    }

    #[test]
    fn unknown_tables_are_named() {
        let blobs = generate(&Machine::emulated(&Shape::new(2, 2048)));
        assert!(derive(&blobs.tables).unwrap_err().to_string().contains("\"TPM2\""));
    }

    proptest! {
        #[test]
        fn mutated_tables_never_panic(at in 0usize..9000, value: u32, cut in 0usize..9000) {
            let mut tables = without_tpm().tables;
            tables[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let _ = derive(&tables);
            let _ = derive(&tables[..cut]);
        }
    }
}
