//! The operations of the network, each with its derivative. Rows are tokens; all matrices are row-major `f32`.
//!
//! Written by hand, since burn's autodiff would have to be compiled a second time, with other features than the
//! guest's, for a network of seven kinds of operations. `tests` hold every derivative against differences.

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis, Zip, s};

/// What is added to a mean square before its root is taken, as in `config.json`.
pub const EPSILON: f32 = 1e-6;

/// Rows divided by their root mean square, times `weight` (1 x columns); the reciprocals of the roots besides.
pub fn rms_norm(x: ArrayView2<'_, f32>, weight: &Array2<f32>) -> (Array2<f32>, Array1<f32>) {
    let columns = x.ncols() as f32;
    let inverse = x.map_axis(Axis(1), |row| (row.dot(&row) / columns + EPSILON).sqrt().recip());
    let mut y = x.to_owned();
    for (mut row, &r) in y.rows_mut().into_iter().zip(&inverse) {
        Zip::from(&mut row).and(weight.row(0)).for_each(|y, &w| *y *= r * w);
    }
    (y, inverse)
}

/// The derivative by `x`; that by the weight is added to `into`.
pub fn rms_norm_back(
    dy: ArrayView2<'_, f32>,
    x: ArrayView2<'_, f32>,
    inverse: &Array1<f32>,
    weight: &Array2<f32>,
    into: &mut Array2<f32>,
) -> Array2<f32> {
    let columns = x.ncols() as f32;
    let mut dx = Array2::zeros(x.dim());
    for (i, mut dx) in dx.rows_mut().into_iter().enumerate() {
        let (x, dy, r) = (x.row(i), dy.row(i), inverse[i]);
        let mut along = 0.0;
        Zip::from(x).and(dy).and(weight.row(0)).for_each(|&x, &dy, &w| along += x * dy * w);
        let pull = along * r * r * r / columns;
        Zip::from(&mut dx).and(x).and(dy).and(weight.row(0)).for_each(|dx, &x, &dy, &w| {
            *dx = dy * w * r - x * pull;
        });
        Zip::from(into.row_mut(0)).and(x).and(dy).for_each(|dw, &x, &dy| *dw += dy * x * r);
    }
    dx
}

/// Cosines and sines of rotary positions: `positions` x `head / 2`.
pub struct Rotary {
    cos: Array2<f32>,
    sin: Array2<f32>,
}

impl Rotary {
    /// For heads of that many dimensions, at positions from 0.
    pub fn new(theta: f64, head: usize, positions: usize) -> Self {
        let angle = |(p, i): (usize, usize)| p as f64 * theta.powf(-2.0 * i as f64 / head as f64);
        let at = |f: fn(f64) -> f64| Array2::from_shape_fn((positions, head / 2), |i| f(angle(i)) as f32);
        Rotary { cos: at(f64::cos), sin: at(f64::sin) }
    }

    /// Turns rows of one head, the first at position 0; `back` turns the other way, which is the derivative.
    pub fn turn(&self, mut x: ArrayViewMut2<'_, f32>, back: bool) {
        let half = x.ncols() / 2;
        let sign = if back { -1.0 } else { 1.0 };
        for (p, row) in x.rows_mut().into_iter().enumerate() {
            let (mut low, mut high) = row.split_at(Axis(0), half);
            let (cos, sin) = (self.cos.row(p), self.sin.row(p));
            Zip::from(&mut low).and(&mut high).and(cos).and(sin).for_each(|a, b, &c, &s| {
                (*a, *b) = (*a * c - *b * s * sign, *b * c + *a * s * sign);
            });
        }
    }
}

/// Attention of one head over one sequence: the answer, and the weights for the way back.
pub fn attend(
    q: ArrayView2<'_, f32>,
    k: ArrayView2<'_, f32>,
    v: ArrayView2<'_, f32>,
) -> (Array2<f32>, Array2<f32>) {
    let scale = (q.ncols() as f32).sqrt().recip();
    let mut weights = q.dot(&k.t());
    for (i, mut row) in weights.rows_mut().into_iter().enumerate() {
        row.slice_mut(s![i + 1..]).fill(0.0);
        let mut seen = row.slice_mut(s![..=i]);
        let most = seen.fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        seen.mapv_inplace(|x| ((x - most) * scale).exp());
        let sum = seen.sum();
        seen.mapv_inplace(|x| x / sum);
    }
    (weights.dot(&v), weights)
}

/// Derivatives by `q`, `k` and `v`, in that order.
pub fn attend_back(
    d_out: ArrayView2<'_, f32>,
    weights: &Array2<f32>,
    q: ArrayView2<'_, f32>,
    k: ArrayView2<'_, f32>,
    v: ArrayView2<'_, f32>,
) -> [Array2<f32>; 3] {
    let scale = (q.ncols() as f32).sqrt().recip();
    let dv = weights.t().dot(&d_out);
    let mut d_scores = d_out.dot(&v.t());
    for (mut row, weights) in d_scores.rows_mut().into_iter().zip(weights.rows()) {
        let mean = row.dot(&weights);
        Zip::from(&mut row).and(weights).for_each(|d, &w| *d = w * (*d - mean) * scale);
    }
    [d_scores.dot(&k), d_scores.t().dot(&q), dv]
}

/// `silu(gate) * up`.
pub fn gated(gate: &Array2<f32>, up: &Array2<f32>) -> Array2<f32> {
    let mut out = up.clone();
    Zip::from(&mut out).and(gate).for_each(|o, &g| *o *= g / (1.0 + (-g).exp()));
    out
}

/// Derivatives by `gate` and `up`.
pub fn gated_back(d_out: &Array2<f32>, gate: &Array2<f32>, up: &Array2<f32>) -> [Array2<f32>; 2] {
    let (mut d_gate, mut d_up) = (d_out.clone(), d_out.clone());
    Zip::from(&mut d_gate).and(&mut d_up).and(gate).and(up).for_each(|dg, du, &g, &u| {
        let sigmoid = 1.0 / (1.0 + (-g).exp());
        *du *= g * sigmoid;
        *dg *= u * sigmoid * (1.0 + g * (1.0 - sigmoid));
    });
    [d_gate, d_up]
}

/// Sum of `-ln p(target)` over the rows, and its derivative by the logits. A target of `None` does not count.
pub fn cross_entropy(mut logits: Array2<f32>, targets: &[Option<u32>]) -> (f64, Array2<f32>) {
    let mut loss = 0.0;
    for (mut row, target) in logits.rows_mut().into_iter().zip(targets) {
        let Some(target) = target else {
            row.fill(0.0);
            continue;
        };
        let most = row.fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        row.mapv_inplace(|x| (x - most).exp());
        let sum = row.sum();
        row.mapv_inplace(|x| x / sum);
        let p = &mut row[*target as usize];
        loss -= f64::from(p.max(f32::MIN_POSITIVE)).ln();
        *p -= 1.0;
    }
    (loss, logits)
}
