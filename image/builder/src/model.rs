//! Packs a model folder into a disk whose root hash pins every byte.
//!
//! ```text
//! folder --check--> staged copy --mkfs.erofs--> file system --veritysetup--> model.img = data | superblock | hash tree
//!                   (modes and times fixed)     (4096-byte blocks)           model.json = name, root, data_blocks, ...
//! ```
//! The same files give the same root on every machine: names, contents and nothing else count. The tree is SHA-256 over
//! 4096-byte blocks with an empty salt, so that the root and the number of data blocks say everything there is to know;
//! the guest believes nothing of the superblock.
//!
//! Deliberately absent: compression (weights don't compress, and the guest reads them once), conversion of weights,
//! judging whether the model can be run (the engine does).

mod copy;
mod inspect;
mod int8;

use crate::tools::{Tools, run};
use anyhow::{Context, Result, bail, ensure};
use copy::Copying;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub use inspect::{Inspected, inspect};

const BLOCK: u64 = 4096;
/// Fixed, since a random one would change the root.
const EROFS_UUID: &str = "8f4e2b6a-0d53-4c1e-9a77-6d6f64656c01";
const VERITY_UUID: &str = "8f4e2b6a-0d53-4c1e-9a77-6d6f64656c02";
/// Where the work folder is seen by the tools.
const INSIDE: &str = "/chrysalis/model";
const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];
/// Weights in one file, or the index of several.
const WEIGHTS: [&str; 2] = ["model.safetensors", "model.safetensors.index.json"];
const KINDS: [&str; 5] = ["jinja", "json", "md", "safetensors", "txt"];
/// Hugging Face folders have at most this many levels, such as `1_Pooling/config.json`.
const MAX_DEPTH: usize = 2;

/// A packed model; `model.json` beside the image holds the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelDisk {
    /// Name by which requests ask for it.
    pub name: String,
    /// dm-verity root hash (SHA-256, 4096-byte blocks, empty salt), lower-case hex.
    pub root: String,
    /// Number of 4096-byte data blocks; a superblock of one block and the hash tree follow them.
    pub data_blocks: u64,
    /// Size of `model.img` in bytes.
    pub size: u64,
    /// What was packed, sorted by path.
    pub files: Vec<ModelFile>,
    /// What lies in the folder and was not packed, since no program here reads that kind of file.
    pub left_out: Vec<String>,
}

/// One packed file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFile {
    /// Path in the model folder.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of its contents, lower-case hex.
    pub sha256: String,
}

/// Packs `folder` into `out/model.img` and `out/model.json`, replacing what was there. `progress` is told what is being done.
pub fn pack(
    tools: &Tools,
    folder: &Path,
    out: &Path,
    name: &str,
    progress: &mut dyn FnMut(&str),
) -> Result<ModelDisk> {
    check_name(name)?;
    let content = survey(folder)?;
    let work = Work::new(out)?;
    let files = stage(folder, &content.files, &work.at("files"), progress)?;
    let disk = format(tools, &work, files, &content.left_out, name, progress)?;
    let json = serde_json::to_string_pretty(&disk)? + "\n";
    fs::write(work.at("model.json"), json).with_context(|| format!("{}: can't write", work.0.display()))?;
    for file in ["model.img", "model.json"] {
        fs::rename(work.at(file), out.join(file))
            .with_context(|| format!("{}: can't put {file} there", out.display()))?;
    }
    Ok(disk)
}

/// The same rule as in the static configuration, and a name that can be a folder of its own.
fn check_name(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    ensure!(
        (1..=64).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.'),
        "model name: expected 1 to 64 letters, digits, '-', '_' or '.', and no '.' in front, found `{name}`; \
         choose another"
    );
    Ok(())
}

/// What a model folder holds.
#[derive(Debug, Default)]
struct Content {
    files: Vec<PathBuf>,
    left_out: Vec<PathBuf>,
}

fn survey(folder: &Path) -> Result<Content> {
    let mut content = Content::default();
    visit(folder, Path::new(""), &mut content)?;
    content.files.sort();
    content.left_out.sort();
    let has = |name: &str| content.files.iter().any(|file| file == Path::new(name));
    let missing = REQUIRED.into_iter().find(|name| !has(name));
    let missing = missing.or_else(|| (!WEIGHTS.into_iter().any(has)).then_some(WEIGHTS[0]));
    if let Some(name) = missing {
        bail!(
            "{}: expected {name} in a model folder, found none; give the folder of a Hugging Face model with \
             safetensors weights",
            folder.display()
        );
    }
    Ok(content)
}

fn visit(folder: &Path, below: &Path, content: &mut Content) -> Result<()> {
    let dir = folder.join(below);
    for entry in
        fs::read_dir(&dir).with_context(|| format!("{}: can't list; is it a folder?", dir.display()))?
    {
        let entry = entry.with_context(|| format!("{}: can't list", dir.display()))?;
        let path = below.join(entry.file_name());
        let kind = entry.file_type().with_context(|| format!("{}: can't look at it", path.display()))?;
        if kind.is_symlink() {
            bail!(
                "{}: expected files and folders only, found a symbolic link; copy the folder with its links resolved \
                 (cp -rL) and pack the copy",
                folder.join(&path).display()
            );
        } else if kind.is_dir() && path.components().count() < MAX_DEPTH && !hidden(&path) {
            visit(folder, &path, content)?;
        } else if kind.is_file() && packed(&path) {
            content.files.push(path);
        } else {
            content.left_out.push(path);
        }
    }
    Ok(())
}

fn hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn packed(path: &Path) -> bool {
    let kind = path.extension().and_then(|kind| kind.to_str());
    !hidden(path) && kind.is_some_and(|kind| KINDS.contains(&kind)) && path.to_str().is_some()
}

/// Copies with fixed modes: the caller's umask and the originals' modes must not reach the image. What is copied is hashed
/// on its way.
fn stage(
    folder: &Path,
    files: &[PathBuf],
    dest: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<ModelFile>> {
    make_folder(dest)?;
    let sizes = files.iter().map(|file| {
        let file = folder.join(file);
        Ok(fs::metadata(&file).with_context(|| file.display().to_string())?.len())
    });
    let mut copying = Copying::new(sizes.sum::<Result<u64>>()?, progress);
    let mut described = vec![];
    for file in files {
        let (from, to) = (folder.join(file), dest.join(file));
        if let Some(parent) = to.parent().filter(|parent| !parent.exists()) {
            make_folder(parent)?;
        }
        let (size, sha256) = copying.file(&from, &to)?;
        set_mode(&to, 0o444)?;
        described.push(ModelFile { path: file.display().to_string(), size, sha256 });
    }
    Ok(described)
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("{}: can't make", path.display()))?;
    set_mode(path, 0o755)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("{}: can't set its mode", path.display()))
}

fn format(
    tools: &Tools,
    work: &Work,
    files: Vec<ModelFile>,
    left_out: &[PathBuf],
    name: &str,
    progress: &mut dyn FnMut(&str),
) -> Result<ModelDisk> {
    progress("writing the file system");
    let tools = tools.clone().bind(&work.0, Path::new(INSIDE));
    let (image, staged) = (format!("{INSIDE}/model.img"), format!("{INSIDE}/files"));
    let mut erofs = tools.command("mkfs.erofs");
    erofs.args(["--quiet", "-b4096", "-T0", "--all-time", "--all-root", "-x-1", "-U", EROFS_UUID]);
    run("mkfs.erofs", erofs.args([&image, &staged]))?;
    let local = work.at("model.img");
    let file = File::options().write(true).open(&local).with_context(|| local.display().to_string())?;
    let bytes = file.metadata()?.len().next_multiple_of(BLOCK);
    file.set_len(bytes).with_context(|| format!("{}: can't pad", local.display()))?;
    drop(file);
    let data_blocks = bytes / BLOCK;
    progress(&format!("hashing {data_blocks} blocks of {BLOCK} bytes into a tree"));
    let mut verity = tools.command("veritysetup");
    verity.args(["format", "--format=1", "--hash=sha256", "--salt=-", "--uuid", VERITY_UUID]);
    verity.args(["--data-block-size=4096", "--hash-block-size=4096"]);
    verity.args([format!("--data-blocks={data_blocks}"), format!("--hash-offset={bytes}")]);
    let said = run("veritysetup", verity.args([&image, &image]))?;
    Ok(ModelDisk {
        name: name.to_owned(),
        root: root_hash(&String::from_utf8_lossy(&said))?,
        data_blocks,
        size: fs::metadata(&local)?.len(),
        files,
        left_out: left_out.iter().map(|path| path.display().to_string()).collect(),
    })
}

/// The root hash in what `veritysetup format` prints.
fn root_hash(said: &str) -> Result<String> {
    let found = said.lines().find_map(|line| line.strip_prefix("Root hash:")).map(str::trim);
    let hex = |text: &&str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match found.filter(hex) {
        Some(root) => Ok(root.to_owned()),
        None => bail!("veritysetup: expected a line `Root hash: <64 hex digits>`, found:\n{said}"),
    }
}

/// A scratch folder inside `out`, so that results can be renamed into place; removed when dropped.
struct Work(PathBuf);

impl Work {
    fn new(out: &Path) -> Result<Self> {
        fs::create_dir_all(out).with_context(|| format!("{}: can't make", out.display()))?;
        let out = out.canonicalize().with_context(|| out.display().to_string())?;
        let work = Work(out.join(format!(".pack-{}", std::process::id())));
        let _ = fs::remove_dir_all(&work.0);
        make_folder(&work.0)?;
        Ok(work)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests;
