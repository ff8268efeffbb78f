//! The tables beside the DSDT, and how all are laid out in one blob (QEMU `acpi_build`).

use super::linker::{RSDP, Script, TABLES, TPM_LOG, Zone};
use super::{AcpiBlobs, Machine, cpus, dsdt};
use crate::shape::QemuVersion;

/// QEMU pads the blob to this.
const BLOB_ALIGN: usize = 0x2_0000;
const TPM_LOG_SIZE: u32 = 0x1_0000;
const TPM_CONTROL_AREA: u64 = 0xfed4_0040;
const TPM_START_METHOD_CRB: u32 = 7;
/// ICH9 power management ports, where OVMF puts them.
pub(super) const PM_BASE: u32 = 0x600;
const SCI: u16 = 9;
const RESET_PORT: u64 = 0xcf9;
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
/// Interrupts that PCI links may use: level-triggered, active-high in the MADT.
const PCI_INTERRUPTS: [u8; 4] = [5, 9, 10, 11];

struct Builder {
    blob: Vec<u8>,
    script: Script,
    /// Offsets of the tables that the RSDT lists.
    listed: Vec<u32>,
}

impl Builder {
    fn here(&self) -> u32 {
        self.blob.len() as u32
    }

    fn put(&mut self, bytes: &[u8]) {
        self.blob.extend_from_slice(bytes);
    }

    /// Puts an offset into the blob, to which the firmware adds the blob's address.
    fn pointer(&mut self, size: u8, target: &str, offset: u32) {
        self.script.pointer(TABLES, self.here(), size, target);
        let bytes = u64::from(offset).to_le_bytes();
        self.put(&bytes[..usize::from(size)]);
    }

    /// A table with its header (ACPI 6.5, 5.2.6); length is filled in, the checksum is left to the firmware.
    fn table(&mut self, signature: &[u8; 4], revision: u8, body: impl FnOnce(&mut Self)) -> u32 {
        let start = self.blob.len();
        self.put(signature);
        self.put(&[0, 0, 0, 0, revision, 0]);
        self.put(b"BOCHS BXPC    ");
        self.put(&1u32.to_le_bytes());
        self.put(b"BXPC");
        self.put(&1u32.to_le_bytes());
        body(self);
        let length = (self.blob.len() - start) as u32;
        self.blob[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
        self.script.checksum(TABLES, start as u32 + 9, start as u32, length);
        start as u32
    }

    fn listed_table(&mut self, signature: &[u8; 4], revision: u8, body: impl FnOnce(&mut Self)) {
        let at = self.table(signature, revision, body);
        self.listed.push(at);
    }
}

pub(super) fn generate(machine: &Machine) -> AcpiBlobs {
    let mut b = Builder { blob: Vec::new(), script: Script::default(), listed: Vec::new() };
    b.script.allocate(TABLES, 64, Zone::High);
    let facs = b.here();
    b.put(b"FACS");
    b.put(&64u32.to_le_bytes());
    b.put(&[0; 56]);
    let aml = dsdt::dsdt(machine);
    let dsdt = b.table(b"DSDT", 1, |b| b.put(&aml));
    b.listed_table(b"FACP", 3, |b| fadt(b, facs, dsdt, machine));
    b.listed_table(b"APIC", 3, |b| madt(b, machine));
    if machine.chipset.hpet {
        b.listed_table(b"HPET", 1, hpet);
    }
    if machine.chipset.tpm {
        b.listed_table(b"TPM2", 4, tpm2);
    }
    b.listed_table(b"MCFG", 1, mcfg);
    // WAET: reading the PM timer once is enough.
    b.listed_table(b"WAET", 1, |b| b.put(&2u32.to_le_bytes()));
    let listed = b.listed.clone();
    let rsdt = b.table(b"RSDT", 1, |b| listed.iter().for_each(|offset| b.pointer(4, TABLES, *offset)));
    let rsdp = root_pointer(&mut b.script, rsdt);
    let mut tables = b.blob;
    tables.resize(tables.len().next_multiple_of(BLOB_ALIGN), 0);
    let tpm_log = machine.chipset.tpm.then(|| vec![0; TPM_LOG_SIZE as usize]);
    AcpiBlobs { loader: b.script.finish(), rsdp, tpm_log, tables }
}

/// ACPI 1.0 root pointer (5.2.5.3).
pub(super) fn root_pointer(script: &mut Script, rsdt: u32) -> Vec<u8> {
    script.allocate(RSDP, 16, Zone::Fseg);
    script.pointer(RSDP, 16, 4, TABLES);
    script.checksum(RSDP, 8, 0, 20);
    [&b"RSD PTR \0BOCHS \0"[..], &rsdt.to_le_bytes()].concat()
}

/// Generic address in I/O space (5.2.3.2); zero width and port is the absent register, in memory space.
fn generic_address(port: u64, width: u8) -> Vec<u8> {
    let space = u8::from(width != 0);
    [&[space, width, 0, 0][..], &port.to_le_bytes()].concat()
}

/// FADT (5.2.9), revision 3.
fn fadt(b: &mut Builder, facs: u32, dsdt: u32, machine: &Machine) {
    let pm = |offset: u32| (PM_BASE + offset).to_le_bytes();
    b.pointer(4, TABLES, facs);
    b.pointer(4, TABLES, dsdt);
    b.put(&[1, 0]);
    b.put(&SCI.to_le_bytes());
    // Port and commands that switch ACPI on and off.
    b.put(if machine.chipset.smm { &[0xb2, 0, 0, 0, 2, 3, 0, 0] } else { &[0; 8] });
    for block in [pm(0), [0; 4], pm(4), [0; 4], [0; 4], pm(8), pm(0x20), [0; 4]] {
        b.put(&block);
    }
    // Lengths of PM1 event, PM1 control, PM2, timer, GPE0, GPE1; GPE1 base; C-state control.
    b.put(&[4, 2, 0, 4, 16, 0, 0, 0]);
    // C2 and C3 latencies that say "not supported", cache flush, duty cycle, alarms, CMOS century byte.
    b.put(&[0xff, 0x0f, 0xff, 0x0f, 0, 0, 0, 0, 0, 0, 0, 0, 0x32]);
    // Boot architecture flags: bit 1 says 8042.
    b.put(&[if machine.chipset.i8042 { 2 } else { 0 }, 0, 0]);
    b.put(&fadt_flags(machine.vcpus).to_le_bytes());
    b.put(&generic_address(RESET_PORT, 8));
    b.put(&[0x0f, 0, 0, 0]);
    b.put(&[0; 8]);
    b.pointer(8, TABLES, dsdt);
    let base = u64::from(PM_BASE);
    for (port, width) in
        [(base, 32), (0, 0), (base + 4, 16), (0, 0), (0, 0), (base + 8, 32), (base + 0x20, 128), (0, 0)]
    {
        b.put(&generic_address(port, width));
    }
}

/// Table 5.10: WBINVD, PROC_C1, SLP_BUTTON, RTC_S4, RESET_REG_SUP, USE_PLATFORM_CLOCK; above eight CPUs also
/// FORCE_APIC_CLUSTER_MODEL, because flat logical mode addresses eight.
fn fadt_flags(vcpus: u32) -> u32 {
    let base = [0, 2, 5, 7, 10, 15].iter().fold(0, |flags, bit| flags | 1 << bit);
    if vcpus > 8 { base | 1 << 18 } else { base }
}

/// MADT (5.2.12). PCAT_COMPAT says that there are 8259s; 8.2 always says so.
fn madt(b: &mut Builder, machine: &Machine) {
    let vcpus = machine.vcpus;
    let has_8259 = machine.chipset.pic || machine.qemu == QemuVersion::V8_2;
    b.put(&LOCAL_APIC.to_le_bytes());
    b.put(&u32::from(has_8259).to_le_bytes());
    for cpu in 0..vcpus {
        b.put(&cpus::madt_entry(cpu));
    }
    b.put(&[1, 12, 0, 0]);
    b.put(&IO_APIC.to_le_bytes());
    b.put(&[0; 4]);
    // The timer is wired to pin 2.
    b.put(&[2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    for irq in PCI_INTERRUPTS {
        b.put(&[2, 10, 0, irq, irq, 0, 0, 0, 0x0d, 0]);
    }
    if cpus::needs_x2apic(vcpus) {
        b.put(&[10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    } else {
        b.put(&[4, 6, 0xff, 0, 0, 1]);
    }
}

/// HPET (IA-PC HPET 1.0a, 3.2.4): Intel's, three comparators, in memory space.
fn hpet(b: &mut Builder) {
    b.put(&0x8086_a201u32.to_le_bytes());
    b.put(&[0; 4]);
    b.put(&u64::from(dsdt::HPET).to_le_bytes());
    b.put(&[0; 4]);
}

/// TPM2 (TCG ACPI Specification 1.4, table 7), client class, command response buffer.
fn tpm2(b: &mut Builder) {
    b.put(&[0; 4]);
    b.put(&TPM_CONTROL_AREA.to_le_bytes());
    b.put(&TPM_START_METHOD_CRB.to_le_bytes());
    b.put(&[0; 12]);
    b.put(&TPM_LOG_SIZE.to_le_bytes());
    b.script.allocate(TPM_LOG, 1, Zone::High);
    b.pointer(8, TPM_LOG, 0);
}

/// MCFG (PCI Firmware 3.3, 4.1.2): one segment, 256 buses.
fn mcfg(b: &mut Builder) {
    b.put(&[0; 8]);
    b.put(&u64::from(dsdt::MMCONFIG.0).to_le_bytes());
    b.put(&[0, 0, 0, 0xff, 0, 0, 0, 0]);
}
