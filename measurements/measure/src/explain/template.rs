//! Foretold lists of events, one for each way in which the artifacts can be put together, cut by register.
//!
//! A prediction hashes whole artifacts, a search tries tens of thousands of machines. So each artifact is hashed once,
//! here, and a search only exchanges digests in these lists. MRTD depends on firmware and VMM, RTMR0 on firmware, boot
//! form and machine, RTMR1 and RTMR2 on payload, boot form and disk: a list for each of these, not for their product.

use super::artifacts::{Artifacts, Named, Release};
use super::fact::{Axis, Fact, departures};
use crate::error::MeasureError;
use crate::event::{Event, Hashed, PredictedEvent, Prediction};
use crate::firmware::tdvf::{self, Section, Vmm};
use crate::predict::{
    BootVariables, FirmwareProfile, Inputs, Payload, SetupHeader, TdxOptions, predict_tdx_with, predict_with,
};
use crate::register::{Digest384, Register};
use crate::shape::{Boot, Platform, Shape};
use std::collections::BTreeSet;

/// Register lists beyond this many aren't made: folders with so many artifacts are no release.
const MAX_TEMPLATES: usize = 512;

/// What a search is to hold a machine against.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// The machine's shape; of none, any shape is as good as another.
    pub shape: Option<Shape>,
    /// How the payload is booted; direct boot if not said.
    pub boot: Option<Boot>,
    /// In which order the VMM builds the TD; page by page if not said.
    pub vmm: Option<Vmm>,
}

/// One event of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) event: Event,
    /// `None` if it can't be foretold.
    pub(super) digest: Option<Digest384>,
    pub(super) hashed: Hashed,
}

impl From<&PredictedEvent> for Step {
    fn from(event: &PredictedEvent) -> Self {
        let digest = event.digests.as_ref().ok().map(|digests| digests.sha384);
        Step { event: event.event.clone(), digest, hashed: event.hashed.clone() }
    }
}

/// Folds a list; `None` if an event of it can't be foretold.
pub(super) fn fold(steps: &[Step], exchange: impl Fn(&Step) -> Option<Digest384>) -> Option<Digest384> {
    let mut value = Digest384::ZERO;
    for step in steps {
        value.extend(&exchange(step).or(step.digest)?);
    }
    Some(value)
}

/// Events of one register under stated assumptions.
#[derive(Debug, Clone)]
pub(super) struct Template {
    /// Releases that have these artifacts.
    pub(super) releases: BTreeSet<String>,
    pub(super) platform: Platform,
    pub(super) facts: Vec<Fact>,
    pub(super) events: Vec<Step>,
    /// MRTD of a TD, which is no fold.
    pub(super) value: Option<Digest384>,
    /// Memory sections of a TDX firmware, which its TD HOB follows from.
    pub(super) sections: Vec<Section>,
}

impl Template {
    pub(super) fn cost(&self) -> usize {
        departures(&self.facts)
    }
}

/// Lists of all registers.
#[derive(Debug, Clone, Default)]
pub(super) struct Templates {
    lists: [Vec<Template>; 5],
    /// What could not be foretold: what, and why.
    pub(super) faults: Vec<(String, String)>,
}

impl Templates {
    /// Foretells everything that the artifacts can make, for a machine of some shape.
    pub(super) fn of(artifacts: &Artifacts<'_>, expected: &Expected, shape: &Shape) -> Self {
        let mut templates = Templates::default();
        for release in &artifacts.releases {
            let maker = Maker { release, expected, shape };
            for firmware in &release.firmware {
                templates.keep(&firmware.path, maker.tdx_mrtd(firmware));
                let profile = FirmwareProfile::of_tdvf(firmware.item);
                let Ok(profile) = profile else {
                    templates.keep(&firmware.path, profile.map(|_| Vec::new()));
                    continue;
                };
                templates.keep(&firmware.path, maker.tdx_firmware(firmware, &profile));
                for payload in &release.payloads {
                    let made =
                        maker.tdx_payload(firmware.item, &profile, &payload.path, payload.item.borrow());
                    templates.keep(&payload.path, made);
                }
            }
            for code in &release.code {
                templates.keep(&code.path, maker.emulated(code));
            }
        }
        templates.lists.iter_mut().for_each(|list| list.sort_by_key(Template::cost));
        templates
    }

    /// Lists of one register, those that depart least first.
    pub(super) fn get(&self, register: Register) -> &[Template] {
        &self.lists[register as usize]
    }

    fn keep(&mut self, path: &str, made: Result<Vec<(Register, Template)>, MeasureError>) {
        match made {
            Ok(made) => made.into_iter().for_each(|(register, template)| self.add(register, template)),
            Err(error) => {
                let fault = (path.to_owned(), error.to_string());
                if !self.faults.contains(&fault) {
                    self.faults.push(fault);
                }
            }
        }
    }

    /// Adds a list, or its releases and files to one that says the same.
    fn add(&mut self, register: Register, template: Template) {
        let list = &mut self.lists[register as usize];
        match list.iter().position(|known| known.says_the_same(&template)) {
            Some(known) => list[known].join(template),
            None if list.len() < MAX_TEMPLATES && template.holds_something() => list.push(template),
            None => {}
        }
    }
}

impl Template {
    fn says_the_same(&self, other: &Template) -> bool {
        let rest = |template: &Template| -> Vec<Fact> {
            template.facts.iter().filter(|fact| !fact.axis.is_file()).cloned().collect()
        };
        self.events == other.events
            && self.value == other.value
            && self.sections == other.sections
            && rest(self) == rest(other)
    }

    /// Takes up the releases and the file names of a list that says the same.
    fn join(&mut self, other: Template) {
        self.releases.extend(other.releases);
        for (fact, same) in self.facts.iter_mut().zip(other.facts) {
            if !fact.found.split(" or ").any(|name| name == same.found) {
                fact.found = format!("{} or {}", fact.found, same.found);
            }
        }
    }

    /// Whether it can be matched: it has a value, or events of which at least one is known.
    fn holds_something(&self) -> bool {
        self.value.is_some() || self.events.iter().any(|step| step.digest.is_some())
    }
}

/// Makes the lists of one release.
struct Maker<'r, 'a> {
    release: &'r Release<'a>,
    expected: &'r Expected,
    shape: &'r Shape,
}

type Made = Result<Vec<(Register, Template)>, MeasureError>;

impl Maker<'_, '_> {
    fn template(
        &self,
        platform: Platform,
        events: &[PredictedEvent],
        register: Register,
        facts: Vec<Fact>,
    ) -> (Register, Template) {
        let events = events.iter().filter(|e| e.register == register).map(Step::from).collect();
        let template = Template {
            releases: BTreeSet::from([self.release.name.clone()]),
            platform,
            facts,
            events,
            value: None,
            sections: Vec::new(),
        };
        (register, template)
    }

    fn boot_fact(&self, boot: Boot) -> Fact {
        let name = |boot: Boot| if boot == Boot::Direct { "direct boot" } else { "disk boot" };
        Fact::against(Axis::Boot, name(boot), name(self.expected.boot.unwrap_or(Boot::Direct)))
    }

    /// MRTD in both page orders.
    fn tdx_mrtd(&self, firmware: &Named<&[u8]>) -> Made {
        let order = |vmm| if vmm == Vmm::SinglePass { "single-pass VMM" } else { "two-pass VMM" };
        let expected = order(self.expected.vmm.unwrap_or(Vmm::SinglePass));
        let mut made = Vec::new();
        for vmm in [Vmm::SinglePass, Vmm::TwoPass] {
            let facts = vec![
                Fact::new(Axis::Firmware, &firmware.path),
                Fact::against(Axis::Vmm, order(vmm), expected),
            ];
            let template = Template {
                releases: BTreeSet::from([self.release.name.clone()]),
                platform: Platform::Tdx,
                facts,
                events: Vec::new(),
                value: Some(tdvf::mrtd(firmware.item, vmm)?),
                sections: Vec::new(),
            };
            made.push((Register::Mrtd, template));
        }
        Ok(made)
    }

    /// RTMR0 in both boot forms, with both separators, and with captured boot variables.
    fn tdx_firmware(&self, firmware: &Named<&[u8]>, profile: &FirmwareProfile) -> Made {
        let sections = tdvf::metadata(firmware.item)?;
        let captured =
            self.release.acpi.iter().filter(|set| !(set.item.variables == BootVariables::default()));
        let sets = [None].into_iter().chain(captured.map(Some));
        let mut made = Vec::new();
        for set in sets {
            for boot in [Boot::Direct, Boot::Disk] {
                let options = TdxOptions {
                    boot_variables: set.map(|set| &set.item.variables),
                    ..TdxOptions::default()
                };
                let prediction = self.tdx(firmware.item, profile, None, boot, &blank_disk(), &options)?;
                for (events, separator) in both_separators(&prediction.events) {
                    let mut facts =
                        vec![Fact::new(Axis::Firmware, &firmware.path), self.boot_fact(boot), separator];
                    facts.extend(
                        set.map(|set| Fact::new(Axis::Acpi, format!("boot variables beside {}", set.path))),
                    );
                    let (register, mut template) =
                        self.template(Platform::Tdx, &events, Register::Rtmr0, facts);
                    template.sections.clone_from(&sections);
                    made.push((register, template));
                }
            }
        }
        Ok(made)
    }

    /// RTMR1 and RTMR2 in both boot forms, with both separators and forms of a kernel's setup header.
    fn tdx_payload(
        &self,
        firmware: &[u8],
        profile: &FirmwareProfile,
        path: &str,
        payload: Payload<'_>,
    ) -> Made {
        let uki = matches!(payload, Payload::Uki(_));
        let headers: &[Option<SetupHeader>] =
            if uki { &[None] } else { &[None, Some(SetupHeader::AsIs), Some(SetupHeader::Patched)] };
        let disks = self.release.disks.iter().filter(|_| uki).map(|disk| (Boot::Disk, Some(disk)));
        let mut made = Vec::new();
        let mut own_header = None;
        for (boot, disk) in [(Boot::Direct, None)].into_iter().chain(disks) {
            for header in headers {
                let options = TdxOptions { setup_header: *header, ..TdxOptions::default() };
                let head = disk.map_or(&[][..], |disk| disk.item);
                let prediction = self.tdx(firmware, profile, Some(payload), boot, head, &options)?;
                let mut facts = vec![Fact::new(Axis::Payload, path)];
                made.push(self.template(Platform::Tdx, &prediction.events, Register::Rtmr2, facts.clone()));
                let assumed = prediction.assumed.iter().find(|assumed| assumed.what == "setup header");
                if let Some(assumed) = assumed {
                    let found = format!("setup header {}", assumed.value);
                    let own = own_header.get_or_insert_with(|| found.clone());
                    facts.push(Fact::against(Axis::Stub, found, own.clone()));
                }
                facts.push(self.boot_fact(boot));
                facts.extend(disk.map(|disk| Fact::new(Axis::Disk, &disk.path)));
                for (events, separator) in both_separators(&prediction.events) {
                    let facts = facts.iter().cloned().chain([separator]).collect();
                    made.push(self.template(Platform::Tdx, &events, Register::Rtmr1, facts));
                }
            }
        }
        Ok(made)
    }

    fn tdx(
        &self,
        firmware: &[u8],
        profile: &FirmwareProfile,
        payload: Option<Payload<'_>>,
        boot: Boot,
        disk: &[u8],
        options: &TdxOptions<'_>,
    ) -> Result<Prediction, MeasureError> {
        let inputs = Inputs {
            platform: Platform::Tdx,
            boot,
            shape: self.shape,
            firmware_code: firmware,
            firmware_vars: &[],
            payload,
            disk_head: Some(disk),
        };
        predict_tdx_with(profile, &inputs, options)
    }

    /// All registers of the emulated platform.
    fn emulated(&self, code: &Named<&[u8]>) -> Made {
        let profile = FirmwareProfile::of(code.item)?;
        let mut made = Vec::new();
        for variables in &self.release.variables {
            for payload in &self.release.payloads {
                let forms = self.release.disks.iter().map(|disk| (Boot::Disk, Some(disk)));
                for (boot, disk) in [(Boot::Direct, None)].into_iter().chain(forms) {
                    let inputs = Inputs {
                        platform: Platform::Emulated,
                        boot,
                        shape: self.shape,
                        firmware_code: code.item,
                        firmware_vars: variables.item,
                        payload: Some(payload.item.borrow()),
                        disk_head: disk.map(|disk| disk.item),
                    };
                    let prediction = predict_with(&profile, &inputs)?;
                    let (firmware, form) = (Fact::new(Axis::Firmware, &code.path), self.boot_fact(boot));
                    let payload = Fact::new(Axis::Payload, &payload.path);
                    made.push(self.template(
                        Platform::Emulated,
                        &prediction.events,
                        Register::Rtmr2,
                        vec![payload.clone()],
                    ));
                    let mut image = vec![payload, form.clone()];
                    image.extend(disk.map(|disk| Fact::new(Axis::Disk, &disk.path)));
                    made.push(self.template(
                        Platform::Emulated,
                        &prediction.events,
                        Register::Mrtd,
                        vec![firmware.clone()],
                    ));
                    made.push(self.template(
                        Platform::Emulated,
                        &prediction.events,
                        Register::Rtmr0,
                        vec![firmware, form],
                    ));
                    made.push(self.template(Platform::Emulated, &prediction.events, Register::Rtmr1, image));
                }
            }
        }
        Ok(made)
    }
}

/// A list as the firmware's code has it, and with its last separator in the other register.
fn both_separators(events: &[PredictedEvent]) -> Vec<(Vec<PredictedEvent>, Fact)> {
    let name = |register| format!("last separator in {register}");
    let calling = events.iter().position(|e| e.event == Event::CallingBootOption);
    let at = calling
        .map(|calling| calling + 1)
        .filter(|at| events.get(*at).is_some_and(|e| e.event == Event::Separator));
    let Some(at) = at else {
        return vec![(events.to_vec(), Fact::new(Axis::Separator, "no last separator"))];
    };
    let own = events[at].register;
    let other = if own == Register::Rtmr0 { (Register::Rtmr1, 4) } else { (Register::Rtmr0, 1) };
    let mut moved = events.to_vec();
    (moved[at].register, moved[at].pcr) = other;
    vec![
        (events.to_vec(), Fact::new(Axis::Separator, name(own))),
        (moved, Fact::against(Axis::Separator, name(other.0), name(own))),
    ]
}

/// An empty partition table. Only events of RTMR0 are taken from what is foretold with it.
fn blank_disk() -> Vec<u8> {
    let mut disk = vec![0; 1024 + 128];
    disk[512..520].copy_from_slice(b"EFI PART");
    disk[512 + 72] = 2;
    disk[512 + 80] = 1;
    disk[512 + 84] = 128;
    disk
}
