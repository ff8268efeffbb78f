//! Names of targets: flat, printable, and the same in every file system and URL.
//!
//! ```text
//! worker-0.1.0.release.json        what the publisher says of a release
//! worker-0.1.0.measurements.json   what a rebuild must show
//! worker-0.1.0.sbom.json           SPDX
//! worker-0.1.0.1f0a9c3e5b7d2468.rebuild.json   a rebuilder's statement; in the name, the start of his key's id
//! ```

use crate::error::ReleaseError;

/// End of the name of a release.
pub const RELEASE: &str = ".release.json";
/// End of the name of its measurements.
pub const MEASUREMENTS: &str = ".measurements.json";
/// End of the name of a rebuilder's statement.
pub const REBUILD: &str = ".rebuild.json";
/// End of the name of a bill of materials.
pub const SBOM: &str = ".sbom.json";

/// Longest name.
const MAX_NAME: usize = 128;

/// Accepts a target's name. `what` is the file that names it.
pub fn check(what: &str, name: &str) -> Result<(), ReleaseError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._+-".contains(c);
    let why = if name.is_empty() || name.len() > MAX_NAME {
        "its length"
    } else if name.contains(['/', '\\', '%', ':']) {
        "it could be a path or an address"
    } else if !name.chars().all(allowed) {
        "a character that is none of these"
    } else if name.starts_with(['.', '-']) || name.contains("..") {
        "dots or a dash where they mean something else"
    } else {
        return Ok(());
    };
    Err(ReleaseError::Name { what: what.into(), found: name.into(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_look_alikes_are_refused() {
        assert!(check("t", "worker-0.1.0.release.json").is_ok());
        let long = "a".repeat(129);
        for name in [
            "",
            "..",
            ".",
            "../x",
            "a/b",
            "/etc/passwd",
            "a\\b",
            "%2e%2e%2f",
            "c:x",
            "A",
            "a b",
            "a\u{0}",
            "-rf",
            "w\u{43e}rker",
            "a\u{202e}b",
            "\u{ff0e}\u{ff0e}\u{ff0f}",
            "a..b",
            ".hidden",
            "a\n",
            &long,
        ] {
            assert!(matches!(check("t", name), Err(ReleaseError::Name { .. })), "{name:?}");
        }
    }
}
