//! What can be wrong with an input, and bounded reading of hostile bytes.
//!
//! Every parser of this crate reads through [`View`]: each access is checked, so that a lying length, a table that
//! points at itself or a truncated file becomes a [`MeasureError`] with an offset, never a panic.

use std::fmt;

/// The inputs that are parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A unified kernel image, or any PE image.
    Uki,
    /// A kernel: a file of its own, or the `.linux` section of a UKI.
    Kernel,
    /// A firmware volume file (OVMF code or whole image).
    Firmware,
    /// What a firmware file holds compressed.
    UnpackedFirmware,
    /// A firmware variable store (OVMF vars).
    Variables,
    /// ACPI tables as a VMM hands them to the firmware.
    AcpiTables,
    /// BootOrder or a boot option, as captured.
    BootVariables,
    /// The front of a raw disk.
    Disk,
    /// A firmware event log.
    Log,
    /// A shape file.
    Shape,
}

impl Input {
    /// What to do about a fault in this input.
    fn hint(self) -> &'static str {
        match self {
            Input::Uki => "give an uncompressed PE32+ image made by ukify, as it is booted",
            Input::Kernel => "give an uncompressed bzImage with an EFI stub (CONFIG_EFI_STUB)",
            Input::Firmware | Input::UnpackedFirmware => {
                "give the OVMF file that the launcher boots (OVMF_CODE_4M.fd or OVMF.fd)"
            }
            Input::Variables => {
                "give the pristine variable store that belongs to the firmware (OVMF_VARS_4M.fd)"
            }
            Input::AcpiTables => {
                "give the fw_cfg file etc/acpi/tables as QEMU made it, before the firmware links it"
            }
            Input::BootVariables => {
                "give the variables' data alone, without the four bytes of attributes of efivarfs"
            }
            Input::Disk => "give the first 34 sectors or more of a raw GPT disk with 512-byte sectors",
            Input::Log => {
                "give the whole log as the kernel shows it (binary_bios_measurements or the CCEL data)"
            }
            Input::Shape => "see the shape's fields in docs/reference/measured-boot.md",
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Input::Uki => "UKI",
            Input::Kernel => "kernel",
            Input::Firmware => "firmware",
            Input::UnpackedFirmware => "unpacked firmware",
            Input::Variables => "variable store",
            Input::AcpiTables => "ACPI tables",
            Input::BootVariables => "boot variables",
            Input::Disk => "disk",
            Input::Log => "event log",
            Input::Shape => "shape",
        })
    }
}

/// Why something could not be measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeasureError {
    /// An input is not what its format demands.
    #[error("{input} at offset {offset:#x}: {fault}; {}", input.hint())]
    Malformed {
        /// Which input.
        input: Input,
        /// Byte offset of the fault.
        offset: usize,
        /// What was expected and what was found.
        fault: String,
    },
    /// A shape that no machine of ours can have.
    #[error("shape: {fault}; {}", Input::Shape.hint())]
    Shape {
        /// Which field, what was found, what is allowed.
        fault: String,
    },
    /// Inputs or options that no machine has together.
    #[error("{fault}; {hint}")]
    Conflict {
        /// What doesn't go together.
        fault: String,
        /// What to do.
        hint: &'static str,
    },
    /// An input that this boot form needs was not given.
    #[error("no {input} was given, but {needed_for} needs it; {}", input.hint())]
    Missing {
        /// Which input.
        input: Input,
        /// What needs it.
        needed_for: &'static str,
    },
}

/// Bytes of one input with checked access; offsets in errors are relative to the whole input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) input: Input,
    pub(crate) bytes: &'a [u8],
    base: usize,
}

impl<'a> View<'a> {
    pub(crate) fn new(input: Input, bytes: &'a [u8]) -> Self {
        View { input, bytes, base: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// An error at `offset` of this view.
    pub(crate) fn fault(&self, offset: usize, fault: impl Into<String>) -> MeasureError {
        MeasureError::Malformed {
            input: self.input,
            offset: self.base.saturating_add(offset),
            fault: fault.into(),
        }
    }

    pub(crate) fn slice(&self, offset: usize, len: usize, what: &str) -> Result<&'a [u8], MeasureError> {
        offset.checked_add(len).and_then(|end| self.bytes.get(offset..end)).ok_or_else(|| {
            let have = self.len().saturating_sub(offset);
            self.fault(offset, format!("{what} needs {len} bytes, {have} are left"))
        })
    }

    /// A part of this view whose errors still speak in offsets of the whole input.
    pub(crate) fn sub(&self, offset: usize, len: usize, what: &str) -> Result<View<'a>, MeasureError> {
        let bytes = self.slice(offset, len, what)?;
        Ok(View { input: self.input, bytes, base: self.base.saturating_add(offset) })
    }

    pub(crate) fn array<const N: usize>(&self, offset: usize, what: &str) -> Result<[u8; N], MeasureError> {
        let mut out = [0; N];
        out.copy_from_slice(self.slice(offset, N, what)?);
        Ok(out)
    }

    pub(crate) fn u8(&self, offset: usize, what: &str) -> Result<u8, MeasureError> {
        Ok(self.array::<1>(offset, what)?[0])
    }

    pub(crate) fn u16(&self, offset: usize, what: &str) -> Result<u16, MeasureError> {
        Ok(u16::from_le_bytes(self.array(offset, what)?))
    }

    /// A 24-bit little-endian number, as firmware file systems use for sizes.
    pub(crate) fn u24(&self, offset: usize, what: &str) -> Result<u32, MeasureError> {
        let [a, b, c] = self.array(offset, what)?;
        Ok(u32::from_le_bytes([a, b, c, 0]))
    }

    pub(crate) fn u32(&self, offset: usize, what: &str) -> Result<u32, MeasureError> {
        Ok(u32::from_le_bytes(self.array(offset, what)?))
    }

    pub(crate) fn u64(&self, offset: usize, what: &str) -> Result<u64, MeasureError> {
        Ok(u64::from_le_bytes(self.array(offset, what)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_input_offset_fault_and_next_step() {
        let view = View::new(Input::Disk, &[0; 4]).sub(2, 2, "tail").unwrap();
        let text = view.u32(1, "header length").unwrap_err().to_string();
        assert_eq!(
            text,
            "disk at offset 0x3: header length needs 4 bytes, 1 are left; \
             give the first 34 sectors or more of a raw GPT disk with 512-byte sectors"
        );
    }

    #[test]
    fn offsets_near_the_end_of_the_address_space_do_not_wrap() {
        assert!(View::new(Input::Log, &[0; 4]).slice(usize::MAX, 2, "x").is_err());
    }
}
