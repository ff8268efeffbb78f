//! TCB levels: how current a platform, its TDX module and its quoting enclave are.
//!
//! The library that checks signatures evaluates levels as well, but tells only the outcome, and nothing at all where it
//! refuses. This evaluation follows the same published rules (Intel PCS API, "TCB Info V3", steps for comparing TCB levels;
//! SVN comparison component by component, module by TDX module identity), and adds how many levels behind and since when.
//! Where both speak, they must agree.

use crate::pck::Pck;
use crate::quote::Quote;
use crate::time;
use dcap_qvl::{QeIdentity, TcbInfo, TcbLevel, TcbStatus, TcbStatusWithAdvisory};
use serde::Serialize;

/// One part of the TCB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Level {
    /// Intel's word.
    pub status: String,
    /// How many levels above this one are published.
    pub behind: usize,
    /// Date of this level: what was known until then is mitigated.
    pub since: String,
    /// Date of the next level above, which it does not reach; none where it is the highest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Advisories that are open at this level.
    pub advisories: Vec<String>,
    /// [`Level::status`] for comparing.
    #[serde(skip)]
    pub(crate) word: TcbStatus,
}

/// The TCB in its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tcb {
    /// Microcode and the firmware below the TDX module.
    pub platform: Level,
    /// The TDX module; none where the platform's level covers it.
    pub module: Option<Level>,
    /// The TDX module that runs now, where it was updated under a TD of TDX 1.5 that was launched on another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_module: Option<Level>,
    /// The quoting enclave.
    pub qe: Level,
    /// `tcbEvaluationDataNumber` of the TCB info.
    pub evaluation_number: u32,
    /// `tcbEvaluationDataNumber` of the QE identity.
    pub qe_evaluation_number: u32,
}

/// What the levels come to.
#[derive(Debug, Clone)]
pub(crate) struct Evaluated {
    pub(crate) status: TcbStatus,
    pub(crate) tcb: Tcb,
}

/// Evaluates signed collateral against the SVNs of a quote and its platform's certificate.
pub(crate) fn evaluate(
    info: &TcbInfo,
    identity: &QeIdentity,
    quote: &Quote,
    pck: &Pck,
) -> Result<Evaluated, String> {
    let qe_svn = qe_isvsvn(quote);
    let qe_at = identity
        .tcb_levels
        .iter()
        .position(|level| qe_svn >= level.tcb.isvsvn)
        .ok_or_else(|| format!("quoting enclave has ISVSVN {qe_svn}, below every published level"))?;
    let qe = &identity.tcb_levels[qe_at];
    let qe_status = TcbStatusWithAdvisory::new(qe.tcb_status, qe.advisory_ids.clone());

    let launch = platform(info, &quote.td.tee_tcb_svn.0, pck)?;
    let mut status = launch.status.clone().merge(&qe_status).status;
    let mut current_module = None;
    if let Some(v15) = &quote.td.v15 {
        let current = platform(info, &v15.tee_tcb_svn2.0, pck)?;
        status = relaunch(status, current.status.merge(&qe_status).status);
        current_module = current.module.filter(|_| v15.tee_tcb_svn2 != quote.td.tee_tcb_svn);
    }
    let dates = |level: usize| identity.tcb_levels.get(level).map(|level| level.tcb_date.as_str());
    let tcb = Tcb {
        platform: launch.platform,
        module: launch.module,
        current_module,
        qe: level(qe_at, qe.tcb_status, dates, &qe.advisory_ids),
        evaluation_number: info.tcb_evaluation_data_number,
        qe_evaluation_number: identity.tcb_evaluation_data_number,
    };
    Ok(Evaluated { status, tcb })
}

struct PlatformLevels {
    platform: Level,
    module: Option<Level>,
    /// Of both together.
    status: TcbStatusWithAdvisory,
}

fn platform(info: &TcbInfo, tee_tcb_svn: &[u8; 16], pck: &Pck) -> Result<PlatformLevels, String> {
    let levels = sorted(info);
    let mut found = None;
    for (at, candidate) in levels.iter().enumerate() {
        let short = candidate.shortfalls(&pck.cpu_svn, pck.pce_svn, Some(tee_tcb_svn));
        if short.map_err(|e| format!("TCB info: {e}"))?.is_empty() {
            found = Some((at, *candidate));
            break;
        }
    }
    let (at, matched) = found.ok_or_else(|| {
        let (cpu, tee) = (hex::encode(pck.cpu_svn), hex::encode(tee_tcb_svn));
        format!("no TCB level matches CPU SVN {cpu}, PCE SVN {}, TEE TCB SVN {tee}", pck.pce_svn)
    })?;
    let dates = |level: usize| levels.get(level).map(|level| level.tcb_date.as_str());
    let platform = level(at, matched.tcb_status, dates, &matched.advisory_ids);
    let mut status = TcbStatusWithAdvisory::new(matched.tcb_status, matched.advisory_ids.clone());
    let identity = info.tdx_module_identity(tee_tcb_svn).map_err(|e| e.to_string())?;
    let Some(identity) = identity else {
        return Ok(PlatformLevels { platform, module: None, status });
    };
    let at =
        identity.tcb_levels.iter().position(|level| level.shortfall(tee_tcb_svn).is_none()).ok_or_else(
            || format!("TDX module has ISVSVN {}, below every published level", tee_tcb_svn[0]),
        )?;
    let matched = &identity.tcb_levels[at];
    status = status.merge(&TcbStatusWithAdvisory::new(matched.tcb_status, matched.advisory_ids.clone()));
    let dates = |level: usize| identity.tcb_levels.get(level).map(|level| level.tcb_date.as_str());
    let module = level(at, matched.tcb_status, dates, &matched.advisory_ids);
    Ok(PlatformLevels { platform, module: Some(module), status })
}

/// Highest first: by CPU SVN components, then PCE SVN, then TDX components. The order in the file does not count.
fn sorted(info: &TcbInfo) -> Vec<&TcbLevel> {
    let mut levels: Vec<_> = info.tcb_levels.iter().collect();
    levels.sort_by(|a, b| {
        let (a, b) = (&a.tcb, &b.tcb);
        let by_cpu = b.sgx_components.cmp(&a.sgx_components).then(b.pce_svn.cmp(&a.pce_svn));
        by_cpu.then_with(|| b.tdx_components.cmp(&a.tdx_components))
    });
    levels
}

/// A TD that was launched on an old TDX module which was updated under it since.
fn relaunch(launch: TcbStatus, current: TcbStatus) -> TcbStatus {
    use TcbStatus::*;
    let current_good = matches!(
        current,
        UpToDate | SWHardeningNeeded | ConfigurationNeeded | ConfigurationAndSWHardeningNeeded
    );
    let configuration = |s| {
        matches!(s, ConfigurationNeeded | OutOfDateConfigurationNeeded | ConfigurationAndSWHardeningNeeded)
    };
    match launch {
        _ if current == Revoked => Revoked,
        OutOfDate | OutOfDateConfigurationNeeded if current_good => {
            if configuration(launch) || configuration(current) {
                TDRelaunchAdvisedConfigurationNeeded
            } else {
                TDRelaunchAdvised
            }
        }
        other => other,
    }
}

/// The level at this place of its list; `dates` gives the date of each.
fn level<'a>(
    behind: usize,
    word: TcbStatus,
    dates: impl Fn(usize) -> Option<&'a str>,
    advisories: &[String],
) -> Level {
    Level {
        status: word.to_string(),
        behind,
        since: dates(behind).unwrap_or_default().to_owned(),
        next: behind.checked_sub(1).and_then(dates).map(str::to_owned),
        advisories: advisories.to_vec(),
        word,
    }
}

/// ISVSVN of the quoting enclave: bytes 258 and 259 of its report (Intel SDM volume 3D, REPORT structure).
fn qe_isvsvn(quote: &Quote) -> u16 {
    let report = &quote.signature.qe_report.0;
    u16::from_le_bytes([report[258], report[259]])
}

impl Tcb {
    /// Each part in a few words, such as `TDX module OutOfDate, 1 level behind, as of 2024-03-13`.
    pub(crate) fn words(&self) -> String {
        let mut words = vec![format!("platform {}", self.platform.words())];
        words.extend(self.module.as_ref().map(|level| format!("TDX module {}", level.words())));
        words.extend(self.current_module.as_ref().map(|level| format!("its update {}", level.words())));
        words.push(format!("QE {}", self.qe.words()));
        words.join("; ")
    }

    fn all(&self) -> impl Iterator<Item = &Level> {
        [&self.platform, &self.qe].into_iter().chain(&self.module)
    }

    /// Since when the first of the parts that are not up to date has been so, Unix seconds.
    pub(crate) fn outdated_since(&self) -> Option<u64> {
        self.all().filter(|level| level.word != TcbStatus::UpToDate).filter_map(Level::outdated_since).min()
    }

    /// Whether this advisory is open at the level of any part.
    pub(crate) fn open(&self, advisory: &str) -> bool {
        self.all().any(|level| level.advisories.iter().any(|id| id == advisory))
    }
}

impl Level {
    /// Since when there has been a better one: the date of the next level above, or its own where it is the highest.
    pub(crate) fn outdated_since(&self) -> Option<u64> {
        time::read(self.next.as_ref().unwrap_or(&self.since))
    }

    /// Status, how far behind since when, and advisories.
    pub(crate) fn words(&self) -> String {
        let mut text = self.status.clone();
        if self.behind > 0 {
            let levels = if self.behind == 1 { "level" } else { "levels" };
            let date = self.since.get(..10).unwrap_or(&self.since);
            text += &format!(", {} {levels} behind since {date}", self.behind);
            if let Some(next) = &self.next {
                text += &format!(", next of {}", next.get(..10).unwrap_or(next));
            }
        }
        if !self.advisories.is_empty() {
            text += &format!(" ({})", self.advisories.join(", "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_td_launched_on_an_old_module_is_advised_to_relaunch() {
        use TcbStatus::*;
        assert_eq!(relaunch(OutOfDate, UpToDate), TDRelaunchAdvised);
        assert_eq!(relaunch(OutOfDate, ConfigurationNeeded), TDRelaunchAdvisedConfigurationNeeded);
        assert_eq!(relaunch(OutOfDate, OutOfDate), OutOfDate);
        assert_eq!(relaunch(UpToDate, OutOfDate), UpToDate);
        assert_eq!(relaunch(UpToDate, Revoked), Revoked);
    }
}
