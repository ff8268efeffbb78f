//! What an encoder does between multiplications: attention of whole texts, layer norms, GELU.
//!
//! Source: the error function is Abramowitz and Stegun's 7.1.26 (1.5e-7).

use super::Machine;
use super::isa;
use super::lanes::Lanes;
use super::matrix::with_scratch;
use super::packed::{PANEL, Work, tiles_of, turn};
use super::pool::Shares;
use super::rowwise::{exp, softmax};

/// The sum of `of` every number, added in 16 columns.
#[inline(always)]
fn total(row: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<16>();
    let mut sums = [0f32; 16];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += of(*x));
    }
    sums.iter_mut().zip(rest).for_each(|(sum, x)| *sum += of(*x));
    sums.iter().sum()
}

/// `row = (row - mean) / sqrt(variance + eps) * gamma + beta`. All of one length.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub(super) unsafe fn centred<L: Lanes>(row: &mut [f32], gamma: &[f32], beta: &[f32], eps: f32) {
    let count = row.len() as f32;
    let mean = total(row, |x| x) / count;
    let variance = total(row, |x| (x - mean) * (x - mean)) / count;
    let scale = 1.0 / (variance + eps).sqrt();
    for ((x, gamma), beta) in row.iter_mut().zip(gamma).zip(beta) {
        *x = (*x - mean) * scale * gamma + beta;
    }
}

/// `x = x / 2 * (1 + erf(x / sqrt(2)))`.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub(super) unsafe fn gelu<L: Lanes>(row: &mut [f32]) {
    for x in row {
        let half = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
        let t = 1.0 / (1.0 + 0.327_591_1 * half);
        let p = 1.061_405_4;
        let p = p * t - 1.453_152;
        let p = p * t + 1.421_413_7;
        let p = p * t - 0.284_496_74;
        let p = p * t + 0.254_829_6;
        let rest = p * t * exp(-half * half);
        // 1 + erf(x) is 2 - rest for positive numbers and rest for negative ones.
        *x *= 0.5 * if *x < 0.0 { rest } else { 2.0 - rest };
    }
}

/// Makes a row a distribution.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub(super) unsafe fn softened<L: Lanes>(row: &mut [f32]) {
    softmax(row);
}

impl Machine {
    /// Layer norm of every row in place, each as long as `gamma` and `beta`.
    pub fn layer_norm(&self, rows: &mut [f32], gamma: &[f32], beta: &[f32], eps: f32) {
        assert!(rows.len().is_multiple_of(gamma.len()) && gamma.len() == beta.len(), "whole rows");
        self.pool.rows(rows, gamma.len(), |_, row| {
            // SAFETY: the instruction set is this processor's.
            unsafe { isa::centred(self.isa, row, gamma, beta, eps) };
        });
    }

    /// GELU, with the error function, in place; `width` numbers at a time.
    pub fn gelu(&self, rows: &mut [f32], width: usize) {
        self.pool.rows(rows, width, |_, row| {
            // SAFETY: the instruction set is this processor's.
            unsafe { isa::gelu(self.isa, row) };
        });
    }

    /// Attention of every text over itself. A row of `qkv` is query, key and value of `heads` heads; `out` is
    /// `[tokens, width]`.
    ///
    /// # Panics
    /// Slices whose lengths don't fit.
    pub fn attend_texts(&self, qkv: &[f32], lengths: &[usize], heads: usize, out: &mut [f32]) {
        let tokens: usize = lengths.iter().sum();
        let width = out.len() / tokens.max(1);
        assert!(out.len() == tokens * width && qkv.len() == 3 * out.len(), "query, key and value a token");
        assert!(width.is_multiple_of(heads), "whole heads");
        let mut parts = Vec::new();
        let mut first = 0;
        for &count in lengths {
            parts.extend((0..heads).map(|head| (first, count, head)));
            first += count;
        }
        let out = Shares::of(out);
        self.pool.run(parts.len(), &|part| {
            let (first, count, head) = parts[part];
            let text = &qkv[first * 3 * width..][..count * 3 * width];
            let shape = Shape { count, width, head: width / heads, index: head };
            // SAFETY: columns of one head of one text are this part's alone.
            unsafe { one_head(self, text, shape, out.at(first * width + head * shape.head)) };
        });
    }
}

/// A head of a text.
#[derive(Clone, Copy)]
struct Shape {
    /// Tokens.
    count: usize,
    /// Numbers of all heads of a token.
    width: usize,
    /// Numbers of a head.
    head: usize,
    /// Which.
    index: usize,
}

/// # Safety
/// `out` has room for `count` rows of `head` numbers, `width` apart.
unsafe fn one_head(machine: &Machine, text: &[f32], shape: Shape, out: *mut f32) {
    let Shape { count, width, head, index } = shape;
    let (room, wide) = (count.next_multiple_of(PANEL), head.next_multiple_of(PANEL));
    let most = 16;
    let sizes = [room * head, count * wide, most * head, most * room, most * count];
    with_scratch(sizes.iter().sum(), |scratch| {
        let (keys, scratch) = scratch.split_at_mut(sizes[0]);
        let (values, scratch) = scratch.split_at_mut(sizes[1]);
        let (queries, scratch) = scratch.split_at_mut(sizes[2]);
        let (scores, weights) = scratch.split_at_mut(sizes[3]);
        lay_out(text, shape, keys, values);
        for (first, tokens) in tiles_of(machine.isa, count) {
            let from = &text[first * 3 * width + index * head..];
            turn(from, 3 * width, head, tokens, &mut queries[..tokens * head]);
            for panel in 0..room / PANEL {
                // SAFETY: a panel of keys is [head][32]; scores have `room` columns.
                unsafe {
                    let work = Work {
                        panel: keys[panel * PANEL * head..].as_ptr(),
                        depth: head,
                        x: queries.as_ptr(),
                        bias: std::ptr::null(),
                        out: scores[panel * PANEL..].as_mut_ptr(),
                        out_stride: room,
                        columns: PANEL,
                        add: false,
                    };
                    isa::packed(machine.isa, work, tokens);
                }
            }
            for row in scores.chunks_exact_mut(room).take(tokens) {
                // SAFETY: the instruction set is this processor's.
                unsafe { isa::softened(machine.isa, &mut row[..count]) };
            }
            turn(scores, room, count, tokens, &mut weights[..tokens * count]);
            for panel in 0..wide / PANEL {
                // SAFETY: a panel of values is [count][32]; of `out`, as the caller vouches.
                unsafe {
                    let work = Work {
                        panel: values[panel * PANEL * count..].as_ptr(),
                        depth: count,
                        x: weights.as_ptr(),
                        bias: std::ptr::null(),
                        out: out.add(first * width + panel * PANEL),
                        out_stride: width,
                        columns: PANEL.min(head - panel * PANEL),
                        add: false,
                    };
                    isa::packed(machine.isa, work, tokens);
                }
            }
        }
    });
}

/// Keys, scaled, and values of a head as panels; columns that are not there are 0.
fn lay_out(text: &[f32], shape: Shape, keys: &mut [f32], values: &mut [f32]) {
    let Shape { count, width, head, index } = shape;
    let scale = 1.0 / (head as f32).sqrt();
    keys.fill(0.0);
    if !head.is_multiple_of(PANEL) {
        values.fill(0.0);
    }
    for (token, row) in text.chunks_exact(3 * width).enumerate() {
        let key = &row[width + index * head..][..head];
        let panel = &mut keys[token / PANEL * PANEL * head + token % PANEL..];
        panel.iter_mut().step_by(PANEL).zip(key).for_each(|(to, x)| *to = x * scale);
        let value = &row[2 * width + index * head..][..head];
        for (panel, value) in value.chunks(PANEL).enumerate() {
            values[(panel * count + token) * PANEL..][..value.len()].copy_from_slice(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Isa, Pool};

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
        for machine in machines() {
            let xs: Vec<f32> = (-500..=500).map(|i| i as f32 * 0.01).collect();
            let mut out = xs.clone();
            machine.gelu(&mut out, xs.len());
            for (x, out) in xs.iter().zip(out) {
                let x = f64::from(*x);
                let right = x * 0.5 * (1.0 + erf(x / 2f64.sqrt()));
                assert!((f64::from(out) - right).abs() < 1e-6, "{x}: {out} {right}");
            }
            let mut far = [-80.0, 80.0, f32::NAN];
            machine.gelu(&mut far, 3);
            assert!(far[0].abs() < 1e-30 && far[1] == 80.0 && far[2].is_nan(), "{far:?}");
        }
    }

    #[test]
    fn a_layer_norm_has_mean_and_spread_of_beta_and_gamma() {
        for machine in machines() {
            for len in [1, 5, 16, 33] {
                let x = wave(2 * len, 0.7);
                let mut out = x.clone();
                machine.layer_norm(&mut out, &vec![2.0; len], &vec![0.5; len], 1e-12);
                for (x, out) in x.chunks(len).zip(out.chunks(len)) {
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
        let lengths = [1, 35, 14, 3];
        let tokens: usize = lengths.iter().sum();
        for machine in machines() {
            for (heads, head) in [(2, 32), (3, 5), (1, 40)] {
                let width = heads * head;
                let qkv = wave(tokens * 3 * width, 0.37);
                let mut out = vec![f32::NAN; tokens * width];
                machine.attend_texts(&qkv, &lengths, heads, &mut out);
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
}
