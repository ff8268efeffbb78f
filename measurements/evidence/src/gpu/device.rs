//! The checks of one device, from the root down: what a step proves is what the next one stands on, so that the first failure
//! among format, root, chain and signature ends it.

use super::appraise::GpuInputs;
use super::dice::FirmwareId;
use super::error::GpuError;
use super::forms::DeviceEvidence;
use super::manifest::{Firmware, Manifests};
use super::ocsp::OcspResponse;
use super::opaque::{DeviceKind, Mode, Toggle};
use super::policy;
use super::spdm::Report;
use super::verdict::{Architecture, DeviceFacts, GpuCheckName, NOT_VALIDATED};
use super::x509::{Cert, Chain};
use super::{measured, revocation};
use crate::time;
use crate::verdict::{Check, Checks, Name};
use std::borrow::Cow;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::name::GeneralName;

/// SPDM device information in a subject alternative name: `NVIDIA:GH100:48B0...` (DMTF DSP0274 1.1.0, 10.6.1).
const DEVICE_INFO: &str = "1.3.6.1.4.1.412.274.1";
const ALTERNATIVE_NAME: &str = "2.5.29.17";

impl DeviceEvidence {
    /// Whether report and certificates can be read; verifies nothing.
    pub fn check(&self) -> Result<(), GpuError> {
        let chain = Chain::parse("device certificates", &self.chain)?;
        let kind = model(chain.leaf()).0.as_deref().map(generation).unwrap_or_default().0;
        Report::parse(&self.report, kind.unwrap_or(DeviceKind::Gpu)).map(|_| ())
    }
}

/// What all devices share.
pub(crate) struct Context<'a> {
    pub(crate) inputs: &'a GpuInputs<'a>,
    pub(crate) manifests: &'a Manifests,
    pub(crate) responses: &'a Vec<Result<OcspResponse, GpuError>>,
}

/// What came of it.
pub(crate) struct Found {
    pub(crate) checks: Vec<Check<GpuCheckName>>,
    pub(crate) facts: DeviceFacts,
    pub(crate) not_validated: Vec<String>,
}

/// One device on its way through the checks.
pub(crate) struct Device<'a> {
    pub(crate) context: &'a Context<'a>,
    pub(crate) checks: Checks<GpuCheckName>,
    pub(crate) facts: DeviceFacts,
    pub(crate) not_validated: Vec<String>,
}

pub(crate) fn check(context: &Context<'_>, evidence: &DeviceEvidence) -> Found {
    let (checks, facts, not_validated) = (Checks::new(), DeviceFacts::default(), Vec::new());
    let mut device = Device { context, checks, facts, not_validated };
    device.run(evidence);
    let kind = device.facts.kind.unwrap_or(DeviceKind::Gpu);
    let list: Vec<_> = GpuCheckName::LIST.iter().copied().filter(|name| name.is_of(kind)).collect();
    Found { checks: device.checks.finish_of(&list), facts: device.facts, not_validated: device.not_validated }
}

impl Device<'_> {
    fn run(&mut self, evidence: &DeviceEvidence) -> Option<()> {
        let chain = self.read_chain(evidence)?;
        let report = self.read_report(evidence)?;
        self.root(&chain)?;
        self.chain(&chain)?;
        self.validity(&chain);
        self.signature(&chain, &report, &evidence.report)?;
        self.identity(evidence);
        self.nonce(&report);
        let firmware = self.fwid(&chain, &report);
        let golden = measured::check(self, &report);
        if self.facts.kind == Some(DeviceKind::Gpu) {
            self.mode(&report);
        }
        self.floor(&report);
        self.debug(firmware, golden);
        revocation::check(self, &chain);
        Some(())
    }

    fn read_chain(&mut self, evidence: &DeviceEvidence) -> Option<Chain> {
        let chain = match Chain::parse("device certificates", &evidence.chain) {
            Ok(chain) => chain,
            Err(error) => {
                let expected = "a chain of certificates with P-384 keys";
                self.judge(GpuCheckName::Chain, false, expected, &error.to_string(), "evidence");
                return None;
            }
        };
        let (model, serial) = model(chain.leaf());
        let (kind, architecture) = model.as_deref().map(generation).unwrap_or_default();
        self.facts = DeviceFacts {
            kind: Some(kind.unwrap_or(DeviceKind::Gpu)),
            architecture,
            model,
            serial,
            identity_key: chain.0.get(1).map(Cert::key_fingerprint),
            chain: chain.0.iter().map(Cert::subject).collect(),
            ..DeviceFacts::default()
        };
        Some(chain)
    }

    fn read_report(&mut self, evidence: &DeviceEvidence) -> Option<Report> {
        let expected = "an SPDM 1.1 exchange with NVIDIA's opaque data, and nothing behind it";
        let source = "DMTF DSP0274 1.1.0, 10.11";
        let kind = self.facts.kind.unwrap_or(DeviceKind::Gpu);
        match Report::parse(&evidence.report, kind) {
            Ok(report) => {
                let (blocks, version) = (report.measurements.len(), report.opaque.version);
                let found = format!("{blocks} measurements, opaque data version {version}");
                self.judge(GpuCheckName::ReportFormat, true, expected, &found, source);
                if report.opaque.header {
                    self.not_validated.push("opaque data of version 2".into());
                }
                self.facts.nonce = Some(report.nonce);
                self.facts.opaque = Some(report.opaque.clone());
                Some(report)
            }
            Err(error) => {
                self.judge(GpuCheckName::ReportFormat, false, expected, &error.to_string(), source);
                None
            }
        }
    }

    fn root(&mut self, chain: &Chain) -> Option<()> {
        let wanted = self.context.inputs.policy.device_root();
        let expected = format!("a root with the key SHA-256 {wanted}");
        let found = chain.ends_in(wanted);
        let words = found.clone().err().unwrap_or_else(|| format!("ends in {}", chain.root().subject()));
        self.judge(GpuCheckName::TrustRoot, found.is_ok(), &expected, &words, "policy");
        found.ok()
    }

    fn chain(&mut self, chain: &Chain) -> Option<()> {
        let found = chain.verify();
        let words = found.clone().err();
        let words =
            words.unwrap_or_else(|| format!("{} certificates, each signed by the next", chain.0.len()));
        let expected = "signatures, names, key identifiers, constraints and key usage in order";
        self.judge(GpuCheckName::Chain, found.is_ok(), expected, &words, "RFC 5280, 6.1");
        found.ok()
    }

    fn validity(&mut self, chain: &Chain) {
        let at = self.context.inputs.at;
        let faults = chain.faults(at);
        let (from, until) = chain.window();
        let end =
            until.map_or_else(|| "without an end".into(), |until| format!("until {}", time::show(until)));
        let words =
            if faults.is_empty() { format!("from {}, {end}", time::show(from)) } else { faults.join("; ") };
        let expected = format!("all certificates hold at {}", time::show(at));
        self.judge(GpuCheckName::ChainValidity, faults.is_empty(), &expected, &words, "device certificates");
        self.checks.expires(until);
    }

    fn signature(&mut self, chain: &Chain, report: &Report, bytes: &[u8]) -> Option<()> {
        let good = chain.leaf().signed_fixed(&bytes[..report.signed_len], &report.signature.0);
        let words = if good { "holds" } else { "does not hold" };
        let expected = "ECDSA P-384 with SHA-384 over request and response by the leaf's key";
        self.judge(GpuCheckName::ReportSignature, good, expected, words, "leaf certificate");
        good.then_some(())
    }

    fn identity(&mut self, evidence: &DeviceEvidence) {
        let models = &self.context.inputs.policy.settings.models;
        let (expected, source) = match models.is_empty() {
            true => {
                ("a chip that is known: GH1xx, GB1xx, GB2xx, LS10".into(), "generations with a report format")
            }
            false => (models.join(" or "), "policy"),
        };
        let model = self.facts.model.clone().unwrap_or_else(|| "no chip named".into());
        let known = self.facts.architecture.is_some();
        let claimed = evidence.arch.as_ref().map(|arch| arch.to_lowercase());
        let own = self.facts.architecture.map(|arch| format!("{arch:?}").to_lowercase());
        let agrees = claimed.is_none() || claimed == own;
        let mut words = model.clone();
        if let (false, Some(claimed)) = (agrees, claimed) {
            words += &format!(", which the sender calls {claimed}");
        }
        match self.facts.architecture {
            Some(Architecture::Hopper) | None => {}
            Some(other) => {
                self.not_validated.push(format!("{other:?}"));
                words += &format!(" ({NOT_VALIDATED})");
            }
        }
        let good = known && agrees && (models.is_empty() || models.contains(&model));
        self.judge(GpuCheckName::Identity, good, &expected, &words, source);
    }

    fn nonce(&mut self, report: &Report) {
        let Some(wanted) = self.context.inputs.nonce else {
            let why = format!("no nonce given; the report was asked for {}", report.nonce);
            return self.checks.skip(GpuCheckName::Nonce, "the nonce of the challenge", &why);
        };
        let (good, wanted) = (report.nonce.0 == *wanted, hex::encode(wanted));
        self.judge(GpuCheckName::Nonce, good, &wanted, &report.nonce.to_string(), "the verifier's challenge");
    }

    fn fwid(&mut self, chain: &Chain, report: &Report) -> Option<FirmwareId> {
        let source = "leaf certificate, TCG DICE extension";
        let named = match FirmwareId::of(chain.leaf()) {
            Ok(named) => named,
            Err(why) => {
                self.judge(GpuCheckName::Fwid, false, "a firmware identity that can be read", &why, source);
                return None;
            }
        };
        match (&named, &report.opaque.fwid) {
            (Some(named), Some(found)) => {
                let (good, expected) = (named.fwid == *found, named.fwid.to_string());
                self.judge(GpuCheckName::Fwid, good, &expected, &found.to_string(), source);
            }
            (None, Some(found)) => {
                let expected = "a firmware identity in the leaf";
                self.judge(GpuCheckName::Fwid, false, expected, &format!("none; report: {found}"), source);
            }
            (_, None) => {
                let expected = named.map(|named| named.fwid.to_string()).unwrap_or_default();
                let why = "the report of this driver carries none";
                self.checks.skip(GpuCheckName::Fwid, &expected, why);
            }
        }
        named
    }

    fn mode(&mut self, report: &Report) {
        let opaque = &report.opaque;
        let modes = &self.context.inputs.policy.settings.modes;
        let accepted: Vec<String> = modes.iter().map(|mode| mode.words()).collect();
        let expected = format!("confidential computing on, DevTools off, {}", accepted.join(" or "));
        let pcie = opaque.protected_pcie;
        let named = opaque.mode.or((pcie == Some(Toggle::On)).then_some(Mode::Ppcie));
        let mut faults = Vec::new();
        let mut words = match named {
            Some(mode) => mode.words(),
            // Only a device with confidential computing on answers with a signed report.
            None => "on; this driver does not name the mode".into(),
        };
        match (named, pcie) {
            (Some(mode), _) if !modes.contains(&mode) => {
                faults.push(format!("{} is not accepted", mode.words()))
            }
            (None, _) if !modes.contains(&Mode::Spt) => faults.push("a mode that is not named".into()),
            (_, Some(Toggle::Unknown(byte))) => faults.push(format!("protected PCIe is 0x{byte:02x}")),
            (Some(mode), Some(pcie)) if (mode == Mode::Ppcie) != (pcie == Toggle::On) => {
                faults.push(format!("protected PCIe is {pcie:?} in {}", mode.words()));
            }
            _ => {}
        }
        match self.context.inputs.system {
            None => words += "; the driver was not asked",
            Some(state) => {
                faults.extend((!state.cc).then(|| "the driver says off".to_string()));
                faults.extend(state.devtools.then(|| "the driver says DevTools".to_string()));
                faults
                    .extend((!state.production).then(|| "the driver says no production environment".into()));
            }
        }
        let good = faults.is_empty();
        let found = if good { words } else { faults.join("; ") };
        self.judge(GpuCheckName::CcMode, good, &expected, &found, "policy");
    }

    fn floor(&mut self, report: &Report) {
        let settings = &self.context.inputs.policy.settings;
        let (driver, vbios) = (&report.opaque.driver_version, &report.opaque.vbios_version);
        let is_switch = self.facts.kind == Some(DeviceKind::Switch);
        let own = [("driver", &settings.driver_min, driver, 10), ("VBIOS", &settings.vbios_min, vbios, 16)];
        let own = own
            .into_iter()
            .filter_map(|(what, floor, found, radix)| Some((what, floor.as_ref()?, found, radix)));
        let of_chip = settings.floors.iter().filter(|floor| self.facts.model.as_ref() == Some(&floor.model));
        let of_chip = of_chip.flat_map(|floor| {
            [("driver", &floor.driver_min, driver, 10), ("VBIOS", &floor.vbios_min, vbios, 16)]
        });
        let mut faults = Vec::new();
        let mut expected = Vec::new();
        for (what, floor, found, radix) in own.chain(of_chip).filter(|_| !is_switch) {
            expected.push(format!("{what} {floor} or newer"));
            let parsed = found.as_deref().and_then(|found| policy::version(found, radix));
            if parsed.is_none() || parsed < policy::version(floor, radix) {
                faults.push(format!("{what} {}", found.as_deref().unwrap_or("not named")));
            }
        }
        let good = faults.is_empty();
        let found = match (good, expected.is_empty()) {
            (_, true) => "no floor in the policy".into(),
            (true, false) => "not older".into(),
            (false, false) => faults.join(", "),
        };
        let expected = if expected.is_empty() { "any".into() } else { expected.join(", ") };
        self.judge(GpuCheckName::FirmwareFloor, good, &expected, &found, "policy");
    }

    /// A report has no bit for debug. DICE flags have one; beyond that, firmware under debug or DevTools measures otherwise
    /// than golden, which is what NVIDIA's own verifier goes by (attestation-sdk, `dbgstat`).
    fn debug(&mut self, firmware: Option<FirmwareId>, golden: bool) {
        let expected = "every golden value met, and no debug flag in the leaf";
        let source = "manifests, and TCG DICE flags";
        let flags = firmware.and_then(|firmware| firmware.flags);
        if let Some(flags) = flags {
            self.not_validated.push("DICE flags".into());
            let named = ["not configured", "not secure", "recovery", "debug"].iter().enumerate();
            let set: Vec<_> = named.filter(|(bit, _)| flags & 1 << bit != 0).map(|(_, name)| *name).collect();
            if !set.is_empty() {
                let found = format!("flags: {} ({NOT_VALIDATED})", set.join(", "));
                return self.judge(GpuCheckName::Debug, false, expected, &found, source);
            }
        }
        match golden {
            true => {
                self.judge(GpuCheckName::Debug, true, expected, "off: all measurements are golden", source)
            }
            false => {
                let why =
                    "a report has no debug bit of its own: only measurements against all manifests tell";
                self.checks.skip(GpuCheckName::Debug, expected, why);
            }
        }
    }

    pub(crate) fn judge(
        &mut self,
        name: GpuCheckName,
        good: bool,
        expected: &str,
        actual: &str,
        source: impl Into<Cow<'static, str>>,
    ) {
        self.checks.judge(name, good, expected, actual, source);
    }

    /// Version of the firmware that this is about, as the report names it.
    pub(crate) fn version(&self, what: Firmware) -> String {
        let opaque = self.facts.opaque.as_ref();
        let version = opaque.and_then(|opaque| match what {
            Firmware::Driver => opaque.driver_version.clone(),
            Firmware::Vbios => opaque.vbios_version.clone(),
        });
        version.unwrap_or_else(|| "not named".into())
    }
}

/// Chip and serial number, from the alternative name or else from the common name of the leaf: `GH100 A01 GSP FMC LF`.
fn model(leaf: &Cert) -> (Option<String>, Option<String>) {
    let info = leaf.extension(ALTERNATIVE_NAME).and_then(device_info);
    let common = leaf.common_name().and_then(|name| name.split(' ').next().map(str::to_owned));
    match info {
        Some((model, serial)) => (Some(model), Some(serial)),
        None => (common, None),
    }
}

fn device_info(names: &[u8]) -> Option<(String, String)> {
    let names = Vec::<GeneralName>::from_der(names).ok()?;
    names.iter().find_map(|name| match name {
        GeneralName::OtherName(other) if other.type_id.to_string() == DEVICE_INFO => {
            let text = std::str::from_utf8(other.value.value()).ok()?;
            let plain = text.len() <= 128 && text.chars().all(|c| c.is_ascii_graphic());
            let mut parts = text.split(':').filter(|_| plain);
            match (parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some("NVIDIA"), Some(model), Some(serial), None) => {
                    Some((model.to_owned(), serial.to_owned()))
                }
                _ => None,
            }
        }
        _ => None,
    })
}

/// What a chip is, if its reports are known.
pub(crate) fn generation(model: &str) -> (Option<DeviceKind>, Option<Architecture>) {
    let named = |prefix: &str| {
        model
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.len() == 2 && rest.chars().all(|c| c.is_ascii_digit()))
    };
    match model {
        _ if named("GH1") => (Some(DeviceKind::Gpu), Some(Architecture::Hopper)),
        _ if named("GB1") || named("GB2") => (Some(DeviceKind::Gpu), Some(Architecture::Blackwell)),
        "LS10" => (Some(DeviceKind::Switch), Some(Architecture::Ls10)),
        _ => (None, None),
    }
}
