//! What the host itself must have before the tools root can be made, and how to get it.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs that the host must offer, the Debian package that brings each, and why it is needed.
const NEEDED: [(&str, &str, &str); 3] = [
    ("mmdebstrap", "mmdebstrap", "makes the locked tools root"),
    ("unshare", "util-linux", "enters the tools root in a mount namespace of its own"),
    ("cc", "gcc", "links this task runner"),
];

/// The root of this checkout.
pub fn checkout() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.ancestors().nth(2).context("ci/xtask has no grandparent folder")?;
    Ok(root.to_path_buf())
}

/// Installs what is missing (Debian and its children), or says what to install (elsewhere).
pub fn ensure() -> Result<()> {
    let missing: Vec<_> = NEEDED.iter().filter(|(program, ..)| !on_path(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for (program, package, why) in &missing {
        eprintln!("  missing: {program} (package {package}): {why}");
    }
    let packages: Vec<&str> = missing.iter().map(|(_, package, _)| *package).collect();
    if !Path::new("/etc/debian_version").exists() {
        bail!(
            "this is not a Debian system: install {} with your package manager and run the command again",
            packages.join(", ")
        );
    }
    if !running_as_root()? {
        bail!("run `sudo apt-get install {}` and run the command again", packages.join(" "));
    }
    run(Command::new("apt-get").args(["-q", "update"]))?;
    run(Command::new("apt-get").args(["-q", "-y", "install", "--no-install-recommends"]).args(&packages))
}

/// Runs a command with its output shown; an error says what was run.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command.status().with_context(|| format!("cannot start {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    Ok(())
}

/// An example of a package, compiled with the host's linker and run; add its arguments.
pub fn example(root: &Path, package: &str, name: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(["run", "--release", "--locked", "--quiet", "--package", package, "--example", name, "--"]);
    cargo.current_dir(root);
    cargo
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn running_as_root() -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let uid = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap_or_default();
    Ok(uid.split_whitespace().nth(1) == Some("0"))
}

/// The tools root with this host's certificate store and resolver.
pub fn online(tools: &builder::Tools) -> builder::Tools {
    tools.online()
}
