//! What a build leaves: files by hash in one folder, described by `artifacts.json`.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Which image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// The CPU worker, as released.
    Worker,
    /// The proxy, as released.
    Proxy,
    /// The worker with NVIDIA's driver and a daemon that computes on a GPU.
    WorkerGpu,
    /// Worker, proxy and the simulated platform: development and tests only.
    Debug,
    /// What `Debug` is, with everything that `WorkerGpu` adds.
    DebugGpu,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Profile; 5] =
        [Profile::Worker, Profile::Proxy, Profile::WorkerGpu, Profile::Debug, Profile::DebugGpu];

    /// Its name, such as `worker-gpu`; also that of its folder under `out` and of its own mkosi profile.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Worker => "worker",
            Profile::Proxy => "proxy",
            Profile::WorkerGpu => "worker-gpu",
            Profile::Debug => "debug",
            Profile::DebugGpu => "debug-gpu",
        }
    }

    /// True where the simulated platform is inside: never a release.
    pub fn simulated(self) -> bool {
        matches!(self, Profile::Debug | Profile::DebugGpu)
    }

    /// True where NVIDIA's driver is inside.
    pub fn gpu(self) -> bool {
        matches!(self, Profile::WorkerGpu | Profile::DebugGpu)
    }

    /// Folders of `image/mkosi.profiles` that make it, the later over the earlier.
    pub(crate) fn mkosi(self) -> &'static [&'static str] {
        match self {
            Profile::Worker => &["worker"],
            Profile::Proxy => &["proxy"],
            Profile::WorkerGpu => &["gpu", "worker-gpu"],
            Profile::Debug => &["debug"],
            Profile::DebugGpu => &["debug", "gpu", "debug-gpu"],
        }
    }
}

impl std::str::FromStr for Profile {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Profile::ALL.into_iter().find(|profile| profile.name() == text) {
            Some(profile) => Ok(profile),
            None => {
                let names = Profile::ALL.map(|profile| format!("`{}`", profile.name()));
                bail!("profile `{text}`: there are {}", names.join(", "))
            }
        }
    }
}

/// One file of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// File name in the folder.
    pub name: String,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// `artifacts.json`, and where it was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifacts {
    /// Always 1.
    pub schema: u32,
    /// Which image this is.
    pub profile: Profile,
    /// dm-verity root hash of the root, lower-case hex.
    pub roothash: String,
    /// Kernel command line inside the UKI.
    pub cmdline: String,
    /// Kernel version, such as `6.12.107+deb13-cloud-amd64`.
    pub kernel: String,
    /// Compiler of the guest's programs.
    pub toolchain: String,
    /// SHA-256 of the package lines of `packages.lock`.
    pub packages_lock: String,
    /// SHA-256 of the package lines of `tools.lock`.
    pub tools_lock: String,
    /// SHA-256 of the lines of `gpu.lock`; `None` where the image has no driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_lock: Option<String>,
    /// Version of NVIDIA's driver; `None` where the image has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Commit of the source; `None` if the checkout was not clean.
    pub commit: Option<String>,
    /// Hash over everything that went in; equal inputs are not built again.
    pub inputs: String,
    /// The files.
    pub files: Vec<Artifact>,
    #[serde(skip)]
    dir: PathBuf,
}

/// Names of the files of a build.
pub mod names {
    /// The whole disk: EFI partition with the UKI, root, verity tree.
    pub const DISK: &str = "disk.raw";
    /// The UKI, to be booted directly.
    pub const UKI: &str = "uki.efi";
    /// The kernel inside the UKI.
    pub const KERNEL: &str = "kernel";
    /// The initrd inside the UKI.
    pub const INITRD: &str = "initrd";
    /// The root partition (erofs).
    pub const ROOT: &str = "root.erofs";
    /// The verity partition.
    pub const VERITY: &str = "root.verity";
    /// Origin of every file.
    pub const MANIFEST: &str = "manifest.json";
    /// Everything but `artifacts.json` itself, in that order.
    pub const ALL: [&str; 7] = [DISK, UKI, KERNEL, INITRD, ROOT, VERITY, MANIFEST];
}

impl Artifacts {
    /// Reads `artifacts.json` in `dir`. Files are looked at by [`Artifacts::verify`] only.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("artifacts.json");
        let text = fs::read_to_string(&path).with_context(|| {
            format!("{}: no build here; make one with `chrysalis image build`", path.display())
        })?;
        let found: Artifacts = serde_json::from_str(&text)
            .with_context(|| format!("{}: not what this version writes; build again", path.display()))?;
        if found.schema != 1 {
            bail!("{}: schema {}, this version reads 1; build again", path.display(), found.schema);
        }
        Ok(Artifacts { dir: dir.to_owned(), ..found })
    }

    /// Hashes every file and compares.
    pub fn verify(&self) -> Result<()> {
        for file in &self.files {
            let found = crate::hash::file(&self.dir.join(&file.name))?;
            if found != file.sha256 {
                let name = self.dir.join(&file.name);
                bail!(
                    "{}: SHA-256 {found}, artifacts.json says {}; build again",
                    name.display(),
                    file.sha256
                );
            }
        }
        Ok(())
    }

    /// Hashes the files in `dir` and writes `artifacts.json` there.
    pub(crate) fn seal(mut self, dir: &Path) -> Result<Self> {
        self.dir = dir.to_owned();
        for name in names::ALL {
            let path = dir.join(name);
            let size = fs::metadata(&path)
                .with_context(|| format!("{}: the build left none", path.display()))?
                .len();
            self.files.push(Artifact { name: name.into(), sha256: crate::hash::file(&path)?, size });
        }
        self.write()?;
        Ok(self)
    }

    /// The same build, known to be that of another commit: equal inputs give equal bytes.
    pub(crate) fn of_commit(mut self, commit: Option<String>) -> Result<Self> {
        if self.commit != commit {
            self.commit = commit;
            self.write()?;
        }
        Ok(self)
    }

    fn write(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        let path = self.dir.join("artifacts.json");
        fs::write(&path, text).with_context(|| format!("{}: can't write", path.display()))
    }

    /// An empty description to be filled and sealed.
    pub(crate) fn new(profile: Profile, inputs: String) -> Self {
        let text = String::new;
        Artifacts {
            schema: 1,
            profile,
            roothash: text(),
            cmdline: text(),
            kernel: text(),
            toolchain: text(),
            packages_lock: text(),
            tools_lock: text(),
            gpu_lock: None,
            driver: None,
            commit: None,
            inputs,
            files: Vec::new(),
            dir: PathBuf::new(),
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Path of one file, see [`names`].
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}
