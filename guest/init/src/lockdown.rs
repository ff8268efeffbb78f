//! Kernel lockdown: from the command line where every module is signed, by hand where the image carries a driver that
//! nobody signed.
//!
//! ```text
//! none [integrity] confidentiality    the file; brackets mark the level in force
//! ```
//! The kernel only ever raises the level (kernel_lockdown(7), security/lockdown/lockdown.c). From here on it takes no
//! unsigned module and shows nobody its memory, uid 0 included.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

/// In securityfs.
pub(crate) const FILE: &str = "/sys/kernel/security/lockdown";
const LEVEL: &str = "confidentiality";

/// Sees to it that the highest level is in force, or fails.
pub(crate) fn raise(file: &Path) -> Result<()> {
    let shown = file.display();
    if !in_force(file)? {
        fs::write(file, LEVEL).with_context(|| format!("{shown}: cannot raise lockdown to {LEVEL}"))?;
    }
    ensure!(
        in_force(file)?,
        "{shown}: expected [{LEVEL}] after raising it, found another level; this kernel cannot be locked down, so nothing is \
         served"
    );
    Ok(())
}

fn in_force(file: &Path) -> Result<bool> {
    let text = fs::read_to_string(file).with_context(|| {
        format!("{}: cannot read; expected a kernel with lockdown and securityfs mounted", file.display())
    })?;
    Ok(text.split_whitespace().any(|word| word == format!("[{LEVEL}]")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lockdown_in_force_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lockdown");
        fs::write(&file, "none integrity [confidentiality]\n").unwrap();
        raise(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "none integrity [confidentiality]\n");
    }

    #[test]
    fn a_level_that_does_not_rise_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lockdown");
        for text in ["[none] integrity confidentiality\n", "none [integrity] confidentiality\n", ""] {
            // A plain file keeps what was written, which is not how the kernel shows a level in force.
            fs::write(&file, text).unwrap();
            assert!(raise(&file).unwrap_err().to_string().contains("nothing is served"), "{text}");
        }
        assert!(raise(&dir.path().join("absent")).is_err());
    }
}
