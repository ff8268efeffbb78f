//! Hosts in text: TOML with one table of answers, played and recorded.
//!
//! ```toml
//! schema = 1
//! about = "constructed: ..." # or where it was taken from
//! base = "good.toml"         # what this file does not answer is answered by that one, beside it
//! [answers]
//! "file /sys/module/kvm_intel/parameters/tdx" = "Y"
//! "msr 0x982" = { miss = "denied" }
//! ```

use super::redact::{redact, redact_cmdline};
use super::{Answer, Host, Miss, Question};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Largest fixture in bytes.
const MAX_FIXTURE: u64 = 4 << 20;
/// Longest chain of bases.
const MAX_BASES: usize = 4;

/// Why a fixture was refused.
#[derive(Debug, thiserror::Error)]
pub enum FixtureError {
    /// It can't be read or written.
    #[error("host file {path}: {source}; name a file that `chrysalis doctor --record` wrote", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: std::io::Error,
    },
    /// It is not of this form.
    #[error("host file {path}: {reason}", path = path.display())]
    Form {
        /// Which.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema: u32,
    about: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    answers: BTreeMap<String, Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Entry {
    Text(String),
    Miss { miss: String },
}

impl From<&Answer> for Entry {
    fn from(answer: &Answer) -> Self {
        let miss = match answer {
            Ok(text) => return Entry::Text(text.clone()),
            Err(Miss::Absent) => "absent".into(),
            Err(Miss::Denied) => "denied".into(),
            Err(Miss::Late) => "late".into(),
            Err(Miss::NotRecorded) => "not recorded".into(),
            Err(Miss::OtherKind(kind)) => format!("other kind: {kind}"),
            Err(Miss::Failed(why)) => format!("failed: {why}"),
        };
        Entry::Miss { miss }
    }
}

impl From<Entry> for Answer {
    fn from(entry: Entry) -> Self {
        let miss = match entry {
            Entry::Text(text) => return Ok(text),
            Entry::Miss { miss } => miss,
        };
        Err(match miss.split_once(": ") {
            Some(("other kind", kind)) => Miss::OtherKind(kind.into()),
            Some(("failed", why)) => Miss::Failed(why.into()),
            _ => match miss.as_str() {
                "absent" => Miss::Absent,
                "denied" => Miss::Denied,
                "late" => Miss::Late,
                "not recorded" => Miss::NotRecorded,
                _ => Miss::Failed(miss),
            },
        })
    }
}

/// A host that was written down.
#[derive(Debug, Clone)]
pub struct Recorded {
    about: String,
    answers: BTreeMap<String, Answer>,
}

impl Recorded {
    /// Reads a host file and those that it stands on.
    pub fn read(path: &Path) -> Result<Self, FixtureError> {
        Self::read_above(path, MAX_BASES)
    }

    fn read_above(path: &Path, bases: usize) -> Result<Self, FixtureError> {
        let file = |source| FixtureError::File { path: path.into(), source };
        let size = std::fs::metadata(path).map_err(file)?.len();
        if size > MAX_FIXTURE {
            let reason = format!("{size} bytes, at most {MAX_FIXTURE} expected");
            return Err(FixtureError::Form { path: path.into(), reason });
        }
        let text = std::fs::read_to_string(path).map_err(file)?;
        let form = |reason| FixtureError::Form { path: path.into(), reason };
        let (mut host, base) = Self::parse(&text).map_err(form)?;
        let Some(base) = base else { return Ok(host) };
        if base.contains('/') || bases == 0 {
            return Err(form(format!(
                "base `{base}`: name a file in the same folder, at most {MAX_BASES} deep"
            )));
        }
        let below = Self::read_above(&path.with_file_name(base), bases - 1)?;
        for (question, answer) in below.answers {
            host.answers.entry(question).or_insert(answer);
        }
        Ok(host)
    }

    /// A host from text, and the name of the file that it stands on.
    pub fn parse(text: &str) -> Result<(Self, Option<String>), String> {
        let document: Document = toml::from_str(text).map_err(|e| e.to_string())?;
        if document.schema != 1 {
            return Err(format!("schema {}, expected 1", document.schema));
        }
        let answers =
            document.answers.into_iter().map(|(question, entry)| (question, entry.into())).collect();
        Ok((Recorded { about: document.about, answers }, document.base))
    }

    /// Where it is from.
    pub fn about(&self) -> &str {
        &self.about
    }
}

impl Host for Recorded {
    fn ask(&self, question: &Question) -> Answer {
        self.answers.get(&question.to_string()).cloned().unwrap_or(Err(Miss::NotRecorded))
    }
}

/// Passes questions on to another host and remembers the answers, without what names a machine.
#[derive(Debug)]
pub struct Recorder<H> {
    host: H,
    name: String,
    answers: Mutex<BTreeMap<String, Entry>>,
}

impl<H: Host> Recorder<H> {
    /// Records what is asked of `host`.
    pub fn new(host: H) -> Self {
        let name = host.ask(&Question::File("/proc/sys/kernel/hostname".into())).unwrap_or_default();
        Recorder { host, name: name.trim().to_owned(), answers: Mutex::default() }
    }

    /// The host file, of what was answered so far.
    pub fn document(&self, about: &str) -> Result<String, String> {
        let answers = std::mem::take(&mut *self.answers.lock().unwrap_or_else(|e| e.into_inner()));
        let document = Document { schema: 1, about: redact(about, &self.name), base: None, answers };
        toml::to_string_pretty(&document).map_err(|e| e.to_string())
    }

    fn redacted(&self, question: &Question, answer: &Answer) -> Answer {
        let redact = |text: &str| redact(text, &self.name);
        match (question, answer) {
            // Registers and CPUID leaves name nothing; a variable's bytes would be taken for an identifier.
            (Question::Msr(_) | Question::Cpuid(..) | Question::Hex(_) | Question::Register(..), _) => {
                answer.clone()
            }
            (Question::File(path), Ok(text)) if path == "/proc/cmdline" => Ok(redact_cmdline(text)),
            (_, Ok(text)) => Ok(redact(text)),
            (_, Err(Miss::Failed(why))) => Err(Miss::Failed(redact(why))),
            (_, Err(_)) => answer.clone(),
        }
    }
}

impl<H: Host> Host for Recorder<H> {
    fn ask(&self, question: &Question) -> Answer {
        let key = redact(&question.to_string(), &self.name);
        let write = |answer: &Answer| {
            let mut answers = self.answers.lock().unwrap_or_else(|e| e.into_inner());
            answers.insert(key.clone(), answer.into());
        };
        // Should it never come back, that is what the recording says.
        write(&Err(Miss::Late));
        let answer = self.host.ask(question);
        write(&self.redacted(question, &answer));
        answer
    }
}
