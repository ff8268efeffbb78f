//! The configuration that the host hands to the guest, in two parts.
//!
//! The *static* part decides what the guest is: role, network, exact models, and whom it believes. MRCONFIGID is the
//! SHA-384 of its bytes as handed over (no canonical form is needed: the bytes are what was measured), so it shows in every
//! quote. The *runtime* part can't affect safety: addresses and the like.

mod compute;
mod gpu;
mod money;

pub use compute::{KvPrecision, Precision, WorkerDevice};
pub use gpu::{GpuConfig, MAX_GPU_POLICY, PeerGpuConfig};
pub use measure::wire::mrconfigid;
pub use money::{LedgerConfig, PoolConfig, WalletConfig, WorkerConfig};

use crate::handoff::File;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longest appraisal policy, in bytes of text.
pub const MAX_POLICY: usize = 32 * 1024;
/// Most files of reference values that a guest accepts.
pub const MAX_REFERENCES: usize = 8;
/// Longest settings of a publication, in bytes of text.
pub const MAX_PUBLICATION: usize = 16 * 1024;
/// Most peers that a guest calls.
pub const MAX_DIAL: usize = 16;
/// Most lite servers that a guest asks.
pub const MAX_LEDGER: usize = 8;

/// Which daemon the guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs inference.
    Worker,
    /// Routes requests to workers.
    Proxy,
}

/// One model disk, pinned to its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPin {
    /// Name by which requests ask for it, such as `all-minilm-l6-v2`.
    pub name: String,
    /// dm-verity root hash (SHA-256, 4096-byte blocks, empty salt), lower-case hex, 64 digits.
    pub root: String,
    /// Number of 4096-byte data blocks; the hash tree follows them on the same disk.
    pub data_blocks: u64,
}

impl Role {
    /// As it stands in the configuration; the daemon's program is `chrysalis-` and this.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Worker => "worker",
            Role::Proxy => "proxy",
        }
    }

    /// The role that a guest of this role verifies: workers serve proxies, proxies send to workers.
    pub fn peer(self) -> Role {
        match self {
            Role::Worker => Role::Proxy,
            Role::Proxy => Role::Worker,
        }
    }
}

/// What a guest holds the evidence of its peers against. Only what decides is here; what is long and either signed by
/// others (collateral) or named by its hash here (the rest) travels in the handoff's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustConfig {
    /// Appraisal policy for peers, the text that `evidence::PolicyFile` reads.
    pub policy: String,
    /// SHA-256 of each accepted file of reference values, lower-case hex, 64 digits. Either these or `publication`; an image
    /// without the marker of the debug profile takes the latter only, since nothing could revoke these.
    #[serde(default)]
    pub references: Vec<String>,
    /// Settings of the publication that reference values come from, the text that `release::Anchor` reads: root, rebuilders,
    /// how many of them, names of releases.
    #[serde(default)]
    pub publication: Option<String>,
    /// SHA-256 of the simulated root's certificate, where the policy speaks of a simulated platform. An image without the
    /// marker of the debug profile refuses such a policy.
    #[serde(default)]
    pub simulated_root: Option<String>,
    /// No evidence is appraised as of an earlier time, Unix seconds: the clock is the host's, and this is how far back it
    /// can be turned.
    pub not_before: u64,
    /// Evidence of peers' GPUs is demanded; `[gpu]` of the policy says what they must be. Of a worker's peers, which are
    /// proxies, nothing is demanded.
    #[serde(default)]
    pub gpu: Option<PeerGpuConfig>,
}

/// The measured part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticConfig {
    /// Always 1.
    pub schema: u32,
    /// What this guest is.
    pub role: Role,
    /// Name of the network it joins, such as `local`.
    pub network: String,
    /// Model disks, in the order of their virtio-blk serials.
    #[serde(default)]
    pub models: Vec<ModelPin>,
    /// Whom this guest believes; without it, it has no attested peers and lets in clients only.
    #[serde(default)]
    pub trust: Option<TrustConfig>,
    /// What this guest's own GPUs must be; without it, it uses none.
    #[serde(default)]
    pub gpu: Option<GpuConfig>,
    /// The chain by which it is paid and pays; without it, it works unpaid.
    #[serde(default)]
    pub ledger: Option<LedgerConfig>,
    /// A proxy's pool; goes with a ledger.
    #[serde(default)]
    pub pool: Option<PoolConfig>,
    /// Where a worker is paid; goes with a ledger.
    #[serde(default)]
    pub wallet: Option<WalletConfig>,
    /// When, on what credit and on what a worker works.
    #[serde(default)]
    pub worker: Option<WorkerConfig>,
}

/// The unmeasured part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeConfig {
    /// Always 1.
    pub schema: u32,
    /// IPv4 address with prefix length, such as `10.0.2.15/24`.
    pub address: String,
    /// IPv4 gateway, if any.
    #[serde(default)]
    pub gateway: Option<String>,
    /// Peers that the guest calls, IPv4 address and port each, such as `10.0.2.2:8443`. Whoever answers there is believed for
    /// its evidence alone.
    #[serde(default)]
    pub dial: Vec<String>,
    /// Lite servers of the ledger, IPv4 address and port each. None of them is believed; one honest one is enough.
    #[serde(default)]
    pub ledger: Vec<String>,
    /// Web server with the publication: IPv4 address and port, and the folder if it is not the topmost, such as
    /// `10.0.2.2:8000/releases`. What it sends is believed for its signatures alone; without it, what was handed over counts
    /// until its end.
    #[serde(default)]
    pub mirror: Option<String>,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not UTF-8.
    #[error("{part} configuration: not UTF-8 at byte {offset}")]
    NotUtf8 {
        /// `static` or `runtime`.
        part: &'static str,
        /// First bad byte.
        offset: usize,
    },
    /// Not the TOML this schema wants; the message carries line and column.
    #[error("{part} configuration: {source}")]
    Syntax {
        /// `static` or `runtime`.
        part: &'static str,
        /// The parser's message with the line.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value is out of range.
    #[error("{part} configuration: {field} is `{found}`, expected {expected}")]
    Value {
        /// `static` or `runtime`.
        part: &'static str,
        /// Which field.
        field: String,
        /// What stands there.
        found: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// A file that the static configuration names by its hash was not handed over.
    #[error(
        "static configuration: {section}.{field} names a file with SHA-256 {sha256}, and none of the {handed} files handed over \
         has it; hand over that very file"
    )]
    NotHanded {
        /// Which section.
        section: &'static str,
        /// `references`, `simulated_root` or `simulated_roots`.
        field: &'static str,
        /// Lower-case hex.
        sha256: String,
        /// How many files there are.
        handed: usize,
    },
}

impl StaticConfig {
    /// Parses and validates the static part.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let config: StaticConfig = parse("static", bytes)?;
        check_schema("static", config.schema)?;
        for (i, model) in config.models.iter().enumerate() {
            check_model(i, model)?;
        }
        if let Some(trust) = &config.trust {
            check_trust(trust)?;
        }
        config.gpu.as_ref().map_or(Ok(()), GpuConfig::check)?;
        money::check(&config)?;
        Ok(config)
    }
}

impl TrustConfig {
    /// The files of reference values among `handed`, in the order of this configuration; each has the hash it is named by.
    pub fn references<'a>(&self, handed: &'a [File]) -> Result<Vec<&'a File>, ConfigError> {
        self.references.iter().map(|sha256| by_hash("trust", "references", sha256, handed)).collect()
    }

    /// The simulated root among `handed`, if one is named.
    pub fn simulated_root<'a>(&self, handed: &'a [File]) -> Result<Option<&'a File>, ConfigError> {
        self.simulated_root
            .as_ref()
            .map(|sha256| by_hash("trust", "simulated_root", sha256, handed))
            .transpose()
    }
}

/// SHA-256 of a handed file, as a [`TrustConfig`] names it.
pub fn file_hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn by_hash<'a>(
    section: &'static str,
    field: &'static str,
    sha256: &str,
    handed: &'a [File],
) -> Result<&'a File, ConfigError> {
    let found = handed.iter().find(|file| file_hash(&file.bytes) == sha256);
    found.ok_or_else(|| ConfigError::NotHanded {
        section,
        field,
        sha256: sha256.into(),
        handed: handed.len(),
    })
}

fn check_model(i: usize, model: &ModelPin) -> Result<(), ConfigError> {
    if !is_sha256(&model.root) {
        return Err(value("static", format!("models[{i}].root"), &model.root, SHA256));
    }
    // 2^32 blocks are 16 TiB; more would overflow a sector count on the way to the kernel.
    if model.data_blocks == 0 || model.data_blocks > 1 << 32 {
        let found = model.data_blocks.to_string();
        return Err(value("static", format!("models[{i}].data_blocks"), &found, "1 to 2^32"));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if model.name.is_empty() || model.name.len() > 64 || !model.name.bytes().all(plain) {
        let expected = "1 to 64 letters, digits, '-', '_' or '.'";
        return Err(value("static", format!("models[{i}].name"), &model.name, expected));
    }
    Ok(())
}

fn check_trust(trust: &TrustConfig) -> Result<(), ConfigError> {
    trust.gpu.as_ref().map_or(Ok(()), PeerGpuConfig::check)?;
    if trust.policy.is_empty() || trust.policy.len() > MAX_POLICY {
        let found = format!("{} bytes", trust.policy.len());
        return Err(value("static", "trust.policy".into(), &found, "1 byte to 32 KiB of text"));
    }
    let hashes = trust.references.len();
    match &trust.publication {
        None if (1..=MAX_REFERENCES).contains(&hashes) => {}
        Some(text) if hashes == 0 && !text.is_empty() && text.len() <= MAX_PUBLICATION => {}
        Some(text) => {
            let (found, expected) = (
                format!("{} bytes beside {hashes} references", text.len()),
                "1 byte to 16 KiB, and no references",
            );
            return Err(value("static", "trust.publication".into(), &found, expected));
        }
        None => {
            let found = format!("{hashes} hashes");
            return Err(value(
                "static",
                "trust.references".into(),
                &found,
                "1 to 8 hashes, or a publication",
            ));
        }
    }
    let references = trust.references.iter().map(|hash| ("trust.references", hash));
    let root = trust.simulated_root.iter().map(|hash| ("trust.simulated_root", hash));
    match references.chain(root).find(|(_, hash)| !is_sha256(hash)) {
        Some((field, hash)) => Err(value("static", field.into(), hash, SHA256)),
        None => Ok(()),
    }
}

/// Four numbers up to 255 with dots, a colon, and a port above 0; no leading zeros.
fn is_address(text: &str) -> bool {
    fn number<N: std::str::FromStr + ToString>(text: &str) -> Option<N> {
        text.parse().ok().filter(|n: &N| n.to_string() == text)
    }
    let Some((host, port)) = text.split_once(':') else { return false };
    let octets = host.split('.').map(number::<u8>).collect::<Option<Vec<_>>>();
    octets.is_some_and(|octets| octets.len() == 4) && number::<u16>(port).is_some_and(|port| port > 0)
}

/// An address, and the path of a folder: words of letters, digits, `-`, `_` and `.` behind single slashes.
fn is_mirror(text: &str) -> bool {
    let (address, path) = text.split_once('/').map_or((text, None), |(address, path)| (address, Some(path)));
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let word = |word: &str| !word.is_empty() && !word.starts_with('.') && word.bytes().all(plain);
    is_address(address) && path.is_none_or(|path| path.len() <= 128 && path.split('/').all(word))
}

const MIRROR: &str = "IPv4 address, port and folder such as 10.0.2.2:8000/releases";
const SHA256: &str = "64 lower-case hex digits";

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl RuntimeConfig {
    /// Parses and validates the runtime part.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let config: RuntimeConfig = parse("runtime", bytes)?;
        check_schema("runtime", config.schema)?;
        check_addresses("dial", &config.dial, MAX_DIAL, "at most 16")?;
        check_addresses("ledger", &config.ledger, MAX_LEDGER, "at most 8")?;
        match config.mirror.as_ref().filter(|mirror| !is_mirror(mirror)) {
            Some(bad) => Err(value("runtime", "mirror".into(), bad, MIRROR)),
            None => Ok(config),
        }
    }
}

fn check_addresses(
    field: &str,
    addresses: &[String],
    limit: usize,
    allowed: &'static str,
) -> Result<(), ConfigError> {
    if addresses.len() > limit {
        return Err(value("runtime", field.into(), &format!("{} addresses", addresses.len()), allowed));
    }
    match addresses.iter().find(|address| !is_address(address)) {
        Some(bad) => Err(value("runtime", field.into(), bad, "IPv4 address and port such as 10.0.2.2:8443")),
        None => Ok(()),
    }
}

fn parse<'a, T: Deserialize<'a>>(part: &'static str, bytes: &'a [u8]) -> Result<T, ConfigError> {
    let text =
        std::str::from_utf8(bytes).map_err(|e| ConfigError::NotUtf8 { part, offset: e.valid_up_to() })?;
    toml::from_str(text).map_err(|e| ConfigError::Syntax { part, source: Box::new(e) })
}

fn check_schema(part: &'static str, schema: u32) -> Result<(), ConfigError> {
    if schema == 1 {
        return Ok(());
    }
    Err(value(part, "schema".into(), &schema.to_string(), "1"))
}

fn value(part: &'static str, field: String, found: &str, expected: &'static str) -> ConfigError {
    ConfigError::Value { part, field, found: found.chars().take(80).collect(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n[[models]]\nname = \"m\"\nroot = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\ndata_blocks = 3\n";

    #[test]
    fn a_good_configuration_is_read() {
        let config = StaticConfig::parse(GOOD.as_bytes()).unwrap();
        assert_eq!((config.role, config.models[0].data_blocks), (Role::Worker, 3));
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_line() {
        let error = StaticConfig::parse(format!("{GOOD}surprise = 1\n").as_bytes()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("surprise") && text.contains("line 8"), "{text}");
    }

    /// [`GOOD`] with a trust section; `references` stands in it.
    fn trusting(references: &str) -> Result<StaticConfig, ConfigError> {
        let trust = format!(
            "[trust]\npolicy = \"schema = 1\\nplatform = \\\"tdx\\\"\\n\"\nreferences = [{references}]\nnot_before = 5\n"
        );
        StaticConfig::parse(format!("{GOOD}{trust}").as_bytes())
    }

    #[test]
    fn files_are_found_by_the_hash_that_was_measured() {
        let file = |text: &str| File { name: text.into(), bytes: text.into() };
        let trust = trusting(&format!("\"{}\"", file_hash(b"right"))).unwrap().trust.unwrap();
        assert_eq!(trust.policy, "schema = 1\nplatform = \"tdx\"\n");
        let handed = [file("wrong"), file("right")];
        assert_eq!(trust.references(&handed).unwrap(), [&handed[1]]);
        assert_eq!(trust.simulated_root(&handed).unwrap(), None);
        let error = trust.references(&handed[..1]).unwrap_err();
        assert!(matches!(error, ConfigError::NotHanded { field: "references", handed: 1, .. }), "{error}");
    }

    #[test]
    fn trust_without_references_or_with_a_bad_hash_is_refused() {
        for bad in ["", "\"abc\"", &format!("\"{}\"", "A".repeat(64))] {
            let error = trusting(bad).unwrap_err();
            assert!(error.to_string().contains("trust.references"), "{bad}: {error}");
        }
        let many = format!("\"{}\",", "a".repeat(64)).repeat(9);
        assert!(trusting(&many).unwrap_err().to_string().contains("9 hashes"));
    }

    #[test]
    fn reference_values_come_by_hash_or_from_a_publication_and_never_both() {
        let parse = |lines: &str| {
            let trust = format!("[trust]\npolicy = \"p\"\nnot_before = 5\n{lines}\n");
            StaticConfig::parse(format!("{GOOD}{trust}").as_bytes())
        };
        let hash = format!("references = [\"{}\"]", "a".repeat(64));
        let publication = "publication = \"schema = 1\"";
        assert_eq!(parse(publication).unwrap().trust.unwrap().publication.as_deref(), Some("schema = 1"));
        let long = format!("publication = \"{}\"", "a".repeat(MAX_PUBLICATION + 1));
        for bad in [format!("{hash}\n{publication}"), "publication = \"\"".into(), long] {
            let error = parse(&bad).unwrap_err().to_string();
            assert!(error.contains("trust.publication"), "{bad}: {error}");
        }
        assert!(parse("").unwrap_err().to_string().contains("or a publication"));
    }

    #[test]
    fn a_mirror_is_an_address_and_at_most_a_folder() {
        let parse = |mirror: &str| {
            let text = format!("schema = 1\naddress = \"10.0.2.15/24\"\nmirror = \"{mirror}\"\n");
            RuntimeConfig::parse(text.as_bytes())
        };
        for good in ["10.0.2.2:8000", "10.0.2.2:80/releases", "1.1.1.1:1/a/b-c_d.e"] {
            assert_eq!(parse(good).unwrap().mirror.as_deref(), Some(good));
        }
        let long = format!("1.1.1.1:1/{}", "a".repeat(129));
        for bad in [
            "",
            "http://10.0.2.2:80",
            "mirror.example:80",
            "10.0.2.2",
            "10.0.2.2:80/",
            "10.0.2.2:80/a//b",
            "10.0.2.2:80/../b",
            "10.0.2.2:80/a?b",
            "10.0.2.2:80@evil:1",
            &long,
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains("mirror"), "{bad}: {error}");
        }
    }

    #[test]
    fn peers_to_call_are_addresses_with_ports() {
        let parse = |dial: &str| {
            RuntimeConfig::parse(
                format!("schema = 1\naddress = \"10.0.2.15/24\"\ndial = [{dial}]\n").as_bytes(),
            )
        };
        assert_eq!(parse("\"10.0.2.2:8443\"").unwrap().dial, ["10.0.2.2:8443"]);
        assert!(parse("").unwrap().dial.is_empty() && parse("").unwrap().ledger.is_empty());
        let servers = |list: &str| {
            RuntimeConfig::parse(format!("schema = 1\naddress = \"a\"\nledger = [{list}]\n").as_bytes())
        };
        assert_eq!(servers("\"10.0.2.2:4000\"").unwrap().ledger, ["10.0.2.2:4000"]);
        for bad in ["\"lite.example:1\"", &"\"10.0.2.2:1\",".repeat(9)] {
            assert!(servers(bad).unwrap_err().to_string().contains("ledger"), "accepted {bad}");
        }
        for bad in [
            "10.0.2:1",
            "10.0.2.256:1",
            "010.0.2.2:1",
            "10.0.2.2:0",
            "10.0.2.2:65536",
            "10.0.2.2: 1",
            "+1.0.2.2:1",
        ] {
            assert!(parse(&format!("\"{bad}\"")).is_err(), "accepted {bad}");
        }
        for bad in ["\"proxy.example:8443\"", "\"10.0.2.2\"", "1", &"\"10.0.2.2:1\",".repeat(17)] {
            assert!(parse(bad).is_err(), "accepted {bad}");
        }
    }

    #[test]
    fn a_root_that_is_not_hex_is_refused() {
        let text = GOOD.replace("aaaa", "zzzz");
        assert!(matches!(StaticConfig::parse(text.as_bytes()), Err(ConfigError::Value { .. })));
    }
}
