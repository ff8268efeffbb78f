//! A guest on a simulated platform: what it booted ([`tpm::sample_log`]), the events that it measured itself, and its quotes.
//!
//! ```text
//! static configuration, models --> sealed events --> RTMR3 --\
//! sample log --------------------------------> other registers --> TD --> quote
//!                                                              \--> reference(): what every such guest is held against
//! ```
//! One guest for every test and benchmark, so that what a SIMULATED guest shows is said in one place.

use crate::{Identity, SimulatorError, tpm};
use evidence::{Hex, Reference, Release, Rtmr3, TdReport};
use measure::runtime::{Extension, GpuEvidence, RuntimeLog, RuntimeRecord};
use measure::wire::{EventLog, LogFormat, mrconfigid};
use measure::{Digest384, Registers};

/// Name of the release that every guest here is of.
pub const RELEASE: &str = "simulated release";

/// A guest that has booted and sealed its events.
#[derive(Clone)]
pub struct Guest {
    identity: Identity,
    td: TdReport,
    runtime: Vec<u8>,
}

impl Guest {
    /// One that was configured with these bytes and opened these models (name, dm-verity root), in this order.
    pub fn boot(
        identity: Identity,
        static_config: &[u8],
        models: &[(&str, [u8; 32])],
    ) -> Result<Self, SimulatorError> {
        let mut registers = booted()?;
        let record = record(static_config, models)?;
        registers.rtmr[3] = record.log.rtmr3();
        let td = identity.td_report(&registers, mrconfigid(static_config), [0; 64]);
        Ok(Guest { identity, td, runtime: record.to_bytes() })
    }

    /// A quote over this report data.
    pub fn quote(&self, report_data: &[u8; 64]) -> Vec<u8> {
        self.quote_by(&self.identity, report_data)
    }

    /// The same, signed by another attestation key of the platform.
    pub fn quote_by(&self, identity: &Identity, report_data: &[u8; 64]) -> Vec<u8> {
        identity.quote(&TdReport { report_data: Hex(*report_data), ..self.td.clone() })
    }

    /// The firmware's log.
    pub fn event_log(&self) -> EventLog {
        EventLog { format: LogFormat::Tpm, bytes: tpm::sample_log() }
    }

    /// The record of its own events, as it travels.
    pub fn runtime(&self) -> Vec<u8> {
        self.runtime.clone()
    }

    /// What a quote says of it, but for the report data.
    pub fn td(&self) -> &TdReport {
        &self.td
    }
}

/// Reference values of the release that every guest here is of, under any configuration.
pub fn reference() -> Result<Reference, SimulatorError> {
    let registers = booted()?;
    let release = Release {
        name: RELEASE.into(),
        mrtd: registers.mrtd,
        rtmr0: registers.rtmr[0],
        rtmr1: registers.rtmr[1],
        rtmr2: registers.rtmr[2],
        rtmr3: Some(Rtmr3::Events),
    };
    Ok(Reference { schema: 1, releases: vec![release], mrconfigid: None })
}

/// What a guest of this configuration that opened these models has measured and extended.
pub fn record(static_config: &[u8], models: &[(&str, [u8; 32])]) -> Result<RuntimeRecord, SimulatorError> {
    let (mut log, _) = RuntimeLog::begin(Digest384(mrconfigid(static_config)));
    for (name, root) in models {
        log.model(name, *root)?;
    }
    log.gpu(GpuEvidence::none())?;
    Ok(RuntimeRecord { extension: Extension::Extended, log: log.seal()?.0 })
}

/// The registers before the guest extends RTMR3.
fn booted() -> Result<Registers, SimulatorError> {
    let log = tpm::sample_log();
    Ok(tpm::registers(&log, &tpm::replayed(&log)?)?)
}
