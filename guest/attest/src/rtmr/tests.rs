//! A thread plays the kernel's file: what is written extends.

use super::*;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A file of RTMR3 that extends what is written to it, until dropped.
struct Kernel {
    dir: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Kernel {
    /// `answer`: the register after a digest was written to it.
    fn start(answer: fn(Digest384, Digest384) -> Digest384) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rtmr3");
        fs::write(&path, [0; 48]).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut value = Digest384::ZERO;
            while !stopping.load(Ordering::Relaxed) {
                let found = <[u8; 48]>::try_from(fs::read(&path).unwrap()).map(Digest384);
                if let Ok(digest) = found
                    && digest != value
                {
                    value = answer(value, digest);
                    // As a whole, so that no reader sees half of it.
                    fs::write(path.with_extension("new"), value.0).unwrap();
                    fs::rename(path.with_extension("new"), &path).unwrap();
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Kernel { dir, stop, thread: Some(thread) }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("rtmr3")
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn extended(mut value: Digest384, digest: Digest384) -> Digest384 {
    value.extend(&digest);
    value
}

fn measure(path: &Path) -> Result<RuntimeRecord, MeasureError> {
    let mut measurer = Measurer::begin(path, Digest384([1; 48]))?;
    measurer.model("one", [2; 32])?;
    measurer.model("two", [3; 32])?;
    measurer.gpu(GpuEvidence::none())?;
    measurer.seal()
}

#[test]
fn the_register_holds_the_fold_of_the_sealed_log() {
    let kernel = Kernel::start(extended);
    let record = measure(&kernel.path()).unwrap();
    assert_eq!(record.extension, Extension::Extended);
    assert_eq!(record.log.events().len(), 5);
    assert_eq!(fs::read(kernel.path()).unwrap(), record.log.rtmr3().0);
    assert_eq!(RuntimeRecord::from_bytes(&record.to_bytes()).unwrap(), record);
}

#[test]
fn without_the_kernels_file_the_record_says_not_extended() {
    let dir = tempfile::tempdir().unwrap();
    let record = measure(&dir.path().join("rtmr3")).unwrap();
    assert_eq!(record.extension, Extension::NotExtended);
    assert_eq!(record.log.events().len(), 5);
}

#[test]
fn a_register_that_was_used_before_us_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rtmr3");
    for (content, found) in [(vec![7; 48], "0707"), (vec![0; 47], "47 bytes"), (vec![], "0 bytes")] {
        fs::write(&path, content).unwrap();
        let text = measure(&path).unwrap_err().to_string();
        assert!(text.contains("expected RTMR3 to be 0000") && text.contains(found), "{text}");
    }
}

#[test]
fn a_file_that_can_not_be_read_is_no_missing_file() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(measure(dir.path()), Err(MeasureError::File { what: "read", .. })));
}

#[test]
fn a_register_that_shows_something_else_ends_the_boot() {
    let kernel = Kernel::start(|_, _| Digest384([9; 48]));
    let text = measure(&kernel.path()).unwrap_err().to_string();
    assert!(text.contains("found 0909") && text.contains("something else extended it"), "{text}");
}
