//! What a device can do at best, measured by the same means that a model is computed with: what shares of it are reckoned from.

use super::{Board, Weight};
use crate::error::EngineError;
use burn_cubecl::CubeRuntime;
use half::bf16;
use std::time::Instant;

/// Numbers of each of the two buffers that are added: a gibibyte.
const NUMBERS: usize = 1 << 28;
/// Rows and columns of the matrices that are multiplied.
const SIDE: usize = 8192;
/// How often each is done; the quickest counts.
const TIMES: usize = 10;

/// Bytes a second that are read and written, and products of bfloat16 a second, one multiplication and one addition counted as two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Of a kernel that reads two numbers and writes one.
    pub bytes: f64,
    /// Of burn's product of two large matrices.
    pub products: f64,
}

impl<R: CubeRuntime> Board<R> {
    /// Measures the device; takes five gibibytes of it for some seconds.
    ///
    /// # Errors
    /// Whatever goes wrong on the device.
    pub fn speed(&self) -> Result<Speed, EngineError> {
        let (x, y) = (self.empty::<f32>(NUMBERS), self.empty::<f32>(NUMBERS));
        let mark = self.upload(&[0f32]);
        let quickest = |work: &dyn Fn() -> Result<(), EngineError>| -> Result<f64, EngineError> {
            let mut best = f64::INFINITY;
            // The first time compiles.
            for time in 0..=TIMES {
                self.read(&mark)?;
                let began = Instant::now();
                work()?;
                // One stream: what is read comes behind what was begun.
                self.read(&mark)?;
                if time > 0 {
                    best = best.min(began.elapsed().as_secs_f64());
                }
            }
            Ok(best)
        };
        let adding = quickest(&|| {
            self.add(&y, &x);
            Ok(())
        })?;
        let (lhs, rhs) = (self.empty::<bf16>(SIDE * SIDE), self.empty::<bf16>(SIDE * SIDE));
        let (weight, out) = (Weight::wide(rhs, SIDE, SIDE), self.empty::<f32>(SIDE * SIDE));
        let multiplying = quickest(&|| self.linear(&lhs, &weight, &out, false))?;
        let products = 2.0 * (SIDE as f64).powi(3);
        Ok(Speed { bytes: (3 * 4 * NUMBERS) as f64 / adding, products: products / multiplying })
    }
}
