//! Products of many tokens by tiles whose sums all stay in registers.
//!
//! ```text
//! panel: [depth][32] or [depth][16]        x: [depth][tile]        for k: for t: sums[t] += x[k][t] * panel[k]
//! ```
//! Unlike the loop in `tile.rs` it adds nothing across a vector, so the panel is laid out for it: a decoder's weights as they
//! are used for a prompt (panels.rs), an encoder's tokens once (states.rs, product.rs). Every sum is added in the order of k
//! whatever the tile, so what is computed for a token does not depend on its company.

use super::isa::Isa;
use super::lanes::Lanes;

/// Outputs of a panel of weights: whole vectors, two at a time, of every instruction set.
pub(super) const PANEL: usize = 32;
/// Tokens of a panel of tokens: one vector of the widest instruction set.
pub(super) const NARROW_PANEL: usize = 16;
/// Most tokens of a tile beside a panel of weights, with 32 registers and with 16.
const WIDE: usize = 14;
const NARROW: usize = 6;
/// The same beside a panel of tokens with 32 registers.
const WIDEST: usize = 24;

/// First and number of each tile beside a panel of weights, all about equally long.
pub(super) fn tiles_of(isa: Isa, tokens: usize) -> Vec<(usize, usize)> {
    cut(tokens, if isa.is_wide() { WIDE } else { NARROW })
}

/// The same beside a panel of tokens.
pub(super) fn tiles_beside_tokens(isa: Isa, outputs: usize) -> Vec<(usize, usize)> {
    cut(outputs, if isa.is_wide() { WIDEST } else { NARROW })
}

/// The same of at most `most`.
pub(super) fn cut(all: usize, most: usize) -> Vec<(usize, usize)> {
    let count = all.div_ceil(most);
    (0..count).map(|i| (i * all / count, (i + 1) * all / count - i * all / count)).collect()
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
    /// A vector or two for each step of depth.
    pub panel: *const f32,
    pub depth: usize,
    /// What the panel is multiplied by; each entrance says how it lies.
    pub x: *const f32,
    /// A number for each of the tile, or null for none.
    pub bias: *const f32,
    pub out: *mut f32,
    /// Numbers from one of the tile to the next in `out`.
    pub out_stride: usize,
    /// How many results of a panel are wanted.
    pub columns: usize,
    /// Whether results are added to what `out` holds.
    pub add: bool,
}

/// Up to 14 of a panel of weights `[depth][32]`; `x` is `[depth][tile]`.
///
/// # Safety
/// The processor has `L`, and all that [`Work`] names is there.
#[inline(always)]
pub(super) unsafe fn packed<L: Lanes, P: Product>(work: Work, tile: usize) {
    macro_rules! choose {
        ($($count:literal)*) => {
            match tile {
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
    let x = Lies { along: T, depth: work.depth, times: 1, jump: 0 };
    let mut column = 0;
    while column < work.columns {
        // SAFETY: as the caller vouches; a panel has all 32 columns.
        unsafe { tile::<L, P, T, 2, PANEL, 1>(work, x, column) };
        column += 2 * L::N;
    }
}

/// Up to 24 (6 with 16 registers) beside a panel of tokens `[depth][16]`; of `x` a step of depth lies `along` numbers behind
/// the one before, and a tile's numbers lie side by side.
///
/// # Safety
/// As of [`packed()`]; `out` has room for 8 or 16 columns.
#[inline(always)]
pub(super) unsafe fn beside<L: Lanes>(work: Work, tile: usize, along: usize) {
    // SAFETY: as the caller vouches.
    unsafe { tokens::<L, 1>(work, Lies { along, depth: work.depth, times: 1, jump: 0 }, tile) }
}

/// The same where a tile's numbers are 16 apart and steps of depth lie side by side: 16 at a time, a panel of `jump`
/// numbers from one 16 to the next. A depth below 16 is all of them.
///
/// # Safety
/// As of [`beside()`].
#[inline(always)]
pub(super) unsafe fn across<L: Lanes>(work: Work, tile: usize, jump: usize) {
    let depth = work.depth.min(NARROW_PANEL);
    // SAFETY: as the caller vouches.
    unsafe {
        tokens::<L, NARROW_PANEL>(work, Lies { along: 1, depth, times: work.depth / depth, jump }, tile)
    }
}

#[inline(always)]
unsafe fn tokens<L: Lanes, const ACROSS: usize>(work: Work, x: Lies, tile: usize) {
    macro_rules! choose {
        ($($count:literal)*) => {
            match tile {
                // SAFETY: as the caller vouches.
                $($count => unsafe { lanes::<L, $count, ACROSS>(work, x) },)*
                _ => unreachable!("tiles beside tokens have 1 to 24 rows, or 6"),
            }
        };
    }
    if L::WIDE {
        choose!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24);
    } else {
        choose!(1 2 3 4 5 6);
    }
}

/// All 16 columns, or the first 8.
#[inline(always)]
unsafe fn lanes<L: Lanes, const T: usize, const ACROSS: usize>(work: Work, x: Lies) {
    // SAFETY: as the caller vouches.
    unsafe {
        if work.columns <= L::Half::N {
            tile::<L::Half, Single, T, 1, NARROW_PANEL, ACROSS>(work, x, 0);
        } else if L::N == NARROW_PANEL {
            tile::<L, Single, T, 1, NARROW_PANEL, ACROSS>(work, x, 0);
        } else {
            tile::<L, Single, T, 2, NARROW_PANEL, ACROSS>(work, x, 0);
        }
    }
}

/// How `x` lies: `times` times `depth` steps, `along` numbers from step to step, `jump` from the first to the first.
#[derive(Clone, Copy)]
struct Lies {
    along: usize,
    depth: usize,
    times: usize,
    jump: usize,
}

/// `V` vectors of columns of all `T` of the tile. A step of the panel has `ROW` numbers; the tile's numbers of `x` are
/// `ACROSS` apart.
#[inline(always)]
unsafe fn tile<
    L: Lanes,
    P: Product,
    const T: usize,
    const V: usize,
    const ROW: usize,
    const ACROSS: usize,
>(
    work: Work,
    lies: Lies,
    column: usize,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut sums = [[L::splat(0.0); V]; T];
        if !work.bias.is_null() {
            for (t, sums) in sums.iter_mut().enumerate() {
                *sums = [L::splat(*work.bias.add(t)); V];
            }
        }
        let mut panel = work.panel.add(column);
        for time in 0..lies.times {
            let mut x = work.x.add(time * lies.jump);
            for _ in 0..lies.depth {
                let mut row = [L::splat(0.0); V];
                for (v, row) in row.iter_mut().enumerate() {
                    *row = L::load(panel.add(v * L::N).cast());
                }
                for (t, sums) in sums.iter_mut().enumerate() {
                    let x = L::splat(*x.add(t * ACROSS));
                    for (sum, row) in sums.iter_mut().zip(&row) {
                        *sum = P::add::<L>(x, *row, *sum);
                    }
                }
                (panel, x) = (panel.add(ROW), x.add(lies.along));
            }
        }
        let (out, columns) = (work.out.add(column), work.columns - column);
        match (columns >= V * L::N, work.add) {
            (true, false) => stored::<L, T, V, false>(&sums, out, work.out_stride),
            (true, true) => stored::<L, T, V, true>(&sums, out, work.out_stride),
            (false, add) => {
                let mut all = [[0f32; PANEL]; T];
                stored::<L, T, V, false>(&sums, all.as_mut_ptr().cast(), PANEL);
                for (t, all) in all.iter().enumerate() {
                    for (i, sum) in all[..columns].iter().enumerate() {
                        let out = out.add(t * work.out_stride + i);
                        *out = if add { *sum + *out } else { *sum };
                    }
                }
            }
        }
    }
}

/// Writes whole vectors, or adds them to what is there. Nothing else is decided here, so that the loops are unrolled and sums
/// never have an address.
#[inline(always)]
unsafe fn stored<L: Lanes, const T: usize, const V: usize, const ADD: bool>(
    sums: &[[L::V; V]; T],
    out: *mut f32,
    stride: usize,
) {
    for (t, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            // SAFETY: as the caller vouches.
            unsafe {
                let out = out.add(t * stride + v * L::N);
                L::store(out, if ADD { L::add(*sum, L::load(out.cast())) } else { *sum });
            }
        }
    }
}
