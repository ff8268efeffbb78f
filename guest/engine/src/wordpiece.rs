//! The tokenizer that BERT was trained with, read from `tokenizer.json`.
//!
//! ```text
//! text -> added tokens split off -> BertNormalizer -> BertPreTokenizer -> WordPiece -> [CLS] ... [SEP]
//! ```
//! The file can describe any pipeline. This reader takes the one above and refuses all others by name, which also keeps
//! out regular expressions of a stranger's making; it reads the parts one by one because the library's own reader of
//! whole files panics on some malformed ones. Padding, truncation and decoder of the file are ignored: the framing tokens
//! are added here, and the caller says where a text is cut.
//!
//! Source: the `tokenizers` library's serialisation, version 1.0.

use serde::Deserialize;
use std::collections::HashMap;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, DecoderWrapper, Model, TokenizerImpl};

/// Longest word that is looked up piece by piece; the effort grows with its square. BERT's files say 100.
const MAX_WORD_CHARS: usize = 1000;

/// What stands at a part's place, and what may stand there.
pub(crate) struct OtherPart {
    pub what: &'static str,
    pub found: String,
    pub supported: &'static str,
}

/// Why a file was refused.
pub(crate) enum Refusal {
    /// It is not JSON of the right shape.
    Json(serde_json::Error),
    /// It describes another pipeline.
    Other(OtherPart),
    /// It contradicts itself.
    Fault(String),
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Self {
        Refusal::Json(error)
    }
}

/// BERT's pipeline; post-processor and decoder are named by type and never set.
type Inner = TokenizerImpl<WordPiece, BertNormalizer, BertPreTokenizer, BertProcessing, DecoderWrapper>;

/// The tokenizer, ready for use.
pub(crate) struct Tokenizer {
    inner: Inner,
    first: u32,
    last: u32,
}

/// Tokens that frame every text: `[CLS]` and `[SEP]`.
pub(crate) const FRAME: usize = 2;

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.json`.
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        serde_json::from_slice::<Kinds>(bytes)?.check().map_err(Refusal::Other)?;
        let file: File = serde_json::from_slice(bytes)?;
        let (first, last) = file.post_processor.frame()?;
        let model = file.model;
        if model.max_input_chars_per_word > MAX_WORD_CHARS {
            let found = model.max_input_chars_per_word;
            return Err(Refusal::Fault(format!(
                "`max_input_chars_per_word` is {found}, expected at most {MAX_WORD_CHARS}"
            )));
        }
        if model.token_to_id(&model.unk_token).is_none() {
            return Err(Refusal::Fault("`unk_token` is not in the vocabulary".into()));
        }
        let mut inner = TokenizerImpl::new(model);
        let fault = |e: tokenizers::Error| Refusal::Fault(e.to_string());
        inner.with_normalizer(Some(file.normalizer)).map_err(fault)?;
        inner.with_pre_tokenizer(Some(BertPreTokenizer));
        add_tokens(&mut inner, file.added_tokens)?;
        Ok(Tokenizer { inner, first, last })
    }

    /// Token ids of a text, at most `max` (above [`FRAME`]), framing included.
    pub fn encode(&self, text: &str, max: usize) -> Result<Vec<u32>, String> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| e.to_string())?;
        let ids = encoding.get_ids();
        let kept = &ids[..ids.len().min(max.saturating_sub(FRAME))];
        Ok([&[self.first], kept, &[self.last]].concat())
    }

    /// The largest id that any text can get.
    pub fn largest_id(&self) -> u32 {
        let words = self.inner.get_vocab(true).into_values();
        words.max().unwrap_or(0).max(self.first).max(self.last)
    }
}

fn add_tokens(inner: &mut Inner, tokens: Vec<NumberedToken>) -> Result<(), Refusal> {
    for NumberedToken { id, token } in &tokens {
        let content = crate::error::shorten(&token.content);
        if content.is_empty() || token.lstrip || token.rstrip {
            let found = format!("added token `{content}` (id {id}) is empty or strips the text around it");
            return Err(Refusal::Fault(format!("{found}, expected neither")));
        }
    }
    let ids: Vec<(u32, String)> = tokens.iter().map(|t| (t.id, t.token.content.clone())).collect();
    let added = inner.add_tokens(tokens.into_iter().map(|t| t.token));
    added.map_err(|e| Refusal::Fault(e.to_string()))?;
    match ids.iter().find(|(id, content)| inner.token_to_id(content) != Some(*id)) {
        None => Ok(()),
        Some((id, content)) => {
            let (content, real) = (crate::error::shorten(content), inner.token_to_id(content));
            Err(Refusal::Fault(format!("added token `{content}` has id {id}, expected {real:?}")))
        }
    }
}

/// The `type` of each part, so that another pipeline is refused by its name.
#[derive(Deserialize)]
struct Kinds {
    normalizer: Option<Kind>,
    pre_tokenizer: Option<Kind>,
    post_processor: Option<Kind>,
    model: Option<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    name: String,
}

impl Kinds {
    fn check(self) -> Result<(), OtherPart> {
        let parts = [
            (self.model, "tokenizer model", "WordPiece"),
            (self.normalizer, "tokenizer normalizer", "BertNormalizer"),
            (self.pre_tokenizer, "tokenizer pre_tokenizer", "BertPreTokenizer"),
            (self.post_processor, "tokenizer post_processor", "BertProcessing, TemplateProcessing"),
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
struct File {
    #[serde(default)]
    added_tokens: Vec<NumberedToken>,
    normalizer: BertNormalizer,
    post_processor: PostProcessor,
    model: WordPiece,
}

#[derive(Deserialize)]
struct NumberedToken {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PostProcessor {
    BertProcessing { cls: (String, u32), sep: (String, u32) },
    TemplateProcessing { single: Vec<Piece>, special_tokens: HashMap<String, SpecialToken> },
}

#[derive(Deserialize)]
enum Piece {
    SpecialToken { id: String, type_id: u32 },
    Sequence { id: String, type_id: u32 },
}

#[derive(Deserialize)]
struct SpecialToken {
    ids: Vec<u32>,
}

impl PostProcessor {
    /// Ids of the first and the last token of every text.
    fn frame(&self) -> Result<(u32, u32), Refusal> {
        let (single, special_tokens) = match self {
            PostProcessor::BertProcessing { cls, sep } => return Ok((cls.1, sep.1)),
            PostProcessor::TemplateProcessing { single, special_tokens } => (single, special_tokens),
        };
        let id = |name: &str| match special_tokens.get(name).map(|token| token.ids.as_slice()) {
            Some(&[id]) => Ok(id),
            _ => Err(Refusal::Fault("a special token of the template does not have exactly one id".into())),
        };
        match single.as_slice() {
            [
                Piece::SpecialToken { id: first, type_id: 0 },
                Piece::Sequence { id: text, type_id: 0 },
                Piece::SpecialToken { id: last, type_id: 0 },
            ] if text == "A" => Ok((id(first)?, id(last)?)),
            _ => Err(Refusal::Fault(
                "the template for a single text is not one special token, the text, one special token, all of segment 0"
                    .into(),
            )),
        }
    }
}
