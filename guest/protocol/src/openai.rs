//! Bodies of the OpenAI-compatible endpoint (OpenAI API reference: Embeddings, Models, Errors; Chat and Completions in
//! [`chat`]).

pub mod chat;

use serde::{Deserialize, Serialize};

/// `input` of an embeddings request: one text or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EmbeddingInput {
    /// One text.
    One(String),
    /// Several texts; the answer keeps their order.
    Many(Vec<String>),
}

/// `POST /v1/embeddings`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingRequest {
    /// Model name, as listed by `/v1/models`.
    pub model: String,
    /// What to embed.
    pub input: EmbeddingInput,
    /// `float` (default) or `base64` (little-endian f32).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding_format: Option<String>,
    /// A shorter vector than the model's own, where the model can do that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u32>,
}

/// The vector itself, in the encoding that was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EmbeddingVector {
    /// Plain numbers.
    Float(Vec<f32>),
    /// Base64 of little-endian f32.
    Base64(String),
}

/// One vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingObject {
    /// Always `embedding`.
    pub object: String,
    /// Index into the request's inputs.
    pub index: usize,
    /// The vector.
    pub embedding: EmbeddingVector,
}

/// Tokens that were used. Here, as OpenAI counts, cached tokens are a part of the prompt and reasoning tokens one of
/// the completion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the input.
    pub prompt_tokens: usize,
    /// Tokens of the answers; none where vectors are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<usize>,
    /// All tokens.
    pub total_tokens: usize,
    /// What the prompt's tokens were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptDetails>,
    /// What the answers' tokens were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens_details: Option<CompletionDetails>,
}

/// What the prompt's tokens were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptDetails {
    /// Those that were computed before.
    #[serde(default)]
    pub cached_tokens: usize,
}

/// What the answers' tokens were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletionDetails {
    /// Those that the model wrote for itself.
    #[serde(default)]
    pub reasoning_tokens: usize,
}

impl Usage {
    /// Of texts that became vectors.
    pub fn of_input(tokens: usize) -> Self {
        Usage { prompt_tokens: tokens, total_tokens: tokens, ..Usage::default() }
    }

    /// Of answers to a prompt; `cached` of `prompt` and `reasoning` of `completion`.
    pub fn of_answers(prompt: usize, cached: usize, completion: usize, reasoning: usize) -> Self {
        Usage {
            prompt_tokens: prompt,
            completion_tokens: Some(completion),
            total_tokens: prompt.saturating_add(completion),
            prompt_tokens_details: Some(PromptDetails { cached_tokens: cached }),
            completion_tokens_details: Some(CompletionDetails { reasoning_tokens: reasoning }),
        }
    }
}

/// Answer to an embeddings request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingResponse {
    /// Always `list`.
    pub object: String,
    /// One entry an input, in order.
    pub data: Vec<EmbeddingObject>,
    /// The model that answered.
    pub model: String,
    /// Token counts.
    pub usage: Usage,
}

/// One entry of `/v1/models`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelObject {
    /// Model name.
    pub id: String,
    /// Always `model`.
    pub object: String,
    /// Seconds since 1970; 0, since a measured model has no birthday.
    pub created: u64,
    /// Always `chrysalis`.
    pub owned_by: String,
}

/// Answer to `GET /v1/models`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelList {
    /// Always `list`.
    pub object: String,
    /// What is served.
    pub data: Vec<ModelObject>,
}

/// Error body in OpenAI's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorObject,
}

/// The inside of an error body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorObject {
    /// What went wrong and what to do.
    pub message: String,
    /// `invalid_request_error` or `server_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Which parameter, if one.
    pub param: Option<String>,
    /// A stable code, if one.
    pub code: Option<String>,
}
