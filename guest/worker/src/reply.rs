//! Answers in OpenAI's shapes, grown from the engine's events; one growth for both whole answers and streams.

use crate::ask::Form;
use crate::parts::{Part, Parts};
use engine::{EngineError, Event, FinishReason, TokenLogprob};
use protocol::market;
use protocol::openai::Usage;
use protocol::openai::chat::{
    ChatChoice, ChatCompletion, ChatLogprobs, Completion, FunctionCall, Message, TextChoice, TextLogprobs,
    TokenLogprob as ShownLogprob, ToolCall,
};
use std::collections::BTreeMap;

/// JSON has no infinity; this stands for the logarithm of nothing.
const LEAST_LOGPROB: f32 = -9999.0;

/// What answers have in common.
#[derive(Debug, Clone)]
pub struct Head {
    /// Of this answer.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// As asked for.
    pub model: String,
    /// Messages or text.
    pub form: Form,
}

/// What one answer grew by.
#[derive(Debug, Default)]
pub struct Growth {
    index: usize,
    first: bool,
    text: String,
    reasoning: String,
    calls: Vec<ToolCall>,
    /// `None` where none were asked for.
    logprobs: Option<Vec<TokenLogprob>>,
    finish: Option<&'static str>,
}

/// One answer of several.
struct Choice {
    parts: Option<Parts>,
    first: bool,
    calls: usize,
    characters: usize,
    finished: bool,
    completion: usize,
    reasoning: usize,
}

/// All answers to one request, as far as they are.
pub struct Reply {
    /// What they have in common.
    pub head: Head,
    choices: Vec<Choice>,
    logprobs: bool,
    prompt: usize,
    cached: usize,
}

impl Reply {
    /// Nothing yet of `choices` answers to a prompt of so many tokens, of which some were cached.
    pub fn new(
        head: Head,
        choices: usize,
        tools: bool,
        logprobs: bool,
        (prompt, cached): (usize, usize),
    ) -> Self {
        let parts = || (head.form == Form::Chat).then(|| Parts::new(tools));
        let choice = |_| Choice {
            parts: parts(),
            first: true,
            calls: 0,
            characters: 0,
            finished: false,
            completion: 0,
            reasoning: 0,
        };
        let choices = (0..choices).map(choice).collect();
        Reply { head, choices, logprobs, prompt, cached }
    }

    /// Takes an event; what grew by it, if anything.
    ///
    /// # Errors
    /// The request broke off.
    pub fn take(&mut self, event: Event) -> Result<Option<Growth>, EngineError> {
        let logprobs = self.logprobs;
        let (index, text, tokens, finish) = match event {
            Event::Started { prompt_tokens, cached_tokens, .. } => {
                (self.prompt, self.cached) = (prompt_tokens, cached_tokens);
                return Ok(None);
            }
            Event::Failed { error, .. } => return Err(error),
            Event::Text { choice, text, completion_tokens, reasoning_tokens, tokens, .. } => {
                self.count(choice, completion_tokens, reasoning_tokens);
                (choice, text, tokens, None)
            }
            Event::Finished { choice, reason, usage, .. } => {
                self.count(choice, usage.completion_tokens, usage.reasoning_tokens);
                (choice, String::new(), Vec::new(), Some(reason))
            }
        };
        let Some(choice) = self.choices.get_mut(index) else { return Ok(None) };
        let mut growth = choice.grow(&text, finish, &self.head.id, index);
        growth.index = index;
        growth.logprobs = logprobs.then_some(tokens);
        if growth.is_nothing() {
            return Ok(None);
        }
        growth.first = std::mem::take(&mut choice.first);
        Ok(Some(growth))
    }

    fn count(&mut self, choice: usize, completion: usize, reasoning: usize) {
        if let Some(choice) = self.choices.get_mut(choice) {
            (choice.completion, choice.reasoning) = (completion, reasoning);
        }
    }

    /// Whether every answer has ended.
    pub fn is_finished(&self) -> bool {
        self.choices.iter().all(|choice| choice.finished)
    }

    /// Tokens so far: completion and, of it, reasoning.
    fn written_tokens(&self) -> (usize, usize) {
        let sum = |of: fn(&Choice) -> usize| self.choices.iter().map(of).sum();
        (sum(|choice| choice.completion), sum(|choice| choice.reasoning))
    }

    /// As OpenAI counts.
    pub fn usage(&self) -> Usage {
        let (completion, reasoning) = self.written_tokens();
        Usage::of_answers(self.prompt, self.cached, completion, reasoning)
    }

    /// What was read, as prices have it.
    pub fn read(&self) -> market::Read {
        let cached = self.cached.min(self.prompt);
        market::Read { prompt: count(self.prompt - cached), cached: count(cached) }
    }

    /// What was written so far, as prices have it.
    pub fn written(&self) -> market::Written {
        let (completion, reasoning) = self.written_tokens();
        let reasoning = reasoning.min(completion);
        market::Written { completion: count(completion - reasoning), reasoning: count(reasoning) }
    }

    /// A chunk of the stream.
    pub fn chunk(&mut self, growth: Growth) -> serde_json::Result<String> {
        match self.head.form {
            Form::Chat => {
                let choice = ChatChoice { message: None, ..chat_choice(growth) };
                serde_json::to_string(&self.chat("chat.completion.chunk", vec![choice], None))
            }
            Form::Text => {
                let choice = self.text_choice(growth);
                serde_json::to_string(&self.completion(vec![choice], None))
            }
        }
    }

    /// The chunk that tells the usage.
    pub fn last_chunk(&self) -> serde_json::Result<String> {
        let usage = Some(self.usage());
        match self.head.form {
            Form::Chat => serde_json::to_string(&self.chat("chat.completion.chunk", Vec::new(), usage)),
            Form::Text => serde_json::to_string(&self.completion(Vec::new(), usage)),
        }
    }

    /// The whole answer, of everything that grew.
    pub fn whole(&mut self, growths: Vec<Growth>) -> serde_json::Result<Vec<u8>> {
        let mut whole: BTreeMap<usize, Growth> = BTreeMap::new();
        for growth in growths {
            match whole.get_mut(&growth.index) {
                Some(before) => before.add(growth),
                None => drop(whole.insert(growth.index, growth)),
            }
        }
        let usage = Some(self.usage());
        match self.head.form {
            Form::Chat => {
                let choices = whole.into_values().map(|growth| {
                    let mut choice = chat_choice(growth);
                    choice.message = choice.delta.take();
                    choice.message.iter_mut().for_each(unnumbered);
                    choice
                });
                serde_json::to_vec(&self.chat("chat.completion", choices.collect(), usage))
            }
            Form::Text => {
                let choices = whole.into_values().map(|growth| self.text_choice(growth)).collect();
                serde_json::to_vec(&self.completion(choices, usage))
            }
        }
    }

    fn chat(&self, object: &str, choices: Vec<ChatChoice>, usage: Option<Usage>) -> ChatCompletion {
        let Head { id, created, model, .. } = self.head.clone();
        ChatCompletion { id, object: object.into(), created, model, choices, usage }
    }

    fn completion(&self, choices: Vec<TextChoice>, usage: Option<Usage>) -> Completion {
        let Head { id, created, model, .. } = self.head.clone();
        Completion { id, object: "text_completion".into(), created, model, choices, usage }
    }

    fn text_choice(&mut self, growth: Growth) -> TextChoice {
        let at = self.choices.get_mut(growth.index).map(|choice| &mut choice.characters);
        let logprobs = growth.logprobs.map(|tokens| text_logprobs(tokens, at));
        TextChoice {
            index: growth.index,
            text: growth.text,
            logprobs,
            finish_reason: growth.finish.map(Into::into),
        }
    }
}

impl Choice {
    fn grow(&mut self, text: &str, finish: Option<FinishReason>, id: &str, index: usize) -> Growth {
        let mut growth = Growth::default();
        let parts = match &mut self.parts {
            None => vec![Part::Text(text.into())],
            Some(parts) => {
                let mut out = parts.push(text);
                if finish.is_some() {
                    out.extend(parts.end());
                }
                out
            }
        };
        for part in parts {
            match part {
                Part::Text(text) => growth.text.push_str(&text),
                Part::Reasoning(text) => growth.reasoning.push_str(&text),
                Part::Call { name, arguments } => {
                    growth.calls.push(ToolCall {
                        index: Some(self.calls),
                        id: format!("call-{id}-{index}-{}", self.calls),
                        kind: "function".into(),
                        function: FunctionCall { name, arguments },
                    });
                    self.calls += 1;
                }
            }
        }
        self.finished |= finish.is_some();
        growth.finish = finish.map(|reason| match reason {
            FinishReason::Stop if self.calls > 0 => "tool_calls",
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        });
        growth
    }
}

impl Growth {
    fn is_nothing(&self) -> bool {
        let Growth { text, reasoning, calls, logprobs, finish, .. } = self;
        let silent = logprobs.as_ref().is_none_or(Vec::is_empty);
        text.is_empty() && reasoning.is_empty() && calls.is_empty() && silent && finish.is_none()
    }

    fn add(&mut self, more: Growth) {
        self.text.push_str(&more.text);
        self.reasoning.push_str(&more.reasoning);
        self.calls.extend(more.calls);
        if let (Some(own), Some(more)) = (&mut self.logprobs, more.logprobs) {
            own.extend(more);
        }
        self.finish = more.finish.or(self.finish);
    }
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

/// The choice with its growth as `delta`.
fn chat_choice(growth: Growth) -> ChatChoice {
    let silent = growth.text.is_empty() && !(growth.first && growth.calls.is_empty());
    let delta = Message {
        role: growth.first.then(|| "assistant".into()),
        content: (!silent).then_some(growth.text),
        reasoning_content: (!growth.reasoning.is_empty()).then_some(growth.reasoning),
        tool_calls: (!growth.calls.is_empty()).then_some(growth.calls),
    };
    ChatChoice {
        index: growth.index,
        message: None,
        delta: Some(delta),
        logprobs: growth.logprobs.map(|tokens| ChatLogprobs { content: tokens.iter().map(shown).collect() }),
        finish_reason: growth.finish.map(Into::into),
    }
}

/// A whole message has its calls in a list, so they need no numbers.
fn unnumbered(message: &mut Message) {
    message.role = Some("assistant".into());
    message.tool_calls.iter_mut().flatten().for_each(|call| call.index = None);
}

fn shown(token: &TokenLogprob) -> ShownLogprob {
    let one = |bytes: &[u8], logprob: f32| ShownLogprob {
        token: String::from_utf8_lossy(bytes).into_owned(),
        logprob: logprob.max(LEAST_LOGPROB),
        bytes: bytes.to_vec(),
        top_logprobs: None,
    };
    let top = token.top.iter().map(|(_, bytes, logprob)| one(bytes, *logprob)).collect();
    ShownLogprob { top_logprobs: Some(top), ..one(&token.bytes, token.logprob) }
}

/// The older form; `at` counts the answer's characters.
fn text_logprobs(tokens: Vec<TokenLogprob>, at: Option<&mut usize>) -> TextLogprobs {
    let mut out = TextLogprobs::default();
    let mut start = at.as_ref().map_or(0, |at| **at);
    for token in &tokens {
        let ShownLogprob { token, logprob, top_logprobs, .. } = shown(token);
        out.text_offset.push(start);
        start += token.chars().count();
        out.tokens.push(token);
        out.token_logprobs.push(logprob);
        out.top_logprobs
            .push(top_logprobs.into_iter().flatten().map(|top| (top.token, top.logprob)).collect());
    }
    if let Some(at) = at {
        *at = start;
    }
    out
}
