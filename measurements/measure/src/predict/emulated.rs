//! The emulated platform: what OVMF, systemd-stub and Linux measure into an emulated TPM, in log order.
//!
//! The order differs between the boot forms in one point: under `-kernel` the UKI is loaded before the boot variables
//! are measured, from disk it is loaded after the separators, preceded by the partition table.

use super::boot_variables::{self, BootVariables};
use super::payload::{Loader, Parsed};
use super::plan::{self, Planned};
use super::{FirmwareProfile, Inputs};
use crate::acpi::{self, AcpiBlobs};
use crate::error::{Input, MeasureError};
use crate::event::{
    AcpiFile, Assumption, Event, FirmwareVolume, PredictedEvent, Prediction, SecureBootVariable,
};
use crate::firmware::Guid;
use crate::firmware::variables::{self, Variable};
use crate::gpt;
use crate::shape::{Boot, Platform};

pub(super) const SEPARATOR: [u8; 4] = [0; 4];
/// What the firmware says before it starts a boot option.
pub(super) const CALLING: &[u8; 40] = b"Calling EFI Application from Boot Option";
/// Last PCR that gets a separator when an option is booted; PCR 7 has had its own.
const LAST_SEPARATOR: u32 = 6;
/// 8BE4DF61-93CA-11D2-AA0D-00E098032B8C: EFI_GLOBAL_VARIABLE.
const GLOBAL: Guid = *b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c";
/// D719B2CB-3D3A-4596-A3BC-DAD00E67656F: EFI_IMAGE_SECURITY_DATABASE.
const DATABASE: Guid = *b"\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f";

/// The events that don't need the firmware, hashed, cut where the firmware's come in between.
pub(super) struct WithoutFirmware {
    before_image: Vec<PredictedEvent>,
    image: PredictedEvent,
    after_options: Vec<PredictedEvent>,
    variables: Vec<Variable>,
    assumed: Vec<Assumption>,
}

/// Plans and hashes all but the firmware's own events and the boot options.
pub(super) fn without_firmware(
    inputs: &Inputs<'_>,
    loader: &Loader,
) -> Result<WithoutFirmware, MeasureError> {
    inputs.shape.check(Platform::Emulated)?;
    let variables = variables::parse(inputs.firmware_vars)?;
    let missing = MeasureError::Missing { input: Input::Uki, needed_for: "every boot form" };
    let payload = Parsed::of(inputs, inputs.payload.ok_or(missing)?, loader)?;
    let blobs = acpi::generate(&acpi::Machine::emulated(inputs.shape));
    let mut planned = acpi_events(blobs);
    let before = planned.len();
    planned.push(payload.image()?);
    planned.push(Planned::owned(4, Event::CallingBootOption, *CALLING));
    planned.extend((0..=LAST_SEPARATOR).map(|pcr| Planned::owned(pcr, Event::Separator, SEPARATOR)));
    if inputs.boot == Boot::Disk {
        planned.push(partition_table(inputs)?);
    }
    let image_from_disk = planned.len() - before - 1;
    planned.extend(payload.started()?);
    let mut before_image = plan::hash(&planned);
    let mut rest = before_image.split_off(before);
    let image = rest.remove(0);
    if inputs.boot == Boot::Disk {
        rest.insert(image_from_disk, image.clone());
    }
    Ok(WithoutFirmware { before_image, image, after_options: rest, variables, assumed: payload.assumed })
}

/// PCR 5: the booted disk's partition table.
pub(super) fn partition_table(inputs: &Inputs<'_>) -> Result<Planned<'static>, MeasureError> {
    let missing = MeasureError::Missing { input: Input::Disk, needed_for: "booting from disk" };
    let event = gpt::gpt_event(inputs.disk_head.ok_or(missing)?)?;
    Ok(Planned::owned(5, Event::PartitionTable, event.bytes))
}

/// Puts the firmware's events around the others.
pub(super) fn complete(
    inputs: &Inputs<'_>,
    firmware: &FirmwareProfile,
    rest: WithoutFirmware,
) -> Result<Prediction, MeasureError> {
    let mut first = vec![
        Planned::known(0, Event::FirmwareVersion, firmware.version.clone()),
        Planned::known(0, Event::FirmwareVolume(FirmwareVolume::Pei), firmware.pei.clone()),
        Planned::known(0, Event::FirmwareVolume(FirmwareVolume::Dxe), firmware.dxe.clone()),
    ];
    first.extend(secure_boot(&rest.variables, firmware.secure_boot));
    let mut events = plan::hash(&first);
    events.extend(rest.before_image);
    if inputs.boot == Boot::Direct {
        events.push(rest.image);
    }
    events.extend(plan::hash(&Vec::from_iter(smbios(firmware))));
    let captured = BootVariables::default();
    let stale = rest.variables.iter().any(|v| v.name.starts_with("Boot"));
    let planned = boot_variables::plan(inputs.boot, &firmware.boot_manager, &captured, stale)?;
    events.extend(plan::hash(&planned));
    events.extend(rest.after_options);
    let (platform, boot, assumed) = (Platform::Emulated, inputs.boot, rest.assumed);
    Ok(Prediction { platform, boot, mrtd: None, events, assumed })
}

/// PCR 1: newer firmware measures what QEMU says in SMBIOS tables, which isn't generated here.
pub(super) fn smbios(firmware: &FirmwareProfile) -> Option<Planned<'static>> {
    let why = "this firmware measures the SMBIOS tables, which aren't foretold";
    firmware.measures_smbios.then(|| Planned::unpredicted(1, Event::Smbios, why))
}

/// PCR 7: the Secure Boot variables as a store holds them, and the separator that ends them.
///
/// A build that knows Secure Boot makes the variable SecureBoot itself: 1 once there is a platform key and nobody turned
/// it off (EDK2 `AuthVariableLib`). Then the firmware also measures who signed an image, which isn't foretold.
pub(super) fn secure_boot(variables: &[Variable], knows_secure_boot: bool) -> Vec<Planned<'static>> {
    let stored = |name: &str| variables.iter().find(|v| v.name == name).map(|v| v.data.as_slice());
    let off = stored("SecureBootEnable") == Some(&[0]);
    let on = knows_secure_boot && stored("PK").is_some() && !off;
    let variable = |variable: SecureBootVariable| {
        let vendor = match variable {
            SecureBootVariable::Db | SecureBootVariable::Dbx => DATABASE,
            _ => GLOBAL,
        };
        let data = match variable {
            SecureBootVariable::SecureBoot if knows_secure_boot => &[u8::from(on)][..],
            SecureBootVariable::SecureBoot => &[],
            _ => stored(variable.name()).unwrap_or_default(),
        };
        Planned::owned(7, Event::SecureBoot(variable), variable_data(&vendor, variable.name(), data))
    };
    let mut planned: Vec<_> = SecureBootVariable::ALL.into_iter().map(variable).collect();
    planned.push(Planned::owned(7, Event::Separator, SEPARATOR));
    if on {
        let why = "Secure Boot is on: the certificate that allows an image is measured, which isn't foretold";
        planned.push(Planned::unpredicted(7, Event::Authority, why));
    }
    planned
}

/// UEFI_VARIABLE_DATA (PFP 10.2.6): vendor, name length in characters, data length, name without NUL, data.
fn variable_data(vendor: &Guid, name: &str, data: &[u8]) -> Vec<u8> {
    let name: Vec<u16> = name.encode_utf16().collect();
    let lengths = [name.len() as u64, data.len() as u64].map(u64::to_le_bytes).concat();
    let name: Vec<u8> = name.into_iter().flat_map(u16::to_le_bytes).collect();
    [vendor, lengths.as_slice(), &name, data].concat()
}

/// PCR 1: each fw_cfg file as it is downloaded; the linker script lists allocations newest first.
pub(super) fn acpi_events(blobs: AcpiBlobs) -> Vec<Planned<'static>> {
    let file = |file: AcpiFile, bytes: Vec<u8>| Planned::owned(1, Event::Acpi(file), bytes);
    let mut planned = vec![file(AcpiFile::Loader, blobs.loader), file(AcpiFile::Rsdp, blobs.rsdp)];
    planned.extend(blobs.tpm_log.map(|log| file(AcpiFile::TpmLog, log)));
    planned.push(file(AcpiFile::Tables, blobs.tables));
    planned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firmware::probe::SECURE_BOOT_CONFIG;
    use crate::firmware::samples::firmware as sample_firmware;
    use crate::firmware::variables::samples::store as sample_store;
    use crate::gpt::samples::disk as sample_disk;
    use crate::predict::boot_options::{SHELL, UI_APP};
    use crate::predict::{Payload, predict, predict_with};
    use crate::register::Register;
    use crate::shape::Shape;
    use crate::uki::samples::uki as sample_uki;

    struct Sample {
        shape: Shape,
        code: Vec<u8>,
        vars: Vec<u8>,
        uki: Vec<u8>,
        disk: Vec<u8>,
    }

    impl Sample {
        fn new() -> Self {
            Sample {
                shape: Shape::new(2, 2048),
                code: sample_firmware(&[UI_APP, SHELL]),
                vars: sample_store(&[]),
                uki: sample_uki(b"quiet"),
                disk: sample_disk(),
            }
        }

        fn inputs(&self, boot: Boot) -> Inputs<'_> {
            Inputs {
                platform: Platform::Emulated,
                boot,
                shape: &self.shape,
                firmware_code: &self.code,
                firmware_vars: &self.vars,
                payload: Some(Payload::Uki(&self.uki)),
                disk_head: Some(&self.disk),
            }
        }

        fn predict(&self, boot: Boot) -> Prediction {
            predict(&self.inputs(boot)).unwrap()
        }
    }

    fn names(prediction: &Prediction) -> Vec<String> {
        prediction.events.iter().map(|e| e.event.to_string()).collect()
    }

    #[test]
    fn a_direct_boot_loads_the_uki_before_the_boot_variables() {
        let names = names(&Sample::new().predict(Boot::Direct));
        let at = |name: &str| names.iter().position(|n| n == name).unwrap();
        assert!(at("ACPI tables") < at("UKI") && at("UKI") < at("variable BootOrder"));
        assert!(at("variable Boot0000 (UiApp)") < at("calling boot option"));
        assert!(!names.contains(&"partition table".to_owned()));
    }

    #[test]
    fn a_disk_boot_measures_the_partition_table_and_then_the_uki() {
        let names = names(&Sample::new().predict(Boot::Disk));
        let at = |name: &str| names.iter().position(|n| n == name).unwrap();
        assert_eq!(at("UKI"), at("partition table") + 1);
        assert_eq!(at("name of UKI section .linux"), at("UKI") + 1);
        assert!(at("variable Boot0001 (UEFI Misc Device)") < at("variable Boot0000 (UiApp)"));
    }

    #[test]
    fn every_register_is_final_for_pristine_inputs() {
        for boot in [Boot::Direct, Boot::Disk] {
            Sample::new().predict(boot).registers().unwrap();
        }
    }

    #[test]
    fn each_input_moves_its_own_registers_and_no_other() {
        let base = Sample::new();
        let moved = |change: &dyn Fn(&mut Sample)| {
            let mut sample = Sample::new();
            change(&mut sample);
            let (before, after) = (base.predict(Boot::Disk), sample.predict(Boot::Disk));
            let differs = |r: &Register| before.register(*r) != after.register(*r);
            Register::ALL.into_iter().filter(differs).collect::<Vec<_>>()
        };
        assert_eq!(moved(&|s| s.shape.memory_mib = 1024), [Register::Rtmr0]);
        assert_eq!(moved(&|s| s.shape.vcpus = 3), [Register::Rtmr0]);
        assert_eq!(moved(&|s| s.disk[1024 + 16] ^= 1), [Register::Rtmr1]);
        assert_eq!(moved(&|s| s.uki = sample_uki(b"loud!")), [Register::Rtmr1, Register::Rtmr2]);
        assert!(moved(&|_| ()).is_empty());
    }

    #[test]
    fn secure_boot_and_old_boot_variables_leave_rtmr0_open() {
        let mut sample = Sample::new();
        sample.vars = sample_store(&[("Boot0000", b"x")]);
        assert_eq!(sample.predict(Boot::Direct).registers(), Err(vec![Register::Rtmr0]));
        sample.vars = sample_store(&[("PK", b"x")]);
        sample.predict(Boot::Direct).registers().expect("a build without Secure Boot");
        sample.code = sample_firmware(&[UI_APP, SHELL, SECURE_BOOT_CONFIG]);
        assert_eq!(sample.predict(Boot::Direct).registers(), Err(vec![Register::Rtmr0]));
    }

    #[test]
    fn enrolled_keys_are_measured_with_their_data() {
        let hashed = |variables: &[(&str, &[u8])], knows: bool| -> Vec<Vec<u8>> {
            let store = variables::parse(&sample_store(variables)).unwrap();
            let events = plan::hash(&secure_boot(&store, knows));
            events.iter().filter_map(|e| e.hashed.bytes().map(<[u8]>::to_vec)).collect()
        };
        let of = |name: &str, data: &[u8]| {
            let vendor = if name.starts_with("db") { DATABASE } else { GLOBAL };
            variable_data(&vendor, name, data)
        };
        let on = hashed(&[("PK", b"platform"), ("db", b"allowed")], true);
        let expected = [of("SecureBoot", &[1]), of("PK", b"platform"), of("KEK", b""), of("db", b"allowed")];
        assert_eq!(on[..4], expected);
        assert_eq!(hashed(&[], true)[0], of("SecureBoot", &[0]), "no platform key");
        assert_eq!(hashed(&[("PK", b"x"), ("SecureBootEnable", &[0])], true)[0], of("SecureBoot", &[0]));
        assert_eq!(hashed(&[("PK", b"x")], false)[0], of("SecureBoot", b""), "a build without Secure Boot");
    }

    #[test]
    fn a_known_firmware_gives_the_same_prediction() {
        let sample = Sample::new();
        let firmware = FirmwareProfile::of(&sample.code).unwrap();
        let inputs = Inputs { firmware_code: &[], ..sample.inputs(Boot::Direct) };
        assert_eq!(predict_with(&firmware, &inputs).unwrap(), sample.predict(Boot::Direct));
    }

    #[test]
    fn a_disk_boot_without_disk_says_what_is_missing() {
        let sample = Sample::new();
        let inputs = Inputs { disk_head: None, ..sample.inputs(Boot::Disk) };
        let error = predict(&inputs).unwrap_err().to_string();
        assert!(error.starts_with("no disk was given, but booting from disk needs it"), "{error}");
    }
}
