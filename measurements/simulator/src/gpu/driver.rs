//! The driver of SIMULATED GPUs: the same seam that NVML stands behind in a guest.
//!
//! It keeps a record of what was asked, so that a test can say what must not have happened, and any one call can be made to
//! fail. Its trust roots say SIMULATED in their names; no production policy takes them.

use super::RunningGpus;
use evidence::gpu::{DeviceEvidence, GpuDriver, GpuDriverError, GpuStatus, SystemState};
use std::sync::{Arc, Mutex, PoisonError};

/// Something that the driver was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// To count its GPUs.
    Count,
    /// For reports over this nonce.
    Evidence([u8; 32]),
    /// For its word on the machine.
    System,
    /// To let programs in, or keep them out.
    Ready(bool),
}

/// A driver of SIMULATED GPUs.
pub struct SimulatedDriver {
    gpus: Arc<RunningGpus>,
    calls: Mutex<Vec<Call>>,
    broken: Option<fn(&Call) -> bool>,
    deaf: bool,
}

impl SimulatedDriver {
    /// Of these GPUs, none of which is ready.
    pub fn new(gpus: impl Into<Arc<RunningGpus>>) -> Self {
        SimulatedDriver { gpus: gpus.into(), calls: Mutex::default(), broken: None, deaf: false }
    }

    /// Fails at each call that this is true of.
    #[must_use]
    pub fn failing(mut self, at: fn(&Call) -> bool) -> Self {
        self.broken = Some(at);
        self
    }

    /// Takes its reports over another nonce than it is asked for, as one who replays does.
    #[must_use]
    pub fn deaf(mut self) -> Self {
        self.deaf = true;
        self
    }

    /// What was asked so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether programs may use the GPUs.
    pub fn is_ready(&self) -> bool {
        let last = self.calls().into_iter().rev().find(|call| matches!(call, Call::Ready(_)));
        last == Some(Call::Ready(true))
    }

    /// What the devices are.
    pub fn gpus(&self) -> &RunningGpus {
        &self.gpus
    }

    fn called(&self, call: Call) -> Result<(), GpuDriverError> {
        if self.broken.is_some_and(|broken| broken(&call)) {
            let why = format!("SIMULATED: {call:?}");
            return Err(GpuDriverError::Failed { what: "a call that was made to fail", why });
        }
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        Ok(())
    }
}

impl GpuDriver for SimulatedDriver {
    fn count(&self) -> Result<usize, GpuDriverError> {
        self.called(Call::Count)?;
        Ok(self.gpus.answering())
    }

    fn evidence(&self, nonce: &[u8; 32]) -> Result<Vec<DeviceEvidence>, GpuDriverError> {
        self.called(Call::Evidence(*nonce))?;
        let nonce = if self.deaf { [0x99; 32] } else { *nonce };
        let case = self.gpus.case(&nonce);
        let failed = |why| GpuDriverError::Failed { what: "a SIMULATED report", why };
        case.map(|case| case.devices).map_err(|error| failed(error.to_string()))
    }

    fn system(&self) -> Result<SystemState, GpuDriverError> {
        self.called(Call::System)?;
        Ok(self.gpus.system())
    }

    fn set_ready(&self, ready: bool) -> Result<(), GpuDriverError> {
        self.called(Call::Ready(ready))
    }

    fn status(&self) -> Result<Vec<GpuStatus>, GpuDriverError> {
        let ready = self.is_ready();
        Ok(vec![GpuStatus { ready, celsius: Some(41), used_mib: Some(1024) }; self.gpus.answering()])
    }
}
