//! Whom to ask and what to hold it against: either a run folder that `chrysalis launch` wrote, or everything named.
//!
//! Reference values of somebody else's release come from a publication (`--publication` with `--anchor`), which can revoke them.
//! Values in a file (`--reference`, or those of a run folder) are one's own: foretold from artifacts that one has.

use crate::input::read;
use crate::published::{PublishedArgs, Source};
use anyhow::{Context, Result};
use client::Trust;
use evidence::{Collateral, PolicyFile, Reference};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Name of the file in a run folder that says where the machine is and what it was foretold to be.
pub const RUN_FILE: &str = "run.json";
/// Name of the file in a run folder with the foretold registers.
pub const REFERENCE_FILE: &str = "reference.json";
/// Name of the file in a run folder with every foretold event.
pub const PREDICTION_FILE: &str = "prediction.json";

/// Options of everything that talks to a machine.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// Run folder of `chrysalis launch`; gives every option below its default.
    #[arg(long, default_value = "out/run")]
    pub run: PathBuf,
    /// `HOST:PORT` of the machine.
    #[arg(long)]
    endpoint: Option<String>,
    /// Appraisal policy (TOML).
    #[arg(long)]
    policy: Option<PathBuf>,
    /// Collateral (JSON with the fields of QuoteCollateralV3).
    #[arg(long)]
    collateral: Option<PathBuf>,
    /// Reference values that one foretold oneself (JSON); nobody can revoke them.
    #[arg(long, conflicts_with = "publication")]
    reference: Option<PathBuf>,
    #[command(flatten)]
    published: PublishedArgs,
    /// Appraise at this time (seconds since 1970) instead of now.
    #[arg(long)]
    at: Option<u64>,
}

/// What `chrysalis launch` leaves for the other subcommands. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Always 1.
    pub schema: u32,
    /// Where the machine's service appears.
    pub endpoint: SocketAddr,
    /// Reference values foretold before the machine started.
    pub reference: PathBuf,
    /// Appraisal policy of the platform, where the launcher knew one.
    pub policy: Option<PathBuf>,
    /// Collateral of the platform, where the launcher knew one.
    pub collateral: Option<PathBuf>,
}

/// Files that trust is read from.
#[derive(Debug, Clone)]
pub struct Files {
    /// Appraisal policy.
    pub policy: PathBuf,
    /// Collateral.
    pub collateral: PathBuf,
    /// Reference values, where no publication has them.
    pub reference: Option<PathBuf>,
}

impl Target {
    /// Reads everything that is needed to appraise a peer, and where it is.
    pub fn load(&self) -> Result<(String, Trust)> {
        self.load_at(None)
    }

    /// As [`load`](Self::load), for a peer at `address` where one is given.
    pub fn load_at(&self, address: Option<&str>) -> Result<(String, Trust)> {
        Ok((self.address(address)?, self.trust()?))
    }

    /// Where the peer is: `address` where one is given, else what the options or the run folder say.
    pub fn address(&self, address: Option<&str>) -> Result<String> {
        let run = self.run_file();
        let given = address.map(String::from).or_else(|| self.endpoint.clone());
        let endpoint = given.or(run.as_ref().ok().map(|run| run.endpoint.to_string()));
        endpoint.with_context(|| match &run {
            Ok(_) => String::new(),
            Err(error) => format!("give --endpoint, or --run with the folder of a launch ({error:#})"),
        })
    }

    /// Reads everything that is needed to appraise a peer; a publication is asked once, and must hold now.
    pub fn trust(&self) -> Result<Trust> {
        match self.published.source()? {
            Some(source) => Ok(source.apply(self.files_trust()?, &source.once(self.at)?)),
            None => self.files_trust(),
        }
    }

    /// What files say; without reference values where a publication has them.
    pub fn files_trust(&self) -> Result<Trust> {
        let Files { policy: policy_file, collateral, reference } = self.files()?;
        let policy = policy(&policy_file)?;
        let collateral =
            Collateral::parse(&read(&collateral)?).with_context(|| format!("{}", collateral.display()))?;
        let reference = match reference {
            Some(path) => Reference::parse(&read(&path)?).with_context(|| format!("{}", path.display()))?,
            None => Reference { schema: 1, releases: Vec::new(), mrconfigid: None },
        };
        Ok(Trust::new(policy, collateral, reference))
    }

    /// The publication, if one is named.
    pub fn source(&self) -> Result<Option<Source>> {
        self.published.source()
    }

    /// Where policy, collateral and reference values are.
    pub fn files(&self) -> Result<Files> {
        let run = self.run_file();
        let from_run = |field: fn(&Run) -> Option<PathBuf>| run.as_ref().ok().and_then(field);
        let pick = |given: &Option<PathBuf>, run_has: Option<PathBuf>, name: &str| {
            given.clone().or(run_has).with_context(|| match &run {
                Ok(_) => format!("{} knows no {name}; give --{name}", self.run.join(RUN_FILE).display()),
                Err(error) => format!("give --{name}, or --run with the folder of a launch ({error:#})"),
            })
        };
        let reference = || pick(&self.reference, from_run(|run| Some(run.reference.clone())), "reference");
        Ok(Files {
            policy: pick(&self.policy, from_run(|run| run.policy.clone()), "policy")?,
            collateral: pick(&self.collateral, from_run(|run| run.collateral.clone()), "collateral")?,
            reference: (!self.published.is_named()).then(reference).transpose()?,
        })
    }

    /// The time of appraisal, in seconds since 1970.
    pub fn at(&self) -> u64 {
        self.at.unwrap_or_else(now)
    }

    /// The time that was given in the place of the clock's, if any.
    pub fn fixed_time(&self) -> Option<u64> {
        self.at
    }

    /// The clock of appraisals that go on: this machine's, unless a time was given.
    pub fn clock(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let at = self.at;
        move || at.unwrap_or_else(now)
    }

    fn run_file(&self) -> Result<Run> {
        let path = self.run.join(RUN_FILE);
        serde_json::from_slice(&read(&path)?).with_context(|| format!("{}: not a run file", path.display()))
    }
}

/// The clock of this machine, in seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Reads a policy and the root that it names; the root's path counts from the policy's folder.
pub fn policy(path: &Path) -> Result<evidence::Policy> {
    let text = String::from_utf8(read(path)?).with_context(|| format!("{}: not text", path.display()))?;
    let file = PolicyFile::parse(&text).with_context(|| format!("{}", path.display()))?;
    let root = match file.root() {
        Some(name) => Some(read(&path.parent().unwrap_or(Path::new("")).join(name))?),
        None => None,
    };
    file.resolve(root.as_deref()).with_context(|| format!("{}", path.display()))
}
