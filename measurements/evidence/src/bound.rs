//! Checks of what the quote is bound to: configuration, release and the occasion on which it was asked for.

use crate::bytes::Hex;
use crate::reference::Reference;
use crate::td::{TdReport, named};
use crate::td_checks::brief;
use crate::verdict::{CheckName, Checks};
use measure::{Digest384, Registers};

pub(crate) fn mrconfigid(
    checks: &mut Checks,
    td: &TdReport,
    static_config: Option<&[u8]>,
    reference: Option<&Reference>,
) {
    let hashed = static_config.map(|bytes| Digest384(measure::wire::mrconfigid(bytes)));
    let wanted = reference.and_then(|reference| reference.mrconfigid);
    let found = brief(&td.mrconfigid);
    let name = CheckName::Mrconfigid;
    match (hashed, wanted) {
        (None, None) => {
            checks.skip(name, "SHA-384 of the static configuration", "no static configuration given")
        }
        (Some(hashed), Some(wanted)) if hashed != wanted => {
            let actual = format!("{found}; the configuration shown hashes to {hashed}");
            checks.judge(name, false, &wanted.to_string(), &actual, "reference values");
        }
        (Some(hashed), wanted) => {
            let source = if wanted.is_some() {
                "reference values and static configuration"
            } else {
                "static configuration"
            };
            checks.judge(name, td.mrconfigid == hashed, &hashed.to_string(), &found, source);
        }
        (None, Some(wanted)) => {
            checks.judge(name, td.mrconfigid == wanted, &wanted.to_string(), &found, "reference values");
        }
    }
}

pub(crate) fn registers(checks: &mut Checks, td: &TdReport, reference: Option<&Reference>) {
    let expected = "MRTD and RTMR0-3 of one release (RTMR3 by its events, where the release extends it)";
    let Some(reference) = reference else {
        return checks.skip(CheckName::Registers, expected, "no reference values given");
    };
    let registers = td.registers();
    if let Some(release) = reference.matching(&registers) {
        let found = format!("those of `{}`", release.name);
        return checks.judge(CheckName::Registers, true, expected, &found, "reference values");
    }
    let (expected, found) = match reference.closest(&registers) {
        None => (expected.to_owned(), "no release to compare with".to_owned()),
        Some(release) => differences(&release.name, &release.registers(registers.rtmr[3]), &registers),
    };
    checks.judge(CheckName::Registers, false, &expected, &found, "reference values");
}

fn differences(name: &str, wanted: &Registers, found: &Registers) -> (String, String) {
    let differing = || named(wanted).into_iter().zip(named(found)).filter(|(w, f)| w != f);
    let expected: Vec<String> = differing().map(|((n, w), _)| format!("{n} {}", brief(&w))).collect();
    let actual: Vec<String> = differing().map(|(_, (n, f))| format!("{n} {}", brief(&f))).collect();
    (format!("`{name}`: {}", expected.join(", ")), actual.join(", "))
}

pub(crate) fn report_data(checks: &mut Checks, td: &TdReport, wanted: Option<&[u8; 64]>) {
    match wanted {
        None => checks.skip(CheckName::ReportData, "64 bytes", "no report data given"),
        Some(wanted) => {
            let (expected, found) = (Hex(*wanted).to_string(), td.report_data.to_string());
            checks.judge(
                CheckName::ReportData,
                td.report_data.0 == *wanted,
                &expected,
                &found,
                "verifier's challenge",
            );
        }
    }
}
