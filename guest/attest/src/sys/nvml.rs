//! The one call of NVML that its safe binding does not have: whether the environment is one of production.
//!
//! The binding only tells whether it is that *and* the GPUs are ready, which is too late for a verifier. The library is opened a
//! second time, which gives the same one: it must have been initialised before.

use evidence::gpu::GpuDriverError;
use nvml_wrapper_sys::bindings::{
    NVML_CC_SYSTEM_ENVIRONMENT_PROD, NVML_CC_SYSTEM_FEATURE_ENABLED, NvmlLib, nvmlConfComputeSystemState_t,
    nvmlReturn_enum_NVML_SUCCESS,
};

/// Whether confidential computing is on, and whether it is in production and no simulation (`nvmlSystemGetConfComputeState`).
pub(crate) fn state(library: &str) -> Result<(bool, bool), GpuDriverError> {
    let failed = |why: String| GpuDriverError::Failed { what: "the confidential state", why };
    // SAFETY: the dynamic loader runs the library's constructors; it is the measured image's own, and was loaded before by
    // this name with the very same effect.
    let lib = unsafe { NvmlLib::new(library) }.map_err(|error| failed(error.to_string()))?;
    let ask = lib.nvmlSystemGetConfComputeState.as_ref().map_err(|error| failed(error.to_string()))?;
    let mut state = nvmlConfComputeSystemState_t { environment: 0, ccFeature: 0, devToolsMode: 0 };
    // SAFETY: the function takes a pointer to this very structure (nvml.h), which is ours and lives until it returns.
    let code = unsafe { ask(&mut state) };
    if code != nvmlReturn_enum_NVML_SUCCESS {
        return Err(failed(format!("NVML says {code}")));
    }
    let production = state.environment == NVML_CC_SYSTEM_ENVIRONMENT_PROD;
    Ok((state.ccFeature == NVML_CC_SYSTEM_FEATURE_ENABLED, production))
}
