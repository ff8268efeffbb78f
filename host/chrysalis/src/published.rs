//! Reference values from a publication, for everything that runs on a host: asked once, or kept fresh while a command runs.
//!
//! ```text
//! --publication FOLDER|URL --anchor FILE --> Keeper --once--> connect, embed, launch
//!                                                  \-keep--> tunnel: each renewal replaces what counts
//! ```
//! A publication of which nothing is accepted stops a command before it connects to anybody, with the reasons.

mod explained;

use crate::input::read;
use crate::trust::now;
use anyhow::{Context, Result, ensure};
use client::Trust;
use evidence::Reference;
use launcher::Settings;
use launcher::foretell::Foretold;
use measure::Registers;
use release::{Anchor, Instants, Keeper, Published, Refresher, Standing, Store, SystemClock, mirror_at};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Options of everything that relies on a publication.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PublishedArgs {
    /// Publication that reference values come from: a folder, or an address (http:// or https://).
    #[arg(long, value_name = "FOLDER|URL", requires = "anchor")]
    publication: Option<String>,
    /// What of it is believed (TOML, as `release verify` takes it): first root, rebuilders, how many of them, names.
    #[arg(long, value_name = "FILE", requires = "publication")]
    anchor: Option<PathBuf>,
    /// Folder that remembers what was seen of the publication, against rollbacks.
    #[arg(long, value_name = "DIR", requires = "publication")]
    publication_state: Option<PathBuf>,
}

impl PublishedArgs {
    /// These, in a test.
    #[cfg(test)]
    pub fn of(publication: &str, anchor: &Path) -> Self {
        let (publication, anchor) = (Some(publication.to_owned()), Some(anchor.to_owned()));
        PublishedArgs { publication, anchor, publication_state: None }
    }

    /// Whether a publication is named.
    pub fn is_named(&self) -> bool {
        self.publication.is_some()
    }

    /// The publication with its settings, if one is named.
    pub fn source(&self) -> Result<Option<Source>> {
        let (Some(mirror), Some(path)) = (&self.publication, &self.anchor) else { return Ok(None) };
        let shown = path.display();
        let text = String::from_utf8(read(path)?).with_context(|| format!("{shown}: not text"))?;
        let anchor = Anchor::parse(&text).with_context(|| format!("{shown}"))?;
        Ok(Some(Source { mirror: mirror.clone(), anchor, state: self.publication_state.clone() }))
    }
}

/// A publication, and what of it is believed.
#[derive(Debug, Clone)]
pub struct Source {
    mirror: String,
    anchor: Anchor,
    state: Option<PathBuf>,
}

impl Source {
    /// What may be relied on now (or at this time, Unix seconds). Where it could not be renewed, that is told.
    pub fn once(&self, at: Option<u64>) -> Result<Published> {
        let at = Instants { host: at.unwrap_or_else(now), monotonic: Duration::ZERO };
        let published = self.keeper(at)?.refresh(at);
        if let Standing::Fresh { .. } = published.standing {
        } else {
            eprintln!("warning: {}: {}", self.mirror, published.standing);
        }
        ensure!(!self.reference(&published).releases.is_empty(), "{}: {}", self.mirror, why_not(&published));
        Ok(published)
    }

    /// Renews it in the background, as often as the settings say, and hands each state to `publish`.
    pub fn keep(&self, publish: impl FnMut(Published) + Send + 'static) -> Result<Refresher> {
        let clock = SystemClock::start();
        Ok(Refresher::spawn(self.keeper(clock.now())?, clock, publish)?)
    }

    /// The trust with what is published in it, under a policy that is as strict as the accepted releases ask for at least.
    pub fn apply(&self, mut trust: Trust, published: &Published) -> Trust {
        let floors = published.floors_of(&self.anchor.names);
        trust.policy = trust.policy.tightened(&floors);
        if let Some(gpu) = &mut trust.gpu {
            gpu.policy.settings.floors = trust.policy.gpu().floors.clone();
        }
        Trust { reference: self.reference(published), ..trust }
    }

    /// Refuses a machine whose registers no accepted release has, and explains what is different about the nearest. `seen` says
    /// where a file of the tools root lies for this process.
    pub fn covers_machine(
        &self,
        settings: &Settings,
        foretold: &Foretold,
        seen: &dyn Fn(&Path) -> PathBuf,
    ) -> Result<String> {
        let published = self.once(None)?;
        let refused = match self.covers(&published, &foretold.registers) {
            Ok(release) => return Ok(release),
            Err(refused) => refused,
        };
        let explained = explained::nearest(&published, settings, foretold, seen);
        Err(refused.context(explained.unwrap_or_default()).context("this machine is not what was published"))
    }

    /// Refuses registers that no accepted release has, and says which of the nearest differ.
    fn covers(&self, published: &Published, registers: &Registers) -> Result<String> {
        let reference = self.reference(published);
        match reference.matching(registers) {
            Some(release) => Ok(release.name.clone()),
            None => anyhow::bail!(
                "{}: no accepted release has the registers that this machine will show, so nobody who relies on it would \
                 believe this machine; it was not started\n{}build what was published, for a shape that it lists, or have this \
                 one published",
                self.mirror,
                differences(&reference, registers)
            ),
        }
    }

    /// Settings of the publication.
    pub fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    fn reference(&self, published: &Published) -> Reference {
        published.reference_of(&self.anchor.names)
    }

    fn keeper(&self, at: Instants) -> Result<Keeper> {
        let mut mirror = mirror_at(&self.mirror)?;
        let store = self.state.as_ref().map(Store::open).transpose()?;
        let kept = store.as_ref().and_then(|store| release::first_root(&mut store.mirror()).ok());
        let root = match kept {
            Some(root) => root,
            None => release::first_root(mirror.as_mut())?,
        };
        Ok(Keeper::open(self.anchor.clone(), &root, mirror, store, at)?)
    }
}

fn why_not(published: &Published) -> String {
    let aside = published.releases.iter().flat_map(|releases| releases.set_aside());
    let reasons: Vec<_> = aside.map(|aside| format!("{}: {}", aside.release, aside.why)).collect();
    match reasons[..] {
        [] => format!("no release of the wanted names is accepted ({})", published.standing),
        _ => format!("no release is accepted; {}", reasons.join("; ")),
    }
}

/// For each published machine, the registers that are not this one's, and what goes into them.
fn differences(reference: &Reference, registers: &Registers) -> String {
    let line = |release: &evidence::Release| {
        let pairs = [
            (release.mrtd == registers.mrtd, "mrtd (firmware)"),
            (release.rtmr0 == registers.rtmr[0], "rtmr0 (shape of the machine, firmware's settings)"),
            (release.rtmr1 == registers.rtmr[1], "rtmr1 (kernel image, partitions, boot variables)"),
            (release.rtmr2 == registers.rtmr[2], "rtmr2 (command line, initrd, parts of the kernel image)"),
        ];
        let other: Vec<_> = pairs.iter().filter(|(same, _)| !same).map(|(_, name)| *name).collect();
        (other.len(), format!("  {}: differs in {}\n", release.name, other.join(", ")))
    };
    let mut lines: Vec<_> = reference.releases.iter().map(line).collect();
    lines.sort();
    lines.into_iter().take(8).map(|(_, line)| line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::Digest384;
    use release::{State, samples};

    /// A publication of the machines 1 and 2 in a folder, which is changed before it is written.
    fn source(change: impl FnOnce(&mut samples::Publication)) -> (tempfile::TempDir, Source) {
        let mut publication = samples::publication(now(), 2).unwrap();
        change(&mut publication);
        let dir = tempfile::tempdir().unwrap();
        for (path, bytes) in &publication.files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let mirror = dir.path().display().to_string();
        (dir, Source { mirror, anchor: publication.anchor, state: None })
    }

    fn registers(number: u8) -> Registers {
        let digest = Digest384([number; 48]);
        Registers { mrtd: digest, rtmr: [digest, digest, digest, Digest384::ZERO] }
    }

    #[test]
    fn a_machine_that_is_published_is_covered_and_another_is_refused_with_what_differs() {
        let (_dir, source) = source(|_| {});
        let published = source.once(None).unwrap();
        assert!(source.covers(&published, &registers(2)).unwrap().starts_with("worker 0.1.0"));
        let mut other = registers(1);
        other.rtmr[0] = Digest384([9; 48]);
        let error = source.covers(&published, &other).unwrap_err().to_string();
        let nearest = error.lines().nth(1).unwrap();
        assert!(
            nearest.contains("1 vCPU")
                && nearest.ends_with("rtmr0 (shape of the machine, firmware's settings)"),
            "{error}"
        );
        assert!(error.contains("it was not started"), "{error}");
    }

    #[test]
    fn a_publication_of_which_nothing_is_accepted_stops_a_command_with_the_reasons() {
        let (_dir, revoked) = source(|publication| publication.restate(now(), State::Revoked).unwrap());
        let error = revoked.once(None).unwrap_err().to_string();
        assert!(error.contains("worker-0.1.0: revoked: a hole in the engine"), "{error}");
        let (_dir, few) = source(|publication| {
            publication.anchor.rebuilders.push(samples::key(8).unwrap().public());
            publication.anchor.threshold = 4;
        });
        let error = few.once(None).unwrap_err().to_string();
        assert!(error.contains("3 rebuilders came to its measurements, expected 4"), "{error}");
        let (_dir, late) = source(|_| {});
        let error = late.once(Some(now() + 2 * 86_400)).unwrap_err().to_string();
        assert!(error.contains("timestamp.json: expired"), "{error}");
    }

    #[test]
    fn what_a_release_asks_for_makes_the_policy_stricter() {
        let (_dir, source) = source(|_| {});
        let published = source.once(None).unwrap();
        let text = "schema = 1\nplatform = \"tdx\"\n[tcb]\naccept = [\"UpToDate\", \"OutOfDate\"]\n";
        let policy = evidence::PolicyFile::parse(text).unwrap().resolve_production().unwrap();
        let collateral = simulator::Platform::generate(now()).unwrap().collateral().unwrap();
        let none = Reference { schema: 1, releases: Vec::new(), mrconfigid: None };
        let trust = source.apply(Trust::new(policy.clone(), collateral, none), &published);
        assert_eq!(trust.reference.releases.len(), 2);
        assert!(
            format!("{policy:?}").contains("OutOfDate")
                && !format!("{:?}", trust.policy).contains("OutOfDate")
        );
    }
}
