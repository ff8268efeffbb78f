//! From the hidden states of a text to its vector.

/// How hidden states become one vector (sentence-transformers, `Pooling`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The mean over all tokens, special tokens included.
    Mean,
    /// The first token.
    Cls,
}

impl Pooling {
    /// Pools `states`, whole rows of `width` elements, one a token (at least one row).
    pub(crate) fn apply(self, states: &[f32], width: usize) -> Vec<f32> {
        match self {
            Pooling::Cls => states[..width].to_vec(),
            Pooling::Mean => {
                let mut sum = vec![0.0; width];
                for row in states.chunks_exact(width) {
                    sum.iter_mut().zip(row).for_each(|(total, value)| *total += value);
                }
                let tokens = (states.len() / width) as f32;
                sum.iter_mut().for_each(|total| *total /= tokens);
                sum
            }
        }
    }
}

/// Scales to Euclidean length 1; a vector shorter than 1e-12 is divided by that instead, as torch's `normalize` does.
pub(crate) fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|v| *v /= length);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_first_token_differ() {
        let states = [1.0, 2.0, 3.0, 6.0];
        assert_eq!(Pooling::Mean.apply(&states, 2), [2.0, 4.0]);
        assert_eq!(Pooling::Cls.apply(&states, 2), [1.0, 2.0]);
    }

    #[test]
    fn a_normalised_vector_has_length_one_and_zero_stays_finite() {
        let mut vector = [3.0, 4.0];
        normalise(&mut vector);
        assert_eq!(vector, [0.6, 0.8]);
        let mut zero = [0.0; 3];
        normalise(&mut zero);
        assert_eq!(zero, [0.0; 3]);
    }
}
