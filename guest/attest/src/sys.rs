//! What has no safe wrapper: two system calls of TDX and vsock, and one function of a C library.
#![allow(
    unsafe_code,
    reason = "rustix has neither TDX's ioctl nor vsock addresses, nvml-wrapper not the environment of confidential computing"
)]

#[cfg(feature = "gpu")]
pub(crate) mod nvml;
pub(crate) mod tdx;
