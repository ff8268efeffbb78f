//! Plays the kernel's side of configfs-tsm with ordinary files and a thread.

use super::*;
use crate::quote::tests::sample;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

/// Answers each entry that appears under a folder until dropped.
struct Kernel {
    dir: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

/// What to do with the n-th entry (from 0) once its inblob is written: the generation and the quote to show.
type Answer = fn(nth: usize, inblob: &[u8]) -> (u64, Vec<u8>);

impl Kernel {
    fn start(provider: &'static str, answer: Answer) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (base, stopping) = (dir.path().to_owned(), stop.clone());
        let thread = std::thread::spawn(move || serve(&base, provider, answer, &stopping));
        Kernel { dir, stop, thread: Some(thread) }
    }

    fn quote(&self, millis: u64) -> Result<Vec<u8>, AttestError> {
        super::quote(self.dir.path(), &[7; 64], Duration::from_millis(millis))
    }

    /// How many entries were served.
    fn served(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn serve(base: &Path, provider: &str, answer: Answer, stop: &AtomicBool) -> usize {
    let mut served = 0;
    // Remembered rather than looked up: an entry that is being removed must not be filled again.
    let mut made = std::collections::HashSet::new();
    let mut done = std::collections::HashSet::new();
    while !stop.load(Ordering::Relaxed) {
        for entry in fs::read_dir(base).into_iter().flatten().flatten().map(|e| e.path()) {
            if made.insert(entry.clone()) {
                for (file, text) in
                    [("inblob", ""), ("outblob", ""), ("generation", "0\n"), ("provider", provider)]
                {
                    let _ = fs::write(entry.join(file), text);
                }
            }
            let inblob = fs::read(entry.join("inblob")).unwrap_or_default();
            if inblob.len() == 64 && done.insert(entry.clone()) {
                let (generation, quote) = answer(served, &inblob);
                served += 1;
                let _ = fs::write(entry.join("new"), quote);
                let _ = fs::rename(entry.join("new"), entry.join("outblob"));
                let _ = fs::write(entry.join("new"), format!("{generation}\n"));
                let _ = fs::rename(entry.join("new"), entry.join("generation"));
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    served
}

#[test]
fn a_quote_over_the_report_data_is_returned_and_the_entry_removed() {
    let kernel = Kernel::start("tdx_guest\n", |_, inblob| (1, sample(4, inblob)));
    assert_eq!(kernel.quote(5000).unwrap(), sample(4, &[7; 64]));
    assert_eq!(fs::read_dir(kernel.dir.path()).unwrap().count(), 0);
}

#[test]
fn a_generation_that_changed_under_us_is_retried() {
    let kernel =
        Kernel::start("tdx_guest\n", |nth, inblob| (if nth == 0 { 2 } else { 1 }, sample(5, inblob)));
    assert_eq!(kernel.quote(5000).unwrap(), sample(5, &[7; 64]));
    assert_eq!(kernel.served(), 2);
}

#[test]
fn a_generation_that_always_changes_ends_in_a_timeout() {
    let kernel = Kernel::start("tdx_guest\n", |_, inblob| (9, sample(4, inblob)));
    assert!(matches!(kernel.quote(200), Err(AttestError::Timeout { .. })));
}

#[test]
fn a_quote_over_other_report_data_is_refused() {
    let kernel = Kernel::start("tdx_guest\n", |_, _| (1, sample(4, &[8; 64])));
    assert!(matches!(kernel.quote(5000), Err(AttestError::Refused { step: "quote", .. })));
}

#[test]
fn bytes_that_are_no_quote_are_refused() {
    let kernel = Kernel::start("tdx_guest\n", |_, _| (1, b"hello".to_vec()));
    assert!(matches!(kernel.quote(5000), Err(AttestError::Refused { step: "quote", .. })));
}

#[test]
fn a_boundless_quote_is_refused() {
    let kernel = Kernel::start("tdx_guest\n", |_, _| (1, vec![0; MAX_QUOTE + 1]));
    assert!(matches!(kernel.quote(5000), Err(AttestError::Refused { step: "outblob", .. })));
}

#[test]
fn another_provider_is_refused_by_name() {
    let kernel = Kernel::start("sev_guest\n", |_, inblob| (1, sample(4, inblob)));
    let text = kernel.quote(5000).unwrap_err().to_string();
    assert!(text.contains("expected provider `tdx_guest`, found `sev_guest`"), "{text}");
}

#[test]
fn without_configfs_there_is_no_provider() {
    let dir = tempfile::tempdir().unwrap();
    let error = super::quote(&dir.path().join("absent"), &[0; 64], Duration::from_secs(1)).unwrap_err();
    assert!(matches!(error, AttestError::NoProvider { .. }), "{error}");
}

#[test]
fn silence_ends_in_a_timeout() {
    let silent = tempfile::tempdir().unwrap();
    let no_files = super::quote(silent.path(), &[0; 64], Duration::from_millis(50));
    assert!(matches!(no_files, Err(AttestError::Timeout { millis: 50 })));
    let kernel = Kernel::start("tdx_guest\n", |_, _| (1, Vec::new()));
    assert!(matches!(kernel.quote(100), Err(AttestError::Timeout { millis: 100 })));
}
