//! What a request asks for, as far as paying for it needs: which model, whether it streams, and the most it can cost.
//!
//! The bound on prompt tokens is the body's length plus [`TEMPLATE`]: no tokenizer is run here. Why that is enough, and where
//! it would not be: `docs/decisions/0040-a-prompt-is-bounded-by-its-bytes.md`. Pure; nothing of a body but the fields below
//! is looked at, and no error repeats any of it.

use super::fault::Fault;
use protocol::market::Most;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Tokens that a chat template may add of its own: marks of begin and turn, a system text where the request has none.
pub const TEMPLATE: u32 = 512;
/// Tokens of an answer at most, where neither the request nor the proxy says.
const UNSAID: u32 = 1024;
/// Choices of one request at most, as OpenAI has it.
const CHOICES: u32 = 128;

/// The paths that are paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
    /// `/v1/embeddings`.
    Embeddings,
}

impl Endpoint {
    /// By its path.
    pub fn of(path: &str) -> Option<Self> {
        let all = [Self::Chat, Self::Completions, Self::Embeddings];
        all.into_iter().find(|endpoint| endpoint.path() == path)
    }

    /// Its path.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
        }
    }
}

/// What a body asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The path.
    pub endpoint: Endpoint,
    /// The model's name, without the root.
    pub model: String,
    /// The exact weights, where the name was followed by `@` and the verity root.
    pub root: Option<[u8; 32]>,
    /// Whether the answer comes as events.
    pub stream: bool,
    /// Length of the body in bytes.
    bytes: usize,
    /// Tokens of one answer at most, where the body says.
    each: Option<u32>,
    /// Answers at most.
    answers: u32,
}

/// The fields that count.
#[derive(Deserialize)]
struct Body {
    model: String,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    max_completion_tokens: Option<u32>,
    #[serde(default)]
    n: Option<u32>,
    #[serde(default)]
    best_of: Option<u32>,
    #[serde(default)]
    prompt: Option<Prompt>,
}

/// `prompt` of `/v1/completions`: one text or token list, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Prompt {
    Many(Vec<IgnoredAny>),
    One(IgnoredAny),
}

impl Asked {
    /// Reads a body.
    ///
    /// # Errors
    /// 400, in OpenAI's form.
    pub fn read(endpoint: Endpoint, body: &[u8]) -> Result<Self, Fault> {
        let read: Body = serde_json::from_slice(body).map_err(|_| {
            // The parser's words could quote the request, and nobody needs them to mend it.
            let message = "the body can't be read: expected a JSON object with the string `model`, whole numbers in `max_tokens`, `max_completion_tokens` and `n`, and true or false in `stream`";
            Fault::request("invalid_json", None, message)
        })?;
        let (model, root) = pinned(&read.model)?;
        let answers = read.n.unwrap_or(1).max(read.best_of.unwrap_or(1)).max(1);
        if answers > CHOICES {
            let message = format!("`n`: at most {CHOICES} answers of one request; ask several times");
            return Err(Fault::request("invalid_n", Some("n"), message));
        }
        // A list of numbers is one prompt; to count it as many only raises what is held.
        let prompts = match &read.prompt {
            Some(Prompt::Many(list)) if endpoint == Endpoint::Completions => list.len().max(1),
            _ => 1,
        };
        let each = match (read.max_tokens, read.max_completion_tokens) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        Ok(Self {
            endpoint,
            model,
            root,
            stream: read.stream.unwrap_or(false) && endpoint != Endpoint::Embeddings,
            bytes: body.len(),
            each,
            answers: answers.saturating_mul(u32::try_from(prompts).unwrap_or(u32::MAX)),
        })
    }

    /// The most that it can take of a model with this context and this longest answer; 0 stands for what no worker said yet.
    pub fn most(&self, context: u32, max_completion: u32) -> Most {
        let bytes = u32::try_from(self.bytes).unwrap_or(u32::MAX).saturating_add(TEMPLATE);
        if self.endpoint == Endpoint::Embeddings {
            // Each text has a context of its own.
            return Most { prompt: bytes, completion: 0 };
        }
        let prompts = if self.endpoint == Endpoint::Completions { self.answers } else { 1 };
        let context = if context == 0 { u32::MAX } else { context };
        let prompt = bytes.min(context.saturating_mul(prompts));
        let each = match (self.each, max_completion) {
            (None, 0) => UNSAID,
            (Some(each), 0) => each,
            (each, longest) => each.unwrap_or(longest).min(longest),
        };
        Most { prompt, completion: each.saturating_mul(self.answers) }
    }
}

/// A name, and the root behind its `@`.
fn pinned(model: &str) -> Result<(String, Option<[u8; 32]>), Fault> {
    let Some((name, root)) = model.rsplit_once('@') else { return Ok((model.into(), None)) };
    let root = hex::decode(root).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let Some(root) = root else {
        let message = "`model`: behind `@` stands the verity root of exact weights, 64 hex digits; GET /v1/models lists them";
        return Err(Fault::request("invalid_model_root", Some("model"), message));
    };
    Ok((name.into(), Some(root)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chat(more: &str) -> Asked {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{more}}}"#);
        Asked::read(Endpoint::Chat, body.as_bytes()).unwrap()
    }

    #[test]
    fn a_prompt_is_bounded_by_bytes_and_by_the_context() {
        let asked = chat("");
        let bytes = u32::try_from(asked.bytes).unwrap();
        assert_eq!(asked.most(100_000, 64), Most { prompt: bytes + TEMPLATE, completion: 64 });
        assert_eq!(asked.most(256, 64).prompt, 256);
        // What no worker has said yet bounds nothing.
        assert_eq!(asked.most(0, 0), Most { prompt: bytes + TEMPLATE, completion: UNSAID });
        assert_eq!(chat(r#","max_tokens":10"#).most(0, 0).completion, 10);
    }

    #[test]
    fn an_answer_is_bounded_by_what_was_asked_and_by_the_model_times_the_answers() {
        assert_eq!(chat(r#","max_tokens":10"#).most(4096, 64).completion, 10);
        assert_eq!(chat(r#","max_completion_tokens":1000"#).most(4096, 64).completion, 64);
        assert_eq!(chat(r#","max_tokens":10,"n":3"#).most(4096, 64).completion, 30);
        assert_eq!(chat(r#","n":128"#).most(4096, u32::MAX).completion, u32::MAX);
        let body = br#"{"model":"m","prompt":["a","b"],"n":2,"max_tokens":5}"#;
        let asked = Asked::read(Endpoint::Completions, body).unwrap();
        assert_eq!(asked.most(4096, 64).completion, 20);
    }

    #[test]
    fn embeddings_write_nothing_and_their_texts_have_a_context_each() {
        let asked =
            Asked::read(Endpoint::Embeddings, br#"{"model":"m","input":["a","b"],"stream":true}"#).unwrap();
        let most = asked.most(8, 64);
        assert!(most.completion == 0 && most.prompt > TEMPLATE && !asked.stream, "{most:?}");
    }

    #[test]
    fn exact_weights_are_named_by_their_root_or_refused() {
        let body = format!(r#"{{"model":"org/m@{}"}}"#, "ab".repeat(32));
        let asked = Asked::read(Endpoint::Chat, body.as_bytes()).unwrap();
        assert_eq!((asked.model.as_str(), asked.root), ("org/m", Some([0xab; 32])));
        for bad in ["m@", "m@abcd", "m@zz"] {
            let body = format!(r#"{{"model":"{bad}"}}"#);
            let fault = Asked::read(Endpoint::Chat, body.as_bytes()).unwrap_err();
            assert_eq!((fault.status(), fault.code()), (400, "invalid_model_root"), "{bad}");
        }
    }

    #[test]
    fn no_fault_repeats_what_a_body_said() {
        for body in
            [r#"{"model":7,"x":"secret"}"#, r#"{"secret"#, r#"{"model":"m","max_tokens":"secret"}"#, "[]"]
        {
            let fault = Asked::read(Endpoint::Chat, body.as_bytes()).unwrap_err();
            assert!(!fault.message().contains("secret") && fault.status() == 400, "{}", fault.message());
        }
    }

    proptest! {
        #[test]
        fn hostile_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            for endpoint in [Endpoint::Chat, Endpoint::Completions, Endpoint::Embeddings] {
                let _ = Asked::read(endpoint, &body);
            }
        }

        #[test]
        fn text_never_decodes_to_more_bytes_than_its_json_has(text: String) {
            // What the bound rests on: the body is at least as long as the texts that a tokenizer is given.
            prop_assert!(serde_json::to_string(&text).unwrap().len() >= text.len() + 2);
            let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            let read: String = serde_json::from_str(&format!("\"{escaped}\"")).unwrap();
            prop_assert!(read == text && escaped.len() >= text.len());
        }
    }
}
