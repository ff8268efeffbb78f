//! What a machine could have been made of: files, each taken for what its content says it is, grouped by release.
//!
//! ```text
//! DIR/                  files here belong to every release (or are the only one)
//!   1.2/  uki.efi ...   a folder with a payload, a disk or a description is a release
//!   acpi/ acpi_tables.bin  captured ACPI files belong to the release around them, else to every one
//! ```
//! Names matter in three places only, because content can't tell: `cmdline*` is a command line, `BootOrder.bin` and
//! `Boot####.bin` are captured variables, `initrd*` wins among files that are compressed archives of something.

use crate::acpi::{self, AcpiBlobs};
use crate::error::MeasureError;
use crate::firmware::{tdvf, variables};
use crate::pe;
use crate::predict::{BootVariables, Linux, Payload};
use crate::shape::Shape;
use serde::Serialize;
use std::collections::BTreeMap;

/// Longest command line that is read.
const MAX_CMDLINE: usize = 64 * 1024;
/// Kernels, initrds and command lines are tried in all combinations; more of each than this aren't.
const MAX_OF_A_KIND: usize = 8;

/// A file that may be an artifact.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    /// Path below the folder, with `/`.
    pub path: &'a str,
    /// Content; of something that begins like a disk, the front is enough.
    pub bytes: &'a [u8],
}

/// What a file was taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Firmware with TDX metadata.
    Tdvf,
    /// Firmware without (emulated platform).
    FirmwareCode,
    /// Pristine variable store (emulated platform).
    Variables,
    /// Unified kernel image.
    Uki,
    /// Linux kernel.
    Kernel,
    /// Initrd.
    Initrd,
    /// Kernel command line.
    CommandLine,
    /// Raw disk.
    Disk,
    /// Captured `etc/acpi/tables`.
    AcpiTables,
    /// Captured `etc/table-loader`.
    AcpiLoader,
    /// Captured `etc/acpi/rsdp`.
    AcpiRsdp,
    /// Captured boot variable.
    BootVariable,
    /// Shape file.
    Shape,
    /// Says what the release is called.
    Description,
    /// None of these.
    Unused,
}

impl Kind {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Tdvf => "TDX firmware",
            Kind::FirmwareCode => "firmware code",
            Kind::Variables => "variable store",
            Kind::Uki => "UKI",
            Kind::Kernel => "kernel",
            Kind::Initrd => "initrd",
            Kind::CommandLine => "command line",
            Kind::Disk => "disk",
            Kind::AcpiTables => "captured ACPI tables",
            Kind::AcpiLoader => "captured ACPI loader",
            Kind::AcpiRsdp => "captured ACPI root pointer",
            Kind::BootVariable => "captured boot variable",
            Kind::Shape => "shape",
            Kind::Description => "release description",
            Kind::Unused => "not used",
        }
    }

    /// A folder that holds one of these is a release of its own.
    fn makes_release(self) -> bool {
        matches!(self, Kind::Uki | Kind::Kernel | Kind::Disk | Kind::Description)
    }
}

/// Takes a file for what its content says.
pub fn classify(file: &File<'_>) -> Kind {
    let (name, bytes) = (base_name(file.path), file.bytes);
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    let archive: [&[u8]; 7] = [
        b"070701",
        b"070702",
        &[0x1f, 0x8b],
        &[0x28, 0xb5, 0x2f, 0xfd],
        b"\xfd7zXZ\0",
        b"\x02!L\x18",
        b"BZh",
    ];
    if starts(b"FACS") {
        Kind::AcpiTables
    } else if starts(b"RSD PTR ") {
        Kind::AcpiRsdp
    } else if starts(b"\x01\0\0\0etc/") && bytes.len().is_multiple_of(128) {
        Kind::AcpiLoader
    } else if bytes.get(512..520) == Some(b"EFI PART") {
        Kind::Disk
    } else if starts(b"MZ") {
        executable(bytes)
    } else if bytes.get(40..44) == Some(b"_FVH") || tdvf::metadata(bytes).is_ok() {
        firmware(bytes)
    } else if boot_variable(name).is_some() {
        Kind::BootVariable
    } else if archive.iter().any(|magic| starts(magic)) || (name.starts_with("initrd") && !bytes.is_empty()) {
        Kind::Initrd
    } else if name.starts_with("cmdline") && bytes.len() <= MAX_CMDLINE && std::str::from_utf8(bytes).is_ok()
    {
        Kind::CommandLine
    } else if shape(file).is_some() {
        Kind::Shape
    } else if described(file).is_some() {
        Kind::Description
    } else {
        Kind::Unused
    }
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Number of a `Boot####.bin`, `None` inside for `BootOrder.bin`.
fn boot_variable(name: &str) -> Option<Option<u16>> {
    let stem = name.strip_prefix("Boot")?.strip_suffix(".bin")?;
    if stem == "Order" {
        return Some(None);
    }
    (stem.len() == 4).then(|| u16::from_str_radix(stem, 16).ok().map(Some))?
}

fn executable(bytes: &[u8]) -> Kind {
    let sections = pe::Image::parse(bytes).map(|image| image.sections).unwrap_or_default();
    if sections.iter().any(|section| section.name == ".linux") {
        Kind::Uki
    } else if bytes.get(0x202..0x206) == Some(b"HdrS") {
        Kind::Kernel
    } else {
        Kind::Unused
    }
}

fn firmware(bytes: &[u8]) -> Kind {
    if tdvf::metadata(bytes).is_ok() {
        return Kind::Tdvf;
    }
    let length = bytes.get(32..40).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    let whole = length == Some(bytes.len() as u64);
    if whole && variables::parse(bytes).is_ok() { Kind::Variables } else { Kind::FirmwareCode }
}

fn shape(file: &File<'_>) -> Option<Shape> {
    if !file.path.ends_with(".toml") || file.bytes.len() > MAX_CMDLINE {
        return None;
    }
    Shape::from_toml(std::str::from_utf8(file.bytes).ok()?).ok()
}

/// What a JSON description says: the release's name, and a command line where it has one.
fn described(file: &File<'_>) -> Option<(Option<String>, Option<String>)> {
    let known = ["release.json", "artifacts.json"].contains(&base_name(file.path));
    if !known || file.bytes.len() > MAX_CMDLINE {
        return None;
    }
    let json: serde_json::Value = serde_json::from_slice(file.bytes).ok()?;
    let text = |field: &str| {
        json.get(field).and_then(|v| v.as_str()).map(|v| v.chars().take(80).collect::<String>())
    };
    let name = text("release").or_else(|| text("version")).or_else(|| text("name"));
    let cmdline = json.get("cmdline").and_then(|v| v.as_str()).map(str::to_owned);
    Some((name, cmdline))
}

/// An artifact and where it lies.
#[derive(Debug, Clone)]
pub struct Named<T> {
    /// Path below the folder.
    pub path: String,
    /// The artifact.
    pub item: T,
}

/// ACPI files of a machine, as captured; what was not captured is derived.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Loader, root pointer, tables.
    pub blobs: AcpiBlobs,
    /// Boot variables.
    pub variables: BootVariables,
}

/// Everything that one release is made of, what is shared among all included.
#[derive(Debug, Clone, Default)]
pub struct Release<'a> {
    /// Its name: what its description says, else its folder's.
    pub name: String,
    /// TDX firmware.
    pub firmware: Vec<Named<&'a [u8]>>,
    /// Firmware of the emulated platform.
    pub code: Vec<Named<&'a [u8]>>,
    /// Variable stores of the emulated platform.
    pub variables: Vec<Named<&'a [u8]>>,
    /// What can be booted.
    pub payloads: Vec<Named<OwnedPayload<'a>>>,
    /// Initrds apart, to be told from one another.
    pub initrds: Vec<Named<&'a [u8]>>,
    /// Fronts of disks.
    pub disks: Vec<Named<&'a [u8]>>,
    /// Captured ACPI files.
    pub acpi: Vec<Named<Captured>>,
    /// Shapes.
    pub shapes: Vec<Named<Shape>>,
}

/// A payload that owns its command line.
#[derive(Debug, Clone)]
pub enum OwnedPayload<'a> {
    /// A UKI.
    Uki(&'a [u8]),
    /// Kernel, initrd, command line.
    Linux(&'a [u8], Option<&'a [u8]>, String),
}

impl OwnedPayload<'_> {
    /// As the prediction takes it.
    pub fn borrow(&self) -> Payload<'_> {
        match self {
            OwnedPayload::Uki(bytes) => Payload::Uki(bytes),
            OwnedPayload::Linux(kernel, initrd, cmdline) => {
                Payload::Linux(Linux { kernel, initrd: *initrd, cmdline })
            }
        }
    }
}

/// All releases, and what each file was taken for.
#[derive(Debug, Clone, Default)]
pub struct Artifacts<'a> {
    /// Releases, by name of their folder.
    pub releases: Vec<Release<'a>>,
    /// Path and kind of every file, in order of paths.
    pub files: Vec<(String, Kind)>,
    /// What could not be used although it looked like an artifact: path and reason.
    pub faults: Vec<(String, String)>,
}

impl<'a> Artifacts<'a> {
    /// Sorts files into releases; `name` is what a lone release is called if nothing describes it.
    pub fn gather(files: &[File<'a>], name: &str) -> Self {
        let mut sorted: Vec<_> = files.iter().map(|file| (*file, classify(file))).collect();
        sorted.sort_by_key(|(file, _)| file.path);
        let mut artifacts = Artifacts::default();
        let first = |path: &str| path.split_once('/').map(|(folder, _)| folder.to_owned());
        let mut folders: BTreeMap<String, Vec<(File<'a>, Kind)>> = BTreeMap::new();
        for (file, kind) in &sorted {
            artifacts.files.push((file.path.to_owned(), *kind));
            if let (Some(folder), true) = (first(file.path), kind.makes_release()) {
                folders.entry(folder).or_default();
            }
        }
        let mut shared = Vec::new();
        for (file, kind) in sorted {
            match first(file.path).and_then(|folder| folders.get_mut(&folder)) {
                Some(own) => own.push((file, kind)),
                None => shared.push((file, kind)),
            }
        }
        if folders.is_empty() {
            artifacts.add(name, &shared, &[]);
        }
        for (folder, own) in &folders {
            artifacts.add(folder, own, &shared);
        }
        artifacts
    }

    fn add(&mut self, name: &str, own: &[(File<'a>, Kind)], shared: &[(File<'a>, Kind)]) {
        let mut release = Release { name: name.to_owned(), ..Release::default() };
        let (mut kernels, mut lines) = (Vec::new(), Vec::new());
        for (file, kind) in own.iter().chain(shared) {
            let named = Named { path: file.path.to_owned(), item: file.bytes };
            match kind {
                Kind::Tdvf => release.firmware.push(named),
                Kind::FirmwareCode => release.code.push(named),
                Kind::Variables => release.variables.push(named),
                Kind::Uki => {
                    release.payloads.push(Named { path: named.path, item: OwnedPayload::Uki(named.item) });
                }
                Kind::Kernel => kernels.push(named),
                Kind::Initrd => release.initrds.push(named),
                Kind::Disk => release.disks.push(named),
                Kind::CommandLine => lines.push(line_of(file.bytes)),
                Kind::Shape => {
                    release.shapes.extend(shape(file).map(|item| Named { path: named.path, item }))
                }
                Kind::AcpiTables => match captured(file, own, shared) {
                    Ok(item) => release.acpi.push(Named { path: named.path, item }),
                    Err(error) => self.faults.push((named.path, error.to_string())),
                },
                Kind::Description => {
                    let (described, line) = described(file).unwrap_or_default();
                    release.name = described.unwrap_or(release.name);
                    lines.extend(line);
                }
                Kind::AcpiLoader | Kind::AcpiRsdp | Kind::BootVariable | Kind::Unused => {}
            }
        }
        release.payloads.extend(combinations(&kernels, &release.initrds, &lines));
        self.releases.push(release);
    }
}

/// A command line as a file holds it: without the line break at its end.
fn line_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches(['\n', '\r', '\0']).to_owned()
}

/// Kernel, initrd and command line in all combinations; without a command line, with an empty one.
fn combinations<'a>(
    kernels: &[Named<&'a [u8]>],
    initrds: &[Named<&'a [u8]>],
    lines: &[String],
) -> Vec<Named<OwnedPayload<'a>>> {
    let empty = [String::new()];
    let lines = if lines.is_empty() { &empty } else { lines };
    let mut choices: Vec<_> = initrds.iter().map(|initrd| Some(initrd.item)).take(MAX_OF_A_KIND).collect();
    if choices.is_empty() {
        choices.push(None);
    }
    let mut out = Vec::new();
    for kernel in kernels.iter().take(MAX_OF_A_KIND) {
        for initrd in &choices {
            for line in lines.iter().take(MAX_OF_A_KIND) {
                let item = OwnedPayload::Linux(kernel.item, *initrd, line.clone());
                out.push(Named { path: kernel.path.clone(), item });
            }
        }
    }
    out
}

/// Tables with the loader, the root pointer and the boot variables that lie beside them.
fn captured(
    tables: &File<'_>,
    own: &[(File<'_>, Kind)],
    shared: &[(File<'_>, Kind)],
) -> Result<Captured, MeasureError> {
    let folder = |path: &str| path.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
    let here = folder(tables.path);
    let beside: Vec<_> = own.iter().chain(shared).filter(|(file, _)| folder(file.path) == here).collect();
    let find =
        |wanted: Kind| beside.iter().find(|(_, kind)| *kind == wanted).map(|(file, _)| file.bytes.to_vec());
    let (loader, rsdp) = (find(Kind::AcpiLoader), find(Kind::AcpiRsdp));
    let blobs = match (loader, rsdp) {
        (Some(loader), Some(rsdp)) => {
            AcpiBlobs { loader, rsdp, tpm_log: None, tables: tables.bytes.to_vec() }
        }
        (loader, rsdp) => {
            let derived = acpi::derive(tables.bytes)?;
            AcpiBlobs {
                loader: loader.unwrap_or(derived.loader),
                rsdp: rsdp.unwrap_or(derived.rsdp),
                ..derived
            }
        }
    };
    let mut variables = BootVariables::default();
    for (file, _) in &beside {
        match boot_variable(base_name(file.path)) {
            Some(Some(number)) => drop(variables.options.insert(number, file.bytes.to_vec())),
            Some(None) => variables.order = Some(file.bytes.to_vec()),
            None => {}
        }
    }
    Ok(Captured { blobs, variables })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn file<'a>(path: &'a str, bytes: &'a [u8]) -> File<'a> {
        File { path, bytes }
    }

    fn kernel() -> Vec<u8> {
        let mut kernel = b"MZ".to_vec();
        kernel.resize(0x202, 0);
        kernel.extend(b"HdrS");
        kernel
    }

    #[test]
    fn files_are_taken_for_what_they_hold() {
        let (uki, disk, store) = (samples::uki(b"quiet"), samples::disk(), samples::store(&[]));
        let tables = acpi::generate(&acpi::Machine::emulated(&Shape::new(1, 1024))).tables;
        let kernel = kernel();
        for (name, bytes, kind) in [
            ("a", uki.as_slice(), Kind::Uki),
            ("a", &kernel, Kind::Kernel),
            ("a", &disk, Kind::Disk),
            ("a", &store, Kind::Variables),
            ("a", &tables, Kind::AcpiTables),
            ("a", b"070701...", Kind::Initrd),
            ("cmdline.txt", b"quiet\n", Kind::CommandLine),
            ("a", b"quiet\n", Kind::Unused),
            ("s.toml", b"schema = 1\nvcpus = 2\nmemory_mib = 2048\n", Kind::Shape),
            ("s.toml", b"schema = 1\n", Kind::Unused),
            ("release.json", b"{\"version\":\"1.2\"}", Kind::Description),
            ("Boot0001.bin", b"x", Kind::BootVariable),
            ("Boot000.bin", b"x", Kind::Unused),
        ] {
            assert_eq!(classify(&file(name, bytes)), kind, "{name} {kind:?}");
        }
    }

    #[test]
    fn folders_with_a_payload_are_releases_and_the_rest_is_shared() {
        let (kernel, store) = (kernel(), samples::store(&[]));
        let files = [
            file("1.1/kernel", &kernel),
            file("1.1/cmdline", b"one\n"),
            file("b/kernel", &kernel),
            file("b/release.json", b"{\"version\":\"1.2\"}"),
            file("firmware/vars.fd", &store),
        ];
        let artifacts = Artifacts::gather(&files, "lone");
        let names: Vec<_> = artifacts.releases.iter().map(|r| (r.name.as_str(), r.variables.len())).collect();
        assert_eq!(names, [("1.1", 1), ("1.2", 1)]);
        let lines: Vec<_> = artifacts.releases.iter().map(|r| r.payloads.len()).collect();
        assert_eq!(lines, [1, 1]);
        let lone = Artifacts::gather(&files[4..], "lone");
        assert_eq!(lone.releases[0].name, "lone");
    }
}
