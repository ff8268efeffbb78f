//! Whom the guest believes: from files that a person names to the measured section and the files that are handed over.
//!
//! The guest reads the same files again and checks each against what was measured; here they are read so that a mistake is
//! told before a machine starts.

use super::check::{SMALL, read};
use super::{Input, SettingsError, TrustFragment};
use evidence::{Collateral, MAX_COLLATERAL, PolicyFile, Reference};
use protocol::config::{TrustConfig, file_hash};
use protocol::handoff::{COLLATERAL_FILE, File};
use std::path::{Path, PathBuf};

/// What the guest is told of its peers.
pub(super) struct Trusted {
    /// For the static configuration.
    pub(super) config: TrustConfig,
    /// For the handoff disk, by name.
    pub(super) files: Vec<File>,
}

impl Input {
    /// The trust section, if there is one.
    pub(super) fn trusted(&self) -> Result<Option<Trusted>, SettingsError> {
        self.trust.as_ref().map(|trust| self.read_trust(trust)).transpose()
    }

    fn read_trust(&self, trust: &TrustFragment) -> Result<Trusted, SettingsError> {
        let path = self.named("trust.policy", &trust.policy, "an appraisal policy")?;
        let (policy, root) = self.policy(path)?;
        let collateral =
            self.named("trust.collateral", &trust.collateral, "collateral of the peers' platforms")?;
        let collateral = self.collateral(collateral)?;
        let references = self.references(trust.references.as_deref().unwrap_or_default())?;
        let Some(not_before) = trust.not_before else {
            let hint = "give the present time: the guest's clock is the host's, and this bounds how far it can be turned back";
            return Err(self.value("trust.not_before", "missing".into(), "Unix seconds", hint));
        };
        let config = TrustConfig {
            policy,
            references: references.iter().map(|file| file_hash(&file.bytes)).collect(),
            simulated_root: root.as_ref().map(|file| file_hash(&file.bytes)),
            not_before,
        };
        let files = [collateral].into_iter().chain(references).chain(root).collect();
        Ok(Trusted { config, files })
    }

    fn named<'a>(
        &self,
        field: &str,
        path: &'a Option<PathBuf>,
        what: &str,
    ) -> Result<&'a Path, SettingsError> {
        let missing = || self.value(field, "missing".into(), what, "name its file, or leave [trust] out");
        path.as_deref().ok_or_else(missing)
    }

    /// The policy's text and, where it speaks of a simulated platform, its root.
    fn policy(&self, path: &Path) -> Result<(String, Option<File>), SettingsError> {
        let bytes = read("policy", path, "name an appraisal policy (TOML)", SMALL)?;
        let refuse =
            |found: String, expected| self.value("trust.policy", found, expected, "correct that file");
        let text = String::from_utf8(bytes).map_err(|e| refuse(e.to_string(), "text"))?;
        if text.contains("'''") || text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            // It stands in the static configuration as a literal string.
            let found = "a text with ''' or control characters".into();
            return Err(refuse(
                found,
                "a policy without three single quotes in a row and without control characters",
            ));
        }
        let file = PolicyFile::parse(&text).map_err(|e| refuse(e.to_string(), "a valid policy"))?;
        let root = file.root().map(|name| {
            let path = path.parent().unwrap_or(Path::new("")).join(name);
            let bytes = read("simulated root", &path, "make one with `chrysalis-simulator pki DIR`", SMALL)?;
            Ok(File { name: "simulated-root.der".into(), bytes })
        });
        Ok((text, root.transpose()?))
    }

    fn collateral(&self, path: &Path) -> Result<File, SettingsError> {
        let bytes =
            read("collateral", path, "fetch it with `chrysalis evidence collateral`", MAX_COLLATERAL)?;
        let wrong = |e: evidence::CollateralError| {
            self.value("trust.collateral", e.to_string(), "collateral", "fetch it anew")
        };
        Collateral::parse(&bytes).map_err(wrong)?;
        Ok(File { name: COLLATERAL_FILE.into(), bytes })
    }

    fn references(&self, paths: &[PathBuf]) -> Result<Vec<File>, SettingsError> {
        let one = |(i, path): (usize, &PathBuf)| {
            let hint = "make them with `chrysalis measure predict`";
            let bytes = read("reference values", path, hint, SMALL)?;
            let wrong = |e: evidence::ReferenceError| {
                self.value("trust.references", e.to_string(), "reference values", hint)
            };
            Reference::parse(&bytes).map_err(wrong)?;
            Ok(File { name: format!("reference-{i}.json"), bytes })
        };
        paths.iter().enumerate().map(one).collect()
    }
}
