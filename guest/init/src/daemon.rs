//! The daemon of the measured role: one unit serves every image, and which program it runs is the configuration's choice
//! among those that the image holds.

use anyhow::{Context, Result, ensure};
use protocol::config::{Role, StaticConfig};
use std::convert::Infallible;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where our own programs are.
pub(crate) const PROGRAMS: &str = "/usr/lib/chrysalis";

/// Refuses a role whose daemon this image does not hold.
pub(crate) fn check(programs: &Path, role: Role) -> Result<()> {
    let program = program(programs, role);
    ensure!(
        program.is_file(),
        "static configuration: role is `{}`, and this image has no {}; boot an image of that role",
        role.as_str(),
        program.display()
    );
    Ok(())
}

/// Becomes the daemon: same process, same confinement.
pub(crate) fn run() -> Result<Infallible> {
    let path = Path::new(crate::boot::RUN).join("static.toml");
    let bytes = fs::read(&path).with_context(|| format!("{}: the gate writes it", path.display()))?;
    let program = program(Path::new(PROGRAMS), StaticConfig::parse(&bytes)?.role);
    let error = Command::new(&program).exec();
    Err(error).with_context(|| format!("cannot become {}", program.display()))
}

fn program(programs: &Path, role: Role) -> PathBuf {
    programs.join(format!("chrysalis-{}", role.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_without_its_daemon_is_refused() {
        let programs = tempfile::tempdir().unwrap();
        fs::write(programs.path().join("chrysalis-worker"), "").unwrap();
        check(programs.path(), Role::Worker).unwrap();
        let text = check(programs.path(), Role::Proxy).unwrap_err().to_string();
        assert!(text.contains("role is `proxy`") && text.contains("chrysalis-proxy"), "{text}");
    }
}
