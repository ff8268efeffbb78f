//! The one loop that everything is made of: a few rows of weights times a few rows of numbers.
//!
//! ```text
//! out[t][r] = sum over k of w[r][k] * x[t][k]        R rows of weights, T rows of x, all sums in registers
//! ```
//! Both lie along k, so one loop serves a single token, which is bound by reading weights, and many tokens, which are bound
//! by arithmetic. Every sum is added in the same order whatever R and T are: what is computed for a token does not depend
//! on its company.

use super::lanes::Lanes;

/// Elements of a turn of the loop: whole vectors of every instruction set.
const STEP: usize = 32;
/// Up to so many tokens, several rows are asked for ahead: no processor sees four streams as what they are.
const ASK: usize = 4;
/// How far ahead, in bytes.
const AHEAD: usize = 16384;

/// How weights lie in memory.
pub(super) trait Element {
    /// Bytes of one.
    const BYTES: usize;

    /// Elements `k..k + N` of a row, widened.
    ///
    /// # Safety
    /// The processor has `L`, and the elements are there.
    unsafe fn lanes<L: Lanes>(row: Row, k: usize) -> L::V;
}

/// Address of a row of weights.
pub(super) type Row = *const u8;

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;

impl Element for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn lanes<L: Lanes>(row: Row, k: usize) -> L::V {
        // SAFETY: as the caller vouches, here and below.
        unsafe { L::load(row.add(k * 4)) }
    }
}

impl Element for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn lanes<L: Lanes>(row: Row, k: usize) -> L::V {
        // SAFETY: see above.
        unsafe { L::load_f16(row.add(k * 2)) }
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn lanes<L: Lanes>(row: Row, k: usize) -> L::V {
        // SAFETY: see above.
        unsafe { L::load_bf16(row.add(k * 2)) }
    }
}

/// `R` rows of weights from `row` on, `T` rows of `x` from `x` on.
#[derive(Clone, Copy)]
pub(super) struct Work {
    pub row: Row,
    /// Elements of a row.
    pub cols: usize,
    pub x: *const f32,
    /// Elements from one row of `x` to the next.
    pub x_stride: usize,
    pub out: *mut f32,
    /// Elements from one row of `out` to the next.
    pub out_stride: usize,
    /// Whether sums are added to what `out` holds.
    pub add: bool,
}

impl Work {
    /// The same for weights `rows` further on.
    #[inline(always)]
    unsafe fn down<E: Element>(self, rows: usize) -> Work {
        // SAFETY: the caller stays within the rows that there are.
        unsafe { Work { row: self.at::<E>(rows), out: self.out.add(rows), ..self } }
    }

    /// The same for `tokens` further on.
    #[inline(always)]
    unsafe fn on(self, tokens: usize) -> Work {
        // SAFETY: the caller stays within the tokens that there are.
        unsafe {
            let out = self.out.add(tokens * self.out_stride);
            Work { x: self.x.add(tokens * self.x_stride), out, ..self }
        }
    }

    #[inline(always)]
    unsafe fn at<E: Element>(&self, row: usize) -> Row {
        // SAFETY: the caller stays within the rows that there are.
        unsafe { self.row.add(row * self.cols * E::BYTES) }
    }
}

#[inline(always)]
unsafe fn tile<L: Lanes, E: Element, const R: usize, const T: usize>(work: Work) {
    // SAFETY: the caller vouches for R rows, T rows of x, and room in `out`; `k` stays within `cols`.
    unsafe {
        let mut sums = [[L::splat(0.0); T]; R];
        let rows: [Row; R] = std::array::from_fn(|r| work.at::<E>(r));
        // The rows that are likely to be next: memory does not know where a row ends.
        let ahead = AHEAD.next_multiple_of(R * work.cols * E::BYTES);
        let mut k = 0;
        while k + STEP <= work.cols {
            if R > 1 && T <= ASK {
                for row in &rows {
                    L::ask(row.wrapping_add(ahead + k * E::BYTES));
                    if STEP * E::BYTES > 64 {
                        L::ask(row.wrapping_add(ahead + k * E::BYTES + 64));
                    }
                }
            }
            let mut part = 0;
            while part < STEP {
                turn::<L, E, R, T>(&mut sums, &rows, work.x.add(k + part), work.x_stride, k + part);
                part += L::N;
            }
            k += STEP;
        }
        while k + L::N <= work.cols {
            turn::<L, E, R, T>(&mut sums, &rows, work.x.add(k), work.x_stride, k);
            k += L::N;
        }
        if k < work.cols {
            tail::<L, E, R, T>(&mut sums, &rows, work, k);
        }
        for (r, sums) in sums.iter().enumerate() {
            for (t, sum) in sums.iter().enumerate() {
                let out = work.out.add(t * work.out_stride + r);
                let sum = L::sum(*sum);
                *out = if work.add { *out + sum } else { sum };
            }
        }
    }
}

#[inline(always)]
unsafe fn turn<L: Lanes, E: Element, const R: usize, const T: usize>(
    sums: &mut [[L::V; T]; R],
    rows: &[Row; R],
    x: *const f32,
    stride: usize,
    k: usize,
) {
    // SAFETY: the caller vouches for a vector of every row at `k` and of every x at `x`.
    unsafe {
        let xs: [L::V; T] = std::array::from_fn(|t| L::load(x.add(t * stride).cast()));
        for r in 0..R {
            let w = E::lanes::<L>(rows[r], k);
            for t in 0..T {
                sums[r][t] = L::fma(w, xs[t], sums[r][t]);
            }
        }
    }
}

/// What is left behind whole vectors, padded with zeros.
#[inline(always)]
unsafe fn tail<L: Lanes, E: Element, const R: usize, const T: usize>(
    sums: &mut [[L::V; T]; R],
    rows: &[Row; R],
    work: Work,
    k: usize,
) {
    let left = work.cols - k;
    // SAFETY: `left` elements of every row lie at `k`, and fewer than a vector (16) fit the buffers.
    unsafe {
        let mut xs = [[0f32; 16]; T];
        for (t, x) in xs.iter_mut().enumerate() {
            x.as_mut_ptr().copy_from_nonoverlapping(work.x.add(t * work.x_stride + k), left);
        }
        for r in 0..R {
            let mut weights = [0u8; 64];
            let from = rows[r].add(k * E::BYTES);
            weights.as_mut_ptr().copy_from_nonoverlapping(from, left * E::BYTES);
            let w = E::lanes::<L>(weights.as_ptr(), 0);
            for t in 0..T {
                sums[r][t] = L::fma(w, L::load(xs[t].as_ptr().cast()), sums[r][t]);
            }
        }
    }
}

/// All of `rows` rows of weights for `T` tokens.
#[inline(always)]
unsafe fn columns<L: Lanes, E: Element, const R: usize, const T: usize>(work: Work, rows: usize) {
    // SAFETY: the caller vouches for `rows` rows and `T` tokens.
    unsafe {
        let mut row = 0;
        while row + R <= rows {
            tile::<L, E, R, T>(work.down::<E>(row));
            row += R;
        }
        while row < rows {
            tile::<L, E, 1, T>(work.down::<E>(row));
            row += 1;
        }
    }
}

/// All of `rows` rows of weights for all of `tokens` tokens, a few tokens at a time.
///
/// # Safety
/// The processor has `L`; rows, tokens and room for sums are there.
#[inline(always)]
pub(super) unsafe fn tiles<L: Lanes, E: Element>(work: Work, rows: usize, tokens: usize) {
    // SAFETY: as the caller vouches; every branch takes tokens that are left.
    unsafe {
        let mut token = 0;
        while token < tokens {
            let work = work.on(token);
            token += match tokens - token {
                // Two tiles of four rather than one of six and one of two.
                6 | 9.. if L::WIDE => {
                    columns::<L, E, 4, 6>(work, rows);
                    6
                }
                4.. if L::WIDE => {
                    columns::<L, E, 4, 4>(work, rows);
                    4
                }
                3.. => {
                    columns::<L, E, 4, 3>(work, rows);
                    3
                }
                2 => {
                    columns::<L, E, 4, 2>(work, rows);
                    2
                }
                _ => {
                    columns::<L, E, 4, 1>(work, rows);
                    1
                }
            };
        }
    }
}

/// As [`tiles`], for weights that come from afar. One token goes row by row: memory is read best from one end to the other, as
/// one stream and without being asked ahead (measured: twice as fast as four rows at a time). More of them go four rows at a
/// time, which are used for all tokens while the next ones come.
///
/// # Safety
/// As of [`tiles`].
#[inline(always)]
pub(super) unsafe fn streamed<L: Lanes, E: Element>(work: Work, rows: usize, tokens: usize) {
    let step = if tokens == 1 { 1 } else { 4 };
    for row in (0..rows).step_by(step) {
        // SAFETY: as the caller vouches; there are rows left.
        unsafe { tiles::<L, E>(work.down::<E>(row), step.min(rows - row), tokens) };
    }
}

/// Writes `rows` rows of weights, widened, side by side.
///
/// # Safety
/// The processor has `L`; the rows are there, and room for `rows * cols` numbers at `work.out`.
#[inline(always)]
pub(super) unsafe fn widen<L: Lanes, E: Element>(work: Work, rows: usize) {
    // SAFETY: as the caller vouches.
    unsafe {
        for r in 0..rows {
            let (row, out) = (work.at::<E>(r), work.out.add(r * work.cols));
            let mut k = 0;
            while k + L::N <= work.cols {
                L::store(out.add(k), E::lanes::<L>(row, k));
                k += L::N;
            }
            let left = work.cols - k;
            if left > 0 {
                let (mut weights, mut wide) = ([0u8; 64], [0f32; 16]);
                let from = row.add(k * E::BYTES);
                weights.as_mut_ptr().copy_from_nonoverlapping(from, left * E::BYTES);
                L::store(wide.as_mut_ptr(), E::lanes::<L>(weights.as_ptr(), 0));
                out.add(k).copy_from_nonoverlapping(wide.as_ptr(), left);
            }
        }
    }
}
