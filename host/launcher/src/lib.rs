//! Settings to Machine to QEMU argv; supervises the boot.
