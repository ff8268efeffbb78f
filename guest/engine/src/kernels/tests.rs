//! Every loop of every instruction set against sums in double precision, on shapes with odd ends.

use super::bytes::Rounded;
use super::isa::Isa;
use super::*;
use half::{bf16, f16};
use proptest::prelude::*;

/// All instruction sets of this processor, with one thread and with several.
fn machines() -> Vec<Machine> {
    let with = |isa: Isa| {
        [(1, false), (3, true)].map(|(threads, pairs)| Machine { isa, pool: Pool::new(threads), pairs })
    };
    Isa::all().into_iter().flat_map(with).collect()
}

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| draw()).collect()
}

/// A mapped file that begins with some bytes, so that weights lie at an odd address.
fn mapped(bytes: &[u8], odd: usize) -> Mapped {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &[&vec![7u8; odd], bytes].concat()).unwrap();
    Mapped::new(&file, odd as u64, bytes.len()).unwrap()
}

/// Weights of a kind and what they are in single precision.
fn weights(kind: Kind, rows: usize, cols: usize, seed: u64) -> (Matrix, Vec<f32>) {
    let wide = numbers(rows * cols, seed);
    let mut matrix = Matrix::new(cols);
    let halves = |bits: fn(f32) -> [u8; 2]| wide.iter().flat_map(|x| bits(*x)).collect::<Vec<u8>>();
    match kind {
        Kind::F32 => matrix.push_numbers(&wide),
        Kind::F16 => matrix.push_mapped(kind, mapped(&halves(|x| f16::from_f32(x).to_le_bytes()), 3)),
        Kind::Bf16 => matrix.push_mapped(kind, mapped(&halves(|x| bf16::from_f32(x).to_le_bytes()), 5)),
        Kind::Int8 => {
            matrix.push_numbers(&wide);
            matrix = matrix.to_int8(&Machine::new(2));
        }
    }
    let exact = match kind {
        Kind::F32 => wide,
        Kind::F16 => wide.iter().map(|x| f16::from_f32(*x).to_f32()).collect(),
        Kind::Bf16 => wide.iter().map(|x| bf16::from_f32(*x).to_f32()).collect(),
        Kind::Int8 => matrix.numbers(),
    };
    (matrix, exact)
}

const KINDS: [Kind; 4] = [Kind::F32, Kind::F16, Kind::Bf16, Kind::Int8];

/// Largest difference of a sum of so many products below 1, added in another order.
fn allowed(cols: usize) -> f64 {
    2e-7 * cols as f64 + 1e-6
}

/// Rows with odd ends, and some that are longer than 16 groups.
fn shapes() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 1usize..150, 1 => 510usize..580]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn multiplying_is_right_for_every_instruction_set_kind_and_shape(
        kind in prop::sample::select(&KINDS[..]), rows in 1usize..70, cols in shapes(), prompts in 0usize..30,
        answers in 0usize..15, seed in any::<u64>(), add in any::<bool>(),
    ) {
        let (matrix, w) = weights(kind, rows, cols, seed);
        let tokens = prompts + answers;
        let x = numbers(tokens * cols, seed ^ 9);
        for machine in machines() {
            let mut out = vec![0.5; tokens * rows];
            matrix.multiply(&machine, &x, &mut out, add, prompts);
            let x = rounded(&machine, kind, &x, cols, prompts);
            for (i, found) in out.iter().enumerate() {
                let (t, r) = (i / rows, i % rows);
                let products = x[t * cols..][..cols].iter().zip(&w[r * cols..][..cols]);
                let right: f64 = products.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let right = right + if add { 0.5 } else { 0.0 };
                prop_assert!((f64::from(*found) - right).abs() <= allowed(cols), "{}: {i}", machine.isa());
            }
        }
    }

    #[test]
    fn a_token_is_the_same_to_the_last_bit_in_any_company(
        kind in prop::sample::select(&KINDS[..]), rows in 1usize..70, cols in shapes(), prompts in 0usize..30,
        answers in 0usize..15, seed in any::<u64>(), pairs in any::<bool>(),
    ) {
        let (matrix, _) = weights(kind, rows, cols, seed);
        let tokens = prompts + answers;
        let x = numbers(tokens * cols, seed ^ 9);
        for isa in Isa::all() {
            let [one, three] = [1, 3].map(|threads| Machine { isa, pool: Pool::new(threads), pairs });
            let mut together = vec![0.0; tokens * rows];
            matrix.multiply(&three, &x, &mut together, false, prompts);
            for (token, (x, together)) in x.chunks(cols).zip(together.chunks(rows)).enumerate() {
                let mut alone = vec![0.0; rows];
                matrix.multiply(&one, x, &mut alone, false, usize::from(token < prompts));
                prop_assert_eq!(&alone[..], together, "{}", isa.name());
            }
        }
    }

    #[test]
    fn attention_is_right_for_every_instruction_set_and_shape(
        kv_heads in 1usize..4, group in 1usize..5, head in 1usize..80, start in 0usize..60, count in 1usize..40,
        seed in any::<u64>(), precision in prop::sample::select(&[KvPrecision::F32, KvPrecision::F16][..]),
    ) {
        let (heads, total) = (kv_heads * group, start + count);
        let blocks: Vec<u32> = (0..total.div_ceil(BLOCK) as u32).rev().map(|block| block * 2).collect();
        let mut cache = Cache::new(precision, 2 * blocks.len(), kv_heads, head);
        let (keys, values) = (numbers(total * kv_heads * head, seed), numbers(total * kv_heads * head, seed ^ 5));
        let row = kv_heads * head;
        for position in 0..total {
            let at = position * row..(position + 1) * row;
            cache.write(blocks[position / BLOCK], position % BLOCK, &keys[at.clone()], &values[at]).unwrap();
        }
        // What is held is what attention is right about.
        let held = |x: &[f32]| x.iter().map(|x| f16::from_f32(*x).to_f32()).collect();
        let (keys, values) = match precision {
            KvPrecision::F32 => (keys, values),
            KvPrecision::F16 => (held(&keys), held(&values)),
        };
        let stride = heads * head + 3;
        let q: Vec<f32> = numbers(count * stride, seed ^ 6).iter().map(|x| x * 4.0).collect();
        let span = Span { first: 0, count, start, blocks: &blocks };
        let right = attended(&q, stride, (&keys, &values), (kv_heads, group, head), start, count);
        for machine in machines() {
            let mut out = vec![9.0; count * heads * head];
            attention(&machine, &cache, std::slice::from_ref(&span), heads, (&q, stride), &mut out);
            for (found, right) in out.iter().zip(&right) {
                prop_assert!((f64::from(*found) - right).abs() < 2e-5, "{}: {found} {right}", machine.isa());
            }
        }
    }

    #[test]
    fn rows_are_normed_and_gated_right(width in 1usize..100, rows in 1usize..6, seed in any::<u64>()) {
        let (x, gamma) = (numbers(rows * width, seed), numbers(width, seed ^ 1));
        let both: Vec<f32> = numbers(rows * 2 * width, seed ^ 2).iter().map(|x| x * 20.0).collect();
        for machine in machines() {
            let (mut normed, mut gated) = (vec![0.0; rows * width], vec![0.0; rows * width]);
            machine.normed(&x, &gamma, 1e-5, &mut normed);
            machine.gated(&both, width, &mut gated);
            for i in 0..rows * width {
                let (r, c) = (i / width, i % width);
                let square: f64 = x[r * width..][..width].iter().map(|x| f64::from(*x).powi(2)).sum();
                let right = f64::from(x[i]) / (square / width as f64 + 1e-5).sqrt() * f64::from(gamma[c]);
                prop_assert!((f64::from(normed[i]) - right).abs() < 1e-4, "{}: {} {right}", machine.isa(), normed[i]);
                let (gate, up) = (f64::from(both[r * 2 * width + c]), f64::from(both[r * 2 * width + width + c]));
                let right = gate / (1.0 + (-gate).exp()) * up;
                prop_assert!((f64::from(gated[i]) - right).abs() < 1e-4, "{}: {} {right}", machine.isa(), gated[i]);
            }
        }
    }
}

/// What activations are rounded to.
fn rounded(machine: &Machine, kind: Kind, x: &[f32], cols: usize, prompts: usize) -> Vec<f32> {
    match kind {
        Kind::Int8 => Rounded::new(x, cols, machine).numbers(cols),
        Kind::Bf16 if machine.pairs => {
            let (many, few) = x.split_at(prompts * cols);
            many.iter().map(|x| bf16::from_f32(*x).to_f32()).chain(few.iter().copied()).collect()
        }
        _ => x.to_vec(),
    }
}

/// Attention in double precision.
fn attended(
    q: &[f32],
    stride: usize,
    (keys, values): (&[f32], &[f32]),
    (kv_heads, group, head): (usize, usize, usize),
    start: usize,
    count: usize,
) -> Vec<f64> {
    let mut out = Vec::new();
    for (token, h) in (0..count).flat_map(|token| (0..kv_heads * group).map(move |h| (token, h))) {
        let q = &q[token * stride + h * head..][..head];
        let at = |position: usize| (position * kv_heads + h / group) * head;
        let dot = |k: &[f32]| q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>();
        let scores = (0..=start + token).map(|j| dot(&keys[at(j)..][..head]) / (head as f64).sqrt());
        let weights: Vec<f64> = scores.map(f64::exp).collect();
        let sum: f64 = weights.iter().sum();
        let column = |c: usize| {
            let weighed = weights.iter().enumerate().map(|(j, w)| w * f64::from(values[at(j) + c]));
            weighed.sum::<f64>() / sum
        };
        out.extend((0..head).map(column));
    }
    out
}

#[test]
fn bytes_with_scales_are_within_half_a_step_of_what_they_stand_for() {
    for scale in [1e-30f32, 1e-6, 0.02, 1.0, 3e4] {
        let wide: Vec<f32> = numbers(5 * 70, 3).iter().map(|x| x * scale).collect();
        let mut matrix = Matrix::new(70);
        matrix.push_numbers(&wide);
        let back = matrix.to_int8(&Machine::new(1)).numbers();
        for (row, back) in wide.chunks(70).zip(back.chunks(70)) {
            for (group, back) in row.chunks(32).zip(back.chunks(32)) {
                let most = group.iter().fold(0f32, |most, x| most.max(x.abs()));
                // Half a step of 127, the rounding of the scale, and what is below the smallest scale there is.
                let step = most / 127.0 * 0.51 + 127.0 * 6e-8;
                group.iter().zip(back).for_each(|(x, y)| assert!((x - y).abs() <= step, "{x} {y} {most}"));
            }
        }
    }
}

#[test]
fn not_a_number_in_a_weight_or_an_input_shows() {
    for machine in machines() {
        let counts = [(1, 0), (1, 1), (20, 0), (20, 20), (5, 2)];
        for ((tokens, prompts), kind) in counts.into_iter().flat_map(|of| KINDS.map(|kind| (of, kind))) {
            let (matrix, _) = weights(kind, 9, 40, 1);
            let mut x = numbers(tokens * 40, 2);
            x[39] = f32::NAN;
            let mut out = vec![0.0; tokens * 9];
            matrix.multiply(&machine, &x, &mut out, false, prompts);
            assert!(out[..9].iter().all(|x| x.is_nan()));
            assert!(out[9..].iter().all(|x| x.is_finite()));
        }
    }
}
