//! QEMU and the firmware.
//!
//! TDX came into QEMU with 10.1 (its change log, "x86: Support for TDX"); vendors' trees of 8.x with TDX say so in their version.

use super::{Finding, Seen, fail, pass, unseen};
use crate::host::{Miss, Program, Question};

/// Where distributions put OVMF with TDX metadata; the first that is there counts.
pub(super) const FIRMWARE: &[&str] = &[
    "/usr/share/ovmf/OVMF.inteltdx.fd",
    "/usr/share/OVMF/OVMF.inteltdx.fd",
    "/usr/share/edk2/ovmf/OVMF.inteltdx.fd",
    "/usr/share/ovmf/OVMF.fd",
    "/usr/share/qemu/OVMF.fd",
];
const FIX: &str = "install QEMU 10.1 or later (Debian: qemu-system-x86 from backports)";

/// `QEMU emulator version 10.1.0 (Debian ...)`.
fn parse(text: &str) -> Option<(u32, u32)> {
    let (_, rest) = text.split_once("version ")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

pub(super) fn version(seen: &Seen<'_>) -> Finding {
    let text = match seen.host.ask(&Question::Run(Program::QemuVersion)) {
        Ok(text) => text,
        Err(Miss::Absent) => return fail("no qemu-system-x86_64", FIX),
        Err(miss) => return unseen("qemu-system-x86_64 --version", &miss, "run it by hand"),
    };
    let line = text.lines().next().unwrap_or_default().trim();
    match parse(line) {
        Some(version) if version >= (10, 1) || line.contains("tdx") => pass(line),
        Some(_) => fail(format!("{line}: TDX came with 10.1"), FIX),
        None => {
            unseen("qemu-system-x86_64 --version", &Miss::Failed(format!("says `{line}`")), "run it by hand")
        }
    }
}

pub(super) fn objects(seen: &Seen<'_>) -> Finding {
    match seen.host.ask(&Question::Run(Program::QemuObjects)) {
        Ok(text) if text.lines().any(|line| line.trim() == "tdx-guest") => {
            pass("`-object help` names tdx-guest")
        }
        Ok(_) => fail(
            "`-object help` does not name tdx-guest",
            "this QEMU was built without TDX; install another build",
        ),
        Err(miss) => {
            unseen("qemu-system-x86_64 -object help", &miss, "run it by hand and look for tdx-guest")
        }
    }
}

pub(super) fn firmware(seen: &Seen<'_>) -> Finding {
    let fix = "install OVMF with TDX metadata (Debian: ovmf), or name one with `--firmware`";
    for path in &seen.options.firmware {
        match seen.host.ask(&Question::Tdvf(path.clone())) {
            Ok(shown) => return pass(format!("{path}: TDX metadata, {shown}")),
            Err(Miss::Absent) => (),
            Err(Miss::Failed(why)) => return fail(format!("{path}: {why}"), fix),
            Err(miss) => return unseen(path, &miss, fix),
        }
    }
    fail(format!("none of {}", seen.options.firmware.join(", ")), fix)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn versions_are_read_from_whatever_stands_around_them() {
        assert_eq!(parse("QEMU emulator version 10.0.4 (Debian 1:10.0.4+ds-0+deb13u1)"), Some((10, 0)));
        assert_eq!(parse("QEMU emulator version 8.0.4 (Debian 1:8.0.4+dfsg-1ubuntu3+tdx1.0)"), Some((8, 0)));
        for bad in ["", "version", "version x.y", "version 99999999999.1"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
