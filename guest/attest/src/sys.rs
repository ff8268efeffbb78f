//! What has no safe wrapper: two system calls of TDX and vsock, and one function of a C library.

#[cfg(feature = "gpu")]
pub(crate) mod nvml;
pub(crate) mod tdx;
