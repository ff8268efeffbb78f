//! What an appraisal says: every check with what was expected, what was found, where the expectation comes from and
//! when it expires (RFC 9334: Attestation Results).

use crate::collateral::Document;
use crate::policy::Platform;
use crate::tcb::Tcb;
use crate::td::TdReport;
use crate::time;
use measure::Registers;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt::{self, Write};

/// A closed list of checks: those of a quote ([`CheckName`]), or those of a GPU.
pub trait Name: Copy + Ord + 'static {
    /// All of them, in the order of the table.
    const LIST: &'static [Self];
    /// As it stands in the JSON.
    fn text(self) -> &'static str;
    /// What to do when it fails.
    fn next(self) -> &'static str;
}

impl Name for CheckName {
    const LIST: &'static [Self] = &CheckName::ALL;
    fn text(self) -> &'static str {
        self.as_str()
    }
    fn next(self) -> &'static str {
        self.next_step()
    }
}

/// Every check there is, in the order of the table. A verdict has each of them exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckName {
    /// The bytes are a TDX quote, with nothing but zeros behind it.
    QuoteFormat,
    /// The chains end in the policy's root.
    TrustRoot,
    /// All collateral holds at the given time.
    CollateralWindow,
    /// The TCB info is signed under the root.
    TcbInfo,
    /// The QE identity is signed under the root.
    QeIdentity,
    /// The platform's certificate is under the root and not revoked.
    PckChain,
    /// The quoting enclave is the right one, and its report is signed by the platform.
    QeReport,
    /// The quote is signed by that enclave's key.
    QuoteSignature,
    /// The collateral is that of this platform.
    Fmspc,
    /// Microcode and firmware below the TDX module are new enough.
    TcbPlatform,
    /// The TDX module is new enough.
    TcbModule,
    /// The quoting enclave is new enough.
    TcbQe,
    /// The collateral is of the TCB recovery that the policy wants, or of a later one.
    TcbEvaluation,
    /// The TCB status of all parts together is one that the policy accepts.
    Tcb,
    /// The TD is not under debug or profiling.
    Debug,
    /// The host can't inject EPT violations.
    SeptVeDisable,
    /// No other attribute is set than the policy allows.
    TdAttributes,
    /// No other extended feature than the policy allows.
    Xfam,
    /// The TD is bound to the service TD that the policy wants, or to none.
    ServiceTd,
    /// The TDX module is one that the policy takes.
    Mrseam,
    /// The TDX module is signed and configured as the collateral says.
    Mrsignerseam,
    /// Owner and owner's configuration are as the policy says.
    Mrowner,
    /// The static configuration is the one that the TD was created with.
    Mrconfigid,
    /// The registers are those of one release.
    Registers,
    /// The event log explains the registers.
    EventLog,
    /// The guest's own events are those that RTMR3 holds, or were not extended where the release says so.
    RuntimeEvents,
    /// The quote was made for this purpose, now.
    ReportData,
}

impl CheckName {
    /// All of them, in order.
    pub const ALL: [CheckName; 27] = {
        use CheckName::*;
        [
            QuoteFormat,
            TrustRoot,
            CollateralWindow,
            TcbInfo,
            QeIdentity,
            PckChain,
            QeReport,
            QuoteSignature,
            Fmspc,
            TcbPlatform,
            TcbModule,
            TcbQe,
            TcbEvaluation,
            Tcb,
            Debug,
            SeptVeDisable,
            TdAttributes,
            Xfam,
            ServiceTd,
            Mrseam,
            Mrsignerseam,
            Mrowner,
            Mrconfigid,
            Registers,
            EventLog,
            RuntimeEvents,
            ReportData,
        ]
    };

    /// As it stands in the JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            CheckName::QuoteFormat => "quote_format",
            CheckName::TrustRoot => "trust_root",
            CheckName::CollateralWindow => "collateral_window",
            CheckName::TcbInfo => "tcb_info",
            CheckName::QeIdentity => "qe_identity",
            CheckName::PckChain => "pck_chain",
            CheckName::QeReport => "qe_report",
            CheckName::QuoteSignature => "quote_signature",
            CheckName::Fmspc => "fmspc",
            CheckName::TcbPlatform => "tcb_platform",
            CheckName::TcbModule => "tcb_module",
            CheckName::TcbQe => "tcb_qe",
            CheckName::TcbEvaluation => "tcb_evaluation",
            CheckName::Tcb => "tcb",
            CheckName::Debug => "debug",
            CheckName::SeptVeDisable => "sept_ve_disable",
            CheckName::TdAttributes => "td_attributes",
            CheckName::Xfam => "xfam",
            CheckName::ServiceTd => "service_td",
            CheckName::Mrseam => "mrseam",
            CheckName::Mrsignerseam => "mrsignerseam",
            CheckName::Mrowner => "mrowner",
            CheckName::Mrconfigid => "mrconfigid",
            CheckName::Registers => "registers",
            CheckName::EventLog => "event_log",
            CheckName::RuntimeEvents => "runtime_events",
            CheckName::ReportData => "report_data",
        }
    }

    /// What to do when it fails.
    pub fn next_step(self) -> &'static str {
        match self {
            CheckName::QuoteFormat => {
                "fetch the quote again, whole; only TDX quotes of version 4 and 5 are read"
            }
            CheckName::TrustRoot => {
                "use the policy of this platform: hardware has `tdx`, each simulated platform its own root"
            }
            CheckName::CollateralWindow => {
                "fetch collateral anew, or verify at the time when the quote was made"
            }
            CheckName::TcbInfo | CheckName::QeIdentity => "fetch collateral anew; do not use this copy",
            CheckName::PckChain => {
                "do not use this platform; if its certificate was renewed, fetch collateral anew"
            }
            CheckName::QeReport | CheckName::QuoteSignature => {
                "do not use this platform: the quote was not made by it as it is"
            }
            CheckName::Fmspc => "fetch the collateral of this platform's FMSPC",
            CheckName::TcbPlatform => "have the platform's operator update microcode (BIOS)",
            CheckName::TcbModule => "have the platform's operator load the current TDX module",
            CheckName::TcbQe => "have the platform's operator update the quoting enclave",
            CheckName::TcbEvaluation => "fetch collateral anew: this copy is of an older TCB recovery",
            CheckName::Tcb => "have the platform's operator update microcode, TDX module and quoting enclave",
            CheckName::Debug => "do not use this TD: its host can read it",
            CheckName::SeptVeDisable => "start the TD with sept-ve-disable=on",
            CheckName::TdAttributes | CheckName::Xfam => {
                "start the TD without them, or allow them by name in the policy"
            }
            CheckName::ServiceTd | CheckName::Mrowner => {
                "start the TD without it, or name the value in the policy"
            }
            CheckName::Mrseam | CheckName::Mrsignerseam => {
                "have the operator load a TDX module that the policy takes"
            }
            CheckName::Mrconfigid => {
                "ask what configuration the guest was started with; do not use it if that is not yours"
            }
            CheckName::Registers => {
                "verify against the reference values of the release that runs; `chrysalis measure` makes them"
            }
            CheckName::EventLog => {
                "fetch quote and log of the same boot; if they still differ, do not use the guest"
            }
            CheckName::RuntimeEvents => {
                "fetch quote and runtime log of the same boot; if they still differ, do not use the guest"
            }
            CheckName::ReportData => "ask again on a fresh connection: this quote was made for another one",
        }
    }
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As expected.
    Pass,
    /// Not as expected.
    Fail,
    /// Not run; `actual` says why.
    Skipped,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check<N = CheckName> {
    /// Which.
    pub name: N,
    /// How it went.
    pub status: Status,
    /// What was expected.
    pub expected: String,
    /// What was found, or why it was not run.
    pub actual: String,
    /// Where the expectation comes from.
    pub source: Cow<'static, str>,
    /// When the expectation expires, Unix seconds; none for those that don't.
    pub expires: Option<u64>,
}

/// The whole answer. Both an acceptance and a refusal carry one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// No check failed, of those that ran.
    pub accepted: bool,
    /// Every check ran.
    pub complete: bool,
    /// Whose word it is: Intel's hardware, or a simulation.
    pub platform: Platform,
    /// The time for which this was found, Unix seconds.
    pub at: u64,
    /// Intel's word for the state of the platform, if it came that far.
    pub tcb_status: Option<String>,
    /// Which release the registers are of.
    pub release: Option<String>,
    /// The registers, once the quote could be read.
    pub registers: Option<Registers>,
    /// The whole TD report, once the quote could be read.
    pub td: Option<TdReport>,
    /// The TCB in its parts.
    pub tcb: Option<Tcb>,
    /// Every document, CRL and certificate that it rests on, with its dates.
    pub collateral: Vec<Document>,
    /// Every check, in order.
    pub checks: Vec<Check>,
}

impl Verdict {
    /// The check of this name.
    pub fn check(&self, name: CheckName) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// The checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.status == Status::Fail)
    }

    /// The checks that were not run.
    pub fn skipped(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.status == Status::Skipped)
    }

    /// When the first of its expectations expires, Unix seconds.
    pub fn expires(&self) -> Option<u64> {
        self.checks.iter().filter_map(|check| check.expires).min()
    }

    /// The verdict as a table of one screen; `colour` writes failures in red and skipped checks in yellow.
    pub fn table(&self, colour: bool) -> String {
        let mut out = String::new();
        // A String takes everything that is written to it.
        let _ = self.write_table(&mut out, colour);
        out
    }

    fn write_table(&self, out: &mut impl Write, colour: bool) -> fmt::Result {
        let word = match (self.accepted, self.complete) {
            (true, true) => "ACCEPTED",
            (true, false) => "INCOMPLETE",
            (false, _) => "REFUSED",
        };
        let platform = match self.platform {
            Platform::Tdx => "Intel TDX",
            Platform::Simulated => "SIMULATED platform, no proof of hardware",
        };
        writeln!(out, "{word}: {platform}, at {}", time::show(self.at))?;
        let tcb = self.tcb_status.as_deref().unwrap_or("unknown");
        let release = self.release.as_deref().unwrap_or("unknown");
        let until = self.expires().map_or_else(|| "unknown".into(), time::show);
        writeln!(out, "TCB {tcb}; release {release}; holds until {until}")?;
        // Neighbours that passed with the same words share a line: a whole verdict fits one screen.
        let alike = |a: &Check, b: &Check| {
            a.status == Status::Pass && b.status == Status::Pass && a.actual == b.actual
        };
        for group in self.checks.chunk_by(alike) {
            match group {
                [check] => write_check(out, check, "", 17, colour)?,
                several => {
                    let names: Vec<_> = several.iter().map(|check| check.name.as_str()).collect();
                    let text = format!("{}: {}", several[0].actual, names.join(", "));
                    writeln!(out, "pass  {:<17} {}", format!("{} checks", several.len()), short(&text, 84))?;
                }
            }
        }
        Ok(())
    }
}

/// One line of the table, and three more for a failure; `label` stands before the name, which is `width` wide.
pub(crate) fn write_check<N: Name>(
    out: &mut impl Write,
    check: &Check<N>,
    label: &str,
    width: usize,
    colour: bool,
) -> fmt::Result {
    let (mark, on) = match check.status {
        Status::Pass => ("pass", ""),
        Status::Fail => ("FAIL", "\x1b[31m"),
        Status::Skipped => ("skip", "\x1b[33m"),
    };
    let (on, off) = if colour && !on.is_empty() { (on, "\x1b[0m") } else { ("", "") };
    writeln!(out, "{on}{mark}  {label}{:<width$} {}{off}", check.name.text(), short(&check.actual, 84))?;
    if check.status == Status::Fail {
        let width = label.len() + width;
        writeln!(out, "{on}      {:<width$} {}{off}", "expected", short(&check.expected, 84))?;
        writeln!(out, "{on}      {:<width$} {}{off}", "from", short(&check.source, 84))?;
        writeln!(out, "{on}      {:<width$} {}{off}", "next", check.name.next())?;
    }
    Ok(())
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_table(f, false)
    }
}

/// At most `max` characters on one line; the whole text is in the JSON. What came from the evidence may hold anything,
/// so control characters are not passed on to a terminal.
fn short(text: &str, max: usize) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if plain.chars().count() <= max {
        return plain;
    }
    plain.chars().take(max - 3).chain("...".chars()).collect()
}

/// Collects checks, and in the end accounts for every one that was not run.
pub(crate) struct Checks<N = CheckName> {
    checks: Vec<Check<N>>,
}

impl<N: Name> Checks<N> {
    pub(crate) fn new() -> Self {
        Checks { checks: Vec::with_capacity(N::LIST.len()) }
    }

    pub(crate) fn add(
        &mut self,
        name: N,
        status: Status,
        expected: impl Into<String>,
        actual: impl Into<String>,
        source: impl Into<Cow<'static, str>>,
    ) {
        let (expected, actual, source) = (expected.into(), actual.into(), source.into());
        self.checks.push(Check { name, status, expected, actual, source, expires: None });
    }

    /// Passes if `good`, else fails.
    pub(crate) fn judge(
        &mut self,
        name: N,
        good: bool,
        expected: impl Into<String>,
        actual: impl Into<String>,
        source: impl Into<Cow<'static, str>>,
    ) {
        self.add(name, if good { Status::Pass } else { Status::Fail }, expected, actual, source);
    }

    pub(crate) fn skip(&mut self, name: N, expected: &str, why: &str) {
        self.add(name, Status::Skipped, expected, why, "");
    }

    /// Dates the check that was added last.
    pub(crate) fn expires(&mut self, at: Option<u64>) {
        if let Some(check) = self.checks.last_mut() {
            check.expires = at;
        }
    }

    /// Adds checks that were made elsewhere.
    pub(crate) fn extend(&mut self, checks: &[Check<N>]) {
        self.checks.extend_from_slice(checks);
    }

    /// The checks that were added, without those that were not reached.
    pub(crate) fn into_inner(self) -> Vec<Check<N>> {
        self.checks
    }

    pub(crate) fn has(&self, name: N) -> bool {
        self.checks.iter().any(|check| check.name == name)
    }

    pub(crate) fn any_failed(&self) -> bool {
        self.checks.iter().any(|check| check.status == Status::Fail)
    }

    /// In order, with a line for each check that was not reached.
    pub(crate) fn finish(self) -> Vec<Check<N>> {
        self.finish_of(N::LIST)
    }

    /// The same, where not all that there are belong to what was checked.
    pub(crate) fn finish_of(mut self, list: &[N]) -> Vec<Check<N>> {
        let first = self.checks.iter().find(|c| c.status == Status::Fail).map(|c| c.name.text());
        let why = || format!("not reached, since {} failed", first.unwrap_or("an earlier check"));
        for &name in list {
            if !self.has(name) {
                self.skip(name, "", &why());
            }
        }
        self.checks.sort_by_key(|check| check.name);
        self.checks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(platform: Platform, checks: Checks) -> Verdict {
        let checks = checks.finish();
        let (tcb_status, release, registers, td, tcb) = (None, None, None, None, None);
        Verdict {
            accepted: false,
            complete: false,
            platform,
            at: 0,
            tcb_status,
            release,
            registers,
            td,
            tcb,
            collateral: vec![],
            checks,
        }
    }

    #[test]
    fn every_check_is_listed_once_even_when_nothing_ran() {
        let checks = Checks::<CheckName>::new().finish();
        let names: Vec<_> = checks.iter().map(|c| c.name).collect();
        assert_eq!(names, CheckName::ALL);
        assert!(checks.iter().all(|c| c.status == Status::Skipped && !c.actual.is_empty()));
    }

    #[test]
    fn names_in_json_and_in_the_table_agree() {
        for name in CheckName::ALL {
            assert_eq!(serde_json::to_string(&name).unwrap(), format!("\"{}\"", name.as_str()));
        }
    }

    #[test]
    fn a_simulated_verdict_says_so_in_its_first_line() {
        let text = verdict(Platform::Simulated, Checks::new()).to_string();
        assert!(text.lines().next().unwrap().contains("SIMULATED"), "{text}");
        let text = verdict(Platform::Tdx, Checks::new()).to_string();
        assert!(!text.contains("SIMULATED"), "{text}");
    }

    #[test]
    fn the_table_passes_no_control_characters_on() {
        let mut checks = Checks::new();
        checks.judge(CheckName::Registers, false, "a", "\x1b[2Jgone\r\nname", "");
        let text = verdict(Platform::Tdx, checks).to_string();
        assert!(!text.contains('\x1b') && !text.contains('\r'), "{text:?}");
        assert!(text.contains(" [2Jgone  name"));
    }
}
