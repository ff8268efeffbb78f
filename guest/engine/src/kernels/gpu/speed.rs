//! What a device can do at best, measured by the same means that a model is computed with: what shares of it are reckoned from.

use super::{Board, Weight, Width};
use crate::error::EngineError;
use burn_cubecl::CubeRuntime;
use half::bf16;
use std::time::Instant;

/// How often each is done; the quickest counts.
const TIMES: usize = 10;

/// Bytes a second that are read and written, and products a second, one multiplication and one addition counted as two: of bfloat16,
/// or of single precision where a device lacks it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Of a kernel that reads two numbers and writes one.
    pub bytes: f64,
    /// Of burn's product of two large matrices.
    pub products: f64,
}

impl<R: CubeRuntime> Board<R> {
    /// Measures the device by two buffers of `numbers` that are added, and two matrices of `side` rows and columns that are
    /// multiplied; takes memory for them for some seconds.
    ///
    /// # Errors
    /// Whatever goes wrong on the device.
    pub fn speed(&self, numbers: usize, side: usize) -> Result<Speed, EngineError> {
        let bytes = self.adding(numbers)?;
        let wide = self.knows::<bf16>();
        let products = if wide { self.multiplying::<bf16>(side) } else { self.multiplying::<f32>(side) };
        self.give_back();
        Ok(Speed { bytes, products: products? })
    }

    /// Bytes a second of a sum of two buffers into one of them.
    fn adding(&self, numbers: usize) -> Result<f64, EngineError> {
        let (x, y) = (self.empty::<f32>(numbers), self.empty::<f32>(numbers));
        let seconds = self.quickest(|| {
            self.add(&y, &x);
            Ok(())
        })?;
        Ok((3 * size_of::<f32>() * numbers) as f64 / seconds)
    }

    /// Products a second of two square matrices.
    fn multiplying<W: Width>(&self, side: usize) -> Result<f64, EngineError> {
        let (lhs, rhs) = (self.empty::<W>(side * side), self.empty::<W>(side * side));
        let (weight, out) = (Weight::wide(rhs, side, side), self.empty::<f32>(side * side));
        let seconds = self.quickest(|| self.linear(&lhs, &weight, &out, false))?;
        Ok(2.0 * (side as f64).powi(3) / seconds)
    }

    fn quickest(&self, work: impl Fn() -> Result<(), EngineError>) -> Result<f64, EngineError> {
        let mark = self.upload(&[0f32]);
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
    }
}
