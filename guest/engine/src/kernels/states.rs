//! What an encoder knows of its tokens, laid out so that a vector holds one number of many tokens.
//!
//! ```text
//! panels of 16 tokens, each [features][16]        a row is one number of 16 tokens: a cache line
//! ```
//! A product of such panels comes out as such panels, norms and softmaxes add whole rows, and a head's queries, keys and
//! values are rows as they lie: nothing is ever transposed between the first layer and the last. The price is places of
//! the last panel that hold no token; they are computed eight at a time and never read.

pub(super) use super::packed::NARROW_PANEL as PANEL;

/// Tokens that are computed at once where no more are left.
const STEP: usize = 8;

/// One number of every token of a panel, in one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Row(pub [f32; PANEL]);

impl Row {
    pub(super) const ZERO: Row = Row([0.0; PANEL]);
}

/// Numbers `[tokens, features]`, panel after panel.
#[derive(Default)]
pub(crate) struct States {
    tokens: usize,
    features: usize,
    rows: Vec<Row>,
}

impl States {
    /// Lays out numbers that lie token by token.
    ///
    /// # Panics
    /// Numbers that are not whole tokens.
    #[cfg(test)]
    pub fn new(numbers: &[f32], features: usize) -> States {
        let mut states = States::default();
        states.fill(numbers, features);
        states
    }

    /// The same in place of what there was.
    ///
    /// # Panics
    /// As [`States::new`].
    pub fn fill(&mut self, numbers: &[f32], features: usize) {
        self.reset(numbers.len() / features, features);
        assert_eq!(numbers.len(), self.tokens * features, "whole tokens");
        for (token, numbers) in numbers.chunks_exact(features).enumerate() {
            let rows = &mut self.rows[token / PANEL * features..][..features];
            rows.iter_mut().zip(numbers).for_each(|(row, x)| row.0[token % PANEL] = *x);
        }
    }

    /// Makes room for so many numbers, which may be those of an earlier pass until they are written.
    pub fn reset(&mut self, tokens: usize, features: usize) {
        (self.tokens, self.features) = (tokens, features);
        self.rows.resize(tokens.div_ceil(PANEL) * features, Row::ZERO);
    }

    /// Token by token.
    pub fn numbers(&self) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(self.tokens * self.features);
        for token in 0..self.tokens {
            let rows = &self.rows[token / PANEL * self.features..][..self.features];
            numbers.extend(rows.iter().map(|row| row.0[token % PANEL]));
        }
        numbers
    }

    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(super) fn features(&self) -> usize {
        self.features
    }

    pub(super) fn panels(&self) -> usize {
        self.tokens.div_ceil(PANEL)
    }

    /// Tokens of a panel that are computed: those that it has, and some that fill a vector.
    pub(super) fn lanes(&self, panel: usize) -> usize {
        (self.tokens - panel * PANEL).min(PANEL).next_multiple_of(STEP)
    }

    /// Rows of a panel, from a feature on.
    pub(super) fn from(&self, panel: usize, feature: usize) -> &[Row] {
        &self.rows[panel * self.features..][..self.features][feature..]
    }

    pub(super) fn rows(&mut self) -> &mut [Row] {
        &mut self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_laid_out_comes_back() {
        for (tokens, features) in [(0, 3), (1, 1), (15, 2), (16, 5), (17, 5), (100, 7)] {
            let numbers: Vec<f32> = (0..tokens * features).map(|i| i as f32).collect();
            let states = States::new(&numbers, features);
            assert_eq!(states.numbers(), numbers);
            assert_eq!(states.panels(), tokens.div_ceil(PANEL));
        }
    }

    #[test]
    fn a_panel_that_is_not_full_is_computed_by_halves() {
        for (tokens, lanes) in [(1, 8), (8, 8), (9, 16), (16, 16)] {
            assert_eq!(States::new(&vec![0.0; tokens], 1).lanes(0), lanes);
            assert_eq!(States::new(&vec![0.0; tokens + PANEL], 1).lanes(1), lanes);
        }
    }
}
