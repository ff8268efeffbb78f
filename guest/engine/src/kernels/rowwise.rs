//! What is done to a row of numbers between multiplications.
//!
//! Plain loops over 16 numbers at a time, which the compiler turns into vectors of whatever instruction set it compiles
//! them for. Generic over [`Lanes`] only so that there is one of each.
//!
//! Source: the exponential is Cephes' `expf` (Moshier), with rounding by a magic number instead of a floor.

use super::lanes::Lanes;

const CHUNK: usize = 16;

/// `e^x` within 2 units in the last place between -87 and 88, at whose values it stays beyond. Not a number stays what it is.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23;
    y * f32::from_bits(exponent)
}

#[inline(always)]
fn total(sums: [f32; CHUNK]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| sums[i] + sums[i + 8]);
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// Root mean square norm: `out = x / sqrt(mean(x * x) + eps) * gamma`. All of one length.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub(super) unsafe fn normed<L: Lanes>(x: &[f32], gamma: &[f32], eps: f32, out: &mut [f32]) {
    let (chunks, rest) = x.as_chunks::<CHUNK>();
    let mut sums = [0f32; CHUNK];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x * x);
    }
    sums.iter_mut().zip(rest).for_each(|(sum, x)| *sum += x * x);
    let scale = 1.0 / (total(sums) / x.len() as f32 + eps).sqrt();
    for ((out, x), gamma) in out.iter_mut().zip(x).zip(gamma) {
        *out = x * scale * gamma;
    }
}

/// `out = gate / (1 + e^-gate) * up`. All of one length.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub(super) unsafe fn gated<L: Lanes>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

/// Makes the row a distribution: `e^x` over their sum.
#[inline(always)]
pub(super) fn softmax(row: &mut [f32]) {
    let (chunks, rest) = row.as_chunks_mut::<CHUNK>();
    let mut most = [f32::NEG_INFINITY; CHUNK];
    for chunk in chunks.iter() {
        most.iter_mut().zip(chunk).for_each(|(most, x)| *most = if *x > *most { *x } else { *most });
    }
    most.iter_mut().zip(rest.iter()).for_each(|(most, x)| *most = most.max(*x));
    let most = most.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let mut sums = [0f32; CHUNK];
    for chunk in chunks.iter_mut() {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *x = exp(*x - most);
            *sum += *x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *x = exp(*x - most);
        *sum += *x;
    }
    let scale = 1.0 / total(sums);
    row.iter_mut().for_each(|x| *x *= scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_that_of_the_library() {
        for step in -8700..8800 {
            let x = step as f32 * 0.01 + 0.003;
            let right = f64::from(x).exp();
            assert!((f64::from(exp(x)) - right).abs() <= right * 2.5e-7, "{x}: {} {right}", exp(x));
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(f32::INFINITY).is_finite());
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn a_softmax_sums_to_one_and_keeps_not_a_number() {
        for len in [1, 2, 15, 16, 17, 40] {
            let mut row: Vec<f32> = (0..len).map(|i| (i as f32 * 1.7).sin() * 30.0 + 300.0).collect();
            let right: Vec<f64> = row.iter().map(|x| f64::from(x - 300.0).exp()).collect();
            softmax(&mut row);
            let sum: f64 = right.iter().sum();
            for (x, right) in row.iter().zip(right) {
                assert!((f64::from(*x) - right / sum).abs() < 1e-5);
            }
        }
        let mut row = [1.0, f32::NAN, 2.0];
        softmax(&mut row);
        assert!(row.iter().all(|x| x.is_nan()));
    }
}
