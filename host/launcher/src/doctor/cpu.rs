//! The processor: TDX is Intel's, and begins with the fifth generation of Xeon for everybody.
//!
//! CPUID as in Intel's Software Developer's Manual, volume 2A; models as in Linux' `arch/x86/include/asm/intel-family.h`.

use super::{Finding, Seen, fail, pass, unknown, unseen};

/// Model numbers of family 6 and what they are. Sapphire Rapids has TDX in some parts only.
const MODELS: &[(u32, &str)] = &[
    (0xcf, "Emerald Rapids, 5th generation Xeon"),
    (0xad, "Granite Rapids, Xeon 6"),
    (0xae, "Granite Rapids D, Xeon 6"),
    (0xaf, "Sierra Forest, Xeon 6"),
    (0xdd, "Clearwater Forest, Xeon 6+"),
];
const SAPPHIRE_RAPIDS: u32 = 0x8f;
const FIX: &str = "TDX needs an Intel Xeon of the 5th generation or later, on bare metal";

/// Vendor, family and model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signature {
    family: u32,
    model: u32,
}

impl Signature {
    /// From leaf 1, register eax: base and extended fields.
    pub(super) fn of(eax: u32) -> Self {
        let field = |shift: u32, mask: u32| (eax >> shift) & mask;
        let family = if field(8, 0xf) == 0xf { 0xf + field(20, 0xff) } else { field(8, 0xf) };
        let model = if matches!(field(8, 0xf), 6 | 0xf) { field(16, 0xf) << 4 } else { 0 } | field(4, 0xf);
        Signature { family, model }
    }
}

/// Twelve characters in ebx, edx, ecx of leaf 0.
fn vendor([_, ebx, ecx, edx]: [u32; 4]) -> String {
    let bytes: Vec<u8> = [ebx, edx, ecx].iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '?' }).collect()
}

pub(super) fn processor(seen: &Seen<'_>) -> Finding {
    let (vendor, [signature, _, features, _]) = match (seen.host.cpuid(0, 0), seen.host.cpuid(1, 0)) {
        (Ok(zero), Ok(one)) => (vendor(zero), one),
        (Err(miss), _) | (_, Err(miss)) => return unseen("CPUID", &miss, FIX),
    };
    let name = seen.host.line("/proc/cpuinfo", "model name").unwrap_or_else(|_| vendor.clone());
    let Signature { family, model } = Signature::of(signature);
    let shown = format!("{name}, family {family}, model {model:#x}");
    if features & (1 << 31) != 0 {
        return fail(format!("{shown}; this is itself a virtual machine"), FIX);
    }
    if vendor != "GenuineIntel" {
        return fail(shown, FIX);
    }
    let flags = seen.host.line("/proc/cpuinfo", "flags").unwrap_or_default();
    let told = flags.split_whitespace().any(|flag| flag == "tdx_host_platform");
    match MODELS.iter().find(|(known, _)| family == 6 && *known == model) {
        Some((_, what)) => pass(format!("{shown}: {what}")),
        None if told => pass(format!("{shown}; the kernel says tdx_host_platform")),
        None if family == 6 && model == SAPPHIRE_RAPIDS => unknown(
            format!("{shown}: Sapphire Rapids, where only some parts have TDX"),
            "`bios_tdx` decides; ask the vendor whether this part has TDX",
        ),
        None if family == 6 && model < SAPPHIRE_RAPIDS => fail(format!("{shown}: older than TDX"), FIX),
        None => unknown(
            format!("{shown}: not in this program's list"),
            "ask the vendor whether this part has TDX",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_taken_apart_as_the_manual_says() {
        // Emerald Rapids stepping 2, Sapphire Rapids stepping 8, EPYC (family 0x19, model 0x11).
        let of = |eax| (Signature::of(eax).family, Signature::of(eax).model);
        assert_eq!([of(0xc06f2), of(0x806f8), of(0xa10f11)], [(6, 0xcf), (6, 0x8f), (0x19, 0x11)]);
    }

    #[test]
    fn a_vendor_of_odd_bytes_is_printable() {
        assert_eq!(vendor([0, 0x756e6547, 0x6c65746e, 0x49656e69]), "GenuineIntel");
        assert_eq!(vendor([0, 0x1b5b0a00, u32::MAX, 0]).len(), 12);
    }
}
