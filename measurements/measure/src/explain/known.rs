//! Digests whose origin is known: every event of every artifact, and of machines near the expected one.

use super::fact::{self, Axis, Fact};
use super::machines::{self, Bounds, Tables};
use super::registers::{CapturedDigests, command_line};
use super::template::Templates;
use crate::event::{AcpiFile, Event};
use crate::firmware::tdvf::Section;
use crate::register::{Digest384, Register};
use crate::shape::{Platform, Shape};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

/// Origins that are told of one digest.
const MAX_ORIGINS: usize = 4;

/// Where digests come from.
pub(super) struct Known<'k> {
    origins: HashMap<Digest384, BTreeSet<String>>,
    lines: Vec<String>,
    layouts: Vec<Vec<Section>>,
    captured: &'k [CapturedDigests],
    expected: Option<&'k Shape>,
    seeds: &'k [Shape],
    platform: Platform,
    bounds: Bounds,
    /// Generated once for the search of RTMR0 and for the lookup of a log's tables.
    pub(super) tables: RefCell<Tables>,
}

impl<'k> Known<'k> {
    /// Collects everything that the artifacts hash to.
    pub(super) fn of(
        templates: &Templates,
        captured: &'k [CapturedDigests],
        initrds: &[(String, Digest384)],
        expected: Option<&'k Shape>,
        seeds: &'k [Shape],
        bounds: Bounds,
    ) -> Self {
        let mut known = Known {
            origins: HashMap::new(),
            lines: Vec::new(),
            layouts: Vec::new(),
            captured,
            expected,
            seeds,
            platform: templates.get(Register::Rtmr0).first().map_or(Platform::Tdx, |t| t.platform),
            bounds,
            tables: RefCell::default(),
        };
        for template in Register::ALL.into_iter().flat_map(|register| templates.get(register)) {
            known.lines.extend(command_line(template));
            if !known.layouts.contains(&template.sections) && !template.sections.is_empty() {
                known.layouts.push(template.sections.clone());
            }
            let releases = template.releases.iter().cloned().collect::<Vec<_>>().join(", ");
            let file = template.facts.iter().find(|f| matches!(f.axis, Axis::Payload | Axis::Firmware));
            let file = file.map_or(String::new(), |file| format!(" ({})", file.found));
            for step in template.events.iter().filter(|step| tells(&step.event)) {
                let Some(digest) = step.digest else { continue };
                known.add(digest, format!("the {} of {releases}{file}", step.event));
            }
        }
        known.layouts.push(layout_of_2023());
        for set in captured {
            for (file, digest) in &set.acpi {
                known.add(*digest, format!("the {} captured in {}", Event::Acpi(*file), set.path));
            }
        }
        for (path, digest) in initrds {
            known.add(*digest, format!("the initrd {path}"));
        }
        known.lines.sort();
        known.lines.dedup();
        known
    }

    fn add(&mut self, digest: Digest384, origin: String) {
        let origins = self.origins.entry(digest).or_default();
        if origins.len() < MAX_ORIGINS {
            origins.insert(origin);
        }
    }

    /// What a digest is of, among the artifacts.
    pub(super) fn origin(&self, digest: &Digest384) -> Vec<String> {
        self.origins.get(digest).into_iter().flatten().map(|origin| format!("it is {origin}")).collect()
    }

    /// Command lines of all artifacts.
    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.clone()
    }

    /// The amount of memory of a TD HOB with that digest.
    pub(super) fn memory(&self, digest: &Digest384) -> Option<String> {
        self.memory_fact(digest).map(|fact| format!("memory is {fact}"))
    }

    /// As [`memory`](Self::memory), as a fact.
    pub(super) fn memory_fact(&self, digest: &Digest384) -> Option<Fact> {
        let near = self.seeds.iter().flat_map(|seed| machines::ring(Some(seed), self.platform, 1));
        let near = near.map(|shape| shape.memory_mib).chain(machines::common_memory());
        let mut seen = BTreeSet::new();
        for mib in near.filter(|mib| seen.insert(*mib)) {
            let shape = Shape::new(1, mib);
            if self.layouts.iter().any(|layout| machines::hob_digest(layout, &shape).as_ref() == Some(digest))
            {
                let found = fact::memory(mib);
                return Some(match self.expected {
                    Some(expected) => Fact::against(Axis::Memory, found, fact::memory(expected.memory_mib)),
                    None => Fact::new(Axis::Memory, found),
                });
            }
        }
        None
    }

    /// The machine whose ACPI file has that digest.
    pub(super) fn machine(&self, file: AcpiFile, digest: &Digest384) -> Option<String> {
        if let Some(set) = self.captured.iter().find(|set| set.acpi.get(&file) == Some(digest)) {
            let vcpus = set.vcpus.map_or(String::new(), |n| format!(", {n} vCPUs"));
            return Some(format!("the machine is that of {}{vcpus}", set.path));
        }
        let mut tables = self.tables.borrow_mut();
        for ring in 0..3 {
            let seeds: Vec<Option<&Shape>> =
                if self.seeds.is_empty() { vec![None] } else { self.seeds.iter().map(Some).collect() };
            let shapes: Vec<Shape> =
                seeds.iter().flat_map(|seed| machines::ring(*seed, self.platform, ring)).collect();
            let places = tables.of(&shapes, self.platform, self.bounds.tables);
            let hit = shapes
                .iter()
                .zip(&places)
                .find(|(_, place)| place.is_some_and(|place| tables.get(place).get(&file) == Some(digest)));
            if let Some((shape, _)) = hit {
                let facts = fact::of_shape(shape, self.expected, self.platform);
                // Tables hardly depend on memory, so they say nothing of it.
                let told: Vec<_> =
                    facts.iter().filter(|f| f.axis != Axis::Memory).map(Fact::to_string).collect();
                return Some(format!("such tables has a machine of {}", told.join(", ")));
            }
        }
        let what = if tables.len() == 0 {
            "this machine's tables can't be generated"
        } else {
            "no machine near the expected one has such tables"
        };
        Some(format!("{what}; a log carries only their digest"))
    }
}

/// Events that tell something when their digest is seen again; a separator or an action is the same everywhere.
fn tells(event: &Event) -> bool {
    matches!(
        event,
        Event::ConfigurationVolume
            | Event::FirmwareVersion
            | Event::FirmwareVolume(_)
            | Event::Uki
            | Event::DirectKernel
            | Event::Kernel
            | Event::PartitionTable
            | Event::SectionData(_)
            | Event::Initrd
    )
}

/// Accepted memory of OVMF builds of 2023 and 2024, which TD HOBs of many logs in the field follow (matched against
/// two of them): for machines whose firmware is not among the artifacts.
fn layout_of_2023() -> Vec<Section> {
    let section = |kind, address, memory_size| Section {
        data_offset: 0,
        raw_size: 0,
        address,
        memory_size,
        kind,
        attributes: 0,
    };
    vec![
        section(3, 0x81_0000, 0x1_0000),
        section(3, 0x80_b000, 0x2000),
        section(2, 0x80_9000, 0x2000),
        section(3, 0x80_0000, 0x6000),
    ]
}
