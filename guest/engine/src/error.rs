//! Why a model was not loaded or a text not answered.

use crate::device::NoGpu;
use std::path::PathBuf;

/// Every failure of the engine; the message says which input, what was expected, what was found, what to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A file of the model folder can't be read.
    #[error("{path}: cannot be read: {source}; a model folder needs this file ({purpose})", path = path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the file is for.
        purpose: &'static str,
        /// The operating system's words.
        #[source]
        source: std::io::Error,
    },
    /// A file can't be written.
    #[error("{path}: cannot be written: {source}; choose a new folder on a disk with room", path = path.display())]
    Write {
        /// Which file or folder.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: std::io::Error,
    },
    /// A file is larger than its kind can sensibly be.
    #[error("{path}: {found} bytes, at most {max} are read; is this the right file?", path = path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// The bound in bytes.
        max: u64,
    },
    /// A JSON file is not what its schema wants.
    #[error("{path}: {source}; fetch the file again from where the model is published", path = path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// The parser's message, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// A value makes no sense.
    #[error(
        "{path}: `{field}` is {found}, expected {expected}; fetch the file again from where the model is published",
        path = path.display()
    )]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which field.
        field: String,
        /// What stands there, shortened.
        found: String,
        /// What may stand there.
        expected: String,
    },
    /// A sound model that this engine does not run.
    #[error(
        "{path}: {what} `{found}` is not supported (supported: {supported}); choose a model of a supported kind",
        path = path.display()
    )]
    Unsupported {
        /// Which file says so.
        path: PathBuf,
        /// What kind of thing it is, such as `architecture`.
        what: &'static str,
        /// Its name, shortened.
        found: String,
        /// The closed list.
        supported: String,
    },
    /// The header of a safetensors file is malformed.
    #[error("{path}: safetensors header: {reason}; the file is damaged, fetch it again", path = path.display())]
    Header {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor is missing, unknown, or of another shape or type than the configuration says.
    #[error(
        "{path}: tensor `{tensor}`: expected {expected}, found {found}; config.json and model.safetensors must be of the same model",
        path = path.display()
    )]
    Tensor {
        /// Which file.
        path: PathBuf,
        /// Which tensor.
        tensor: String,
        /// Expected type and shape.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A weight is infinite or not a number.
    #[error(
        "{path}: tensor `{tensor}`: element {element} is {found}, expected a finite number; the weights are damaged, fetch the file again",
        path = path.display()
    )]
    NotFinite {
        /// Which file.
        path: PathBuf,
        /// Which tensor.
        tensor: String,
        /// Index into the flattened tensor.
        element: u64,
        /// What stands there.
        found: f32,
    },
    /// The tokenizer does not load, or does not suit the model.
    #[error("{path}: {reason}; fetch the file again from where the model is published", path = path.display())]
    Tokenizer {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The chat template of a folder can't be used.
    #[error("{path}: the chat template can't be used: {reason}; fetch the file again from where the model is published", path = path.display())]
    Template {
        /// Which file holds it.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A request asks for what can't be given.
    #[error("{field}: {found}, expected {expected}; change the request")]
    Request {
        /// Which field of it.
        field: String,
        /// What stands there, shortened.
        found: String,
        /// What may stand there.
        expected: String,
    },
    /// A prompt does not fit the model.
    #[error(
        "the prompt has {found} tokens, the model takes {max} and needs room for an answer; shorten the prompt"
    )]
    Context {
        /// Tokens of the prompt.
        found: usize,
        /// Tokens of the model's context.
        max: usize,
    },
    /// A request asks for more memory than there is.
    #[error(
        "prompt and answer may take {found} tokens, memory holds {max}; ask for fewer max_tokens or shorten the prompt"
    )]
    Memory {
        /// Tokens of prompt and longest answer, over all choices.
        found: usize,
        /// Tokens that all memory for keys and values holds.
        max: usize,
    },
    /// Too many requests are waiting.
    #[error("{waiting} requests are waiting already, no more are taken; try again later")]
    Busy {
        /// How many wait.
        waiting: usize,
    },
    /// The model computed something that is no probability.
    #[error("the model's logits are not finite; its weights overflow single precision: replace the model")]
    Logits,
    /// A GPU is asked for and there is none.
    #[error("no GPU: {0}")]
    NoGpu(#[from] NoGpu),
    /// Weights can't be held in the form that is asked for.
    #[error(
        "precision `{wanted}`: {device} computes with weights {found}, expected {expected}; choose one of them"
    )]
    Precision {
        /// What was asked for.
        wanted: &'static str,
        /// On what.
        device: &'static str,
        /// How the file has them.
        found: String,
        /// What there is for them there.
        expected: String,
    },
    /// Keys and values can't be held in the precision that is asked for.
    #[error(
        "kv_precision `{wanted}`: {device} holds keys and values in {found}; ask for that, or leave the setting out"
    )]
    KvPrecision {
        /// What was asked for.
        wanted: &'static str,
        /// On what.
        device: &'static str,
        /// What there is.
        found: &'static str,
    },
    /// A key or a value has no place in half precision.
    #[error(
        "a key or value of the model is {found}, half precision ends at 65504; serve the model with kv_precision `f32`"
    )]
    KeyRange {
        /// The number.
        found: f32,
    },
    /// The device gave no data.
    #[error("the device failed: {reason}; restart the worker")]
    Device {
        /// The backend's words.
        reason: String,
    },
    /// A text of the request can't be embedded.
    #[error("input[{index}]: {found}, expected {expected}; split the text and send the parts")]
    Text {
        /// Index into the request's texts.
        index: usize,
        /// What is wrong with it.
        found: String,
        /// What is accepted.
        expected: String,
    },
    /// The model computed something that is no vector.
    #[error(
        "input[{index}]: the model's vector is not finite; its weights overflow single precision: replace the model"
    )]
    Overflow {
        /// Index into the request's texts.
        index: usize,
    },
}

impl EngineError {
    /// Whether the request is to blame (true) or the model and the machine (false).
    pub fn is_request_fault(&self) -> bool {
        match self {
            EngineError::Text { .. }
            | EngineError::Request { .. }
            | EngineError::Context { .. }
            | EngineError::Memory { .. } => true,
            EngineError::Read { .. }
            | EngineError::Write { .. }
            | EngineError::TooLarge { .. }
            | EngineError::Json { .. }
            | EngineError::Value { .. }
            | EngineError::Unsupported { .. }
            | EngineError::Header { .. }
            | EngineError::Tensor { .. }
            | EngineError::NotFinite { .. }
            | EngineError::Tokenizer { .. }
            | EngineError::Template { .. }
            | EngineError::Busy { .. }
            | EngineError::Logits
            | EngineError::NoGpu(_)
            | EngineError::Precision { .. }
            | EngineError::KvPrecision { .. }
            | EngineError::KeyRange { .. }
            | EngineError::Device { .. }
            | EngineError::Overflow { .. } => false,
        }
    }
}

/// The first 80 characters of something that a stranger wrote.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}
