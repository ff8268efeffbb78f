//! How a folder says that hidden states become vectors: modules.json and what it points to.
//!
//! ```text
//! modules.json: Transformer -> Pooling -> [Normalize]
//!                   |             '-- 1_Pooling/config.json
//!                   '-- sentence_bert_config.json, tokenizer_config.json
//! ```
//! Source: sentence-transformers, `SentenceTransformer.__init__` and `modules/`. Other chains (Dense, CNN, ...) are
//! refused by name.

use crate::error::EngineError;
use crate::files::Config;
use crate::pooling::Pooling;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;

/// What to do around the transformer.
pub(crate) struct Recipe {
    /// How the hidden states of a text become one vector.
    pub pooling: Pooling,
    /// Whether vectors are scaled to length 1.
    pub normalise: bool,
    /// Longest input in tokens, special tokens included, if the folder says so.
    pub max_tokens: Option<usize>,
    /// Whether texts are lower-cased before the tokenizer sees them.
    pub lower_case: bool,
}

#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize, Default)]
struct TransformerConfig {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

#[derive(Deserialize, Default)]
struct TokenizerConfig {
    /// An integer, or 1e30 where the author had no limit in mind.
    model_max_length: Option<f64>,
}

const CHAINS: &str = "Transformer, Pooling and at most one Normalize, in this order";

impl Recipe {
    /// Reads the recipe of a folder whose hidden states have `width` elements.
    pub fn read(dir: &Path, width: usize) -> Result<Self, EngineError> {
        let modules: Config<Vec<Module>> =
            Config::read(dir.join("modules.json"), "it says how vectors are pooled")?;
        let kinds: Vec<&str> = modules.value.iter().map(|m| last_word(&m.kind)).collect();
        let normalise = match kinds.as_slice() {
            ["Transformer", "Pooling"] => false,
            ["Transformer", "Pooling", "Normalize"] => true,
            _ => return Err(modules.unsupported("module chain", &kinds.join(", "), CHAINS)),
        };
        if !modules.value[0].path.is_empty() {
            return Err(modules.bad("[0].path", &modules.value[0].path, "empty: the folder itself"));
        }
        let folder = &modules.value[1].path;
        // A path out of the folder would read what the model's hash does not cover.
        if folder.is_empty() || !folder.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            return Err(modules.bad("[1].path", folder, "a folder name such as `1_Pooling`"));
        }
        let pooling = read_pooling(dir.join(folder).join("config.json").as_path(), width)?;
        let (max_tokens, lower_case) = read_limits(dir)?;
        Ok(Recipe { pooling, normalise, max_tokens, lower_case })
    }
}

fn last_word(kind: &str) -> &str {
    match kind.strip_prefix("sentence_transformers.") {
        Some(rest) => rest.rsplit('.').next().unwrap_or(rest),
        None => kind,
    }
}

fn read_pooling(path: &Path, width: usize) -> Result<Pooling, EngineError> {
    let config: Config<Map<String, Value>> = Config::read(path.into(), "how vectors are pooled")?;
    for key in ["word_embedding_dimension", "embedding_dimension"] {
        if let Some(value) = config.value.get(key).filter(|v| v.as_u64() != Some(width as u64)) {
            return Err(config.bad(key, &value.to_string(), format!("{width}, the model's hidden_size")));
        }
    }
    let mut modes: Vec<&str> = match config.value.get("pooling_mode") {
        None => vec![],
        Some(Value::String(mode)) => vec![mode],
        Some(other) => return Err(config.unsupported("pooling_mode", &other.to_string(), "mean, cls")),
    };
    for (key, value) in &config.value {
        let Some(mode) = key.strip_prefix("pooling_mode_") else { continue };
        match value {
            Value::Bool(true) => modes.push(mode),
            Value::Bool(false) => {}
            other => return Err(config.bad(key, &other.to_string(), "true or false")),
        }
    }
    // In whatever order the file's reader keeps its keys.
    modes.sort_unstable();
    match modes.as_slice() {
        ["mean" | "mean_tokens"] => Ok(Pooling::Mean),
        ["cls" | "cls_token"] => Ok(Pooling::Cls),
        other => Err(config.unsupported("pooling", &other.join("+"), "one of mean, cls")),
    }
}

/// Longest input in tokens and lower-casing; the more specific file wins.
fn read_limits(dir: &Path) -> Result<(Option<usize>, bool), EngineError> {
    let path = dir.join("sentence_bert_config.json");
    let transformer: Config<TransformerConfig> = Config::read_or_default(path, "the longest input")?;
    if let Some(max) = transformer.value.max_seq_length {
        transformer.in_range("max_seq_length", max, 1..=1 << 20)?;
        return Ok((Some(max), transformer.value.do_lower_case));
    }
    let path = dir.join("tokenizer_config.json");
    let tokenizer: Config<TokenizerConfig> = Config::read_or_default(path, "the longest input")?;
    let max = tokenizer.value.model_max_length.filter(|max| *max <= f64::from(1 << 20));
    if let Some(max) = max.filter(|max| *max < 1.0) {
        return Err(tokenizer.bad("model_max_length", &max.to_string(), "at least 1"));
    }
    Ok((max.map(|max| max as usize), transformer.value.do_lower_case))
}
