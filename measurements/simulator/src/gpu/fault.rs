//! GPU evidence with exactly one defect each, and the check that must name it.
//!
//! Every case starts from a machine and evidence that pass; [`GpuFault::None`] is that one.

use super::RunningGpus;
use super::case::{AT, DAY, GpuCase, Machine, VBIOS_INDICES, value};
use super::pki::Pki;
use super::revocation::Answer;
use crate::SimulatorError;
use evidence::gpu::{GpuCheckName, Mode};

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident => $check:ident,)*) => {
        /// One defect.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum GpuFault {
            /// No defect at all.
            None,
            $($(#[$doc])* $variant,)*
        }

        impl GpuFault {
            /// Every defect.
            pub const ALL: &'static [GpuFault] = &[$(GpuFault::$variant),*];

            /// The one check that must fail, if any.
            pub fn expected(self) -> Option<GpuCheckName> {
                match self {
                    GpuFault::None => None,
                    $(GpuFault::$variant => Some(GpuCheckName::$check),)*
                }
            }
        }
    };
}

faults! {
    /// The report ends in the middle.
    Truncated => ReportFormat,
    /// A byte follows the report.
    TrailingByte => ReportFormat,
    /// A measurement stands twice.
    DoubledIndex => ReportFormat,
    /// Another simulated PKI's root in the policy.
    ForeignRoot => TrustRoot,
    /// One bit of an issuer's signature is flipped.
    BadChainSignature => Chain,
    /// A certificate of the chain is missing.
    MissingIssuer => Chain,
    /// A provisioner of devices ended yesterday.
    Expired => ChainValidity,
    /// A provisioner of devices begins tomorrow.
    NotYetValid => ChainValidity,
    /// One bit of the report's signature is flipped.
    BadSignature => ReportSignature,
    /// The report was changed after it was signed.
    ForgedReport => ReportSignature,
    /// The certificates are those of another device.
    SwappedChain => ReportSignature,
    /// The report was made for another challenge.
    StaleNonce => Nonce,
    /// The leaf was issued for other firmware.
    OtherFirmware => Fwid,
    /// The chip is none whose reports are known.
    UnknownChip => Identity,
    /// The sender calls the chip another one.
    WrongArchitecture => Identity,
    /// The driver says that confidential computing is off.
    CcOff => CcMode,
    /// The driver says DevTools.
    DevTools => CcMode,
    /// The mode is one that no source names.
    UnknownMode => CcMode,
    /// The mode is one that the policy does not take.
    OtherMode => CcMode,
    /// Mode and protected PCIe contradict each other.
    ContradictoryMode => CcMode,
    /// The leaf's DICE flags say debug.
    DebugFlag => Debug,
    /// The driver is older than the policy's floor.
    OldDriver => FirmwareFloor,
    /// The VBIOS is older than the policy's floor.
    OldVbios => FirmwareFloor,
    /// The driver's manifest was changed after it was signed.
    ForgedDriverRim => DriverRimSignature,
    /// One character of its signature is another.
    BadDriverRimSignature => DriverRimSignature,
    /// It is signed under another root than the policy's.
    ForeignRimRoot => DriverRimSignature,
    /// Its signer ended yesterday.
    ExpiredDriverRim => DriverRimValidity,
    /// It is another driver's.
    OtherDriverRim => DriverRimVersion,
    /// The driver measures otherwise.
    DriverMismatch => DriverMeasurements,
    /// One character of the VBIOS manifest's signature is another.
    BadVbiosRimSignature => VbiosRimSignature,
    /// Its signer begins tomorrow.
    EarlyVbiosRim => VbiosRimValidity,
    /// It is another VBIOS's.
    OtherVbiosRim => VbiosRimVersion,
    /// The VBIOS measures otherwise.
    VbiosMismatch => VbiosMeasurements,
    /// A golden value has no measurement in the report.
    MissingMeasurement => VbiosMeasurements,
    /// Both manifests name the same index.
    ConflictingManifests => VbiosMeasurements,
    /// A provisioner of devices is revoked.
    RevokedDevice => Revocation,
    /// The signer of a manifest is revoked.
    RevokedRimSigner => Revocation,
    /// The responder does not know the signer of a manifest.
    UnknownToResponder => Revocation,
    /// The responder's answers ended yesterday.
    StaleOcsp => Revocation,
    /// There is no answer about one of the certificates.
    MissingOcsp => Revocation,
    /// An answer is signed by a certificate of the same issuer that is for something else.
    UndelegatedResponder => Revocation,
    /// One bit of a response is flipped.
    ForgedOcsp => Revocation,
    /// One GPU of the machine does not answer.
    MissingGpu => Count,
    /// A GPU that was not expected answers.
    ExtraGpu => Count,
    /// One GPU answers in the place of another.
    DuplicateGpu => Distinct,
    /// The GPUs have different VBIOSes, each with its manifest.
    MixedGpus => Uniform,
    /// The GPUs name another NVSwitch than the one that answers.
    OtherSwitch => ProtectedPcie,
    /// The NVSwitch names fewer GPUs than there are.
    ForgottenGpu => ProtectedPcie,
}

impl GpuFault {
    /// `kebab-case`.
    pub fn name(self) -> String {
        crate::fault::kebab(&format!("{self:?}"))
    }

    /// Builds the evidence with this defect. Cases share a PKI, unless the defect is one of the PKI.
    pub fn case(self) -> Result<GpuCase, SimulatorError> {
        let mut case = self.machine().build()?;
        self.change_bytes(&mut case)?;
        Ok(case)
    }

    /// Makes devices with this defect, which can then be asked again and again. Of [`GpuFault::StaleNonce`] they are honest:
    /// whoever asks for another nonce than it verifies with has made that defect himself.
    pub fn start(self) -> Result<RunningGpus, SimulatorError> {
        RunningGpus::make(self.machine(), self)
    }

    fn machine(self) -> Machine {
        let mut machine = match self {
            GpuFault::DebugFlag => Machine::blackwell(1, 0b1000),
            GpuFault::OtherSwitch | GpuFault::ForgottenGpu => Machine::with_switch(2),
            GpuFault::MissingGpu
            | GpuFault::ExtraGpu
            | GpuFault::DuplicateGpu
            | GpuFault::MixedGpus
            | GpuFault::SwappedChain => Machine::good(2),
            _ => Machine::good(1),
        };
        self.change_devices(&mut machine);
        self.change_manifests(&mut machine);
        self.change_pki(&mut machine);
        machine
    }

    /// Defects of what the devices are, and of what they say of themselves.
    fn change_devices(self, machine: &mut Machine) {
        let gpu = &mut machine.devices[0];
        match self {
            GpuFault::OtherFirmware => gpu.leaf_fwid = [0xf2; 48],
            GpuFault::UnknownMode => gpu.mode = 7,
            GpuFault::ContradictoryMode => gpu.protected_pcie = true,
            GpuFault::UnknownChip => gpu.model = "GX999",
            GpuFault::DriverMismatch => _ = gpu.measurements.insert(21 + 1, [0xbb; 48]),
            GpuFault::VbiosMismatch => _ = gpu.measurements.insert(9 + 1, [0xbb; 48]),
            GpuFault::MissingMeasurement => _ = gpu.measurements.remove(&(9 + 1)),
            GpuFault::OtherSwitch => gpu.linked = vec![[0x5d; 8]],
            GpuFault::ForgottenGpu => machine.devices[2].linked.truncate(1),
            GpuFault::CcOff => machine.system.cc = false,
            GpuFault::DevTools => machine.system.devtools = true,
            GpuFault::OtherMode => machine.settings.modes = vec![Mode::Mpt],
            GpuFault::OldDriver => machine.settings.driver_min = Some("550.144.03".into()),
            GpuFault::OldVbios => machine.settings.vbios_min = Some("96.00.A5.00.01".into()),
            GpuFault::DuplicateGpu => machine.answers = vec![0, 0],
            GpuFault::MissingGpu => machine.answers = vec![0],
            GpuFault::ExtraGpu => machine.settings.count = 1,
            _ => {}
        }
    }

    fn change_manifests(self, machine: &mut Machine) {
        match self {
            GpuFault::OtherDriverRim => machine.driver_rim.version = "550.54.15".into(),
            GpuFault::OtherVbiosRim => machine.vbios_rims[0].version = "96.00.74.00.1C".into(),
            GpuFault::UnknownChip => {
                machine.driver_rim.product = "GX999";
                machine.vbios_rims[0].product = "GX999";
            }
            GpuFault::ConflictingManifests => {
                machine.driver_rim.golden.insert(VBIOS_INDICES[0], vec![value(VBIOS_INDICES[0])]);
            }
            GpuFault::MixedGpus => {
                machine.devices[1].vbios[2] = 0xa5;
                let mut other = machine.vbios_rims[0].clone();
                other.version = "96.00.A5.00.01".into();
                machine.vbios_rims.push(other);
            }
            _ => {}
        }
    }

    fn change_pki(self, machine: &mut Machine) {
        let ended = |id| vec![(id, AT - 40 * DAY, AT - DAY)];
        let begins = |id| vec![(id, AT + DAY, AT + 40 * DAY)];
        match self {
            GpuFault::Expired => machine.windows = ended("device-provisioner"),
            GpuFault::NotYetValid => machine.windows = begins("device-provisioner"),
            GpuFault::ExpiredDriverRim => machine.windows = ended("driver-signer"),
            GpuFault::EarlyVbiosRim => machine.windows = begins("vbios-signer"),
            GpuFault::RevokedDevice => machine.answer = Some(("device-provisioner", Answer::Revoked)),
            GpuFault::RevokedRimSigner => machine.answer = Some(("driver-signer", Answer::Revoked)),
            GpuFault::UnknownToResponder => machine.answer = Some(("vbios-signer", Answer::Unknown)),
            GpuFault::UndelegatedResponder => machine.responder = "driver-signer",
            GpuFault::StaleOcsp => machine.answered = (AT - 8 * DAY, AT - DAY),
            _ => {}
        }
    }

    /// Defects of the bytes on their way.
    pub(crate) fn change_bytes(self, case: &mut GpuCase) -> Result<(), SimulatorError> {
        const FIRST_VALUE: usize = 37 + 8 + 7;
        const BLOCK: usize = 4 + 51;
        let report = &mut case.devices[0].report;
        let end = report.len();
        match self {
            GpuFault::Truncated => report.truncate(end - 1),
            GpuFault::TrailingByte => report.push(0),
            GpuFault::DoubledIndex => report[37 + 8 + BLOCK] = 1,
            GpuFault::BadSignature => report[end - 10] ^= 1,
            GpuFault::ForgedReport => report[FIRST_VALUE] ^= 1,
            GpuFault::StaleNonce => case.nonce = [0x4f; 32],
            GpuFault::WrongArchitecture => case.devices[0].arch = Some("BLACKWELL".into()),
            GpuFault::SwappedChain => {
                let other = case.devices.swap_remove(1);
                case.devices[0].chain = other.chain;
                case.settings.count = 1;
            }
            GpuFault::BadChainSignature => flip_last(&mut case.devices[0].chain[2]),
            GpuFault::MissingIssuer => _ = case.devices[0].chain.remove(2),
            GpuFault::ForeignRoot => case.device_root = Pki::make(&[])?.der("device-root"),
            GpuFault::ForeignRimRoot => {
                let other = Machine::good(1).build_with(&Pki::make(&[])?)?;
                case.driver_rims = other.driver_rims;
            }
            GpuFault::ForgedDriverRim => replace(&mut case.driver_rims[0], "08080808", "08080809"),
            GpuFault::BadDriverRimSignature => change_signature(&mut case.driver_rims[0]),
            GpuFault::BadVbiosRimSignature => change_signature(&mut case.vbios_rims[0]),
            GpuFault::MissingOcsp => _ = case.ocsp.remove(1),
            GpuFault::ForgedOcsp => flip_last(&mut case.ocsp[1]),
            _ => {}
        }
        Ok(())
    }
}

fn flip_last(bytes: &mut [u8]) {
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
}

fn replace(xml: &mut Vec<u8>, from: &str, to: &str) {
    *xml = String::from_utf8_lossy(xml).replacen(from, to, 1).into_bytes();
}

/// Another character in the middle of the signature's value.
fn change_signature(xml: &mut [u8]) {
    let text = String::from_utf8_lossy(xml);
    let mark = "<ds:SignatureValue>";
    let Some(start) = text.find(mark) else { return };
    let at = start + mark.len() + 20;
    xml[at] = if xml[at] == b'A' { b'B' } else { b'A' };
}
