//! What may be asked of a generator, and the bounds of every part of it.

use crate::error::EngineError;
use crate::json::Json;

/// Most choices of one request.
pub const MAX_CHOICES: usize = 16;
/// Most stop sequences of one request.
pub const MAX_STOPS: usize = 16;
/// Longest stop sequence in bytes.
pub const MAX_STOP_BYTES: usize = 256;
/// Most alternatives whose log-probability is told beside the chosen token's.
pub const MAX_ALTERNATIVES: usize = 20;
/// Longest prompt in bytes, chat messages counted as the template renders them.
pub const MAX_PROMPT_BYTES: usize = 4 * 1024 * 1024;
/// Most tokens with a bias of their own.
pub const MAX_BIASES: usize = 1024;

/// One request; [`Request::new`] asks for one choice, as long as it wants to be.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to continue.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Independent continuations of the prompt, 1 to [`MAX_CHOICES`].
    pub choices: usize,
    /// Most tokens of a continuation; `None`: up to the end of the model's context.
    pub max_tokens: Option<usize>,
    /// Texts that end a continuation and are no part of it, at most [`MAX_STOPS`].
    pub stop: Vec<String>,
    /// Whether log-probabilities are told, and of how many alternatives beside the chosen token.
    pub logprobs: Option<usize>,
}

/// What to continue.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// Token ids, taken as they are.
    Tokens(Vec<u32>),
    /// A text; the tokenizer adds the special tokens that its file asks for.
    Text(String),
    /// A conversation, laid out by the model's own chat template.
    Chat(Chat),
}

/// A conversation.
#[derive(Debug, Clone, Default)]
pub struct Chat {
    /// Objects as the template reads them: `role`, `content`, perhaps `tool_calls` (with `arguments` as an object).
    pub messages: Vec<Json>,
    /// Tools in OpenAI's form, as the template reads them.
    pub tools: Vec<Json>,
    /// Further variables of the template, such as `enable_thinking`.
    pub variables: Vec<(String, Json)>,
}

/// How tokens are chosen. `None` takes the value of the folder's `generation_config.json`, else OpenAI's default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampling {
    /// 0 (always the likeliest token) to 2.
    pub temperature: Option<f32>,
    /// Above 0, at most 1: the likeliest tokens that hold this much of the probability.
    pub top_p: Option<f32>,
    /// 0 to 1: tokens at least this likely, measured by the likeliest one.
    pub min_p: Option<f32>,
    /// The likeliest so many tokens; 0 is all of them.
    pub top_k: Option<usize>,
    /// -2 to 2: taken from a token's logit for each time that the continuation holds it.
    pub frequency_penalty: Option<f32>,
    /// -2 to 2: taken once from the logit of every token that the continuation holds.
    pub presence_penalty: Option<f32>,
    /// 0.01 to 10: divides (positive) or multiplies (negative) the logits of tokens of prompt and continuation.
    pub repetition_penalty: Option<f32>,
    /// Added to the logits of these tokens, -100 to 100 each.
    pub logit_bias: Vec<(u32, f32)>,
    /// Equal seeds give equal continuations of equal prompts. The engine has no randomness of its own: `None` is 0.
    pub seed: Option<u64>,
}

impl Request {
    /// Continues a prompt with the model's own way of sampling.
    pub fn new(prompt: Prompt) -> Self {
        Request {
            prompt,
            sampling: Sampling::default(),
            choices: 1,
            max_tokens: None,
            stop: Vec::new(),
            logprobs: None,
        }
    }

    /// Checks everything that needs no model.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let count = |field: &str, found: usize, least: usize, most: usize| {
            if (least..=most).contains(&found) {
                return Ok(());
            }
            Err(bad(field, found.to_string(), format!("{least} to {most}")))
        };
        count("choices", self.choices, 1, MAX_CHOICES)?;
        count("max_tokens", self.max_tokens.unwrap_or(1), 1, usize::MAX)?;
        count("stop", self.stop.len(), 0, MAX_STOPS)?;
        for (index, stop) in self.stop.iter().enumerate() {
            if stop.is_empty() || stop.len() > MAX_STOP_BYTES {
                let expected = format!("1 to {MAX_STOP_BYTES} bytes");
                return Err(bad(&format!("stop[{index}]"), format!("{} bytes", stop.len()), expected));
            }
        }
        count("logprobs", self.logprobs.unwrap_or(0), 0, MAX_ALTERNATIVES)?;
        self.sampling.check()
    }
}

impl Sampling {
    fn check(&self) -> Result<(), EngineError> {
        let within = |field: &str, found: Option<f32>, least: f32, most: f32| match found {
            // Not a number lies in no range.
            Some(value) if !(least..=most).contains(&value) => {
                Err(bad(field, value.to_string(), format!("{least} to {most}")))
            }
            _ => Ok(()),
        };
        within("temperature", self.temperature, 0.0, 2.0)?;
        within("top_p", self.top_p, 0.0, 1.0)?;
        if self.top_p == Some(0.0) {
            return Err(bad("top_p", "0".into(), "above 0, at most 1".into()));
        }
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("repetition_penalty", self.repetition_penalty, 0.01, 10.0)?;
        if self.logit_bias.len() > MAX_BIASES {
            let found = format!("{} tokens", self.logit_bias.len());
            return Err(bad("logit_bias", found, format!("at most {MAX_BIASES}")));
        }
        self.logit_bias.iter().try_for_each(|(_, bias)| within("logit_bias", Some(*bias), -100.0, 100.0))
    }
}

/// A field of the request that can't be served.
pub(crate) fn bad(field: &str, found: String, expected: String) -> EngineError {
    EngineError::Request { field: field.into(), found, expected }
}
