//! What the BIOS set up and locked: memory encryption, TDX's own memory, the split of keys, SGX for the quoting side.
//!
//! Register numbers and bits: Intel Software Developer's Manual volume 4 (IA32_FEATURE_CONTROL, IA32_TME_ACTIVATE,
//! IA32_MKTME_KEYID_PARTITIONING) and "Intel TDX Enabling Guide", chapter "Infrastructure Setup", which reads the same four
//! (0x982 bit 1, 0xa0, 0x1401 bit 11, 0x87).

use super::{Finding, Seen, fail, pass, unseen};
use crate::host::Miss;

const FEATURE_CONTROL: u32 = 0x3a;
const KEYID_PARTITIONING: u32 = 0x87;
const SGX_MCHECK_STATUS: u32 = 0xa0;
const TME_ACTIVATE: u32 = 0x982;
const SEAMRR_MASK: u32 = 0x1401;

/// What makes registers readable.
const READ_THEM: &str =
    "run `modprobe msr` and then this command as root; with a locked-down kernel see `dmesg | grep -i tme`";

fn bit(value: u64, n: u32) -> bool {
    value >> n & 1 == 1
}

fn differs(miss: &Miss) -> bool {
    matches!(miss, Miss::Failed(why) if why.contains("differs"))
}

pub(super) fn tme(seen: &Seen<'_>) -> Finding {
    let fix = "in the BIOS: Memory Encryption (TME) on, Multi-Tenant (TME-MT) on, TME bypass automatic";
    match seen.host.msr(TME_ACTIVATE) {
        Ok(value) => {
            let (locked, on, bits) = (bit(value, 0), bit(value, 1), value >> 32 & 0xf);
            let shown =
                format!("IA32_TME_ACTIVATE {value:#x}: enabled {on}, locked {locked}, {bits} key-ID bits");
            if on && locked && bits > 0 { pass(shown) } else { fail(shown, fix) }
        }
        Err(miss) if differs(&miss) => {
            fail(miss.to_string(), "update the BIOS: it left the processors unequal")
        }
        Err(miss) => {
            match seen.host.logged(&["x86/mktme: enabled by BIOS", "x86/mktme: No known encryption"]) {
                Ok(Some(line)) if line.contains("enabled by BIOS") => pass(format!("kernel log: {line}")),
                _ => unseen("IA32_TME_ACTIVATE (MSR 0x982)", &miss, READ_THEM),
            }
        }
    }
}

/// The range that SEAM code lives in: enabled by the BIOS, locked when its loader is in place.
pub(super) fn tdx(seen: &Seen<'_>) -> Finding {
    match seen.host.msr(SEAMRR_MASK) {
        Ok(value) if bit(value, 11) && bit(value, 10) => {
            pass(format!("IA32_SEAMRR_PHYS_MASK {value:#x}: enabled, locked"))
        }
        Ok(value) if bit(value, 11) => fail(
            format!(
                "IA32_SEAMRR_PHYS_MASK {value:#x}: enabled, but not locked: the BIOS carries no SEAM loader"
            ),
            "in the BIOS: TDX SEAM Loader on; if it is, ask the vendor for a BIOS with Intel's P-SEAMLDR",
        ),
        Ok(value) => fail(
            format!("IA32_SEAMRR_PHYS_MASK {value:#x}: TDX is off"),
            "in the BIOS: Trust Domain Extensions (TDX) on, TDX SEAM Loader on",
        ),
        Err(miss) => match seen.host.logged(&["BIOS enabled: private KeyID", "not enabled by BIOS"]) {
            Ok(Some(line)) if line.contains("private KeyID") => pass(format!("kernel log: {line}")),
            Ok(Some(line)) => fail(format!("kernel log: {line}"), "in the BIOS: TDX on, TDX SEAM Loader on"),
            _ => unseen("IA32_SEAMRR_PHYS_MASK (MSR 0x1401)", &miss, READ_THEM),
        },
    }
}

/// Keys of TDX: the module takes one, each guest another.
pub(super) fn keys(seen: &Seen<'_>) -> Finding {
    let judge = |private: u64, shown: String| match private {
        0..2 => fail(
            shown,
            "in the BIOS: raise the TME-MT/TDX key split; each guest takes a key, the module one more",
        ),
        _ => pass(shown),
    };
    match seen.host.msr(KEYID_PARTITIONING) {
        Ok(value) => {
            let (shared, private) = (value & 0xffff_ffff, value >> 32);
            judge(
                private,
                format!(
                    "{private} keys for TDX, {shared} for TME-MT: at most {} guests",
                    private.saturating_sub(1)
                ),
            )
        }
        Err(miss) => match seen.host.logged(&["private KeyID range ["]).ok().flatten() {
            Some(line) => match range(&line) {
                Some((from, to)) => judge(to.saturating_sub(from), format!("kernel log: {line}")),
                None => unseen("IA32_MKTME_KEYID_PARTITIONING (MSR 0x87)", &miss, READ_THEM),
            },
            None => unseen("IA32_MKTME_KEYID_PARTITIONING (MSR 0x87)", &miss, READ_THEM),
        },
    }
}

/// `... range [64, 128)`.
fn range(line: &str) -> Option<(u64, u64)> {
    let (_, rest) = line.split_once('[')?;
    let (from, to) = rest.split_once(')')?.0.split_once(',')?;
    Some((from.trim().parse().ok()?, to.trim().parse().ok()?))
}

/// Quotes are signed by an SGX enclave.
pub(super) fn sgx(seen: &Seen<'_>) -> Finding {
    let fix = "in the BIOS: SW Guard Extensions (SGX) on, SGX Factory Reset off, Auto MP Registration on";
    match seen.host.cpuid(7, 0) {
        Ok([_, ebx, _, _]) if ebx >> 2 & 1 == 0 => return fail("CPUID has no SGX", fix),
        Ok(_) => (),
        Err(miss) => return unseen("CPUID", &miss, fix),
    }
    let mut shown = vec!["CPUID has SGX".to_owned()];
    if let Ok(value) = seen.host.msr(FEATURE_CONTROL) {
        let (locked, on) = (bit(value, 0), bit(value, 18));
        shown.push(format!("IA32_FEATURE_CONTROL {value:#x}: SGX {on}, locked {locked}"));
        if !(locked && on) {
            return fail(shown.join("; "), fix);
        }
    }
    if let Ok(value) = seen.host.msr(SGX_MCHECK_STATUS) {
        shown.push(format!("MCHECK status {value:#x}"));
        if value != 0 {
            let fix = "MCHECK refused the memory configuration: fill the memory slots evenly as the board's manual says, update the BIOS";
            return fail(shown.join("; "), fix);
        }
    }
    for device in ["/dev/sgx_enclave", "/dev/sgx_provision"] {
        match seen.host.kind(device) {
            Ok(kind) if kind == "char" => shown.push(device.into()),
            Ok(kind) => return fail(format!("{device} is a {kind}"), "remove it and reboot"),
            Err(Miss::Absent) => {
                return fail(
                    format!("{}; no {device}", shown.join("; ")),
                    "use a kernel with CONFIG_X86_SGX; see `dmesg | grep sgx`",
                );
            }
            Err(miss) => return unseen(device, &miss, "run this command as root"),
        }
    }
    pass(shown.join("; "))
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn a_range_of_keys_is_read_and_anything_else_is_not() {
        assert_eq!(range("virt/tdx: BIOS enabled: private KeyID range [64, 128)"), Some((64, 128)));
        for bad in ["", "[", "[1)", "[a, b)", "[1, 99999999999999999999999)", ")["] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }
}
