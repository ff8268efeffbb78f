//! Texts to token ids, within what the model can take in, and token ids of several texts laid end to end.

use crate::error::{EngineError, shorten};
use crate::files;
use crate::wordpiece::{FRAME, OtherPart, Refusal, Tokenizer};
use std::path::{Path, PathBuf};

/// Largest tokenizer.json that is read, in bytes.
const MAX_TOKENIZER: u64 = 64 * 1024 * 1024;
/// Longest text that is tokenized, in bytes; far more than any supported model can take in.
pub const MAX_TEXT_BYTES: usize = 256 * 1024;

/// Tokens of several texts, one behind the other, without padding.
#[derive(Default)]
pub(crate) struct Packed {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Number of tokens of each text, none of them 0; their sum is `ids.len()`.
    pub lengths: Vec<usize>,
}

impl Packed {
    /// Appends one text.
    pub fn push(&mut self, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
        self.lengths.push(ids.len());
    }
}

/// What a model can take in.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Most tokens of a text, special tokens included.
    pub tokens: usize,
    /// Number of token ids.
    pub vocabulary: usize,
}

/// A tokenizer set up for one model.
pub(crate) struct TextTokenizer {
    path: PathBuf,
    tokenizer: Tokenizer,
    limits: Limits,
    lower_case: bool,
}

impl TextTokenizer {
    /// Loads `tokenizer.json` of a folder.
    pub fn load(dir: &Path, limits: Limits, lower_case: bool) -> Result<Self, EngineError> {
        let path = dir.join("tokenizer.json");
        let bytes = files::read(&path, "it turns text into tokens", MAX_TOKENIZER)?;
        let tokenizer = Tokenizer::read(&bytes).map_err(|refusal| match refusal {
            Refusal::Json(source) => EngineError::Json { path: path.clone(), source },
            Refusal::Fault(reason) => fault(&path, &reason),
            Refusal::Other(OtherPart { what, found, supported }) => EngineError::Unsupported {
                path: path.clone(),
                what,
                found: shorten(&found),
                supported: supported.into(),
            },
        })?;
        if limits.tokens <= FRAME {
            let max = limits.tokens;
            return Err(fault(
                &path,
                &format!("frames a text with {FRAME} tokens, the model takes {max} in all"),
            ));
        }
        Ok(TextTokenizer { path, tokenizer, limits, lower_case })
    }

    /// Tokens of the request's text number `index`, special tokens included.
    pub fn encode(&self, index: usize, text: &str) -> Result<Vec<u32>, EngineError> {
        if text.len() > MAX_TEXT_BYTES {
            let found = format!("{} bytes", text.len());
            return Err(EngineError::Text {
                index,
                found,
                expected: format!("at most {MAX_TEXT_BYTES} bytes"),
            });
        }
        let lowered = self.lower_case.then(|| text.to_lowercase());
        let ids = self.tokenizer.encode(lowered.as_deref().unwrap_or(text), self.limits.tokens);
        let ids = ids.map_err(|reason| fault(&self.path, &reason))?;
        match ids.iter().max() {
            Some(largest) => self.check_id(*largest).map(|()| ids),
            None => Ok(ids),
        }
    }

    /// Fails if any text could get an id that the model has no row for.
    pub fn check_vocabulary(&self) -> Result<(), EngineError> {
        self.check_id(self.tokenizer.largest_id())
    }

    fn check_id(&self, id: u32) -> Result<(), EngineError> {
        let rows = self.limits.vocabulary;
        if (id as usize) < rows {
            return Ok(());
        }
        Err(fault(&self.path, &format!("gives token id {id}, the model has {rows} rows")))
    }
}

fn fault(path: &Path, reason: &str) -> EngineError {
    EngineError::Tokenizer { path: path.into(), reason: reason.chars().take(300).collect() }
}
