//! Machines for this crate's tests: nothing that they name need be there.

use crate::gpu::chip::Mode;
use crate::machine::{After, PciAddress, QuoteService, TrustDomain, Vsock};
use crate::settings::{Firmware, Image, Model, Settings};
use measure::shape::{Gpu, QemuVersion};
use protocol::config::ModelPin;

/// An emulated machine of the smallest kind.
pub(crate) fn settings() -> Settings {
    let firmware = Firmware { code: "/ovmf/code.fd".into(), vars: Some("/ovmf/vars.fd".into()) };
    let bare = Settings::bare("/image/uki.efi".into(), firmware, "/run,1".into());
    let image = Image { disk: Some("/image/disk.raw".into()), ..bare.image };
    Settings { image, ..bare }
}

/// A model disk.
pub(crate) fn model() -> Model {
    let pin = ModelPin { name: "m".into(), root: "ab".repeat(32), data_blocks: 3 };
    Model { image: "/models/a, b.img".into(), pin }
}

/// A trust domain with so many accelerators.
pub(crate) fn domain(gpus: u8, nvswitches: u8) -> TrustDomain {
    let addresses = |bus: u8, count: u8| {
        (0..count).map(|i| PciAddress::parse(&format!("0000:{:02x}:00.0", bus + i)).unwrap()).collect()
    };
    TrustDomain {
        quotes: QuoteService::Vsock { cid: 2, port: 4050 },
        vsock: Some(Vsock::Vhost { cid: 7 }),
        gpus: addresses(0x17, gpus),
        gpu: (gpus > 0).then_some(Gpu::H200),
        nvswitches: addresses(0x80, nvswitches),
        gpu_mode: if nvswitches > 0 { Mode::ProtectedPcie } else { Mode::On },
        gpus_after: After::Keep,
        phys_bits: 46,
        qemu: QemuVersion::V10_2,
    }
}
