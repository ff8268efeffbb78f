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
use super::tile::{Element, Row};
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
            with_scratch(room(depth), |panel| {
                lay_out(machine.isa, rows, cols, (column, columns), (from, width), pairs, panel);
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

/// Inputs `from..from + width` of some rows as a panel, or pairs of them; what is not there is 0.
fn lay_out(
    isa: Isa,
    rows: &Rows,
    cols: usize,
    (column, columns): (usize, usize),
    (from, width): (usize, usize),
    pairs: bool,
    panel: &mut [f32],
) {
    let size = rows.kind().element();
    let bytes = &rows.from(column, cols)[from * size..][..((columns - 1) * cols + width) * size];
    let depth = if pairs { width.div_ceil(2) } else { width };
    assert!(panel.len() == room(depth) && columns <= PANEL, "a whole panel");
    let (row, to) = (bytes.as_ptr(), panel.as_mut_ptr());
    let turn = Turn { row, stride: cols * size, rows: columns, bytes: width * size, to };
    // SAFETY: rows and panel are as long as they need be (above).
    unsafe {
        match rows.kind() {
            Kind::F32 => isa::turned_f32(isa, turn),
            Kind::F16 => isa::turned_f16(isa, turn),
            // A pair is what a number in single precision is: 32 bits.
            Kind::Bf16 if pairs => isa::turned_f32(isa, turn),
            Kind::Bf16 => isa::turned_bf16(isa, turn),
            Kind::Int8 => unreachable!("bytes are multiplied as they are"),
        }
    }
}

/// Numbers of a panel: whole vectors of inputs.
fn room(depth: usize) -> usize {
    depth.next_multiple_of(16) * PANEL
}

/// Rows that become columns of a panel.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    row: Row,
    /// Bytes from one row to the next.
    stride: usize,
    /// How many there are.
    rows: usize,
    /// Bytes that are taken of each.
    bytes: usize,
    /// `[inputs][32]`, whole vectors of inputs.
    to: *mut f32,
}

/// Turns them; the rows that are likely to be next are asked for.
///
/// # Safety
/// The processor has `L`; the rows are there, and room for the panel.
#[inline(always)]
pub(super) unsafe fn turned<L: Lanes, E: Element>(turn: Turn) {
    for first in (0..PANEL).step_by(L::N) {
        for k in (0..turn.bytes.div_ceil(E::BYTES)).step_by(L::N) {
            // SAFETY: as the caller vouches; a panel has room for whole vectors.
            unsafe {
                L::turned(|r| vector::<L, E>(turn, first + r, k), turn.to.add(k * PANEL + first), PANEL)
            };
        }
    }
}

/// Elements `k..k + N` of a row; 0 where there is none.
#[inline(always)]
unsafe fn vector<L: Lanes, E: Element>(turn: Turn, row: usize, k: usize) -> L::V {
    // SAFETY: the row is one of those that there are, and no more than `left` bytes are read of it.
    unsafe {
        if row >= turn.rows {
            return L::splat(0.0);
        }
        let from = turn.row.add(row * turn.stride + k * E::BYTES);
        L::ask(from.wrapping_add(L::N * turn.stride));
        let left = turn.bytes - k * E::BYTES;
        if left >= L::N * E::BYTES {
            return E::lanes::<L>(from, 0);
        }
        let mut padded = [0u8; 64];
        padded.as_mut_ptr().copy_from_nonoverlapping(from, left);
        E::lanes::<L>(padded.as_ptr(), 0)
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
