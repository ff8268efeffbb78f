//! The configuration that the host hands to the guest, in two parts.
//!
//! The *static* part decides what the guest is: role, network, exact models. MRCONFIGID is the SHA-384 of its bytes as
//! handed over (no canonical form is needed: the bytes are what was measured), so it shows in every quote.
//! The *runtime* part can't affect safety: addresses and the like.

pub use measure::wire::mrconfigid;

use serde::{Deserialize, Serialize};

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
}

impl StaticConfig {
    /// Parses and validates the static part.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let config: StaticConfig = parse("static", bytes)?;
        check_schema("static", config.schema)?;
        for (i, model) in config.models.iter().enumerate() {
            let lower_hex = model.root.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if model.root.len() != 64 || !lower_hex {
                return Err(value(
                    "static",
                    format!("models[{i}].root"),
                    &model.root,
                    "64 lower-case hex digits",
                ));
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
        }
        Ok(config)
    }
}

impl RuntimeConfig {
    /// Parses and validates the runtime part.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let config: RuntimeConfig = parse("runtime", bytes)?;
        check_schema("runtime", config.schema)?;
        Ok(config)
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

    #[test]
    fn a_root_that_is_not_hex_is_refused() {
        let text = GOOD.replace("aaaa", "zzzz");
        assert!(matches!(StaticConfig::parse(text.as_bytes()), Err(ConfigError::Value { .. })));
    }
}
