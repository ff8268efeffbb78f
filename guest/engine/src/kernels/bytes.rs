//! Weights of bytes: products of whole numbers.
//!
//! ```text
//! out[t][r] = sum over groups of 32 inputs:  w_scale[r] * x_scale[t] * (sum of w[r][k] * x[t][k], exact)
//!
//! block of 16 outputs:  [groups] of: [16] scales, f16 | [8][16 outputs][4 inputs] bytes, each 128 more than the weight
//! tile of tokens:       [groups][tokens] of: scale f32 | -128 * sum of the bytes, i32 | 32 signed bytes
//! ```
//! A block is one stream, read from one end to the other: with the scales behind all groups memory came half as fast. Blocks
//! are also what int8 models have in their files (`int8.rs`): a change of this layout is a new version of that format.
//!
//! Activations are rounded to bytes too, a scale for the 32 of a group: a processor multiplies 64 pairs of bytes an instruction
//! where it multiplies 16 pairs of single precision. Sums within a group are exact and groups are added in order, so
//! what is computed for a token depends neither on its company nor, but for the last bit, on the instruction set.

use super::Machine;
use super::isa;
use super::lanes::Lanes;
use super::packed::cut;
use super::pool::Shares;
use half::f16;

/// Inputs that share a scale.
pub(crate) const GROUP: usize = 32;
/// Outputs of a block.
pub(crate) const BLOCK: usize = 16;
/// Bytes of a group's scales in a block, and of those with its weights.
const SCALES: usize = 2 * BLOCK;
const WHOLE: usize = SCALES + GROUP * BLOCK;
/// Most tokens of a tile with 32 registers and with 16.
const WIDE: usize = 12;
const NARROW: usize = 4;
/// Words of a token's group in a tile: two and the bytes.
const RECORD: usize = 2 + GROUP / 4;

/// Bytes of a block of rows of `cols` elements.
pub(super) fn block_bytes(cols: usize) -> usize {
    cols.div_ceil(GROUP) * WHOLE
}

/// Writes up to 16 rows as a block; what is missing of rows and groups is 0.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub(super) unsafe fn lay_out<L: Lanes>(wide: &[f32], cols: usize, block: &mut [u8]) {
    for group in block.chunks_exact_mut(WHOLE) {
        group[..SCALES].fill(0);
        group[SCALES..].fill(128);
    }
    for (r, row) in wide.chunks_exact(cols).enumerate() {
        for (group, to) in row.chunks(GROUP).zip(block.chunks_exact_mut(WHOLE)) {
            let (scales, weights) = to.split_at_mut(SCALES);
            let mut bytes = [0u8; GROUP];
            let scale = quantised(group, &mut bytes);
            scales[2 * r..][..2].copy_from_slice(&scale.to_le_bytes());
            for (j, four) in bytes.as_chunks::<4>().0.iter().enumerate() {
                let to = &mut weights[(j * BLOCK + r) * 4..][..4];
                to.iter_mut().zip(four).for_each(|(to, byte)| *to = byte.wrapping_add(128));
            }
        }
    }
}

/// The greatest of the absolute values; infinite or not a number where one of them is. Bits of such are ordered as they are.
#[inline(always)]
fn greatest(group: &[f32]) -> f32 {
    f32::from_bits(group.iter().fold(0, |most: u32, x| most.max(x.to_bits() & 0x7fff_ffff)))
}

/// Writes a group's bytes and gives its scale. The scale is rounded first, so that bytes suit it.
#[inline(always)]
fn quantised(group: &[f32], bytes: &mut [u8]) -> f16 {
    let most = greatest(group);
    // Half precision ends at 65504; a weight beyond 8 million would be cut there.
    let mut scale = f16::from_f32((most / 127.0).min(65504.0));
    if scale.to_f32() * 127.5 < most && scale.to_f32() < 65504.0 {
        scale = f16::from_bits(scale.to_bits() + 1);
    }
    let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
    for (byte, x) in bytes.iter_mut().zip(group) {
        *byte = ((x * inverse).clamp(-127.0, 127.0) + MAGIC).to_bits() as u8;
    }
    scale
}

/// Adding it leaves a number of up to 22 bits rounded to a whole one in the lowest bits.
const MAGIC: f32 = 12_582_912.0;

/// Whether all scales of a block are finite. Its bytes may be any.
pub(super) fn has_finite_scales(block: &[u8]) -> bool {
    // The greatest without its sign: an exponent of ones is infinite or not a number.
    let scales = block.chunks_exact(WHOLE).flat_map(|group| group[..SCALES].as_chunks().0);
    scales.fold(0, |most: u16, scale| most.max(u16::from_le_bytes(*scale) & 0x7fff)) < 0x7c00
}

/// One row of a block in single precision; `row` is less than 16.
pub(super) fn row(block: &[u8], row: usize, out: &mut [f32]) {
    for (group, out) in block.chunks_exact(WHOLE).zip(out.chunks_mut(GROUP)) {
        let scale = &group[2 * row..][..2];
        let scale = f16::from_le_bytes([scale[0], scale[1]]).to_f32();
        for (j, out) in out.chunks_mut(4).enumerate() {
            let bytes = &group[SCALES + (j * BLOCK + row) * 4..][..4];
            out.iter_mut()
                .zip(bytes)
                .for_each(|(out, byte)| *out = f32::from(i16::from(*byte) - 128) * scale);
        }
    }
}

/// Rounded activations, in tiles.
#[derive(Default)]
pub(super) struct Rounded {
    words: Vec<u32>,
    /// First token and number of tokens of each tile.
    tiles: Vec<(usize, usize)>,
    groups: usize,
}

impl Rounded {
    /// Of rows of `cols` numbers.
    pub fn new(x: &[f32], cols: usize, machine: &Machine) -> Rounded {
        let (tokens, groups) = (x.len() / cols, cols.div_ceil(GROUP));
        let tiles = cut(tokens, if machine.isa.is_wide() { WIDE } else { NARROW });
        let mut words = vec![0u32; tokens * groups * RECORD];
        let to = Shares::of(&mut words);
        machine.pool.run(tiles.len(), &|index| {
            let (first, count) = tiles[index];
            // SAFETY: every tile is one part.
            let to = unsafe { to.slice(first * groups * RECORD, count * groups * RECORD) };
            for (t, row) in x[first * cols..][..count * cols].chunks_exact(cols).enumerate() {
                // SAFETY: the instruction set is this processor's.
                unsafe { isa::rounded_row(machine.isa, row, &mut to[t * RECORD..], count * RECORD) };
            }
        });
        Rounded { words, tiles, groups }
    }

    /// All tiles: first token, number of tokens, and where it begins.
    pub fn tiles(&self) -> impl Iterator<Item = (usize, usize, *const u32)> {
        self.tiles.iter().map(|&(first, count)| {
            let words = &self.words[first * self.groups * RECORD..][..count * self.groups * RECORD];
            (first, count, words.as_ptr())
        })
    }

    /// What the bytes stand for.
    #[cfg(test)]
    pub fn numbers(&self, cols: usize) -> Vec<f32> {
        let mut out = vec![];
        for &(first, count) in &self.tiles {
            for (t, k) in (0..count).flat_map(|t| (0..cols).map(move |k| (t, k))) {
                let record = &self.words[(first * self.groups + k / GROUP * count + t) * RECORD..][..RECORD];
                let byte = record[2 + k % GROUP / 4].to_le_bytes()[k % 4];
                out.push(f32::from(byte as i8) * f32::from_bits(record[0]));
            }
        }
        out
    }
}

/// Writes the records of a row's groups, `step` words apart.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub(super) unsafe fn rounded_row<L: Lanes>(row: &[f32], to: &mut [u32], step: usize) {
    row.chunks(GROUP)
        .zip(to.chunks_mut(step))
        .for_each(|(group, record)| rounded(group, &mut record[..RECORD]));
}

/// Writes a group's record; its scale is not a number where one of the group is none.
#[inline(always)]
fn rounded(group: &[f32], record: &mut [u32]) {
    let most = greatest(group);
    if !most.is_finite() {
        record[0] = f32::NAN.to_bits();
        return;
    }
    let inverse = if most > 1e-30 { 127.0 / most } else { 0.0 };
    let mut bytes = [0i8; GROUP];
    for (byte, x) in bytes.iter_mut().zip(group) {
        *byte = (x * inverse + MAGIC).to_bits() as i8;
    }
    let sum: i32 = bytes.iter().map(|byte| i32::from(*byte)).sum();
    record[0] = (most / 127.0).to_bits();
    record[1] = (-128 * sum) as u32;
    for (word, four) in record[2..].iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(four.map(|byte| byte as u8));
    }
}

/// One block of weights times one tile of tokens.
#[derive(Clone, Copy)]
pub(super) struct Work {
    pub block: *const u8,
    pub groups: usize,
    pub x: *const u32,
    pub out: *mut f32,
    /// Numbers from one token of `out` to the next.
    pub out_stride: usize,
    /// How many of the 16 results are wanted.
    pub columns: usize,
    /// Whether results are added to what `out` holds.
    pub add: bool,
}

/// Up to 12 tokens.
///
/// # Safety
/// The processor has `L`, and all that [`Work`] names is there.
#[inline(always)]
pub(super) unsafe fn bytes<L: Lanes>(work: Work, tokens: usize) {
    macro_rules! choose {
        ($($count:literal)*) => {
            match tokens {
                // SAFETY: as the caller vouches.
                $($count => unsafe { halves::<L, $count>(work) },)*
                _ => unreachable!("tiles have 1 to 12 tokens"),
            }
        };
    }
    choose!(1 2 3 4 5 6 7 8 9 10 11 12);
}

#[inline(always)]
unsafe fn halves<L: Lanes, const T: usize>(work: Work) {
    let mut first = 0;
    while first < work.columns {
        // SAFETY: as the caller vouches; a block has all 16 rows.
        unsafe { tile::<L, T>(work, first) };
        first += L::N;
    }
}

/// A vector of rows for all `T` tokens.
#[inline(always)]
unsafe fn tile<L: Lanes, const T: usize>(work: Work, first: usize) {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut sums = [L::splat(0.0); T];
        for g in 0..work.groups {
            let (group, x) = (work.block.add(g * WHOLE), work.x.add(g * T * RECORD));
            let scale = L::load_f16(group.add(first * 2));
            let mut dots: [L::I; T] = std::array::from_fn(|t| L::start(x.add(t * RECORD + 1).cast()));
            for j in 0..GROUP / 4 {
                let w = L::bytes(group.add(SCALES + (j * BLOCK + first) * 4));
                for (t, dot) in dots.iter_mut().enumerate() {
                    *dot = L::dot(*dot, w, x.add(t * RECORD + 2 + j).cast());
                }
            }
            for (t, dot) in dots.iter().enumerate() {
                let scale = L::mul(scale, L::splat(*x.add(t * RECORD).cast()));
                sums[t] = L::fma(L::whole(*dot), scale, sums[t]);
            }
        }
        let left = (work.columns - first).min(L::N);
        for (t, sum) in sums.iter().enumerate() {
            let out = work.out.add(t * work.out_stride + first);
            if left == L::N {
                L::store(out, if work.add { L::add(*sum, L::load(out.cast())) } else { *sum });
            } else {
                let mut all = [0f32; BLOCK];
                L::store(all.as_mut_ptr(), *sum);
                for (i, sum) in all[..left].iter().enumerate() {
                    *out.add(i) = if work.add { *sum + *out.add(i) } else { *sum };
                }
            }
        }
    }
}
