//! Byte-level BPE on the same text, in the form of Qwen's `tokenizer.json`: NFC, the pre-tokenizer's pattern, bytes.

use anyhow::{Result, anyhow};
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer, TokenizerBuilder};

/// Qwen's pattern (Qwen3's `tokenizer.json`): words with one character before them, digits one by one, punctuation, space.
const PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The end of a document, and what starts the vocabulary.
pub const END: &str = "<|endoftext|>";
/// Marks that never come from text.
const SPECIAL: [&str; 3] = [END, "<|im_start|>", "<|im_end|>"];
/// Marks that the model writes and readers see.
const SEEN: [&str; 4] = ["<tool_call>", "</tool_call>", "<think>", "</think>"];

/// A vocabulary of `size` tokens for the texts.
pub fn learn(size: usize, texts: &[String]) -> Result<Tokenizer> {
    let failed = |error: tokenizers::Error| anyhow!("the vocabulary can't be learnt: {error}");
    let special = SPECIAL.iter().map(|word| AddedToken::from(*word, true));
    let seen = SEEN.iter().map(|word| AddedToken::from(*word, false));
    let marks: Vec<_> = special.chain(seen).collect();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(size)
        .show_progress(false)
        .special_tokens(marks.clone())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let split = Split::new(SplitPattern::Regex(PATTERN.into()), SplitDelimiterBehavior::Isolated, false);
    let bytes = ByteLevel::new(false, false, false);
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(Some(NFC))
        .with_pre_tokenizer(Some(Sequence::new(vec![split.map_err(failed)?.into(), bytes.into()])))
        .with_post_processor(Some(bytes))
        .with_decoder(Some(bytes))
        .build()
        .map_err(failed)?;
    tokenizer.train(&mut trainer, texts.iter()).map_err(failed)?;
    let text = tokenizer.to_string(false).map_err(failed)?;
    text.parse().map_err(failed)
}

/// Tokens of a text; marks in it are marks.
pub fn tokens(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let encoding = tokenizer.encode(text, false).map_err(|error| anyhow!("a text has no tokens: {error}"))?;
    Ok(encoding.get_ids().to_vec())
}
