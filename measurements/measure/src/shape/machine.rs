//! What QEMU is told about each machine beyond a shape: machine options, CPU, globals, addresses of the root bus.
//!
//! The launcher makes its arguments from these constants and the ACPI generator makes its tables from the same facts.

/// QEMU machine of the emulated platform, versioned because unversioned names change meaning with each release.
pub const EMULATED_MACHINE: &str =
    "pc-q35-10.0,smm=off,hpet=off,pic=off,vmport=off,smbus=off,sata=off,usb=off,i8042=off";
/// CPU of the emulated platform. The address width decides where the firmware puts the 64-bit PCI window.
pub const EMULATED_CPU: &str = "max,la57=off,phys-bits=40";
/// TPM device of the emulated platform, without its back end.
pub const EMULATED_TPM: &str = "tpm-crb,ppi=off";

/// QEMU machine of a trust domain: 10.1 is the first upstream release that can start one, and its machine type is in
/// every later one. The launcher appends `confidential-guest-support=` and `memory-backend=`. SMM and the PIC are off because
/// TDX has neither; the rest because each device would add ACPI code.
pub const TDX_MACHINE: &str = "pc-q35-10.1,kernel_irqchip=split,smm=off,pic=off,hpet=off,vmport=off,smbus=off,sata=off,usb=off,i8042=off";
/// CPU of a trust domain. Its address width is the host's: QEMU refuses any other (10.2, `target/i386/kvm/tdx.c`).
pub const TDX_CPU: &str = "host";
/// Bytes of the 64-bit PCI window in the DSDT: all that the firmware's window has with 46 address bits, so that no set
/// of BARs that fits the firmware's window can widen it.
pub const TDX_PCI_HOLE64: u64 = 8 << 40;
/// `-global` setting that fixes the size of the 64-bit PCI window of a trust domain to [`TDX_PCI_HOLE64`].
pub const TDX_GLOBALS: [&str; 1] = ["q35-pcihost.pci-hole64-size=8T"];
/// Root port of an accelerator, without chassis, slot number and address: no hotplug, for which the firmware would set
/// address space aside.
pub const ROOT_PORT: &str = "pcie-root-port,hotplug=off";

/// `-global` settings of both platforms: no ACPI PCI hotplug, no S3, no S4.
pub const GLOBALS: [&str; 3] =
    ["ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off", "ICH9-LPC.disable_s3=1", "ICH9-LPC.disable_s4=1"];
/// MAC address of the first network card; further ones count up in the last byte.
pub const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x43, 0x48, 0x52];

/// PCI slots of the root bus, function 0 each.
pub mod slot {
    /// virtio-serial, which carries the progress port.
    pub const SERIAL: u8 = 0x02;
    /// First virtio-net.
    pub const NET: u8 = 0x03;
    /// virtio-rng.
    pub const RNG: u8 = 0x04;
    /// Root disk.
    pub const ROOT_DISK: u8 = 0x05;
    /// Handoff disk.
    pub const HANDOFF_DISK: u8 = 0x06;
    /// Simulated platform's disk (emulated platform).
    pub const SIMULATOR_DISK: u8 = 0x07;
    /// vsock (trust domain).
    pub const VSOCK: u8 = 0x07;
    /// First model disk.
    pub const MODEL_DISKS: u8 = 0x08;
    /// Root port of the first GPU.
    pub const GPU_PORTS: u8 = 0x10;
    /// Root port of the first NVSwitch.
    pub const NVSWITCH_PORTS: u8 = 0x18;
    /// Second network card.
    pub const MORE_NETS: u8 = 0x1c;
    /// The chipset's LPC bridge.
    pub const LPC: u8 = 0x1f;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_has_the_size_that_qemu_is_told() {
        assert_eq!(TDX_GLOBALS, [format!("q35-pcihost.pci-hole64-size={}T", TDX_PCI_HOLE64 >> 40)]);
    }
}
