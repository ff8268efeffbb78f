//! What a request costs, in nanoTON.
//!
//! ```text
//! charge     = ceil( base * sum(tokens of a kind * its multiplier) / (10,000 * 1,000,000) )
//! commission = floor( charge * commission / 10,000 )          fee of the worker = charge - commission
//! ```
//! A charge is rounded up, so a request of one token is not free; a commission is rounded down, so the odd nanoTON is
//! the worker's; fee and commission add up to the charge exactly. A charge never shrinks when tokens are added, nor a
//! fee when a charge grows: what was held for the most that can come covers whatever comes.

use serde::{Deserialize, Serialize};

/// Parts that make a whole, of multipliers and of commission.
pub const WHOLE: u32 = 10_000;

/// Tokens that `base` is the price of.
const UNIT: u128 = 1_000_000;

/// Tokens of one request. The four kinds are disjoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Read, and not found in a cache.
    pub prompt: u32,
    /// Read out of a cache.
    pub cached: u32,
    /// Written for the client.
    pub completion: u32,
    /// Written, but for the model itself.
    pub reasoning: u32,
}

impl Tokens {
    /// From counts as OpenAI's `usage` has them, where `prompt` includes `cached` and `completion` includes `reasoning`.
    pub fn from_usage(prompt: u32, cached: u32, completion: u32, reasoning: u32) -> Self {
        let (cached, reasoning) = (cached.min(prompt), reasoning.min(completion));
        Self { prompt: prompt - cached, cached, completion: completion - reasoning, reasoning }
    }
}

/// The price of a model, as the root contract states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// nanoTON for a million tokens of multiplier 1.
    pub base: u64,
    /// Multiplier of prompt tokens, in parts of [`WHOLE`].
    pub prompt: u32,
    /// Of cached tokens.
    pub cached: u32,
    /// Of completion tokens.
    pub completion: u32,
    /// Of reasoning tokens.
    pub reasoning: u32,
}

/// A charge that no account could hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{tokens:?} at {price:?} cost more than 1.8e19 nanoTON; the price in the root contract is wrong")]
pub struct TooMuch {
    tokens: Tokens,
    price: Price,
}

impl Price {
    /// What `tokens` cost.
    ///
    /// # Errors
    /// [`TooMuch`] where the charge is more than a `u64` of nanoTON.
    pub fn charge(&self, tokens: &Tokens) -> Result<u64, TooMuch> {
        let of = |count: u32, multiplier: u32| u128::from(count) * u128::from(multiplier);
        // Four products of 32 bits each fit 66 bits; with a base of 64 bits that may pass 128.
        let weight = of(tokens.prompt, self.prompt)
            + of(tokens.cached, self.cached)
            + of(tokens.completion, self.completion)
            + of(tokens.reasoning, self.reasoning);
        let parts = u128::from(self.base).checked_mul(weight);
        let charge = parts.map(|parts| parts.div_ceil(u128::from(WHOLE) * UNIT));
        charge.and_then(|c| u64::try_from(c).ok()).ok_or(TooMuch { tokens: *tokens, price: *self })
    }
}

/// The proxy's part of a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commission(u16);

impl Commission {
    /// Of parts of [`WHOLE`]; more than the whole counts as the whole.
    pub fn new(parts: u16) -> Self {
        Self(parts.min(WHOLE as u16))
    }

    /// Parts of [`WHOLE`].
    pub fn parts(self) -> u16 {
        self.0
    }

    /// What the worker gets of a charge.
    pub fn fee(self, charge: u64) -> u64 {
        charge - self.kept(charge)
    }

    /// What the proxy keeps of a charge.
    pub fn kept(self, charge: u64) -> u64 {
        // At most the charge itself, so it fits.
        (u128::from(charge) * u128::from(self.0) / u128::from(WHOLE)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PRICE: Price =
        Price { base: 2_000_000, prompt: 10_000, cached: 1_000, completion: 40_000, reasoning: 40_000 };

    #[test]
    fn a_charge_is_what_the_formula_says_rounded_up() {
        let tokens = Tokens::from_usage(1_000, 400, 50, 20);
        // 2 nanoTON a token: 600 + 400 / 10 + 30 * 4 + 20 * 4 = 840 tokens
        assert_eq!(PRICE.charge(&tokens), Ok(1_680));
        assert_eq!(PRICE.charge(&Tokens { cached: 1, ..Tokens::default() }), Ok(1));
        assert_eq!(PRICE.charge(&Tokens::default()), Ok(0));
    }

    #[test]
    fn a_charge_beyond_u64_is_an_error() {
        let price =
            Price { base: u64::MAX, prompt: u32::MAX, cached: 0, completion: u32::MAX, reasoning: u32::MAX };
        let most = Tokens { prompt: u32::MAX, cached: u32::MAX, completion: u32::MAX, reasoning: u32::MAX };
        assert!(price.charge(&most).is_err());
        assert!(price.charge(&Tokens { prompt: u32::MAX, ..Tokens::default() }).is_err());
    }

    proptest! {
        #[test]
        fn what_was_held_covers_what_comes(
            base: u64, m: [u32; 4], most: [u32; 4], got: [prop::sample::Index; 4], parts: u16,
        ) {
            let price = Price { base, prompt: m[0], cached: m[1], completion: m[2], reasoning: m[3] };
            let least = |n: usize| got[n].index(most[n] as usize + 1) as u32;
            let held = Tokens { prompt: most[0], cached: most[1], completion: most[2], reasoning: most[3] };
            let came = Tokens { prompt: least(0), cached: least(1), completion: least(2), reasoning: least(3) };
            if let Ok(hold) = price.charge(&held) {
                let charge = price.charge(&came).unwrap();
                let commission = Commission::new(parts);
                prop_assert!(charge <= hold);
                prop_assert!(commission.fee(charge) <= commission.fee(hold));
                prop_assert_eq!(commission.fee(charge) + commission.kept(charge), charge);
            }
        }
    }
}
