//! Checks of the TD's own properties against the policy.

use crate::bytes::Hex;
use crate::policy::{Policy, Settings};
use crate::td::{TdReport, XFAM_FIXED1, attributes};
use crate::verdict::{CheckName, Checks};
use measure::Digest384;

const SPEC: &str = "Intel TDX Module ABI specification, ATTRIBUTES";

/// `fault`: what the library says of the attributes, counted where the checks here find nothing.
pub(crate) fn check(checks: &mut Checks, td: &TdReport, policy: &Policy, fault: Option<&str>) {
    let settings = &policy.settings;
    attributes(checks, td, settings, fault);
    xfam(checks, td, settings);
    service_td(checks, td, settings, fault);
    mrseam(checks, td, settings);
    let good = td.mrowner == settings.mrowner && td.mrownerconfig == settings.mrownerconfig;
    let words = |owner: &Digest384, config: &Digest384| {
        format!("owner {}, owner's configuration {}", brief(owner), brief(config))
    };
    let expected = words(&settings.mrowner, &settings.mrownerconfig);
    checks.judge(CheckName::Mrowner, good, expected, words(&td.mrowner, &td.mrownerconfig), "policy");
}

fn attributes(checks: &mut Checks, td: &TdReport, settings: &Settings, fault: Option<&str>) {
    let bits = td.attributes();
    let debug = bits & attributes::TUD;
    let found = match debug {
        0 => "off".to_owned(),
        bits if bits & attributes::DEBUG != 0 => format!("DEBUG is on (bits 7:0 are {bits:#04x})"),
        bits => format!("profiling is on (bits 7:0 are {bits:#04x})"),
    };
    checks.judge(CheckName::Debug, debug == 0, "DEBUG and profiling off", found, SPEC);
    let sept = bits & attributes::SEPT_VE_DISABLE != 0;
    checks.judge(CheckName::SeptVeDisable, sept, "on", if sept { "on" } else { "off" }, SPEC);

    let others = bits & !(attributes::TUD | attributes::SEPT_VE_DISABLE);
    let expected = match settings.allowed_attributes {
        0 => "no other attribute".to_owned(),
        allowed => format!("no other attribute than {}", names(allowed)),
    };
    let mut good = others & !settings.allowed_attributes == 0;
    let mut found = if others == 0 { "none".to_owned() } else { names(others) };
    let explained = !sept || debug != 0 || others & !settings.allowed_attributes != 0;
    if let Some(fault) = fault.filter(|_| !explained) {
        (good, found) = (false, fault.to_owned());
    }
    checks.judge(CheckName::TdAttributes, good, expected, found, "policy");
}

fn names(bits: u64) -> String {
    let mut names: Vec<String> = Vec::new();
    let mut rest = bits;
    for (name, bit) in attributes::NAMED {
        if bits & bit != 0 {
            names.push(name.to_owned());
            rest &= !bit;
        }
    }
    if rest != 0 {
        names.push(format!("unknown bits {rest:#x}"));
    }
    names.join(", ")
}

fn xfam(checks: &mut Checks, td: &TdReport, settings: &Settings) {
    let bits = td.xfam();
    let good = bits & XFAM_FIXED1 == XFAM_FIXED1 && bits & !settings.xfam_allowed == 0;
    let expected = format!("{XFAM_FIXED1:#x} set, nothing beyond {:#x}", settings.xfam_allowed);
    checks.judge(CheckName::Xfam, good, expected, format!("{bits:#x}"), "policy");
}

fn service_td(checks: &mut Checks, td: &TdReport, settings: &Settings, fault: Option<&str>) {
    let none = Digest384::ZERO;
    let found = td.v15.as_ref().map_or(&none, |v15| &v15.mrservicetd);
    let mut actual = brief(found);
    let mut good = *found == settings.mrservicetd;
    if let Some(fault) = fault.filter(|fault| good && fault.contains("MR service TD")) {
        (good, actual) = (false, fault.to_owned());
    }
    checks.judge(CheckName::ServiceTd, good, brief(&settings.mrservicetd), actual, "policy");
}

/// Which module it is, beyond who signed it: that and its TCB level are checked against the collateral.
fn mrseam(checks: &mut Checks, td: &TdReport, settings: &Settings) {
    let (good, expected) = if settings.mrseam.is_empty() {
        (td.mrseam != Digest384::ZERO, "any module that the collateral vouches for".to_owned())
    } else {
        let accepted: Vec<String> = settings.mrseam.iter().map(ToString::to_string).collect();
        (settings.mrseam.contains(&td.mrseam), accepted.join(" or "))
    };
    checks.judge(CheckName::Mrseam, good, expected, Hex(td.mrseam.0).to_string(), "policy");
}

/// A register, `zeros` where that is what it is.
pub(crate) fn brief(register: &Digest384) -> String {
    if *register == Digest384::ZERO { "zeros".into() } else { Hex(register.0).to_string() }
}
