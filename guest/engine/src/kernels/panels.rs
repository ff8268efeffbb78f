//! Many tokens and weights as they lie in a file: panels of 32 outputs are widened and turned once, and used for all tokens.
//!
//! ```text
//! slices of the inputs, each: tokens turned into tiles; panel after panel: rows -> [inputs][32] -> packed.rs, tile by tile
//! ```
//! Weights of bfloat16 may stay what they are and meet activations that are rounded to bfloat16, two products an instruction
//! where the processor has it: half the work, at the price of up to a 512th of every activation. Whoever wants that asks for it
//! ([`Machine::pairs`]); it is then done on every processor, so that all compute the same up to the order of sums.

use super::Machine;
use super::isa::{self, Isa};
use super::lanes::Lanes;
use super::matrix::{Kind, Rows, with_scratch};
use super::packed::{PANEL, Work, tiles_of, turn};
use super::pool::Shares;
use half::bf16;

/// Most elements of a slice: a panel of it stays in the nearest cache but one.
const DEPTH: usize = 384;

/// `out[t] = x[t] * rows`, or `out[t] += ..`: `x` is `[tokens, cols]`, `out` is `out_stride` apart.
///
/// # Safety
/// `out` has room for a column for each row, of every token, which nobody else has.
pub(super) unsafe fn multiply(
    machine: &Machine,
    rows: &Rows,
    (x, cols): (&[f32], usize),
    (out, out_stride): (Shares<f32>, usize),
    add: bool,
    turned: &mut Vec<f32>,
) {
    let pairs = machine.pairs && rows.kind() == Kind::Bf16;
    let inputs = if pairs { 2 } else { 1 };
    let tokens = x.len() / cols;
    let tiles = tiles_of(machine.isa, tokens);
    for from in (0..cols).step_by(DEPTH * inputs) {
        let width = (cols - from).min(DEPTH * inputs);
        let depth = width.div_ceil(inputs);
        turned.resize(tokens * depth, 0.0);
        let to = Shares::of(turned);
        machine.pool.run(tiles.len(), &|index| {
            let (first, count) = tiles[index];
            // SAFETY: every tile is one part.
            let to = unsafe { to.slice(first * depth, count * depth) };
            let x = &x[first * cols + from..];
            if pairs {
                turn_pairs(machine.isa, x, cols, width, count, to)
            } else {
                turn(x, cols, depth, count, to)
            }
        });
        let turned = &*turned;
        machine.pool.run(rows.count().div_ceil(PANEL), &|panel| {
            let column = panel * PANEL;
            let columns = PANEL.min(rows.count() - column);
            with_scratch(depth * PANEL + width, |scratch| {
                let (panel, row) = scratch.split_at_mut(depth * PANEL);
                lay_out(machine.isa, rows, cols, (column, columns), (from, width), pairs, row, panel);
                for &(first, count) in &tiles {
                    // SAFETY: panel and tile have `depth` rows; of `out`, as the caller vouches.
                    unsafe {
                        let work = Work {
                            panel: panel.as_ptr(),
                            depth,
                            x: turned[first * depth..][..count * depth].as_ptr(),
                            bias: std::ptr::null(),
                            out: out.at(first * out_stride + column),
                            out_stride,
                            columns,
                            add: add || from > 0,
                        };
                        if pairs {
                            isa::packed_pairs(machine.isa, work, count);
                        } else {
                            isa::packed(machine.isa, work, count);
                        }
                    }
                }
            });
        });
    }
}

/// Inputs `from..from + width` of some rows as a panel; columns that are not there are 0.
fn lay_out(
    isa: Isa,
    rows: &Rows,
    cols: usize,
    (column, columns): (usize, usize),
    (from, width): (usize, usize),
    pairs: bool,
    row: &mut [f32],
    panel: &mut [f32],
) {
    if columns < PANEL {
        panel.fill(0.0);
    }
    for r in 0..columns {
        let to = panel[r..].iter_mut().step_by(PANEL);
        if pairs {
            let bytes = &rows.from(column + r, cols)[2 * from..][..2 * width];
            let (whole, last) = bytes.as_chunks::<4>();
            let last = last.first_chunk::<2>().map(|last| u32::from(u16::from_le_bytes(*last)));
            let pairs = whole.iter().map(|pair| u32::from_le_bytes(*pair)).chain(last);
            to.zip(pairs).for_each(|(to, pair)| *to = f32::from_bits(pair));
        } else {
            rows.widen(isa, column + r, (from, width), cols, row);
            to.zip(&*row).for_each(|(to, x)| *to = *x);
        }
    }
}

/// `to[k][t]` is the pair `2 * k` of token `t`, rounded, for `count` tokens that lie `stride` apart.
fn turn_pairs(isa: Isa, from: &[f32], stride: usize, width: usize, count: usize, to: &mut [f32]) {
    for t in 0..count {
        // SAFETY: the instruction set is this processor's.
        unsafe { isa::rounded_pairs(isa, &from[t * stride..][..width], &mut to[t..], count) };
    }
}

/// Writes a row's pairs, rounded to bfloat16 (to nearest, ties to even), `step` numbers apart.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub(super) unsafe fn rounded_pairs<L: Lanes>(row: &[f32], to: &mut [f32], step: usize) {
    let (whole, last) = row.as_chunks::<2>();
    let last = last.first().map(|x| [*x, 0.0]);
    for (to, pair) in to.iter_mut().step_by(step).zip(whole.iter().copied().chain(last)) {
        let [low, high] = pair.map(|x| u32::from(bf16::from_f32(x).to_bits()));
        *to = f32::from_bits(low | high << 16);
    }
}
