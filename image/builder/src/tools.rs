//! The tools root: one locked Debian root, the same on every host, in which everything is built and run.
//!
//! ```text
//! image/tools.lock --fetch--> cache/debs --flat repository--> mmdebstrap --> cache/tools/<hash of the lock>
//! ```
//! A changed lock makes a new root beside the old one. Inside a root the file `/etc/chrysalis-tools` marks it, and
//! programs then run directly. The host needs: Debian 12 or newer, mmdebstrap, util-linux, and to be root.

use crate::checkout::{Checkout, exclusive};
use crate::lock::{Kind, Lock, Sources, fetch};
use crate::progress::{Report, say};
use crate::prove::Surroundings;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MARKER: &str = "/etc/chrysalis-tools";
const ENTER: &str = include_str!("tools/enter.sh");
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A tools root that is ready, and what is bound into it.
#[derive(Debug, Clone)]
pub struct Tools {
    /// `None` inside the root already.
    root: Option<PathBuf>,
    binds: Vec<(PathBuf, PathBuf)>,
    around: Option<Surroundings>,
    // Programs see no network, not even the loopback.
    offline: bool,
    id: String,
}

impl Tools {
    /// The root of this checkout's lock, made first if need be (a minute or two, 500 MB).
    pub fn open(checkout: &Checkout, report: Report<'_>) -> Result<Self> {
        Tools::of_lock(checkout, Kind::Tools, report)
    }

    /// A root of another lock of this checkout, made first if need be.
    pub fn of_lock(checkout: &Checkout, kind: Kind, report: Report<'_>) -> Result<Self> {
        let lock = Lock::load(&checkout.root().join(kind.file()))?;
        let id = lock.id();
        // The cache and the checkout keep their own paths; /tmp is shared for sockets and scratch files.
        let offline = checkout.toolchain().is_some();
        let kept = [checkout.cache(), checkout.root(), Path::new("/tmp")];
        if let Ok(mark) = fs::read_to_string(MARKER) {
            if mark.trim() != id {
                say(
                    report,
                    "tools",
                    "note: inside a tools root of another lock; leave it to use the right one",
                );
            }
            let id = mark.trim().to_owned();
            return Ok(Tools { root: None, binds: Vec::new(), around: None, offline, id });
        }
        must_be_root()?;
        let root = checkout.cache().join("tools").join(&id[..16]);
        let ready = root.join(&MARKER[1..]);
        if !ready.exists() {
            // Others may be at it: looked at again once they are done.
            let _lock = exclusive(&root.with_extension("lock"))?;
            if !ready.exists() {
                make(&lock, &root, checkout.cache(), report)?;
            }
        }
        let mut tools = Tools { root: Some(root), binds: Vec::new(), around: None, offline, id };
        for path in kept {
            // A folder below another one came with it.
            if !tools.binds.iter().any(|(source, _)| path.starts_with(source)) {
                tools = tools.bind(path, path);
            }
        }
        Ok(tools.bind(Path::new("/tmp"), Path::new("/var/tmp")))
    }

    /// The same root with `source` of this host seen at `target` inside.
    pub fn bind(mut self, source: &Path, target: &Path) -> Self {
        self.binds.push((source.to_owned(), target.to_owned()));
        self
    }

    /// The same root with this host's certificate store and resolver, so that downloads from inside it work wherever the host's do.
    pub fn online(&self) -> Self {
        let files = ["/etc/ssl/certs/ca-certificates.crt", "/etc/resolv.conf"].map(Path::new);
        let there = files.into_iter().filter(|file| file.is_file());
        there.fold(self.clone(), |tools, file| tools.bind(file, file))
    }

    /// The same root in other surroundings: what [`crate::prove()`] varies.
    pub(crate) fn around(mut self, around: &Surroundings) -> Self {
        self.around = Some(around.clone());
        self
    }

    /// A command that runs `program` of the root, in the caller's working folder if that is seen inside, else in `/`.
    /// The child's process id is the program's own. Locale and PATH are fixed; set the rest of the environment as usual.
    pub fn command(&self, program: &str) -> Command {
        let plain = self.root.is_none() && self.binds.is_empty() && self.around.is_none() && !self.offline;
        let mut command = if plain {
            Command::new(program)
        } else {
            let root = self.root.as_deref().unwrap_or(Path::new("/"));
            let hostname = self.around.as_ref().map_or("", |around| &around.hostname);
            let mut enter = Command::new("unshare");
            enter.args(["--mount", "--uts", "--propagation", "private"]);
            enter.args(self.offline.then_some("--net")).args(["sh", "-c", ENTER, "enter"]);
            enter.arg(root).arg(hostname).arg(self.binds.len().to_string());
            for (source, target) in &self.binds {
                enter.arg(source).arg(target);
            }
            if let Some(around) = &self.around {
                enter.args(["taskset", "--cpu-list", &around.cores]);
            }
            enter.arg(program);
            enter
        };
        command.env("PATH", PATH).env("LC_ALL", "C.UTF-8").env("HOME", "/root").env_remove("TMPDIR");
        if let Some(around) = &self.around {
            command.env("LC_ALL", &around.locale).env("TZ", &around.timezone).env("HOME", &around.home);
            command.env("USER", &around.user).env("LOGNAME", &around.user);
        }
        command
    }

    /// Hash of the lock that this root is made of.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where a file of the root lies on this host, such as `/usr/share/OVMF/OVMF_CODE_4M.fd`.
    pub fn path(&self, inside: &str) -> PathBuf {
        match &self.root {
            Some(root) => root.join(inside.trim_start_matches('/')),
            None => PathBuf::from(inside),
        }
    }
}

/// Runs a command, keeping its output for the error.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{what}: did not start"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().collect();
    let tail = lines[lines.len().saturating_sub(40)..].join("\n  ");
    bail!("{what}: {}\n  {tail}", output.status)
}

fn must_be_root() -> Result<()> {
    // Owner of /proc/self is the effective user.
    use std::os::unix::fs::MetadataExt;
    let uid = fs::metadata("/proc/self").context("/proc is not mounted; mount it")?.uid();
    if uid != 0 {
        bail!(
            "user id {uid}: making and entering the tools root needs mounts and chroot; run as root, such as with \
             `sudo -E`"
        );
    }
    Ok(())
}

/// Makes the root in a folder beside its final name, so that a broken run leaves nothing that looks ready.
fn make(lock: &Lock, root: &Path, cache: &Path, report: Report<'_>) -> Result<()> {
    let found = Command::new("mmdebstrap").arg("--version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        bail!("mmdebstrap: not found; it makes the tools root: apt-get install mmdebstrap");
    }
    fetch(lock, cache, &Sources::of_this_host(), report)?;
    let (scratch, repo) = (root.with_extension("making"), root.with_extension("repo"));
    for leftover in [&scratch, &repo].into_iter().filter(|path| path.exists()) {
        fs::remove_dir_all(leftover).with_context(|| format!("{}: can't remove", leftover.display()))?;
    }
    flat_repository(lock, cache, &repo)?;
    say(report, "tools", format!("making the tools root of {} packages", lock.packages.len()));
    let include: Vec<&str> = lock.packages.iter().map(|p| p.name.as_str()).collect();
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--quiet", "--mode=root", "--variant=essential", "--format=directory"])
        .arg(format!("--include={}", include.join(",")))
        .arg(&lock.suite)
        .arg(&scratch)
        .arg(format!("deb [trusted=yes] copy://{} ./", repo.display()))
        .env("SOURCE_DATE_EPOCH", lock.epoch().to_string());
    run("mmdebstrap (tools root)", &mut command)?;
    fs::write(scratch.join(&MARKER[1..]), format!("{}\n", lock.id()))?;
    fs::remove_dir_all(&repo)?;
    match fs::rename(&scratch, root) {
        Ok(()) => {}
        // Somebody else was faster; theirs is the same.
        Err(_) if root.join(&MARKER[1..]).exists() => fs::remove_dir_all(&scratch)?,
        Err(error) => {
            return Err(error).with_context(|| format!("{}: can't be put in place", root.display()));
        }
    }
    say(report, "tools", format!("tools root ready at {}", root.display()));
    Ok(())
}

/// A folder that apt takes for a repository: the locked .debs and an index of them.
fn flat_repository(lock: &Lock, cache: &Path, repo: &Path) -> Result<()> {
    fs::create_dir_all(repo).with_context(|| format!("{}: can't make", repo.display()))?;
    let mut index = String::new();
    for package in &lock.packages {
        let name = format!("{}_{}.deb", package.name, package.arch);
        let deb = package.cached(cache);
        fs::hard_link(&deb, repo.join(&name)).with_context(|| format!("{}: can't link", deb.display()))?;
        let control = run("dpkg-deb", Command::new("dpkg-deb").arg("--field").arg(&deb))?;
        let control = String::from_utf8_lossy(&control);
        index.push_str(control.trim_end());
        index.push_str(&format!(
            "\nFilename: ./{name}\nSize: {}\nSHA256: {}\n\n",
            package.size, package.sha256
        ));
    }
    // mmdebstrap looks for essential packages of the suite, so the repository has to say which suite it is.
    let (suite, hash, size) = (&lock.suite, crate::hash::bytes(index.as_bytes()), index.len());
    let release = format!("Suite: {suite}\nCodename: {suite}\nSHA256:\n {hash} {size} Packages\n");
    fs::write(repo.join("Release"), release)?;
    fs::write(repo.join("Packages"), index).with_context(|| format!("{}: can't write", repo.display()))
}
