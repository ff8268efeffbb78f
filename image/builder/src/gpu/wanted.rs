//! What the GPU profiles are to be made of: `image/gpu.packages`.
//!
//! ```text
//! driver 550.163.01                        # the version that every package of NVIDIA's driver must have
//! package libcuda1                         # a Debian package
//! wheel nvidia-cuda-nvrtc-cu12 12.4.127    # a wheel, at exactly this version
//! ```

use anyhow::{Context, Result, bail, ensure};
use std::path::Path;

/// The parsed list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Version of NVIDIA's driver.
    pub driver: String,
    /// Debian packages by name.
    pub packages: Vec<String>,
    /// Wheels by name and version.
    pub wheels: Vec<(String, String)>,
}

impl Wanted {
    /// Reads the list.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("{}: can't read", path.display()))?;
        Wanted::parse(&text).with_context(|| format!("{}: not a list of the GPU profiles", path.display()))
    }

    /// Parses the list's text.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut wanted = Wanted { driver: String::new(), packages: vec![], wheels: vec![] };
        for (i, line) in text.lines().enumerate() {
            let (body, reason) = line.split_once('#').unwrap_or((line, ""));
            let words: Vec<&str> = body.split_whitespace().collect();
            if words.is_empty() {
                continue;
            }
            ensure!(
                !reason.trim().is_empty(),
                "line {}: `{}` has no reason; add one after a '#'",
                i + 1,
                body.trim()
            );
            match words.as_slice() {
                ["driver", version] if wanted.driver.is_empty() => wanted.driver = (*version).into(),
                ["package", name] => wanted.packages.push((*name).into()),
                ["wheel", name, version] => wanted.wheels.push(((*name).into(), (*version).into())),
                _ => bail!(
                    "line {}: `{}` is neither one `driver VERSION` nor `package NAME` nor `wheel NAME VERSION`",
                    i + 1,
                    body.trim()
                ),
            }
        }
        ensure!(!wanted.driver.is_empty(), "no `driver` line; say which version of NVIDIA's driver is meant");
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_this_house_is_read() {
        let wanted = Wanted::parse(include_str!("../../../gpu.packages")).unwrap();
        assert!(wanted.packages.iter().any(|name| name == "libcuda1"));
        assert!(wanted.wheels.iter().any(|(name, _)| name == "nvidia-cuda-nvrtc-cu12"));
    }

    #[test]
    fn a_line_without_a_reason_two_drivers_or_none_are_refused() {
        for (bad, said) in [
            ("driver 1 # r\npackage a\n", "line 2"),
            ("driver 1 # r\ndriver 2 # r\n", "line 2"),
            ("package a # r\n", "no `driver` line"),
            ("driver 1 # r\nwheel a # r\n", "neither"),
        ] {
            let error = Wanted::parse(bad).unwrap_err().to_string();
            assert!(error.contains(said), "{bad}: {error}");
        }
    }
}
