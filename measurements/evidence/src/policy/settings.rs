//! Everything in a policy but its trust root: the text as it is written, and the validated settings.
//!
//! Durations are whole days, since Intel dates TCB levels by the day.

use super::{Platform, PolicyError, value};
use crate::gpu::{GpuPolicy, GpuSettings};
use crate::reference::{Reference, Release};
use crate::td::{XFAM_DEFINED, XFAM_FIXED1, attributes};
use dcap_qvl::TcbStatus;
use measure::Digest384;
use serde::Deserialize;
use std::collections::HashMap;

const DAY: u64 = 24 * 60 * 60;
/// Longest grace, in days.
const MAX_GRACE: u64 = 3650;

/// Validated settings; the defaults are the strict ones.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) accept: Vec<TcbStatus>,
    /// Status and seconds for which it is accepted after a better level was published.
    pub(crate) grace: Vec<(TcbStatus, u64)>,
    pub(crate) min_evaluation: u32,
    pub(crate) reject_advisories: Vec<String>,
    pub(crate) allowed_attributes: u64,
    pub(crate) xfam_allowed: u64,
    pub(crate) mrseam: Vec<Digest384>,
    pub(crate) mrowner: Digest384,
    pub(crate) mrownerconfig: Digest384,
    pub(crate) mrservicetd: Digest384,
    pub(crate) gpu: GpuSettings,
    pub(crate) reference: Option<Reference>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            accept: vec![TcbStatus::UpToDate],
            grace: Vec::new(),
            min_evaluation: 0,
            reject_advisories: Vec::new(),
            allowed_attributes: 0,
            xfam_allowed: XFAM_DEFINED,
            mrseam: Vec::new(),
            mrowner: Digest384::ZERO,
            mrownerconfig: Digest384::ZERO,
            mrservicetd: Digest384::ZERO,
            gpu: GpuSettings::default(),
            reference: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Text {
    pub(super) schema: u32,
    pub(super) platform: Platform,
    pub(super) root: Option<String>,
    #[serde(default)]
    tcb: TcbText,
    #[serde(default)]
    td: TdText,
    #[serde(default)]
    gpu: GpuSettings,
    #[serde(default)]
    releases: Vec<Release>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TcbText {
    accept: Option<Vec<TcbStatus>>,
    #[serde(default)]
    grace: HashMap<TcbStatus, u64>,
    min_evaluation: Option<u32>,
    #[serde(default)]
    reject_advisories: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TdText {
    allow_attributes: Option<Vec<String>>,
    xfam_allowed: Option<u64>,
    mrseam: Option<Vec<Digest384>>,
    mrowner: Option<Digest384>,
    mrownerconfig: Option<Digest384>,
    mrservicetd: Option<Digest384>,
}

impl Settings {
    pub(super) fn read(text: Text) -> Result<Self, PolicyError> {
        let (strict, tcb, td) = (Settings::default(), text.tcb, text.td);
        let accept = tcb.accept.unwrap_or(strict.accept);
        for status in accept.iter().chain(tcb.grace.keys()) {
            not_revoked(*status)?;
        }
        let grace = tcb.grace.into_iter().map(grace).collect::<Result<Vec<_>, _>>()?;
        let mut allowed_attributes = 0;
        for name in td.allow_attributes.unwrap_or_default() {
            allowed_attributes |= attribute(&name)?;
        }
        let releases = text.releases;
        let reference = || Reference { schema: 1, releases: releases.clone(), mrconfigid: None };
        Ok(Settings {
            accept,
            grace,
            min_evaluation: tcb.min_evaluation.unwrap_or(strict.min_evaluation),
            reject_advisories: tcb.reject_advisories,
            allowed_attributes,
            xfam_allowed: xfam(td.xfam_allowed.unwrap_or(strict.xfam_allowed))?,
            mrseam: td.mrseam.unwrap_or(strict.mrseam),
            mrowner: td.mrowner.unwrap_or(strict.mrowner),
            mrownerconfig: td.mrownerconfig.unwrap_or(strict.mrownerconfig),
            mrservicetd: td.mrservicetd.unwrap_or(strict.mrservicetd),
            gpu: gpu(text.gpu)?,
            reference: (!releases.is_empty()).then(reference),
        })
    }
}

fn not_revoked(status: TcbStatus) -> Result<(), PolicyError> {
    if status == TcbStatus::Revoked {
        let expected = "any other status: a revoked platform's keys are known";
        return Err(value("tcb.accept or tcb.grace", "Revoked".into(), expected));
    }
    Ok(())
}

fn grace((status, days): (TcbStatus, u64)) -> Result<(TcbStatus, u64), PolicyError> {
    if days > MAX_GRACE {
        return Err(value("tcb.grace", format!("{days} days"), &format!("at most {MAX_GRACE} days")));
    }
    Ok((status, days * DAY))
}

/// Floors and counts that could be met.
fn gpu(settings: GpuSettings) -> Result<GpuSettings, PolicyError> {
    let checked = GpuPolicy::production().with(settings);
    checked.map(|policy| policy.settings).map_err(|e| value("gpu", e.to_string(), "settings that can be met"))
}

fn xfam(allowed: u64) -> Result<u64, PolicyError> {
    if allowed & XFAM_FIXED1 != XFAM_FIXED1 {
        let expected = "bits 0 and 1 set: no TD is without them";
        return Err(value("td.xfam-allowed", format!("{allowed:#x}"), expected));
    }
    Ok(allowed)
}

/// The bit that a policy may allow under this name. A TD that can be migrated, or whose service TDs may change while it
/// runs, is refused by every policy for now: nothing here appraises those service TDs.
fn attribute(name: &str) -> Result<u64, PolicyError> {
    let may = |n: &str| !matches!(n, "migratable" | "servtd-ext");
    if let Some((_, bit)) = attributes::NAMED.iter().find(|(n, _)| *n == name && may(n)) {
        return Ok(*bit);
    }
    let names: Vec<_> = attributes::NAMED.iter().map(|(n, _)| *n).filter(|n| may(n)).collect();
    Err(value("td.allow-attributes", format!("`{name}`"), &format!("one of {}", names.join(", "))))
}

#[cfg(test)]
mod tests {
    use crate::PolicyFile;

    fn read(text: &str) -> Result<super::Settings, String> {
        let text = format!("schema = 1\nplatform = \"tdx\"\n{text}\n");
        let file = PolicyFile::parse(&text).map_err(|e| e.to_string())?;
        Ok(file.resolve_production().map_err(|e| e.to_string())?.settings)
    }

    #[test]
    fn grace_is_given_in_days_and_for_no_revoked_platform() {
        let settings = read("[tcb]\ngrace = { OutOfDate = 30 }").unwrap();
        assert_eq!(settings.grace, [(dcap_qvl::TcbStatus::OutOfDate, 30 * 86_400)]);
        assert!(read("[tcb]\ngrace = { Revoked = 1 }").unwrap_err().contains("Revoked"));
        assert!(read("[tcb]\ngrace = { OutOfDate = 4000 }").unwrap_err().contains("at most 3650 days"));
        assert!(read("[tcb]\ngrace = { Newest = 1 }").unwrap_err().contains("line 4"));
    }

    #[test]
    fn unknown_keys_of_every_table_are_refused_with_their_line() {
        for table in ["tcb", "td", "gpu", "[releases]"] {
            let error = read(&format!("[{table}]\nspeed = 9")).unwrap_err();
            assert!(error.contains("speed") && error.contains("line 4"), "{table}: {error}");
        }
    }

    #[test]
    fn a_policy_may_bring_releases_and_gpu_floors() {
        let zeros = "0".repeat(96);
        let release = format!(
            "[gpu]\ndriver-min = \"550.90.07\"\n[[releases]]\nname = \"r\"\nmrtd = \"{zeros}\"\nrtmr0 = \"{zeros}\"\nrtmr1 = \"{zeros}\"\nrtmr2 = \"{zeros}\""
        );
        let settings = read(&release).unwrap();
        assert_eq!(settings.reference.unwrap().releases[0].name, "r");
        assert_eq!(settings.gpu.driver_min.as_deref(), Some("550.90.07"));
        assert!(read("").unwrap().reference.is_none());
    }
}
