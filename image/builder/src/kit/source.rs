//! The source of a kit: out of git as a commit and an archive, and back into a checkout that git agrees is that commit.
//!
//! The archive is untrusted until `git write-tree` over what was unpacked gives the tree that the commit names, and git
//! hashes the commit to the id that the index, and a release's measurements, name.

use super::copy::Kit;
use super::error::KitError;
use super::index::Kind;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Component, Path};
use std::process::{Command, Stdio};

/// Longest commit object that is read.
const MAX_COMMIT: u64 = 1 << 20;
/// Who a kit of a working tree is by, so that the same files give the same kit.
const NOBODY: [(&str, &str); 2] = [("NAME", "working tree"), ("EMAIL", "working-tree@invalid")];

/// Source taken out of git.
pub(super) struct Taken {
    /// Id of the commit.
    pub commit: String,
    /// The commit object.
    pub object: Vec<u8>,
}

/// `git` without the host's own settings, in `dir`.
fn git(dir: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(dir).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        git.env_remove(name);
    }
    for setting in ["safe.directory=*", "core.autocrlf=false", "core.fileMode=true", "tar.umask=0022"] {
        git.args(["-c", setting]);
    }
    git
}

fn ask(git: &mut Command, what: &str) -> Result<Vec<u8>> {
    let output = git.stdin(Stdio::null()).output().context("git did not start; install git")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: git says: {}", said.trim());
    Ok(output.stdout)
}

fn line(git: &mut Command, what: &str) -> Result<String> {
    Ok(String::from_utf8(ask(git, what)?)?.trim().to_owned())
}

/// Writes the archive of a commit to `tar`.
pub(super) fn take(checkout: &Path, revision: &str, tar: &Path) -> Result<Taken> {
    let peeled = format!("{revision}^{{commit}}");
    let commit = line(git(checkout).args(["rev-parse", "--verify", "--end-of-options", &peeled]), revision)
        .context("name a commit of this clone, or fetch it first")?;
    archive(&mut || git(checkout), commit, tar)
}

/// Writes the archive of the files as they are, tracked or to be tracked, as a commit of nobody with no parent.
pub(super) fn take_working_tree(checkout: &Path, scratch: &Path, tar: &Path) -> Result<Taken> {
    let objects = line(git(checkout).args(["rev-parse", "--git-path", "objects"]), "git")?;
    let objects = checkout.join(objects);
    let own = scratch.join("git-objects");
    fs::create_dir_all(&own).with_context(|| format!("{}: can't make", own.display()))?;
    // Everything that git writes stays in the scratch folder.
    let mut with = || {
        let mut git = git(checkout);
        git.env("GIT_INDEX_FILE", scratch.join("git-index")).env("GIT_OBJECT_DIRECTORY", &own);
        git.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", &objects);
        for (role, (name, value)) in ["AUTHOR", "COMMITTER"].into_iter().flat_map(|r| NOBODY.map(|n| (r, n)))
        {
            git.env(format!("GIT_{role}_{name}"), value).env(format!("GIT_{role}_DATE"), "@315532800 +0000");
        }
        git
    };
    ask(with().args(["add", "--all"]), "git add")?;
    let tree = line(with().arg("write-tree"), "git write-tree")?;
    let commit = line(with().args(["commit-tree", &tree, "-m", "working tree"]), "git commit-tree")?;
    archive(&mut with, commit, tar)
}

fn archive(git: &mut dyn FnMut() -> Command, commit: String, tar: &Path) -> Result<Taken> {
    let object = ask(git().args(["cat-file", "commit", &commit]), "git cat-file")?;
    ask(git().args(["archive", "--format=tar", "--output"]).arg(tar).arg(&commit), "git archive")?;
    Ok(Taken { commit, object })
}

/// Unpacks a kit's source into the new folder `to`: a git checkout of exactly the kit's commit.
pub(super) fn restore(kit: &Kit, to: &Path) -> Result<()> {
    let commit = &kit.index().commit;
    let refuse = |what: &'static str, why: String| KitError::Source { what, why, commit: commit.clone() };
    fs::create_dir_all(to).with_context(|| format!("{}: can't make", to.display()))?;
    let tar = to.with_extension("tar");
    kit.copy(kit.one(Kind::Source)?, &tar)?;
    unpack(&tar, to).map_err(|error| refuse("the archive of the source", format!("{error:#}")))?;
    fs::remove_file(&tar)?;
    let object = kit.bytes(kit.one(Kind::Commit)?, MAX_COMMIT)?;
    ask(git(to).args(["init", "--quiet", "--template="]), "git init")?;
    ask(git(to).args(["add", "--all", "--force"]), "git add")?;
    let found = line(git(to).arg("write-tree"), "git write-tree")?;
    let first =
        String::from_utf8_lossy(object.split(|b| *b == b'\n').next().unwrap_or_default()).into_owned();
    if first != format!("tree {found}") {
        let why = format!("the files make tree {found}, the commit names `{}`", first.escape_debug());
        return Err(refuse("the source", why).into());
    }
    let id = hash_commit(to, &object)?;
    if id != *commit {
        return Err(refuse("the commit", format!("git hashes it to {id}")).into());
    }
    ask(git(to).args(["update-ref", "--no-deref", "HEAD", &id]), "git update-ref")?;
    Ok(())
}

fn hash_commit(dir: &Path, object: &[u8]) -> Result<String> {
    let mut child = git(dir)
        .args(["hash-object", "-t", "commit", "-w", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("git did not start; install git")?;
    // Dropped at the end of the statement, which closes the pipe.
    child.stdin.take().context("git takes no input")?.write_all(object)?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the commit: git says: {}", said.trim());
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Files, folders and links within; nothing that could be written elsewhere or be taken for git's own.
fn unpack(tar: &Path, to: &Path) -> Result<()> {
    let mut archive = tar::Archive::new(File::open(tar)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            continue;
        }
        let path = entry.path()?.into_owned();
        let shown = path.display().to_string().escape_debug().to_string();
        ensure!(
            kind.is_file() || kind.is_dir() || kind.is_symlink(),
            "`{shown}` is neither file, folder nor symlink"
        );
        ensure!(is_inside(&path), "`{shown}` leads elsewhere, or into .git");
        if let Some(target) = entry.link_name()? {
            ensure!(!target.is_absolute(), "`{shown}` is a link to `{}`", target.display());
        }
        ensure!(entry.unpack_in(to)?, "`{shown}` leads elsewhere");
    }
    Ok(())
}

fn is_inside(path: &Path) -> bool {
    path.components().all(|part| match part {
        Component::Normal(name) => !name.eq_ignore_ascii_case(".git"),
        Component::CurDir => true,
        Component::ParentDir | Component::RootDir | Component::Prefix(_) => false,
    })
}
