//! What was found, for people and for programs.

use crate::verifiers::Library;
use serde_json::{Value, json};
use std::fmt::Write;

/// One case.
pub struct Row {
    /// Name of the defect, and of its folder.
    pub name: String,
    /// When it is appraised, Unix seconds.
    pub at: u64,
    /// The checks that must fail.
    pub expected: Vec<&'static str>,
    /// Those that did.
    pub ours: Vec<&'static str>,
    /// What dcap-qvl alone makes of it.
    pub dcap_qvl: Library,
}

impl Row {
    /// Whether exactly the right checks failed.
    pub fn is_right(&self) -> bool {
        self.ours == self.expected
    }

    fn library(&self) -> String {
        match &self.dcap_qvl {
            Library::Refused(_) => "refuses".into(),
            Library::Status(status) => format!("says {status}"),
            Library::Accepted => "accepts".into(),
            Library::NotItsSubject => "-".into(),
        }
    }
}

/// The index of the folder.
pub fn index(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "name": row.name, "at": row.at, "expected": row.expected, "ours": row.ours, "dcap_qvl": row.dcap_qvl,
            "right": row.is_right(),
        })
    };
    json!({"schema": 1, "simulated": true, "cases": rows.iter().map(row).collect::<Vec<_>>()})
}

/// A line for each case, and the sums.
pub fn table(rows: &[Row]) -> String {
    let head = ["case", "chrysalis", "dcap-qvl alone"].map(str::to_owned);
    let cells = |row: &Row| {
        let ours = if row.ours.is_empty() { "accepts".to_owned() } else { row.ours.join(", ") };
        let wrong = if row.is_right() { "" } else { "  WRONG, expected " };
        let expected = if row.is_right() { String::new() } else { row.expected.join(", ") };
        [row.name.clone(), format!("{ours}{wrong}{expected}"), row.library()]
    };
    let lines: Vec<_> = [head].into_iter().chain(rows.iter().map(cells)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let mut out = String::new();
    for [name, ours, library] in &lines {
        // A String takes everything that is written to it.
        let _ = writeln!(out, "{name:<first$}  {ours:<second$}  {library}");
    }
    let faults = || rows.iter().filter(|row| !row.expected.is_empty());
    let ours = faults().filter(|row| row.is_right()).count();
    let by = |kind: fn(&Library) -> bool| faults().filter(|row| kind(&row.dcap_qvl)).count();
    let (refused, told) = (by(|l| matches!(l, Library::Refused(_))), by(|l| matches!(l, Library::Status(_))));
    let (accepted, devices) = (by(|l| *l == Library::Accepted), by(|l| *l == Library::NotItsSubject));
    let _ = write!(
        out,
        "{} defects: {ours} fail exactly the checks that they should. Of the {} in TDX evidence, dcap-qvl alone refuses {refused}, \
         tells another status for {told}, accepts {accepted}. It is not shown logs, configuration, reference values and report \
         data, which are its caller's, and it knows nothing of the GPUs that the other {devices} are about.",
        faults().count(),
        faults().count() - devices,
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: Vec<&'static str>, dcap_qvl: Library) -> Row {
        Row { name: "debug-bit".into(), at: 1, expected: vec!["debug"], ours, dcap_qvl }
    }

    #[test]
    fn a_wrong_check_is_shown_beside_the_one_expected() {
        let rows = [row(vec!["debug"], Library::Accepted), row(vec!["xfam"], Library::Refused("x".into()))];
        assert!(rows[0].is_right() && !rows[1].is_right());
        let table = table(&rows);
        assert!(
            table.contains("xfam  WRONG, expected debug") && table.contains("2 defects: 1 fail"),
            "{table}"
        );
        assert!(table.contains("alone refuses 1, tells another status for 0, accepts 1"), "{table}");
        assert_eq!(index(&rows)["cases"][1]["right"], false);
    }
}
