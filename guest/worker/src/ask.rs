//! Requests for text: from OpenAI's bodies to the engine's request, or a fault that names the field.

use crate::api::{Fault, invalid_json};
use axum::http::StatusCode;
use engine::{Chat, Json, MAX_ALTERNATIVES, MAX_CHOICES, Prompt, Request, Sampling};
use protocol::market::Most;
use protocol::openai::chat::{ChatRequest, CompletionPrompt, CompletionRequest, Sampling as Asked};

/// Shortest `prompt_cache_key` that shares: it must not be guessed by others.
pub const MIN_CACHE_KEY: usize = 16;
/// Most alternatives of `/v1/completions`.
const MAX_TEXT_LOGPROBS: usize = 5;
/// Tokens of `/v1/completions` where the request does not say how many, as OpenAI has it.
const TEXT_TOKENS: usize = 16;

/// Which of the two shapes an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Messages.
    Chat,
    /// Plain text.
    Text,
}

/// A request that passed every check but the model's own.
#[derive(Debug)]
pub struct Ask {
    /// As asked for.
    pub model: String,
    /// For the engine.
    pub request: Request,
    /// Of the answer.
    pub form: Form,
    /// Whether functions may be called.
    pub tools: bool,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether a stream tells the usage at its end.
    pub usage: bool,
    /// Requests with the same one may share their prompts' beginnings.
    pub cache_key: Option<String>,
}

impl Ask {
    /// Of the body of `/v1/chat/completions`; `seed` is used where it names none.
    ///
    /// # Errors
    /// A fault of the request.
    pub fn chat(body: &[u8], seed: u64) -> Result<Self, Fault> {
        let asked: ChatRequest<Json> = serde_json::from_slice(body).map_err(|error| {
            invalid_json(&error, r#"{"model": string, "messages": [{"role": .., "content": ..}, ..]}"#)
        })?;
        if asked.messages.is_empty() {
            let message = "messages: expected at least one, found none".to_string();
            return Err(Fault::request("empty_messages", Some("messages"), message));
        }
        plain_format(asked.response_format.as_ref())?;
        let called = tools_wanted(asked.tool_choice.as_ref())?;
        let tools = asked.tools.filter(|_| called).unwrap_or_default();
        let chat = Chat {
            messages: asked.messages.into_iter().enumerate().map(message).collect::<Result<_, _>>()?,
            variables: variables(asked.chat_template_kwargs)?,
            tools,
        };
        let tools = !chat.tools.is_empty();
        let logprobs = match (asked.logprobs.unwrap_or(false), asked.top_logprobs) {
            (false, None | Some(0)) => None,
            (false, Some(_)) => {
                let message = "top_logprobs: it needs `logprobs` to be true; set it".to_string();
                return Err(Fault::request("unsupported_value", Some("top_logprobs"), message));
            }
            (true, top) => Some(bounded("top_logprobs", top.unwrap_or(0), MAX_ALTERNATIVES)?),
        };
        let mut sampling = asked.sampling;
        sampling.max_tokens = asked.max_completion_tokens.or(sampling.max_tokens);
        let mut ask = Ask::with(asked.model, Prompt::Chat(chat), sampling, Form::Chat, seed)?;
        ask.request.logprobs = logprobs;
        ask.tools = tools;
        Ok(ask)
    }

    /// Of the body of `/v1/completions`.
    ///
    /// # Errors
    /// A fault of the request.
    pub fn text(body: &[u8], seed: u64) -> Result<Self, Fault> {
        let asked: CompletionRequest = serde_json::from_slice(body)
            .map_err(|error| invalid_json(&error, r#"{"model": string, "prompt": string}"#))?;
        let unserved = [
            ("echo", asked.echo == Some(true)),
            ("suffix", asked.suffix.is_some_and(|suffix| !suffix.is_empty())),
            ("best_of", asked.best_of.is_some_and(|best| best > asked.sampling.n.unwrap_or(1))),
        ];
        if let Some((field, _)) = unserved.iter().find(|(_, wanted)| *wanted) {
            let message = format!("{field}: this worker does not serve it; leave the field out");
            return Err(Fault::request("unsupported_parameter", Some(field), message));
        }
        let prompt = match asked.prompt {
            CompletionPrompt::Text(text) => Prompt::Text(text),
            CompletionPrompt::Tokens(tokens) => Prompt::Tokens(tokens),
            CompletionPrompt::Texts(mut texts) if texts.len() == 1 => Prompt::Text(texts.remove(0)),
            CompletionPrompt::Texts(texts) => {
                let found = texts.len();
                let message = format!("prompt: expected one text, found {found}; send several requests");
                return Err(Fault::request("invalid_input_count", Some("prompt"), message));
            }
        };
        let mut sampling = asked.sampling;
        sampling.max_tokens = sampling.max_tokens.or(Some(TEXT_TOKENS));
        let mut ask = Ask::with(asked.model, prompt, sampling, Form::Text, seed)?;
        ask.request.logprobs =
            asked.logprobs.map(|count| bounded("logprobs", count, MAX_TEXT_LOGPROBS)).transpose()?;
        Ok(ask)
    }

    fn with(model: String, prompt: Prompt, asked: Asked, form: Form, seed: u64) -> Result<Self, Fault> {
        let choices = asked.n.unwrap_or(1);
        if !(1..=MAX_CHOICES).contains(&choices) {
            let message = format!("n: expected 1 to {MAX_CHOICES}, found {choices}");
            return Err(Fault::request("unsupported_value", Some("n"), message));
        }
        if asked.max_tokens == Some(0) {
            let message = "max_tokens: expected at least 1, found 0".to_string();
            return Err(Fault::request("unsupported_value", Some("max_tokens"), message));
        }
        let stream = asked.stream.unwrap_or(false);
        let usage = asked.stream_options.is_some_and(|options| options.include_usage);
        let request = Request {
            choices,
            max_tokens: asked.max_tokens,
            stop: asked.stop.clone().map(Vec::from).unwrap_or_default(),
            sampling: sampling(&asked, seed)?,
            ..Request::new(prompt)
        };
        let cache_key = asked.prompt_cache_key.filter(|key| key.len() >= MIN_CACHE_KEY);
        Ok(Ask { model, request, form, tools: false, stream, usage, cache_key })
    }

    /// Keeps the answers within what the request pays for, together.
    ///
    /// # Errors
    /// The prompt has more tokens than it pays for, or it pays for no answer.
    pub fn keep_within(&mut self, most: &Most) -> Result<(), Fault> {
        let each = most.completion as usize / self.request.choices;
        if each == 0 {
            let message = format!(
                "chrysalis-most: expected at least one token of completion for each of {} choices, found {} in all",
                self.request.choices, most.completion
            );
            return Err(Fault::request("completion_over_limit", None, message));
        }
        self.request.max_tokens = Some(self.request.max_tokens.map_or(each, |own| own.min(each)));
        Ok(())
    }
}

/// The prompt must not be longer than what is paid for.
///
/// # Errors
/// It is.
pub fn prompt_within(tokens: usize, most: &Most) -> Result<(), Fault> {
    if tokens <= most.prompt as usize {
        return Ok(());
    }
    let message = format!(
        "the prompt has {tokens} tokens, chrysalis-most allows {}; allow more or shorten it",
        most.prompt
    );
    Err(Fault::request("prompt_over_limit", None, message).status(StatusCode::BAD_REQUEST))
}

fn bounded(field: &'static str, found: usize, most: usize) -> Result<usize, Fault> {
    if found <= most {
        return Ok(found);
    }
    let message = format!("{field}: expected 0 to {most}, found {found}");
    Err(Fault::request("unsupported_value", Some(field), message))
}

fn sampling(asked: &Asked, seed: u64) -> Result<Sampling, Fault> {
    let bias = |(token, bias): (&String, &f32)| match token.parse() {
        Ok(token) => Ok((token, *bias)),
        Err(_) => {
            let message = "logit_bias: expected token ids in decimal as keys, found something else";
            Err(Fault::request("unsupported_value", Some("logit_bias"), message.into()))
        }
    };
    Ok(Sampling {
        temperature: asked.temperature,
        top_p: asked.top_p,
        min_p: asked.min_p,
        top_k: asked.top_k,
        frequency_penalty: asked.frequency_penalty,
        presence_penalty: asked.presence_penalty,
        repetition_penalty: asked.repetition_penalty,
        logit_bias: asked.logit_bias.iter().flatten().map(bias).collect::<Result<_, _>>()?,
        seed: Some(asked.seed.map_or(seed, |own| own as u64)),
    })
}

fn plain_format(format: Option<&Json>) -> Result<(), Fault> {
    let kind = match format {
        None | Some(Json::Null) => return Ok(()),
        Some(format) => format.get("type").and_then(Json::as_str),
    };
    if kind == Some("text") {
        return Ok(());
    }
    let message =
        "response_format: this worker writes plain text only; ask for JSON in the prompt, or leave it out";
    Err(Fault::request("unsupported_parameter", Some("response_format"), message.into()))
}

/// Whether tools are shown to the model.
fn tools_wanted(choice: Option<&Json>) -> Result<bool, Fault> {
    match choice {
        None | Some(Json::Null) => Ok(true),
        Some(choice) => match choice.as_str() {
            Some("auto") => Ok(true),
            Some("none") => Ok(false),
            _ => {
                let message = "tool_choice: expected `auto` or `none`; a model here can't be made to call";
                Err(Fault::request("unsupported_value", Some("tool_choice"), message.into()))
            }
        },
    }
}

fn variables(given: Option<Json>) -> Result<Vec<(String, Json)>, Fault> {
    match given {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::Object(entries)) => Ok(entries),
        Some(_) => {
            let message = "chat_template_kwargs: expected an object, found something else";
            Err(Fault::request("unsupported_value", Some("chat_template_kwargs"), message.into()))
        }
    }
}

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// A message as chat templates read it: text as one string, arguments of calls as objects.
fn message((index, message): (usize, Json)) -> Result<Json, Fault> {
    let wrong = |what: &str| {
        Fault::request("invalid_message", Some("messages"), format!("messages[{index}]: {what}"))
    };
    let Json::Object(entries) = message else {
        return Err(wrong("expected an object, found something else"));
    };
    let mut out = Vec::new();
    let mut role = None;
    for (key, value) in entries {
        let value = match key.as_str() {
            "role" => {
                let found = value.as_str().and_then(|found| ROLES.iter().find(|known| **known == found));
                let found = found.ok_or_else(|| wrong(&format!("role: expected {}", ROLES.join(", "))))?;
                role = Some(*found);
                // Templates know the older name.
                Json::from(if *found == "developer" { "system" } else { found })
            }
            "content" => content(value).map_err(|what| wrong(&what))?,
            "tool_calls" => calls(value).map_err(wrong)?,
            _ => value,
        };
        out.push((key, value));
    }
    let role = role.ok_or_else(|| wrong("role: expected one, found none"))?;
    if !out.iter().any(|(key, _)| key == "content") {
        if role != "assistant" {
            return Err(wrong("content: expected a text, found none"));
        }
        out.push(("content".into(), Json::from("")));
    }
    Ok(Json::Object(out))
}

/// A text, or the texts of OpenAI's list of parts.
fn content(value: Json) -> Result<Json, String> {
    let parts = match value {
        Json::String(_) => return Ok(value),
        Json::Null => return Ok(Json::from("")),
        Json::Array(parts) => parts,
        _ => return Err("content: expected a text or a list of parts, found something else".into()),
    };
    let mut texts = String::new();
    for part in parts {
        match (part.get("type").and_then(Json::as_str), part.get("text").and_then(Json::as_str)) {
            (Some("text"), Some(text)) => texts.push_str(text),
            (Some(kind), _) if kind != "text" => {
                let kind: String = kind.chars().take(32).collect();
                return Err(format!("content: a part of type `{kind}`; the models here read text only"));
            }
            _ => return Err(r#"content: expected parts {"type": "text", "text": ..}"#.into()),
        }
    }
    Ok(Json::String(texts))
}

/// Calls with their arguments as objects: clients send them as text.
fn calls(value: Json) -> Result<Json, &'static str> {
    const EXPECTED: &str =
        r#"tool_calls: expected [{"type": "function", "function": {"name": .., "arguments": ..}}]"#;
    let calls = match value {
        Json::Array(calls) => calls,
        Json::Null => Vec::new(),
        _ => return Err(EXPECTED),
    };
    let mut out = Vec::new();
    for call in calls {
        let Json::Object(mut entries) = call else { return Err(EXPECTED) };
        for (key, value) in &mut entries {
            if key == "function" {
                let Json::Object(function) = value else { return Err(EXPECTED) };
                function.iter_mut().try_for_each(|(key, value)| parsed(key, value))?;
            }
        }
        out.push(Json::Object(entries));
    }
    Ok(Json::Array(out))
}

fn parsed(key: &str, value: &mut Json) -> Result<(), &'static str> {
    if key == "arguments"
        && let Json::String(text) = value
    {
        let read = serde_json::from_str(text);
        *value = read.map_err(|_| "tool_calls: `arguments` is no JSON; send the call as it was made")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(fields: &str) -> Result<Ask, Fault> {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"Hi"}}]{fields}}}"#);
        Ask::chat(body.as_bytes(), 9)
    }

    fn first(body: &str) -> Result<Json, Fault> {
        let body = format!(r#"{{"model":"m","messages":[{body}]}}"#);
        match Ask::chat(body.as_bytes(), 0)?.request.prompt {
            Prompt::Chat(chat) => Ok(chat.messages.into_iter().next().unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_setting_reaches_the_engine() {
        let fields = r#","temperature":0.5,"top_p":0.9,"top_k":7,"min_p":0.1,"frequency_penalty":1,
            "presence_penalty":-1,"repetition_penalty":1.1,"logit_bias":{"5":-100},"seed":-1,"n":3,
            "stop":["a","b"],"max_tokens":4,"max_completion_tokens":5,"logprobs":true,"top_logprobs":2,
            "stream":true,"stream_options":{"include_usage":true},"prompt_cache_key":"0123456789abcdef""#;
        let ask = chat(fields).unwrap();
        let expected = Sampling {
            temperature: Some(0.5),
            top_p: Some(0.9),
            min_p: Some(0.1),
            top_k: Some(7),
            frequency_penalty: Some(1.0),
            presence_penalty: Some(-1.0),
            repetition_penalty: Some(1.1),
            logit_bias: vec![(5, -100.0)],
            seed: Some(u64::MAX),
        };
        assert_eq!(ask.request.sampling, expected);
        let Request { choices, max_tokens, stop, logprobs, .. } = ask.request;
        assert_eq!((choices, max_tokens, logprobs), (3, Some(5), Some(2)));
        assert_eq!(stop, ["a", "b"]);
        assert!(ask.stream && ask.usage && ask.cache_key.is_some());
    }

    #[test]
    fn without_a_seed_the_given_one_is_used_and_a_short_cache_key_shares_nothing() {
        let ask = chat(r#","prompt_cache_key":"default""#).unwrap();
        assert_eq!((ask.request.sampling.seed, ask.cache_key), (Some(9), None));
    }

    #[test]
    fn messages_are_laid_out_as_templates_read_them() {
        let parts =
            r#"{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}"#;
        let expected = r#"{"role":"system","content":"ab"}"#;
        assert_eq!(serde_json::to_string(&first(parts).unwrap()).unwrap(), expected);

        let call = r#"{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"z\":1,\"a\":2}"}}]}"#;
        let expected = r#"{"role":"assistant","content":"","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":{"z":1,"a":2}}}]}"#;
        assert_eq!(serde_json::to_string(&first(call).unwrap()).unwrap(), expected);
    }

    #[test]
    fn what_is_paid_for_bounds_all_choices_together() {
        let mut ask = chat(r#","n":3,"max_tokens":100"#).unwrap();
        ask.keep_within(&Most { prompt: 1, completion: 31 }).unwrap();
        assert_eq!(ask.request.max_tokens, Some(10));
        assert!(ask.keep_within(&Most { prompt: 1, completion: 2 }).is_err());
        assert!(prompt_within(1, &Most { prompt: 1, completion: 2 }).is_ok());
        assert!(prompt_within(2, &Most { prompt: 1, completion: 2 }).is_err());
    }

    #[test]
    fn tools_are_shown_unless_they_are_turned_off() {
        let tool = r#""tools":[{"type":"function","function":{"name":"f"}}]"#;
        assert!(chat(&format!(",{tool}")).unwrap().tools);
        assert!(!chat(&format!(r#",{tool},"tool_choice":"none""#)).unwrap().tools);
        assert!(chat(&format!(r#",{tool},"tool_choice":"required""#)).is_err());
    }
}
