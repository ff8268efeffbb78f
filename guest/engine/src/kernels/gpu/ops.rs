//! The kernels themselves, for every runtime of CubeCL; those that multiply by weights are in `rows.rs`.
//!
//! ```text
//! norm    one cube a row: root mean square norm, single precision in, as wide as the weights out
//! turn    one plane a head of a token: norm of the head, rotary position; keys and values go to their place in the pool
//! attend  one cube a token and head of keys: positions over planes, a head's elements over lanes, one pass over blocks; several
//!         cubes where few tokens see many positions, each with its part of them
//! whole   what the parts found becomes one
//! gated   silu(gate) * up
//! add     y into x
//! ```
//! A plane is what NVIDIA calls a warp. All of a cube's planes have as many units as the device's planes have, so that a
//! plane's row of units is one plane of the device.
//!
//! They are launched without checks of bounds: `board.rs` alone launches them, and checks every length first.

use cubecl::prelude::*;

/// Below every logit of attention, and no infinity: differences of it stay numbers.
const LEAST: f32 = -1.0e30;

/// Sum of a vector's numbers.
#[cube]
pub fn sum_of<N: Size>(vector: Vector<f32, N>) -> f32 {
    f32::cast_from(Vector::vector_sum(vector))
}

/// Sum over all units of a cube, known to all of them.
#[cube]
fn cube_sum(value: f32, #[comptime] planes: usize) -> f32 {
    let sum = plane_sum(value);
    let mut shared = SharedMemory::<f32>::new(planes);
    if UNIT_POS_X == 0 {
        shared[UNIT_POS_Y as usize] = sum;
    }
    sync_cube();
    let mut total = 0.0f32;
    #[unroll]
    for plane in 0..planes {
        total += shared[plane];
    }
    total
}

/// `out[row] = x[rows[row]] / rms * gamma`; rows as they come where they are not picked.
#[cube(launch_unchecked)]
pub fn norm<O: Float, N: Size>(
    x: &Array<Vector<f32, N>>,
    rows: &Array<u32>,
    gamma: &Array<Vector<f32, N>>,
    out: &mut Array<Vector<O, N>>,
    width: usize,
    elements: f32,
    eps: f32,
    #[comptime] picked: bool,
    #[comptime] planes: usize,
) {
    let row = CUBE_POS_X as usize;
    let mut from = row * width;
    if comptime!(picked) {
        from = rows[row] as usize * width;
    }
    let mut square = Vector::<f32, N>::new(0.0);
    let mut i = UNIT_POS as usize;
    while i < width {
        let value = x[from + i];
        square += value * value;
        i += CUBE_DIM as usize;
    }
    let total = cube_sum(sum_of(square), planes);
    let scale = Vector::<f32, N>::new(1.0 / f32::sqrt(total / elements + eps));
    let mut i = UNIT_POS as usize;
    while i < width {
        out[row * width + i] = Vector::cast_from(x[from + i] * scale * gamma[i]);
        i += CUBE_DIM as usize;
    }
}

/// A head's values as they are.
#[cube]
fn keep<C: Float>(qkv: &Array<f32>, from: usize, values: &mut Array<C>, to: usize, #[comptime] head: usize) {
    let mut i = UNIT_POS_X as usize;
    while i < head {
        values[to + i] = C::cast_from(qkv[from + i]);
        i += CUBE_DIM_X as usize;
    }
}

/// Norms the heads of queries and keys where the family does, turns them, and writes keys and values to their places.
#[cube(launch_unchecked)]
pub fn turn<C: Float>(
    qkv: &Array<f32>,
    gammas: &Array<f32>,
    cos: &Array<f32>,
    sin: &Array<f32>,
    places: &Array<u32>,
    q: &mut Array<f32>,
    keys: &mut Array<C>,
    values: &mut Array<C>,
    eps: f32,
    #[comptime] heads: usize,
    #[comptime] kv_heads: usize,
    #[comptime] head: usize,
    #[comptime] normed: bool,
) {
    let all = comptime!(heads + 2 * kv_heads);
    let index = CUBE_POS_X as usize * CUBE_DIM_Y as usize + UNIT_POS_Y as usize;
    let token = CUBE_POS_Y as usize;
    let lane = UNIT_POS_X as usize;
    if index < all {
        let from = (token * all + index) * head;
        let place = places[token] as usize * kv_heads;
        if index >= comptime!(heads + kv_heads) {
            let to = (place + index - comptime!(heads + kv_heads)) * head;
            keep(qkv, from, values, to, head);
        } else {
            let mut scale = 1.0f32;
            let mut gamma = 0usize;
            if comptime!(normed) {
                let mut square = 0.0f32;
                let mut i = lane;
                while i < head {
                    square += qkv[from + i] * qkv[from + i];
                    i += CUBE_DIM_X as usize;
                }
                scale = 1.0 / f32::sqrt(plane_sum(square) / comptime!(head as f32) + eps);
                if index >= heads {
                    gamma = head.runtime();
                }
            }
            let half = comptime!(head / 2);
            let mut i = lane;
            while i < half {
                let mut a = qkv[from + i] * scale;
                let mut b = qkv[from + half + i] * scale;
                if comptime!(normed) {
                    a *= gammas[gamma + i];
                    b *= gammas[gamma + half + i];
                }
                let c = cos[token * half + i];
                let s = sin[token * half + i];
                let first = a * c - b * s;
                let second = b * c + a * s;
                if index < heads {
                    let to = (token * heads + index) * head;
                    q[to + i] = first;
                    q[to + half + i] = second;
                } else {
                    let to = (place + index - heads) * head;
                    keys[to + i] = C::cast_from(first);
                    keys[to + half + i] = C::cast_from(second);
                }
                i += CUBE_DIM_X as usize;
            }
        }
    }
}

/// Attention of a token's group of heads over the positions up to its own, with a running maximum. Of several parts each leaves its
/// sums for `whole`, and behind them its maximum and the sum of its weights.
#[cube(launch_unchecked)]
pub fn attend<C: Float, O: Float, N: Size>(
    q: &Array<Vector<f32, N>>,
    keys: &Array<Vector<C, N>>,
    values: &Array<Vector<C, N>>,
    table: &Array<u32>,
    spans: &Array<u32>,
    out: &mut Array<Vector<O, N>>,
    scale: f32,
    kv_heads: usize,
    #[comptime] block: usize,
    #[comptime] group: usize,
    #[comptime] vectors: usize,
    #[comptime] lanes: usize,
    #[comptime] planes: usize,
    #[comptime] cubes: usize,
) {
    let (kv, token) = (CUBE_POS_X as usize, CUBE_POS_Y as usize);
    // Where the token's blocks stand in the table, and how many positions it sees.
    let first = spans[token * 2] as usize;
    let seen = spans[token * 2 + 1] as usize;
    let parts = comptime!(vectors.div_ceil(lanes));
    let base = (token * kv_heads + kv) * group;

    let mut query = Array::<Vector<f32, N>>::new(comptime!(group * parts));
    let mut sums = Array::<Vector<f32, N>>::new(comptime!(group * parts));
    let mut most = Array::<f32>::new(group);
    let mut total = Array::<f32>::new(group);
    #[unroll]
    for g in 0..group {
        most[g] = LEAST;
        total[g] = 0.0;
    }
    begin(q, &mut query, &mut sums, base, scale, group, vectors, lanes);
    let mut position = CUBE_POS_Z as usize * planes + UNIT_POS_Y as usize;
    while position < seen {
        let row = table[first + position / block] as usize * block + position % block;
        let from = (row * kv_heads + kv) * vectors;
        let mut dots = Array::<f32>::new(group);
        score(keys, &query, &mut dots, from, group, vectors, lanes);
        weigh(&mut dots, &mut most, &mut total, &mut sums, group, parts);
        gather(values, &dots, &mut sums, from, group, vectors, lanes);
        position += comptime!(planes * cubes);
    }
    merge(out, &sums, &most, &total, base, group, vectors, lanes, planes, cubes);
}

/// A unit's part of the queries of a group, and nothing seen yet.
#[cube]
fn begin<N: Size>(
    q: &Array<Vector<f32, N>>,
    query: &mut Array<Vector<f32, N>>,
    sums: &mut Array<Vector<f32, N>>,
    base: usize,
    scale: f32,
    #[comptime] group: usize,
    #[comptime] vectors: usize,
    #[comptime] lanes: usize,
) {
    let parts = comptime!(vectors.div_ceil(lanes));
    let zero = Vector::<f32, N>::new(0.0);
    #[unroll]
    for g in 0..group {
        #[unroll]
        for part in 0..parts {
            sums[g * parts + part] = zero;
            query[g * parts + part] = zero;
            let i = UNIT_POS_X as usize + part * lanes;
            if i < vectors {
                query[g * parts + part] = q[(base + g) * vectors + i] * Vector::new(scale);
            }
        }
    }
}

/// A unit's part of the products of a group's queries with the key that begins at `from`.
#[cube]
fn score<C: Float, N: Size>(
    keys: &Array<Vector<C, N>>,
    query: &Array<Vector<f32, N>>,
    dots: &mut Array<f32>,
    from: usize,
    #[comptime] group: usize,
    #[comptime] vectors: usize,
    #[comptime] lanes: usize,
) {
    let parts = comptime!(vectors.div_ceil(lanes));
    #[unroll]
    for g in 0..group {
        dots[g] = 0.0;
    }
    #[unroll]
    for part in 0..parts {
        let i = UNIT_POS_X as usize + part * lanes;
        if i < vectors {
            let key = Vector::<f32, N>::cast_from(keys[from + i]);
            #[unroll]
            for g in 0..group {
                dots[g] += sum_of(query[g * parts + part] * key);
            }
        }
    }
}

/// Products of a plane become weights beside the largest so far; what was gathered is scaled to it.
#[cube]
fn weigh<N: Size>(
    dots: &mut Array<f32>,
    most: &mut Array<f32>,
    total: &mut Array<f32>,
    sums: &mut Array<Vector<f32, N>>,
    #[comptime] group: usize,
    #[comptime] parts: usize,
) {
    #[unroll]
    for g in 0..group {
        let score = plane_sum(dots[g]);
        let higher = max(most[g], score);
        let keep = f32::exp(most[g] - higher);
        let weight = f32::exp(score - higher);
        most[g] = higher;
        total[g] = total[g] * keep + weight;
        dots[g] = weight;
        #[unroll]
        for part in 0..parts {
            sums[g * parts + part] *= Vector::new(keep);
        }
    }
}

/// Adds the value that begins at `from`, by the weights.
#[cube]
fn gather<C: Float, N: Size>(
    values: &Array<Vector<C, N>>,
    weights: &Array<f32>,
    sums: &mut Array<Vector<f32, N>>,
    from: usize,
    #[comptime] group: usize,
    #[comptime] vectors: usize,
    #[comptime] lanes: usize,
) {
    let parts = comptime!(vectors.div_ceil(lanes));
    #[unroll]
    for part in 0..parts {
        let i = UNIT_POS_X as usize + part * lanes;
        if i < vectors {
            let value = Vector::<f32, N>::cast_from(values[from + i]);
            #[unroll]
            for g in 0..group {
                sums[g * parts + part] += value * Vector::new(weights[g]);
            }
        }
    }
}

/// What the planes found, each for its positions, becomes one.
#[cube]
fn merge<O: Float, N: Size>(
    out: &mut Array<Vector<O, N>>,
    sums: &Array<Vector<f32, N>>,
    most: &Array<f32>,
    total: &Array<f32>,
    base: usize,
    #[comptime] group: usize,
    #[comptime] vectors: usize,
    #[comptime] lanes: usize,
    #[comptime] planes: usize,
    #[comptime] cubes: usize,
) {
    let parts = comptime!(vectors.div_ceil(lanes));
    let (lane, plane) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let mut all_sums = SharedMemory::<Vector<f32, N>>::new(comptime!(planes * group * vectors));
    let mut all_most = SharedMemory::<f32>::new(comptime!(planes * group));
    let mut all_total = SharedMemory::<f32>::new(comptime!(planes * group));
    #[unroll]
    for g in 0..group {
        if lane == 0 {
            all_most[plane * group + g] = most[g];
            all_total[plane * group + g] = total[g];
        }
        #[unroll]
        for part in 0..parts {
            let i = lane + part * lanes;
            if i < vectors {
                all_sums[(plane * group + g) * vectors + i] = sums[g * parts + part];
            }
        }
    }
    sync_cube();
    let mut at = UNIT_POS as usize;
    while at < comptime!(group * vectors) {
        let (g, i) = (at / vectors, at % vectors);
        let mut highest = LEAST.runtime();
        for plane in 0..planes {
            highest = max(highest, all_most[plane * group + g]);
        }
        let mut whole = 0.0f32;
        let mut sum = Vector::<f32, N>::new(0.0);
        for plane in 0..planes {
            let share = f32::exp(all_most[plane * group + g] - highest);
            whole += all_total[plane * group + g] * share;
            sum += all_sums[(plane * group + g) * vectors + i] * Vector::new(share);
        }
        if comptime!(cubes == 1) {
            out[(base + g) * vectors + i] = Vector::cast_from(sum / Vector::new(whole));
        } else {
            let to = ((base + g) * cubes + CUBE_POS_Z as usize) * comptime!(vectors + 2);
            out[to + i] = Vector::cast_from(sum);
            if i == 0 {
                out[to + vectors] = Vector::cast_from(Vector::<f32, N>::new(highest));
                out[to + vectors + 1] = Vector::cast_from(Vector::<f32, N>::new(whole));
            }
        }
        at += CUBE_DIM as usize;
    }
}

/// What the cubes of a token's head found, each for its positions, becomes one.
#[cube(launch_unchecked)]
pub fn whole<O: Float, N: Size>(
    found: &Array<Vector<f32, N>>,
    out: &mut Array<Vector<O, N>>,
    all: usize,
    #[comptime] vectors: usize,
    #[comptime] cubes: usize,
) {
    let at = ABSOLUTE_POS;
    if at < all {
        let (head, i) = (at / vectors, at % vectors);
        let each = comptime!(vectors + 2);
        let first = head * cubes * each;
        let mut highest = LEAST.runtime();
        for part in 0..cubes {
            highest = max(highest, found[first + part * each + vectors][0]);
        }
        let mut whole = 0.0f32;
        let mut sum = Vector::<f32, N>::new(0.0);
        for part in 0..cubes {
            let from = first + part * each;
            let share = f32::exp(found[from + vectors][0] - highest);
            whole += found[from + vectors + 1][0] * share;
            sum += found[from + i] * Vector::new(share);
        }
        out[at] = Vector::cast_from(sum / Vector::new(whole));
    }
}

/// `out = silu(gate) * up`; gate and up of a token stand side by side.
#[cube(launch_unchecked)]
pub fn gated<O: Float, N: Size>(
    both: &Array<Vector<f32, N>>,
    out: &mut Array<Vector<O, N>>,
    inner: usize,
    vectors: usize,
) {
    let at = ABSOLUTE_POS;
    if at < vectors {
        let (token, i) = (at / inner, at % inner);
        let gate = both[token * 2 * inner + i];
        let up = both[token * 2 * inner + inner + i];
        let one = Vector::<f32, N>::new(1.0);
        // No sign before a vector: CubeCL's CUDA has none.
        let turned = Vector::<f32, N>::new(0.0) - gate;
        out[at] = Vector::cast_from(gate / (one + Vector::exp(turned)) * up);
    }
}

/// `x += y`.
#[cube(launch_unchecked)]
pub fn add<N: Size>(y: &Array<Vector<f32, N>>, x: &mut Array<Vector<f32, N>>, vectors: usize) {
    let at = ABSOLUTE_POS;
    if at < vectors {
        x[at] += y[at];
    }
}
