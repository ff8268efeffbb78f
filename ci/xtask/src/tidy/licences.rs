//! Where the packages come from and under which licences: the parts of `ci/deny.toml` that need no other program.

use super::Violation;
use super::manifest::Manifest;
use super::spdx;
use super::tree::{Tree, line_where};
use serde_json::Value as Json;
use toml::{Table, Value};

/// The settings of cargo-deny, which tidy reads too.
pub const CONFIG: &str = "ci/deny.toml";
const LOCK: &str = "Cargo.lock";

/// Every package of the lock is ours or comes from a registry that the settings allow, and none is banned.
pub fn locked(tree: &Tree, manifests: &[Manifest]) -> Vec<Violation> {
    let Some(settings) = settings(tree) else {
        let what = "is missing or is not TOML".to_string();
        return vec![Violation::new(CONFIG, 1, what, "cargo-deny's settings", "restore it")];
    };
    let text = tree.text(LOCK).unwrap_or_default();
    let Ok(lock) = text.parse::<Table>() else {
        let fix = "run cargo generate-lockfile";
        return vec![Violation::new(LOCK, 1, "is not TOML".into(), "a lock that parses", fix)];
    };
    let registries = strings(settings.get("sources").and_then(|s| s.get("allow-registry")));
    let banned = settings.get("bans").and_then(|b| b.get("deny")).and_then(Value::as_array);
    let banned: Vec<_> = banned.into_iter().flatten().filter_map(|b| b.get("crate")?.as_str()).collect();
    let mut out = Vec::new();
    for package in lock.get("package").and_then(Value::as_array).into_iter().flatten() {
        let name = package.get("name").and_then(Value::as_str).unwrap_or_default();
        let source = package.get("source").and_then(Value::as_str);
        let url = source.and_then(|s| s.strip_prefix("registry+").or(s.strip_prefix("sparse+")));
        let ours = source.is_none() && manifests.iter().any(|m| m.name == name);
        if !ours && !registries.iter().any(|r| Some(r.as_str()) == url) {
            let what = format!("`{name}` comes from {}", source.unwrap_or("a path outside the rooms"));
            let expected = format!("a registry that {CONFIG} allows, or a crate of ours");
            let fix = "depend on a published release of it";
            out.push(Violation::new(LOCK, line_of(text, name), what, &expected, fix));
        }
        if banned.contains(&name) {
            let what = format!("`{name}` is banned by {CONFIG}");
            let fix = format!("see who wants it with `cargo tree -i {name}`");
            out.push(Violation::new(LOCK, line_of(text, name), what, "a lock without it", &fix));
        }
    }
    out
}

/// Line of a package in the lock.
fn line_of(lock: &str, name: &str) -> usize {
    line_where(lock, |l| l == format!("name = \"{name}\""))
}

/// Every package that `cargo metadata` printed has a licence that the settings allow. [`locked`] reports missing settings.
pub fn licences(tree: &Tree, metadata: &Json) -> Vec<Violation> {
    let Some(settings) = settings(tree) else { return Vec::new() };
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages.filter_map(|package| unlicensed(tree, &settings, package)).collect()
}

fn unlicensed(tree: &Tree, settings: &Table, package: &Json) -> Option<Violation> {
    let name = package["name"].as_str().unwrap_or_default();
    let section = settings.get("licenses");
    let rows = |key: &str| {
        let list = section.and_then(|s| s.get(key)).and_then(Value::as_array).cloned().unwrap_or_default();
        list.into_iter().filter(|row| row.get("crate").and_then(Value::as_str) == Some(name))
    };
    let mut allowed = strings(section.and_then(|s| s.get("allow")));
    allowed.extend(rows("exceptions").flat_map(|row| strings(row.get("allow"))));
    let clarified = rows("clarify").find_map(|row| Some(row.get("expression")?.as_str()?.to_string()));
    let expression = clarified.or(package["license"].as_str().map(String::from)).unwrap_or_default();
    let fault = match spdx::satisfied(&expression, &|l| allowed.iter().any(|a| a == l)) {
        Ok(true) => return None,
        Ok(false) => format!("`{name}` is licensed `{expression}`"),
        Err(what) => format!("the licence of `{name}` can't be read: {what}"),
    };
    let line = line_of(tree.text(LOCK).unwrap_or_default(), name);
    let fix = "use another crate, or add the licence or an exception there and say why";
    Some(Violation::new(LOCK, line, fault, &format!("a licence that {CONFIG} allows"), fix))
}

fn settings(tree: &Tree) -> Option<Table> {
    tree.text(CONFIG)?.parse().ok()
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|v| Some(v.as_str()?.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::manifest::read_all;
    use super::*;
    use serde_json::json;

    const SETTINGS: &str = "[licenses]\nallow = [\"MIT\", \"Apache-2.0\"]\n\
        exceptions = [{ crate = \"special\", allow = [\"MPL-2.0\"] }]\n\
        [[licenses.clarify]]\ncrate = \"unclear\"\nexpression = \"MIT\"\n\
        [sources]\nallow-registry = [\"https://registry.example/index\"]\n\
        [bans]\ndeny = [{ crate = \"openssl\" }]\n";

    fn from(lock: &str) -> Vec<Violation> {
        let own = "[package]\nname = \"ours\"\n";
        let tree = Tree::of(&[(CONFIG, SETTINGS), (LOCK, lock), ("guest/ours/Cargo.toml", own)]);
        locked(&tree, &read_all(&tree))
    }

    #[test]
    fn packages_of_ours_and_of_the_registry_are_accepted() {
        let lock = "[[package]]\nname = \"ours\"\n[[package]]\nname = \"a\"\nsource = \"registry+https://registry.example/index\"\n";
        assert_eq!(from(lock), []);
    }

    #[test]
    fn packages_from_elsewhere_are_refused_with_their_line() {
        for source in
            ["source = \"git+https://x.example/a\"", "source = \"registry+https://other.example/index\"", ""]
        {
            let found = from(&format!("[[package]]\nname = \"a\"\n{source}\n"));
            assert_eq!((found.len(), found[0].line), (1, 2), "{source}");
        }
    }

    #[test]
    fn a_banned_package_is_refused() {
        let source = "source = \"registry+https://registry.example/index\"";
        let found = from(&format!("[[package]]\nname = \"openssl\"\n{source}\n"));
        assert_eq!((found.len(), found[0].line), (1, 2));
        assert_eq!(from(&format!("[[package]]\nname = \"openssl-probe\"\n{source}\n")), []);
    }

    fn under(name: &str, licence: Json) -> Vec<Violation> {
        let tree = Tree::of(&[(CONFIG, SETTINGS), (LOCK, "[[package]]\nname = \"a\"\n")]);
        licences(&tree, &json!({ "packages": [{ "name": name, "license": licence }] }))
    }

    #[test]
    fn a_licence_outside_the_list_is_refused() {
        assert_eq!(under("a", json!("MIT OR GPL-3.0")), []);
        let found = under("a", json!("GPL-3.0"));
        assert_eq!((found.len(), found[0].line), (1, 2));
        assert_eq!(under("a", json!(null)).len(), 1);
    }

    #[test]
    fn an_exception_and_a_clarification_hold_for_their_crate_only() {
        assert_eq!(under("special", json!("MPL-2.0")), []);
        assert_eq!(under("a", json!("MPL-2.0")).len(), 1);
        assert_eq!(under("unclear", json!(null)), []);
    }

    #[test]
    fn missing_settings_are_refused() {
        let found = locked(&Tree::of(&[]), &[]);
        assert_eq!((found.len(), found[0].path.as_str()), (1, CONFIG));
    }
}
