//! Claims about predictions of trust domains, on images that the project makes itself.

use super::*;
use crate::predict::{Linux, Payload};
use crate::register::Digest384;
use crate::samples;
use crate::shape::QemuVersion;
use std::collections::BTreeMap;

fn newer() -> Vec<u8> {
    samples::tdx(Some(2), b"initrd=initrd ", b"etc/boot/\0", b"ui")
}

fn older() -> Vec<u8> {
    samples::tdx(None, b" initrd=initrd", b"nothing", b"ui")
}

struct Machine {
    firmware: Vec<u8>,
    shape: Shape,
    kernel: Vec<u8>,
    initrd: Option<Vec<u8>>,
    cmdline: &'static str,
}

impl Machine {
    fn new(firmware: Vec<u8>) -> Self {
        let (shape, kernel) = (Shape::new(2, 2048), samples::kernel(0x20f, 2));
        Machine { firmware, shape, kernel, initrd: Some(b"initrd".to_vec()), cmdline: "quiet" }
    }

    fn inputs(&self) -> Inputs<'_> {
        let linux = Linux { kernel: &self.kernel, initrd: self.initrd.as_deref(), cmdline: self.cmdline };
        Inputs {
            platform: Platform::Tdx,
            boot: Boot::Direct,
            shape: &self.shape,
            firmware_code: &self.firmware,
            firmware_vars: &[],
            payload: Some(Payload::Linux(linux)),
            disk_head: None,
        }
    }

    fn predict(&self, options: &TdxOptions<'_>) -> Prediction {
        predict_tdx(&self.inputs(), options).unwrap()
    }
}

fn names(prediction: &Prediction, register: Register) -> Vec<String> {
    prediction.events.iter().filter(|e| e.register == register).map(|e| e.event.to_string()).collect()
}

fn assumed(prediction: &Prediction, what: &str) -> String {
    prediction.assumed.iter().find(|a| a.what == what).map(|a| a.value.clone()).unwrap_or_default()
}

fn digest(prediction: &Prediction, event: &Event) -> Digest384 {
    prediction.events.iter().find(|e| e.event == *event).unwrap().digests.as_ref().unwrap().sha384
}

fn utf16(text: &str) -> Digest384 {
    Digest384::of(&text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Vec<_>>())
}

#[test]
fn a_classic_kernel_has_the_events_of_a_td_that_was_booted_so() {
    let prediction = Machine::new(newer()).predict(&TdxOptions::default());
    prediction.registers().unwrap();
    let exits = ["exit of boot services, invoked", "exit of boot services, returned"];
    let expected = [&["kernel", "calling boot option", "separator"][..], &exits].concat();
    assert_eq!(names(&prediction, Register::Rtmr1), expected);
    assert_eq!(names(&prediction, Register::Rtmr2), ["kernel command line", "initrd"]);
    assert_eq!(digest(&prediction, &Event::Initrd), Digest384::of(b"initrd"));
}

#[test]
fn the_firmware_decides_where_the_separator_goes_and_an_option_overrides_it() {
    let separators = |prediction: &Prediction| {
        [Register::Rtmr0, Register::Rtmr1]
            .map(|r| names(prediction, r).iter().filter(|n| *n == "separator").count())
    };
    let older = Machine::new(older());
    let prediction = older.predict(&TdxOptions::default());
    assert_eq!((separators(&prediction), assumed(&prediction, "separator")), ([2, 0], "rtmr0".into()));
    let prediction = Machine::new(newer()).predict(&TdxOptions::default());
    assert_eq!((separators(&prediction), assumed(&prediction, "separator")), ([1, 1], "rtmr1".into()));
    let options = TdxOptions { separator: Some(Register::Rtmr1), ..TdxOptions::default() };
    assert_eq!(separators(&older.predict(&options)), [1, 1]);
}

#[test]
fn the_firmware_decides_where_the_initrd_is_named() {
    let options =
        |firmware| digest(&Machine::new(firmware).predict(&TdxOptions::default()), &Event::LoadOptions);
    assert_eq!(options(older()), utf16("quiet initrd=initrd"));
    assert_eq!(options(newer()), utf16("initrd=initrd quiet"));
}

#[test]
fn a_kernel_without_initrd_keeps_its_command_line_and_an_empty_one_is_not_measured() {
    let mut machine = Machine::new(newer());
    machine.initrd = None;
    assert_eq!(digest(&machine.predict(&TdxOptions::default()), &Event::LoadOptions), utf16("quiet"));
    machine.cmdline = "";
    assert!(names(&machine.predict(&TdxOptions::default()), Register::Rtmr2).is_empty());
}

#[test]
fn the_setup_header_follows_firmware_and_release() {
    let header = |firmware: Vec<u8>, qemu| {
        let mut machine = Machine::new(firmware);
        machine.shape.qemu = qemu;
        let prediction = machine.predict(&TdxOptions::default());
        (assumed(&prediction, "setup header"), digest(&prediction, &Event::DirectKernel))
    };
    let (as_is, plain) = header(newer(), QemuVersion::V10_1);
    let (patched, written) = header(older(), QemuVersion::V10_1);
    assert_eq!((as_is.as_str(), patched.as_str()), ("as-is", "patched"));
    assert_ne!(plain, written);
    assert_eq!(header(newer(), QemuVersion::V9_2).0, "patched", "it offers no untouched file");
    assert_eq!(header(older(), QemuVersion::V10_2), ("as-is".into(), plain));
    let machine = Machine::new(newer());
    let options = TdxOptions { setup_header: Some(SetupHeader::Patched), ..TdxOptions::default() };
    assert_eq!(digest(&machine.predict(&options), &Event::DirectKernel), written);
}

#[test]
fn captured_boot_variables_replace_the_firmwares_own() {
    let machine = Machine::new(newer());
    let option = [&[1, 0, 0, 0, 4, 0, b'x', 0, 0, 0][..], &[0x7f, 0xff, 4, 0]].concat();
    let captured = BootVariables { order: Some(vec![4, 0]), options: BTreeMap::from([(4, option.clone())]) };
    let options = TdxOptions { boot_variables: Some(&captured), ..TdxOptions::default() };
    let prediction = machine.predict(&options);
    let event = Event::BootOption { number: 4, description: "x".into() };
    assert_eq!(digest(&prediction, &Event::BootOrder), Digest384::of(&[4, 0]));
    assert_eq!(digest(&prediction, &event), Digest384::of(&option));
}

#[test]
fn a_known_firmware_gives_the_same_prediction() {
    let machine = Machine::new(newer());
    let profile = FirmwareProfile::of_tdvf(&machine.firmware).unwrap();
    let options = TdxOptions::default();
    let prediction = predict_tdx_with(&profile, &machine.inputs(), &options).unwrap();
    assert_eq!(prediction, machine.predict(&options));
}

#[test]
fn of_a_td_shim_only_mrtd_is_foretold() {
    let machine = Machine::new(samples::td_shim(&[]));
    let prediction = machine.predict(&TdxOptions::default());
    assert_eq!(prediction.registers(), Err(vec![Register::Rtmr0, Register::Rtmr1, Register::Rtmr2]));
    assert_eq!(prediction.mrtd, Some(tdvf::mrtd(&machine.firmware, Vmm::SinglePass).unwrap()));
}

#[test]
fn a_classic_kernel_is_not_booted_from_disk() {
    let machine = Machine::new(newer());
    let inputs = Inputs { boot: Boot::Disk, ..machine.inputs() };
    let error = predict_tdx(&inputs, &TdxOptions::default()).unwrap_err().to_string();
    assert!(error.contains("isn't booted from a disk"), "{error}");
}

#[test]
fn firmware_without_tdx_metadata_is_refused() {
    let machine = Machine::new(vec![0; 8192]);
    let error = predict_tdx(&machine.inputs(), &TdxOptions::default()).unwrap_err().to_string();
    assert!(error.contains("no TDX metadata"), "{error}");
}
