//! The tokenizer of decoder models, read from `tokenizer.json`: byte-level byte pair encoding.
//!
//! ```text
//! text -> added tokens split off -> [NFC] -> words (one of three patterns) -> bytes as letters -> BPE -> [frame]
//! token ids -> bytes
//! ```
//! The file can describe any pipeline. This reader takes the one above and refuses all others by name. The pattern that
//! splits words must be one of a closed list, and is matched here in linear time: a pattern of a stranger's making could
//! take for ever, and the library's way of matching these three gives up on long runs of white space. Words are not cached
//! between texts: how long a text takes must not tell what was in another client's. Tokens and merges are in `bpe.rs`.
//!
//! Source: the `tokenizers` library's serialisation, version 1.0.

use crate::bpe::{Bpe, MAX_TOKEN_BYTES, Merge, Merging, Vocabulary};
use crate::wordpiece::{OtherPart, Refusal};
use regex::Regex;
use serde::Deserialize;
use std::collections::HashMap;
use tokenizers::NormalizedString;

/// Most added tokens: they become one pattern.
const MAX_ADDED: usize = 1 << 14;

/// How words are split: name, the pattern as the file spells it, the same without its look-ahead.
const PATTERNS: [(Words, &str, &str); 3] = [
    (Words::Gpt2, GPT2, r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"),
    (
        Words::Qwen2,
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    ),
    (
        Words::Llama3,
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    ),
];
/// What `ByteLevel` uses where it splits by itself.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

#[derive(Clone, Copy, PartialEq)]
enum Words {
    Gpt2,
    Qwen2,
    Llama3,
}

/// The tokenizer, ready for use.
pub(crate) struct ByteLevel {
    bpe: Bpe,
    compose: bool,
    words: Words,
    pattern: Regex,
    /// Added tokens, longest first; tokens that are looked for before and after composing.
    raw: Option<Regex>,
    composed: Option<Regex>,
    added: HashMap<String, u32>,
    first: Vec<u32>,
    last: Vec<u32>,
}

impl ByteLevel {
    /// Reads the bytes of a `tokenizer.json`.
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let file = match serde_json::from_slice::<File<'_>>(bytes) {
            Ok(file) if file.is_supported() => file,
            // Another pipeline is told by the names of its parts, even where they have other fields.
            other => {
                let kinds: Kinds = serde_json::from_slice(bytes)?;
                kinds.check().map_err(Refusal::Other)?;
                other?
            }
        };
        let words = words(file.pre_tokenizer.as_ref())?;
        let (first, last) = frame(file.post_processor)?;
        let added = added(&file.added_tokens)?;
        let mut bpe = file.model.build().map_err(Refusal::Fault)?;
        for token in &file.added_tokens {
            bpe.tokens.add(token.id, &token.content, token.special).map_err(Refusal::Fault)?;
        }
        let of_kind = |normalized: bool| {
            let wanted = file.added_tokens.iter().filter(|token| token.normalized == normalized);
            longest_first(wanted.map(|token| token.content.as_str()).collect())
        };
        let (raw, composed) = (of_kind(false)?, of_kind(true)?);
        let plain = PATTERNS.iter().find(|(name, _, _)| *name == words).map_or("", |(_, _, plain)| plain);
        let pattern = Regex::new(plain).map_err(|e| Refusal::Fault(e.to_string()))?;
        let compose = file.normalizer.is_some();
        Ok(ByteLevel { bpe, compose, words, pattern, raw, composed, added, first, last })
    }

    /// Token ids of a text; `framed` adds the tokens that the file puts around a text. Added tokens in it are found.
    pub fn encode(&self, text: &str, framed: bool) -> Vec<u32> {
        let mut ids = if framed { self.first.clone() } else { vec![] };
        self.split_off(self.raw.as_ref(), text, &mut ids, |plain, ids| {
            if self.compose && !plain.is_ascii() {
                let mut normalized = NormalizedString::from(plain);
                normalized.nfc();
                return self.encode_composed(normalized.get(), ids);
            }
            self.encode_composed(plain, ids);
        });
        if framed {
            ids.extend(&self.last);
        }
        ids
    }

    /// The token of a special or added text, such as `<|im_end|>`.
    pub fn added_id(&self, content: &str) -> Option<u32> {
        self.added.get(content).copied()
    }

    /// The token of a text that is one token, added or not.
    pub fn token_id(&self, content: &str) -> Option<u32> {
        self.added_id(content).or_else(|| self.bpe.tokens.id(content.as_bytes()))
    }

    /// Bytes of a token; none for an id that is no token.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.bpe.tokens.bytes(id)
    }

    /// Whether a token is one that never shows in a text.
    pub fn is_special(&self, id: u32) -> bool {
        self.bpe.tokens.is_special(id)
    }

    /// One more than the largest id.
    pub fn size(&self) -> usize {
        self.bpe.tokens.size()
    }

    fn encode_composed(&self, text: &str, ids: &mut Vec<u32>) {
        self.split_off(self.composed.as_ref(), text, ids, |plain, ids| self.encode_words(plain, ids));
    }

    /// Finds added tokens and hands on what lies between them.
    fn split_off(
        &self,
        tokens: Option<&Regex>,
        text: &str,
        ids: &mut Vec<u32>,
        rest: impl Fn(&str, &mut Vec<u32>),
    ) {
        let mut start = 0;
        for found in tokens.into_iter().flat_map(|tokens| tokens.find_iter(text)) {
            rest(&text[start..found.start()], ids);
            ids.extend(self.added_id(found.as_str()));
            start = found.end();
        }
        rest(&text[start..], ids);
    }

    fn encode_words(&self, text: &str, ids: &mut Vec<u32>) {
        let mut merging = Merging::default();
        let mut start = 0;
        while let Some(end) = self.word_end(text, start) {
            self.bpe.encode(&text.as_bytes()[start..end], ids, &mut merging);
            start = end;
        }
    }

    /// End of the word that starts at `start`. The patterns cover every character, so words follow without a gap.
    fn word_end(&self, text: &str, start: usize) -> Option<usize> {
        let end = self.pattern.find_at(text, start)?.end();
        let word = &text[start..end];
        let last = word.chars().next_back()?;
        let by_lines = self.words != Words::Gpt2 && matches!(last, '\r' | '\n');
        // `\s+(?!\S)`: white space leaves its last character to the word behind it, unless it has no other.
        let shared = end < text.len() && !by_lines && word.chars().all(char::is_whitespace);
        let kept = end - last.len_utf8();
        Some(if shared && kept > start { kept } else { end })
    }
}

/// A pattern for any of these texts that prefers the longest.
fn longest_first(mut texts: Vec<&str>) -> Result<Option<Regex>, Refusal> {
    if texts.is_empty() {
        return Ok(None);
    }
    texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
    let pattern = texts.into_iter().map(regex::escape).collect::<Vec<_>>().join("|");
    let built = regex::RegexBuilder::new(&pattern).size_limit(64 << 20).build();
    built.map(Some).map_err(|e| Refusal::Fault(format!("its added tokens are too many: {e}")))
}

fn added(tokens: &[AddedToken]) -> Result<HashMap<String, u32>, Refusal> {
    if tokens.len() > MAX_ADDED {
        let found = tokens.len();
        return Err(Refusal::Fault(format!("{found} added tokens, expected at most {MAX_ADDED}")));
    }
    for AddedToken { id, content, lstrip, rstrip, single_word, .. } in tokens {
        if content.is_empty() || content.len() > MAX_TOKEN_BYTES || *lstrip || *rstrip || *single_word {
            let content = crate::error::shorten(content);
            let found =
                format!("added token `{content}` (id {id}) is empty, very long, strips or is a single_word");
            return Err(Refusal::Fault(format!("{found}, expected none of it")));
        }
    }
    Ok(tokens.iter().map(|token| (token.content.clone(), token.id)).collect())
}

/// The `type` of each part, so that another pipeline is refused by its name.
#[derive(Deserialize)]
struct Kinds {
    normalizer: Option<Kind>,
    pre_tokenizer: Option<Kind>,
    post_processor: Option<Kind>,
    decoder: Option<Kind>,
    model: Option<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type", default)]
    name: String,
}

impl Kinds {
    fn check(self) -> Result<(), OtherPart> {
        let parts = [
            (self.model, "tokenizer model", "BPE"),
            (self.normalizer, "tokenizer normalizer", "none, NFC"),
            (self.pre_tokenizer, "tokenizer pre_tokenizer", "ByteLevel, Sequence"),
            (
                self.post_processor,
                "tokenizer post_processor",
                "none, ByteLevel, TemplateProcessing, Sequence",
            ),
            (self.decoder, "tokenizer decoder", "ByteLevel"),
        ];
        for (kind, what, supported) in parts {
            let found = kind.map_or_else(|| "none".into(), |kind| kind.name);
            if !supported.split(", ").any(|name| name == found) {
                return Err(OtherPart { what, found, supported });
            }
        }
        Ok(())
    }
}

/// The parts that are read.
#[derive(Deserialize)]
struct File<'a> {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Kind>,
    pre_tokenizer: Option<PreTokenizer>,
    post_processor: Option<PostProcessor>,
    decoder: Option<Kind>,
    #[serde(borrow)]
    model: Model<'a>,
}

impl File<'_> {
    /// As [`Kinds::check`], of what is read already.
    fn is_supported(&self) -> bool {
        let named = |kind: &Option<Kind>, name: &str| kind.as_ref().is_some_and(|kind| kind.name == name);
        let before = matches!(
            self.pre_tokenizer,
            Some(PreTokenizer::ByteLevel { .. } | PreTokenizer::Sequence { .. })
        );
        let behind = !matches!(self.post_processor, Some(PostProcessor::Other));
        let normal = self.normalizer.is_none() || named(&self.normalizer, "NFC");
        self.model.kind == "BPE" && before && behind && normal && named(&self.decoder, "ByteLevel")
    }
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PreTokenizer {
    ByteLevel {
        #[serde(default)]
        add_prefix_space: bool,
        #[serde(default = "yes")]
        use_regex: bool,
    },
    Split {
        pattern: SplitPattern,
        behavior: String,
        #[serde(default)]
        invert: bool,
    },
    Sequence {
        pretokenizers: Vec<PreTokenizer>,
    },
    #[serde(other)]
    Other,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
enum SplitPattern {
    String(String),
    Regex(String),
}

/// Which of the known ways to split words a file asks for.
fn words(part: Option<&PreTokenizer>) -> Result<Words, Refusal> {
    let other = |found: &str| {
        let supported = "ByteLevel alone, or one Split by the pattern of GPT-2, Qwen2 or Llama 3 and a ByteLevel behind it";
        Refusal::Other(OtherPart { what: "tokenizer pre_tokenizer", found: found.into(), supported })
    };
    let parts = match part {
        Some(PreTokenizer::Sequence { pretokenizers }) => pretokenizers.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    match parts {
        [PreTokenizer::ByteLevel { add_prefix_space: false, use_regex: true }] => Ok(Words::Gpt2),
        [
            PreTokenizer::Split { pattern: SplitPattern::Regex(pattern), behavior, invert: false },
            PreTokenizer::ByteLevel { add_prefix_space: false, use_regex: false },
        ] if behavior == "Isolated" => match PATTERNS.iter().find(|(_, known, _)| known == pattern) {
            Some((words, _, _)) => Ok(*words),
            None => Err(other(pattern)),
        },
        [PreTokenizer::Split { pattern: SplitPattern::String(text), .. }, ..] => Err(other(text)),
        _ => Err(other("another sequence")),
    }
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PostProcessor {
    ByteLevel {},
    TemplateProcessing {
        single: Vec<Piece>,
        special_tokens: HashMap<String, SpecialToken>,
    },
    Sequence {
        processors: Vec<PostProcessor>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
enum Piece {
    SpecialToken { id: String },
    Sequence { id: String },
}

#[derive(Deserialize)]
struct SpecialToken {
    ids: Vec<u32>,
}

type Frame = (Vec<u32>, Vec<u32>);

/// Tokens before and after a single text.
fn frame(part: Option<PostProcessor>) -> Result<Frame, Refusal> {
    let parts = match part {
        Some(PostProcessor::Sequence { processors }) => processors,
        Some(one) => vec![one],
        None => vec![],
    };
    let mut frame = Frame::default();
    for part in parts {
        match part {
            PostProcessor::ByteLevel {} => {}
            PostProcessor::TemplateProcessing { single, special_tokens } if frame == Frame::default() => {
                frame = template(&single, &special_tokens)?;
            }
            _ => {
                return Err(Refusal::Fault(
                    "its post_processor holds other parts than ByteLevel and one template".into(),
                ));
            }
        }
    }
    Ok(frame)
}

fn template(single: &[Piece], special: &HashMap<String, SpecialToken>) -> Result<Frame, Refusal> {
    let mut frame = Frame::default();
    let mut seen = false;
    for piece in single {
        match piece {
            Piece::Sequence { id } if id == "A" && !seen => seen = true,
            Piece::SpecialToken { id } if special.get(id).is_some_and(|token| token.ids.len() == 1) => {
                let ids = &special[id].ids;
                if seen { frame.1.extend(ids) } else { frame.0.extend(ids) }
            }
            _ => {
                return Err(Refusal::Fault(
                    "the template for a single text is not the text among special tokens".into(),
                ));
            }
        }
    }
    if seen { Ok(frame) } else { Err(Refusal::Fault("the template for a single text has no text".into())) }
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(rename = "type")]
    kind: String,
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: Vocabulary,
    #[serde(borrow)]
    merges: Vec<Merge<'a>>,
}

impl Model<'_> {
    fn build(self) -> Result<Bpe, String> {
        let affix = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        if self.dropout.is_some_and(|p| p != 0.0)
            || affix(&self.continuing_subword_prefix)
            || affix(&self.end_of_word_suffix)
            || self.byte_fallback
        {
            let what = "its model asks for dropout, a prefix or suffix of words, or byte_fallback, expected none of them";
            return Err(what.into());
        }
        Bpe::new(self.vocab, &self.merges, self.ignore_merges)
    }
}
