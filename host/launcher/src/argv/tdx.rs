//! The words of a trust domain: its object, its vsock, and the devices that are passed through. Not validated on hardware.
//!
//! Each accelerator is function 0 behind a root port of its own, as the prediction has it ([`measure::shape::ROOT_PORT`]); all share
//! one I/O address space (iommufd).

use super::{Args, at, comma};
use crate::machine::{PciAddress, QuoteService, TrustDomain, Vsock};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use measure::shape::{ROOT_PORT, slot};
use serde_json::json;

/// The `tdx-guest` object: QEMU wants MRCONFIGID as base64 (RFC 4648, section 4).
pub(super) fn object(args: &mut Args, domain: &TrustDomain, mrconfigid: &[u8; 48]) {
    let quotes = match &domain.quotes {
        QuoteService::Vsock { cid, port } => {
            json!({"type": "vsock", "cid": cid.to_string(), "port": port.to_string()})
        }
        QuoteService::Unix(path) => json!({"type": "unix", "path": path.to_string_lossy()}),
    };
    let object = json!({
        "qom-type": "tdx-guest",
        "id": "tdx",
        "mrconfigid": STANDARD.encode(mrconfigid),
        "quote-generation-socket": quotes,
    });
    args.pair("-object", &object.to_string());
}

/// vsock, then what is passed through.
pub(super) fn devices(args: &mut Args, domain: &TrustDomain) {
    match &domain.vsock {
        Some(Vsock::Vhost { cid }) => {
            args.pair("-device", &format!("vhost-vsock-pci,guest-cid={cid},{}", at(slot::VSOCK)));
        }
        Some(Vsock::VhostUser { socket }) => {
            args.pair("-chardev", &format!("socket,id=vsock,path={}", comma(socket)));
            args.pair("-device", &format!("vhost-user-vsock-pci,chardev=vsock,{}", at(slot::VSOCK)));
        }
        None => {}
    }
    if domain.devices().next().is_some() {
        args.pair("-object", "iommufd,id=iommu");
    }
    pass(args, "gpu", slot::GPU_PORTS, &domain.gpus);
    pass(args, "nvswitch", slot::NVSWITCH_PORTS, &domain.nvswitches);
}

fn pass(args: &mut Args, name: &str, first: u8, devices: &[PciAddress]) {
    for (number, device) in (first..).zip(devices) {
        let index = number - first;
        let place = format!("chassis={number},slot={number},bus=pcie.0,addr=0x{number:02x}");
        args.pair("-device", &format!("{ROOT_PORT},id={name}-port{index},{place}"));
        let behind = format!("bus={name}-port{index},addr=0x00,iommufd=iommu");
        args.pair("-device", &format!("vfio-pci,id={name}{index},host={device},{behind}"));
    }
}
