//! Whether the TCB is new enough for the policy: platform, TDX module and quoting enclave each for itself, then together.
//!
//! `tcb` decides: the status of all parts together is accepted, for good or for a grace. If it is not, each part that is
//! not acceptable by itself fails as well and says how far behind it is.

use crate::appraise::Inputs;
use crate::policy::Settings;
use crate::signatures::{Levels, Library};
use crate::tcb::{Evaluated, Level, Tcb};
use crate::time;
use crate::verdict::{CheckName, Checks};
use dcap_qvl::TcbStatus;

const SOURCE: &str = "policy and collateral: tcb_info";

/// What the policy says of a status at a time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Accepted,
    /// For a grace that ends then.
    Until(u64),
    /// For a grace that ended then.
    Ended(u64),
    Refused,
}

impl Word {
    fn good(self) -> bool {
        matches!(self, Word::Accepted | Word::Until(_))
    }

    fn ends(self) -> Option<u64> {
        if let Word::Until(at) = self { Some(at) } else { None }
    }

    fn words(self) -> String {
        match self {
            Word::Accepted | Word::Refused => String::new(),
            Word::Until(at) => format!("; grace until {}", time::show(at)),
            Word::Ended(at) => format!("; grace ended {}", time::show(at)),
        }
    }
}

/// `until`: when the collateral expires, if it holds.
pub(crate) fn check(checks: &mut Checks, inputs: &Inputs<'_>, levels: &Levels, until: Option<u64>) {
    let settings = &inputs.policy.settings;
    let expected = expected(settings);
    let evaluated = match &levels.evaluated {
        Ok(evaluated) => evaluated,
        Err(why) => {
            checks.judge(CheckName::Tcb, false, &expected, why, SOURCE);
            return checks.expires(until);
        }
    };
    evaluation(checks, settings, &evaluated.tcb, until);
    let word = word(settings, evaluated.status, evaluated.tcb.outdated_since(), inputs.at);
    let (good, found) = together(checks, settings, evaluated, &levels.library, word);
    parts(checks, inputs, &evaluated.tcb, word.good(), &expected, until);
    checks.judge(CheckName::Tcb, good, expected, found, SOURCE);
    checks.expires(until.into_iter().chain(word.ends()).min());
}

fn expected(settings: &Settings) -> String {
    let mut words: Vec<String> = settings.accept.iter().map(ToString::to_string).collect();
    words.extend(
        settings.grace.iter().map(|(status, seconds)| format!("{status} for {} days", seconds / 86_400)),
    );
    words.join(" or ")
}

fn word(settings: &Settings, status: TcbStatus, outdated_since: Option<u64>, at: u64) -> Word {
    if status == TcbStatus::Revoked {
        return Word::Refused;
    }
    if settings.accept.contains(&status) {
        return Word::Accepted;
    }
    let grace = settings.grace.iter().find(|(named, _)| *named == status);
    match (grace, outdated_since) {
        (Some((_, seconds)), Some(since)) => {
            let end = since.saturating_add(*seconds);
            if at < end { Word::Until(end) } else { Word::Ended(end) }
        }
        _ => Word::Refused,
    }
}

/// The status of all parts, with second opinions: of the library on the status, and on anything that the checks here took
/// for good.
fn together(
    checks: &Checks,
    settings: &Settings,
    evaluated: &Evaluated,
    library: &Library,
    word: Word,
) -> (bool, String) {
    let found = format!("{}: {}{}", evaluated.status, evaluated.tcb.words(), word.words());
    let rejected: Vec<&str> =
        settings.reject_advisories.iter().map(String::as_str).filter(|id| evaluated.tcb.open(id)).collect();
    match library {
        Library::Status(other) if *other != evaluated.status.to_string() => {
            (false, format!("two evaluations differ: {found}; dcap-qvl: {other}"))
        }
        Library::Stopped(why) if word.good() && !checks.any_failed() => (false, why.clone()),
        _ if !rejected.is_empty() => (false, format!("{found}; the policy rejects {}", rejected.join(", "))),
        _ => (word.good(), found),
    }
}

/// `together`: the parts are accepted as a whole, which settles it for each.
fn parts(
    checks: &mut Checks,
    inputs: &Inputs<'_>,
    tcb: &Tcb,
    together: bool,
    expected: &str,
    until: Option<u64>,
) {
    let covered = "covered by the platform's level: module version 0";
    let parts = [
        (CheckName::TcbPlatform, Some(&tcb.platform), "collateral: tcb_info, tcbLevels"),
        (CheckName::TcbModule, tcb.module.as_ref(), "collateral: tcb_info, tdxModuleIdentities"),
        (CheckName::TcbQe, Some(&tcb.qe), "collateral: qe_identity, tcbLevels"),
    ];
    for (name, level, source) in parts {
        let since = level.and_then(Level::outdated_since);
        let word =
            level.map_or(Word::Accepted, |level| word(&inputs.policy.settings, level.word, since, inputs.at));
        let found =
            level.map_or_else(|| covered.into(), |level| format!("{}{}", level.words(), word.words()));
        checks.judge(name, together || word.good(), expected, found, source);
        checks.expires(until.into_iter().chain(word.ends()).min());
    }
}

/// Intel raises this number with every TCB recovery: a floor keeps an older document, still in its window, from hiding one.
fn evaluation(checks: &mut Checks, settings: &Settings, tcb: &Tcb, until: Option<u64>) {
    let floor = settings.min_evaluation;
    let good = tcb.evaluation_number.min(tcb.qe_evaluation_number) >= floor;
    let expected = format!("evaluation data number {floor} or above");
    let found = format!("TCB info {}, QE identity {}", tcb.evaluation_number, tcb.qe_evaluation_number);
    checks.judge(CheckName::TcbEvaluation, good, expected, found, "policy");
    checks.expires(until);
}
