//! Rotary positions: pairs of elements of queries and keys are turned by an angle that grows with the position.
//!
//! Source: Su et al. 2021, <https://arxiv.org/abs/2104.09864>; halves and scaling of transformers' `modeling_rope_utils.py`.

/// How angles grow.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rope {
    /// Base of the wavelengths.
    pub theta: f64,
    /// How Llama 3.1 and later stretch long wavelengths.
    pub scaling: Option<Llama3Scaling>,
}

/// `rope_type` `llama3`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Llama3Scaling {
    /// Long wavelengths are stretched by this.
    pub factor: f64,
    /// Wavelengths above `original / low` are long.
    pub low: f64,
    /// Wavelengths below `original / high` stay.
    pub high: f64,
    /// Context of the first training, in tokens.
    pub original: f64,
}

impl Rope {
    /// Angle a position, one for each pair of a head of `head` elements.
    pub fn frequencies(&self, head: usize) -> Vec<f32> {
        let plain = (0..head / 2).map(|i| self.theta.powf(-2.0 * i as f64 / head as f64));
        plain
            .map(|frequency| self.scaling.as_ref().map_or(frequency, |s| s.apply(frequency)) as f32)
            .collect()
    }
}

impl Llama3Scaling {
    fn apply(&self, frequency: f64) -> f64 {
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        if wavelength < self.original / self.high {
            return frequency;
        }
        if wavelength > self.original / self.low {
            return frequency / self.factor;
        }
        let smooth = (self.original / wavelength - self.low) / (self.high - self.low);
        (1.0 - smooth) * frequency / self.factor + smooth * frequency
    }
}
