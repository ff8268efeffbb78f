//! Nix in a locked root of its own, with a store in the cache, offline.
//!
//! ```text
//! nix/packages.lock --> cache/tools/<hash>  at /             nix 2.26 of Debian; nothing of the host's is used
//! cache/nix/store                           at /nix          downloads and outputs; may be deleted at will
//! staged source                             at /run/source   read-only
//! ```

use crate::steps::{House, show};
use anyhow::{Context, Result, bail};
use builder::Tools;
use builder::lock::Kind;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const ENTER: &str = include_str!("enter.sh");
/// The checkout's flake as it is seen inside.
pub const FLAKE: &str = "path:/run/source?dir=nix";
/// Names of what the store keeps, each a link.
pub const KEPT: &str = "/nix/var/nix/gcroots/kept";
/// What every command is told. Builders run as this user: a machine for tests has no group of build users.
const SETTINGS: &str = "substitute = false\nbuild-users-group =\nsandbox-fallback = false\nflake-registry =\n\
                        experimental-features = nix-command flakes\nfsync-metadata = false\ndownload-attempts = 1\n\
                        require-drop-supplementary-groups = false\n";

/// A nix that is ready.
pub struct Nix {
    root: PathBuf,
    store: PathBuf,
    sandbox: bool,
}

impl Nix {
    /// Makes the root if need be, and finds out whether builds can be sandboxed here.
    pub fn open(house: &House) -> Result<Self> {
        let tools = Tools::of_lock(&house.checkout, Kind::Nix, &mut show)?;
        let root = tools.path("/");
        if !root.join("usr/bin/nix").is_file() {
            bail!("{}: no nix in it; leave the tools root and run this on the host", root.display());
        }
        let store = house.checkout.cache().join("nix/store");
        fs::create_dir_all(&store).with_context(|| format!("{}: can't make", store.display()))?;
        let mut nix = Nix { root, store, sandbox: true };
        if let Err(error) = nix.ask(house.checkout.root(), "nix-build", &PROBE) {
            let said = format!("{error:#}");
            if !said.contains("namespace") {
                return Err(error.context("nix builds nothing at all"));
            }
            eprintln!("      note: no user namespaces here, so builds are NOT SANDBOXED in this run");
            nix.sandbox = false;
        }
        Ok(nix)
    }

    /// True if builds see nothing but their inputs.
    pub fn sandboxed(&self) -> bool {
        self.sandbox
    }

    /// Where a path of the store, such as `/nix/store/..`, lies on this host.
    pub fn on_host(&self, path: &str) -> PathBuf {
        self.store.join(path.trim_start_matches("/nix/"))
    }

    /// A folder that is seen at `/nix/incoming`.
    pub fn incoming(&self) -> PathBuf {
        self.store.join("incoming")
    }

    /// Runs a program beside `source`; returns what it printed.
    pub fn ask(&self, source: &Path, program: &str, args: &[&str]) -> Result<String> {
        let output = self.output(source, program, args)?;
        if !output.status.success() {
            bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout).context("nix printed something that is no text")?)
    }

    /// What a program says that has to fail; an error if it doesn't.
    pub fn refusal(&self, source: &Path, args: &[&str]) -> Result<String> {
        let output = self.output(source, "nix", args)?;
        if output.status.success() {
            bail!("nix {}: succeeded, and must not", args.join(" "));
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn output(&self, source: &Path, program: &str, args: &[&str]) -> Result<Output> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--propagation", "private", "sh", "-c", ENTER, "enter"]);
        command.arg(&self.root).arg(&self.store).arg(source).arg(program).args(args);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("LC_ALL", "C.UTF-8");
        command.env("NIX_CONFIG", format!("{SETTINGS}sandbox = {}\n", self.sandbox));
        command.stdin(Stdio::null()).output().context("cannot start unshare (package util-linux)")
    }
}

/// The smallest build. Its name is new each second: one that was built already would tell nothing.
const PROBE: [&str; 3] = [
    "--no-out-link",
    "--expr",
    "derivation { name = \"probe-${toString builtins.currentTime}\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; \
     args = [ \"-c\" \": >$out\" ]; }",
];
