//! This machine's own platform, for ends that are attested themselves.

use crate::input::read;
use crate::output::line;
use anyhow::{Context, Result, ensure};
use attest::TsmAttester;
use protocol::Attester;
use protocol::channel::Part;
use protocol::evidence::{LogFormat, MAX_STATIC_CONFIG};
use ratls::{Endpoint, QuoteLimits, QuoteQueue};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Options of an end that proves what it is. By default the files are where Linux and `init` of a guest put them.
#[derive(Debug, Clone, clap::Args)]
pub struct PlatformArgs {
    /// The exact bytes that this machine's MRCONFIGID commits to; with it this end is attested.
    #[arg(long)]
    static_config: Option<PathBuf>,
    /// Where configfs-tsm is (Linux 6.7 or later, in a trust domain).
    #[arg(long, value_name = "DIR", requires = "static_config")]
    tsm: Option<PathBuf>,
    /// The firmware's event log.
    #[arg(long, value_name = "FILE", requires = "static_config")]
    ccel: Option<PathBuf>,
    /// The log of a platform that measures into a TPM; only simulated ones do.
    #[arg(long, value_name = "FILE", requires = "static_config")]
    tpm_log: Option<PathBuf>,
    /// The record of the guest's own events.
    #[arg(long, value_name = "FILE", requires = "static_config")]
    runtime_record: Option<PathBuf>,
}

impl PlatformArgs {
    /// The platform and the static configuration; `None` where this end is not to be attested. What the platform can't show
    /// is told now, and not to the first peer.
    pub fn attester(&self, json: bool) -> Result<Option<(Arc<TsmAttester>, Vec<u8>)>> {
        let Some(path) = &self.static_config else { return Ok(None) };
        let static_config = read(path)?;
        let len = static_config.len();
        ensure!(
            len <= MAX_STATIC_CONFIG,
            "{}: {len} bytes, at most {MAX_STATIC_CONFIG} are shown",
            path.display()
        );
        let mut attester = TsmAttester::default();
        // A folder that was named is the platform that was meant, whatever else this machine has.
        if let Some(tsm) = &self.tsm {
            attester = TsmAttester { base: tsm.clone(), qgs: None, ..attester };
        }
        let places = [
            (&mut attester.ccel, &self.ccel),
            (&mut attester.tpm_log, &self.tpm_log),
            (&mut attester.runtime, &self.runtime_record),
        ];
        for (place, given) in places {
            if let Some(given) = given {
                place.clone_from(given);
            }
        }
        let log = attester.event_log().context("this machine's platform")?;
        attester.runtime().context("this machine's platform")?;
        if log.format == LogFormat::Tpm {
            match json {
                true => line(&json!({ "event": "platform", "platform": "simulated" }).to_string())?,
                false => eprintln!("SIMULATED platform: what this end proves is no proof of hardware"),
            }
        }
        Ok(Some((Arc::new(attester), static_config)))
    }
}

/// This machine's end of channels.
pub fn endpoint(part: Part, attester: Arc<TsmAttester>, static_config: Vec<u8>) -> Endpoint {
    Endpoint::attested(part, QuoteQueue::new(attester, QuoteLimits::default()), static_config)
}
