//! Whom the guest believes: from files that a person names to the measured section and the files that are handed over.
//!
//! The guest reads the same files again and checks each against what was measured; here they are read so that a mistake is
//! told before a machine starts. The publication is verified as the guest will: one of which it would accept nothing starts
//! none.

use super::check::{SMALL, read};
use super::{Input, SettingsError, TrustFragment};
use evidence::{Collateral, MAX_COLLATERAL, PolicyFile, Reference};
use protocol::config::{TrustConfig, file_hash};
use protocol::handoff::{COLLATERAL_FILE, File, MAX_FILE, PUBLICATION_FILE};
use release::{Anchor, Bundle, Instants, SystemClock};
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
        let (publication, handed) = self.publication(trust, not_before)?.unzip();
        let config = TrustConfig {
            policy,
            references: references.iter().map(|file| file_hash(&file.bytes)).collect(),
            publication,
            simulated_root: root.as_ref().map(|file| file_hash(&file.bytes)),
            not_before,
            // Joined by whoever reads the settings of GPUs.
            gpu: None,
        };
        // In the order of their names, as a handoff wants them.
        let files = [collateral].into_iter().chain(handed).chain(references).chain(root).collect();
        Ok(Trusted { config, files })
    }

    /// Settings of the publication, and the publication as the guest is handed it.
    fn publication(
        &self,
        trust: &TrustFragment,
        not_before: u64,
    ) -> Result<Option<(String, File)>, SettingsError> {
        const FIELD: &str = "trust.publication";
        let Some(path) = &trust.publication else { return Ok(None) };
        if trust.references.is_some() {
            let hint = "a publication can revoke; remove the references";
            return Err(self.value(FIELD, "beside trust.references".into(), "one of the two", hint));
        }
        let hint = "name the settings of a consumer, as `chrysalis release verify` takes them";
        let bytes = read("settings of the publication", path, hint, SMALL)?;
        let wrong = |found: String, hint: &str| self.value(FIELD, found, "a publication that holds", hint);
        let text = literal(bytes).ok_or_else(|| wrong("no plain text".into(), "write it as TOML"))?;
        let anchor = Anchor::parse(&text).map_err(|e| wrong(e.to_string(), "correct that file"))?;
        let missing = || {
            let hint = "the guest starts from it, so that a mirror that is down stops no boot";
            self.value("trust.source", "missing".into(), "a folder or an address", hint)
        };
        let source = trust.source.as_deref().ok_or_else(missing)?;
        let gathered = release::mirror_at(source).and_then(|mirror| {
            let at = SystemClock::start().now();
            Bundle::gather(&anchor, mirror, Instants { host: at.host.max(not_before), ..at })
        });
        let hint = "renew it, or give another source";
        let (bundle, published) = gathered.map_err(|e| wrong(e.to_string(), hint))?;
        if published.reference_of(&anchor.names).releases.is_empty() {
            let aside = published.releases.iter().flat_map(|releases| releases.set_aside());
            let why: Vec<_> = aside.map(|aside| format!("{}: {}", aside.release, aside.why)).collect();
            return Err(wrong(format!("one of which nothing is accepted: {}", why.join("; ")), hint));
        }
        let bytes = bundle.to_bytes();
        if bytes.len() > MAX_FILE {
            let hint = "fewer releases, or fewer machines in each";
            return Err(wrong(format!("{} bytes for the guest, at most {MAX_FILE} fit", bytes.len()), hint));
        }
        Ok(Some((text, File { name: PUBLICATION_FILE.into(), bytes })))
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
        let text = literal(bytes).ok_or_else(|| {
            let expected = "a policy without three single quotes in a row and without control characters";
            refuse("a text with ''' or control characters".into(), expected)
        })?;
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

/// A text that can stand in the static configuration as a literal string.
pub(super) fn literal(bytes: Vec<u8>) -> Option<String> {
    let text = String::from_utf8(bytes).ok()?;
    let bad = |c: char| c.is_control() && c != '\n' && c != '\t';
    (!text.contains("'''") && !text.chars().any(bad)).then_some(text)
}
