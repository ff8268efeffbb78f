//! The neighbourhood of a machine: shapes near an expected one, nearest first; and what a shape's events hash to.
//!
//! ```text
//! ring 0  the shape itself; where nothing is expected, every number of vCPUs with every common amount of memory
//! ring 1  one dimension changed to any value
//! ring 2  two dimensions changed to near or common values
//! ```
//! What costs time is generating and hashing ACPI tables (some 130 KiB a machine), so shapes whose tables are equal share
//! them, and their number is bounded: see [`Bounds`].

use super::search;
use super::template::{Step, fold};
use crate::acpi::{self, Machine};
use crate::error::{Input, MeasureError};
use crate::event::{AcpiFile, Event, Prediction};
use crate::firmware::td_hob;
use crate::firmware::tdvf::{self, Section};
use crate::register::{Digest384, Register};
use crate::shape::{Platform, QemuVersion, Shape};
use std::collections::{BTreeMap, HashMap};

/// How far a search may go. The default takes some seconds at most on one core of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Different sets of ACPI tables that are generated.
    pub tables: usize,
    /// Register values that are computed, for each register.
    pub candidates: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { tables: 4096, candidates: 400_000 }
    }
}

/// Amounts of memory that hosts sell, in MiB, ascending.
pub(super) fn common_memory() -> Vec<u64> {
    let gib =
        (1..=32).chain((36..=128).step_by(4)).chain((144..=512).step_by(16)).chain((544..=1024).step_by(32));
    let large = (1088..=2048).step_by(64).chain((2304..=6144).step_by(256));
    [256, 512, 768].into_iter().chain(gib.chain(large).map(|gib: u64| gib * 1024)).collect()
}

/// Numbers of vCPUs that hosts sell.
const COMMON_VCPUS: [u32; 24] =
    [1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 30, 32, 40, 48, 56, 64, 96, 128, 192, 256, 512];
/// Amounts of memory that are tried with other devices where nothing is expected.
const COMMON_GIB: [u64; 8] = [2, 4, 8, 16, 32, 64, 128, 256];
/// What a host keeps for itself, or a typing error adds, in MiB.
const MEMORY_STEPS: [u64; 10] = [1, 2, 16, 64, 128, 256, 512, 1024, 2048, 4096];

/// One way to change a shape.
struct Change {
    axis: usize,
    /// Tried together with another change.
    near: bool,
    apply: Box<dyn Fn(&mut Shape) + Send + Sync>,
}

/// All changes of a shape, dimension by dimension: those with few values first, and likely values first.
fn changes(from: &Shape) -> Vec<Change> {
    let mut vcpus: Vec<u32> = (1..=512).collect();
    vcpus.sort_by_key(|n| (n.abs_diff(from.vcpus), *n));
    let near = |n: &u32| n.abs_diff(from.vcpus) <= 2 || COMMON_VCPUS.contains(n);
    let steps =
        MEMORY_STEPS.into_iter().flat_map(|d| [from.memory_mib.saturating_sub(d), from.memory_mib + d]);
    let memory = steps.chain(common_memory()).chain([2815, 2816]);
    let mut out = Vec::new();
    out.extend(QemuVersion::ALL.map(|version| change(0, true, version, |s, version| s.qemu = version)));
    out.extend((0..=8).map(|n| change(1, true, n, |s, n| s.gpus = n)));
    out.extend((0..=4).map(|n| change(2, true, n, |s, n| s.nvswitches = n)));
    out.extend((0..=8).map(|n| change(3, true, n, |s, n| s.model_disks = n)));
    out.extend((1..=4).map(|n| change(4, true, n, |s, n| s.nics = n)));
    out.extend([false, true].map(|there| change(5, true, there, |s, there| s.vsock = there)));
    out.extend([false, true].map(|there| change(6, true, there, |s, there| s.simulator_disk = there)));
    out.extend((46..=52).map(|bits| change(7, true, bits, |s, bits| s.phys_bits = bits)));
    out.extend(memory.map(|mib| change(8, true, mib, |s, mib| s.memory_mib = mib)));
    out.extend(vcpus.iter().map(|n| change(9, near(n), *n, |s, n| s.vcpus = n)));
    out
}

fn change<T: Copy + Send + Sync + 'static>(
    axis: usize,
    near: bool,
    value: T,
    set: fn(&mut Shape, T),
) -> Change {
    Change { axis, near, apply: Box::new(move |shape| set(shape, value)) }
}

/// Shapes of a ring around an expected shape, possible on the platform, without repetition.
pub(super) fn ring(expected: Option<&Shape>, platform: Platform, ring: usize) -> Vec<Shape> {
    match (expected, ring) {
        (None, ring) => anywhere(platform, ring),
        (Some(from), 0) => distinct(vec![from.clone()], platform),
        (Some(from), 1) => distinct(around(from, 1), platform),
        (Some(from), _) => distinct(around(from, 2), platform),
    }
}

/// Where nothing is expected: any size comes first, then common sizes with other devices.
fn anywhere(platform: Platform, ring: usize) -> Vec<Shape> {
    let any = || common_memory().into_iter().flat_map(|mib| (1..=512).map(move |n| Shape::new(n, mib)));
    let common = || COMMON_VCPUS.iter().flat_map(|n| COMMON_GIB.map(|gib| Shape::new(*n, gib * 1024)));
    match ring {
        0 => any().filter(|shape| shape.check(platform).is_ok()).collect(),
        1 => {
            let same_size = |a: &Shape, b: &Shape| (a.vcpus, a.memory_mib) == (b.vcpus, b.memory_mib);
            let others = common().flat_map(|from| {
                let near = around(&from, 1).into_iter();
                near.filter(move |shape| same_size(shape, &from)).collect::<Vec<_>>()
            });
            distinct(others.collect(), platform)
        }
        _ => Vec::new(),
    }
}

fn around(from: &Shape, ring: usize) -> Vec<Shape> {
    let all = changes(from);
    let changed = |changes: &[&Change]| {
        let mut shape = from.clone();
        changes.iter().for_each(|change| (change.apply)(&mut shape));
        shape
    };
    if ring == 1 {
        return all.iter().map(|change| changed(&[change])).collect();
    }
    let near: Vec<&Change> = all.iter().filter(|change| change.near).collect();
    let pairs = near.iter().enumerate().flat_map(|(i, a)| near[i + 1..].iter().map(move |b| (*a, *b)));
    pairs.filter(|(a, b)| a.axis != b.axis).map(|(a, b)| changed(&[a, b])).collect()
}

fn distinct(shapes: Vec<Shape>, platform: Platform) -> Vec<Shape> {
    let mut seen = std::collections::HashSet::new();
    shapes.into_iter().filter(|s| s.check(platform).is_ok() && seen.insert(format!("{s:?}"))).collect()
}

/// Digests of what a machine's ACPI files hold.
pub(super) type AcpiDigests = BTreeMap<AcpiFile, Digest384>;

/// Digests of ACPI files.
pub(super) fn acpi_digests(blobs: &acpi::AcpiBlobs) -> AcpiDigests {
    let files =
        [(AcpiFile::Loader, &blobs.loader), (AcpiFile::Rsdp, &blobs.rsdp), (AcpiFile::Tables, &blobs.tables)];
    let log = blobs.tpm_log.as_ref().map(|log| (AcpiFile::TpmLog, log));
    files.into_iter().chain(log).map(|(file, bytes)| (file, Digest384::of(bytes))).collect()
}

/// The machine of a shape, as far as its tables show it.
pub(super) fn machine(shape: &Shape, platform: Platform) -> Machine {
    match platform {
        Platform::Emulated => Machine::emulated(shape),
        Platform::Tdx => Machine::tdx(shape),
    }
}

/// Tables that were generated already, by what they are made of.
#[derive(Debug, Default)]
pub(super) struct Tables {
    known: HashMap<String, usize>,
    digests: Vec<AcpiDigests>,
}

impl Tables {
    /// For each shape the index of its tables; `None` where the bound is reached.
    pub(super) fn of(&mut self, shapes: &[Shape], platform: Platform, bound: usize) -> Vec<Option<usize>> {
        let mut new = Vec::new();
        let mut places = Vec::with_capacity(shapes.len());
        for shape in shapes {
            let machine = machine(shape, platform);
            let key = format!("{machine:?}");
            let next = self.digests.len() + new.len();
            let place = match self.known.get(&key) {
                Some(place) => Some(*place),
                None if next < bound => {
                    self.known.insert(key, next);
                    new.push(machine);
                    Some(next)
                }
                None => None,
            };
            places.push(place);
        }
        self.digests.extend(search::map(new.len(), |i| acpi_digests(&acpi::generate(&new[i]))));
        places
    }

    /// The digests at a place.
    pub(super) fn get(&self, place: usize) -> &AcpiDigests {
        &self.digests[place]
    }

    /// How many were generated.
    pub(super) fn len(&self) -> usize {
        self.digests.len()
    }
}

/// RTMR0 of many machines that differ in their shape alone: one prediction, in which only what follows from the machine is
/// exchanged. `prediction` is of any shape with this firmware and generated tables.
pub fn rtmr0_of(
    prediction: &Prediction,
    firmware: &[u8],
    shapes: &[Shape],
) -> Result<Vec<Digest384>, MeasureError> {
    let sections = tdvf::metadata(firmware)?;
    let steps = prediction.events.iter().filter(|event| event.register == Register::Rtmr0);
    let steps: Vec<Step> = steps.map(Step::from).collect();
    shapes.iter().try_for_each(|shape| shape.check(prediction.platform))?;
    let mut tables = Tables::default();
    let places = tables.of(shapes, prediction.platform, usize::MAX);
    let values = shapes.iter().zip(places).map(|(shape, place)| {
        let exchange = |step: &Step| match &step.event {
            Event::TdHob => hob_digest(&sections, shape),
            Event::Acpi(file) => place.and_then(|place| tables.get(place).get(file).copied()),
            _ => None,
        };
        let missing = MeasureError::Missing { input: Input::Firmware, needed_for: "an event of RTMR0" };
        fold(&steps, exchange).ok_or(missing)
    });
    values.collect()
}

/// Digest of the TD HOB of a firmware with this much memory.
pub(super) fn hob_digest(sections: &[Section], shape: &Shape) -> Option<Digest384> {
    td_hob::td_hob(sections, shape).map(|list| Digest384::of(&list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_hold_what_departs_in_one_and_in_two_dimensions() {
        let from = Shape::new(32, 65536);
        assert_eq!(ring(Some(&from), Platform::Tdx, 0), [from.clone()]);
        let one = ring(Some(&from), Platform::Tdx, 1);
        assert!(one.contains(&Shape::new(31, 65536)) && one.contains(&Shape::new(32, 65535)));
        assert!(one.contains(&Shape::new(77, 65536)) && !one.contains(&Shape::new(31, 32768)));
        let two = ring(Some(&from), Platform::Tdx, 2);
        assert!(two.contains(&Shape::new(31, 32768)), "{}", two.len());
    }

    #[test]
    fn without_expectation_every_size_is_there_once() {
        let any = ring(None, Platform::Tdx, 0);
        assert!(any.contains(&Shape::new(31, 16384)) && any.contains(&Shape::new(512, 6_291_456)));
        let mut texts: Vec<_> = any.iter().map(|s| format!("{s:?}")).collect();
        let count = texts.len();
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), count);
    }

    #[test]
    fn equal_tables_are_generated_once() {
        let mut tables = Tables::default();
        let shapes = [Shape::new(2, 4096), Shape::new(2, 8192), Shape::new(3, 4096), Shape::new(4, 4096)];
        let places = tables.of(&shapes, Platform::Emulated, 2);
        assert_eq!(places, [Some(0), Some(0), Some(1), None]);
        assert_eq!(tables.len(), 2);
    }
}
