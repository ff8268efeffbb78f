//! Weights of 16 bits, apart from the rest since it is of no use to other crates' tests.

use crate::common::decoder::Decoder;
use half::{bf16, f16};
use safetensors::Dtype;

impl Decoder {
    /// The same with all weights in F16 or BF16, rounded to the nearest.
    pub fn in_16_bits(mut self, dtype: Dtype) -> Decoder {
        for (kind, _, bytes) in self.tensors.values_mut() {
            let wide = bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word));
            *bytes = match dtype {
                Dtype::F16 => wide.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
                Dtype::BF16 => wide.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
                other => panic!("{other:?} has no 16 bits"),
            };
            *kind = dtype;
        }
        self
    }
}
