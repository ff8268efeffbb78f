//! Samples and their median.

use serde::Serialize;

/// One quantity, measured several times.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Samples {
    /// What is quoted: the middle one, of an even number the mean of the two in the middle.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// How many.
    pub count: usize,
}

impl Samples {
    /// Of at least one value; of none, all is NaN, which meets no limit.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        let count = sorted.len();
        let median = f64::midpoint(at(count.saturating_sub(1) / 2), at(count / 2));
        Samples { median, min: at(0), max: at(count.saturating_sub(1)), count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(Samples::of(&[3.0, 1.0, 2.0]), Samples { median: 2.0, min: 1.0, max: 3.0, count: 3 });
        assert_eq!(Samples::of(&[4.0, 1.0]).median, 2.5);
        assert_eq!(Samples::of(&[7.0]).median, 7.0);
    }

    #[test]
    fn no_sample_has_no_median() {
        assert!(Samples::of(&[]).median.is_nan());
    }
}
