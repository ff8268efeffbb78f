//! SIMULATED GPUs and NVSwitches, for the debug profile and tests only: they prove nothing about hardware.
//!
//! ```text
//! device root -> model -> provisioner -> device identity -> leaf -> report
//! RIM root ----> model -> driver, VBIOS -> signer -> manifest
//! each issuer -> OCSP responses
//! ```
//! The bytes are those of real devices, so they go through the very verifier that real ones go through; only the trust roots
//! differ, and they say SIMULATED in their names.

mod case;
mod der;
mod device;
mod driver;
mod fault;
mod manifest;
mod pki;
mod revocation;

pub use case::{AT, GpuCase};
pub use driver::{Call, SimulatedDriver};
pub use fault::GpuFault;

use crate::SimulatorError;
use evidence::gpu::SystemState;
use std::sync::Arc;

/// What can be simulated beside the faults: machines with nothing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuMachine {
    /// So many GPUs of Hopper's generation.
    Hopper(usize),
    /// So many, with an NVSwitch, under protected PCIe.
    ProtectedPcie(usize),
    /// So many of Blackwell's generation.
    Blackwell(usize),
}

impl GpuMachine {
    /// Builds the evidence. Machines share a PKI.
    pub fn case(self) -> Result<GpuCase, SimulatorError> {
        self.machine().build()
    }

    /// Makes the devices, which can then be asked again and again.
    pub fn start(self) -> Result<RunningGpus, SimulatorError> {
        RunningGpus::make(self.machine(), GpuFault::None)
    }

    fn machine(self) -> case::Machine {
        match self {
            GpuMachine::Hopper(count) => case::Machine::good(count),
            GpuMachine::ProtectedPcie(count) => case::Machine::with_switch(count),
            GpuMachine::Blackwell(count) => case::Machine::blackwell(count, 0),
        }
    }
}

/// Devices that keep their keys from one report to the next.
pub struct RunningGpus {
    machine: case::Machine,
    pki: Arc<pki::Pki>,
    devices: Vec<device::Device>,
    fault: GpuFault,
}

impl RunningGpus {
    /// Devices of this machine; what they show has this defect.
    pub(crate) fn make(machine: case::Machine, fault: GpuFault) -> Result<Self, SimulatorError> {
        let pki = match machine.windows.is_empty() {
            true => pki::Pki::lasting()?,
            false => Arc::new(pki::Pki::make(&machine.windows)?),
        };
        let devices = machine.make(&pki)?;
        Ok(RunningGpus { machine, pki, devices, fault })
    }

    /// With OCSP responses that hold for a week around this time, Unix seconds, at which the cases are then appraised.
    #[must_use]
    pub fn valid_at(mut self, at: u64) -> Self {
        self.machine.at = at;
        self.machine.answered = (at.saturating_sub(case::DAY), at + 6 * case::DAY);
        self
    }

    /// The evidence, with reports over this nonce.
    pub fn case(&self, nonce: &[u8; 32]) -> Result<GpuCase, SimulatorError> {
        let mut case = self.machine.build_of(&self.pki, &self.devices, nonce)?;
        self.fault.change_bytes(&mut case)?;
        Ok(case)
    }

    /// How many GPUs answer; switches are none.
    pub fn answering(&self) -> usize {
        let is_gpu = |number: &&usize| self.machine.devices[**number].pdi.is_none();
        self.machine.answers.iter().filter(is_gpu).count()
    }

    /// What their driver says of the machine.
    pub fn system(&self) -> SystemState {
        self.machine.system
    }
}
