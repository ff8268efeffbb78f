//! Appraisal of NVIDIA GPUs and NVSwitches: attestation reports, certificates, manifests and revocation.
//!
//! ```text
//! forms ---> spdm, opaque   (what the device signed)
//!       \--> x509, dice     (whose key that is)
//! manifest -> rim, xml      (what firmware must measure)
//! ocsp ----> revocation     (what is no longer good)
//!     device, measured, set -> verdict -> AppraisedGpus, or RefusedGpus
//! ```
//! Hopper is validated with evidence of hardware; Blackwell, NVSwitches, the newer opaque data, DICE flags and OCSP are written
//! from specifications and NVIDIA's own sources, and a verdict in which one takes part says "not validated on hardware".
//! Deliberately absent: NVIDIA's remote attestation service, and manifests as CoRIM.

mod appraise;
mod ask;
mod collateral;
mod device;
mod dice;
mod driver;
mod error;
mod forms;
mod manifest;
mod measured;
mod ocsp;
mod opaque;
mod policy;
mod revocation;
mod rim;
mod set;
mod spdm;
mod verdict;
mod x509;
mod xml;

pub use appraise::{AppraisedGpus, GpuInputs, RefusedGpus, SystemState, appraise_gpus, verify_gpus};
pub use ask::{OcspRequest, ocsp_requests};
pub use collateral::{GpuCollateral, MAX_GPU_COLLATERAL};
pub use driver::{GpuDriver, GpuDriverError, GpuStatus, NoGpus};
pub use error::GpuError;
pub use forms::{DeviceEvidence, MAX_DEVICES, MAX_ENVELOPE, read_chain, read_report, read_rim, to_pem};
pub use ocsp::{MAX_OCSP, OcspResponse};
pub use opaque::{DeviceKind, Mode, Opaque, Toggle};
pub use policy::{
    GpuFloor, GpuPlatform, GpuPolicy, GpuPolicyError, GpuSettings, NVIDIA_DEVICE_ROOT, NVIDIA_RIM_ROOT,
};
pub use rim::{Golden, Rim};
pub use spdm::{MAX_REPORT, Measurement, Report};
pub use verdict::{
    Architecture, DeviceFacts, GpuCheck, GpuCheckName, GpuVerdict, MeasurementFact, NOT_VALIDATED,
};
