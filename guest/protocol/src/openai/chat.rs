//! Bodies of `/v1/chat/completions` and `/v1/completions` (OpenAI API reference: Chat, Completions), and the fields that
//! servers of open models add to them.
//!
//! A request is read leniently: fields that change nothing here (`user`, `store`, `metadata`, ..) are passed over. What
//! would change the answer and can't be served has a field here, so that it can be refused by name.
//!
//! Messages and tools are kept as JSON, in the caller's type `J`: chat templates print them as the client wrote them, so
//! whoever renders needs a type that keeps the order of keys.

use super::Usage;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One text or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl From<OneOrMany> for Vec<String> {
    fn from(texts: OneOrMany) -> Self {
        match texts {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        }
    }
}

/// `stream_options`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamOptions {
    /// A last chunk tells the usage.
    #[serde(default)]
    pub include_usage: bool,
}

/// Fields that both requests have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// 0 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Above 0, at most 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Not OpenAI's: the likeliest so many tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Not OpenAI's: tokens at least this likely, measured by the likeliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// -2 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f32>,
    /// -2 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f32>,
    /// Not OpenAI's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    /// Token id, in decimal, to what is added to its logit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Equal seeds give equal answers of one worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// How many answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<usize>,
    /// Texts that end an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<OneOrMany>,
    /// Most tokens of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Server-sent events instead of one body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// What a stream tells besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// Requests with the same key may share what was computed for the prompt they begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_cache_key: Option<String>,
}

/// `POST /v1/chat/completions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "J: Deserialize<'de>"))]
pub struct ChatRequest<J> {
    /// Model name, or name and root with `@` between them.
    pub model: String,
    /// The conversation.
    pub messages: Vec<J>,
    /// How tokens are chosen, and how many.
    #[serde(flatten)]
    pub sampling: Sampling,
    /// The newer name of `max_tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<usize>,
    /// Whether log-probabilities are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<bool>,
    /// Of how many alternatives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<usize>,
    /// Functions that the model may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<J>>,
    /// `auto` or `none`; other choices can't be kept without constrained output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<J>,
    /// `{"type": "text"}`; other forms need constrained output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_format: Option<J>,
    /// Not OpenAI's: variables of the chat template, an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template_kwargs: Option<J>,
}

/// What `/v1/completions` continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CompletionPrompt {
    /// A text.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
    /// Several texts.
    Texts(Vec<String>),
}

/// `POST /v1/completions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompletionRequest {
    /// Model name, or name and root with `@` between them.
    pub model: String,
    /// What to continue.
    pub prompt: CompletionPrompt,
    /// How tokens are chosen, and how many.
    #[serde(flatten)]
    pub sampling: Sampling,
    /// Of how many alternatives log-probabilities are told, 0 to 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<usize>,
    /// The prompt before the answer; not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo: Option<bool>,
    /// What follows the answer; not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
    /// The best of so many; not served beyond `n`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_of: Option<usize>,
}

/// A function that the model calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// Which.
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// A call in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Place among the calls of the answer; in streams only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// The call's name, which the client answers under.
    pub id: String,
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is called.
    pub function: FunctionCall,
}

/// An answer, or in a stream what it grew by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `assistant`; in a stream, in the first piece only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The text; none beside calls alone.
    #[serde(default)]
    pub content: Option<String>,
    /// Not OpenAI's, but common: what the model wrote for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Functions that it calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
}

/// A token and how likely it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Its text; bytes that are no characters are replaced.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The likeliest tokens at this place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<Vec<TokenLogprob>>,
}

/// Log-probabilities of an answer's tokens.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatLogprobs {
    /// One entry a token.
    pub content: Vec<TokenLogprob>,
}

/// One answer of several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatChoice {
    /// Which, from 0.
    pub index: usize,
    /// The answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Message>,
    /// In a stream: what it grew by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<Message>,
    /// Where they were asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `tool_calls`; none while it grows.
    pub finish_reason: Option<String>,
}

/// Answer of `/v1/chat/completions`, and a chunk of its stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatCompletion {
    /// Of this answer; equal in all chunks of a stream.
    pub id: String,
    /// `chat.completion` or `chat.completion.chunk`.
    pub object: String,
    /// Seconds since 1970, by the worker's clock.
    pub created: u64,
    /// As asked for.
    pub model: String,
    /// One entry an answer; none in the chunk that tells the usage.
    pub choices: Vec<ChatChoice>,
    /// What it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// Log-probabilities in the older form, one entry a token in each list.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TextLogprobs {
    /// Texts.
    pub tokens: Vec<String>,
    /// Natural logarithms.
    pub token_logprobs: Vec<f32>,
    /// Alternatives by text.
    pub top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Where the token begins in the answer, in characters.
    pub text_offset: Vec<usize>,
}

/// One continuation of several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextChoice {
    /// Which, from 0.
    pub index: usize,
    /// The text; in a stream what it grew by.
    pub text: String,
    /// Where they were asked for.
    pub logprobs: Option<TextLogprobs>,
    /// `stop` or `length`; none while it grows.
    pub finish_reason: Option<String>,
}

/// Answer of `/v1/completions`, and a chunk of its stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// Of this answer; equal in all chunks of a stream.
    pub id: String,
    /// Always `text_completion`.
    pub object: String,
    /// Seconds since 1970, by the worker's clock.
    pub created: u64,
    /// As asked for.
    pub model: String,
    /// One entry a continuation; none in the chunk that tells the usage.
    pub choices: Vec<TextChoice>,
    /// What it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_request_of_the_official_clients_is_read() {
        let body = r#"{"messages":[{"role":"user","content":"Hi"}],"model":"m","max_completion_tokens":9,
            "stop":"\n","stream":true,"stream_options":{"include_usage":true},"user":"u","store":false,
            "logit_bias":{"5":-1.5},"temperature":0,"tools":[],"tool_choice":"auto"}"#;
        let request: ChatRequest<Value> = serde_json::from_str(body).unwrap();
        assert_eq!(request.max_completion_tokens, Some(9));
        assert_eq!(request.sampling.stop, Some(OneOrMany::One("\n".into())));
        assert_eq!(request.sampling.stream_options, Some(StreamOptions { include_usage: true }));
        assert_eq!(request.sampling.logit_bias.unwrap()["5"], -1.5);
    }

    #[test]
    fn a_prompt_is_a_text_tokens_or_texts() {
        let read = |prompt: &str| {
            let body = format!(r#"{{"model":"m","prompt":{prompt}}}"#);
            serde_json::from_str::<CompletionRequest>(&body).map(|request| request.prompt)
        };
        assert_eq!(read(r#""a""#).unwrap(), CompletionPrompt::Text("a".into()));
        assert_eq!(read("[1,2]").unwrap(), CompletionPrompt::Tokens(vec![1, 2]));
        assert_eq!(read(r#"["a"]"#).unwrap(), CompletionPrompt::Texts(vec!["a".into()]));
        assert!(read("[-1]").is_err() && read(r#"{"a":1}"#).is_err());
    }

    #[test]
    fn hostile_bodies_are_refused_and_never_followed() {
        let deep = format!(r#"{{"model":"m","messages":[{}]}}"#, "[".repeat(100_000));
        assert!(serde_json::from_str::<ChatRequest<Value>>(&deep).is_err());
        for body in [r#"{"model":"m"}"#, r#"{"model":"m","messages":"hi"}"#, r#"{"messages":[]}"#] {
            assert!(serde_json::from_str::<ChatRequest<Value>>(body).is_err(), "{body}");
        }
    }
}
