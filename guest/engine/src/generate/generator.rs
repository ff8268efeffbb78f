//! From a folder to a model that continues texts, and from a request to what the scheduler takes.

use super::event::Usage;
use super::known::DeviceClass;
use super::options::{Loaded, Options, load};
use super::python::Time;
use super::request::{Chat, MAX_PROMPT_BYTES, Prompt, Request, Sampling, bad};
use super::sampler::{Settings, logprobs};
use super::scheduler::Limits;
use super::template::{Template, TokenizerConfig};
use crate::bytelevel::ByteLevel;
use crate::decoder::{BLOCK, Model, Piece};
use crate::error::{EngineError, shorten};
use crate::families;
use crate::files::{self, Config};
use crate::shards::{Shards, Told};
use crate::wordpiece::Refusal;
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;

/// Largest tokenizer.json that is read, in bytes.
const MAX_TOKENIZER: u64 = 64 * 1024 * 1024;

/// Tokens of a pass whose logits are all looked at.
const MEASURED: usize = 64;

/// Percent of a GPU's memory for weights, keys and values.
const USABLE: u64 = 85;
/// Most choices that run at a time on a GPU: reading weights is the work, and it is done once for all.
const GPU_SEQUENCES: usize = 64;
/// Most prompt tokens of a step on a GPU.
const GPU_CHUNK: usize = 512;

/// A loaded decoder model. It holds no state of requests: any number of threads may prepare, one scheduler computes.
pub struct Generator {
    pub(super) model: Arc<dyn Model>,
    pub(super) tokenizer: ByteLevel,
    template: Option<Template>,
    pub(super) ends: Vec<u32>,
    /// `<think>` and `</think>`.
    pub(super) thoughts: Option<(u32, u32)>,
    sampling: Sampling,
    facts: GeneratorFacts,
    pub(super) class: DeviceClass,
    weight_bytes: u64,
}

/// What a folder holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct GeneratorFacts {
    /// Name in `config.json`.
    pub architecture: String,
    /// Most tokens of prompt and answer.
    pub context: usize,
    /// Number of token ids.
    pub vocabulary: usize,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Types of the tensors in the files, such as `bf16`.
    pub precision: String,
    /// Whether conversations can be laid out.
    pub chat: bool,
    /// In which precision keys and values are held, such as `f16`.
    pub kv_precision: String,
    /// Bytes of keys and values a token.
    pub cached_bytes: usize,
}

/// A request that passed every check, as tokens. Made by [`Generator::prepare`] only.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub(super) tokens: Vec<u32>,
    pub(super) settings: Settings,
    pub(super) choices: usize,
    pub(super) max_tokens: usize,
    pub(super) stop: Vec<String>,
    pub(super) logprobs: Option<usize>,
    pub(super) thinking: bool,
}

impl Prepared {
    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Most tokens of each choice.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }
}

#[derive(Deserialize, Default)]
struct GenerationConfig {
    eos_token_id: Option<Ids>,
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    fn list(self) -> Vec<u32> {
        match self {
            Ids::One(id) => vec![id],
            Ids::Many(ids) => ids,
        }
    }
}

#[derive(Deserialize)]
struct ModelConfig {
    eos_token_id: Option<Ids>,
}

impl Generator {
    /// Loads a Hugging Face folder. Checks everything but the word table's values, which are checked as they are used.
    pub fn open(dir: &Path) -> Result<Generator, EngineError> {
        Self::open_with(dir, Options::default())
    }

    /// The same, computed as `options` say.
    pub fn open_with(dir: &Path, options: Options) -> Result<Generator, EngineError> {
        Self::open_telling(dir, options, Arc::new(|_| ()))
    }

    /// The same; `told` is told how far it is.
    pub fn open_telling(dir: &Path, options: Options, told: Told) -> Result<Generator, EngineError> {
        let (architecture, shape) = families::decoder(dir)?;
        let tokenizer = read_tokenizer(dir, shape.vocabulary, shape.context)?;
        let described: Config<TokenizerConfig> = Config::read_or_default(
            dir.join("tokenizer_config.json"),
            "special tokens and the chat template",
        )?;
        let template = Template::read(dir, &described)?;
        let (ends, sampling) = read_generation(dir, &tokenizer, described.value.eos(), shape.vocabulary)?;
        let thoughts = tokenizer.added_id("<think>").zip(tokenizer.added_id("</think>"));
        let shards = Shards::open(dir)?.telling(told);
        let Loaded { model, precision, kv_precision, cached_bytes, weight_bytes } =
            load(&shards, shape.clone(), options)?;
        let facts = GeneratorFacts {
            architecture: architecture.into(),
            context: shape.context,
            vocabulary: shape.vocabulary,
            parameters: shape.parameters(),
            precision,
            kv_precision: kv_precision.into(),
            chat: template.is_some(),
            cached_bytes,
        };
        let class = options.device.class();
        Ok(Generator { model, tokenizer, template, ends, thoughts, sampling, facts, class, weight_bytes })
    }

    /// What was loaded.
    pub fn facts(&self) -> &GeneratorFacts {
        &self.facts
    }

    /// Bytes of weights that this model's device holds.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// How much to take on where this model has a GPU's memory, or a part of it, for itself: what its weights and the work
    /// between layers leave goes to keys and values.
    pub fn limits_of(&self, memory_bytes: u64) -> Limits {
        let left = (memory_bytes / 100 * USABLE).saturating_sub(self.weight_bytes);
        let kv_bytes = usize::try_from(left).unwrap_or(usize::MAX);
        Limits { kv_bytes, sequences: GPU_SEQUENCES, prefill_chunk: GPU_CHUNK, ..Limits::default() }
    }

    /// Checks a request, lays out its conversation, and cuts it into tokens. `now` is what a template is told that
    /// asks for the date.
    ///
    /// # Errors
    /// [`EngineError::is_request_fault`] ones: a field out of its bounds, a conversation that the template refuses, a
    /// prompt that leaves no room for an answer.
    pub fn prepare(&self, request: Request, now: Option<Time>) -> Result<Prepared, EngineError> {
        request.check()?;
        let tokens = match request.prompt {
            Prompt::Tokens(tokens) => tokens,
            Prompt::Text(text) => self.encode(&text, true)?,
            Prompt::Chat(chat) => self.encode(&self.render(&chat, now)?, false)?,
        };
        let (context, vocabulary) = (self.facts.context, self.facts.vocabulary);
        if tokens.is_empty() {
            return Err(bad("prompt", "no tokens".into(), "at least one".into()));
        }
        if tokens.len() >= context {
            return Err(EngineError::Context { found: tokens.len(), max: context });
        }
        let bias = request.sampling.logit_bias.iter().map(|(id, _)| id);
        if let Some(id) = tokens.iter().chain(bias).find(|id| **id as usize >= vocabulary) {
            return Err(bad("token id", id.to_string(), format!("below {vocabulary}")));
        }
        let room = context - tokens.len();
        Ok(Prepared {
            settings: Settings::new(&request.sampling, &self.sampling),
            choices: request.choices,
            max_tokens: request.max_tokens.unwrap_or(room).min(room),
            stop: request.stop,
            logprobs: request.logprobs,
            thinking: self.is_thinking(&tokens),
            tokens,
        })
    }

    /// The text of a conversation as the model's template lays it out.
    pub fn render(&self, chat: &Chat, now: Option<Time>) -> Result<String, EngineError> {
        match &self.template {
            Some(template) => template.render(chat, now),
            None => Err(bad(
                "messages",
                "a conversation".into(),
                "a plain prompt: this model has no chat template".into(),
            )),
        }
    }

    /// Token ids of a text; `framed` adds the tokens that the tokenizer's file puts around a text.
    pub fn encode(&self, text: &str, framed: bool) -> Result<Vec<u32>, EngineError> {
        if text.len() > MAX_PROMPT_BYTES {
            let found = format!("{} bytes", text.len());
            return Err(bad("prompt", found, format!("at most {MAX_PROMPT_BYTES} bytes")));
        }
        Ok(self.tokenizer.encode(text, framed))
    }

    /// The text of tokens, without special ones.
    pub fn decode(&self, ids: &[u32]) -> String {
        let shown = ids.iter().filter(|id| !self.tokenizer.is_special(**id));
        let bytes: Vec<u8> = shown.flat_map(|id| self.tokenizer.bytes(*id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Logits behind the last token of `ids`, computed alone; for tests and for known answers.
    ///
    /// # Errors
    /// An empty list, one beyond the context, or an id that the model has no row for.
    pub fn logits(&self, ids: &[u32]) -> Result<Vec<f32>, EngineError> {
        let Prepared { tokens, .. } = self.prepare(Request::new(Prompt::Tokens(ids.to_vec())), None)?;
        let blocks: Vec<u32> = (0..tokens.len().div_ceil(BLOCK) as u32).collect();
        let mut runner = self.model.clone().runner(blocks.len());
        runner.forward(&[Piece { ids: &tokens, start: 0, blocks: &blocks, logits: true, answer: false }])
    }

    /// `ln p` of each token of `ids` but the first, behind those before it; for measuring.
    ///
    /// # Errors
    /// As of [`Generator::logits`].
    pub fn log_probabilities(&self, ids: &[u32]) -> Result<Vec<f32>, EngineError> {
        let (next, seen) = (ids.get(1..).unwrap_or_default(), &ids[..ids.len().saturating_sub(1)]);
        let Prepared { tokens, .. } = self.prepare(Request::new(Prompt::Tokens(seen.to_vec())), None)?;
        let vocabulary = self.facts.vocabulary;
        if let Some(id) = next.last().filter(|id| **id as usize >= vocabulary) {
            return Err(bad("token id", id.to_string(), format!("below {vocabulary}")));
        }
        let blocks: Vec<u32> = (0..tokens.len().div_ceil(BLOCK) as u32).collect();
        let mut runner = self.model.clone().runner(blocks.len());
        let mut out = Vec::new();
        for (start, next) in (0..).step_by(MEASURED).zip(next.chunks(MEASURED)) {
            // A piece each, so that each has logits; in a layer all keys of a pass are there before any token attends.
            let piece = |at: usize| {
                let ids = &tokens[at..=at];
                Piece { ids, start: at, blocks: &blocks, logits: true, answer: false }
            };
            let pieces: Vec<Piece<'_>> = (start..start + next.len()).map(piece).collect();
            let rows = runner.forward(&pieces)?;
            out.extend(rows.chunks_exact(vocabulary).zip(next).map(|(row, id)| logprobs(row, *id, 0).0));
        }
        Ok(out)
    }

    fn is_thinking(&self, tokens: &[u32]) -> bool {
        let Some((open, close)) = self.thoughts else { return false };
        tokens.iter().rev().find(|id| **id == open || **id == close) == Some(&open)
    }

    /// Counts a token of an answer; `thinking` is kept for the next one.
    pub(super) fn count(&self, id: u32, thinking: &mut bool, usage: &mut Usage) {
        usage.completion_tokens += 1;
        match self.thoughts {
            Some((open, _)) if id == open => *thinking = true,
            Some((_, close)) if id == close => *thinking = false,
            _ => usage.reasoning_tokens += usize::from(*thinking),
        }
    }
}

/// Loads a folder, looks at every byte of it that can matter, and computes with it; before a model is packed.
pub fn inspect_generator(dir: &Path) -> Result<GeneratorFacts, EngineError> {
    let generator = Generator::open(dir)?;
    generator.model.scan()?;
    let logits = generator.logits(&[0])?;
    if logits.iter().all(|logit| logit.is_finite()) { Ok(generator.facts) } else { Err(EngineError::Logits) }
}

fn read_tokenizer(dir: &Path, vocabulary: usize, context: usize) -> Result<ByteLevel, EngineError> {
    let path = dir.join("tokenizer.json");
    let bytes = files::read(&path, "it turns text into tokens", MAX_TOKENIZER)?;
    let tokenizer = ByteLevel::read(&bytes).map_err(|refusal| match refusal {
        Refusal::Json(source) => EngineError::Json { path: path.clone(), source },
        Refusal::Fault(reason) => EngineError::Tokenizer { path: path.clone(), reason },
        Refusal::Other(part) => EngineError::Unsupported {
            path: path.clone(),
            what: part.what,
            found: shorten(&part.found),
            supported: part.supported.into(),
        },
    })?;
    if tokenizer.size() > vocabulary {
        let reason =
            format!("gives token ids up to {}, the model has {vocabulary} rows", tokenizer.size() - 1);
        return Err(EngineError::Tokenizer { path, reason });
    }
    let frame = tokenizer.encode("", true);
    let reason = match frame.iter().find(|id| **id as usize >= vocabulary) {
        Some(id) => format!("frames a text with token {id}, the model has {vocabulary} rows"),
        None if frame.len() + 1 >= context => {
            format!("frames a text with {} tokens, the model takes {context} in all", frame.len())
        }
        None => return Ok(tokenizer),
    };
    Err(EngineError::Tokenizer { path, reason })
}

/// Tokens that end an answer, and how the folder wants tokens chosen.
fn read_generation(
    dir: &Path,
    tokenizer: &ByteLevel,
    eos: Option<&str>,
    vocabulary: usize,
) -> Result<(Vec<u32>, Sampling), EngineError> {
    let path = dir.join("generation_config.json");
    let config: Config<GenerationConfig> = Config::read_or_default(path, "how tokens are chosen")?;
    let mut model: Config<ModelConfig> = Config::read(dir.join("config.json"), "which token ends an answer")?;
    let GenerationConfig { eos_token_id, do_sample, temperature, top_p, top_k, min_p, repetition_penalty } =
        config.value;
    let named = eos_token_id.or(model.value.eos_token_id.take()).map_or_else(Vec::new, Ids::list);
    if let Some(id) = named.iter().find(|id| **id as usize >= vocabulary) {
        return Err(model.bad("eos_token_id", &id.to_string(), format!("below {vocabulary}")));
    }
    let mut ends = named;
    ends.extend(eos.and_then(|text| tokenizer.token_id(text)));
    ends.sort_unstable();
    ends.dedup();
    let temperature = if do_sample == Some(false) { Some(0.0) } else { temperature };
    let sampling = Sampling { temperature, top_p, top_k, min_p, repetition_penalty, ..Sampling::default() };
    let check = Request { sampling: sampling.clone(), ..Request::new(Prompt::Tokens(vec![])) }.check();
    match check {
        Ok(()) => Ok((ends, sampling)),
        Err(error) => Err(EngineError::Value {
            path: dir.join("generation_config.json"),
            field: "sampling".into(),
            found: shorten(&error.to_string()),
            expected: "values that a request may have too".into(),
        }),
    }
}
