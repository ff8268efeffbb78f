//! Perplexity on the held-out text, in pieces as long as the context; the first token of a piece is given.

use crate::bigram::Bigram;
use crate::network::Network;

/// Sums of `-ln p` over the same tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measured {
    /// Tokens that were predicted.
    pub tokens: usize,
    /// Of the model.
    pub model: f64,
    /// Of the baseline.
    pub bigram: f64,
}

impl Measured {
    /// Perplexity of the model and of the baseline.
    pub fn perplexities(&self) -> (f64, f64) {
        let of = |sum: f64| (sum / self.tokens as f64).exp();
        (of(self.model), of(self.bigram))
    }
}

/// Measures `held_out` with logits that come from `logits`: pieces of tokens to rows of logits, one a token.
pub fn measure(
    held_out: &[u32],
    length: usize,
    bigram: &Bigram,
    mut logits: impl FnMut(&[u32]) -> Vec<Vec<f32>>,
) -> Measured {
    let mut out = Measured::default();
    for piece in held_out.chunks(length).filter(|piece| piece.len() > 1) {
        let rows = logits(piece);
        for (pair, row) in piece.windows(2).zip(rows) {
            out.tokens += 1;
            out.model -= log_probability(&row, pair[1]);
            out.bigram -= bigram.probability(pair[0], pair[1]).ln();
        }
    }
    out
}

/// `ln p(token)` under these logits.
pub fn log_probability(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
    f64::from(logits[token as usize] - most) - sum.ln()
}

/// Rows of the network's own logits.
pub fn own(network: &Network, piece: &[u32]) -> Vec<Vec<f32>> {
    network.logits(piece, piece.len()).rows().into_iter().map(|row| row.to_vec()).collect()
}
