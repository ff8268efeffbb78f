//! A simulated GPU or NVSwitch: its own two certificates, and reports.

use super::der::{implicit, integer, octets, oid, seq, tagged, utf8};
use super::pki::{Entity, Pki, Wanted, extension};
use crate::SimulatorError;
use evidence::gpu::DeviceEvidence;
use std::collections::BTreeMap;

const SHA384: &str = "2.16.840.1.101.3.4.2.2";
const ON: u8 = 0xaa;
const OFF: u8 = 0x55;

/// What a device is and says.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) model: &'static str,
    pub(crate) serial: String,
    pub(crate) driver: &'static str,
    /// As in `96.00.9F.00.01`.
    pub(crate) vbios: [u8; 5],
    /// Feature flag: 0 SPT, 1 MPT, 2 PPCIE.
    pub(crate) mode: u16,
    pub(crate) protected_pcie: bool,
    /// Firmware that the leaf is issued for, and the one that the report names.
    pub(crate) leaf_fwid: [u8; 48],
    pub(crate) report_fwid: [u8; 48],
    /// Flags of a DiceTcbInfo; a CompositeDeviceID if none.
    pub(crate) dice_flags: Option<u8>,
    /// Values by SPDM index.
    pub(crate) measurements: BTreeMap<u8, [u8; 48]>,
    /// Identities at the other ends of its links.
    pub(crate) linked: Vec<[u8; 8]>,
    /// Identity of a switch.
    pub(crate) pdi: Option<[u8; 8]>,
}

/// Keys and certificates of a device.
pub(crate) struct Device {
    leaf: Entity,
    /// The key that stays the same whatever firmware runs.
    pub(crate) identity: Entity,
    chain: Vec<Vec<u8>>,
}

impl Device {
    pub(crate) fn make(spec: &Spec, pki: &Pki) -> Result<Self, SimulatorError> {
        let above = pki.chain("device-provisioner");
        let name = format!("{} A01 SIMULATED BROM {}", spec.model, spec.serial);
        let identity =
            Entity::make(&Wanted { usage: 0x04, ..Wanted::ca(&name) }, above.first().map(|e| &**e))?;
        let name = format!("{} A01 SIMULATED FMC LF", spec.model);
        let mut wanted = Wanted::leaf(&name);
        wanted.extensions = vec![alternative_name(spec), firmware_id(spec, &identity)];
        let leaf = Entity::make(&wanted, Some(&identity))?;
        let mut chain = vec![leaf.certificate.clone(), identity.certificate.clone()];
        chain.extend(above.iter().map(|entity| entity.certificate.clone()));
        Ok(Device { leaf, identity, chain })
    }

    /// The evidence of this device for a challenge.
    pub(crate) fn evidence(&self, spec: &Spec, nonce: &[u8; 32]) -> Result<DeviceEvidence, SimulatorError> {
        let mut report = request(nonce);
        report.extend(response(spec));
        let signature = self.leaf.sign_fixed(&report)?;
        report.extend(signature);
        Ok(DeviceEvidence { report, chain: self.chain.clone(), arch: None })
    }
}

fn alternative_name(spec: &Spec) -> Vec<u8> {
    let info = format!("NVIDIA:{}:{}", spec.model, spec.serial);
    let other = tagged(0, &[oid("1.3.6.1.4.1.412.274.1"), tagged(0, &utf8(&info))].concat());
    extension("2.5.29.17", &seq(&[other]))
}

fn firmware_id(spec: &Spec, identity: &Entity) -> Vec<u8> {
    let fwid = seq(&[oid(SHA384), octets(&spec.leaf_fwid)]);
    match spec.dice_flags {
        None => extension("2.23.133.5.4.1", &seq(&[integer(&[1]), identity.key_info(), fwid])),
        Some(flags) => {
            // BIT STRING of four bits, the first one highest.
            let flags = implicit(7, &[4, flags.reverse_bits()]);
            extension("2.23.133.5.4.1.1", &seq(&[implicit(0, b"SIMULATED"), tagged(6, &fwid), flags]))
        }
    }
}

fn request(nonce: &[u8; 32]) -> Vec<u8> {
    [&[0x11, 0xe0, 0x01, 0xff][..], nonce, &[0]].concat()
}

fn response(spec: &Spec) -> Vec<u8> {
    let mut record = Vec::new();
    for (index, value) in &spec.measurements {
        record.extend([*index, 1, 51, 0, 1, 48, 0]);
        record.extend(value);
    }
    let len = record.len();
    let mut out = vec![0x11, 0x60, 0, 0, spec.measurements.len() as u8];
    out.extend([len as u8, (len >> 8) as u8, (len >> 16) as u8]);
    out.extend(record);
    out.extend([0x5a; 32]);
    let opaque = opaque(spec);
    out.extend((opaque.len() as u16).to_le_bytes());
    out.extend(opaque);
    out
}

fn opaque(spec: &Spec) -> Vec<u8> {
    let zero_ended = |text: &str| [text.as_bytes(), &[0]].concat();
    let [a, b, c, d, e] = spec.vbios;
    let dotted = format!("{a:02X}.{b:02X}.{c:02X}.{d:02X}.{e:02X}");
    let mut fields: Vec<(u16, Vec<u8>)> = vec![
        (3, zero_ended(spec.driver)),
        (11, vec![OFF]),
        (17, zero_ended("SIM0")),
        (20, spec.report_fwid.to_vec()),
        (21, vec![if spec.protected_pcie { ON } else { OFF }]),
        (34, vec![1, 0]),
        (36, spec.mode.to_le_bytes().to_vec()),
    ];
    match spec.pdi {
        Some(pdi) => {
            let mut gpus = spec.linked.clone();
            gpus.resize(8, [0; 8]);
            fields.extend([(6, zero_ended(&dotted)), (22, pdi.to_vec()), (26, gpus.concat())]);
        }
        None => fields.extend([(6, vec![d, c, b, a, e, 0, 0, 0]), (22, spec.linked.concat())]),
    }
    let field = |(id, value): (u16, Vec<u8>)| {
        [&id.to_le_bytes()[..], &(value.len() as u16).to_le_bytes(), &value].concat()
    };
    fields.into_iter().flat_map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_highest_bit_first() {
        assert_eq!(implicit(7, &[4, 0b1000u8.reverse_bits()]), [0x87, 2, 4, 0b0001_0000]);
    }
}
