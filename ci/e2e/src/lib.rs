//! The stage on which VM stories play: the built image, the packed model, the simulated platform, and a way to boot
//! them with one thing changed.
//!
//! `cargo xtask test` prepares everything and runs the stories inside the tools root; a story that finds something
//! missing fails and says so.

pub mod tamper;

use anyhow::{Context, Result};
use client::{Client, ClientError, Trust};
use evidence::{CheckName, Collateral, PolicyFile, Reference, Verdict};
use launcher::foretell::{Foretold, foretell};
use launcher::settings::{Fragment, ModelFragment, Settings};
use launcher::{Guest, LaunchError};
use protocol::channel::Part;
use protocol::evidence::Evidence;
use ratls::{Endpoint, Verifier, Wanted};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Boots take half a minute on an idle machine; a busy one gets this long.
pub const DEADLINE: Duration = Duration::from_secs(420);
/// Name of the demo's model.
pub const MODEL: &str = "all-minilm-l6-v2";

/// Everything a story needs, made by `cargo xtask test`.
#[derive(Debug, Clone)]
pub struct Stage {
    out: PathBuf,
}

impl Stage {
    /// The stage that `cargo xtask test` set.
    pub fn open() -> Result<Self> {
        let checkout = std::env::var_os("CHRYSALIS_CHECKOUT")
            .context("CHRYSALIS_CHECKOUT is not set: run `cargo xtask test`, which prepares the stage")?;
        let out = PathBuf::from(checkout).join("out");
        for needed in ["debug/artifacts.json", "simulated/demo/policy.toml", "simulated/foreign/policy.toml"]
        {
            let path = out.join(needed);
            anyhow::ensure!(path.is_file(), "{}: missing; run `cargo xtask test`", path.display());
        }
        Ok(Stage { out })
    }

    /// Folder of the debug image.
    pub fn image(&self) -> PathBuf {
        self.out.join("debug")
    }

    /// Folder of the packed model.
    pub fn model(&self) -> PathBuf {
        self.out.join("models").join(MODEL)
    }

    /// Folder of a simulated platform: `demo` or `foreign`.
    pub fn platform(&self, name: &str) -> PathBuf {
        self.out.join("simulated").join(name)
    }

    /// A fresh, empty folder for one story.
    pub fn scratch(&self, story: &str) -> Result<PathBuf> {
        let dir = self.out.join("stories").join(story);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).with_context(|| format!("{}: can't make", dir.display()))?;
        Ok(dir)
    }

    /// Settings of the unchanged machine, running in `scratch`.
    pub fn fragment(&self, scratch: &Path) -> Fragment {
        Fragment {
            image: Some(self.image()),
            work_dir: Some(scratch.join("run")),
            simulated_platform: Some(self.platform("demo")),
            models: Some(vec![ModelFragment { image: Some(self.model().join("model.img")), pin: None }]),
            ..Fragment::default()
        }
    }

    /// What the unchanged machine will measure.
    pub fn foretell(&self, fragment: &Fragment) -> Result<(Settings, Foretold)> {
        let settings = fragment.clone().settle()?;
        let foretold = foretell(&settings, &|path| path.to_owned())?;
        Ok((settings, foretold))
    }

    /// What a verifier holds a machine of the simulated platform `name` against.
    pub fn trust(&self, name: &str, reference: Reference) -> Result<Trust> {
        let dir = self.platform(name);
        let read = |file: &str| {
            let path = dir.join(file);
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let policy = PolicyFile::parse(std::str::from_utf8(&read("policy.toml")?)?)?;
        let policy = policy.resolve(Some(&read("root.der")?))?;
        Ok(Trust::new(policy, Collateral::parse(&read("collateral.json")?)?, reference))
    }
}

/// Held by each story that boots a machine of its own: one emulates two CPUs, which is all that a small host has.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    // A story that failed leaves nothing half done behind this lock.
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a machine with the tools at hand: stories run inside the tools root.
pub fn boot(settings: &Settings) -> Result<Guest, LaunchError> {
    launcher::launch(settings, |name| Command::new(name), |event| eprintln!("    {event:?}"))
}

/// Names of the checks that failed.
pub fn failed(verdict: &Verdict) -> Vec<CheckName> {
    verdict.failed().map(|check| check.name).collect()
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Verifies a machine as a client does.
pub fn connect(
    endpoint: &SocketAddr,
    trust: &Trust,
    at: u64,
) -> Result<(tokio::runtime::Runtime, Client), ClientError> {
    let runtime = runtime();
    let client = runtime.block_on(Client::connect(&endpoint.to_string(), trust, at))?;
    Ok((runtime, client))
}

/// The evidence that a machine sends on a connection of its own, appraised.
pub fn evidence_of(endpoint: &SocketAddr, trust: &Trust, at: u64) -> Result<Evidence> {
    let mut sent = None;
    runtime().block_on(async {
        let tcp = tokio::net::TcpStream::connect(endpoint).await.context("nobody listens")?;
        let (me, wanted) = (Endpoint::anonymous(), Wanted::part(Part::Worker));
        let show = |claim: &ratls::Claim| sent = Some(claim.shown.machine.clone());
        let verifier = Verifier::fixed(trust.clone(), at);
        ratls::connect_showing(tcp, &me, &verifier, &wanted, show).await.map(drop).context("refused")
    })?;
    sent.context("no evidence came")
}

/// A runtime of one thread, for one conversation.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime of one thread")
}
