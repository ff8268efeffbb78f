//! `chrysalis machine install|uninstall`: a systemd template unit, one instance a settings file.
//!
//! `chrysalis@gpu0.service` launches `<settings>/gpu0.toml` with the run folder `<state>/gpu0`. systemd restarts the launcher only where
//! that itself dies; restarts of the machine are the launcher's, which knows why it failed.

use crate::output::{Outcome, facts};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of the template.
const UNIT: &str = "chrysalis@.service";
/// First line of a unit that this program wrote, and may remove.
const MARK: &str = "# Written by `chrysalis machine install`; `chrysalis machine uninstall` removes it.";
/// Longest time for a boot, and for a drain, that settings allow by default; systemd waits a little longer.
const START: u64 = 660;
const STOP: u64 = 60;

/// Options of `machine install`.
#[derive(clap::Args)]
pub struct Install {
    /// Folder of units.
    #[arg(long, default_value = "/etc/systemd/system")]
    units: PathBuf,
    /// Folder of settings files, one a machine: `NAME.toml` is the machine of `chrysalis@NAME`.
    #[arg(long, default_value = "/etc/chrysalis")]
    settings: PathBuf,
    /// Folder of run folders, one a machine.
    #[arg(long, default_value = "/var/lib/chrysalis")]
    state: PathBuf,
    /// Start no machine that this publication does not cover: a folder, or an address.
    #[arg(long, value_name = "FOLDER|URL", requires = "anchor")]
    publication: Option<String>,
    /// What of it is believed (TOML).
    #[arg(long, value_name = "FILE", requires = "publication")]
    anchor: Option<PathBuf>,
    /// Print the unit, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Options of `machine uninstall`.
#[derive(clap::Args)]
pub struct Uninstall {
    /// Folder of units.
    #[arg(long, default_value = "/etc/systemd/system")]
    units: PathBuf,
}

/// Writes the unit and the folders.
pub fn install(args: &Install, json: bool) -> Result<Outcome> {
    let program = std::env::current_exe().context("this program's own path is unknown")?;
    let unit = unit(&program, args)?;
    if args.dry_run {
        facts(json, &json!({ "unit": unit }), || unit.clone())?;
        return Ok(Outcome::Fine);
    }
    let path = args.units.join(UNIT);
    ours(&path)?;
    for folder in [&args.settings, &args.state] {
        fs::create_dir_all(folder)
            .with_context(|| format!("{}: can't make it; are you root?", folder.display()))?;
    }
    let scratch = path.with_extension("service.new");
    let written = fs::write(&scratch, unit).and_then(|()| fs::rename(&scratch, &path));
    if written.is_err() {
        let _ = fs::remove_file(&scratch);
    }
    written.with_context(|| format!("{}: can't write; are you root?", path.display()))?;
    reload();
    let next = format!(
        "{}\nwrite {}/NAME.toml, then: systemctl enable --now chrysalis@NAME\n",
        path.display(),
        args.settings.display()
    );
    facts(json, &json!({ "unit": path }), || next)?;
    Ok(Outcome::Fine)
}

/// Removes the unit; settings and run folders stay.
pub fn uninstall(args: &Uninstall, json: bool) -> Result<Outcome> {
    let path = args.units.join(UNIT);
    ours(&path)?;
    let gone = match fs::remove_file(&path) {
        Ok(()) => true,
        Err(e) if e.kind() == ErrorKind::NotFound => false,
        Err(e) => return Err(e).with_context(|| format!("{}: can't remove; are you root?", path.display())),
    };
    reload();
    let words =
        if gone { "removed; machines that run go on until they are stopped" } else { "was not installed" };
    facts(json, &json!({ "unit": path, "removed": gone }), || format!("{}: {words}", path.display()))?;
    Ok(Outcome::Fine)
}

/// A unit that somebody else wrote is left alone.
fn ours(path: &Path) -> Result<()> {
    match fs::read_to_string(path) {
        Ok(text) => {
            ensure!(
                text.starts_with(MARK),
                "{}: not written by this program; move it away first",
                path.display()
            );
            Ok(())
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).with_context(|| format!("{}: can't read", path.display())),
    }
}

/// Where systemd does not run (a container) there is nothing to tell.
fn reload() {
    if Path::new("/run/systemd/system").exists() {
        let told = Command::new("systemctl").arg("daemon-reload").status();
        if !told.is_ok_and(|status| status.success()) {
            eprintln!("  note: `systemctl daemon-reload` failed; run it yourself");
        }
    }
}

/// The unit's text.
fn unit(program: &Path, args: &Install) -> Result<String> {
    let mut words = vec![
        path(program)?,
        "launch".into(),
        "--settings".into(),
        path(&args.settings.join("%i.toml"))?,
        "--run".into(),
        path(&args.state.join("%i"))?,
    ];
    if let (Some(publication), Some(anchor)) = (&args.publication, &args.anchor) {
        words.extend(["--publication".into(), quoted(publication)?, "--anchor".into(), path(anchor)?]);
    }
    Ok(format!(
        "{MARK}\n[Unit]\nDescription=Chrysalis machine %i\nAfter=network-online.target qgsd.service\nWants=network-online.target\n\
         StartLimitIntervalSec=600\nStartLimitBurst=5\n\n[Service]\nType=notify\nNotifyAccess=main\nExecStart={}\n\
         # The launcher drains its machine on SIGTERM; QEMU ends with it, so nobody else is told.\nKillMode=mixed\n\
         TimeoutStartSec={START}\nTimeoutStopSec={STOP}\nRestart=on-abnormal\nRestartSec=5\nLimitMEMLOCK=infinity\nUMask=0077\n\n\
         [Install]\nWantedBy=multi-user.target\n",
        words.join(" ")
    ))
}

/// A path as systemd reads it: absolute, and with nothing that it would expand but `%i`.
fn path(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path)?;
    quoted(absolute.to_str().with_context(|| format!("{}: not UTF-8", path.display()))?)
}

fn quoted(text: &str) -> Result<String> {
    let plain = text.replace("%i", "");
    let bad =
        |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '\\' | '%' | '$' | ';');
    ensure!(
        !plain.chars().any(bad),
        "{text:?}: blanks, quotes, `%`, `$` and `;` mean something to systemd; use another name"
    );
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dir: &Path) -> Install {
        Install {
            units: dir.join("units"),
            settings: dir.join("etc"),
            state: dir.join("state"),
            publication: None,
            anchor: None,
            dry_run: false,
        }
    }

    #[test]
    fn an_installed_unit_is_removed_and_a_foreign_one_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let args = args(dir.path());
        fs::create_dir(&args.units).unwrap();
        install(&args, false).unwrap();
        install(&args, false).unwrap();
        let path = args.units.join(UNIT);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(MARK) && text.contains("/etc/%i.toml --run "), "{text}");
        assert!(args.settings.is_dir() && args.state.is_dir());
        assert_eq!(fs::read_dir(&args.units).unwrap().count(), 1, "nothing is left beside it");
        let remove = Uninstall { units: args.units.clone() };
        uninstall(&remove, false).unwrap();
        assert!(!path.exists());
        uninstall(&remove, false).unwrap();
        fs::write(&path, "[Unit]\n").unwrap();
        assert!(install(&args, false).is_err() && uninstall(&remove, false).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "[Unit]\n");
    }

    #[test]
    fn what_systemd_would_expand_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut args = args(dir.path());
        args.state = dir.path().join("a b");
        assert!(
            unit(Path::new("/usr/bin/chrysalis"), &args)
                .unwrap_err()
                .to_string()
                .contains("use another name")
        );
        args.state = dir.path().join("%h");
        assert!(unit(Path::new("/usr/bin/chrysalis"), &args).is_err());
    }

    #[test]
    fn a_publication_is_passed_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut args = args(dir.path());
        (args.publication, args.anchor) =
            (Some("https://example.org/p".into()), Some("/etc/anchor.toml".into()));
        let text = unit(Path::new("/usr/bin/chrysalis"), &args).unwrap();
        assert!(text.contains(" --publication https://example.org/p --anchor /etc/anchor.toml\n"), "{text}");
    }
}
