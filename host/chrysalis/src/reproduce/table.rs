//! The comparison as rows: one fact each, published and rebuilt.

use release::{Machine, Measurements};
use serde::Serialize;

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What is compared.
    pub what: String,
    /// Whether both are the same.
    pub equal: bool,
    /// As published; empty where it is not there.
    pub published: String,
    /// As rebuilt; empty where it is not there.
    pub rebuilt: String,
}

/// Every fact of both documents, in the published order; what only the rebuild has comes last.
pub fn rows(published: &Measurements, rebuilt: &Measurements) -> Vec<Row> {
    let (theirs, mut ours) = (flat(published), flat(rebuilt));
    let mut rows: Vec<Row> = theirs
        .into_iter()
        .map(|(what, published)| {
            let at = ours.iter().position(|(name, _)| *name == what);
            let rebuilt = at.map(|at| ours.remove(at).1).unwrap_or_default();
            Row { equal: published == rebuilt, what, published, rebuilt }
        })
        .collect();
    let only_ours = |(what, rebuilt)| Row { what, equal: false, published: String::new(), rebuilt };
    rows.extend(ours.into_iter().map(only_ours));
    rows
}

fn flat(of: &Measurements) -> Vec<(String, String)> {
    let mut list = vec![
        ("commit".to_owned(), of.commit.clone()),
        ("profile".to_owned(), of.profile.clone()),
        ("compiler".to_owned(), of.toolchain.clone()),
        ("kernel".to_owned(), of.kernel.clone()),
    ];
    list.extend(of.locks.iter().map(|(name, digest)| (name.clone(), digest.to_string())));
    let files = of.artifacts.iter().chain(&of.firmware);
    list.extend(files.map(|file| (file.name.clone(), format!("{} {}", file.sha256, file.size))));
    for (number, machine) in of.machines.iter().enumerate() {
        list.extend(registers(number + 1, machine));
    }
    list
}

fn registers(number: usize, machine: &Machine) -> Vec<(String, String)> {
    let Machine { vmm, stub, registers, .. } = machine;
    let row = |name: &str, value: String| (format!("machine {number} {name}"), value);
    let rtmr3 = registers.rtmr3.map_or("zeros".to_owned(), |rule| format!("{rule:?}").to_lowercase());
    vec![
        row("is", format!("{}, {stub}", machine.title())),
        row("vmm", vmm.clone()),
        row("MRTD", registers.mrtd.to_string()),
        row("RTMR0", registers.rtmr0.to_string()),
        row("RTMR1", registers.rtmr1.to_string()),
        row("RTMR2", registers.rtmr2.to_string()),
        row("RTMR3", rtmr3),
    ]
}

/// For people: equal values once, others side by side.
pub fn human(rows: &[Row]) -> String {
    let mut text = String::new();
    for Row { what, equal, published, rebuilt } in rows {
        match equal {
            true => text += &format!("equal    {what:<18} {published}\n"),
            false => {
                text += &format!("DIFFERS  {what:<18} published {published}\n");
                text += &format!("         {:<18} rebuilt   {rebuilt}\n", "");
            }
        }
    }
    text
}
