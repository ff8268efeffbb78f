//! Settings in three steps: what a person wrote, what it means with defaults, what was checked.
//!
//! ```text
//! Fragment (TOML, everything optional) --merge--> Input (defaults filled in) --settle--> Settings (typed, checked)
//! ```
//! `Fragment` knows where it came from, so that a refusal can point at a line. Relative paths of a fragment that was
//! read from a file count from that file's folder; of one built in code, from the current directory.
//!
//! Deliberately absent: any switch that weakens what the guest checks. Settings decide what is booted, never what a
//! verifier accepts.

mod check;
mod gpu;
mod hardware;
mod life;
mod trust;

pub use check::{Firmware, Image, Model, Settings};
pub use gpu::GpuFragment;
pub use hardware::{PlacementFragment, TdxFragment};
pub use life::{Life, LifeFragment, Restart};

use protocol::config::{LedgerConfig, PoolConfig, WalletConfig, WorkerConfig};
use serde::Deserialize;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

/// Why settings were refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file that the settings need can't be read.
    #[error("{what} {path}: {source}; {hint}", path = path.display())]
    Unreadable {
        /// What the file is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// Not the TOML of schema 1.
    #[error("{place}: {message}{hint}")]
    Syntax {
        /// File and line.
        place: String,
        /// The parser's words.
        message: String,
        /// `; did you mean ...`, or nothing.
        hint: String,
    },
    /// A value can't be used.
    #[error("{place}: `{field}` is {found}, expected {expected}; {hint}")]
    Value {
        /// File and line, or `settings`.
        place: String,
        /// Dotted name of the field.
        field: String,
        /// What stands there.
        found: String,
        /// What may stand there.
        expected: String,
        /// What to do.
        hint: String,
    },
}

/// One model disk, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFragment {
    /// The model disk (erofs and dm-verity tree in one file).
    pub image: Option<PathBuf>,
    /// Its pin in JSON; `model.json` beside the image if absent.
    pub pin: Option<PathBuf>,
}

/// The machine's size, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShapeFragment {
    /// Virtual CPUs.
    pub vcpus: Option<u32>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
}

/// The firmware, as written; paths as the QEMU process sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareFragment {
    /// OVMF's code volume.
    pub code: Option<PathBuf>,
    /// OVMF's template of an empty variable store.
    pub vars: Option<PathBuf>,
}

/// Whom the guest believes when it verifies peers, as written. Policy, hashes and time become part of the static
/// configuration, and so of MRCONFIGID; the files travel beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustFragment {
    /// Appraisal policy (TOML); the root that a simulated one names lies beside it.
    pub policy: Option<PathBuf>,
    /// Collateral of the peers' platforms (JSON).
    pub collateral: Option<PathBuf>,
    /// Settings of the publication that the accepted peers' reference values come from (TOML, as `release verify` takes them).
    pub publication: Option<PathBuf>,
    /// Where the guest gets the publication for a start: a folder, or an address (http:// or https://) that this host can reach.
    pub source: Option<String>,
    /// Reference values of the accepted peers (JSON), one or more, in the place of a publication: for images of the debug
    /// profile.
    pub references: Option<Vec<PathBuf>>,
    /// The guest appraises nothing as of an earlier time, Unix seconds.
    pub not_before: Option<u64>,
    /// Evidence of peers' GPUs that is demanded: `fresh`, or `cached:SECONDS` for what was taken at most so long ago; `[gpu]`
    /// of the policy says what they must be.
    pub gpu: Option<String>,
}

/// What a person wrote: every field optional, unknown ones refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fragment {
    /// Must be 1 in a file.
    pub schema: Option<u32>,
    /// `emulated` or `tdx`.
    pub platform: Option<String>,
    /// `direct` (the UKI is handed to the firmware) or `disk` (the firmware finds it in the ESP).
    pub boot: Option<String>,
    /// Folder of a built image.
    pub image: Option<PathBuf>,
    /// Role of the guest, for the static configuration: `worker` or `proxy`.
    pub role: Option<String>,
    /// Network that the guest joins, for the static configuration.
    pub network: Option<String>,
    /// A finished static configuration, instead of `role` and `network`.
    pub static_config: Option<PathBuf>,
    /// Loopback address and port where the guest's service appears; port 0 lets the system choose.
    pub listen: Option<String>,
    /// Folder of this run: console, variable store, TPM state.
    pub work_dir: Option<PathBuf>,
    /// Folder of a simulated platform's keys; only images of the debug profile look at what it hands over.
    pub simulated_platform: Option<PathBuf>,
    /// Peers that the guest calls, IPv4 address and port each; this host's loopback is 10.0.2.2 for the guest.
    pub dial: Option<Vec<SocketAddrV4>>,
    /// Lite servers of the ledger that the guest asks, IPv4 address and port each.
    pub lite_servers: Option<Vec<SocketAddrV4>>,
    /// Web server from which the guest renews the publication, IPv4 address, port and folder as the guest reaches it, such as
    /// `10.0.2.2:8000/releases`.
    pub mirror: Option<String>,
    /// Whom the guest believes.
    pub trust: Option<TrustFragment>,
    /// The guest's own GPUs, for the static configuration.
    pub gpu: Option<GpuFragment>,
    /// Folder with what GPU evidence is held against: manifests and OCSP responses.
    pub gpu_collateral: Option<PathBuf>,
    /// The chain and the root contract, for the static configuration.
    pub ledger: Option<LedgerConfig>,
    /// A proxy's pool, for the static configuration.
    pub pool: Option<PoolConfig>,
    /// A worker's wallet, for the static configuration.
    pub wallet: Option<WalletConfig>,
    /// When and on what credit a worker works, for the static configuration.
    pub worker: Option<WorkerConfig>,
    /// The machine's size.
    pub shape: Option<ShapeFragment>,
    /// The firmware.
    pub firmware: Option<FirmwareFragment>,
    /// A trust domain's own part.
    pub tdx: Option<TdxFragment>,
    /// Where on the host.
    pub placement: Option<PlacementFragment>,
    /// How it is kept alive.
    pub life: Option<LifeFragment>,
    /// Model disks, in order.
    pub models: Option<Vec<ModelFragment>>,
    /// Where each field was written, for messages.
    #[serde(skip)]
    pub origin: Vec<Origin>,
}

/// A source text of settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    name: String,
    text: String,
}

impl Origin {
    /// `NAME line N` of the line that sets `field`, such as `shape.vcpus` or `models[0].image`, if this text sets it
    /// in a line of its own; of a table, of its header.
    fn place(&self, field: &str) -> Option<String> {
        let (mut table, mut models) = (String::new(), 0);
        for (i, line) in self.text.lines().enumerate() {
            let line = line.trim();
            if line.starts_with("[[models]]") {
                table = format!("models[{models}].");
                models += 1;
            } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
                if name == field {
                    return Some(format!("{} line {}", self.name, i + 1));
                }
                table = format!("{name}.");
            } else if let Some((key, _)) = line.split_once('=')
                && field == format!("{table}{}", key.trim())
            {
                return Some(format!("{} line {}", self.name, i + 1));
            }
        }
        None
    }
}

impl Fragment {
    /// Reads a settings file; its relative paths count from its own folder.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Unreadable {
            what: "settings file",
            path: path.into(),
            source,
            hint: "name an existing TOML file",
        })?;
        let mut fragment = Fragment::parse(&path.display().to_string(), &text)?;
        fragment.root_paths(path.parent().unwrap_or(Path::new("")));
        Ok(fragment)
    }

    /// Reads settings from text; `name` stands in messages.
    pub fn parse(name: &str, text: &str) -> Result<Self, SettingsError> {
        let mut fragment: Fragment = toml::from_str(text).map_err(|e| syntax(name, text, &e))?;
        fragment.origin.push(Origin { name: name.into(), text: text.into() });
        match fragment.schema {
            Some(1) => Ok(fragment),
            other => Err(SettingsError::Value {
                place: fragment.place("schema").unwrap_or_else(|| name.into()),
                field: "schema".into(),
                found: other.map_or("missing".into(), |n| n.to_string()),
                expected: "1".into(),
                hint: "start the file with `schema = 1`".into(),
            }),
        }
    }

    /// Lays `over` on top: what it sets wins, what it leaves out stays.
    pub fn merge(mut self, over: Fragment) -> Fragment {
        let shape = laid(self.shape, over.shape, ShapeFragment::under);
        let firmware = laid(self.firmware, over.firmware, FirmwareFragment::under);
        let tdx = laid(self.tdx, over.tdx, TdxFragment::under);
        let placement = laid(self.placement, over.placement, PlacementFragment::under);
        let life = laid(self.life, over.life, LifeFragment::under);
        self.origin.extend(over.origin);
        Fragment {
            schema: over.schema.or(self.schema),
            platform: over.platform.or(self.platform),
            boot: over.boot.or(self.boot),
            image: over.image.or(self.image),
            role: over.role.or(self.role),
            network: over.network.or(self.network),
            static_config: over.static_config.or(self.static_config),
            listen: over.listen.or(self.listen),
            work_dir: over.work_dir.or(self.work_dir),
            simulated_platform: over.simulated_platform.or(self.simulated_platform),
            dial: over.dial.or(self.dial),
            lite_servers: over.lite_servers.or(self.lite_servers),
            mirror: over.mirror.or(self.mirror),
            trust: over.trust.or(self.trust),
            gpu: over.gpu.or(self.gpu),
            gpu_collateral: over.gpu_collateral.or(self.gpu_collateral),
            ledger: over.ledger.or(self.ledger),
            pool: over.pool.or(self.pool),
            wallet: over.wallet.or(self.wallet),
            worker: over.worker.or(self.worker),
            shape,
            firmware,
            tdx,
            placement,
            life,
            models: over.models.or(self.models),
            origin: self.origin,
        }
    }

    /// Fills in the defaults.
    pub fn input(self) -> Input {
        let shape = self.shape.unwrap_or_default();
        let platform = self.platform.unwrap_or_else(|| "emulated".into());
        Input {
            firmware: self.firmware.unwrap_or_default(),
            platform,
            boot: self.boot.unwrap_or_else(|| "direct".into()),
            image: self.image,
            role: self.role,
            network: self.network,
            static_config: self.static_config,
            listen: self.listen.unwrap_or_else(|| "127.0.0.1:0".into()),
            work_dir: self.work_dir.unwrap_or_else(|| "out/run".into()),
            simulated_platform: self.simulated_platform,
            dial: self.dial.unwrap_or_default(),
            lite_servers: self.lite_servers.unwrap_or_default(),
            mirror: self.mirror,
            trust: self.trust,
            gpu: self.gpu,
            gpu_collateral: self.gpu_collateral,
            ledger: self.ledger,
            pool: self.pool,
            wallet: self.wallet,
            worker: self.worker,
            vcpus: shape.vcpus.unwrap_or(2),
            memory_mib: shape.memory_mib.unwrap_or(2048),
            tdx: self.tdx,
            placement: self.placement.unwrap_or_default(),
            life: self.life.unwrap_or_default(),
            models: self.models.unwrap_or_default(),
            origin: self.origin,
        }
    }

    /// Defaults and checks in one step.
    pub fn settle(self) -> Result<Settings, SettingsError> {
        self.input().settle()
    }

    fn place(&self, field: &str) -> Option<String> {
        self.origin.iter().rev().find_map(|o| o.place(field))
    }

    /// Makes relative paths count from `base`. Firmware paths are left alone: they belong to the tools root.
    fn root_paths(&mut self, base: &Path) {
        let paths = [
            &mut self.image,
            &mut self.static_config,
            &mut self.work_dir,
            &mut self.simulated_platform,
            &mut self.gpu_collateral,
        ];
        let models = self.models.iter_mut().flatten().flat_map(|m| [&mut m.image, &mut m.pin]);
        let socket = self.tdx.iter_mut().map(|tdx| &mut tdx.vsock_socket);
        let gpu = self.gpu.iter_mut().map(|gpu| &mut gpu.policy);
        for path in paths.into_iter().chain(models).chain(socket).chain(gpu).flatten() {
            *path = base.join(&*path);
        }
        let Some(TrustFragment { policy, collateral, references, publication, source, .. }) = &mut self.trust
        else {
            return;
        };
        let files = policy.iter_mut().chain(collateral).chain(publication);
        files.chain(references.iter_mut().flatten()).for_each(|path| *path = base.join(&*path));
        if let Some(folder) = source.as_mut().filter(|source| !source.contains("://")) {
            *folder = base.join(&*folder).display().to_string();
        }
    }
}

/// Settings with their defaults, not yet checked. Fields mean what they mean in [`Fragment`].
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each field is documented in Fragment")]
pub struct Input {
    pub platform: String,
    pub boot: String,
    pub image: Option<PathBuf>,
    pub role: Option<String>,
    pub network: Option<String>,
    pub static_config: Option<PathBuf>,
    pub listen: String,
    pub work_dir: PathBuf,
    pub simulated_platform: Option<PathBuf>,
    pub dial: Vec<SocketAddrV4>,
    pub lite_servers: Vec<SocketAddrV4>,
    pub mirror: Option<String>,
    pub trust: Option<TrustFragment>,
    pub gpu: Option<GpuFragment>,
    pub gpu_collateral: Option<PathBuf>,
    pub ledger: Option<LedgerConfig>,
    pub pool: Option<PoolConfig>,
    pub wallet: Option<WalletConfig>,
    pub worker: Option<WorkerConfig>,
    pub vcpus: u32,
    pub memory_mib: u64,
    pub firmware: FirmwareFragment,
    pub tdx: Option<TdxFragment>,
    pub placement: PlacementFragment,
    pub life: LifeFragment,
    pub models: Vec<ModelFragment>,
    pub origin: Vec<Origin>,
}

/// One table over another: what both set, the later says.
fn laid<T>(base: Option<T>, over: Option<T>, under: impl Fn(T, T) -> T) -> Option<T> {
    match (base, over) {
        (Some(base), Some(over)) => Some(under(over, base)),
        (base, over) => over.or(base),
    }
}

impl ShapeFragment {
    fn under(self, base: Self) -> Self {
        ShapeFragment { vcpus: self.vcpus.or(base.vcpus), memory_mib: self.memory_mib.or(base.memory_mib) }
    }
}

impl FirmwareFragment {
    fn under(self, base: Self) -> Self {
        FirmwareFragment { code: self.code.or(base.code), vars: self.vars.or(base.vars) }
    }
}

/// The parser's refusal with file, line and the nearest known field name.
fn syntax(name: &str, text: &str, error: &toml::de::Error) -> SettingsError {
    let place = match error.span() {
        Some(span) => {
            let line = text.get(..span.start).map_or(0, |before| before.matches('\n').count()) + 1;
            format!("{name} line {line}")
        }
        None => name.to_owned(),
    };
    let message = error.message().to_owned();
    let mut words = message.split('`').skip(1).step_by(2);
    let nearest = match (message.starts_with("unknown field"), words.next()) {
        (true, Some(unknown)) => words.map(|known| (distance(unknown, known), known)).min(),
        _ => None,
    };
    let hint = match nearest {
        Some((edits, known)) if edits <= 3 => format!("; did you mean `{known}`?"),
        _ => String::new(),
    };
    SettingsError::Syntax { place, message, hint }
}

/// Levenshtein distance, for hints only.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replace = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
