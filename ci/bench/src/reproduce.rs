//! A rebuild from its kit, beside the clean build that is part of it.

use crate::report::{Limit, Number, Unit};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::path::Path;

/// How many times a clean build a whole rebuild may take.
const LIMIT: f64 = 1.3;

/// What is read of the report of `chrysalis reproduce --json`.
#[derive(Deserialize)]
struct Reproduced {
    equal: bool,
    seconds: Seconds,
}

#[derive(Deserialize)]
struct Seconds {
    /// From the start to the verdict.
    whole: f64,
    /// Of it: tools root, programs and image, all from nothing.
    building: f64,
}

/// The number, from a report. Unpacking, comparing and foretelling is what a rebuild adds to a build.
pub fn number(report: &Path) -> Result<Number> {
    let text = std::fs::read(report).with_context(|| format!("{}: can't read", report.display()))?;
    of(&text).with_context(|| format!("{}: not what `chrysalis reproduce --json` prints", report.display()))
}

fn of(report: &[u8]) -> Result<Number> {
    let found: Reproduced = serde_json::from_slice(report)?;
    ensure!(found.equal, "the rebuild was not equal, so its time says nothing");
    let Seconds { whole, building } = found.seconds;
    let number =
        Number::new("reproduce", Unit::Seconds, &[whole]).beside("the clean build in it", &[building]);
    let covers = "a release rebuilt from its kit in a clean root: unpacked, built from nothing, compared";
    Ok(number.limit(Limit::TimesPeer(LIMIT)).covers(covers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unequal_rebuild_is_no_number() {
        let report = |equal| {
            format!(r#"{{"equal": {equal}, "seconds": {{"whole": 2.0, "building": 1.0}}, "rows": []}}"#)
        };
        assert!(of(report(false).as_bytes()).is_err());
        of(report(true).as_bytes()).unwrap();
    }
}
