//! What tidy needs of each crate's Cargo.toml: its room, its name and its direct dependencies.

use super::Violation;
use super::tree::{Tree, line_where};
use toml::{Table, Value};

/// When a dependency is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In what ships.
    Normal,
    /// Run while it is built.
    Build,
    /// In tests only.
    Dev,
}

/// One direct dependency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// Package name, renames undone.
    pub name: String,
    /// When it is linked.
    pub kind: Kind,
    /// Line in the manifest.
    pub line: usize,
}

/// One crate.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Path of the Cargo.toml below the root.
    pub path: String,
    /// Top-level folder.
    pub room: String,
    /// Folder below the room.
    pub folder: String,
    /// `package.name`.
    pub name: String,
    /// Direct dependencies of all kinds.
    pub dependencies: Vec<Dependency>,
    /// What kept it from being read.
    pub broken: Option<Violation>,
}

/// Reads every `room/crate/Cargo.toml`.
pub fn read_all(tree: &Tree) -> Vec<Manifest> {
    let renames = tree.text("Cargo.toml").and_then(|t| t.parse::<Table>().ok()).unwrap_or_default();
    let shared = renames.get("workspace").and_then(|w| w.get("dependencies")).and_then(Value::as_table);
    let shared = shared.cloned().unwrap_or_default();
    tree.texts().filter_map(|(path, text)| read(path, text, &shared)).collect()
}

fn read(path: &str, text: &str, shared: &Table) -> Option<Manifest> {
    let (room, rest) = path.split_once('/')?;
    let folder = rest.strip_suffix("/Cargo.toml").filter(|f| !f.contains('/'))?;
    let mut manifest = Manifest {
        path: path.into(),
        room: room.into(),
        folder: folder.into(),
        name: folder.into(),
        dependencies: Vec::new(),
        broken: None,
    };
    match text.parse::<Table>() {
        Ok(table) => {
            if let Some(name) = table.get("package").and_then(|p| p.get("name")).and_then(Value::as_str) {
                manifest.name = name.into();
            }
            manifest.dependencies = dependencies(&table, text, shared);
        }
        Err(e) => {
            let line = e.span().map_or(1, |s| text[..s.start.min(text.len())].lines().count().max(1));
            let what = format!("is not TOML: {}", e.message());
            manifest.broken = Some(Violation::new(path, line, what, "a Cargo.toml that parses", "mend it"));
        }
    }
    Some(manifest)
}

/// Dependencies of all three kinds, of all targets.
fn dependencies(table: &Table, text: &str, shared: &Table) -> Vec<Dependency> {
    let targets = table.get("target").and_then(Value::as_table);
    let tables = std::iter::once(table)
        .chain(targets.into_iter().flat_map(|t| t.values()).filter_map(Value::as_table));
    let kinds = [
        ("dependencies", Kind::Normal),
        ("build-dependencies", Kind::Build),
        ("dev-dependencies", Kind::Dev),
    ];
    let mut out = Vec::new();
    for table in tables {
        for (section, kind) in kinds {
            let Some(entries) = table.get(section).and_then(Value::as_table) else { continue };
            for (key, value) in entries {
                let renamed = [Some(value), shared.get(key)].into_iter().flatten();
                let name = renamed.filter_map(|v| v.get("package")).find_map(Value::as_str).unwrap_or(key);
                out.push(Dependency { name: name.into(), kind, line: line_of(text, section, key) });
            }
        }
    }
    out
}

/// The line of `key` below the header of `section`, else wherever the key first stands.
fn line_of(text: &str, section: &str, key: &str) -> usize {
    let is_key = |line: &str| {
        let line = line.trim_start();
        line.strip_prefix(key).is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
    };
    let header = line_where(text, |l| l.trim_end().ends_with(&format!("{section}]")));
    let below = text.lines().skip(header).position(is_key);
    below.map_or_else(|| line_where(text, is_key), |i| header + i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_dependency_is_found_with_its_line() {
        let text = "[package]\nname = \"a\"\n[dependencies]\nb.workspace = true\n[dev-dependencies]\nc = \"1\"\n\
                    [target.'cfg(unix)'.build-dependencies]\nd = { version = \"1\" }\n";
        let manifests = read_all(&Tree::of(&[("guest/a/Cargo.toml", text)]));
        let found: Vec<_> =
            manifests[0].dependencies.iter().map(|d| (d.name.as_str(), d.kind, d.line)).collect();
        assert_eq!(found, [("b", Kind::Normal, 4), ("c", Kind::Dev, 6), ("d", Kind::Build, 8)]);
    }

    #[test]
    fn a_renamed_dependency_keeps_its_true_name() {
        let root = "[workspace.dependencies]\nfast = { package = \"tokio\", version = \"1\" }\n";
        let own = "[package]\nname = \"a\"\n[dependencies]\nfast.workspace = true\nslow = { package = \"hyper\" }\n";
        let manifests = read_all(&Tree::of(&[("Cargo.toml", root), ("guest/a/Cargo.toml", own)]));
        let names: Vec<_> = manifests[0].dependencies.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["tokio", "hyper"]);
    }

    #[test]
    fn a_manifest_that_does_not_parse_is_reported_with_its_line() {
        let manifests = read_all(&Tree::of(&[("guest/a/Cargo.toml", "[package]\nname = \n")]));
        let broken = manifests[0].broken.clone().unwrap();
        assert_eq!((broken.path.as_str(), broken.line), ("guest/a/Cargo.toml", 2));
    }
}
