//! Attester of a TDX guest: quotes, the firmware's event log and the guest's own.
//!
//! ```text
//! quote: the host's quoting service over vsock (qgs.rs), where the guest has TDX's device and a way to it
//!        else configfs-tsm (tsm.rs), by reading and writing files: slower, and always there
//! GPUs:  NVML, in images that carry it (gpu.rs)
//! ```
//! A simulated platform is reached through the very files of configfs-tsm, so there is no code here that knows of one.
//! Nothing here has a thread: quotes are asked for on the caller's, which is why callers have a queue.
//!
//! Deliberately absent: judging a quote (that is `evidence`), extending any register but RTMR3.

pub mod gpu;
pub mod qgs;
pub mod quote;
pub mod rtmr;
#[allow(
    unsafe_code,
    reason = "rustix has neither TDX's ioctl nor vsock addresses, nvml-wrapper not the environment of confidential computing"
)]
mod sys;
mod tsm;

use protocol::evidence::{EventLog, LogFormat, MAX_EVENT_LOG};
use protocol::runtime::MAX_RECORD;
use protocol::{AttestError, Attester};
use qgs::Qgs;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the quoting service is left alone after it failed.
const PAUSE: Duration = Duration::from_secs(60);

/// Quotes from the host's quoting service or configfs-tsm, event logs from ACPI or, where a platform measures into a TPM,
/// from securityfs.
#[derive(Debug, Clone)]
pub struct TsmAttester {
    /// Where report entries are made; `/sys/kernel/config/tsm/report`.
    pub base: PathBuf,
    /// The event log that the CCEL ACPI table points to (ACPI 6.5 section 5.2.34), as the kernel shows it.
    pub ccel: PathBuf,
    /// The TPM event log, read where there is no CCEL.
    pub tpm_log: PathBuf,
    /// The record of the guest's own events, as the first service left it.
    pub runtime: PathBuf,
    /// How long one quote may take through configfs-tsm. The kernel itself gives up on the host after 30 s.
    pub deadline: Duration,
    /// The service to ask first; `None` for configfs-tsm alone.
    pub qgs: Option<Qgs>,
    /// When the service failed last, and how; shared by clones.
    pub failed: Arc<Mutex<Option<(Instant, String)>>>,
}

impl Default for TsmAttester {
    fn default() -> Self {
        TsmAttester::at("/sys/kernel/config/tsm/report")
    }
}

impl TsmAttester {
    /// With report entries in another folder, all else as by default.
    pub fn at(base: impl Into<PathBuf>) -> Self {
        TsmAttester {
            base: base.into(),
            ccel: "/sys/firmware/acpi/tables/data/CCEL".into(),
            tpm_log: "/sys/kernel/security/tpm0/binary_bios_measurements".into(),
            runtime: protocol::names::RUNTIME_RECORD.into(),
            deadline: Duration::from_secs(40),
            qgs: Some(Qgs::default()),
            failed: Arc::default(),
        }
    }

    /// Why the quoting service is left alone at the moment, in words; `None` if it is asked.
    pub fn passed_over(&self) -> Option<String> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().filter(|(at, _)| at.elapsed() < PAUSE).map(|(_, reason)| reason.clone())
    }

    /// From the quoting service; `None` if it is left alone or fails.
    fn directly(&self, report_data: &[u8; 64]) -> Option<Vec<u8>> {
        let qgs = self.qgs.as_ref()?;
        if self.passed_over().is_some() {
            return None;
        }
        let made = qgs.quote(report_data).map_err(|e| e.to_string());
        match made.and_then(|quote| tsm::check_report_data(&quote, report_data).map(|()| quote)) {
            Ok(quote) => Some(quote),
            Err(reason) => {
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                *failed = Some((Instant::now(), reason));
                None
            }
        }
    }
}

impl Attester for TsmAttester {
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        match self.directly(report_data) {
            Some(quote) => Ok(quote),
            None => tsm::quote(&self.base, report_data, self.deadline),
        }
    }

    fn event_log(&self) -> Result<EventLog, AttestError> {
        let (format, read) = match read_bounded(&self.ccel, MAX_EVENT_LOG) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                (LogFormat::Tpm, read_bounded(&self.tpm_log, MAX_EVENT_LOG))
            }
            other => (LogFormat::Ccel, other),
        };
        let (ccel, tpm) = (self.ccel.display(), self.tpm_log.display());
        let refused = |reason| AttestError::Refused { step: "event log", reason };
        let bytes = read.map_err(|e| refused(format!("{ccel}, else {tpm}: {e}")))?;
        if bytes.is_empty() {
            return Err(refused(format!("{ccel}, else {tpm}: expected an event log, found an empty file")));
        }
        Ok(EventLog { format, bytes })
    }

    fn runtime(&self) -> Result<Vec<u8>, AttestError> {
        read_bounded(&self.runtime, MAX_RECORD).map_err(|e| AttestError::Refused {
            step: "runtime record",
            reason: format!("{}: {e}", self.runtime.display()),
        })
    }
}

/// All bytes of a file that has at most `max`. Files of configfs, securityfs and sysfs state no true length beforehand.
fn read_bounded(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {max} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn attester(dir: &Path) -> TsmAttester {
        let (ccel, tpm_log, runtime) = (dir.join("CCEL"), dir.join("tpm"), dir.join("runtime"));
        TsmAttester { ccel, tpm_log, runtime, ..TsmAttester::at(dir) }
    }

    #[test]
    fn ccel_is_preferred_and_the_tpm_log_is_the_other_choice() {
        let dir = tempfile::tempdir().unwrap();
        let attester = attester(dir.path());
        assert!(attester.event_log().unwrap_err().to_string().contains("CCEL"));
        fs::write(&attester.tpm_log, "tpm").unwrap();
        assert_eq!(attester.event_log().unwrap().format, LogFormat::Tpm);
        fs::write(&attester.ccel, "cc").unwrap();
        assert_eq!(
            attester.event_log().unwrap(),
            EventLog { format: LogFormat::Ccel, bytes: b"cc".to_vec() }
        );
    }

    #[test]
    fn the_runtime_record_is_what_was_left_and_a_missing_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let attester = attester(dir.path());
        let text = attester.runtime().unwrap_err().to_string();
        assert!(text.contains("step `runtime record`") && text.contains("runtime: No such file"), "{text}");
        fs::write(&attester.runtime, "record").unwrap();
        assert_eq!(attester.runtime().unwrap(), b"record");
    }

    #[test]
    fn an_empty_or_boundless_event_log_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let attester = attester(dir.path());
        for size in [0, MAX_EVENT_LOG + 1] {
            fs::write(&attester.ccel, vec![1; size]).unwrap();
            assert!(matches!(attester.event_log(), Err(AttestError::Refused { step: "event log", .. })));
        }
    }

    #[test]
    fn without_a_quoting_service_configfs_is_asked_and_the_reason_kept() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("tdx_guest");
        let qgs = Some(Qgs { device: device.clone(), ..Qgs::default() });
        let attester = TsmAttester { qgs, ..TsmAttester::at(dir.path().join("absent")) };
        assert!(matches!(attester.quote(&[0; 64]), Err(AttestError::NoProvider { .. })));
        let reason = attester.passed_over().unwrap();
        assert!(reason.contains("no TDREPORT") && reason.contains("tdx_guest"), "{reason}");
        // It is left alone now: nothing is asked of the device, which has become another file meanwhile.
        fs::write(&device, "").unwrap();
        assert!(attester.quote(&[0; 64]).is_err());
        assert_eq!(attester.passed_over().unwrap(), reason);
    }
}
