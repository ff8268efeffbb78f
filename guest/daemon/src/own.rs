//! A daemon's own configuration, as the gate left it: checked against MRCONFIGID already.

use crate::Clock;
use crate::ledger::{self, Watch};
use protocol::config::{ConfigError, Role, RuntimeConfig, StaticConfig};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// Both parts, parsed.
#[derive(Debug, Clone)]
pub struct Own {
    /// The exact bytes that MRCONFIGID commits to; they travel with the evidence.
    pub static_bytes: Vec<u8>,
    /// What they say.
    pub config: StaticConfig,
    /// The unmeasured part.
    pub runtime: RuntimeConfig,
}

/// Why a daemon can't use its configuration.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// A file is missing.
    #[error("{path}: cannot read the configuration: {source}; chrysalis-init writes it", path = .path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: std::io::Error,
    },
    /// A file does not say what it should.
    #[error("{path}: {source}", path = .path.display())]
    Config {
        /// Which file.
        path: PathBuf,
        /// Field, expectation and finding.
        #[source]
        source: ConfigError,
    },
    /// This guest is to be something else.
    #[error("{path}: role is `{}`, expected `{}`: this guest runs another daemon", .found.as_str(), .expected.as_str(), path = .path.display())]
    Role {
        /// Which file.
        path: PathBuf,
        /// What stands there.
        found: Role,
        /// What this daemon is.
        expected: Role,
    },
    /// A chain, and nobody to ask about it.
    #[error(
        "runtime configuration: ledger is empty, expected at least one lite server, for the static configuration has \
         [ledger]; name one, such as ledger = [\"10.0.2.2:4000\"]"
    )]
    NoLiteServers,
}

impl Own {
    /// Reads both parts; the role must be the daemon's.
    pub fn read(static_config: &Path, runtime_config: &Path, role: Role) -> Result<Self, OwnError> {
        let config_error = |path: &Path| {
            let path = path.to_owned();
            move |source| OwnError::Config { path, source }
        };
        let static_bytes = read(static_config)?;
        let config = StaticConfig::parse(&static_bytes).map_err(config_error(static_config))?;
        if config.role != role {
            let path = static_config.to_owned();
            return Err(OwnError::Role { path, found: config.role, expected: role });
        }
        let runtime = RuntimeConfig::parse(&read(runtime_config)?).map_err(config_error(runtime_config))?;
        Ok(Own { static_bytes, config, runtime })
    }

    /// What watches the chain of the measured configuration; none where it names none.
    ///
    /// # Errors
    /// [`OwnError::NoLiteServers`].
    pub fn ledger(&self, name: &'static str, stop: watch::Receiver<bool>) -> Result<Option<Watch>, OwnError> {
        let Some(config) = &self.config.ledger else { return Ok(None) };
        // The form of each was checked where it was read.
        let servers: Vec<_> = self.runtime.ledger.iter().filter_map(|address| address.parse().ok()).collect();
        if servers.is_empty() {
            return Err(OwnError::NoLiteServers);
        }
        let earner = self.config.wallet.as_ref().map(|wallet| ledger::address(wallet.address));
        let floor = self.config.trust.as_ref().map_or(0, |trust| trust.not_before);
        let setup = ledger::Setup { name, config, servers, earner, clock: Clock::new(floor) };
        Ok(Some(Watch::start(setup, stop)))
    }

    /// Peers to call.
    pub fn dial(&self) -> Vec<SocketAddrV4> {
        // The form of each was checked where it was read.
        self.runtime.dial.iter().filter_map(|address| address.parse().ok()).collect()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, OwnError> {
    std::fs::read(path).map_err(|source| OwnError::Unreadable { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_of_another_role_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (fixed, runtime) = (dir.path().join("static.toml"), dir.path().join("runtime.toml"));
        std::fs::write(&fixed, "schema = 1\nrole = \"proxy\"\nnetwork = \"local\"\n").unwrap();
        assert!(matches!(Own::read(&fixed, &runtime, Role::Proxy), Err(OwnError::Unreadable { .. })));
        std::fs::write(&runtime, "schema = 1\naddress = \"10.0.2.15/24\"\n").unwrap();
        assert_eq!(Own::read(&fixed, &runtime, Role::Proxy).unwrap().config.network, "local");
        let text = Own::read(&fixed, &runtime, Role::Worker).unwrap_err().to_string();
        assert!(text.contains("role is `proxy`, expected `worker`"), "{text}");
    }
}
