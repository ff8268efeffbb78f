//! The likeliest continuation, computed by the network that was trained: what the engine is held against.

use crate::network::Network;
use crate::vocabulary::{self, END};
use anyhow::{Result, anyhow};
use tokenizers::Tokenizer;

/// Answers one message greedily, with at most `most` tokens; the end is no part of the answer.
///
/// # Errors
/// The tokenizer is another one.
pub fn answer(network: &Network, tokenizer: &Tokenizer, message: &str, most: usize) -> Result<String> {
    let prompt = format!("<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n");
    let mut tokens = vocabulary::tokens(tokenizer, &prompt)?;
    let ends = ["<|im_end|>", END].map(|end| tokenizer.token_to_id(end));
    let start = tokens.len();
    while tokens.len() < start + most && tokens.len() < network.shape.context {
        let logits = network.logits(&tokens, tokens.len());
        let last = logits.row(tokens.len() - 1);
        let likeliest = last.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(id, _)| id as u32);
        if ends.contains(&likeliest) {
            break;
        }
        tokens.extend(likeliest);
    }
    tokenizer.decode(&tokens[start..], true).map_err(|error| anyhow!("tokens without a text: {error}"))
}
