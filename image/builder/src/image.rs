//! Assembles one image: stages the root, writes the initrd, drives mkosi, and checks what came out.

use crate::allow::{AllowList, Stage};
use crate::artifacts::{Profile, names};
use crate::cpio::{self, Node};
use crate::gpu::BuiltModule;
use crate::guest::Binaries;
use crate::hash;
use crate::modules::{self, Module};
use crate::progress::{Report, say};
use crate::rootfs::{self, Origin, Unpacked};
use crate::tools::{Tools, run};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Folders of the recipe, beside `mkosi.conf`.
pub(crate) const TREES: [&str; 3] = ["mkosi.extra", "mkosi.profiles", "mkosi.repart"];
/// Where the work folder is seen inside the tools root: the same for every build.
const INSIDE: &str = "/chrysalis/image";
/// In the tree for mkosi, kept out of the root by `mkosi.repart/10-root.conf`.
const NOT_IN_ROOT: [&str; 2] = ["/usr/lib/modules/", "/usr/lib/systemd/boot/"];
/// Files that mkosi writes, and why.
const BY_MKOSI: [(&str, &str); 2] = [
    (
        "/usr/lib/clock-epoch",
        "lower bound of the clock: systemd starts from it if the machine's clock is older",
    ),
    (
        "/usr/lib/os-release",
        "names the distribution (base-files) and, as IMAGE_ID, the profile; goes into the UKI",
    ),
];

/// Everything that an image is assembled from.
pub(crate) struct Job<'a> {
    pub profile: Profile,
    /// The `image` folder of the checkout.
    pub recipe: &'a Path,
    pub allow: &'a AllowList,
    pub packages: &'a [Unpacked],
    /// Kernel modules that were compiled here.
    pub built: &'a [BuiltModule],
    /// Seconds since 1970: the clock of the image.
    pub epoch: u64,
    pub binaries: &'a Binaries,
    pub tools: &'a Tools,
    pub work: &'a Path,
}

/// Facts about a finished image.
pub(crate) struct Built {
    pub roothash: String,
    pub cmdline: String,
    pub kernel: String,
}

/// Assembles into `out`, which then holds every file of [`names::ALL`].
pub(crate) fn assemble(job: &Job<'_>, out: &Path, report: Report<'_>) -> Result<Built> {
    if job.work.exists() {
        fs::remove_dir_all(job.work).with_context(|| format!("{}: can't empty", job.work.display()))?;
    }
    make(job.work)?;
    say(report, "image", "staging the root file system");
    let kernel = rootfs::kernel(job.packages)?;
    let modules = modules::resolve(&kernel.dir, job.built, &job.allow.modules, job.tools)?;
    let staged = job.work.join("root");
    let mut origins = rootfs::stage(&staged, job.allow, job.packages, &modules, job.binaries)?;
    origins.extend(rootfs::stage_kernel(&job.work.join("kernel"), job.packages)?);
    origins.extend(recipe(job)?);
    check_marker(job.profile, &origins)?;
    let in_uki = in_uki(&origins).into_iter().chain(initrd(job, &modules)?);
    say(report, "image", "mkosi: file system, verity tree, UKI, disk");
    mkosi(job)?;
    let built = collect(job, out)?;
    say(report, "image", "comparing the finished root with what was meant to be in it");
    let mut expected = expected(&origins)?;
    check_root(job, &out.join(names::ROOT), &mut expected)?;
    let manifest: Vec<Origin> = expected.into_values().chain(in_uki).collect();
    let manifest = serde_json::to_string_pretty(&manifest)? + "\n";
    fs::write(out.join(names::MANIFEST), manifest)?;
    for name in names::ALL {
        rootfs::set_mode(&out.join(name), 0o644)?;
    }
    fs::remove_dir_all(job.work).with_context(|| format!("{}: can't remove", job.work.display()))?;
    Ok(built)
}

fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("{}: can't make", dir.display()))?;
    rootfs::set_mode(dir, 0o755)
}

/// Copies the recipe with plain modes; returns the files that it puts into the root.
fn recipe(job: &Job<'_>) -> Result<Vec<Origin>> {
    let to = job.work.join("recipe");
    make(&to)?;
    fs::copy(job.recipe.join("mkosi.conf"), to.join("mkosi.conf"))?;
    for tree in TREES.iter().filter(|tree| job.recipe.join(tree).is_dir()) {
        rootfs::copy_tree(&job.recipe.join(tree), &to.join(tree))?;
    }
    let mut origins = Vec::new();
    let profiles = job.profile.mkosi().iter().map(|name| format!("mkosi.profiles/{name}/"));
    for profile in [String::new()].into_iter().chain(profiles) {
        let extra = format!("{profile}mkosi.extra");
        let dir = to.join(&extra);
        for name in if dir.is_dir() { hash::walk(&dir)? } else { Vec::new() } {
            let file = dir.join(&name);
            let meta = fs::symlink_metadata(&file)?;
            if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
                bail!(
                    "image/{extra}/{}: executable; programs enter as packages or as our own",
                    name.display()
                );
            }
            let path = format!("/{}", name.display());
            let from = format!("recipe {extra}");
            origins.push(Origin { path, from, content: content(&file)?, reason: "configuration".into() });
        }
    }
    Ok(origins)
}

/// SHA-256 of a file, or where a symlink points.
fn content(file: &Path) -> Result<String> {
    match fs::symlink_metadata(file)?.is_symlink() {
        true => Ok(format!("-> {}", fs::read_link(file)?.display())),
        false => hash::file(file),
    }
}

/// What the UKI takes from the tree for mkosi.
fn in_uki(origins: &[Origin]) -> Vec<Origin> {
    let parts = [("/vmlinuz", "uki:.linux"), (".efi.stub", "uki:stub")];
    let name =
        |path: &str| parts.iter().find(|(end, _)| path.ends_with(end)).map(|(_, name)| (*name).to_owned());
    origins.iter().filter_map(|origin| Some(Origin { path: name(&origin.path)?, ..origin.clone() })).collect()
}

/// Writes `initrd.cpio.zst`: the static first program and the modules that it loads. Returns their origins.
fn initrd(job: &Job<'_>, modules: &[Module]) -> Result<Vec<Origin>> {
    let init = fs::read(&job.binaries.initrd)
        .with_context(|| format!("{}: can't read", job.binaries.initrd.display()))?;
    if !crate::elf::is_elf(&init) || !crate::elf::needed(&init).is_empty() {
        bail!(
            "{}: not a static program, and there is no library in the initrd",
            job.binaries.initrd.display()
        );
    }
    let order = modules::order(modules, Stage::Initrd);
    let files: Vec<(String, &Module)> = modules
        .iter()
        .filter(|module| module.stage == Stage::Initrd)
        .map(|module| (format!("modules/{}", module.file), module))
        .collect();
    let mut entries = vec![("init", Node::File(&init, true))];
    // Mount points of the first program.
    entries.extend(["dev", "modules", "proc", "run", "sys", "sysroot"].map(|name| (name, Node::Folder)));
    entries.push(("modules/order", Node::File(order.as_bytes(), false)));
    entries.extend(files.iter().map(|(name, module)| (name.as_str(), Node::File(&module.bytes, false))));
    let archive = job.work.join("initrd.cpio");
    fs::write(&archive, cpio::write(&entries))?;
    // Every byte of the UKI is hashed by firmware and stub, so small is fast.
    let mut zstd = job.tools.command("zstd");
    run("zstd", zstd.args(["-19", "--single-thread", "--quiet", "--rm"]).arg(&archive))?;
    let origin =
        |path: String, from: String, content: String, reason: String| Origin { path, from, content, reason };
    let first =
        origin("initrd:/init".into(), "source initrd".into(), hash::bytes(&init), "first program".into());
    let kernel = rootfs::kernel_origin(job.packages)?;
    let modules = files.iter().map(|(name, module)| {
        origin(format!("initrd:/{name}"), kernel.clone(), hash::bytes(&module.bytes), module.reason())
    });
    Ok([first].into_iter().chain(modules).collect())
}

fn mkosi(job: &Job<'_>) -> Result<()> {
    for dir in ["out", "scratch", "cache"] {
        make(&job.work.join(dir))?;
    }
    let tools = job.tools.clone().bind(job.work, Path::new(INSIDE));
    let mut mkosi = tools.command("mkosi");
    let at = |name: &str| format!("{INSIDE}/{name}");
    mkosi.args(["--directory", &at("recipe"), "--profile", &job.profile.mkosi().join(","), "--force"]);
    mkosi.args([
        "--base-tree",
        &at("root"),
        "--extra-tree",
        &at("kernel"),
        "--initrd",
        &at("initrd.cpio.zst"),
    ]);
    mkosi.args(["--output-directory", &at("out"), "--workspace-directory", &at("scratch")]);
    mkosi.args(["--package-cache-dir", &at("cache")]);
    mkosi.args(["--source-date-epoch", &job.epoch.to_string(), "build"]);
    run("mkosi", &mut mkosi).map(|_| ())
}

/// Moves mkosi's output to its final names and reads the command line back from the UKI.
fn collect(job: &Job<'_>, out: &Path) -> Result<Built> {
    make(out)?;
    let _ = fs::remove_file(out.join("artifacts.json"));
    let from = job.work.join("out");
    let renames = [
        ("chrysalis.raw", names::DISK),
        ("chrysalis.efi", names::UKI),
        ("chrysalis.vmlinuz", names::KERNEL),
        ("chrysalis.initrd", names::INITRD),
        ("chrysalis.root.raw", names::ROOT),
        ("chrysalis.root-verity.raw", names::VERITY),
    ];
    for (old, new) in renames {
        let (old, new) = (from.join(old), out.join(new));
        let _ = fs::remove_file(&new);
        let moved = fs::rename(&old, &new).or_else(|_| fs::copy(&old, &new).map(|_| ()));
        moved.with_context(|| format!("mkosi left no {}", old.display()))?;
    }
    let uki = fs::read(out.join(names::UKI))?;
    let cmdline = crate::diff::pe_section(&uki, ".cmdline").context("the UKI has no .cmdline section")?;
    let cmdline = String::from_utf8_lossy(cmdline).trim_end_matches(['\0', '\n']).to_owned();
    let roothash = cmdline.split(' ').find_map(|word| word.strip_prefix("roothash="));
    let roothash = roothash.context("the UKI's command line has no roothash")?.to_owned();
    Ok(Built { roothash, cmdline, kernel: rootfs::kernel_version(job.packages)? })
}

/// What the root should hold, by path. Extra trees come after the base tree and may not replace any of it.
fn expected(origins: &[Origin]) -> Result<BTreeMap<String, Origin>> {
    let mut map = BTreeMap::new();
    for origin in origins {
        if NOT_IN_ROOT.iter().any(|prefix| origin.path.starts_with(prefix)) {
            continue;
        }
        if let Some(old) = map.insert(origin.path.clone(), origin.clone()) {
            bail!("{}: from both `{}` and `{}`; keep one", origin.path, old.from, origin.from);
        }
    }
    Ok(map)
}

/// Only the debug profile may say that simulated peers are believed, and it does.
fn check_marker(profile: Profile, origins: &[Origin]) -> Result<()> {
    let path = format!("/{}/{}", rootfs::OURS, measure::wire::SIMULATED_MARKER);
    match (origins.iter().any(|origin| origin.path == path), profile.simulated()) {
        (true, false) => bail!(
            "{path}: in the {} profile; its daemons would take a simulated platform for a real one: remove it",
            profile.name()
        ),
        (false, true) => {
            bail!("{path}: missing in a debug profile, whose daemons look for it: add it back")
        }
        _ => Ok(()),
    }
}

/// Reads the finished file system back: it holds exactly what was meant, byte for byte.
fn check_root(job: &Job<'_>, erofs: &Path, expected: &mut BTreeMap<String, Origin>) -> Result<()> {
    let extracted: PathBuf = job.work.join("extracted");
    let mut fsck = job.tools.command("fsck.erofs");
    run("fsck.erofs", fsck.arg(format!("--extract={}", extracted.display())).arg(erofs))?;
    let mut seen = 0;
    for name in hash::walk(&extracted)? {
        let path = format!("/{}", name.display());
        let found = content(&extracted.join(&name))?;
        if let Some((_, reason)) = BY_MKOSI.iter().find(|(written, _)| *written == path) {
            let (from, reason) = ("mkosi".into(), (*reason).into());
            let origin = Origin { path: path.clone(), from, content: found.clone(), reason };
            expected.insert(path.clone(), origin);
        }
        match expected.get(&path) {
            Some(origin) if origin.content == found => seen += 1,
            Some(origin) => {
                bail!("{path}: the root holds {found}, `{}` gave {}", origin.from, origin.content)
            }
            None => bail!("{path}: in the finished root, but neither listed, nor ours, nor in mkosi.extra"),
        }
    }
    if seen == expected.len() {
        return Ok(());
    }
    let missing = expected.keys().find(|path| fs::symlink_metadata(extracted.join(&path[1..])).is_err());
    bail!("{}: meant to be in the root, and is not there", missing.map_or("?", String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_of_simulated_platforms_is_refused_in_every_release() {
        let text = String::new;
        let path = "/usr/lib/chrysalis/SIMULATED".to_owned();
        let marker = [Origin { path, from: text(), content: text(), reason: text() }];
        for profile in Profile::ALL.into_iter().filter(|profile| !profile.simulated()) {
            assert!(check_marker(profile, &marker).unwrap_err().to_string().contains("remove it"));
            check_marker(profile, &[]).unwrap();
        }
        for profile in [Profile::Debug, Profile::DebugGpu] {
            check_marker(profile, &marker).unwrap();
            assert!(check_marker(profile, &[]).is_err());
        }
    }
}
