//! Which crate may depend on which: the arrows of the house.
//!
//! ```text
//! image --> measurements <-- guest          host --> guest, measurements, image          ci --> all
//! ```
//! The two tables below are the only statement of the arrows in code; `docs/architecture.md` explains them.

use super::Violation;
use super::manifest::{Dependency, Kind, Manifest};

/// Room, and the rooms it may depend on besides itself.
const ROOMS: [(&str, &[&str]); 5] = [
    ("measurements", &[]),
    ("guest", &["measurements"]),
    ("image", &["measurements"]),
    ("host", &["guest", "measurements", "image"]),
    ("ci", &["host", "guest", "measurements", "image"]),
];

/// Every crate that is measured or decides what is right, and the crates of ours it may link, whatever their room.
/// Crates of `host` and `ci` are bound by [`ROOMS`] alone.
const CRATES: [(&str, &[&str]); 18] = [
    ("measure", &[]),
    ("evidence", &["measure"]),
    ("collateral", &["evidence", "measure"]),
    // What it accepts becomes the reference values of an appraisal (decision 0031).
    ("release", &["measure", "evidence"]),
    ("simulator", &["evidence", "measure"]),
    ("builder", &["measure"]),
    // The wire form of evidence and the machine's names live with the verifier.
    ("protocol", &["measure"]),
    ("verity", &[]),
    ("engine", &[]),
    // The seam to GPUs is the verifier's, so that a simulation can stand behind it (decision 0067).
    ("attest", &["protocol", "evidence"]),
    ("payment", &["protocol"]),
    ("ton", &["payment"]),
    ("ratls", &["protocol", "evidence", "release"]),
    ("initrd", &["verity"]),
    ("init", &["verity", "attest", "evidence", "protocol"]),
    ("daemon", &["ratls", "attest", "protocol", "evidence", "release", "payment", "ton"]),
    ("worker", &["daemon", "ratls", "engine", "protocol", "payment"]),
    ("proxy", &["daemon", "ratls", "protocol", "payment", "ton", "release", "evidence"]),
];

/// Tests of any crate may use this one.
const TEST_PLATFORM: &str = "simulator";

/// Arrows that the house does not have, and crates that don't stand where their name says.
pub fn check(manifests: &[Manifest]) -> Vec<Violation> {
    let mut out: Vec<_> = manifests.iter().flat_map(placed).collect();
    for from in manifests {
        for dependency in &from.dependencies {
            let ours = manifests.iter().find(|m| m.name == dependency.name);
            out.extend(ours.and_then(|to| forbidden(from, dependency, to)));
        }
    }
    out
}

/// The crate's folder has its name, its room may hold crates, and the table knows it.
fn placed(manifest: &Manifest) -> Vec<Violation> {
    let Manifest { path, room, folder, name, .. } = manifest;
    let mut out = Vec::new();
    if folder != name {
        let what = format!("package is called `{name}`");
        out.push(Violation::new(path, 1, what, &format!("`{folder}`, its folder"), "rename one of them"));
    }
    if !ROOMS.iter().any(|(r, _)| r == room) {
        let what = format!("`{room}` holds a crate");
        out.push(Violation::new(path, 1, what, "crates only in the five rooms", "move the crate"));
    }
    let free = room == "host" || room == "ci";
    if !free && !CRATES.iter().any(|(c, _)| c == name) {
        let what = format!("`{name}` has no row in the table of crate arrows");
        let fix = "add it to CRATES in ci/xtask/src/tidy/arrows.rs and to docs/architecture.md";
        out.push(Violation::new(path, 1, what, "a row for every measured crate", fix));
    }
    out
}

/// The violation that the arrow `from -> to` is, if it is one.
fn forbidden(from: &Manifest, dependency: &Dependency, to: &Manifest) -> Option<Violation> {
    if dependency.kind == Kind::Dev && to.name == TEST_PLATFORM {
        return None;
    }
    let (_, rooms) = ROOMS.iter().find(|(r, _)| *r == from.room)?;
    if from.room != to.room && !rooms.contains(&to.room.as_str()) {
        let what = format!("`{}` depends on `{}`: {} -> {}", from.name, to.name, from.room, to.room);
        let expected = match rooms {
            [] => format!("no dependency out of {}", from.room),
            rooms => format!("{} -> {} only", from.room, rooms.join(", ")),
        };
        let fix = "move what is needed to where both may reach it, or pass it in as a plain value";
        return Some(Violation::new(&from.path, dependency.line, what, &expected, fix));
    }
    let (_, crates) = CRATES.iter().find(|(c, _)| *c == from.name)?;
    // The table says what is linked into what ships; a test may look at a neighbour of its room.
    if dependency.kind == Kind::Dev {
        return None;
    }
    if crates.contains(&to.name.as_str()) || from.name == to.name {
        return None;
    }
    let what = format!("`{}` depends on `{}`", from.name, to.name);
    let expected = match crates {
        [] => "no crate of ours".to_string(),
        crates => format!("only {}", crates.join(", ")),
    };
    let fix = "drop the dependency; a new arrow needs a decision in docs/decisions";
    Some(Violation::new(&from.path, dependency.line, what, &expected, fix))
}

#[cfg(test)]
mod tests {
    use super::super::manifest::read_all;
    use super::super::tree::Tree;
    use super::*;

    /// A house of empty crates plus `from` with one dependency.
    fn arrow(from: &str, section: &str, to: &str) -> Vec<Violation> {
        let name = from.split_once('/').unwrap().1;
        let text = format!("[package]\nname = \"{name}\"\n[{section}]\n{to}.workspace = true\n");
        let own = format!("{from}/Cargo.toml");
        let mut files = vec![(own.as_str(), text.as_str())];
        let others = [
            ("guest/protocol/Cargo.toml", "[package]\nname = \"protocol\"\n"),
            ("guest/verity/Cargo.toml", "[package]\nname = \"verity\"\n"),
            ("host/launcher/Cargo.toml", "[package]\nname = \"launcher\"\n"),
            ("image/builder/Cargo.toml", "[package]\nname = \"builder\"\n"),
            ("measurements/measure/Cargo.toml", "[package]\nname = \"measure\"\n"),
            ("measurements/evidence/Cargo.toml", "[package]\nname = \"evidence\"\n"),
            ("measurements/simulator/Cargo.toml", "[package]\nname = \"simulator\"\n"),
        ];
        files.extend(others.iter().filter(|(p, _)| *p != own));
        check(&read_all(&Tree::of(&files)))
    }

    #[test]
    fn arrows_of_the_house_are_accepted() {
        for (from, to) in [
            ("guest/initrd", "verity"),
            ("guest/init", "verity"),
            ("guest/init", "protocol"),
            ("guest/worker", "protocol"),
            ("guest/ratls", "evidence"),
            ("image/builder", "measure"),
            ("measurements/evidence", "measure"),
            ("host/client", "protocol"),
            ("host/chrysalis", "builder"),
            ("ci/xtask", "launcher"),
        ] {
            assert_eq!(arrow(from, "dependencies", to), [], "{from} -> {to}");
        }
    }

    #[test]
    fn arrows_against_the_rooms_are_refused_with_the_line() {
        for (from, to) in [
            ("measurements/evidence", "protocol"),
            ("measurements/measure", "builder"),
            ("guest/init", "launcher"),
            ("guest/init", "builder"),
            ("image/builder", "protocol"),
        ] {
            let found = arrow(from, "dependencies", to);
            assert_eq!((found.len(), found[0].line), (1, 4), "{from} -> {to}: {found:?}");
            assert_eq!(arrow(from, "build-dependencies", to).len(), 1, "{from} -> {to} at build time");
        }
    }

    #[test]
    fn arrows_against_the_table_are_refused_inside_a_room() {
        for (from, to) in [
            ("measurements/measure", "evidence"),
            ("guest/protocol", "verity"),
            ("guest/initrd", "protocol"),
            ("guest/engine", "protocol"),
        ] {
            assert_eq!(arrow(from, "dependencies", to).len(), 1, "{from} -> {to}");
        }
    }

    #[test]
    fn only_tests_may_use_the_simulated_platform() {
        assert_eq!(arrow("guest/ratls", "dev-dependencies", "simulator"), []);
        assert_eq!(arrow("measurements/evidence", "dev-dependencies", "simulator"), []);
        assert_eq!(arrow("guest/ratls", "dependencies", "simulator").len(), 1);
        assert_eq!(arrow("guest/ratls", "build-dependencies", "simulator").len(), 1);
        assert_eq!(arrow("guest/init", "dev-dependencies", "launcher").len(), 1);
    }

    #[test]
    fn a_test_may_use_a_neighbour_that_the_crate_may_not_link() {
        assert_eq!(arrow("guest/initrd", "dev-dependencies", "protocol"), []);
        assert_eq!(arrow("measurements/evidence", "dev-dependencies", "protocol").len(), 1);
    }

    #[test]
    fn a_crate_under_another_name_is_refused() {
        let tree = Tree::of(&[("guest/init/Cargo.toml", "[package]\nname = \"verity\"\n")]);
        let found = check(&read_all(&tree));
        assert!(found[0].what.contains("`verity`") && found[0].expected.contains("`init`"), "{found:?}");
    }

    #[test]
    fn a_measured_crate_without_a_row_is_refused() {
        let found =
            check(&read_all(&Tree::of(&[("guest/extra/Cargo.toml", "[package]\nname = \"extra\"\n")])));
        assert_eq!(found.len(), 1);
        assert!(found[0].what.contains("no row"));
    }
}
