//! Each way in which a machine departs from what was expected is named, from registers alone and with a log.

use super::*;
use crate::event::{Event, Prediction};
use crate::firmware::tdvf::Vmm;
use crate::predict::{Inputs, Linux, Payload, TdxOptions, predict_tdx};
use crate::register::Register;
use crate::samples;
use crate::shape::Boot;

/// 462CAA21-7614-4503-836E-8AB6F4662331, the boot manager's user interface.
const LINE: &str = "root=/dev/dm-0 loglevel=4 quiet";
/// Tables are slow to hash in tests that aren't optimised.
const BOUNDS: Bounds = Bounds { tables: 3000, candidates: 100_000 };

/// A TDX firmware that boots directly and has its separator in RTMR1. `salt` makes another build of it.
fn firmware(salt: u8) -> Vec<u8> {
    samples::tdx(Some(2), b" initrd=initrd", b"etc/boot/\0", &[salt])
}

/// A kernel with an EFI stub.
fn kernel() -> Vec<u8> {
    samples::kernel(0x20f, 3)
}

/// A machine that was really started.
#[derive(Clone)]
struct Machine {
    firmware: Vec<u8>,
    shape: Shape,
    boot: Boot,
    vmm: Vmm,
    separator: Register,
    uki: Vec<u8>,
    linux: Option<(Vec<u8>, Vec<u8>, String)>,
    disk: Vec<u8>,
}

impl Machine {
    fn expected() -> Self {
        Machine {
            firmware: firmware(0),
            shape: Shape::new(32, 65536),
            boot: Boot::Direct,
            vmm: Vmm::SinglePass,
            separator: Register::Rtmr1,
            uki: samples::uki(LINE.as_bytes()),
            linux: None,
            disk: samples::disk(),
        }
    }

    /// The same release as kernel, initrd and command line apart.
    fn classic() -> Self {
        let linux = (kernel(), b"070701 initrd".to_vec(), LINE.to_owned());
        Machine { linux: Some(linux), ..Machine::expected() }
    }

    fn boot(&self) -> Prediction {
        let payload = match &self.linux {
            Some((kernel, initrd, cmdline)) => {
                Payload::Linux(Linux { kernel, initrd: Some(initrd), cmdline })
            }
            None => Payload::Uki(&self.uki),
        };
        let inputs = Inputs {
            platform: Platform::Tdx,
            boot: self.boot,
            shape: &self.shape,
            firmware_code: &self.firmware,
            firmware_vars: &[],
            payload: Some(payload),
            disk_head: Some(&self.disk),
        };
        predict_tdx(
            &inputs,
            &TdxOptions { vmm: self.vmm, separator: Some(self.separator), ..TdxOptions::default() },
        )
        .unwrap()
    }

    fn evidence(&self, log: bool) -> Evidence {
        let prediction = self.boot();
        let registers = prediction.registers().unwrap();
        let records = prediction.events.iter().map(logged).collect();
        Evidence {
            registers: Register::ALL.map(|register| Some(registers.get(register))),
            log: log.then_some(Log { form: Form::Ccel, records }),
            claims: Claims::default(),
        }
    }
}

/// An event as firmware, stub and kernel log it.
fn logged(event: &crate::PredictedEvent) -> Record {
    let kept = event.hashed.bytes().unwrap_or_default();
    let utf16 = |text: &str| text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let tagged = |text: &[u8]| [&[0; 4][..], &(text.len() as u32).to_le_bytes(), text].concat();
    let variable = |name: &str| {
        let lengths = [name.len() as u64, kept.len() as u64].map(u64::to_le_bytes).concat();
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        [&[0; 16][..], &lengths, &name, kept].concat()
    };
    let data = match &event.event {
        Event::BootOrder => variable("BootOrder"),
        Event::BootOption { number, .. } => variable(&format!("Boot{number:04X}")),
        Event::SectionName(section) | Event::SectionData(section) => utf16(section.name()),
        Event::LoadOptions => tagged(b"LOADED_IMAGE::LoadOptions\0"),
        Event::Initrd => tagged(b"Linux initrd\0"),
        Event::Uki | Event::Kernel | Event::DirectKernel => vec![0; 32],
        Event::Acpi(_) => b"ACPI DATA".to_vec(),
        Event::TdHob => b"\x08TdxTable".to_vec(),
        _ => kept.to_vec(),
    };
    let digest = event.digests.as_ref().unwrap().sha384;
    Record {
        register: event.register,
        pcr: None,
        event_type: event.event.event_type(),
        digest,
        data,
        label: String::new(),
    }
}

/// Explains a machine against the release of the expected one, which lies beside an older release.
fn explained(machine: &Machine, log: bool) -> Explanation {
    let (expected, old, disk) = (Machine::expected(), firmware(7), samples::disk());
    let (kernel, initrd, old_initrd) = (kernel(), b"070701 initrd".to_vec(), b"070701 old initrd".to_vec());
    let old_uki = samples::uki(b"old");
    let mut files = vec![("1.1/OVMF.fd", old.as_slice()), ("1.2/OVMF.fd", &expected.firmware)];
    if machine.linux.is_some() {
        files.extend([
            ("1.1/vmlinuz", kernel.as_slice()),
            ("1.1/initrd", &old_initrd),
            ("1.1/cmdline", b"old\n"),
        ]);
        files.extend([
            ("1.2/vmlinuz", kernel.as_slice()),
            ("1.2/initrd", &initrd),
            ("1.2/cmdline", LINE.as_bytes()),
        ]);
    } else {
        files.extend([
            ("1.1/uki.efi", old_uki.as_slice()),
            ("1.2/uki.efi", &expected.uki),
            ("1.2/disk.raw", &disk),
        ]);
    }
    let files: Vec<_> = files.into_iter().map(|(path, bytes)| File { path, bytes }).collect();
    let against = Expected { shape: Some(expected.shape), ..Expected::default() };
    explain(&machine.evidence(log), &Artifacts::gather(&files, "release"), &against, BOUNDS)
}

fn verdicts(explanation: &Explanation) -> Vec<Verdict> {
    explanation.registers.iter().map(|r| r.verdict).collect()
}

fn changed(change: impl FnOnce(&mut Machine)) -> Machine {
    let mut machine = Machine::expected();
    change(&mut machine);
    machine
}

fn shaped(change: impl FnOnce(&mut Shape)) -> Machine {
    changed(|machine| change(&mut machine.shape))
}

#[test]
fn a_machine_as_expected_is_equal_with_and_without_a_log() {
    for log in [false, true] {
        for machine in [Machine::expected(), Machine::classic()] {
            let explanation = explained(&machine, log);
            assert_eq!(verdicts(&explanation), [Verdict::Equal; 5], "{}", explanation.table(false));
            assert_eq!(
                explanation.headline,
                "As expected: this is release 1.2 on 32 vCPUs, 64 GiB with QEMU 10.0 or 10.1 or 10.2"
            );
            assert!(explanation.equal);
        }
    }
}

/// Mutations that registers alone tell: machine, words of the one line, whether two dimensions departed.
fn told_by_registers() -> Vec<(Machine, &'static str)> {
    use crate::shape::QemuVersion;
    let mut classic_line = Machine::classic();
    classic_line.linux.as_mut().unwrap().2 = format!("{LINE} console=ttyS0");
    let mut classic_initrd = Machine::classic();
    classic_initrd.linux.as_mut().unwrap().1 = b"070701 old initrd".to_vec();
    vec![
        (shaped(|s| s.memory_mib = 32768), "32 GiB (expected 64 GiB)"),
        (shaped(|s| s.memory_mib = 65535), "65535 MiB (expected 64 GiB)"),
        (shaped(|s| s.vcpus = 31), "release 1.2 on 31 vCPUs (expected 32 vCPUs)"),
        (shaped(|s| s.gpus = 1), "1 GPU (expected 0 GPUs)"),
        (shaped(|s| s.model_disks = 2), "2 model disks (expected 1 model disk)"),
        (shaped(|s| s.nics = 2), "2 network cards (expected 1 network card)"),
        (shaped(|s| s.vsock = false), "no vsock (expected vsock)"),
        (shaped(|s| s.qemu = QemuVersion::V8_2), "QEMU 8.2 (expected QEMU 10.2)"),
        (
            shaped(|s| (s.vcpus, s.memory_mib) = (31, 32768)),
            "31 vCPUs (expected 32 vCPUs), 32 GiB (expected 64 GiB)",
        ),
        (shaped(|s| (s.gpus, s.nvswitches) = (8, 4)), "8 GPUs (expected 0 GPUs), 4 NVSwitches"),
        (
            shaped(|s| (s.vcpus, s.qemu) = (31, QemuVersion::V8_2)),
            "31 vCPUs (expected 32 vCPUs), 64 GiB with QEMU 8.2",
        ),
        (changed(|m| m.vmm = Vmm::TwoPass), "two-pass VMM (expected single-pass VMM)"),
        (
            changed(|m| m.separator = Register::Rtmr0),
            "last separator in rtmr0 (expected last separator in rtmr1)",
        ),
        (changed(|m| m.boot = Boot::Disk), "disk boot (expected direct boot)"),
        (classic_line, "command line with \"console=ttyS0\""),
        (classic_initrd, "initrd 1.1/initrd (expected its own initrd)"),
    ]
}

#[test]
fn what_departs_is_named_from_registers_alone() {
    for (machine, words) in told_by_registers() {
        let explanation = explained(&machine, false);
        assert!(
            explanation.headline.starts_with("Not as expected: this is release 1.2"),
            "{}",
            explanation.table(false)
        );
        assert!(explanation.headline.contains(words), "{words}: {}", explanation.table(false));
        assert!(!explanation.equal);
    }
}

#[test]
fn what_departs_is_named_with_a_log_too() {
    for (machine, words) in told_by_registers() {
        let explanation = explained(&machine, true);
        assert!(explanation.headline.contains(words), "{words}: {}", explanation.table(false));
        assert!(explanation.log.as_ref().unwrap().replays);
        let differences: usize = explanation.registers.iter().map(|r| r.differences().count()).sum();
        let only_mrtd = machine.vmm == Vmm::TwoPass;
        assert_eq!(differences == 0, only_mrtd, "{}", explanation.table(false));
    }
}

#[test]
fn many_shapes_foretold_at_once_are_as_foretold_one_by_one() {
    let one = Machine::expected();
    let shapes = [Shape::new(1, 1024), Shape::new(7, 2048), Shape::new(32, 65536)];
    let together = rtmr0_of(&one.boot(), &one.firmware, &shapes).unwrap();
    for (shape, value) in shapes.iter().zip(together) {
        let alone = changed(|m| m.shape = shape.clone()).boot();
        assert_eq!(alone.register(Register::Rtmr0), Some(value), "{shape:?}");
    }
}

#[test]
fn a_machine_of_the_emulated_platform_is_named() {
    use crate::predict::predict;
    let (code, store, uki) = (
        samples::firmware(&[crate::predict::boot_options::UI_APP]),
        samples::store(&[]),
        samples::uki(LINE.as_bytes()),
    );
    let files = [("code.fd", &code), ("vars.fd", &store), ("uki.efi", &uki)];
    let files = files.map(|(path, bytes)| File { path, bytes });
    let booted = |shape: &Shape| {
        let inputs = Inputs {
            platform: Platform::Emulated,
            boot: Boot::Direct,
            shape,
            firmware_code: &code,
            firmware_vars: &store,
            payload: Some(Payload::Uki(&uki)),
            disk_head: None,
        };
        let registers = predict(&inputs).unwrap().registers().unwrap();
        Evidence {
            registers: Register::ALL.map(|register| Some(registers.get(register))),
            ..Evidence::default()
        }
    };
    let shape = Shape::new(2, 2048);
    let expected = Expected { shape: Some(shape.clone()), ..Expected::default() };
    let artifacts = Artifacts::gather(&files, "1.2");
    let right = explain(&booted(&shape), &artifacts, &expected, BOUNDS);
    assert_eq!(
        right.headline,
        "As expected: this is release 1.2 on 2 vCPUs, 2 GiB",
        "{}",
        right.table(false)
    );
    let other = explain(&booted(&Shape::new(3, 2048)), &artifacts, &expected, BOUNDS);
    assert_eq!(other.headline, "Not as expected: this is release 1.2 on 3 vCPUs (expected 2 vCPUs), 2 GiB");
}

#[test]
fn another_release_is_named() {
    let old = changed(|m| (m.firmware, m.uki) = (firmware(7), samples::uki(b"old")));
    let explanation = explained(&old, false);
    assert_eq!(explanation.release.as_deref(), Some("1.1"));
    assert!(explanation.equal, "a known release on the expected shape");
}

#[test]
fn firmware_of_another_release_is_named_as_a_mixture() {
    let mixed = changed(|m| m.firmware = firmware(7));
    let explanation = explained(&mixed, false);
    assert!(!explanation.equal && explanation.release.is_none());
    assert!(explanation.headline.contains("mrtd of release 1.1"), "{}", explanation.table(false));
}

#[test]
fn unknown_firmware_leaves_mrtd_unexplained_and_the_rest_known() {
    let explanation = explained(&changed(|m| m.firmware = firmware(9)), false);
    assert_eq!(verdicts(&explanation)[..2], [Verdict::Unexplained, Verdict::Equal]);
    assert!(explanation.headline.contains("mrtd is unexplained"), "{}", explanation.headline);
}

#[test]
fn a_changed_section_is_located_by_the_log() {
    let uki = samples::uki(LINE.as_bytes());
    let at = uki.windows(5).position(|w| w == b"ID=x\n").unwrap();
    let machine = changed(|m| m.uki[at] = b'J');
    let explanation = explained(&machine, true);
    assert!(explanation.headline.contains("UKI section .osrel"), "{}", explanation.table(false));
    let alone = explained(&machine, false);
    assert_eq!(verdicts(&alone)[2..4], [Verdict::Unexplained; 2]);
    assert!(alone.headline.contains("rtmr1 and rtmr2 are unexplained"), "{}", alone.headline);
}

#[test]
fn a_changed_word_of_a_uki_is_found_from_digests() {
    for log in [true, false] {
        let machine = changed(|m| m.uki = samples::uki(format!("{LINE} debug").as_bytes()));
        let explanation = explained(&machine, log);
        let text = explanation.table(false);
        assert!(explanation.registers[3].text.contains("command line with \"debug\""), "{text}");
        // The image was made again with that line, which RTMR1 shows.
        assert_eq!(verdicts(&explanation)[2..4], [Verdict::Explained; 2], "{text}");
        let words = explanation.registers[3].events.iter().find(|event| !event.words.is_empty());
        assert!(words.is_some(), "{text}");
    }
}

#[test]
fn a_moved_partition_is_located_by_the_log() {
    let machine = changed(|m| {
        m.boot = Boot::Disk;
        m.disk[1024 + 40] ^= 1;
    });
    let explanation = explained(&machine, true);
    let differs: Vec<_> = explanation.registers[2].differences().collect();
    let table = differs.iter().find(|e| e.name == "partition table");
    assert!(table.is_some_and(|e| e.expected_text != e.found_text), "{}", explanation.table(false));
}

#[test]
fn a_firmware_log_without_runtime_events_still_adds_up() {
    let mut evidence = Machine::expected().evidence(true);
    evidence.registers[4] = Some(Digest384([7; 48]));
    let expected = Machine::expected();
    let files =
        [File { path: "OVMF.fd", bytes: &expected.firmware }, File { path: "uki.efi", bytes: &expected.uki }];
    let against = Expected { shape: Some(expected.shape.clone()), ..Expected::default() };
    let explanation = explain(&evidence, &Artifacts::gather(&files, "1.2"), &against, BOUNDS);
    assert!(!explanation.headline.contains("does not add up"), "{}", explanation.headline);
}

#[test]
fn a_log_that_does_not_add_up_is_said_first() {
    let mut evidence = Machine::expected().evidence(true);
    evidence.log.as_mut().unwrap().records.pop();
    let expected = Machine::expected();
    let files =
        [File { path: "OVMF.fd", bytes: &expected.firmware }, File { path: "uki.efi", bytes: &expected.uki }];
    let against = Expected { shape: Some(expected.shape.clone()), ..Expected::default() };
    let explanation = explain(&evidence, &Artifacts::gather(&files, "1.2"), &against, BOUNDS);
    assert!(
        explanation.headline.starts_with("The event log does not add up to the registers"),
        "{}",
        explanation.headline
    );
    assert!(!explanation.equal);
}

#[test]
fn without_an_expected_shape_the_machine_is_still_named() {
    let machine = shaped(|s| (s.vcpus, s.memory_mib) = (3, 2048));
    let files =
        [File { path: "OVMF.fd", bytes: &machine.firmware }, File { path: "uki.efi", bytes: &machine.uki }];
    let explanation =
        explain(&machine.evidence(false), &Artifacts::gather(&files, "1.2"), &Expected::default(), BOUNDS);
    assert_eq!(
        explanation.headline,
        "As expected: this is release 1.2 on 3 vCPUs, 2 GiB with QEMU 10.0 or 10.1 or 10.2"
    );
}

#[test]
fn evidence_without_artifacts_is_unexplained_and_not_a_fault() {
    let evidence = Machine::expected().evidence(true);
    let explanation = explain(&evidence, &Artifacts::default(), &Expected::default(), BOUNDS);
    assert!(!explanation.equal);
    assert!(explanation.headline.starts_with("Unexplained"), "{}", explanation.headline);
}

mod hostile {
    use super::*;
    use proptest::prelude::*;

    /// A bound that keeps a case short: the parsers and the comparison are what is tested here.
    const SMALL: Bounds = Bounds { tables: 1, candidates: 50 };

    fn record() -> impl Strategy<Value = Record> {
        let data = proptest::collection::vec(any::<u8>(), 0..80);
        (0u32..5, 0u32..16, any::<bool>(), any::<u8>(), data, "\\PC{0,20}").prop_map(
            |(index, kind, efi, digest, data, label)| Record {
                register: Register::from_cc_index(index).unwrap(),
                pcr: None,
                event_type: if efi { 0x8000_0000 + kind } else { kind },
                digest: Digest384([digest; 48]),
                data,
                label,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn hostile_logs_never_panic(records in proptest::collection::vec(record(), 0..40)) {
            let machine = Machine::expected();
            let files = [File { path: "OVMF.fd", bytes: &machine.firmware }, File { path: "uki.efi", bytes: &machine.uki }];
            let evidence = Evidence { log: Some(Log { form: Form::Ccel, records }), ..Evidence::default() };
            let expected = Expected { shape: Some(machine.shape.clone()), ..Expected::default() };
            let explanation = explain(&evidence, &Artifacts::gather(&files, "x"), &expected, SMALL);
            prop_assert!(!explanation.equal);
            prop_assert!(!explanation.table(false).chars().any(|c| c.is_control() && c != '\n'));
        }

        #[test]
        fn hostile_artifacts_never_panic(front in proptest::collection::vec(any::<u8>(), 0..600), which in 0usize..6) {
            let machine = Machine::expected();
            let mut files = [machine.firmware, machine.uki, machine.disk, kernel(), b"schema = 1".to_vec(), b"FACS".to_vec()];
            let length = front.len().min(files[which].len());
            files[which][..length].copy_from_slice(&front[..length]);
            let names = ["fw", "uki", "disk", "kernel", "shape.toml", "acpi"];
            let files: Vec<_> = names.iter().zip(&files).map(|(path, bytes)| File { path, bytes }).collect();
            let evidence = Evidence { registers: [Some(Digest384::ZERO); 5], ..Evidence::default() };
            let _ = explain(&evidence, &Artifacts::gather(&files, "x"), &Expected::default(), SMALL);
        }
    }
}
