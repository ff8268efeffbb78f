//! A UKI, for tests and as a seed for fuzzing.

use crate::pe::samples::pe;

/// A UKI whose kernel is a small PE image.
pub fn uki(cmdline: &[u8]) -> Vec<u8> {
    let kernel = pe(&[(".text", b"kernel")], b"", b"");
    pe(
        &[
            (".text", b"stub"),
            (".sdmagic", b"#### LoaderInfo: systemd-stub 257.13 ####\0"),
            (".sbat", b"sbat,1"),
            (".osrel", b"ID=x\n"),
            (".cmdline", cmdline),
            (".initrd", b"initrd"),
            (".linux", &kernel),
        ],
        b"",
        b"",
    )
}
