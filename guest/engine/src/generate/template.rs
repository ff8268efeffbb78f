//! The model's own chat template: a conversation becomes the text that the model was trained to continue.
//!
//! Templates are Jinja with Python's strings and lists, plus what transformers adds: `raise_exception`, `strftime_now`,
//! a `tojson` that writes as Python's `json.dumps` does, loop controls, and `{% generation %}`, which only training
//! needs. The template is part of the pinned model; what it is given comes from a client, so its work is bounded: a
//! count of instructions and the length of the text.
//!
//! Deliberately absent: includes, files, a clock (the time is passed in).
//!
//! Source: transformers 5, `utils/chat_template_utils.py`; Jinja 3.1, "Template Designer Documentation".

use super::python::{self, Time};
use super::request::{Chat, MAX_PROMPT_BYTES, bad};
use crate::error::EngineError;
use crate::files::{self, Config};
use crate::json::Json;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Largest template in bytes.
const MAX_TEMPLATE: u64 = 1024 * 1024;
/// Instructions of one rendering; a conversation of a thousand messages takes some hundred thousand.
const FUEL: u64 = 10_000_000;
const NAME: &str = "chat_template";
const PURPOSE: &str = "it lays out conversations";

/// What `tokenizer_config.json` is read for.
#[derive(Deserialize, Default)]
pub(crate) struct TokenizerConfig {
    chat_template: Option<Templates>,
    bos_token: Option<Special>,
    eos_token: Option<Special>,
    pad_token: Option<Special>,
    unk_token: Option<Special>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Special {
    Text(String),
    Token { content: String },
}

impl Special {
    fn text(&self) -> &str {
        match self {
            Special::Text(text) | Special::Token { content: text } => text,
        }
    }
}

impl TokenizerConfig {
    /// The text that ends an answer.
    pub fn eos(&self) -> Option<&str> {
        self.eos_token.as_ref().map(Special::text)
    }
}

/// A compiled template.
pub(crate) struct Template {
    environment: Environment<'static>,
    specials: Vec<(&'static str, Value)>,
}

impl Template {
    /// Reads the template of a folder: `chat_template.jinja`, else that of `tokenizer_config.json`, else none.
    pub fn read(dir: &Path, config: &Config<TokenizerConfig>) -> Result<Option<Self>, EngineError> {
        let path = dir.join("chat_template.jinja");
        let (path, source) = match files::read(&path, PURPOSE, MAX_TEMPLATE) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(source) => (path, source),
                Err(error) => return Err(unusable(path, error.to_string())),
            },
            Err(EngineError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                match &config.value.chat_template {
                    None => return Ok(None),
                    Some(Templates::One(source)) => (config.path.clone(), source.clone()),
                    Some(Templates::Named(all)) => match all.iter().find(|named| named.name == "default") {
                        Some(named) => (config.path.clone(), named.template.clone()),
                        None => return Err(config.bad(NAME, "named templates only", "one named `default`")),
                    },
                }
            }
            Err(error) => return Err(error),
        };
        let specials = [
            ("bos_token", &config.value.bos_token),
            ("eos_token", &config.value.eos_token),
            ("pad_token", &config.value.pad_token),
            ("unk_token", &config.value.unk_token),
        ];
        let specials = specials.into_iter();
        let specials = specials.filter_map(|(name, token)| Some((name, Value::from(token.as_ref()?.text()))));
        Self::compile(path, source, specials.collect()).map(Some)
    }

    fn compile(
        path: PathBuf,
        source: String,
        specials: Vec<(&'static str, Value)>,
    ) -> Result<Self, EngineError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| unusable(path.clone(), e.to_string()))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.set_formatter(|out, _, value| Ok(out.write_str(&python::text(value)?)?));
        environment.add_test("iterable", |value: Value| is_text(&value) || value.try_iter().is_ok());
        environment.add_test("sequence", |value: Value| is_text(&value) || value.len().is_some());
        environment.add_filter("string", |value: Value| python::text(&value));
        environment.add_filter("join", join);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", raise_exception);
        let source = without_generation(&source);
        environment.add_template_owned(NAME, source).map_err(|error| unusable(path, describe(&error)))?;
        Ok(Template { environment, specials })
    }

    /// The text of a conversation, up to where the answer begins.
    ///
    /// # Errors
    /// The template's own words where it refuses the conversation, and what went wrong where it can't be laid out.
    pub fn render(&self, chat: &Chat, now: Option<Time>) -> Result<String, EngineError> {
        let fault = |error: &Error| {
            bad("messages", describe(error), "a conversation that the model's chat template takes".into())
        };
        let template = self.environment.get_template(NAME).map_err(|error| fault(&error))?;
        let list = |items: &[Json]| items.iter().map(value).collect::<Value>();
        let tools = if chat.tools.is_empty() { Value::from(()) } else { list(&chat.tools) };
        let mut context: Vec<(String, Value)> = vec![
            ("messages".into(), list(&chat.messages)),
            ("tools".into(), tools),
            ("documents".into(), Value::from(())),
            ("add_generation_prompt".into(), Value::from(true)),
        ];
        context.extend(self.specials.iter().map(|(name, text)| ((*name).into(), text.clone())));
        context.extend(chat.variables.iter().map(|(name, json)| (name.clone(), value(json))));
        if let Some(now) = now {
            let strftime = move |format: String| {
                python::strftime(now, &format).map_err(|what| Error::new(ErrorKind::InvalidOperation, what))
            };
            context.push(("strftime_now".into(), Value::from_function(strftime)));
        }
        let mut out = Bounded(Vec::new());
        let context = Value::from_pairs(context);
        template.render_captured_to(context, &mut out).map_err(|error| fault(&error))?;
        String::from_utf8(out.0).map_err(|error| unusable(NAME.into(), error.to_string()))
    }
}

fn unusable(path: PathBuf, reason: String) -> EngineError {
    EngineError::Template { path, reason }
}

/// The message of an error and of what caused it; line numbers of the template, never the client's text around them.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text.chars().take(300).collect()
}

/// Text that may not outgrow a prompt.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_PROMPT_BYTES {
            return Err(std::io::Error::other(format!("more than {MAX_PROMPT_BYTES} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Python's strings are sequences of their characters.
fn is_text(value: &Value) -> bool {
    value.kind() == ValueKind::String
}

fn join(items: Value, between: Option<String>) -> Result<String, Error> {
    let items = items.try_iter()?.map(|item| python::text(&item)).collect::<Result<Vec<_>, _>>()?;
    Ok(items.join(&between.unwrap_or_default()))
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// `{% generation %}` marks what training looks at; here it is a block like any other.
fn without_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(end) = rest[start..].find("%}").map(|len| start + len + 2) else { break };
        let tag = &rest[start..end];
        let word = tag[2..tag.len() - 2].trim_matches(['-', '+']).trim();
        out.push_str(&rest[..start]);
        match word {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[end..];
    }
    out + rest
}

fn tojson(value: Value, options: Kwargs) -> Result<String, Error> {
    let separators: Option<Vec<String>> = options.get("separators")?;
    let indent: Option<usize> = options.get("indent")?;
    let style = python::Style {
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent: indent.map(|width| width.min(16)),
        separators: match separators.as_deref() {
            Some([item, key]) => Some((item.clone(), key.clone())),
            Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators: expected two")),
            None => None,
        },
    };
    options.assert_all_used()?;
    python::dumps(&value, &style)
}

/// A client's JSON as the template sees it.
fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(value).collect(),
        Json::Object(entries) => {
            Value::from_pairs(entries.iter().map(|(key, json)| (key.clone(), value(json))))
        }
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(whole), _, _) => Value::from(whole),
            (_, Some(whole), _) => Value::from(whole),
            (_, _, float) => Value::from(float.unwrap_or(0.0)),
        },
    }
}
