//! The kernel: built with TDX, told to use it, not kept from it by hibernation, and the TDX module that it started.
//!
//! Words of the log: Linux `arch/x86/virt/vmx/tdx/tdx.c` (6.8 to 7.2) and what people posted in canonical/tdx issues 33, 83,
//! 260, 382, 385 and 425. The module's version in sysfs: Linux' `Documentation/ABI/testing/sysfs-devices-faux-tdx-host`.

use super::{Finding, Seen, fail, pass, unknown, unseen};
use crate::host::Miss;
use serde::Deserialize;

const CONFIG: &str = "CONFIG_KVM_INTEL_TDX";
const SWITCH: &str = "/sys/module/kvm_intel/parameters/tdx";
const VERSION: &str = "/sys/devices/faux/tdx_host/version";
const NEWER: &str =
    "use a kernel with CONFIG_KVM_INTEL_TDX=y (Linux 6.16 or later, or a vendor's kernel for TDX hosts)";

/// Whether KVM was built with TDX: its switch is there, or the kernel's configuration says so.
pub(super) fn built(seen: &Seen<'_>) -> Finding {
    let release = seen.host.file("/proc/sys/kernel/osrelease").unwrap_or_else(|_| "?".into());
    if seen.host.file(SWITCH).is_ok() {
        return pass(format!("Linux {release}: kvm_intel has the parameter tdx"));
    }
    let places = [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")];
    for place in &places {
        match (seen.host.line(place, CONFIG), seen.host.kind(place)) {
            (Ok(value), _) if value == "y" => {
                return match seen.host.kind("/dev/kvm") {
                    Ok(_) => pass(format!("Linux {release}: {CONFIG}=y")),
                    Err(_) => fail(
                        format!("Linux {release} has {CONFIG}=y, but there is no /dev/kvm"),
                        "run `modprobe kvm_intel`; turn virtualization (VMX) on in the BIOS",
                    ),
                };
            }
            (Err(Miss::Absent), Ok(_)) => {
                return fail(format!("Linux {release}: {place} has no {CONFIG}=y"), NEWER);
            }
            _ => (),
        }
    }
    let told = "/sys/module/kvm_intel";
    match seen.host.kind(told) {
        Ok(_) => fail(format!("Linux {release}: kvm_intel has no parameter tdx"), NEWER),
        Err(miss) => {
            unseen(&format!("Linux {release}: {told}"), &miss, "run `modprobe kvm_intel` and look again")
        }
    }
}

/// The TDX module survives no hibernation, so the kernel wants one of the two.
pub(super) fn hibernation(seen: &Seen<'_>) -> Finding {
    let fix = "add `nohibernate` to the kernel's command line and reboot";
    if let Ok(Some(line)) = seen.host.logged(&["Hibernation support is enabled"]) {
        return fail(format!("kernel log: {line}"), fix);
    }
    let cmdline = seen.host.file("/proc/cmdline").unwrap_or_default();
    if cmdline.split_whitespace().any(|word| word == "nohibernate") {
        return pass("the kernel's command line has nohibernate");
    }
    match seen.host.file("/sys/power/disk") {
        Ok(modes) if modes.contains("[disabled]") => pass(format!("/sys/power/disk: {modes}")),
        Ok(modes) => fail(format!("/sys/power/disk: {modes}; no nohibernate"), fix),
        Err(Miss::Absent) => pass("this kernel has no hibernation (/sys/power/disk is not there)"),
        Err(miss) => unseen("/sys/power/disk", &miss, fix),
    }
}

pub(super) fn switched_on(seen: &Seen<'_>) -> Finding {
    let fix = "add `kvm_intel.tdx=1` to the kernel's command line and reboot";
    match seen.host.file(SWITCH) {
        Ok(value) if value == "Y" || value == "1" => pass(format!("kvm_intel.tdx is {value}")),
        Ok(value) => {
            let why =
                seen.host.logged(&["required for TDX", "no TDX private KeyIDs", "Failed to initialize TDX"]);
            let why = why.ok().flatten().map_or(String::new(), |line| format!("; kernel log: {line}"));
            fail(format!("kvm_intel.tdx is {value}{why}"), fix)
        }
        Err(miss) => unseen(SWITCH, &miss, fix),
    }
}

/// Lines that end the start of the module, and what to do.
const TROUBLES: &[(&str, &str)] = &[
    (
        "module not loaded",
        "the BIOS loaded no TDX module: SEAM Loader on, newest BIOS; else the vendor has to add it",
    ),
    ("too few private KeyIDs", "in the BIOS: raise the TME-MT/TDX key split"),
    ("no private KeyID", "in the BIOS: TDX on"),
    ("not enabled by BIOS", "in the BIOS: TDX on, TDX SEAM Loader on, TME-MT on"),
    ("Hibernation support is enabled", "add `nohibernate` to the kernel's command line and reboot"),
    (
        "initialization failed",
        "look at the lines of `dmesg | grep tdx` before it: a SEAMCALL's error code says which call; update BIOS and TDX module",
    ),
    (
        "Failed to initialize TDX",
        "look at the lines of `dmesg | grep tdx` before it; update BIOS and TDX module",
    ),
];

pub(super) fn module(seen: &Seen<'_>) -> Finding {
    let version = seen.host.file(VERSION).ok().map(|v| format!(", version {v}")).unwrap_or_default();
    let words: Vec<&str> =
        TROUBLES.iter().map(|(words, _)| *words).chain(["tdx: module initialized"]).collect();
    let line = match seen.host.logged(&words) {
        Ok(line) => line,
        Err(_) if !version.is_empty() => return pass(format!("{VERSION} is there{version}")),
        Err(miss) => return unseen("the kernel's log", &miss, "run this command as root"),
    };
    match line {
        Some(line) if line.contains("module initialized") => {
            let about = seen.host.logged(&["TDX module: attributes"]).ok().flatten();
            let about = about.map_or(String::new(), |line| format!("; {line}"));
            pass(format!("kernel log: {line}{about}{version}"))
        }
        Some(line) => {
            let known = TROUBLES.iter().find(|(words, _)| line.contains(words));
            fail(format!("kernel log: {line}"), known.map_or("see `dmesg | grep tdx`", |(_, fix)| fix))
        }
        None if !version.is_empty() => pass(format!("{VERSION} is there{version}")),
        None => unknown(
            "the kernel's log says nothing of a module (KVM starts it when it is loaded; an old log may be gone)",
            "run `modprobe -r kvm_intel && modprobe kvm_intel tdx=1` with no guest running, then `dmesg | grep tdx`",
        ),
    }
}

#[derive(Deserialize)]
struct TcbInfo {
    #[serde(rename = "tdxModuleIdentities", default)]
    modules: Vec<Identity>,
}

#[derive(Deserialize)]
struct Identity {
    id: String,
    #[serde(rename = "tcbLevels", default)]
    levels: Vec<Level>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Level {
    tcb: Tcb,
    tcb_date: String,
    tcb_status: String,
}

#[derive(Deserialize)]
struct Tcb {
    isvsvn: u32,
}

/// The module's version against a TCB info. The kernel says `major.minor.update`; the update is taken for the ISVSVN of the
/// identity `TDX_01` (module 1.5), which the quote alone proves.
pub(super) fn module_tcb(seen: &Seen<'_>) -> Finding {
    let version = match seen.host.file(VERSION) {
        Ok(version) => version,
        Err(miss) => {
            let fix = "verify a quote of a guest: its verdict names the TCB level; kernels from 7.0 on say the version in sysfs";
            return unseen(VERSION, &miss, fix);
        }
    };
    let Some(text) = &seen.options.tcb_info else {
        let fix = "give `--tcb-info FILE` (Intel's TCB info of this platform), or verify a quote of a guest";
        return unknown(format!("version {version}, held against nothing"), fix);
    };
    let numbers: Option<Vec<u32>> = version.split('.').take(3).map(|word| word.parse().ok()).collect();
    let Some(&[1, minor, update]) = numbers.as_deref() else {
        return unknown(
            format!("version `{version}` is not of the form 1.MINOR.UPDATE"),
            "verify a quote of a guest",
        );
    };
    let id = if minor == 0 { "TDX_00" } else { "TDX_01" };
    let info: Result<TcbInfo, _> = serde_json::from_str(text);
    let info = match info {
        Ok(info) => info,
        Err(e) => {
            return unknown(
                format!("the TCB info can't be read: {e}"),
                "give Intel's JSON, the part `tcbInfo`",
            );
        }
    };
    let mut levels: Vec<&Level> =
        info.modules.iter().filter(|m| m.id == id).flat_map(|m| &m.levels).collect();
    levels.sort_by_key(|level| std::cmp::Reverse(level.tcb.isvsvn));
    let fix = "update the BIOS, or let the boot loader place a newer TDX module";
    match levels.iter().find(|level| level.tcb.isvsvn <= update) {
        Some(level) => {
            let shown = format!(
                "version {version}: {} since {} ({id}, SVN {})",
                level.tcb_status, level.tcb_date, level.tcb.isvsvn
            );
            if level.tcb_status == "UpToDate" { pass(shown) } else { fail(shown, fix) }
        }
        None => fail(format!("version {version} is older than every level of {id}"), fix),
    }
}
