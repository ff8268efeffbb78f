//! What an encoder does between multiplications: attention of whole texts, layer norms, GELU, all over panels of tokens.
//!
//! ```text
//! a head of a text, panel after panel of its queries:
//!   scores [keys][16] = keys x queries       softmax down the columns       out [head][16] = values x scores
//! ```
//! Nothing is copied or turned for it: queries, keys and values are rows of the panels that the multiplication left.
//! Plain loops over 16 numbers at a time, which the compiler turns into vectors; generic over [`Lanes`] only so that there is
//! one of each.
//!
//! Sources: the error function is Abramowitz and Stegun's 7.1.26 (1.5e-7); the exponential's polynomial is the minimax one
//! of degree 6, found by Remez' exchange (2e-9 before rounding).

use super::Machine;
use super::isa::{self, Isa};
use super::lanes::Lanes;
use super::packed::{Work, tiles_beside_tokens};
use super::pool::Shares;
use super::states::{PANEL, Row, States};
use std::cell::RefCell;
use std::ops::Range;

/// `a * b + c`.
#[inline(always)]
fn fma<L: Lanes>(a: f32, b: f32, c: f32) -> f32 {
    if L::FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x` for numbers up to 0, at whose value for -86 it stays below. Not a number stays what it is.
#[inline(always)]
fn decayed<L: Lanes>(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let x = if x < -86.0 { -86.0 } else { x };
    let shifted = fma::<L>(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = fma::<L>(n, 2.121_944_4e-4, fma::<L>(n, -0.693_359_4, x));
    let p = fma::<L>(1.383_679_4e-3, r, 8.374_857e-3);
    let p = fma::<L>(p, r, 4.166_823e-2);
    let p = fma::<L>(p, r, 1.666_642e-1);
    let p = fma::<L>(p, r, 4.999_999e-1);
    let p = fma::<L>(p, r, 1.0);
    let p = fma::<L>(p, r, 1.0);
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()))
}

/// Layer norm of a panel, token by token: `x = (x - mean) / sqrt(variance + eps) * gamma + beta`. All have one length.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub(super) unsafe fn centred<L: Lanes>(panel: &mut [Row], gamma: &[f32], beta: &[f32], eps: f32) {
    let count = panel.len() as f32;
    for column in (0..PANEL).step_by(L::N) {
        // SAFETY: columns of the panel's rows; the rest is the caller's word.
        unsafe {
            let mut less = total::<L>(panel, column, L::splat(0.0), false);
            less.iter_mut().for_each(|sum| *sum = -*sum / count);
            let less = L::load(less.as_ptr().cast());
            let mut scale = total::<L>(panel, column, less, true);
            scale.iter_mut().for_each(|sum| *sum = 1.0 / (*sum / count + eps).sqrt());
            let scale = L::load(scale.as_ptr().cast());
            for ((row, gamma), beta) in panel.iter_mut().zip(gamma).zip(beta) {
                let x = row.0[column..].as_mut_ptr();
                let centred = L::mul(L::add(L::load(x.cast()), less), scale);
                L::store(x, L::fma(centred, L::splat(*gamma), L::splat(*beta)));
            }
        }
    }
}

/// Sums of a vector's columns and `more`, or of their squares, added in four parts.
///
/// # Safety
/// The processor has `L`, and a row has a vector from `column` on.
#[inline(always)]
unsafe fn total<L: Lanes>(panel: &[Row], column: usize, more: L::V, square: bool) -> [f32; PANEL] {
    // SAFETY: as the caller vouches.
    unsafe {
        let one = L::splat(1.0);
        let mut sums = [L::splat(0.0); 4];
        for rows in panel.chunks(sums.len()) {
            for (sum, row) in sums.iter_mut().zip(rows) {
                let x = L::add(L::load(row.0[column..].as_ptr().cast()), more);
                *sum = L::fma(x, if square { x } else { one }, *sum);
            }
        }
        let mut total = [0.0; PANEL];
        L::store(total.as_mut_ptr(), L::add(L::add(sums[0], sums[1]), L::add(sums[2], sums[3])));
        total
    }
}

/// `x = x / 2 * (1 + erf(x / sqrt(2)))`.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub(super) unsafe fn gelu<L: Lanes>(rows: &mut [Row]) {
    for row in rows {
        row.0.iter_mut().for_each(|x| *x *= share::<L>(*x));
    }
}

/// The share of a number that GELU lets through.
#[inline(always)]
fn share<L: Lanes>(x: f32) -> f32 {
    let t = 1.0 / fma::<L>(x.abs(), 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2, 1.0);
    let p = fma::<L>(0.5 * 1.061_405_4, t, -0.5 * 1.453_152);
    let p = fma::<L>(p, t, 0.5 * 1.421_413_7);
    let p = fma::<L>(p, t, -0.5 * 0.284_496_74);
    let p = fma::<L>(p, t, 0.5 * 0.254_829_6);
    // Half of what is missing to 1 at the right of 0, which is the share itself at the left.
    let rest = p * t * decayed::<L>(x * x * -0.5);
    if x < 0.0 { rest } else { 1.0 - rest }
}

/// Makes every column of the scores weights, `e^(scale * (x - most))`, and adds them up in `sums`.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub(super) unsafe fn softened<L: Lanes>(scores: &mut [Row], scale: f32, sums: &mut Row) {
    let mut most = [f32::NEG_INFINITY; PANEL];
    for row in scores.iter() {
        most.iter_mut().zip(&row.0).for_each(|(most, x)| *most = if *x > *most { *x } else { *most });
    }
    let mut total = [0f32; PANEL];
    for row in scores.iter_mut() {
        for ((x, most), total) in row.0.iter_mut().zip(&most).zip(&mut total) {
            *x = decayed::<L>((*x - most) * scale);
            *total += *x;
        }
    }
    sums.0 = total;
}

impl Machine {
    /// Layer norm of every token in place, which has as many numbers as `gamma` and `beta`.
    pub fn layer_norm(&self, states: &mut States, gamma: &[f32], beta: &[f32], eps: f32) {
        let width = states.features();
        assert!(gamma.len() == width && beta.len() == width, "a number of each a feature");
        let panels = states.panels();
        let rows = Shares::of(states.rows());
        self.pool.run(panels, &|panel| {
            // SAFETY: every panel is one part; the instruction set is this processor's.
            unsafe { isa::centred(self.isa, rows.slice(panel * width, width), gamma, beta, eps) };
        });
    }

    /// Attention of every text over itself. A token of `qkv` has query, key and value of `heads` heads; `out` is made as
    /// large as it must be.
    ///
    /// # Panics
    /// Texts that are not all tokens, and heads that are not whole.
    pub fn attend_texts(&self, qkv: &States, lengths: &[usize], heads: usize, out: &mut States) {
        let tokens: usize = lengths.iter().sum();
        let width = qkv.features() / 3;
        assert!(qkv.tokens() == tokens && qkv.features() == 3 * width, "query, key and value a token");
        assert!(width.is_multiple_of(heads), "whole heads");
        out.reset(tokens, width);
        let mut parts = Vec::new();
        let mut first = 0;
        for &count in lengths {
            parts.extend((0..heads).map(|index| Head { first, count, size: width / heads, index }));
            first += count;
        }
        let out = Shares::of(out.rows());
        self.pool.run(parts.len(), &|part| {
            // SAFETY: numbers of one head of one text are this part's alone.
            unsafe { parts[part].attend(self.isa, qkv, out) };
        });
    }
}

/// A head of a text.
#[derive(Clone, Copy)]
struct Head {
    /// First token of the text, and how many it has.
    first: usize,
    count: usize,
    /// Numbers of a head.
    size: usize,
    /// Which.
    index: usize,
}

/// What one thread computes a head with: scores, what is seen, sums.
#[derive(Default)]
struct Scratch {
    scores: Vec<Row>,
    seen: Vec<Row>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Head {
    /// Tokens of a panel that are this text's.
    fn lanes(&self, panel: usize) -> Range<usize> {
        let from = self.first.saturating_sub(panel * PANEL);
        from..(self.first + self.count - panel * PANEL).min(PANEL)
    }

    /// Panels that have tokens of this text.
    fn panels(&self) -> Range<usize> {
        self.first / PANEL..(self.first + self.count).div_ceil(PANEL)
    }

    /// # Safety
    /// `out` has rows of all heads of all tokens, and nobody else has this head's of this text.
    unsafe fn attend(&self, isa: Isa, qkv: &States, out: Shares<Row>) {
        let width = qkv.features() / 3;
        let scale = 1.0 / (self.size as f32).sqrt();
        SCRATCH.with_borrow_mut(|Scratch { scores, seen }| {
            scores.resize(self.count, Row::ZERO);
            seen.resize(self.size, Row::ZERO);
            for panel in self.panels() {
                // SAFETY: the instruction set is this processor's; of `out`, as the caller vouches.
                unsafe {
                    self.score(isa, qkv, panel, scores);
                    let mut sums = Row::ZERO;
                    isa::softened(isa, scores, scale, &mut sums);
                    self.see(isa, qkv, scores, seen);
                    let sums = sums.0.map(|sum| 1.0 / sum);
                    let to = out.at(panel * width + self.index * self.size).cast::<f32>();
                    let lanes = self.lanes(panel);
                    for (i, seen) in seen.iter().enumerate() {
                        let seen: [f32; PANEL] = std::array::from_fn(|lane| seen.0[lane] * sums[lane]);
                        // Whole rows, but where other texts have a part of the panel.
                        if lanes.len() == PANEL {
                            to.add(i * PANEL).cast::<[f32; PANEL]>().write(seen);
                        } else {
                            lanes.clone().for_each(|lane| to.add(i * PANEL + lane).write(seen[lane]));
                        }
                    }
                }
            }
        });
    }

    /// `scores[key][query]` of a panel's queries, other texts' among them.
    ///
    /// # Safety
    /// The instruction set is this processor's.
    unsafe fn score(&self, isa: Isa, qkv: &States, panel: usize, scores: &mut [Row]) {
        let (width, at) = (qkv.features() / 3, self.index * self.size);
        let mut done = 0;
        for keys in self.panels() {
            let all = self.lanes(keys);
            for (first, count) in tiles_beside_tokens(isa, all.len()) {
                // SAFETY: a head has `size` rows of queries and as many of keys, in each of which the tile's lie side by side.
                unsafe {
                    let work = Work {
                        panel: qkv.from(panel, at).as_ptr().cast(),
                        depth: self.size,
                        x: qkv.from(keys, width + at).as_ptr().cast::<f32>().add(all.start + first),
                        bias: std::ptr::null(),
                        out: scores[done + first..][..count].as_mut_ptr().cast(),
                        out_stride: PANEL,
                        columns: PANEL,
                        add: false,
                    };
                    isa::beside(isa, work, count, PANEL);
                }
            }
            done += all.len();
        }
    }

    /// `seen[i][query]`: values, weighted by those scores.
    ///
    /// # Safety
    /// The instruction set is this processor's.
    unsafe fn see(&self, isa: Isa, qkv: &States, scores: &[Row], seen: &mut [Row]) {
        let at = 2 * (qkv.features() / 3) + self.index * self.size;
        for (first, count) in tiles_beside_tokens(isa, self.size) {
            for (key, token, keys) in self.stretches() {
                let values = qkv.from(token / PANEL, at + first)[..count].as_ptr().cast::<f32>();
                // SAFETY: the tile's rows of values have a number for each of these keys, which have a row of scores each.
                unsafe {
                    let work = Work {
                        panel: scores[key..][..keys].as_ptr().cast(),
                        depth: keys,
                        x: values.add(token % PANEL),
                        bias: std::ptr::null(),
                        out: seen[first..][..count].as_mut_ptr().cast(),
                        out_stride: PANEL,
                        columns: PANEL,
                        add: key > 0,
                    };
                    isa::across(isa, work, count, qkv.features() * PANEL);
                }
            }
        }
    }

    /// Keys that lie alike, each time the first key, its token, and how many: in a panel that begins with another text, in
    /// whole panels, and in one that ends with another.
    fn stretches(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let end = self.first + self.count;
        let whole = self.first.next_multiple_of(PANEL).min(end);
        let last = (end / PANEL * PANEL).max(whole);
        let parts = [self.first..whole, whole..last, last..end].map(move |part| (part.start, part.len()));
        let first = self.first;
        parts
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(move |(token, count)| (token - first, token, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Pool;
    use crate::kernels::lanes::Plain;

    fn machines() -> Vec<Machine> {
        Isa::all().into_iter().map(|isa| Machine { isa, pool: Pool::new(2), pairs: false }).collect()
    }

    fn wave(count: usize, step: f64) -> Vec<f32> {
        (0..count).map(|i| ((i as f64 * step).sin() * 2.0) as f32).collect()
    }

    #[test]
    fn gelu_is_that_of_the_error_function() {
        // erf by its series, which is exact enough up to 4; beyond, GELU is x or nothing.
        let erf = |x: f64| {
            let (mut term, mut sum) = (x, x);
            for n in 1..120 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        };
        let share = |x: f64| 0.5 * (1.0 + erf(x / 2f64.sqrt()));
        for machine in machines() {
            let mut rows: Vec<Row> = (-50..50).map(wave_around).collect();
            let before = rows.clone();
            // SAFETY: the instruction set is this processor's.
            unsafe { isa::gelu(machine.isa, &mut rows) };
            for (before, after) in before.iter().zip(&rows) {
                for (x, out) in before.0.iter().zip(&after.0) {
                    let right = f64::from(*x) * share(f64::from(*x));
                    assert!((f64::from(*out) - right).abs() < 1e-6, "{x}: {out} {right}");
                }
            }
            let mut far = [Row::ZERO];
            far[0].0[..4].copy_from_slice(&[-80.0, 80.0, f32::NAN, f32::INFINITY]);
            // SAFETY: as above.
            unsafe { isa::gelu(machine.isa, &mut far) };
            let [low, high, none, most] = *far[0].0.first_chunk().unwrap();
            assert!(low.abs() < 1e-30 && high == 80.0 && none.is_nan() && most == f32::INFINITY, "{far:?}");
        }
    }

    /// Numbers around a tenth of it.
    fn wave_around(tenths: i32) -> Row {
        Row(std::array::from_fn(|i| tenths as f32 * 0.1 + i as f32 * 0.006))
    }

    #[test]
    fn the_exponential_is_that_of_the_library() {
        fn check<L: Lanes>() {
            for step in 0..8590 {
                let x = step as f32 * -0.01 - 0.003;
                let right = f64::from(x).exp();
                let apart = (f64::from(decayed::<L>(x)) - right).abs();
                assert!(apart <= right * 3e-7, "{x}: {} {right}", decayed::<L>(x));
            }
            assert!(decayed::<L>(f32::NAN).is_nan());
            assert!(decayed::<L>(f32::NEG_INFINITY) < 1e-37);
            assert_eq!(decayed::<L>(0.0), 1.0);
        }
        check::<Plain>();
        #[cfg(target_arch = "x86_64")]
        check::<crate::kernels::x86::Avx512>();
    }

    #[test]
    fn a_layer_norm_has_mean_and_spread_of_beta_and_gamma() {
        for machine in machines() {
            for (tokens, len) in [(2, 1), (2, 5), (33, 16), (70, 33)] {
                let x = wave(tokens * len, 0.7);
                let mut states = States::new(&x, len);
                machine.layer_norm(&mut states, &vec![2.0; len], &vec![0.5; len], 1e-12);
                for (x, out) in x.chunks(len).zip(states.numbers().chunks(len)) {
                    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / len as f64;
                    let square = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / len as f64;
                    for (x, out) in x.iter().zip(out) {
                        let right = (f64::from(*x) - mean) / (square + 1e-12).sqrt() * 2.0 + 0.5;
                        assert!((f64::from(*out) - right).abs() < 1e-4, "{out} {right}");
                    }
                }
            }
        }
    }

    #[test]
    fn texts_attend_to_themselves_alone() {
        let lengths = [1, 35, 14, 3, 70];
        let tokens: usize = lengths.iter().sum();
        for machine in machines() {
            for (heads, head) in [(2, 32), (3, 5), (1, 40)] {
                let width = heads * head;
                let qkv = wave(tokens * 3 * width, 0.37);
                let mut states = States::new(&vec![f32::NAN; tokens * width], width);
                machine.attend_texts(&States::new(&qkv, 3 * width), &lengths, heads, &mut states);
                let out = states.numbers();
                let at = |token: usize, column: usize| f64::from(qkv[token * 3 * width + column]);
                let mut first = 0;
                for count in lengths {
                    for (t, h) in (first..first + count).flat_map(|t| (0..heads).map(move |h| (t, h))) {
                        let dot = |o: usize| -> f64 {
                            (0..head).map(|d| at(t, h * head + d) * at(o, width + h * head + d)).sum()
                        };
                        let scores = (first..first + count).map(|o| (dot(o) / (head as f64).sqrt()).exp());
                        let scores: Vec<f64> = scores.collect();
                        let sum: f64 = scores.iter().sum();
                        for d in 0..head {
                            let seen =
                                |(o, score): (usize, &f64)| score * at(first + o, 2 * width + h * head + d);
                            let right = scores.iter().enumerate().map(seen).sum::<f64>() / sum;
                            let out = f64::from(out[t * width + h * head + d]);
                            assert!((out - right).abs() < 2e-5, "{t} {h} {d}: {out} {right}");
                        }
                    }
                    first += count;
                }
            }
        }
    }

    #[test]
    fn a_text_that_sees_what_is_no_number_tells_so_and_its_neighbours_do_not() {
        for machine in machines() {
            let (lengths, width) = ([20, 30], 8);
            let mut qkv = wave(50 * 3 * width, 0.37);
            qkv[25 * 3 * width + width] = f32::INFINITY;
            let mut out = States::default();
            machine.attend_texts(&States::new(&qkv, 3 * width), &lengths, 1, &mut out);
            let out = out.numbers();
            assert!(out[..20 * width].iter().all(|x| x.is_finite()));
            assert!(out[20 * width..].iter().any(|x| x.is_nan()));
        }
    }
}
