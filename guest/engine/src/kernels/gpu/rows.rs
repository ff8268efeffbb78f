//! Kernels that multiply by rows of weights: few tokens at a time, each weight read once, sums in single precision.
//!
//! ```text
//! gemv    a row of weights and up to 8 tokens
//! gemv8   the same with weights in bytes: four in a word, a scale for 32
//! ngemv   norm and gemv in one; of a gate and its up at once where they follow: norm, gemv and gated in one
//! widen   bytes and scales to numbers as wide as the weights, for products of many tokens
//! ```
//! One plane or several of a cube have a row of weights: where rows are few, a plane for each would leave a large device idle.
//! Which part is whose depends on the matrix alone, so a token's sums are added in the same order whatever is beside it.
//!
//! Launched without checks of bounds, by `board.rs` alone, as those of `ops.rs`.

use super::ops::sum_of;
use cubecl::prelude::*;

/// Bytes that share a scale.
pub const GROUP: usize = 32;
/// Bytes in a word, and what is added to each so that it has no sign.
const BYTES: usize = 4;
const OFFSET: f32 = 128.0;

/// Adds what the `split` planes of a row found, `count` sums; the first unit of the first plane knows the whole afterwards.
#[cube]
fn join(
    sums: &mut Array<f32>,
    #[comptime] count: usize,
    #[comptime] split: usize,
    #[comptime] planes: usize,
) {
    if comptime!(split > 1) {
        let plane = UNIT_POS_Y as usize;
        let mut shared = SharedMemory::<f32>::new(comptime!(planes * count));
        if UNIT_POS_X == 0 {
            #[unroll]
            for i in 0..count {
                shared[plane * count + i] = sums[i];
            }
        }
        sync_cube();
        if UNIT_POS_X == 0 && plane % split == 0 {
            #[unroll]
            for i in 0..count {
                let mut total = 0.0f32;
                #[unroll]
                for part in 0..split {
                    total += shared[(plane + part) * count + i];
                }
                sums[i] = total;
            }
        }
    }
}

/// The row of weights that a unit's plane has.
#[cube]
fn row_of_plane(#[comptime] split: usize, #[comptime] planes: usize) -> usize {
    CUBE_POS_X as usize * comptime!(planes / split) + UNIT_POS_Y as usize / split
}

/// The first vector of its row that a unit has; the next one is `split` planes further.
#[cube]
fn first_of_unit(#[comptime] split: usize) -> usize {
    (UNIT_POS_Y as usize % split) * CUBE_DIM_X as usize + UNIT_POS_X as usize
}

/// `out[first + t] (+)= w * x[first + t]`.
#[cube(launch_unchecked)]
pub fn gemv<W: Float, N: Size>(
    x: &Array<Vector<W, N>>,
    w: &Array<Vector<W, N>>,
    out: &mut Array<f32>,
    width: usize,
    outputs: usize,
    first: usize,
    #[comptime] tokens: usize,
    #[comptime] add: bool,
    #[comptime] split: usize,
    #[comptime] planes: usize,
) {
    let row = row_of_plane(split, planes);
    let mut found = Array::<f32>::new(tokens);
    #[unroll]
    for t in 0..tokens {
        found[t] = 0.0;
    }
    if row < outputs {
        let mut sums = Array::<Vector<f32, N>>::new(tokens);
        #[unroll]
        for t in 0..tokens {
            sums[t] = Vector::new(0.0);
        }
        let mut i = first_of_unit(split);
        while i < width {
            let weight = Vector::<f32, N>::cast_from(w[row * width + i]);
            #[unroll]
            for t in 0..tokens {
                sums[t] += weight * Vector::cast_from(x[(first + t) * width + i]);
            }
            i += CUBE_DIM_X as usize * split;
        }
        #[unroll]
        for t in 0..tokens {
            found[t] = plane_sum(sum_of(sums[t]));
        }
    }
    join(&mut found, tokens, split, planes);
    if row < outputs && UNIT_POS_Y as usize % split == 0 {
        #[unroll]
        for t in 0..tokens {
            store(out, (first + t) * outputs + row, found[t], add);
        }
    }
}

/// `out[t] = w * norm(x[t])`; where `gated`, `silu(w * norm(x[t])) * (w' * norm(x[t]))`, the rows of `w'` behind those of `w`. The
/// norm is a factor of the whole sum, so its squares are summed on the way.
#[cube(launch_unchecked)]
pub fn ngemv<W: Float, O: Float, N: Size>(
    x: &Array<Vector<f32, N>>,
    gamma: &Array<Vector<f32, N>>,
    w: &Array<Vector<W, N>>,
    out: &mut Array<O>,
    width: usize,
    outputs: usize,
    elements: f32,
    eps: f32,
    #[comptime] tokens: usize,
    #[comptime] gated: bool,
    #[comptime] split: usize,
    #[comptime] planes: usize,
) {
    let row = row_of_plane(split, planes);
    let rows = comptime!(if gated { 2usize } else { 1usize });
    // Of each row of weights a sum a token, and behind them the squares of the tokens.
    let count = comptime!((rows + 1) * tokens);
    let mut found = Array::<f32>::new(count);
    #[unroll]
    for i in 0..count {
        found[i] = 0.0;
    }
    if row < outputs {
        let mut sums = Array::<Vector<f32, N>>::new(count);
        #[unroll]
        for i in 0..count {
            sums[i] = Vector::new(0.0);
        }
        let mut weights = Array::<Vector<f32, N>>::new(rows);
        let mut i = first_of_unit(split);
        while i < width {
            let factor = gamma[i];
            #[unroll]
            for r in 0..rows {
                weights[r] = Vector::<f32, N>::cast_from(w[(r * outputs + row) * width + i]);
            }
            #[unroll]
            for t in 0..tokens {
                let value = x[t * width + i];
                sums[rows * tokens + t] += value * value;
                let value = value * factor;
                #[unroll]
                for r in 0..rows {
                    sums[r * tokens + t] += weights[r] * value;
                }
            }
            i += CUBE_DIM_X as usize * split;
        }
        #[unroll]
        for i in 0..count {
            found[i] = plane_sum(sum_of(sums[i]));
        }
    }
    join(&mut found, count, split, planes);
    if row < outputs && UNIT_POS_Y as usize % split == 0 && UNIT_POS_X == 0 {
        #[unroll]
        for t in 0..tokens {
            let scale = 1.0 / f32::sqrt(found[rows * tokens + t] / elements + eps);
            let mut value = found[t] * scale;
            if comptime!(gated) {
                value = value / (1.0 + f32::exp(0.0 - value)) * (found[tokens + t] * scale);
            }
            out[t * outputs + row] = O::cast_from(value);
        }
    }
}

/// The first unit of a plane writes or adds.
#[cube]
fn store(out: &mut Array<f32>, at: usize, sum: f32, #[comptime] add: bool) {
    if UNIT_POS_X == 0 {
        if comptime!(add) {
            out[at] += sum;
        } else {
            out[at] = sum;
        }
    }
}

/// A byte of a word, with its sign.
#[cube]
fn byte(word: u32, #[comptime] index: usize) -> f32 {
    f32::cast_from((word >> comptime!(8 * index as u32)) & 255u32) - OFFSET
}

/// As [`gemv`], with four weights in a word and a scale for [`GROUP`] of them; vectors are of four words.
#[cube(launch_unchecked)]
pub fn gemv8<W: Float, N: Size, X: Size>(
    x: &Array<Vector<W, X>>,
    w: &Array<Vector<u32, N>>,
    scales: &Array<f32>,
    out: &mut Array<f32>,
    width: usize,
    outputs: usize,
    first: usize,
    #[comptime] tokens: usize,
    #[comptime] add: bool,
    #[comptime] split: usize,
    #[comptime] planes: usize,
) {
    let row = row_of_plane(split, planes);
    let words = comptime!(BYTES);
    let vectors_of_group = comptime!(GROUP / (BYTES * BYTES));
    let mut found = Array::<f32>::new(tokens);
    #[unroll]
    for t in 0..tokens {
        found[t] = 0.0;
    }
    if row < outputs {
        let mut sums = Array::<f32>::new(tokens);
        #[unroll]
        for t in 0..tokens {
            sums[t] = 0.0;
        }
        let mut i = first_of_unit(split);
        while i < width {
            let packed = w[row * width + i];
            let scale = scales[(row * width + i) / vectors_of_group];
            #[unroll]
            for t in 0..tokens {
                let mut part = 0.0f32;
                #[unroll]
                for word in 0..words {
                    let numbers = x[((first + t) * width + i) * words + word];
                    #[unroll]
                    for k in 0..words {
                        part += byte(packed[word], k) * f32::cast_from(numbers[k]);
                    }
                }
                sums[t] += part * scale;
            }
            i += CUBE_DIM_X as usize * split;
        }
        #[unroll]
        for t in 0..tokens {
            found[t] = plane_sum(sums[t]);
        }
    }
    join(&mut found, tokens, split, planes);
    if row < outputs && UNIT_POS_Y as usize % split == 0 {
        #[unroll]
        for t in 0..tokens {
            store(out, (first + t) * outputs + row, found[t], add);
        }
    }
}

/// `out[i] = byte i * its scale`, a word a unit.
#[cube(launch_unchecked)]
pub fn widen<W: Float>(w: &Array<u32>, scales: &Array<f32>, out: &mut Array<W>, words: usize) {
    let at = ABSOLUTE_POS;
    if at < words {
        let bytes = comptime!(BYTES);
        let scale = scales[at / comptime!(GROUP / BYTES)];
        #[unroll]
        for k in 0..bytes {
            out[at * bytes + k] = W::cast_from(byte(w[at], k) * scale);
        }
    }
}
