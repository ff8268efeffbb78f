//! The top-level folder holds exactly the rooms and what tools force on us.

use super::Violation;
use super::tree::Tree;
use std::collections::BTreeMap;

/// The rooms and the words of the front page.
const ROOMS: [&str; 9] =
    ["Cargo.toml", "README.md", "ci", "docs", "guest", "host", "image", "measurements", "nix"];
/// Cargo, rustup, rustfmt and hosting sites look for these here and nowhere else.
const FORCED: [&str; 4] = ["Cargo.lock", "LICENSE", "rust-toolchain.toml", "rustfmt.toml"];
/// These must be there whatever else is built.
const NEEDED: [&str; 6] = ["Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "ci", "docs"];

/// Top-level names that don't belong, and needed ones that are missing.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let mut first_file = BTreeMap::new();
    for (path, _) in tree.iter() {
        first_file.entry(path.split('/').next().unwrap_or(path)).or_insert(path);
    }
    let allowed = |name: &str| ROOMS.contains(&name) || FORCED.contains(&name) || name.starts_with('.');
    let strange = first_file.iter().filter(|(name, _)| !allowed(name)).map(|(name, path)| {
        let what = format!("`{name}` stands at the top level");
        let expected = format!("only {}, {} and dotfiles", ROOMS.join(", "), FORCED.join(", "));
        Violation::new(path, 1, what, &expected, "move it into the room where it runs")
    });
    let missing = NEEDED.iter().filter(|name| !first_file.contains_key(*name)).map(|name| {
        Violation::new(name, 1, "is missing at the top level".into(), "it to be there", "add it")
    });
    strange.chain(missing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 8] = [
        ("Cargo.toml", ""),
        ("Cargo.lock", ""),
        ("LICENSE", ""),
        ("README.md", ""),
        (".gitignore", ""),
        ("rustfmt.toml", ""),
        ("ci/deny.toml", ""),
        ("docs/SUMMARY.md", ""),
    ];

    #[test]
    fn the_rooms_and_forced_files_are_accepted() {
        assert_eq!(check(&Tree::of(&GOOD)), []);
    }

    #[test]
    fn a_stray_folder_and_a_stray_file_are_each_named_once() {
        let stray = [("scripts/a.sh", ""), ("scripts/b.sh", ""), ("Makefile", "")];
        let found = check(&Tree::of(&[GOOD.as_slice(), &stray].concat()));
        assert_eq!(found.iter().map(|v| v.path.as_str()).collect::<Vec<_>>(), ["Makefile", "scripts/a.sh"]);
    }

    #[test]
    fn a_missing_readme_is_reported() {
        let without: Vec<_> = GOOD.into_iter().filter(|(p, _)| *p != "README.md").collect();
        let found = check(&Tree::of(&without));
        assert_eq!((found.len(), found[0].path.as_str()), (1, "README.md"));
    }
}
