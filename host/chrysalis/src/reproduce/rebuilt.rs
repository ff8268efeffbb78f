//! The measurements of a rebuild: for the machines that the release lists, everything else from what was built.
//!
//! From the published document come questions only: name and version, which machines (platform, boot, shape, whether events
//! go to RTMR3), which firmware by hash, which models. Hashes of artifacts and locks, kernel, compiler, commit, stub and
//! registers are answers of the rebuild.

use crate::input::read;
use crate::release_cmd::draft;
use anyhow::{Context, Result, bail};
use builder::artifacts::names;
use builder::reproduce::Rebuild;
use launcher::foretell;
use measure::uki::Uki;
use measure::{Boot, Digest256, Inputs, Payload, Platform};
use release::{ConfigRule, File, Machine, Measurements};
use std::fs;
use std::path::{Path, PathBuf};

/// Folders of the tools root with firmware.
const FOLDERS: [&str; 2] = ["/usr/share/OVMF", "/usr/share/ovmf"];

/// Measurements, to be compared byte for byte.
pub fn measurements(
    published: &Measurements,
    rebuild: &Rebuild,
    firmware: Option<&Path>,
) -> Result<Measurements> {
    let build = &rebuild.artifacts;
    let digest = |text: &str| text.parse::<Digest256>().with_context(|| format!("artifacts.json: `{text}`"));
    let file = |file: &builder::Artifact| {
        Ok(File { name: file.name.clone(), sha256: digest(&file.sha256)?, size: file.size })
    };
    let commit = build.commit.clone().context("git does not call the unpacked source clean")?;
    let cargo_lock = read(&rebuild.checkout.root().join("Cargo.lock"))?;
    let volumes = Firmware::find(published, rebuild, firmware)?;
    Ok(Measurements {
        schema: 1,
        name: published.name.clone(),
        version: published.version,
        profile: build.profile.name().to_owned(),
        commit,
        toolchain: build.toolchain.clone(),
        kernel: build.kernel.clone(),
        locks: [
            ("Cargo.lock".to_owned(), Digest256::of(&cargo_lock)),
            ("packages.lock".to_owned(), digest(&build.packages_lock)?),
            ("tools.lock".to_owned(), digest(&build.tools_lock)?),
        ]
        .into(),
        artifacts: build.files.iter().map(file).collect::<Result<_>>()?,
        firmware: volumes.iter().map(Firmware::file).collect(),
        mrconfigid: ConfigRule::Sha384OfStaticConfiguration,
        machines: machines(published, rebuild, &volumes)?,
        models: published.models.clone(),
    })
}

fn machines(published: &Measurements, rebuild: &Rebuild, volumes: &[Firmware]) -> Result<Vec<Machine>> {
    let build = &rebuild.artifacts;
    let uki = read(&build.path(names::UKI))?;
    let stub = Uki::parse(&uki)?.stub.text;
    let head = foretell::disk_head(&build.path(names::DISK))?;
    let mut machines = Vec::new();
    for wanted in &published.machines {
        let volume = volumes.iter().find(|volume| volume.digest() == wanted.firmware);
        let volume = volume.context("a machine's firmware is not among the release's")?;
        let vars = match wanted.platform {
            Platform::Emulated => read(&volume.path.with_file_name("OVMF_VARS_4M.fd"))?,
            Platform::Tdx => Vec::new(),
        };
        let inputs = Inputs {
            platform: wanted.platform,
            boot: wanted.boot,
            shape: &wanted.shape,
            firmware_code: &volume.bytes,
            firmware_vars: &vars,
            payload: Some(Payload::Uki(&uki)),
            disk_head: (wanted.boot == Boot::Disk).then_some(&head[..]),
        };
        machines.push(draft::machine(&inputs, &stub, wanted.registers.rtmr3.is_some())?);
    }
    Ok(machines)
}

/// A firmware image that was found by its hash.
struct Firmware {
    name: String,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Firmware {
    fn find(published: &Measurements, rebuild: &Rebuild, given: Option<&Path>) -> Result<Vec<Self>> {
        let folders = FOLDERS.map(|folder| rebuild.tools.path(folder));
        let folders: Vec<&Path> = given.into_iter().chain(folders.iter().map(PathBuf::as_path)).collect();
        published.firmware.iter().map(|wanted| Firmware::one(wanted, &folders)).collect()
    }

    fn one(wanted: &File, folders: &[&Path]) -> Result<Self> {
        for folder in folders {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                // Links in the tools root lead within it, not from this host's own root.
                let size = entry.metadata().map(|meta| (meta.is_file(), meta.len()));
                if !size.is_ok_and(|size| size == (true, wanted.size)) {
                    continue;
                }
                let bytes = read(&path)?;
                if Digest256::of(&bytes) == wanted.sha256 {
                    return Ok(Firmware { name: wanted.name.clone(), path, bytes });
                }
            }
        }
        bail!(
            "firmware {} (SHA-256 {}): neither in the tools nor given; put it into a folder and name that with --firmware",
            wanted.name,
            wanted.sha256
        )
    }

    fn digest(&self) -> Digest256 {
        Digest256::of(&self.bytes)
    }

    fn file(&self) -> File {
        File { name: self.name.clone(), sha256: self.digest(), size: self.bytes.len() as u64 }
    }
}
