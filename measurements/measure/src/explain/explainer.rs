//! Puts the parts together: one search a register, the expected list beside the found one, one report.

use super::artifacts::{Artifacts, OwnedPayload};
use super::evidence::Evidence;
use super::fact::{Axis, Fact, departures};
use super::forward::{self, EventReport, EventStatus};
use super::known::Known;
use super::machines::{self, Bounds};
use super::rebuilt;
use super::record::Record;
use super::registers::{self, CapturedDigests, MachineSearch, Match, PayloadSearch, Searched, plain};
use super::report::{self, Explanation, FileReport, LogReport, RegisterReport, Verdict};
use super::tables;
use super::template::{Expected, Step, Template, Templates, fold};
use crate::acpi;
use crate::event::{AcpiFile, Event};
use crate::register::{Digest384, Register, Registers};
use crate::shape::{Platform, Shape};
use std::collections::BTreeSet;

/// Everything that an explanation is made from.
pub(super) struct Explainer<'e> {
    pub(super) evidence: &'e Evidence,
    pub(super) expected: &'e Expected,
    pub(super) templates: &'e Templates,
    pub(super) captured: &'e [CapturedDigests],
    pub(super) initrds: &'e [(String, Digest384)],
    pub(super) seeds: &'e [Shape],
    pub(super) bounds: Bounds,
    pub(super) known: Known<'e>,
    pub(super) artifacts: &'e Artifacts<'e>,
}

impl Explainer<'_> {
    /// Reports on all registers, and the machine that RTMR0 shows.
    pub(super) fn registers(&self) -> (Vec<RegisterReport>, Option<Shape>) {
        let values = Register::ALL.map(|register| self.value(register));
        let mut searched = Register::ALL.map(|register| self.search(register, values[register as usize]));
        self.rebuild(&mut searched, values[Register::Rtmr1 as usize]);
        let releases = likely_releases(&searched);
        let facts: Vec<Fact> =
            searched.iter().flat_map(|s| s.found.iter().flat_map(|f| f.facts.clone())).collect();
        let reports = Register::ALL.into_iter().zip(&searched).map(|(register, searched)| {
            let expected = self.nominal(register, searched, &releases, &facts);
            self.report(register, values[register as usize], searched, expected)
        });
        let reports = reports.collect();
        let shape = searched[Register::Rtmr0 as usize].found.as_ref().and_then(|found| found.shape.clone());
        (reports, shape)
    }

    /// What is shown of a register; without registers, what the log adds up to.
    fn value(&self, register: Register) -> Option<Digest384> {
        let shown = self.evidence.registers.iter().any(Option::is_some);
        let log = self.evidence.log.as_ref().filter(|_| !shown);
        let replayed = log.filter(|log| log.records.iter().any(|r| r.register == register));
        self.evidence.registers[register as usize].or_else(|| Some(replayed?.replay().get(register)))
    }

    fn search(&self, register: Register, value: Option<Digest384>) -> Searched {
        let Some(value) = value else { return Searched::default() };
        let templates = self.templates.get(register);
        match register {
            Register::Mrtd => plain(templates, value),
            Register::Rtmr0 => self.machine(templates, value),
            Register::Rtmr1 | Register::Rtmr2 => {
                PayloadSearch { templates, initrds: self.initrds, bounds: self.bounds }.run(register, value)
            }
            Register::Rtmr3 => Searched::default(),
        }
    }

    /// Explains RTMR1 by a UKI that was made again with the command line that RTMR2 shows.
    fn rebuild(&self, searched: &mut [Searched; 5], value: Option<Digest384>) {
        let lines = searched[Register::Rtmr2 as usize].found.as_ref().and_then(|found| found.lines.clone());
        let rtmr1 = &mut searched[Register::Rtmr1 as usize];
        let (Some((line, changed)), Some(value), None) = (lines, value, &rtmr1.found) else { return };
        for payload in self.artifacts.releases.iter().flat_map(|release| &release.payloads) {
            let OwnedPayload::Uki(uki) = payload.item else { continue };
            let Some(digest) = rebuilt::digest(uki, &line, &changed) else { continue };
            let exchange = |step: &Step| (step.event == Event::Uki).then_some(digest);
            let own =
                |t: &&Template| t.facts.iter().any(|f| f.axis.is_file() && f.found.contains(&payload.path));
            let templates = self.templates.get(Register::Rtmr1).iter().filter(own);
            rtmr1.axes.insert(Axis::CommandLine);
            for template in templates {
                rtmr1.tried += 1;
                if fold(&template.events, exchange) == Some(value) {
                    let facts = vec![registers::command_line_fact(&line, &changed)];
                    let mut found = registers::matched(template, facts, None);
                    let images = found.events.iter_mut().filter(|step| step.event == Event::Uki);
                    images.for_each(|step| step.digest = Some(digest));
                    rtmr1.found = Some(found);
                    return;
                }
            }
        }
    }

    fn machine(&self, templates: &[Template], value: Digest384) -> Searched {
        let mut all = Searched::default();
        for platform in [Platform::Tdx, Platform::Emulated] {
            let of_platform: Vec<Template> =
                templates.iter().filter(|t| t.platform == platform).cloned().collect();
            let searched = self.machines(&of_platform).run(value, &mut self.known.tables.borrow_mut());
            all.tried += searched.tried;
            all.axes.extend(searched.axes);
            if searched.found.is_some() {
                return Searched { found: searched.found, ..all };
            }
        }
        all
    }

    fn machines<'s>(&'s self, templates: &'s [Template]) -> MachineSearch<'s> {
        MachineSearch {
            templates,
            captured: self.captured,
            expected: self.expected,
            seeds: self.seeds,
            bounds: self.bounds,
        }
    }

    /// The list that a machine as expected would measure.
    ///
    /// Where the log shows another, it is the list that the log is nearest to; `facts` of other registers break ties.
    fn nominal(
        &self,
        register: Register,
        searched: &Searched,
        releases: &BTreeSet<String>,
        facts: &[Fact],
    ) -> Option<Match> {
        if let Some(found) = searched.found.as_ref().filter(|found| departures(&found.facts) == 0) {
            return Some(found.clone());
        }
        let templates = self.templates.get(register);
        let logged = searched.found.is_none() && !self.records(register).is_empty();
        let best = templates.iter().filter(|t| logged || t.cost() == 0).max_by_key(|t| {
            let in_log = if logged { self.in_log(register, t) } else { 0 };
            let in_release = releases.is_empty() || !t.releases.is_disjoint(releases);
            let shared = t.facts.iter().filter(|f| facts.contains(f)).count();
            (in_log, in_release, shared, std::cmp::Reverse((t.cost(), t.events.len())))
        })?;
        if register == Register::Rtmr0 {
            let only = [best.clone()];
            return self.machines(&only).nominal(&best.releases);
        }
        Some(registers::matched(best, Vec::new(), None))
    }

    /// How many of a list's digests the log has in that register.
    fn in_log(&self, register: Register, template: &Template) -> usize {
        let mut logged: Vec<_> = self.records(register).iter().map(|(_, record)| record.digest).collect();
        let mut take = |digest: Digest384| {
            let place = logged.iter().position(|other| *other == digest);
            place.map(|place| logged.swap_remove(place)).is_some()
        };
        template.events.iter().filter(|step| step.digest.is_some_and(&mut take)).count()
    }

    fn records(&self, register: Register) -> Vec<(usize, &Record)> {
        let records = self.evidence.log.iter().flat_map(|log| &log.records).enumerate();
        records.filter(|(_, record)| record.register == register).collect()
    }

    fn report(
        &self,
        register: Register,
        found: Option<Digest384>,
        searched: &Searched,
        expected: Option<Match>,
    ) -> RegisterReport {
        let records = self.records(register);
        let replays = self.replays(register, found);
        let steps = expected.as_ref().map_or(&[][..], |expected| &expected.events);
        let events = match (&searched.found, records.is_empty()) {
            (found, false) => forward::compare(steps, &records, &self.known, found.as_ref()),
            (Some(found), true) => forward::compare_steps(steps, &found.events),
            (None, true) => forward::open(steps),
        };
        let mut report = RegisterReport {
            register,
            verdict: Verdict::NotShown,
            text: String::new(),
            expected: expected.as_ref().and_then(|e| e.value.or_else(|| foretold(&e.events))),
            found,
            releases: searched.found.as_ref().map(|f| f.releases.clone()).unwrap_or_default(),
            facts: searched.found.as_ref().map(|f| f.facts.clone()).unwrap_or_default(),
            tried: searched.tried,
            axes: searched.axes.clone(),
            replays,
            events,
        };
        if searched.found.is_none() && register == Register::Rtmr0 {
            report.facts = forward::machine_of(&records, &self.known);
        }
        if searched.found.is_none() {
            // What the log is nearest to departs as well.
            report.facts.extend(
                expected
                    .iter()
                    .flat_map(|e| e.facts.iter().filter(|f| f.departs() && !f.axis.is_file()).cloned()),
            );
        }
        self.add_tables(&mut report, searched.found.as_ref(), expected.as_ref());
        report.verdict = verdict(&report, searched);
        report.text = report::describe(&report);
        report
    }

    /// Says which ACPI tables differ, where those of both machines are at hand.
    fn add_tables(&self, report: &mut RegisterReport, found: Option<&Match>, expected: Option<&Match>) {
        let name = Event::Acpi(AcpiFile::Tables).to_string();
        let differs = |e: &&mut EventReport| e.name == name && e.status == EventStatus::Changed;
        let Some(event) = report.events.iter_mut().find(differs) else { return };
        if let (Some(found), Some(expected)) =
            (found.and_then(|m| self.blobs(m)), expected.and_then(|m| self.blobs(m)))
        {
            event.why.extend(tables::differences(&expected, &found));
        }
    }

    fn blobs(&self, of: &Match) -> Option<Vec<u8>> {
        match of.captured {
            Some(captured) => Some(self.captured.get(captured)?.tables.clone()),
            None => Some(acpi::generate(&machines::machine(of.shape.as_ref()?, of.platform)).tables),
        }
    }

    /// Whether the log adds up to a register that is shown. A CCEL says nothing of MRTD, which no event extends, and the
    /// firmware's log nothing of RTMR3, which belongs to the running system.
    fn replays(&self, register: Register, found: Option<Digest384>) -> Option<bool> {
        let log = self.evidence.log.as_ref()?;
        if matches!(register, Register::Mrtd | Register::Rtmr3) && self.records(register).is_empty() {
            return None;
        }
        Some(log.replay().get(register) == found?)
    }
}

fn foretold(steps: &[Step]) -> Option<Digest384> {
    fold(steps, |_| None).filter(|_| !steps.is_empty())
}

fn verdict(report: &RegisterReport, searched: &Searched) -> Verdict {
    let Some(value) = report.found else { return Verdict::NotShown };
    if let Some(found) = &searched.found {
        return if departures(&found.facts) == 0 { Verdict::Equal } else { Verdict::Explained };
    }
    if report.register == Register::Rtmr3 {
        return if value == Registers::ZERO.rtmr[3] { Verdict::Equal } else { Verdict::Runtime };
    }
    // Where hardly anything is as foretold, the list is that of another system and locates nothing.
    let same = report.events.iter().filter(|event| event.status == EventStatus::Same).count();
    let located = 2 * same >= report.events.len() && report.differences().next().is_some();
    if located && report.replays == Some(true) { Verdict::Located } else { Verdict::Unexplained }
}

/// Releases that most registers point to.
fn likely_releases(searched: &[Searched]) -> BTreeSet<String> {
    let mut counts: Vec<(usize, String)> = Vec::new();
    for name in searched.iter().flat_map(|s| s.found.iter().flat_map(|found| &found.releases)) {
        match counts.iter_mut().find(|(_, known)| known == name) {
            Some((count, _)) => *count += 1,
            None => counts.push((1, name.clone())),
        }
    }
    let most = counts.iter().map(|(count, _)| *count).max().unwrap_or(0);
    counts.into_iter().filter(|(count, _)| *count == most).map(|(_, name)| name).collect()
}

/// Puts the reports into one explanation.
pub(super) fn finish(
    evidence: &Evidence,
    artifacts: &Artifacts<'_>,
    templates: &Templates,
    (registers, machine): (Vec<RegisterReport>, Option<Shape>),
) -> Explanation {
    let common = report::common_releases(&registers);
    let release = (!common.is_empty()).then(|| common.into_iter().collect::<Vec<_>>().join(" or "));
    let facts = report::all_facts(&registers);
    let log = evidence.log.as_ref().map(|log| LogReport {
        form: log.form,
        events: log.records.len(),
        replays: registers.iter().all(|r| r.replays != Some(false)),
    });
    let shown = registers.iter().filter(|r| r.verdict != Verdict::NotShown).count() > 0;
    let right =
        |r: &RegisterReport| matches!(r.verdict, Verdict::Equal | Verdict::Runtime | Verdict::NotShown);
    let sound = log.as_ref().is_none_or(|log| log.replays);
    let equal = shown && sound && release.is_some() && registers.iter().all(right);
    let headline = report::headline(&registers, release.as_deref(), &facts, log.as_ref(), equal);
    let faults: Vec<_> = artifacts.faults.iter().chain(&templates.faults).collect();
    let files = artifacts.files.iter().map(|(path, kind)| FileReport {
        path: path.clone(),
        kind: *kind,
        fault: faults.iter().find(|(of, _)| of == path).map(|(_, fault)| fault.clone()),
    });
    Explanation {
        schema: 1,
        equal,
        headline,
        release,
        machine,
        facts,
        log,
        registers,
        artifacts: files.collect(),
    }
}
