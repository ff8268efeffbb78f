//! Proves that a build depends on nothing but its inputs: builds twice in different surroundings, compares every byte.
//!
//! The two builds share hash-verified downloads (packages, crates, the tools root made of them) and nothing else. What
//! differs: folder, umask, locale, time zone, host name, user name and home, number of cores. The user id can't: making
//! mounts takes root.

use crate::artifacts::{Artifacts, Profile};
use crate::checkout::Checkout;
use crate::diff::Difference;
use crate::guest::{Binaries, Workshop};
use crate::progress::{Report, say};
use crate::recipe::{Recipe, Stand};
use crate::tools::Tools;
use anyhow::{Context, Result, bail};
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// How much is done twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Thoroughness {
    /// The image is assembled twice from guest programs that were compiled once.
    Assemble,
    /// The guest programs are compiled twice as well, into fresh folders.
    Full,
}

/// What a build sees of the machine around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// Folder that everything is made in.
    pub folder: PathBuf,
    /// The builder's umask.
    pub umask: u32,
    /// `LC_ALL` of every program.
    pub locale: String,
    /// `TZ`, as a POSIX rule.
    pub timezone: String,
    /// Host name.
    pub hostname: String,
    /// `USER` and `LOGNAME`.
    pub user: String,
    /// `HOME`.
    pub home: String,
    /// Cores that programs may use, as `taskset` counts them.
    pub cores: String,
}

/// One file of both builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// File name.
    pub name: String,
    /// Bytes of the first.
    pub size: u64,
    /// SHA-256 of the first.
    pub first: String,
    /// SHA-256 of the second.
    pub second: String,
    /// Where they differ; `None` if every byte is equal.
    pub difference: Option<Difference>,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Always 1.
    pub schema: u32,
    /// Which image.
    pub profile: Profile,
    /// How much was done twice.
    pub thoroughness: Thoroughness,
    /// Root hash of the first build.
    pub roothash: String,
    /// Of the first and the second build.
    pub surroundings: [Surroundings; 2],
    /// Every file.
    pub files: Vec<Comparison>,
}

impl Proof {
    /// True if every byte of every file is equal.
    pub fn equal(&self) -> bool {
        self.files.iter().all(|file| file.difference.is_none())
    }
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.thoroughness {
            Thoroughness::Assemble => "assembled twice from programs compiled once",
            Thoroughness::Full => "compiled and assembled twice",
        };
        writeln!(f, "{} image, {what}, root hash {}", self.profile.name(), self.roothash)?;
        for (i, s) in self.surroundings.iter().enumerate() {
            let Surroundings { folder, umask, locale, timezone, hostname, user, home, cores } = s;
            writeln!(
                f,
                "  build {}: {} umask {umask:03o} {locale} TZ={timezone} host {hostname} user {user} home {home} \
                 cores {cores}",
                i + 1,
                folder.display()
            )?;
        }
        for file in &self.files {
            match &file.difference {
                None => writeln!(
                    f,
                    "  equal    {:<14} {:>10} bytes  sha256 {}",
                    file.name, file.size, file.first
                )?,
                Some(difference) => writeln!(f, "  DIFFERS  {:<14} {difference}", file.name)?,
            }
        }
        let (verdict, hint) = match self.equal() {
            true => ("EQUAL: every byte of both builds", ""),
            false => ("NOT EQUAL", "; both builds were kept in the folders above"),
        };
        writeln!(f, "  {verdict}{hint}")
    }
}

/// Builds a profile twice and compares. Folders of unequal builds are kept.
pub fn prove(
    checkout: &Checkout,
    profile: Profile,
    thoroughness: Thoroughness,
    report: Report<'_>,
) -> Result<Proof> {
    let tools = Tools::open(checkout, report)?;
    let surroundings = surroundings(checkout);
    let mut shared = None;
    if thoroughness == Thoroughness::Assemble {
        let workshop = Workshop::open(checkout, &tools, checkout.cache(), report)?;
        shared = Some((workshop.compile(profile, report)?, workshop.toolchain().version.clone()));
    }
    let mut builds = Vec::new();
    for around in &surroundings {
        say(report, "prove", format!("building in {}", around.folder.display()));
        builds.push(in_surroundings(checkout, profile, &tools, around, shared.as_ref(), report)?);
    }
    if changed_meanwhile(&surroundings, &builds)? {
        bail!("{}: files changed while they were proven; prove again", checkout.root().display());
    }
    let files = compare(&builds[0], &builds[1], &tools, &surroundings[0].folder.join("differences"))?;
    let roothash = builds[0].roothash.clone();
    let proof = Proof { schema: 1, profile, thoroughness, roothash, surroundings, files };
    if proof.equal() {
        for Surroundings { folder, .. } in &proof.surroundings {
            fs::remove_dir_all(folder).with_context(|| format!("{}: can't remove", folder.display()))?;
            // The second's parent is empty now; the first's is not, and stays.
            let _ = folder.parent().map(fs::remove_dir);
        }
    }
    Ok(proof)
}

/// Somebody edited the checkout: what was built twice was not the same thing. Where programs were compiled twice, the
/// staged sources say so, elsewhere the hash over all inputs does.
fn changed_meanwhile(around: &[Surroundings; 2], builds: &[Artifacts]) -> Result<bool> {
    let [first, second] = around.each_ref().map(|around| around.folder.join("guest/src"));
    match first.is_dir() && second.is_dir() {
        true => Ok(crate::hash::tree(&first)? != crate::hash::tree(&second)?),
        false => Ok(builds[0].inputs != builds[1].inputs),
    }
}

pub(crate) fn surroundings(checkout: &Checkout) -> [Surroundings; 2] {
    let id = std::process::id();
    let text = str::to_owned;
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    [
        Surroundings {
            folder: checkout.root().join(format!("out/.prove-{id}")),
            umask: 0o022,
            locale: text("C.UTF-8"),
            timezone: text("UTC0"),
            hostname: text("first"),
            user: text("root"),
            home: text("/root"),
            cores: text("0"),
        },
        Surroundings {
            // Not $TMPDIR: the tools root shares /tmp only.
            folder: PathBuf::from(format!("/tmp/chrysalis prove {id}/in a deeper folder")),
            umask: 0o077,
            locale: text("C"),
            timezone: text("XXX-13:45"),
            hostname: text("second-host"),
            user: text("somebody"),
            home: text("/tmp"),
            cores: format!("0-{}", all - 1),
        },
    ]
}

/// One build. The umask is the process's own, so it is set back afterwards.
fn in_surroundings(
    checkout: &Checkout,
    profile: Profile,
    tools: &Tools,
    around: &Surroundings,
    shared: Option<&(Binaries, String)>,
    report: Report<'_>,
) -> Result<Artifacts> {
    let before = rustix::process::umask(Mode::from_raw_mode(around.umask));
    let built = (|| {
        let folder = &around.folder;
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("{}: can't empty", folder.display()))?;
        }
        fs::create_dir_all(folder).with_context(|| format!("{}: can't make", folder.display()))?;
        let tools = tools.clone().around(around);
        let (binaries, toolchain) = match shared {
            Some(shared) => shared.clone(),
            None => {
                let workshop = Workshop::open(checkout, &tools, &folder.join("guest"), report)?;
                (workshop.compile(profile, report)?, workshop.toolchain().version.clone())
            }
        };
        let (work, unpacked, modules) =
            (folder.join("work"), folder.join("unpacked"), folder.join("modules"));
        let recipe = Recipe::load(checkout, profile)?.lock(&tools, report)?;
        let stand = Stand {
            tools: &tools,
            toolchain: &toolchain,
            binaries: &binaries,
            work: &work,
            unpacked: &unpacked,
            modules: &modules,
        };
        recipe.assemble(&stand, &folder.join("artifacts"), report)
    })();
    rustix::process::umask(before);
    built
}

/// Every file of both builds, byte by byte.
fn compare(a: &Artifacts, b: &Artifacts, tools: &Tools, scratch: &Path) -> Result<Vec<Comparison>> {
    let pairs = a.files.iter().zip(&b.files);
    let one = |(first, second): (&crate::Artifact, &crate::Artifact)| -> Result<Comparison> {
        let (left, right) = (a.path(&first.name), b.path(&second.name));
        let difference = Difference::find(&first.name, &left, &right, tools, scratch)?;
        Ok(Comparison {
            name: first.name.clone(),
            size: first.size,
            first: first.sha256.clone(),
            second: second.sha256.clone(),
            difference,
        })
    };
    pairs.map(one).collect()
}
