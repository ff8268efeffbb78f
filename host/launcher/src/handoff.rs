//! What the host hands over, as bytes: the static configuration (measured), the runtime configuration (not), and for
//! images of the debug profile the simulated platform.
//!
//! The guest trusts none of it; MRCONFIGID, which a TDX host sets on the TD, is what binds the static part.

use crate::error::LaunchError;
use crate::settings::Settings;
use protocol::config::{GpuConfig, PeerGpuConfig, RuntimeConfig, StaticConfig, mrconfigid};
use protocol::handoff::{Handoff, SimulatedPlatform};
use std::fmt::Write as _;

/// Largest identity that fits the simulator disk.
const MAX_IDENTITY: u64 = 64 * 1024;

/// What a verifier must find in this guest's quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Bytes of the static configuration as handed over.
    pub static_config: Vec<u8>,
    /// Their SHA-384.
    pub mrconfigid: [u8; 48],
}

impl Expected {
    /// What these settings hand over.
    pub fn of(settings: &Settings) -> Self {
        let static_config = settings.static_config.clone();
        Expected { mrconfigid: mrconfigid(&static_config), static_config }
    }
}

/// The static configuration as TOML. Written by hand, so that a new version of a TOML library can't move MRCONFIGID.
pub fn static_toml(config: &StaticConfig) -> String {
    let role = config.role.as_str();
    let mut text = format!("schema = 1\nrole = \"{role}\"\nnetwork = \"{}\"\n", config.network);
    for model in &config.models {
        let (name, root, blocks) = (&model.name, &model.root, model.data_blocks);
        // Writing to a String can't fail.
        let _ = write!(text, "\n[[models]]\nname = \"{name}\"\nroot = \"{root}\"\ndata_blocks = {blocks}\n");
    }
    if let Some(trust) = &config.trust {
        // A literal string, from which the first line end is dropped; settings refuse a policy that does not fit one.
        let _ = write!(text, "\n[trust]\nnot_before = {}\n", trust.not_before);
        if !trust.references.is_empty() {
            let _ = writeln!(text, "references = {:?}", trust.references);
        }
        if let Some(publication) = &trust.publication {
            let _ = write!(text, "publication = '''\n{publication}'''\n");
        }
        if let Some(root) = &trust.simulated_root {
            let _ = writeln!(text, "simulated_root = \"{root}\"");
        }
        let _ = write!(text, "policy = '''\n{}'''\n", trust.policy);
        if let Some(gpu) = &trust.gpu {
            peer_gpu_toml(gpu, &mut text);
        }
    }
    if let Some(gpu) = &config.gpu {
        gpu_toml(gpu, &mut text);
    }
    money_toml(config, &mut text);
    text
}

fn peer_gpu_toml(gpu: &PeerGpuConfig, text: &mut String) {
    text.push_str("\n[trust.gpu]\n");
    if let Some(max_age) = gpu.max_age {
        let _ = writeln!(text, "max_age = {max_age}");
    }
    roots_toml(gpu.simulated_roots.as_ref(), text);
}

/// The section on the guest's own GPUs.
pub(crate) fn gpu_toml(gpu: &GpuConfig, text: &mut String) {
    let _ = write!(text, "\n[gpu]\nrequired = {}\nnot_before = {}\n", gpu.required, gpu.not_before);
    roots_toml(gpu.simulated_roots.as_ref(), text);
    // A literal string, as in [trust].
    let _ = write!(text, "policy = '''\n{}'''\n", gpu.policy);
}

fn roots_toml(roots: Option<&[String; 2]>, text: &mut String) {
    if let Some(roots) = roots {
        let _ = writeln!(text, "simulated_roots = {roots:?}");
    }
}

fn money_toml(config: &StaticConfig, text: &mut String) {
    if let Some(ledger) = &config.ledger {
        let (zero_root, zero_file) = (&ledger.zero_root, &ledger.zero_file);
        let _ = write!(
            text,
            "\n[ledger]\nglobal_id = {}\nzero_root = \"{zero_root}\"\nzero_file = \"{zero_file}\"\nroot = \"{}\"\n",
            ledger.global_id, ledger.root
        );
    }
    if let Some(pool) = &config.pool {
        let _ = write!(text, "\n[pool]\naddress = \"{}\"\n", pool.address);
    }
    if let Some(wallet) = &config.wallet {
        let _ = write!(text, "\n[wallet]\naddress = \"{}\"\n", wallet.address);
    }
    if let Some(worker) = &config.worker {
        text.push_str("\n[worker]\n");
        if let Some([from, to]) = worker.hours {
            let _ = writeln!(text, "hours = [{from}, {to}]");
        }
        if let Some(credit) = worker.credit {
            let _ = writeln!(text, "credit = {credit}");
        }
        if let Some(device) = worker.device {
            let _ = writeln!(text, "device = \"{}\"", device.as_str());
        }
        if let Some(precision) = worker.precision {
            let _ = writeln!(text, "precision = \"{}\"", precision.as_str());
        }
        if let Some(kv) = worker.kv_precision {
            let _ = writeln!(text, "kv_precision = \"{}\"", kv.as_str());
        }
        if let Some(threads) = worker.threads {
            let _ = writeln!(text, "threads = {threads}");
        }
    }
}

/// The runtime configuration as TOML.
pub fn runtime_toml(config: &RuntimeConfig) -> String {
    let gateway = config.gateway.as_ref().map_or(String::new(), |g| format!("gateway = \"{g}\"\n"));
    let list = |name: &str, of: &[String]| match of {
        [] => String::new(),
        some => format!("{name} = {some:?}\n"),
    };
    let (dial, ledger) = (list("dial", &config.dial), list("ledger", &config.ledger));
    let mirror = config.mirror.as_ref().map_or(String::new(), |m| format!("mirror = \"{m}\"\n"));
    format!("schema = 1\naddress = \"{}\"\n{gateway}{dial}{ledger}{mirror}", config.address)
}

/// The bytes of the handoff disk.
pub fn handoff_disk(settings: &Settings) -> Vec<u8> {
    let runtime_config = runtime_toml(&settings.runtime).into_bytes();
    let (static_config, files) = (settings.static_config.clone(), settings.files.clone());
    Handoff { static_config, runtime_config, files }.to_disk()
}

/// The bytes of the simulator disk, if a simulated platform is set.
pub fn simulator_disk(settings: &Settings) -> Result<Option<Vec<u8>>, LaunchError> {
    let Some(dir) = &settings.simulated_platform else { return Ok(None) };
    let path = dir.join("identity.bin");
    let size =
        std::fs::metadata(&path).map_err(LaunchError::file("simulated platform's identity", &path))?.len();
    if size == 0 || size > MAX_IDENTITY {
        return Err(LaunchError::Handoff {
            what: "simulated platform's identity",
            reason: format!(
                "{} has {size} bytes, expected 1 to {MAX_IDENTITY}; make the folder anew with `chrysalis-simulator pki`",
                path.display()
            ),
        });
    }
    let identity = std::fs::read(&path).map_err(LaunchError::file("simulated platform's identity", &path))?;
    let mrconfigid = mrconfigid(&settings.static_config);
    Ok(Some(SimulatedPlatform { identity, mrconfigid }.to_disk()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::config::{KvPrecision, Precision, WalletConfig, WorkerConfig, WorkerDevice};
    use protocol::config::{LedgerConfig, ModelPin, PoolConfig, Role, TrustConfig};
    use protocol::market::{Account, Hex32};

    #[test]
    fn the_written_static_configuration_is_read_back() {
        let pin = ModelPin { name: "all-minilm-l6-v2".into(), root: "ab".repeat(32), data_blocks: 22_000 };
        let models = vec![pin.clone(), ModelPin { name: "other".into(), ..pin }];
        let trust = TrustConfig {
            policy: "\n# a \"policy\"\nschema = 1\n\tplatform = 'tdx'\n".into(),
            references: vec!["ab".repeat(32), "cd".repeat(32)],
            publication: None,
            simulated_root: Some("ef".repeat(32)),
            not_before: 1_790_000_000,
            gpu: None,
        };
        let roots = Some(["01".repeat(32), "23".repeat(32)]);
        let peers = PeerGpuConfig { max_age: Some(300), simulated_roots: roots.clone() };
        let demanding = TrustConfig { gpu: Some(peers), ..trust.clone() };
        let fresh = TrustConfig { gpu: Some(PeerGpuConfig::default()), ..trust.clone() };
        let policy = "count = 8\nmodels = [\"GH100\"]\n".into();
        let gpu = GpuConfig { policy, required: false, not_before: 7, simulated_roots: roots };
        let other = TrustConfig { simulated_root: None, ..trust.clone() };
        let publication = Some("\n# \"settings\"\nschema = 1\n".into());
        let published = TrustConfig { publication, references: Vec::new(), ..trust.clone() };
        for trust in [None, Some(trust), Some(other), Some(published), Some(demanding), Some(fresh)] {
            let (role, network, models) = (Role::Proxy, "local".into(), models.clone());
            let (ledger, pool, wallet, worker) = (None, None, None, None);
            let mut config = StaticConfig {
                gpu: None,
                schema: 1,
                role,
                network,
                models,
                trust,
                ledger,
                pool,
                wallet,
                worker,
            };
            assert_eq!(StaticConfig::parse(static_toml(&config).as_bytes()).unwrap(), config);
            config.gpu = Some(gpu.clone());
            assert_eq!(StaticConfig::parse(static_toml(&config).as_bytes()).unwrap(), config);
            let (hex, account) = (Hex32([0xab; 32]), Account { workchain: 0, hash: [9; 32] });
            let ledger = LedgerConfig { global_id: -3, zero_root: hex, zero_file: hex, root: account };
            let paid = StaticConfig { ledger: Some(ledger), ..config };
            let proxy = StaticConfig { pool: Some(PoolConfig { address: account }), ..paid.clone() };
            let worker = Some(WorkerConfig {
                hours: Some([22, 6]),
                credit: Some(7),
                device: Some(WorkerDevice::GpuOrProcessor),
                precision: Some(Precision::Int8),
                kv_precision: Some(KvPrecision::F32),
                threads: Some(3),
            });
            let wallet = Some(WalletConfig { address: account });
            let worker = StaticConfig { role: Role::Worker, wallet, worker, ..paid };
            for config in [proxy, worker] {
                assert_eq!(StaticConfig::parse(static_toml(&config).as_bytes()).unwrap(), config);
            }
        }
    }

    #[test]
    fn the_written_runtime_configuration_is_read_back() {
        let peers = vec!["10.0.2.2:8443".to_owned(), "10.0.2.2:8444".to_owned()];
        for (gateway, dial) in [(None, vec![]), (Some("10.0.2.2".to_owned()), peers)] {
            let (address, ledger) = ("10.0.2.15/24".into(), dial.clone());
            let mirror = dial.first().map(|address| format!("{address}/releases"));
            let config = RuntimeConfig { schema: 1, address, gateway, dial, ledger, mirror };
            assert_eq!(RuntimeConfig::parse(runtime_toml(&config).as_bytes()).unwrap(), config);
        }
    }
}
