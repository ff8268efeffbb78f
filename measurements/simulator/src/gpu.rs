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
mod fault;
mod manifest;
mod pki;
mod revocation;

pub use case::{AT, GpuCase};
pub use fault::GpuFault;

use crate::SimulatorError;

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
        let machine = self.machine();
        let devices = machine.make(&*pki::Pki::lasting()?)?;
        Ok(RunningGpus { machine, devices })
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
    devices: Vec<device::Device>,
}

impl RunningGpus {
    /// The evidence, with reports over this nonce.
    pub fn case(&self, nonce: &[u8; 32]) -> Result<GpuCase, SimulatorError> {
        self.machine.build_of(&*pki::Pki::lasting()?, &self.devices, nonce)
    }
}
