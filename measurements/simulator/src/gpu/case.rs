//! A simulated machine with GPUs, and everything that its appraisal takes.

use super::device::{Device, Spec};
use super::manifest;
use super::pki::{Entity, Pki};
use super::revocation::{Answer, response};
use crate::SimulatorError;
use evidence::gpu::{DeviceEvidence, GpuInputs, GpuPolicy, GpuPolicyError, GpuSettings, SystemState};
use std::collections::BTreeMap;

/// Unix seconds at which the cases are appraised.
pub const AT: u64 = 1_780_000_000;
pub(crate) const DAY: u64 = 24 * 60 * 60;
const NONCE: [u8; 32] = [0x4e; 32];
/// Indices of the manifests' measurements, counted from 0.
pub(crate) const DRIVER_INDICES: [u8; 4] = [7, 21, 22, 35];
pub(crate) const VBIOS_INDICES: [u8; 4] = [0, 1, 2, 9];

/// Everything that an appraisal of GPUs takes.
#[derive(Debug, Clone)]
pub struct GpuCase {
    /// What the devices send.
    pub devices: Vec<DeviceEvidence>,
    /// What the reports are expected to contain.
    pub nonce: [u8; 32],
    /// Manifests of drivers.
    pub driver_rims: Vec<Vec<u8>>,
    /// Manifests of VBIOSes.
    pub vbios_rims: Vec<Vec<u8>>,
    /// OCSP responses.
    pub ocsp: Vec<Vec<u8>>,
    /// What the driver says.
    pub system: SystemState,
    /// Root of devices for the policy, DER.
    pub device_root: Vec<u8>,
    /// Root of manifests for the policy, DER.
    pub rim_root: Vec<u8>,
    /// The rest of the policy.
    pub settings: GpuSettings,
    /// When, Unix seconds.
    pub at: u64,
}

impl GpuCase {
    /// The policy of this case.
    pub fn policy(&self) -> Result<GpuPolicy, GpuPolicyError> {
        GpuPolicy::simulated(&self.device_root, &self.rim_root)?.with(self.settings.clone())
    }

    /// What an appraisal takes, with a policy.
    pub fn inputs<'a>(&'a self, policy: &'a GpuPolicy) -> GpuInputs<'a> {
        GpuInputs {
            devices: &self.devices,
            nonce: Some(&self.nonce),
            driver_rims: &self.driver_rims,
            vbios_rims: &self.vbios_rims,
            ocsp: &self.ocsp,
            system: Some(self.system),
            policy,
            at: self.at,
        }
    }
}

/// A machine before it is built: what may be changed so that a case has a defect.
pub(crate) struct Machine {
    pub(crate) devices: Vec<Spec>,
    /// Which device answers in each place.
    pub(crate) answers: Vec<usize>,
    pub(crate) driver_rim: manifest::Spec,
    pub(crate) vbios_rims: Vec<manifest::Spec>,
    /// Certificates of the description that hold only from and until then.
    pub(crate) windows: Vec<(&'static str, u64, u64)>,
    /// Certificate of the description, and what the responder says of it.
    pub(crate) answer: Option<(&'static str, Answer)>,
    /// Who answers about the signer of the driver's manifest.
    pub(crate) responder: &'static str,
    /// When the responder's answers hold.
    pub(crate) answered: (u64, u64),
    /// When it is appraised.
    pub(crate) at: u64,
    pub(crate) settings: GpuSettings,
    pub(crate) system: SystemState,
}

/// The digest that a simulated device measures at an index.
pub(crate) fn value(index: u8) -> [u8; 48] {
    [index.wrapping_add(1); 48]
}

fn golden(indices: &[u8]) -> BTreeMap<u8, Vec<[u8; 48]>> {
    // The second alternative is what counts: a reader that takes only the first is wrong.
    indices.iter().map(|index| (*index, vec![[0xee; 48], value(*index)])).collect()
}

impl Machine {
    /// `count` GPUs of Hopper's generation, with nothing wrong.
    pub(crate) fn good(count: usize) -> Self {
        let spec = |number: usize| Spec {
            model: "GH100",
            serial: format!("51D0000000000{number:03}"),
            driver: "550.90.07",
            vbios: [0x96, 0x00, 0x9f, 0x00, 0x01],
            mode: 0,
            protected_pcie: false,
            leaf_fwid: [0xf1; 48],
            report_fwid: [0xf1; 48],
            dice_flags: None,
            measurements: (0..40).map(|index| (index + 1, value(index))).collect(),
            linked: Vec::new(),
            pdi: None,
        };
        let rim = |version: &str, indices: &[u8]| manifest::Spec {
            version: version.into(),
            product: "GH100",
            golden: golden(indices),
        };
        Machine {
            devices: (0..count).map(spec).collect(),
            answers: (0..count).collect(),
            driver_rim: rim("550.90.07", &DRIVER_INDICES),
            vbios_rims: vec![rim("96.00.9F.00.01", &VBIOS_INDICES)],
            windows: Vec::new(),
            answer: None,
            responder: "ocsp",
            answered: (AT - DAY, AT + 6 * DAY),
            at: AT,
            settings: GpuSettings { count, ..GpuSettings::default() },
            system: SystemState { cc: true, devtools: false, production: true },
        }
    }

    /// The same with one NVSwitch, under protected PCIe.
    pub(crate) fn with_switch(count: usize) -> Self {
        let mut machine = Machine::good(count);
        let pdi = [0x5c; 8];
        for gpu in &mut machine.devices {
            (gpu.mode, gpu.protected_pcie, gpu.linked) = (2, true, vec![pdi, pdi, [0; 8]]);
        }
        let linked = (0..count).map(|number| [0xa0 + number as u8; 8]).collect();
        let serial = "51D0000000000900".into();
        let gpu = machine.devices[0].clone();
        let switch =
            Spec { model: "LS10", serial, pdi: Some(pdi), linked, mode: 0, protected_pcie: false, ..gpu };
        machine.devices.push(switch);
        machine.answers.push(count);
        let rim = machine.vbios_rims[0].clone();
        machine.vbios_rims.push(manifest::Spec { product: "LS10", ..rim });
        machine
    }

    /// The same of Blackwell's generation.
    pub(crate) fn blackwell(count: usize, dice_flags: u8) -> Self {
        let mut machine = Machine::good(count);
        for gpu in &mut machine.devices {
            (gpu.model, gpu.mode, gpu.dice_flags) = ("GB100", 1, Some(dice_flags));
        }
        machine.driver_rim.product = "GB100";
        machine.vbios_rims[0].product = "GB100";
        machine
    }

    pub(crate) fn build(&self) -> Result<GpuCase, SimulatorError> {
        match self.windows.is_empty() {
            true => self.build_with(&*Pki::lasting()?),
            false => self.build_with(&Pki::make(&self.windows)?),
        }
    }

    /// The devices alone, each with its keys.
    pub(crate) fn make(&self, pki: &Pki) -> Result<Vec<Device>, SimulatorError> {
        self.devices.iter().map(|spec| Device::make(spec, pki)).collect()
    }

    pub(crate) fn build_with(&self, pki: &Pki) -> Result<GpuCase, SimulatorError> {
        self.build_of(pki, &self.make(pki)?, &NONCE)
    }

    /// What these devices say when they are asked for this nonce.
    pub(crate) fn build_of(
        &self,
        pki: &Pki,
        made: &[Device],
        nonce: &[u8; 32],
    ) -> Result<GpuCase, SimulatorError> {
        let evidence = |n: &usize| made[*n].evidence(&self.devices[*n], nonce);
        let rims = |specs: &[manifest::Spec], signer| {
            let chain = pki.chain(signer);
            specs.iter().map(|spec| manifest::sign(spec, &chain)).collect::<Result<Vec<_>, _>>()
        };
        Ok(GpuCase {
            devices: self.answers.iter().map(evidence).collect::<Result<_, _>>()?,
            nonce: *nonce,
            driver_rims: rims(std::slice::from_ref(&self.driver_rim), "driver-signer")?,
            vbios_rims: rims(&self.vbios_rims, "vbios-signer")?,
            ocsp: self.responses(pki, made)?,
            system: self.system,
            device_root: pki.der("device-root"),
            rim_root: pki.der("rim-root"),
            settings: self.settings.clone(),
            at: self.at,
        })
    }

    /// One answer about every certificate but roots and leafs of devices.
    fn responses(&self, pki: &Pki, devices: &[Device]) -> Result<Vec<Vec<u8>>, SimulatorError> {
        let mut out = Vec::new();
        let provisioner = pki.chain("device-provisioner");
        let delegate = pki.chain(self.responder);
        let about = |subject: &Entity, issuer: &Entity, signer: &Entity, answer| {
            response(subject, issuer, signer, answer, self.answered)
        };
        for device in devices {
            out.push(about(&device.identity, &provisioner[0], &provisioner[0], Answer::Good)?);
        }
        let of_description = [
            "device-provisioner",
            "device-model",
            "driver-signer",
            "vbios-signer",
            "rim-driver",
            "rim-vbios",
            "rim-model",
        ];
        for id in of_description {
            let chain = pki.chain(id);
            let answer =
                self.answer.filter(|(name, _)| *name == id).map_or(Answer::Good, |(_, answer)| answer);
            let signer = if id == "driver-signer" { &delegate[0] } else { &chain[1] };
            out.push(about(&chain[0], &chain[1], signer, answer)?);
        }
        Ok(out)
    }
}
