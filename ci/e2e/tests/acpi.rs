//! The ACPI generator against the real QEMU: each machine is started with the real firmware, which places the PCI devices;
//! then the three files that it downloaded, and measured in a trust domain, are read and compared byte for byte.
//!
//! ```text
//! QEMU (software emulation) --first byte on the serial port--> tables are final --qtest socket, fw_cfg DMA--> compare
//! ```
//! The firmware opens its console only after it has installed the tables, and QEMU makes them once, when they are first
//! read: so whatever is read after the first byte is what the firmware saw.
//!
//! The machine is the launcher's trust domain, less what software emulation can't have: the CPU is an emulated Intel one with
//! 46 address bits; GPUs and NVSwitches are `pci-testdev` with BARs as large, which need no memory; vsock, which needs the host's
//! vhost device, is another virtio device. The tables know all three by their address and BARs alone.
//!
//! `CHRYSALIS_ACPI_WIDE=1` takes a wider set of machines (up to 512 vCPUs: minutes). `CHRYSALIS_ACPI_QEMU` names
//! another QEMU; its version decides which tables are expected.

use anyhow::{Context, Result, bail, ensure};
use measure::acpi::{self, AcpiBlobs, Machine};
use measure::shape::{self, Gpu, Occupant, QemuVersion};
use measure::{Platform, Shape};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// TDVF image of Debian's ovmf package, in the tools root.
const FIRMWARE: &str = "/usr/share/ovmf/OVMF.fd";
const CPU: &str = "Skylake-Server,phys-bits=46";
/// With hundreds of CPUs, the firmware wakes them one by one.
const DEADLINE: Duration = Duration::from_secs(480);
/// Registers of an NVSwitch.
const NVSWITCH_BAR: u64 = 32 << 20;

fn with(mut shape: Shape, change: impl FnOnce(&mut Shape)) -> Shape {
    change(&mut shape);
    shape
}

/// Shapes by name.
fn shapes(wide: bool) -> Vec<(&'static str, Shape)> {
    let gpus = |vcpus, memory_mib, gpus, gpu, nvswitches| {
        with(Shape::new(vcpus, memory_mib), |s| (s.gpus, s.gpu, s.nvswitches) = (gpus, Some(gpu), nvswitches))
    };
    let full = gpus(64, 6 << 20, 8, Gpu::B300, 4);
    let mut shapes = vec![
        ("smallest", with(Shape::new(1, 1024), |s| (s.model_disks, s.vsock) = (0, false))),
        ("one H100, odd memory", gpus(2, 2815, 1, Gpu::H100, 0)),
        ("two H200, one switch", gpus(9, 4096, 2, Gpu::H200, 1)),
        ("full house", with(full, |s| (s.nics, s.model_disks) = (4, 8))),
    ];
    if wide {
        shapes.extend([
            ("eight H100", gpus(4, 512 << 10, 8, Gpu::H100, 4)),
            ("eight B200", gpus(8, 2 << 20, 8, Gpu::B200, 4)),
            ("memory at the split", gpus(3, 2816, 1, Gpu::B200, 0)),
            ("last xAPIC identifier", Shape::new(255, 4096)),
            ("first x2APIC identifier", Shape::new(256, 3000)),
            ("288 vCPUs", gpus(288, 16 << 10, 2, Gpu::H100, 0)),
            ("512 vCPUs", gpus(512, 1 << 20, 8, Gpu::H200, 4)),
        ]);
    }
    shapes
}

#[test]
fn generated_tables_equal_those_of_the_real_qemu() {
    let qemu = std::env::var("CHRYSALIS_ACPI_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".into());
    let wide = std::env::var_os("CHRYSALIS_ACPI_WIDE").is_some();
    let version = version(&qemu).unwrap();
    let mut wrong = Vec::new();
    for (name, shape) in shapes(wide) {
        let shape = with(shape, |s| s.qemu = version);
        shape.check(Platform::Tdx).unwrap();
        let began = Instant::now();
        let real = blobs_of_qemu(&qemu, &shape).with_context(|| name).unwrap();
        let ours = acpi::generate(&Machine::tdx(&shape));
        eprintln!("    QEMU {version}, {name}: {:.1} s", began.elapsed().as_secs_f32());
        wrong.extend(difference(&ours, &real).map(|what| format!("{name}: {what}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn difference(ours: &AcpiBlobs, real: &AcpiBlobs) -> Option<String> {
    let files = [
        ("tables", &ours.tables, &real.tables),
        ("loader", &ours.loader, &real.loader),
        ("rsdp", &ours.rsdp, &real.rsdp),
    ];
    files.into_iter().find(|(_, ours, real)| ours != real).map(|(file, ours, real)| {
        let at = ours.iter().zip(real).position(|(a, b)| a != b);
        format!("{file} differ at {at:?}, {} bytes generated, {} in QEMU", ours.len(), real.len())
    })
}

/// Release of a QEMU, as far as tables tell releases apart.
fn version(qemu: &str) -> Result<QemuVersion> {
    let output = Command::new(qemu).arg("--version").output().with_context(|| qemu.to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text.split_whitespace().skip_while(|word| *word != "version").nth(1).unwrap_or_default();
    let known = QemuVersion::ALL.into_iter().find(|v| number.starts_with(&format!("{v}.")));
    known.with_context(|| format!("{qemu} says {text:?}: no tables are known of that release"))
}

/// Arguments of the trust domain's machine, from the constants that the launcher uses.
fn arguments(shape: &Shape) -> Vec<String> {
    let (_, options) = shape::TDX_MACHINE.split_once(',').unwrap_or_default();
    // The emulator of the tools root is older than the machine type.
    let version = shape.qemu.min(QemuVersion::V10_1);
    let (vcpus, memory) = (shape.vcpus, shape.memory_mib);
    let mut args = vec![
        "-machine".into(),
        format!("pc-q35-{version},{options},memory-backend=ram"),
        "-object".into(),
        format!("memory-backend-ram,id=ram,size={memory}M,reserve=off"),
        "-m".into(),
        format!("{memory}M"),
        "-smp".into(),
        format!("cpus={vcpus},sockets=1,cores={vcpus},threads=1,maxcpus={vcpus}"),
        "-cpu".into(),
        CPU.into(),
    ];
    for global in shape::GLOBALS.iter().chain(&shape::TDX_GLOBALS) {
        args.extend(["-global".into(), (*global).to_owned()]);
    }
    for (slot, occupant) in shape.root_bus(Platform::Tdx) {
        args.extend(device(shape, slot, occupant));
    }
    args
}

/// Arguments of one occupant of the root bus.
fn device(shape: &Shape, slot: u8, occupant: Occupant) -> Vec<String> {
    let at = format!("bus=pcie.0,addr=0x{slot:02x}");
    let behind = |bar: u64| {
        let port = format!("{},id=port{slot},chassis={slot},slot={slot},{at}", shape::ROOT_PORT);
        let device = format!("pci-testdev,membar={bar},bus=port{slot}");
        ["-device", &port, "-device", &device].map(str::to_owned).to_vec()
    };
    let plain = |driver: &str| vec!["-device".to_owned(), format!("{driver},disable-legacy=on,{at}")];
    match occupant {
        Occupant::Chipset => Vec::new(),
        Occupant::Serial => plain("virtio-serial-pci"),
        Occupant::Nic(_) => plain("virtio-net-pci,romfile="),
        Occupant::Rng | Occupant::Vsock => plain("virtio-rng-pci"),
        Occupant::RootDisk | Occupant::HandoffDisk | Occupant::SimulatorDisk | Occupant::ModelDisk(_) => {
            let disk = format!("driver=null-co,node-name=disk{slot},size=1048576,read-zeroes=on");
            let mut args = vec!["-blockdev".to_owned(), disk];
            args.extend(plain(&format!("virtio-blk-pci,drive=disk{slot}")));
            args
        }
        // The largest BAR alone decides how much room a port gets.
        Occupant::GpuPort(_) => behind(shape.gpu.map_or(NVSWITCH_BAR, |gpu| gpu.bars()[1])),
        Occupant::NvSwitchPort(_) => behind(NVSWITCH_BAR),
    }
}

/// A QEMU that runs, and the socket on which it takes test commands.
struct Emulator {
    process: Child,
    qtest: BufReader<UnixStream>,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn blobs_of_qemu(qemu: &str, shape: &Shape) -> Result<AcpiBlobs> {
    let scratch = tempfile::tempdir()?;
    let mut emulator = Emulator::start(qemu, shape, scratch.path())?;
    emulator.wait_for_console(&scratch.path().join("serial"))?;
    let directory = emulator.directory()?;
    let mut file = |name: &str| {
        let (size, key) = *directory.get(name).with_context(|| format!("fw_cfg has no {name}"))?;
        emulator.fw_cfg(key, size)
    };
    Ok(AcpiBlobs {
        loader: file("etc/table-loader")?,
        rsdp: file("etc/acpi/rsdp")?,
        tpm_log: None,
        tables: file("etc/acpi/tables")?,
    })
}

/// Guest memory that the firmware leaves free: a DMA descriptor, and what is read.
const DESCRIPTOR: u64 = 0x1f_f000;
const BUFFER: u64 = 0x20_0000;

impl Emulator {
    fn start(qemu: &str, shape: &Shape, scratch: &Path) -> Result<Self> {
        let stderr = scratch.join("stderr");
        let socket = scratch.join("qtest");
        let mut process = Command::new(qemu)
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-accel", "tcg,thread=multi", "-bios", FIRMWARE, "-qtest-log", "none"])
            .arg("-qtest")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .arg("-chardev")
            .arg(format!("file,id=console,path={}", scratch.join("serial").display()))
            .args(["-serial", "chardev:console"])
            .args(arguments(shape))
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&stderr)?)
            .spawn()
            .with_context(|| qemu.to_owned())?;
        let began = Instant::now();
        loop {
            if let Ok(qtest) = UnixStream::connect(&socket) {
                return Ok(Emulator { process, qtest: BufReader::new(qtest) });
            }
            let ended = process.try_wait()?;
            if ended.is_some() || began.elapsed() > DEADLINE {
                let _ = process.kill();
                bail!("QEMU didn't start ({ended:?}): {}", std::fs::read_to_string(&stderr)?);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_for_console(&mut self, serial: &Path) -> Result<()> {
        let began = Instant::now();
        while std::fs::metadata(serial).map_or(0, |m| m.len()) == 0 {
            if let Some(status) = self.process.try_wait()? {
                bail!("QEMU ended before the firmware opened its console: {status}");
            }
            ensure!(began.elapsed() < DEADLINE, "no console after {DEADLINE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// One command of QEMU's test protocol; what follows its OK.
    fn command(&mut self, command: &str) -> Result<String> {
        self.qtest.get_mut().write_all(format!("{command}\n").as_bytes())?;
        loop {
            let mut line = String::new();
            ensure!(self.qtest.read_line(&mut line)? > 0, "QEMU closed its test socket");
            // Interrupts are reported between answers.
            if line.starts_with("IRQ") {
                continue;
            }
            let answer = line.trim().strip_prefix("OK").with_context(|| format!("{command}: {line}"))?;
            return Ok(answer.trim().to_owned());
        }
    }

    /// Reads a fw_cfg item by DMA (QEMU docs/specs/fw_cfg): select and read in one descriptor.
    fn fw_cfg(&mut self, key: u16, size: u32) -> Result<Vec<u8>> {
        let control = u32::from(key) << 16 | 0x08 | 0x02;
        let descriptor = [&control.to_be_bytes()[..], &size.to_be_bytes(), &BUFFER.to_be_bytes()].concat();
        self.command(&format!("write {DESCRIPTOR:#x} {} 0x{}", descriptor.len(), hex::encode(&descriptor)))?;
        self.command("outl 0x514 0")?;
        self.command(&format!("outl 0x518 {:#x}", (DESCRIPTOR as u32).swap_bytes()))?;
        let text = self.command(&format!("read {BUFFER:#x} {size:#x}"))?;
        hex::decode(text.trim_start_matches("0x")).context("what QEMU read")
    }

    /// Files of fw_cfg: size and key by name.
    fn directory(&mut self) -> Result<HashMap<String, (u32, u16)>> {
        const DIRECTORY: u16 = 0x19;
        let count = u32::from_be_bytes(self.fw_cfg(DIRECTORY, 4)?.try_into().unwrap_or_default());
        let bytes = self.fw_cfg(DIRECTORY, 4 + 64 * count)?;
        let entries = bytes[4..].as_chunks::<64>().0.iter().map(|entry| {
            let size = u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]]);
            let key = u16::from_be_bytes([entry[4], entry[5]]);
            let name = entry[8..].split(|byte| *byte == 0).next().unwrap_or_default();
            (String::from_utf8_lossy(name).into_owned(), (size, key))
        });
        Ok(entries.collect())
    }
}
