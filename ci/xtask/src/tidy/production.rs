//! No program that ships links the simulated platform.

use super::Violation;
use super::manifest::Manifest;

/// The package that only tests and the debug image may hold.
pub const SIMULATOR: &str = "simulator";
/// Packages whose programs ship.
const PRODUCTION: [&str; 5] = ["init", "initrd", "worker", "proxy", "chrysalis"];

/// `dependents`: what `cargo tree --invert simulator --prefix none -e normal,build` prints, `name v1.2.3 (..)` a line.
pub fn check(dependents: &str, manifests: &[Manifest]) -> Vec<Violation> {
    let linked = |name: &str| dependents.lines().any(|l| l.split_whitespace().next() == Some(name));
    let guilty = manifests.iter().filter(|m| PRODUCTION.contains(&m.name.as_str()) && linked(&m.name));
    let violation = |m: &Manifest| {
        let what = format!("production package `{}` links `{SIMULATOR}`", m.name);
        let fix = format!("see the way with `cargo tree -p {} -e normal -i {SIMULATOR}` and cut it", m.name);
        Violation::new(&m.path, 1, what, "no simulator code in what ships", &fix)
    };
    guilty.map(violation).collect()
}

#[cfg(test)]
mod tests {
    use super::super::manifest::read_all;
    use super::super::tree::Tree;
    use super::*;

    fn house() -> Vec<Manifest> {
        let files = [
            ("guest/init/Cargo.toml", "[package]\nname = \"init\"\n"),
            ("guest/initrd/Cargo.toml", "[package]\nname = \"initrd\"\n"),
            ("ci/e2e/Cargo.toml", "[package]\nname = \"e2e\"\n"),
        ];
        read_all(&Tree::of(&files))
    }

    #[test]
    fn a_shipped_program_with_the_simulator_is_refused() {
        let printed =
            "simulator v0.1.0 (measurements/simulator)\nevidence v0.1.0\ninit v0.1.0 (guest/init)\n";
        let found = check(printed, &house());
        assert_eq!(found.iter().map(|v| v.path.as_str()).collect::<Vec<_>>(), ["guest/init/Cargo.toml"]);
    }

    #[test]
    fn a_test_program_with_the_simulator_is_accepted() {
        assert_eq!(check("simulator v0.1.0 (measurements/simulator)\ne2e v0.1.0 (ci/e2e)\n", &house()), []);
    }
}
