//! The parts of the static configuration that are about GPUs: what this guest's own must be, and what is demanded of peers'.
//!
//! ```text
//! [gpu]        policy required not_before simulated_roots    this guest's own: appraised before they are set ready
//! [trust.gpu]  max_age simulated_roots                       evidence of its peers' is demanded; [gpu] of trust.policy judges it
//! ```
//! Without `[gpu]` a guest uses no GPU, whatever is plugged in. What is long and signed by others (manifests, OCSP responses)
//! is handed over beside it.

use super::{ConfigError, SHA256, by_hash, is_sha256, value};
use crate::handoff::File;
use serde::{Deserialize, Serialize};

/// Longest policy of GPUs, in bytes of text.
pub const MAX_GPU_POLICY: usize = 16 * 1024;

/// What this guest's own GPUs must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuConfig {
    /// The keys of a policy's `[gpu]` table, the text that `evidence::gpu::GpuSettings` reads: how many, which, how new.
    pub policy: String,
    /// Whether the guest refuses to serve without them. Where it does not, GPUs that are refused are closed and said to be, and
    /// it serves without.
    #[serde(default = "yes")]
    pub required: bool,
    /// No evidence is appraised as of an earlier time, Unix seconds: the clock is the host's, and this is how far back it
    /// can be turned.
    pub not_before: u64,
    /// SHA-256 of the simulated roots' certificates, of devices and of manifests. An image without the marker of the debug
    /// profile refuses them.
    #[serde(default)]
    pub simulated_roots: Option<[String; 2]>,
}

/// What is demanded of peers' GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerGpuConfig {
    /// Oldest evidence that is taken, in seconds; taken for the very connection if absent.
    #[serde(default)]
    pub max_age: Option<u32>,
    /// As in [`GpuConfig`].
    #[serde(default)]
    pub simulated_roots: Option<[String; 2]>,
}

fn yes() -> bool {
    true
}

impl GpuConfig {
    /// The simulated roots among `handed`, of devices and of manifests, if they are named.
    pub fn roots<'a>(&self, handed: &'a [File]) -> Result<Option<[&'a File; 2]>, ConfigError> {
        roots("gpu", self.simulated_roots.as_ref(), handed)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.policy.trim().is_empty() || self.policy.len() > MAX_GPU_POLICY {
            let found = format!("{} bytes", self.policy.len());
            return Err(value("static", "gpu.policy".into(), &found, "1 byte to 16 KiB of text"));
        }
        check_roots("gpu.simulated_roots", self.simulated_roots.as_ref())
    }
}

impl PeerGpuConfig {
    /// The simulated roots among `handed`, of devices and of manifests, if they are named.
    pub fn roots<'a>(&self, handed: &'a [File]) -> Result<Option<[&'a File; 2]>, ConfigError> {
        roots("trust.gpu", self.simulated_roots.as_ref(), handed)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check_roots("trust.gpu.simulated_roots", self.simulated_roots.as_ref())
    }
}

fn roots<'a>(
    section: &'static str,
    named: Option<&[String; 2]>,
    handed: &'a [File],
) -> Result<Option<[&'a File; 2]>, ConfigError> {
    let Some([device, manifest]) = named else { return Ok(None) };
    let find = |sha256| by_hash(section, "simulated_roots", sha256, handed);
    Ok(Some([find(device)?, find(manifest)?]))
}

fn check_roots(field: &str, roots: Option<&[String; 2]>) -> Result<(), ConfigError> {
    match roots.into_iter().flatten().find(|hash| !is_sha256(hash)) {
        Some(bad) => Err(value("static", field.into(), bad, SHA256)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{StaticConfig, file_hash};

    const HEAD: &str = "schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n";

    fn parse(text: &str) -> Result<StaticConfig, String> {
        StaticConfig::parse(format!("{HEAD}{text}").as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_guest_demands_its_gpus_unless_it_says_otherwise() {
        assert_eq!(parse("").unwrap().gpu, None);
        let gpu = parse("[gpu]\nnot_before = 5\npolicy = '''\ncount = 8\n'''\n").unwrap().gpu.unwrap();
        assert_eq!((gpu.policy.as_str(), gpu.required, gpu.not_before), ("count = 8\n", true, 5));
        let gpu = parse("[gpu]\nnot_before = 5\nrequired = false\npolicy = 'count = 1'\n").unwrap().gpu;
        assert!(!gpu.unwrap().required);
    }

    #[test]
    fn sections_that_can_not_be_meant_are_refused_by_field() {
        for (bad, named) in [
            ("[gpu]\nnot_before = 5\npolicy = ''\n", "gpu.policy"),
            ("[gpu]\npolicy = 'count = 1'\n", "not_before"),
            ("[gpu]\nnot_before = 5\npolicy = 'a'\ncount = 1\n", "count"),
            ("[gpu]\nnot_before = 5\npolicy = 'a'\nsimulated_roots = ['ab', 'cd']\n", "gpu.simulated_roots"),
            ("[gpu]\nnot_before = 5\npolicy = 'a'\nsimulated_roots = ['ab']\n", "simulated_roots"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(named), "{bad}: {error}");
        }
        let long = format!("[gpu]\nnot_before = 5\npolicy = '{}'\n", "#".repeat(MAX_GPU_POLICY + 1));
        assert!(parse(&long).unwrap_err().contains("gpu.policy"));
    }

    #[test]
    fn roots_are_found_by_hash_and_a_missing_one_is_named() {
        let file = |text: &str| File { name: text.into(), bytes: text.into() };
        let handed = [file("rim"), file("device")];
        let hashes = Some([file_hash(b"device"), file_hash(b"rim")]);
        let peers = PeerGpuConfig { simulated_roots: hashes.clone(), max_age: None };
        assert_eq!(peers.roots(&handed).unwrap(), Some([&handed[1], &handed[0]]));
        assert_eq!(PeerGpuConfig::default().roots(&handed).unwrap(), None);
        let error = peers.roots(&handed[..1]).unwrap_err().to_string();
        assert!(error.contains("trust.gpu.simulated_roots names a file"), "{error}");
        let own = GpuConfig { policy: "a".into(), required: true, not_before: 0, simulated_roots: hashes };
        let error = own.roots(&handed[..1]).unwrap_err().to_string();
        assert!(error.contains("configuration: gpu.simulated_roots names a file"), "{error}");
    }
}
