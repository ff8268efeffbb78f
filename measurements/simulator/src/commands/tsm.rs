//! Plays configfs-tsm (Linux `Documentation/ABI/testing/configfs-tsm-report`) with ordinary files.
//!
//! ```text
//! mkdir ENTRY          -> inblob, outblob, generation = 0, provider = tdx_guest appear
//! 64 bytes to inblob   -> outblob holds the quote, then generation goes up by one
//! rmdir ENTRY          -> forgotten
//! ```
//! A reader that waits for `generation` never sees half a quote: files are replaced as a whole, `generation` last.
//! `provider` appears last of all, so that an entry that names its provider is complete.

use anyhow::{Context, Result};
use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const REPORT_DATA: usize = 64;
const BUSY: Duration = Duration::from_millis(2);
const IDLE: Duration = Duration::from_millis(5);

/// The entries of one folder.
pub struct Entries {
    base: PathBuf,
    known: HashMap<PathBuf, Entry>,
}

struct Entry {
    generation: u64,
    /// Modification time of the `inblob` that was answered last.
    answered: SystemTime,
}

impl Entries {
    /// Plays in this folder.
    pub fn new(base: PathBuf) -> Self {
        Entries { base, known: HashMap::new() }
    }

    /// Looks at every entry once; `sign` makes a quote over report data. Returns how long to wait before the next look.
    pub fn serve(&mut self, sign: &mut dyn FnMut(&[u8; REPORT_DATA]) -> Result<Vec<u8>>) -> Result<Duration> {
        let listing =
            fs::read_dir(&self.base).with_context(|| format!("cannot list {}", self.base.display()))?;
        let mut present = Vec::new();
        for entry in listing {
            let entry = entry.with_context(|| format!("cannot list {}", self.base.display()))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                present.push(entry.path());
            }
        }
        self.known.retain(|path, _| present.contains(path));
        for path in &present {
            match self.look(path, sign) {
                Err(error) if gone(&error) => {}
                other => other.with_context(|| format!("entry {}", path.display()))?,
            }
        }
        Ok(if present.is_empty() { IDLE } else { BUSY })
    }

    fn look(
        &mut self,
        path: &Path,
        sign: &mut dyn FnMut(&[u8; REPORT_DATA]) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let inblob = path.join("inblob");
        let Some(entry) = self.known.get_mut(path) else {
            for (name, content) in [("inblob", ""), ("outblob", ""), ("generation", "0\n")] {
                fs::write(path.join(name), content)?;
            }
            let answered = fs::metadata(&inblob)?.modified()?;
            self.known.insert(path.to_owned(), Entry { generation: 0, answered });
            return Ok(replace(path, "provider", b"tdx_guest\n")?);
        };
        let written = fs::metadata(&inblob)?.modified()?;
        let content = fs::read(&inblob)?;
        let Ok(report_data) = <[u8; REPORT_DATA]>::try_from(content.as_slice()) else { return Ok(()) };
        // The first write may fall into the very tick in which the file was made.
        if written == entry.answered && entry.generation > 0 {
            return Ok(());
        }
        let quote = sign(&report_data)?;
        replace(path, "outblob", &quote)?;
        entry.answered = written;
        entry.generation += 1;
        Ok(replace(path, "generation", format!("{}\n", entry.generation).as_bytes())?)
    }
}

/// Replaces a file as a whole.
fn replace(entry: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let new = entry.join(format!(".{name}"));
    fs::write(&new, content)?;
    fs::rename(&new, entry.join(name))
}

/// An entry may be removed at any time.
fn gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == ErrorKind::NotFound)
}
