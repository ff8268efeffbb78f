//! The search for one register's value: which artifacts, machine and small changes give exactly it.
//!
//! Registers are searched one by one. A joint search would multiply firmware, machines, payloads and command lines; one
//! by one they add up, because each axis moves only the registers that depend on it.

use super::fact::{self, Axis, Fact};
use super::machines::{self, AcpiDigests, Bounds, Tables};
use super::search;
use super::template::{Expected, Step, Template, fold};
use super::words;
use crate::acpi;
use crate::event::{Event, Hashed};
use crate::firmware::td_hob;
use crate::register::{Digest384, Register};
use crate::shape::{Platform, QemuVersion, Shape};
use crate::uki::UkiSection;
use std::collections::BTreeSet;

/// Shapes of a ring that are tried at once.
const PORTION: usize = 256;

/// A way to get a register's value.
#[derive(Debug, Clone)]
pub(super) struct Match {
    pub(super) releases: BTreeSet<String>,
    pub(super) facts: Vec<Fact>,
    /// The events that add up to it, none for the MRTD of a TD.
    pub(super) events: Vec<Step>,
    /// The machine, where the register depends on it.
    pub(super) shape: Option<Shape>,
    /// The MRTD of a TD.
    pub(super) value: Option<Digest384>,
    pub(super) platform: Platform,
    /// Which captured ACPI files it has.
    pub(super) captured: Option<usize>,
    /// The expected command line and the one that was found, where they differ.
    pub(super) lines: Option<(String, String)>,
}

/// What came of a search.
#[derive(Debug, Clone, Default)]
pub(super) struct Searched {
    pub(super) found: Option<Match>,
    /// Values that were computed.
    pub(super) tried: usize,
    /// Axes that were varied.
    pub(super) axes: BTreeSet<Axis>,
}

/// Captured ACPI files, ready for a search.
#[derive(Debug, Clone)]
pub(super) struct CapturedDigests {
    pub(super) path: String,
    pub(super) acpi: AcpiDigests,
    /// Number of processors in the tables.
    pub(super) vcpus: Option<u32>,
    pub(super) tables: Vec<u8>,
}

/// A template that fits, with what else is so.
pub(super) fn matched(template: &Template, facts: Vec<Fact>, shape: Option<Shape>) -> Match {
    Match {
        releases: template.releases.clone(),
        facts: template.facts.iter().cloned().chain(facts).collect(),
        events: template.events.clone(),
        shape,
        value: template.value,
        platform: template.platform,
        captured: None,
        lines: None,
    }
}

/// MRTD: every firmware in both page orders, or the fold of the emulated platform's.
pub(super) fn plain(templates: &[Template], value: Digest384) -> Searched {
    let axes = templates.iter().flat_map(|t| t.facts.iter().map(|fact| fact.axis)).collect();
    let found = templates.iter().find(|t| t.value.or_else(|| fold(&t.events, |_| None)) == Some(value));
    Searched { found: found.map(|t| matched(t, Vec::new(), None)), tried: templates.len(), axes }
}

/// RTMR0: firmware, boot form and separator, each with the machines of a ring, then of the next.
pub(super) struct MachineSearch<'s> {
    pub(super) templates: &'s [Template],
    pub(super) captured: &'s [CapturedDigests],
    pub(super) expected: &'s Expected,
    /// Shapes to begin with: the expected one, or those that files and claims name.
    pub(super) seeds: &'s [Shape],
    pub(super) bounds: Bounds,
}

/// Where a candidate's ACPI files come from.
#[derive(Clone, Copy)]
enum Source {
    Generated(usize),
    Captured(usize),
}

#[derive(Clone, Copy)]
struct Candidate {
    template: usize,
    shape: usize,
    source: Source,
    hob: Option<Digest384>,
}

impl MachineSearch<'_> {
    /// `tables` keeps what was generated, for who looks for tables afterwards.
    pub(super) fn run(&self, value: Digest384, tables: &mut Tables) -> Searched {
        let mut searched = Searched::default();
        searched.axes.extend(self.templates.iter().flat_map(|t| t.facts.iter().map(|fact| fact.axis)));
        searched.axes.extend([
            Axis::Vcpus,
            Axis::Memory,
            Axis::Devices,
            Axis::AddressBits,
            Axis::Qemu,
            Axis::Acpi,
        ]);
        for ring in 0..3 {
            // In portions, so that tables which a match makes needless aren't generated.
            for shapes in self.shapes(ring).chunks(PORTION) {
                if searched.tried >= self.bounds.candidates {
                    return searched;
                }
                let mut candidates = self.candidates(shapes, tables);
                candidates.truncate(self.bounds.candidates - searched.tried);
                let hit =
                    search::first(candidates.len(), |i| self.value(&candidates[i], tables) == Some(value));
                searched.tried += hit.map_or(candidates.len(), |i| i + 1);
                if let Some(hit) = hit {
                    searched.found = Some(self.describe(&candidates[hit], shapes, tables));
                    return searched;
                }
            }
        }
        searched
    }

    fn shapes(&self, ring: usize) -> Vec<Shape> {
        let Some(platform) = self.templates.first().map(|t| t.platform) else { return Vec::new() };
        let seeds: Vec<Option<&Shape>> = match self.seeds {
            [] => vec![None],
            seeds => seeds.iter().map(Some).collect(),
        };
        let near = seeds.iter().flat_map(|seed| machines::ring(*seed, platform, ring));
        // A seed that nobody expects may be far off: the last ring is then every size.
        let anywhere = ring == 2 && self.expected.shape.is_none() && !self.seeds.is_empty();
        near.chain(if anywhere { machines::ring(None, platform, 0) } else { Vec::new() }).collect()
    }

    /// Candidates of a ring of shapes, those whose template departs least first.
    fn candidates(&self, shapes: &[Shape], tables: &mut Tables) -> Vec<Candidate> {
        let Some(platform) = self.templates.first().map(|t| t.platform) else { return Vec::new() };
        let places = tables.of(shapes, platform, self.bounds.tables);
        let mut out = Vec::new();
        for (t, template) in self.templates.iter().enumerate() {
            let mut memory_seen = BTreeSet::new();
            for (s, shape) in shapes.iter().enumerate() {
                let hob = machines::hob_digest(&template.sections, shape);
                let candidate = |source| Candidate { template: t, shape: s, source, hob };
                // Of captured tables only the amount of memory is left open.
                if memory_seen.insert(shape.memory_mib) {
                    out.extend((0..self.captured.len()).map(|c| candidate(Source::Captured(c))));
                }
                out.extend(places[s].map(|place| candidate(Source::Generated(place))));
            }
        }
        out
    }

    fn value(&self, candidate: &Candidate, tables: &Tables) -> Option<Digest384> {
        let template = &self.templates[candidate.template];
        fold(&template.events, |step| self.exchange(candidate, tables, step))
    }

    /// The digest of an event that follows from the machine.
    fn exchange(&self, candidate: &Candidate, tables: &Tables, step: &Step) -> Option<Digest384> {
        let captured = match candidate.source {
            Source::Captured(c) => Some(&self.captured[c]),
            Source::Generated(_) => None,
        };
        match &step.event {
            Event::TdHob => candidate.hob,
            Event::Acpi(file) => match candidate.source {
                Source::Generated(place) => tables.get(place).get(file).copied(),
                Source::Captured(_) => captured?.acpi.get(file).copied(),
            },
            _ => None,
        }
    }

    /// The list of a candidate, with the digests that its machine gives.
    fn steps(&self, candidate: &Candidate, tables: &Tables, shape: &Shape) -> Vec<Step> {
        let template = &self.templates[candidate.template];
        let list = td_hob::td_hob(&template.sections, shape);
        let hashed = |step: &Step| match (&step.event, &list) {
            (Event::TdHob, Some(list)) => Hashed::Kept(list.clone()),
            _ => step.hashed.clone(),
        };
        let steps = template.events.iter();
        steps
            .map(|step| Step {
                event: step.event.clone(),
                digest: self.exchange(candidate, tables, step).or(step.digest),
                hashed: hashed(step),
            })
            .collect()
    }

    /// What a machine as expected would measure, with artifacts of one of these releases.
    pub(super) fn nominal(&self, releases: &BTreeSet<String>) -> Option<Match> {
        let mut tables = Tables::default();
        let first = self.expected.shape.iter().chain(self.seeds).next();
        let shapes = [first.cloned().unwrap_or_else(|| Shape::new(2, 4096))];
        let candidates = self.candidates(&shapes, &mut tables);
        let fits = |c: &&Candidate| {
            let template = &self.templates[c.template];
            (self.templates.len() == 1 || template.cost() == 0)
                && (releases.is_empty() || !template.releases.is_disjoint(releases))
        };
        let best = candidates
            .iter()
            .filter(fits)
            .max_by_key(|c| (self.value(c, &tables).is_some(), std::cmp::Reverse(c.template)))?;
        Some(self.describe(best, &shapes, &tables))
    }

    fn describe(&self, candidate: &Candidate, shapes: &[Shape], tables: &Tables) -> Match {
        let template = &self.templates[candidate.template];
        let mut shape = shapes[candidate.shape].clone();
        let mut facts = Vec::new();
        if let Source::Captured(c) = candidate.source {
            let captured = &self.captured[c];
            facts.push(Fact::new(Axis::Acpi, format!("captured ACPI tables {}", captured.path)));
            shape.vcpus = captured.vcpus.unwrap_or(shape.vcpus);
        }
        let mut about = fact::of_shape(&shape, self.expected.shape.as_ref(), template.platform);
        if matches!(candidate.source, Source::Generated(_)) {
            self.tell_versions(&mut about, &shape, template.platform);
        }
        if matches!(candidate.source, Source::Captured(_)) {
            // The tables speak for the devices, whatever the shape says of them.
            about.retain(|fact| matches!(fact.axis, Axis::Vcpus | Axis::Memory));
        }
        facts.extend(about);
        let captured = match candidate.source {
            Source::Captured(c) => Some(c),
            Source::Generated(_) => None,
        };
        Match {
            events: self.steps(candidate, tables, &shapes[candidate.shape]),
            captured,
            ..matched(template, facts, Some(shape))
        }
    }
}

impl MachineSearch<'_> {
    /// Several QEMU releases make the same tables; which of them it was can't be told.
    fn tell_versions(&self, facts: &mut [Fact], shape: &Shape, platform: Platform) {
        let tables = |qemu| acpi::generate(&acpi::Machine { qemu, ..machines::machine(shape, platform) });
        let Some(fact) = facts.iter_mut().find(|fact| fact.axis == Axis::Qemu) else { return };
        let own = tables(shape.qemu);
        let same: Vec<_> =
            QemuVersion::ALL.into_iter().filter(|qemu| *qemu == shape.qemu || tables(*qemu) == own).collect();
        let names: Vec<_> = same.iter().map(QemuVersion::to_string).collect();
        let expected = self.expected.shape.as_ref().map(|shape| shape.qemu);
        fact.found = format!("QEMU {}", names.join(" or "));
        fact.expected = expected.filter(|qemu| !same.contains(qemu)).map(|qemu| format!("QEMU {qemu}"));
    }
}

/// RTMR1 and RTMR2: every payload, boot form and disk; then small changes of the command line, and other initrds.
pub(super) struct PayloadSearch<'s> {
    pub(super) templates: &'s [Template],
    /// Initrds apart, by path.
    pub(super) initrds: &'s [(String, Digest384)],
    pub(super) bounds: Bounds,
}

impl PayloadSearch<'_> {
    pub(super) fn run(&self, register: Register, value: Digest384) -> Searched {
        let mut searched = plain(self.templates, value);
        if searched.found.is_some() || register != Register::Rtmr2 {
            return searched;
        }
        for pairs in [false, true] {
            for template in self.templates {
                if let Some((found, tried)) = self.changed(template, value, pairs, &mut searched.axes) {
                    searched.tried += tried;
                    if found.is_some() {
                        return Searched { found, ..searched };
                    }
                }
                if searched.tried >= self.bounds.candidates {
                    return searched;
                }
            }
        }
        searched
    }

    /// Tries changes of a template's command line, each with its own initrd and with every other.
    fn changed(
        &self,
        template: &Template,
        value: Digest384,
        pairs: bool,
        axes: &mut BTreeSet<Axis>,
    ) -> Option<(Option<Match>, usize)> {
        let line = command_line(template)?;
        let mut lines = words::neighbours(&line, pairs);
        axes.insert(Axis::CommandLine);
        if !pairs {
            lines.insert(0, line.clone());
        }
        // With pairs of changes another initrd would be a third change.
        let others = if pairs { &[] } else { self.initrds };
        axes.extend((!others.is_empty()).then_some(Axis::Initrd));
        let width = 1 + others.len();
        let count = (lines.len() * width).min(self.bounds.candidates);
        let hit = search::first(count, |i| {
            let initrd = (i % width).checked_sub(1).map(|other| others[other].1);
            fold(&template.events, |step| exchanged(step, &line, &lines[i / width], initrd)) == Some(value)
        });
        let found = hit.map(|i| {
            let other = (i % width).checked_sub(1).map(|other| &others[other]);
            with_changes(template, &line, &lines[i / width], other)
        });
        Some((found, hit.map_or(count, |i| i + 1)))
    }
}

/// A template with another command line or initrd.
fn with_changes(
    template: &Template,
    line: &str,
    changed: &str,
    initrd: Option<&(String, Digest384)>,
) -> Match {
    let mut facts = Vec::new();
    if changed != line {
        facts.push(command_line_fact(line, changed));
    }
    if let Some((path, _)) = initrd {
        facts.push(Fact::against(Axis::Initrd, format!("initrd {path}"), "its own initrd"));
    }
    let mut found = matched(template, facts, None);
    for step in &mut found.events {
        if let Some(digest) = exchanged(step, line, changed, initrd.map(|(_, digest)| *digest)) {
            step.digest = Some(digest);
            step.hashed = match step.event {
                Event::LoadOptions => Hashed::Kept(options_of_text(changed)),
                _ => Hashed::Unknown,
            };
        }
    }
    found.lines = (changed != line).then(|| (line.to_owned(), changed.to_owned()));
    found
}

/// What differs between an expected command line and one that was found.
pub(super) fn command_line_fact(expected: &str, found: &str) -> Fact {
    let phrase = words::phrase(&words::diff(expected, found));
    Fact::against(Axis::CommandLine, format!("command line {phrase}"), expected)
}

/// The command line that a template's kernel gets.
pub(super) fn command_line(template: &Template) -> Option<String> {
    let event = template.events.iter().find(|e| e.event == Event::LoadOptions)?;
    text_of_options(event.hashed.bytes()?)
}

/// Load options in UTF-16 with a NUL, as text.
pub(super) fn text_of_options(bytes: &[u8]) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<2>();
    let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    let text = String::from_utf16(&units).ok()?;
    rest.is_empty().then(|| text.trim_end_matches('\0').to_owned())
}

/// Load options in UTF-16 with a NUL.
fn options_of_text(line: &str) -> Vec<u8> {
    line.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// Digest of an event of a command line after a change of that line, where the event depends on it.
pub(super) fn line_digest(event: &Step, line: &str, changed: &str) -> Option<Digest384> {
    match event.event {
        Event::LoadOptions => Some(Digest384::of(&options_of_text(changed))),
        Event::SectionData(UkiSection::Cmdline) => {
            // The stub trims what it hands over but measures the section as it is.
            let section = std::str::from_utf8(event.hashed.bytes()?).ok()?;
            let at = section.find(line)?;
            let bytes = [&section[..at], changed, &section[at + line.len()..]].concat();
            Some(Digest384::of(bytes.as_bytes()))
        }
        _ => None,
    }
}

fn exchanged(step: &Step, line: &str, changed: &str, initrd: Option<Digest384>) -> Option<Digest384> {
    match step.event {
        Event::Initrd => initrd,
        _ if changed != line => line_digest(step, line, changed),
        _ => None,
    }
}
