//! Why a machine that was foretold is none of the published ones, in words that a person can act on.
//!
//! The nearest published machine is taken (most registers alike); files are compared by hash, and the shape by the inverse search
//! of [`measure::explain`], which is given this machine's registers and the published shape.

use launcher::Settings;
use launcher::foretell::Foretold;
use measure::explain::{Artifacts, Bounds, Evidence, Expected, File, explain};
use measure::{Boot, Digest256, Registers};
use release::{Accepted, Machine, Published, Tuple};
use std::path::{Path, PathBuf};

/// One line a difference; `None` where nothing is published or a file can't be read.
pub(super) fn nearest(
    published: &Published,
    settings: &Settings,
    foretold: &Foretold,
    seen: &dyn Fn(&Path) -> PathBuf,
) -> Option<String> {
    let releases = published.releases.as_deref()?.releases();
    let machines = releases
        .iter()
        .flat_map(|release| release.measurements().machines.iter().map(move |machine| (release, machine)));
    let (release, machine) =
        machines.max_by_key(|(_, machine)| alike(&machine.registers, &foretold.registers))?;
    let read = |path: &Path| std::fs::read(path).ok();
    let (code, uki) = (read(&seen(&settings.firmware.code))?, read(&settings.image.uki)?);
    let vars = settings.firmware.vars.as_deref().map_or(Some(Vec::new()), |vars| read(&seen(vars)))?;
    let mut lines = files(release, machine, settings, &code, &uki);
    lines.extend(shape(machine, foretold, [&code, &vars, &uki]));
    let title = format!("nearest published machine: {}, {}", release.id(), machine.title());
    Some(lines.into_iter().fold(title, |text, line| format!("{text}\n  {line}")))
}

fn alike(tuple: &Tuple, registers: &Registers) -> usize {
    let pairs = [
        (tuple.mrtd, registers.mrtd),
        (tuple.rtmr0, registers.rtmr[0]),
        (tuple.rtmr1, registers.rtmr[1]),
        (tuple.rtmr2, registers.rtmr[2]),
    ];
    pairs.iter().filter(|(published, foretold)| published == foretold).count()
}

/// Files by their hashes, and the way of booting.
fn files(release: &Accepted, machine: &Machine, settings: &Settings, code: &[u8], uki: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut differs = |what: String, found: Digest256, expected: Digest256| {
        if found != expected {
            lines.push(format!("{what} is {found:.16}..., published {expected:.16}..."));
        }
    };
    differs("firmware".into(), Digest256::of(code), machine.firmware);
    let name = settings.image.uki.file_name().unwrap_or_default().to_string_lossy();
    if let Some(artifact) = release.measurements().artifacts.iter().find(|file| file.name == name) {
        differs(format!("kernel image {name}"), Digest256::of(uki), artifact.sha256);
    }
    if machine.boot != settings.boot {
        let form = |boot: Boot| if boot == Boot::Disk { "disk" } else { "direct" };
        lines.push(format!("boot is {:?}, published {:?}", form(settings.boot), form(machine.boot)));
    }
    lines
}

/// What the registers of this machine say of its shape, held against the published one.
fn shape(machine: &Machine, foretold: &Foretold, files: [&Vec<u8>; 3]) -> Vec<String> {
    let Registers { mrtd, rtmr: [rtmr0, rtmr1, rtmr2, _] } = foretold.registers;
    let registers = [Some(mrtd), Some(rtmr0), Some(rtmr1), Some(rtmr2), None];
    let evidence = Evidence { registers, ..Evidence::default() };
    let named = ["code.fd", "vars.fd", "uki.efi"].into_iter().zip(files);
    let files: Vec<File<'_>> =
        named.filter(|(_, bytes)| !bytes.is_empty()).map(|(path, bytes)| File { path, bytes }).collect();
    let artifacts = Artifacts::gather(&files, "this machine");
    let expected = Expected { shape: Some(machine.shape.clone()), boot: Some(machine.boot), vmm: None };
    let explanation = explain(&evidence, &artifacts, &expected, Bounds::default());
    explanation.facts.iter().filter(|fact| fact.expected.is_some()).map(ToString::to_string).collect()
}
