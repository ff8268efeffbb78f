//! GPUs through NVML, NVIDIA's management library, which the image carries and which is opened when first asked for something.
//!
//! ```text
//! dlopen libnvidia-ml.so.1 -> nvmlInit -> count -> report and certificate of each device
//!                                              \-> state of the machine, ready state
//! ```
//! A library, driver or device that is not there is a fact in words, never a panic: the binding's own slices trust the lengths
//! that the driver gives, so each call is made where a panic ends.
//!
//! Not validated on hardware: written from NVML's header (nvml.h of driver 550) and the documentation of nvml-wrapper 0.13.
//! Deliberately absent: NVSwitches, whose evidence NVML does not have, and with them machines under protected PCIe.

use crate::sys::nvml as system;
use evidence::gpu::{DeviceEvidence, GpuDriver, GpuDriverError, GpuStatus, SystemState};
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

/// As the driver's package names it; found by the dynamic loader.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// Bytes of a MiB.
const MIB: u64 = 1024 * 1024;

/// NVML, opened once it is needed. One call at a time.
pub(super) struct Nvml {
    library: &'static str,
    opened: Mutex<Option<nvml_wrapper::Nvml>>,
}

impl Default for Nvml {
    fn default() -> Self {
        Nvml { library: LIBRARY, opened: Mutex::default() }
    }
}

impl Nvml {
    /// Runs with the library. It is opened anew after a failure to open: devices may come up later than we.
    fn with<T>(
        &self,
        what: &'static str,
        run: impl FnOnce(&nvml_wrapper::Nvml) -> Result<T, NvmlError>,
    ) -> Result<T, GpuDriverError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let nvml = match opened.take() {
            Some(nvml) => nvml,
            None => {
                let init = || nvml_wrapper::Nvml::builder().lib_path(OsStr::new(self.library)).init();
                unwound(what, init)?.map_err(|error| self.lacks(&error))?
            }
        };
        let result = unwound(what, || run(opened.insert(nvml)))?;
        result.map_err(|error| failed(what, &error))
    }

    /// What lacks, and what to do about it.
    fn lacks(&self, error: &NvmlError) -> GpuDriverError {
        let (lacks, next) = match error {
            NvmlError::LibloadingError(error) => (
                format!("{} cannot be opened ({error})", self.library),
                "boot the image of the GPU profile, whole",
            ),
            NvmlError::DriverNotLoaded => (
                "the kernel module nvidia is not loaded, or found no device".into(),
                "pass a GPU through to this guest, in confidential mode (`chrysalis gpu apply`)",
            ),
            NvmlError::NoPermission => (
                "the device nodes /dev/nvidia* can't be opened".into(),
                "the first service makes them; see why it did not",
            ),
            NvmlError::LibRmVersionMismatch => (
                "kernel module and libnvidia-ml are of different versions".into(),
                "build the image from one driver package",
            ),
            other => (format!("NVML does not start ({other})"), "see what the kernel says of the device"),
        };
        GpuDriverError::NoGpu { lacks, next }
    }
}

/// All devices, in the order of NVML, which is that of the PCI bus.
fn each<'a, T>(
    nvml: &'a nvml_wrapper::Nvml,
    run: impl FnMut(Device<'a>) -> Result<T, NvmlError>,
) -> Result<Vec<T>, NvmlError> {
    let count = nvml.device_count()?;
    (0..count)
        .map(|index| nvml.device_by_index(index))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .map(run)
        .collect()
}

impl GpuDriver for Nvml {
    fn count(&self) -> Result<usize, GpuDriverError> {
        match self.with("the count of GPUs", |nvml| nvml.device_count())? {
            0 => Err(self.lacks(&NvmlError::DriverNotLoaded)),
            count => Ok(usize::try_from(count).unwrap_or(usize::MAX)),
        }
    }

    fn evidence(&self, nonce: &[u8; 32]) -> Result<Vec<DeviceEvidence>, GpuDriverError> {
        const WHAT: &str = "an attestation report";
        let taken = self.with(WHAT, |nvml| {
            each(nvml, |mut device| {
                // Else the device forgets what it agreed with this guest when the last program closes it, and this one ends.
                device.set_persistent(true)?;
                let report = device.confidential_compute_gpu_attestation_report(*nonce)?;
                let certificates = device.confidential_compute_gpu_certificate()?;
                Ok((report.attestation_report, certificates.attestation_cert_chain))
            })
        })?;
        let read = |(report, chain): (Vec<u8>, Vec<u8>)| {
            DeviceEvidence::read(&report, trimmed(&chain))
                .map_err(|error| GpuDriverError::Failed { what: WHAT, why: error.to_string() })
        };
        taken.into_iter().map(read).collect()
    }

    fn system(&self) -> Result<SystemState, GpuDriverError> {
        let devtools = self
            .with("the confidential settings", |nvml| each(nvml, |device| device.is_cc_dev_mode_enabled()))?;
        let (cc, production) = system::state(self.library)?;
        Ok(SystemState { cc, devtools: devtools.contains(&true), production })
    }

    fn set_ready(&self, ready: bool) -> Result<(), GpuDriverError> {
        let what = if ready { "setting GPUs ready" } else { "setting GPUs not ready" };
        // It holds for all GPUs of the machine, whichever is asked.
        self.with(what, |nvml| nvml.device_by_index(0)?.set_confidential_compute_state(ready))?;
        let is = self.with(what, |nvml| nvml.device_by_index(0)?.get_confidential_compute_state())?;
        if is == ready {
            return Ok(());
        }
        Err(GpuDriverError::Failed { what, why: format!("the ready state is {is} all the same") })
    }

    fn status(&self) -> Result<Vec<GpuStatus>, GpuDriverError> {
        self.with("the state of GPUs", |nvml| {
            each(nvml, |device| {
                Ok(GpuStatus {
                    ready: device.get_confidential_compute_state()?,
                    celsius: device.temperature(TemperatureSensor::Gpu).ok(),
                    used_mib: device.memory_info().ok().map(|memory| memory.used / MIB),
                })
            })
        })
    }
}

/// Text of C may end in zeros.
fn trimmed(chain: &[u8]) -> &[u8] {
    let end = chain.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    // DER may end in zeros of its own; PEM is text.
    if chain.starts_with(b"-----BEGIN") { &chain[..end] } else { chain }
}

/// Ends a panic of the binding here.
fn unwound<T>(what: &'static str, run: impl FnOnce() -> T) -> Result<T, GpuDriverError> {
    let why = || "the library's answer can't be read".into();
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| GpuDriverError::Failed { what, why: why() })
}

fn failed(what: &'static str, error: &NvmlError) -> GpuDriverError {
    GpuDriverError::Failed { what, why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_told_by_name_whatever_is_asked() {
        let nvml = Nvml { library: "libchrysalis-absent.so.1", ..Nvml::default() };
        let errors = [
            nvml.count().unwrap_err(),
            nvml.evidence(&[0; 32]).unwrap_err(),
            nvml.system().unwrap_err(),
            nvml.set_ready(true).unwrap_err(),
            nvml.status().unwrap_err(),
        ];
        for error in errors {
            let text = error.to_string();
            assert!(text.starts_with("no GPU: libchrysalis-absent.so.1 cannot be opened"), "{text}");
        }
    }

    #[test]
    fn this_machine_without_a_gpu_says_so() {
        let Err(error) = Nvml::default().count() else {
            eprintln!("SKIPPED: this machine has a GPU");
            return;
        };
        assert!(error.to_string().starts_with("no GPU: "), "{error}");
    }

    #[test]
    fn a_panic_of_the_binding_is_an_error() {
        let short = [0_u8; 4];
        let error = unwound("a slice", || short[..std::hint::black_box(9)].to_vec()).unwrap_err();
        assert!(matches!(error, GpuDriverError::Failed { what: "a slice", .. }), "{error}");
    }

    #[test]
    fn zeros_behind_a_text_are_no_part_of_it() {
        assert_eq!(trimmed(b"-----BEGIN x\n\0\0"), b"-----BEGIN x\n");
        assert_eq!(trimmed(&[0x30, 1, 0]), [0x30, 1, 0]);
        assert_eq!(trimmed(b""), b"");
    }
}
