//! The kernel file as the firmware gets it: QEMU writes into the setup header of a Linux kernel before it hands it over.
//!
//! ```text
//! offset 1fa  video mode        "vga=" on the command line
//!        210  type of loader    b0
//!        211  load flags        | 80 (there is a heap)
//!        218  initrd address    as high as it goes: below the kernel's limit, below memory and what ACPI takes
//!        21c  initrd size
//!        224  end of the heap   fe00
//!        228  command line      20000
//! ```
//! Source: QEMU 10.0.13 `hw/i386/x86-common.c`, `x86_load_linux`; unchanged in substance since 2.x. Whether the firmware
//! measures these bytes or the file's own depends on both sides: QEMU from 10.0 on offers the untouched file as
//! `etc/boot/kernel`, which firmware from edk2-stable202502 on prefers; QEMU from 10.2 on (commit a7542a38f399) no longer
//! touches the header in confidential guests. Protocol: Linux `Documentation/arch/x86/boot.rst`.

use super::Linux;
use crate::error::{Input, MeasureError, View};
use serde::{Deserialize, Serialize};

/// Which bytes of a classic kernel the firmware measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetupHeader {
    /// As QEMU patched them.
    Patched,
    /// As they are in the file.
    AsIs,
}

/// QEMU reads this much of a kernel as its header.
const HEADER: usize = 8192;
const SIGNATURE: &[u8] = b"HdrS";
/// Memory below 4 GiB that QEMU's PC machines keep for ACPI data (`PC_FW_DATA`).
const ACPI_DATA: u64 = 0x2_8000;
/// `xloadflags`: the kernel and its initrd may lie anywhere.
const CAN_BE_ABOVE_4G: u16 = 1 << 1;
/// Highest initrd address of kernels that don't state one.
const OLD_INITRD_MAX: u64 = 0x37ff_ffff;

/// The kernel as QEMU hands it over; `None` if it leaves this file alone (no Linux kernel: a UKI, an ELF file).
pub(super) fn patched(linux: &Linux<'_>, low_memory: u64) -> Result<Option<Vec<u8>>, MeasureError> {
    let view = View::new(Input::Kernel, linux.kernel);
    if linux.kernel.get(0x202..0x206) != Some(SIGNATURE) {
        return Ok(None);
    }
    let sectors = usize::from(view.u8(0x1f1, "setup sectors")?);
    let setup = (if sectors == 0 { 4 } else { sectors } + 1) * 512;
    view.slice(0, setup, "kernel setup")?;
    let header = Header::new(&view, linux, low_memory)?;
    let mut kernel = linux.kernel.to_vec();
    let end = setup.min(HEADER);
    for (at, bytes) in header.patches(linux)? {
        // What lies behind the setup part is read from the file again.
        if let Some(place) = kernel[..end].get_mut(at..at + bytes.len()) {
            place.copy_from_slice(&bytes);
        }
    }
    Ok(Some(kernel))
}

/// What QEMU decides by.
struct Header {
    protocol: u16,
    load_flags: u8,
    /// Real-mode address and address of the command line.
    addresses: (u32, u32),
    initrd: Option<(u32, u32)>,
}

impl Header {
    fn new(view: &View<'_>, linux: &Linux<'_>, low_memory: u64) -> Result<Self, MeasureError> {
        let protocol = view.u16(0x206, "boot protocol")?;
        let load_flags = view.u8(0x211, "load flags")?;
        let cmdline_size = (linux.cmdline.len() as u32).saturating_add(16) & !15;
        let low = protocol < 0x202 || load_flags & 1 == 0;
        let addresses =
            if low { (0x9_0000, 0x9_a000u32.saturating_sub(cmdline_size)) } else { (0x1_0000, 0x2_0000) };
        let most = initrd_max(view, protocol, low_memory)?;
        let initrd = linux.initrd.map(|bytes| initrd_place(view, bytes.len() as u64, most)).transpose()?;
        Ok(Header { protocol, load_flags, addresses, initrd })
    }

    /// Places and what QEMU writes there.
    fn patches(&self, linux: &Linux<'_>) -> Result<Vec<(usize, Vec<u8>)>, MeasureError> {
        let (real, cmdline) = self.addresses;
        let mut patches = Vec::new();
        let mut put = |at: usize, bytes: &[u8]| patches.push((at, bytes.to_vec()));
        if self.protocol >= 0x202 {
            put(0x228, &cmdline.to_le_bytes());
        } else {
            put(0x20, &0xa33fu16.to_le_bytes());
            put(0x22, &((cmdline - real) as u16).to_le_bytes());
        }
        if let Some(mode) = video_mode(linux.cmdline)? {
            put(0x1fa, &mode.to_le_bytes());
        }
        if self.protocol >= 0x200 {
            put(0x210, &[0xb0]);
        }
        if self.protocol >= 0x201 {
            put(0x211, &[self.load_flags | 0x80]);
            put(0x224, &((cmdline - real - 0x200) as u16).to_le_bytes());
        }
        if let Some((address, size)) = self.initrd {
            put(0x218, &address.to_le_bytes());
            put(0x21c, &size.to_le_bytes());
        }
        Ok(patches)
    }
}

/// Highest address for an initrd: the kernel's limit, or the end of low memory less what ACPI takes.
fn initrd_max(view: &View<'_>, protocol: u16, low_memory: u64) -> Result<u64, MeasureError> {
    let anywhere = protocol >= 0x20c && view.u16(0x236, "extended load flags")? & CAN_BE_ABOVE_4G != 0;
    let kernel = if anywhere {
        u64::from(u32::MAX)
    } else if protocol >= 0x203 {
        view.u32(0x22c, "initrd limit")?.into()
    } else {
        OLD_INITRD_MAX
    };
    let memory = low_memory.saturating_sub(ACPI_DATA);
    Ok(if kernel >= memory { memory.saturating_sub(1) } else { kernel })
}

fn initrd_place(view: &View<'_>, size: u64, most: u64) -> Result<(u32, u32), MeasureError> {
    if size >= most {
        let fault = format!("an initrd of {size} bytes doesn't fit below {most:#x}: QEMU refuses to start");
        return Err(view.fault(0x22c, fault));
    }
    // `most` is below 4 GiB.
    Ok((((most - size) & !4095) as u32, size as u32))
}

/// What `vga=` asks for: a word, or a number as C writes them.
fn video_mode(cmdline: &str) -> Result<Option<u16>, MeasureError> {
    let Some((_, mode)) = cmdline.split_once("vga=") else { return Ok(None) };
    for (word, value) in [("normal", 0xffff), ("ext", 0xfffe), ("ask", 0xfffd)] {
        if mode.starts_with(word) {
            return Ok(Some(value));
        }
    }
    let number = mode.split(' ').next().unwrap_or_default();
    let parsed = if let Some(hex) = number.strip_prefix("0x").or_else(|| number.strip_prefix("0X")) {
        u32::from_str_radix(hex, 16)
    } else if number.len() > 1 && number.starts_with('0') {
        u32::from_str_radix(number, 8)
    } else {
        number.parse()
    };
    // QEMU stores the low half.
    parsed.map(|mode| Some(mode as u16)).map_err(|_| MeasureError::Conflict {
        fault: format!("vga={number} on the command line is no video mode: QEMU refuses to start"),
        hint: "give the command line that the machine is really started with",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::kernel as sample_kernel;
    use proptest::prelude::*;

    const LOW: u64 = 0x8000_0000;

    fn changes(linux: &Linux<'_>, low_memory: u64) -> Vec<(usize, u8)> {
        let patched = patched(linux, low_memory).unwrap().unwrap();
        let pairs = linux.kernel.iter().zip(&patched).enumerate();
        pairs.filter(|(_, (a, b))| a != b).map(|(at, (_, b))| (at, *b)).collect()
    }

    #[test]
    fn loader_heap_and_command_line_are_written() {
        let kernel = sample_kernel(0x20f, CAN_BE_ABOVE_4G);
        let linux = Linux { kernel: &kernel, initrd: None, cmdline: "quiet" };
        assert_eq!(changes(&linux, LOW), [(0x210, 0xb0), (0x211, 0x81), (0x225, 0xfe), (0x22a, 0x02)]);
    }

    #[test]
    fn the_initrd_lies_below_memory_and_acpi_data() {
        let kernel = sample_kernel(0x20f, CAN_BE_ABOVE_4G);
        let initrd = vec![0; 0x1234];
        let linux = Linux { kernel: &kernel, initrd: Some(&initrd), cmdline: "" };
        let place = |low| {
            let patched = patched(&linux, low).unwrap().unwrap();
            [0x218, 0x21c].map(|at| u32::from_le_bytes(patched[at..at + 4].try_into().unwrap()))
        };
        assert_eq!(place(LOW), [0x7ffd_6000, 0x1234]);
        assert_eq!(place(256 << 20), [0x0ffd_6000, 0x1234]);
    }

    #[test]
    fn a_kernel_with_a_limit_of_its_own_keeps_it() {
        let kernel = sample_kernel(0x20f, 0);
        let linux = Linux { kernel: &kernel, initrd: Some(&[0; 4096]), cmdline: "" };
        let patched = patched(&linux, LOW).unwrap().unwrap();
        assert_eq!(patched[0x218..0x21c], 0x37ff_e000u32.to_le_bytes(), "limit 37ffffff in the header");
    }

    #[test]
    fn video_modes_are_words_and_numbers() {
        for (cmdline, mode) in [
            ("quiet", None),
            ("vga=ask quiet", Some(0xfffd)),
            ("vga=normal", Some(0xffff)),
            ("x vga=0x317 y", Some(0x317)),
            ("vga=791", Some(791)),
            ("vga=017", Some(15)),
        ] {
            assert_eq!(video_mode(cmdline).unwrap(), mode, "{cmdline}");
        }
        assert!(video_mode("vga=pretty").unwrap_err().to_string().contains("no video mode"));
    }

    #[test]
    fn what_is_no_linux_kernel_is_left_alone() {
        let uki = crate::samples::uki(b"quiet");
        assert_eq!(patched(&Linux { kernel: &uki, initrd: None, cmdline: "" }, LOW).unwrap(), None);
    }

    #[test]
    fn an_initrd_that_does_not_fit_is_refused() {
        let kernel = sample_kernel(0x20f, CAN_BE_ABOVE_4G);
        let linux = Linux { kernel: &kernel, initrd: Some(&[0; 4096]), cmdline: "" };
        let error = patched(&linux, 0x2_8800).unwrap_err().to_string();
        assert!(error.contains("doesn't fit below 0x7ff"), "{error}");
    }

    proptest! {
        #[test]
        fn a_mutated_header_never_panics(at in 0x1f0usize..0x260, value: u32, cut in 0usize..4000, low: u32) {
            let mut kernel = sample_kernel(0x20f, CAN_BE_ABOVE_4G);
            kernel[at..at + 4].copy_from_slice(&value.to_le_bytes());
            for part in [&kernel[..], &kernel[..cut.min(kernel.len())]] {
                let linux = Linux { kernel: part, initrd: Some(&[0; 100]), cmdline: "vga=1" };
                let _ = patched(&linux, low.into());
            }
        }
    }
}
