//! A small firmware image with packed volumes, for tests and as a seed for fuzzing.

use super::probe::samples::{bds, td_tcg2};
use super::probe::{BDS_DXE, KERNEL_LOADER, TD_TCG2_DXE};
use super::tdvf::Section;
use super::tdvf::samples::with_table;
use super::volume::samples::{file, section, volume_of};
use super::*;
use crate::pe::samples::pe;
use crate::predict::boot_options::UI_APP;

/// Why packing into memory can't fail.
const NO_FAULT: &str = "writing to memory does not fail";

/// Name of the DXE volume.
pub const DXE_NAME: Guid = [0xdd; 16];

/// A firmware with a PEI core that keeps the timer's port, Tcg2Pei with a version, and these DXE files.
pub fn firmware(dxe_files: &[Guid]) -> Vec<u8> {
    firmware_of(&dxe_files.iter().map(|g| file(g, 9, &section(0x19, b"x"))).collect::<Vec<_>>())
}

/// A whole image of a trust domain's firmware that boots directly. Its separator has this argument, its boot manager
/// names the initrd like this, its kernel loader reads files of this name; `salt` makes another build of it.
pub fn tdx(separator: Option<u32>, initrd: &[u8], file: &[u8], salt: &[u8]) -> Vec<u8> {
    let code = |text: &[u8]| pe(&[(".text", text)], b"", b"");
    image_of(&[
        (TD_TCG2_DXE, td_tcg2(separator)),
        (BDS_DXE, bds(initrd)),
        (KERNEL_LOADER, code(file)),
        (UI_APP, code(salt)),
    ])
}

/// An image with these modules: an empty variable store, then the volumes, then the metadata.
fn image_of(modules: &[(Guid, Vec<u8>)]) -> Vec<u8> {
    let modules = modules.iter().map(|(guid, code)| file(guid, 7, &section(volume::SECTION_PE32, code)));
    let mut image = super::variables::samples::store(&[]);
    let store = image.len();
    image.extend(firmware_of(&modules.collect::<Vec<_>>()));
    let size = image.len().next_multiple_of(4096);
    image.resize(size, 0);
    let sections = [
        section_of(0, store, 0xff00_0000, store.next_multiple_of(4096), 1, 0),
        section_of(0, size, 0xffc0_0000, size, 0, 1),
        section_of(0, 0, 0x80_9000, 0x2000, 2, 0),
        section_of(0, 0, 0x81_0000, 0x1_0000, 3, 0),
    ];
    with_table(image, &sections)
}

fn section_of(at: usize, raw: usize, address: u64, memory: usize, kind: u32, attributes: u32) -> Section {
    Section { data_offset: at, raw_size: raw, address, memory_size: memory as u64, kind, attributes }
}

fn firmware_of(dxe: &[Vec<u8>]) -> Vec<u8> {
    let mut core = vec![0x90; 64];
    // add ebx, 8; mov [rip + 20], ebx
    core.extend([0x83, 0xc3, 0x08, 0x89, 0x1d, 20, 0, 0, 0]);
    core.extend([0x90; 20]);
    core.extend([0; 4]);
    let version: Vec<u8> = "1.2-3".encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let pei = volume_of(
        &[0; 16],
        &[
            file(&[1; 16], volume::FILE_PEI_CORE, &section(volume::SECTION_PE32, &core)),
            file(&TCG2_PEI, 6, &section(volume::SECTION_PE32, &[&[0x0f, 1][..], &version].concat())),
        ],
    );
    let core = file(&[5; 16], volume::FILE_DXE_CORE, &section(volume::SECTION_PE32, b"core"));
    let dxe = volume_of(&DXE_NAME, &[&[core], dxe].concat());
    let unpacked = [section(volume::SECTION_VOLUME, &pei), section(volume::SECTION_VOLUME, &dxe)]
        .map(volume::samples::aligned)
        .concat();
    let mut packed = Vec::new();
    let options = lzma_rust2::LzmaOptions::with_preset(1);
    let mut writer =
        lzma_rust2::LzmaWriter::new_use_header(&mut packed, &options, Some(unpacked.len() as u64))
            .expect(NO_FAULT);
    std::io::Write::write_all(&mut writer, &unpacked).expect(NO_FAULT);
    writer.finish().expect(NO_FAULT);
    let guided = [&LZMA_SECTION[..], &24u16.to_le_bytes(), &1u16.to_le_bytes(), &packed].concat();
    volume_of(
        &[0; 16],
        &[file(&[2; 16], volume::FILE_VOLUME_IMAGE, &section(volume::SECTION_GUIDED, &guided))],
    )
}
