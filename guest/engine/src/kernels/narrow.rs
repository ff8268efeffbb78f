//! Few tokens and weights of bytes: products of whole numbers.
//!
//! ```text
//! out[t][r] = sum over groups of w_scale[r] * x_scale[t] * (sum of w[r][k] * x[t][k], exact)
//! ```
//! Widening bytes to single precision costs more than reading them from memory, so activations are rounded instead, to 16
//! bits with a scale for the 32 of a group: their error is at most a 65,534th of the greatest of the group, a 258th of
//! what the weights' own rounding is. That is why it is 16 bits and not 8, which would be as fast.

use super::lanes::Lanes;
use super::tile::{AHEAD, GROUP, Work};

/// Groups whose scales are made at a time.
const SCALES: usize = 16;

/// Rounded activations.
#[derive(Default)]
pub(super) struct Rounded {
    /// `[tokens, groups, GROUP]`, filled up with zeros.
    words: Vec<i16>,
    /// `[tokens, groups]`.
    scales: Vec<f32>,
}

impl Rounded {
    /// Of rows of `cols` numbers.
    pub fn new(x: &[f32], cols: usize) -> Rounded {
        let groups = x.len() / cols * cols.div_ceil(GROUP);
        let mut rounded = Rounded { words: vec![0; groups * GROUP], scales: Vec::with_capacity(groups) };
        let groups = x.chunks(cols).flat_map(|row| row.chunks(GROUP));
        for (group, words) in groups.zip(rounded.words.chunks_mut(GROUP)) {
            rounded.scales.push(round(group, words));
        }
        rounded
    }

    /// The work of [`Work`] with these activations.
    pub fn work(&self, work: Work) -> Narrow {
        Narrow { work, x: self.words.as_ptr(), scales: self.scales.as_ptr() }
    }
}

/// Writes a group's words and gives its scale; not a number where one of the group is none.
fn round(group: &[f32], words: &mut [i16]) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let most = group.iter().fold(0f32, |most, x| if x.abs() > most { x.abs() } else { most });
    if !group.iter().fold(true, |all, x| all & x.is_finite()) {
        return f32::NAN;
    }
    let inverse = if most > 1e-30 { 32767.0 / most } else { 0.0 };
    for (word, x) in words.iter_mut().zip(group) {
        *word = (x * inverse + MAGIC).to_bits() as i16;
    }
    most / 32767.0
}

/// [`Work`] with rounded activations; its own `x` is not read.
#[derive(Clone, Copy)]
pub(super) struct Narrow {
    work: Work,
    x: *const i16,
    scales: *const f32,
}

impl Narrow {
    fn groups(&self) -> usize {
        self.work.cols.div_ceil(GROUP)
    }

    /// The same for weights `row` further on and tokens `token` further on.
    #[inline(always)]
    unsafe fn at(self, row: usize, token: usize) -> Narrow {
        let groups = self.groups();
        let mut work = self.work;
        // SAFETY: the caller stays within the rows and tokens that there are.
        unsafe {
            work.row.weights = work.row.weights.add(row * work.cols);
            work.row.scales = work.row.scales.add(row * groups);
            work.out = work.out.add(token * work.out_stride + row);
            let x = self.x.add(token * groups * GROUP);
            Narrow { work, x, scales: self.scales.add(token * groups) }
        }
    }
}

/// `rows` rows of bytes for `tokens` tokens, a few rows at a time.
///
/// # Safety
/// The processor has `L`; rows, their scales, tokens and room for sums are there.
#[inline(always)]
pub(super) unsafe fn narrow<L: Lanes>(work: Narrow, rows: usize, tokens: usize) {
    // A single token waits for memory, which is read best from one end to the other.
    let step = if tokens == 1 { 1 } else { 4 };
    let mut row = 0;
    while row < rows {
        let mut token = 0;
        while token < tokens {
            // SAFETY: there are rows and tokens left, as many as each branch takes.
            token += unsafe {
                let work = work.at(row, token);
                match ((rows - row).min(step), tokens - token) {
                    (4.., 4..) => tile::<L, 4, 4>(work),
                    (4.., 3) => tile::<L, 4, 3>(work),
                    (4.., 2) => tile::<L, 4, 2>(work),
                    (4.., _) => tile::<L, 4, 1>(work),
                    (_, 4..) => tile::<L, 1, 4>(work),
                    (_, 2..) => tile::<L, 1, 2>(work),
                    _ => tile::<L, 1, 1>(work),
                }
            };
        }
        row += if rows - row >= step { step } else { 1 };
    }
}

/// `R` rows for `T` tokens; gives `T`.
#[inline(always)]
unsafe fn tile<L: Lanes, const R: usize, const T: usize>(narrow: Narrow) -> usize {
    let (work, groups) = (narrow.work, narrow.groups());
    let whole = work.cols / GROUP;
    // SAFETY: the caller vouches for R rows and T tokens; groups stay within them, and a last group that is not whole is
    // copied.
    unsafe {
        let mut sums = [[L::splat(0.0); T]; R];
        let mut scales = [[[0f32; SCALES]; T]; R];
        let mut first = 0;
        while first < whole {
            let count = SCALES.min(whole - first);
            products::<L, R, T>(&mut scales, narrow, first, count);
            run::<L, R, T>(&mut sums, &scales, narrow, first, count);
            first += count;
        }
        if whole < groups {
            products::<L, R, T>(&mut scales, narrow, whole, 1);
            let mut last = [[0u8; GROUP]; R];
            for (r, last) in last.iter_mut().enumerate() {
                let from = work.row.weights.add(r * work.cols + whole * GROUP);
                last.as_mut_ptr().copy_from_nonoverlapping(from, work.cols - whole * GROUP);
            }
            for (r, t) in (0..R).flat_map(|r| (0..T).map(move |t| (r, t))) {
                let x = narrow.x.add((t * groups + whole) * GROUP);
                let scale = L::splat(scales[r][t][0]);
                sums[r][t] = L::fma(L::dot(last[r].as_ptr().cast(), x), scale, sums[r][t]);
            }
        }
        for r in 0..R {
            for t in 0..T {
                let out = work.out.add(t * work.out_stride + r);
                let sum = L::sum(sums[r][t]);
                *out = if work.add { *out + sum } else { sum };
            }
        }
    }
    T
}

/// Groups `first..first + count`, all whole.
#[inline(always)]
unsafe fn run<L: Lanes, const R: usize, const T: usize>(
    sums: &mut [[L::V; T]; R],
    scales: &[[[f32; SCALES]; T]; R],
    narrow: Narrow,
    first: usize,
    count: usize,
) {
    let cols = narrow.work.cols;
    let ahead = AHEAD.next_multiple_of(R * cols);
    let stride = narrow.groups() * GROUP;
    // SAFETY: as in `tile`.
    unsafe {
        let row = narrow.work.row.weights.add(first * GROUP);
        let x = narrow.x.add(first * GROUP);
        for index in 0..count {
            for r in 0..R {
                let w = row.add(r * cols + index * GROUP);
                L::ask(w.wrapping_add(ahead));
                for t in 0..T {
                    let dot = L::dot(w.cast(), x.add(t * stride + index * GROUP));
                    let scale = L::splat(*scales[r][t].as_ptr().add(index));
                    sums[r][t] = L::fma(dot, scale, sums[r][t]);
                }
            }
        }
    }
}

/// Products of the scales of rows and tokens, `count` groups from `first` on.
#[inline(always)]
unsafe fn products<L: Lanes, const R: usize, const T: usize>(
    out: &mut [[[f32; SCALES]; T]; R],
    narrow: Narrow,
    first: usize,
    count: usize,
) {
    let groups = narrow.groups();
    for r in 0..R {
        for t in 0..T {
            // SAFETY: `count` groups are there, as the caller vouches.
            unsafe {
                let row = narrow.work.row.scales.add(r * groups + first);
                let x = narrow.scales.add(t * groups + first);
                if count == SCALES {
                    L::scales(row, x, out[r][t].as_mut_ptr());
                } else {
                    let (mut rows, mut xs) = ([0u16; SCALES], [0f32; SCALES]);
                    rows.as_mut_ptr().copy_from_nonoverlapping(row, count);
                    xs.as_mut_ptr().copy_from_nonoverlapping(x, count);
                    L::scales(rows.as_ptr(), xs.as_ptr(), out[r][t].as_mut_ptr());
                }
            }
        }
    }
}
