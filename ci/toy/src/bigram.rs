//! The baseline: how likely a token is after the one before it, by counting.
//!
//! Absolute discounting (Ney, Essen, Kneser 1994) with discount 3/4, falling back to counts of single tokens plus one.

use std::collections::HashMap;

const DISCOUNT: f64 = 0.75;

/// Counts of a training text.
pub struct Bigram {
    pairs: HashMap<(u32, u32), u32>,
    /// How often a token stands first in a pair, and how many different ones follow it.
    first: HashMap<u32, (u32, u32)>,
    single: Vec<u32>,
    total: u64,
}

impl Bigram {
    /// Counts the text.
    pub fn count(vocabulary: usize, tokens: &[u32]) -> Self {
        let mut out = Bigram {
            pairs: HashMap::new(),
            first: HashMap::new(),
            single: vec![1; vocabulary],
            total: (vocabulary + tokens.len()) as u64,
        };
        tokens.iter().for_each(|&token| out.single[token as usize] += 1);
        for pair in tokens.windows(2) {
            let times = out.pairs.entry((pair[0], pair[1])).or_default();
            *times += 1;
            let (count, followers) = out.first.entry(pair[0]).or_default();
            *count += 1;
            *followers += u32::from(*times == 1);
        }
        out
    }

    /// Probability of `next` after `before`.
    pub fn probability(&self, before: u32, next: u32) -> f64 {
        let single = f64::from(self.single[next as usize]) / self.total as f64;
        let Some(&(count, followers)) = self.first.get(&before) else { return single };
        let times = f64::from(self.pairs.get(&(before, next)).copied().unwrap_or_default());
        let count = f64::from(count);
        (times - DISCOUNT).max(0.0) / count + DISCOUNT * f64::from(followers) / count * single
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_after_every_token_sum_to_one() {
        let bigram = Bigram::count(6, &[0, 1, 2, 0, 1, 3, 0, 1, 2, 4]);
        for before in 0..6 {
            let sum: f64 = (0..6).map(|next| bigram.probability(before, next)).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{before}: {sum}");
        }
        assert!(bigram.probability(0, 1) > bigram.probability(0, 2));
    }
}
