//! Products with weights that were laid out for it when they were loaded: fastest for single precision and many tokens.
//!
//! ```text
//! weights: panels of 32 outputs, each [inputs][32]        x: tiles of up to 14 tokens, each [inputs][tokens]
//! sums of a tile, all in registers:  for k: for t: sums[t] += x[k][t] * panel[k]
//! ```
//! Unlike the loop in `tile.rs` it adds nothing across a vector, at the price of a copy in memory. Every sum is added in
//! the order of k whatever the tile, so what is computed for a token does not depend on its company.

use super::Machine;
use super::isa::{self, Isa};
use super::lanes::Lanes;
use super::pool::Shares;

/// Outputs of a panel: whole vectors, two at a time, of every instruction set.
pub(super) const PANEL: usize = 32;
/// Most tokens of a tile with 32 registers and with 16.
const WIDE: usize = 14;
const NARROW: usize = 6;
/// Most inputs of a slice.
const DEPTH: usize = 384;

/// A cache line: vectors that cross none are read in one go.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Weights `[outputs, inputs]` and a number for each output that is added.
pub(crate) struct Packed {
    inputs: usize,
    outputs: usize,
    panels: Vec<Line>,
    bias: Vec<f32>,
}

impl Packed {
    /// Lays out weights that lie output by output.
    ///
    /// # Panics
    /// Weights that are not whole rows, one a bias.
    pub fn new(weights: &[f32], inputs: usize, bias: &[f32]) -> Packed {
        let outputs = bias.len();
        assert!(inputs > 0 && weights.len() == inputs * outputs, "a row of weights for every bias");
        let count = outputs.div_ceil(PANEL);
        let mut panels = vec![Line([0.0; 16]); count * inputs * (PANEL / 16)];
        for (output, row) in weights.chunks_exact(inputs).enumerate() {
            let column = output % PANEL;
            let first = output / PANEL * inputs * (PANEL / 16) + column / 16;
            for (k, weight) in row.iter().enumerate() {
                panels[first + k * (PANEL / 16)].0[column % 16] = *weight;
            }
        }
        let mut bias = bias.to_vec();
        bias.resize(count * PANEL, 0.0);
        Packed { inputs, outputs, panels, bias }
    }

    /// Numbers of a result.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `out[t] = x[t] * weights + bias`, or `out[t] += ..` where `add`. `x` is `[tokens, inputs]`, `out` is
    /// `[tokens, outputs]`.
    ///
    /// # Panics
    /// Slices of other lengths.
    pub fn multiply(&self, machine: &Machine, x: &[f32], out: &mut [f32], add: bool, scratch: &mut Vec<f32>) {
        let tokens = x.len() / self.inputs;
        assert_eq!((x.len(), out.len()), (tokens * self.inputs, tokens * self.outputs), "whole tokens");
        let tiles = tiles_of(machine.isa, tokens);
        // A slice of all tokens' inputs and a panel's share of it stay in the cache while panel after panel uses them.
        for from in (0..self.inputs).step_by(DEPTH) {
            let depth = DEPTH.min(self.inputs - from);
            scratch.resize(tokens * depth, 0.0);
            let turned = Shares::of(scratch);
            machine.pool.run(tiles.len(), &|index| {
                let (first, count) = tiles[index];
                // SAFETY: every tile is one part.
                let to = unsafe { turned.slice(first * depth, count * depth) };
                turn(&x[first * self.inputs + from..], self.inputs, depth, count, to);
            });
            self.slice(machine, (from, depth), &tiles, scratch, out, add || from > 0);
        }
    }

    /// Inputs `from..from + depth` of all tokens, times all weights that they have. The first slice brings the bias.
    fn slice(
        &self,
        machine: &Machine,
        (from, depth): (usize, usize),
        tiles: &[(usize, usize)],
        turned: &[f32],
        out: &mut [f32],
        add: bool,
    ) {
        let out = Shares::of(out);
        machine.pool.run(self.outputs.div_ceil(PANEL), &|panel| {
            let (column, row) = (panel * PANEL, PANEL / 16);
            let lines = &self.panels[(panel * self.inputs + from) * row..][..depth * row];
            for &(first, count) in tiles {
                let bias =
                    if from == 0 { self.bias[column..column + PANEL].as_ptr() } else { std::ptr::null() };
                // SAFETY: panel and tile have `depth` rows, panel and bias 32 columns; this panel's columns of `out` are
                // this part's alone.
                unsafe {
                    let work = Work {
                        panel: lines.as_ptr().cast(),
                        depth,
                        x: turned[first * depth..][..count * depth].as_ptr(),
                        bias,
                        out: out.at(first * self.outputs + column),
                        out_stride: self.outputs,
                        columns: PANEL.min(self.outputs - column),
                        add,
                    };
                    isa::packed(machine.isa, work, count);
                }
            }
        });
    }
}

/// First token and number of tokens of each tile, all about equally long.
pub(super) fn tiles_of(isa: Isa, tokens: usize) -> Vec<(usize, usize)> {
    cut(tokens, if isa.is_wide() { WIDE } else { NARROW })
}

/// The same of at most `most` tokens.
pub(super) fn cut(tokens: usize, most: usize) -> Vec<(usize, usize)> {
    let count = tokens.div_ceil(most);
    (0..count).map(|i| (i * tokens / count, (i + 1) * tokens / count - i * tokens / count)).collect()
}

/// `to[k][t] = from[t][k]` for `count` rows that lie `stride` apart.
pub(super) fn turn(from: &[f32], stride: usize, depth: usize, count: usize, to: &mut [f32]) {
    for t in 0..count {
        let row = &from[t * stride..][..depth];
        to[t..].iter_mut().step_by(count).zip(row).for_each(|(to, x)| *to = *x);
    }
}

/// What is multiplied: elements of 32 bits of a panel and of a tile.
pub(super) trait Product {
    /// `sum` and the product.
    ///
    /// # Safety
    /// The processor has `L`.
    unsafe fn add<L: Lanes>(x: L::V, w: L::V, sum: L::V) -> L::V;
}

/// Numbers in single precision.
pub(super) struct Single;

/// Pairs of bfloat16, in the bits of a number.
pub(super) struct Pairs;

impl Product for Single {
    #[inline(always)]
    unsafe fn add<L: Lanes>(x: L::V, w: L::V, sum: L::V) -> L::V {
        // SAFETY: as the caller vouches.
        unsafe { L::fma(x, w, sum) }
    }
}

impl Product for Pairs {
    #[inline(always)]
    unsafe fn add<L: Lanes>(x: L::V, w: L::V, sum: L::V) -> L::V {
        // SAFETY: as the caller vouches.
        unsafe { L::pairs(x, w, sum) }
    }
}

/// One panel times one tile.
#[derive(Clone, Copy)]
pub(super) struct Work {
    /// `[depth][32]`.
    pub panel: *const f32,
    pub depth: usize,
    /// `[depth][tokens]`.
    pub x: *const f32,
    /// 32 numbers, or null for none.
    pub bias: *const f32,
    pub out: *mut f32,
    /// Numbers from one token of `out` to the next.
    pub out_stride: usize,
    /// How many of the 32 results are wanted.
    pub columns: usize,
    /// Whether results are added to what `out` holds.
    pub add: bool,
}

/// Up to 14 tokens.
///
/// # Safety
/// The processor has `L`, and all that [`Work`] names is there.
#[inline(always)]
pub(super) unsafe fn packed<L: Lanes, P: Product>(work: Work, tokens: usize) {
    macro_rules! choose {
        ($($count:literal)*) => {
            match tokens {
                // SAFETY: as the caller vouches.
                $($count => unsafe { columns::<L, P, $count>(work) },)*
                _ => unreachable!("tiles have 1 to 14 tokens"),
            }
        };
    }
    choose!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

#[inline(always)]
unsafe fn columns<L: Lanes, P: Product, const T: usize>(work: Work) {
    let mut column = 0;
    while column < work.columns {
        // SAFETY: as the caller vouches; a panel has all 32 columns.
        unsafe { tile::<L, P, T>(work, column) };
        column += 2 * L::N;
    }
}

/// Two vectors of columns of all `T` tokens.
#[inline(always)]
unsafe fn tile<L: Lanes, P: Product, const T: usize>(work: Work, column: usize) {
    // SAFETY: as the caller vouches.
    unsafe {
        let panel = work.panel.add(column);
        let bias = |vector: usize| match work.bias.is_null() {
            true => L::splat(0.0),
            false => L::load(work.bias.add(column + vector * L::N).cast()),
        };
        let mut sums = [[bias(0), bias(1)]; T];
        for k in 0..work.depth {
            let row = panel.add(k * PANEL);
            let (left, right) = (L::load(row.cast()), L::load(row.add(L::N).cast()));
            let x = work.x.add(k * T);
            for (t, sums) in sums.iter_mut().enumerate() {
                let x = L::splat(*x.add(t));
                sums[0] = P::add::<L>(x, left, sums[0]);
                sums[1] = P::add::<L>(x, right, sums[1]);
            }
        }
        let whole = column + 2 * L::N <= work.columns;
        for (t, sums) in sums.iter().enumerate() {
            let out = work.out.add(t * work.out_stride + column);
            if whole {
                for (vector, sum) in sums.iter().enumerate() {
                    let out = out.add(vector * L::N);
                    L::store(out, if work.add { L::add(*sum, L::load(out.cast())) } else { *sum });
                }
            } else {
                let mut all = [0f32; PANEL];
                L::store(all.as_mut_ptr(), sums[0]);
                L::store(all.as_mut_ptr().add(L::N), sums[1]);
                for (i, sum) in all[..work.columns - column].iter().enumerate() {
                    *out.add(i) = if work.add { *sum + *out.add(i) } else { *sum };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Pool;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| draw()).collect()
    }

    fn machines() -> Vec<Machine> {
        let of = |isa, threads| Machine { isa, pool: Pool::new(threads), pairs: false };
        Isa::all().into_iter().flat_map(|isa| [of(isa, 1), of(isa, 3)]).collect()
    }

    #[test]
    fn products_are_those_of_the_plain_loop_on_every_instruction_set() {
        for machine in machines() {
            for (tokens, inputs, outputs) in
                [(1, 1, 1), (3, 7, 31), (14, 32, 32), (15, 40, 70), (29, 3, 33), (2, DEPTH + 5, 33)]
            {
                let (x, weights) = (numbers(tokens * inputs, 1), numbers(outputs * inputs, 2));
                let bias = numbers(outputs, 3);
                let packed = Packed::new(&weights, inputs, &bias);
                let mut out = numbers(tokens * outputs, 4);
                let before = out.clone();
                let mut scratch = vec![];
                for (add, times) in [(false, 0.0), (true, 1.0)] {
                    out.copy_from_slice(&before);
                    packed.multiply(&machine, &x, &mut out, add, &mut scratch);
                    for (i, out) in out.iter().enumerate() {
                        let (t, o) = (i / outputs, i % outputs);
                        let pairs = x[t * inputs..][..inputs].iter().zip(&weights[o * inputs..]);
                        let sum: f64 = pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                        let right = sum + f64::from(bias[o]) + times * f64::from(before[i]);
                        assert!((f64::from(*out) - right).abs() < 1e-5 * inputs as f64, "{i}: {out} {right}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_token_gets_the_same_bits_in_any_company() {
        for machine in machines() {
            let inputs = DEPTH + 24;
            let packed = Packed::new(&numbers(40 * inputs, 2), inputs, &numbers(40, 3));
            let (x, mut scratch) = (numbers(31 * inputs, 1), vec![]);
            let mut all = vec![0.0; 31 * 40];
            packed.multiply(&machine, &x, &mut all, false, &mut scratch);
            for t in 0..31 {
                let mut one = vec![0.0; 40];
                packed.multiply(&machine, &x[t * inputs..][..inputs], &mut one, false, &mut scratch);
                assert_eq!(one, all[t * 40..][..40], "token {t}");
            }
        }
    }
}
