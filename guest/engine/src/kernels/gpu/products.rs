//! Products with weights: by rows for few tokens, by burn's product of matrices for many.
//!
//! ```text
//! up to 8 tokens   weights as stored   the norm before a product, and the gate behind it, are parts of the same kernel
//!                  in bytes            norm, product by rows, gate
//! more             weights as stored   norm, burn's product (matrix units where the device has them), gate
//!                  in bytes            the same behind a copy of the matrix that is widened and dropped; never of the head
//! ```
//! `unsafe` here as in `board.rs`: every length that a kernel reaches is asserted before.

use super::board::{Board, Buffer, UNITS, Width, arg, failed, units};
use super::rows;
use crate::error::EngineError;
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use cubecl::prelude::*;

/// Most tokens that a row of weights meets at a time; more go to products of matrices.
pub(super) const FEW: usize = 8;
/// Planes of a cube that multiplies by rows of weights: all of them may share a row.
const SHARING: usize = 8;

/// A matrix that is multiplied by: `[outputs, inputs]`, row after row.
pub(crate) struct Weight<W> {
    pub outputs: usize,
    pub inputs: usize,
    pub form: Form<W>,
}

/// How a matrix is held.
pub(crate) enum Form<W> {
    /// As wide as what multiplies it.
    Wide(Buffer<W>),
    /// Bytes, four in a word, and a scale for [`rows::GROUP`] of them.
    Bytes(Buffer<u32>, Buffer<f32>),
}

impl<R: CubeRuntime> Board<R> {
    /// `out (+)= x * weight^T`; `x` is `[tokens, inputs]`, `out` `[tokens, outputs]`.
    ///
    /// # Errors
    /// A product for which burn finds no kernel.
    pub fn linear<W: Width>(
        &self,
        x: &Buffer<W>,
        weight: &Weight<W>,
        out: &Buffer<f32>,
        add: bool,
    ) -> Result<(), EngineError> {
        let tokens = x.len / weight.inputs;
        assert!(x.len == tokens * weight.inputs && out.len == tokens * weight.outputs, "rows of a product");
        if tokens > FEW {
            return self.product(x, weight, out, add);
        }
        self.few(x, weight, out, 0..tokens, add);
        Ok(())
    }

    /// The same for the largest of all matrices: where it is in bytes, it is not widened, however many tokens there are.
    ///
    /// # Errors
    /// A product for which burn finds no kernel.
    pub fn linear_of_head<W: Width>(
        &self,
        x: &Buffer<W>,
        weight: &Weight<W>,
        out: &Buffer<f32>,
    ) -> Result<(), EngineError> {
        if matches!(weight.form, Form::Wide(_)) {
            return self.linear(x, weight, out, false);
        }
        let tokens = x.len / weight.inputs;
        assert!(x.len == tokens * weight.inputs && out.len == tokens * weight.outputs, "rows of a product");
        for first in (0..tokens).step_by(FEW) {
            self.few(x, weight, out, first..(first + FEW).min(tokens), false);
        }
        Ok(())
    }

    fn few<W: Width>(
        &self,
        x: &Buffer<W>,
        weight: &Weight<W>,
        out: &Buffer<f32>,
        tokens: std::ops::Range<usize>,
        add: bool,
    ) {
        let Weight { outputs, inputs, form } = weight;
        let (dim, first, tokens) = (self.planes(SHARING), tokens.start, tokens.len());
        // SAFETY: `outputs` rows of `inputs` weights (asserted where weights are made), `tokens` rows of `x` and `out`.
        unsafe {
            match form {
                Form::Wide(w) => {
                    let n = self.at_a_time(size_of::<W>(), *inputs);
                    let split = self.split(*outputs, inputs / n);
                    rows::gemv::launch_unchecked::<W, R>(
                        &self.client,
                        cubes(*outputs, split),
                        dim,
                        n,
                        arg(&x.handle, x.len),
                        arg(&w.handle, w.len),
                        arg(&out.handle, out.len),
                        inputs / n,
                        *outputs,
                        first,
                        tokens,
                        add,
                        split,
                        SHARING,
                    );
                }
                Form::Bytes(w, scales) => {
                    let split = self.split(*outputs, inputs / 16);
                    rows::gemv8::launch_unchecked::<W, R>(
                        &self.client,
                        cubes(*outputs, split),
                        dim,
                        4,
                        4,
                        arg(&x.handle, x.len),
                        arg(&w.handle, w.len),
                        arg(&scales.handle, scales.len),
                        arg(&out.handle, out.len),
                        inputs / 16,
                        *outputs,
                        first,
                        tokens,
                        add,
                        split,
                        SHARING,
                    );
                }
            }
        }
    }

    /// Planes that share a row: one where there are rows for all, more where a plane for each would leave the device idle, as long
    /// as each unit has something to multiply.
    fn split(&self, outputs: usize, vectors: usize) -> usize {
        let mut split = 1;
        while split < SHARING && outputs * split < self.wanted && vectors >= 2 * split * self.lanes {
            split *= 2;
        }
        split
    }

    /// `out = weight * norm(x)^T`; `x` is `[tokens, inputs]`, `out` `[tokens, outputs]`.
    ///
    /// # Errors
    /// A product for which burn finds no kernel.
    pub fn normed<W: Width>(
        &self,
        x: &Buffer<f32>,
        gamma: &Buffer<f32>,
        eps: f32,
        weight: &Weight<W>,
    ) -> Result<Buffer<f32>, EngineError> {
        let tokens = x.len / weight.inputs;
        let out = self.empty(tokens * weight.outputs);
        match &weight.form {
            Form::Wide(w) if weight.few(tokens) => {
                self.normed_few(x, (gamma, eps), w, &out, weight.outputs, false);
            }
            _ => self.linear(&self.norm::<W>(x, None, gamma, eps), weight, &out, false)?,
        }
        Ok(out)
    }

    /// `silu(gate) * up` of `weight * norm(x)^T`, whose first half of rows are gates: `[tokens, outputs / 2]`.
    ///
    /// # Errors
    /// As [`Board::normed`].
    pub fn normed_gates<W: Width>(
        &self,
        x: &Buffer<f32>,
        gamma: &Buffer<f32>,
        eps: f32,
        weight: &Weight<W>,
    ) -> Result<Buffer<W>, EngineError> {
        let (tokens, inner) = (x.len / weight.inputs, weight.outputs / 2);
        match &weight.form {
            Form::Wide(w) if weight.few(tokens) => {
                let out = self.empty(tokens * inner);
                self.normed_few(x, (gamma, eps), w, &out, inner, true);
                Ok(out)
            }
            _ => Ok(self.gated(&self.normed(x, gamma, eps, weight)?, inner)),
        }
    }

    /// `outputs` numbers of each of few tokens, from as many rows of weights, or twice as many where `gated`.
    fn normed_few<W: Width, O: Width>(
        &self,
        x: &Buffer<f32>,
        (gamma, eps): (&Buffer<f32>, f32),
        w: &Buffer<W>,
        out: &Buffer<O>,
        outputs: usize,
        gated: bool,
    ) {
        let (inputs, tokens) = (gamma.len, x.len / gamma.len);
        let rows = outputs * (1 + usize::from(gated));
        assert!(x.len == tokens * inputs && (1..=FEW).contains(&tokens), "rows of few tokens");
        assert!(w.len == rows * inputs && out.len == tokens * outputs, "rows of a product");
        let n = self.beside_single(inputs);
        let split = self.split(outputs, inputs / n);
        // SAFETY: as long as asserted.
        unsafe {
            rows::ngemv::launch_unchecked::<W, O, R>(
                &self.client,
                cubes(outputs, split),
                self.planes(SHARING),
                n,
                arg(&x.handle, x.len),
                arg(&gamma.handle, inputs),
                arg(&w.handle, w.len),
                arg(&out.handle, out.len),
                inputs / n,
                outputs,
                inputs as f32,
                eps,
                tokens,
                gated,
                split,
                SHARING,
            );
        }
    }

    /// Many tokens: burn's product of matrices, with the device's matrix units where it has them.
    fn product<W: Width>(
        &self,
        x: &Buffer<W>,
        weight: &Weight<W>,
        out: &Buffer<f32>,
        add: bool,
    ) -> Result<(), EngineError> {
        let Weight { outputs, inputs, form } = weight;
        let tokens = x.len / inputs;
        let wide = match form {
            Form::Wide(w) => w.clone(),
            Form::Bytes(w, scales) => self.widen(w, scales),
        };
        let lhs = self.tensor(&x.handle, [tokens, *inputs], W::dtype());
        let mut rhs = self.tensor(&wide.handle, [*outputs, *inputs], W::dtype());
        rhs.meta.swap(0, 1);
        let sum = if add { self.empty::<f32>(out.len) } else { out.clone() };
        let result = self.tensor(&sum.handle, [tokens, *outputs], DType::F32);
        matmul(lhs, rhs, Some(result), MatmulStrategy::Cube, DType::F32)
            .map_err(|error| failed(format!("{error:?}")))?;
        if add {
            self.add(&sum, out);
        }
        Ok(())
    }

    fn widen<W: Width>(&self, w: &Buffer<u32>, scales: &Buffer<f32>) -> Buffer<W> {
        let out = self.empty::<W>(w.len * 4);
        // SAFETY: four numbers a word, a scale for eight words: asserted where weights are made.
        unsafe {
            rows::widen::launch_unchecked::<W, R>(
                &self.client,
                units(w.len),
                CubeDim::new_1d(UNITS as u32),
                arg(&w.handle, w.len),
                arg(&scales.handle, scales.len),
                arg(&out.handle, out.len),
                w.len,
            );
        }
        out
    }
}

impl<W: Width> Weight<W> {
    /// Whether so many tokens and their norm are one kernel.
    pub fn few(&self, tokens: usize) -> bool {
        tokens <= FEW && matches!(self.form, Form::Wide(_))
    }

    /// A matrix as wide as what multiplies it.
    pub fn wide(buffer: Buffer<W>, outputs: usize, inputs: usize) -> Self {
        assert_eq!(buffer.len, outputs * inputs, "weights of a matrix");
        Weight { outputs, inputs, form: Form::Wide(buffer) }
    }

    /// A matrix in bytes; rows are whole groups.
    pub fn bytes(words: Buffer<u32>, scales: Buffer<f32>, outputs: usize, inputs: usize) -> Self {
        assert!(inputs.is_multiple_of(rows::GROUP) && words.len * 4 == outputs * inputs, "bytes of a matrix");
        assert_eq!(scales.len * rows::GROUP, outputs * inputs, "a scale a group");
        Weight { outputs, inputs, form: Form::Bytes(words, scales) }
    }
}

/// Cubes for so many rows of weights, `split` planes a row.
fn cubes(outputs: usize, split: usize) -> CubeCount {
    CubeCount::Static((outputs * split).div_ceil(SHARING) as u32, 1, 1)
}
