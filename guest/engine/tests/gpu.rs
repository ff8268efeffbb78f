//! The kernels for GPUs against burn's transformer. Not in a default run: it takes the feature `wgpu` and a Vulkan driver, or the
//! feature `cuda` and a GPU. `cargo xtask gpu` runs it on Mesa's llvmpipe, which computes on the processor.
#![cfg(any(feature = "wgpu", feature = "cuda"))]

mod common;
#[path = "common/halved.rs"]
mod halved;

use common::decoder::{CONTEXT, Decoder, Sizes};
use engine::{
    ClientId, Device, EngineError, Event, Generator, KNOWN_ANSWERS, Limits, Options, Precision, Prompt,
    Request, RequestId, Sampling, Scheduler, Sharing, Usage, complete, gpu_memory,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

#[cfg(not(feature = "wgpu"))]
const DEVICE: Device = Device::Gpu;
#[cfg(feature = "wgpu")]
const DEVICE: Device = Device::Vulkan;
const OURS: Options =
    Options { precision: Precision::Stored, kv_precision: None, threads: 0, device: DEVICE };
const PLAIN: Options =
    Options { precision: Precision::Stored, kv_precision: None, threads: 1, device: Device::Reference };

fn open(dir: &Path, options: Options) -> Arc<Generator> {
    Arc::new(Generator::open_with(dir, options).unwrap_or_else(|error| panic!("{error}")))
}

/// `len` tokens that begin in the same way for the same `seed`.
fn tokens(len: usize, seed: u32) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 31 + seed * 7) % 250).collect()
}

/// Largest difference, measured by the root mean square of `right`.
fn apart(found: &[f32], right: &[f32]) -> f32 {
    assert_eq!(found.len(), right.len());
    let square = right.iter().map(|x| x * x).sum::<f32>() / right.len() as f32;
    found.iter().zip(right).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / square.sqrt()
}

fn greedy(tokens: Vec<u32>, most: usize) -> Request {
    let sampling = Sampling { temperature: Some(0.0), ..Sampling::default() };
    Request { sampling, max_tokens: Some(most), ..Request::new(Prompt::Tokens(tokens)) }
}

fn limits(tokens: usize, chunk: usize) -> Limits {
    Limits { prefill_chunk: chunk, sharing: Sharing::Client, kv_bytes: tokens * 4096, ..Limits::default() }
}

/// Steps until nothing is left: text and usage of each request.
fn run(scheduler: &mut Scheduler) -> BTreeMap<RequestId, (String, Usage)> {
    let mut out = BTreeMap::<RequestId, (String, Usage)>::new();
    while !scheduler.is_idle() {
        for event in scheduler.step() {
            match event {
                Event::Text { id, text, .. } => out.entry(id).or_default().0 += &text,
                Event::Finished { id, usage, .. } => out.entry(id).or_default().1 = usage,
                Event::Started { .. } => {}
                Event::Failed { error, .. } => panic!("{error}"),
            }
        }
    }
    out
}

#[test]
fn a_prompt_of_any_length_has_the_logits_of_burns_transformer() {
    for decoder in [Decoder::random(11), Decoder::wide(11)] {
        let dir = decoder.write();
        let (ours, plain) = (open(dir.path(), OURS), open(dir.path(), PLAIN));
        // One token; few and many for a row of weights; over a block; over several.
        for len in [1, 2, 7, 8, 9, 16, 17, 33, 90] {
            let prompt = tokens(len, 3);
            let most = apart(&ours.logits(&prompt).unwrap(), &plain.logits(&prompt).unwrap());
            assert!(most < 1e-4, "{most} behind {len} tokens");
        }
    }
}

#[test]
fn weights_in_half_precision_and_in_bytes_are_near() {
    let dir = Decoder::wide(12).write();
    let prompt = tokens(40, 1);
    let right = open(dir.path(), PLAIN).logits(&prompt).unwrap();
    let of = |precision| Options { precision, ..OURS };
    let bytes = apart(&open(dir.path(), of(Precision::Int8)).logits(&prompt).unwrap(), &right);
    assert!((1e-6..0.1).contains(&bytes), "{bytes}");
    // bfloat16 is not everywhere: where it is not, it says so.
    match Generator::open_with(dir.path(), of(Precision::Bf16)) {
        Ok(generator) => assert!(apart(&generator.logits(&prompt).unwrap(), &right) < 0.1),
        Err(error) => assert!(matches!(error, EngineError::Precision { .. }), "{error}"),
    }
    let narrow = Decoder::random(12).write();
    let error = Generator::open_with(narrow.path(), of(Precision::Int8)).err().expect("rows of 16");
    assert!(error.to_string().contains("multiple of 32"), "{error}");
}

#[test]
fn weights_stored_in_half_precision_stay_so_or_are_refused_by_name() {
    let dir = Decoder::wide(16).in_16_bits(safetensors::Dtype::F16).write();
    let right = open(dir.path(), PLAIN).logits(&tokens(40, 2)).unwrap();
    match Generator::open_with(dir.path(), OURS) {
        Ok(ours) => {
            // Keys and values are as wide as the weights: half of what burn's transformer takes.
            assert_eq!(
                (ours.facts().precision.as_str(), ours.facts().cached_bytes),
                ("f16", 2 * 2 * 4 * 24 * 2)
            );
            let most = apart(&ours.logits(&tokens(40, 2)).unwrap(), &right);
            println!("f16 weights, keys and values: {most:.1e} of the spread apart");
            assert!(most < 2e-2, "{most}");
        }
        Err(error) => assert!(error.to_string().contains("weights f16"), "{error}"),
    }
    let single = Options { precision: Precision::F32, ..OURS };
    assert!(apart(&open(dir.path(), single).logits(&tokens(40, 2)).unwrap(), &right) < 1e-4);
}

/// What ci/reference/causal.py writes beside each model.
#[derive(serde::Deserialize)]
struct Expected {
    prompts: Vec<Vec<u32>>,
    logits: Vec<Vec<f32>>,
    texts: Vec<String>,
}

#[test]
fn logits_and_greedy_answers_equal_those_of_transformers() {
    let Some(folder) = std::env::var_os("CHRYSALIS_REFERENCE_DECODERS") else {
        println!("SKIPPED: CHRYSALIS_REFERENCE_DECODERS is not set (ci/reference/README.md)");
        return;
    };
    for name in ["qwen3-f32", "llama-bf16", "llama-f16"] {
        let folder = Path::new(&folder).join(name);
        let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let expected: Expected = serde_json::from_str(&text).unwrap();
        let ours = open(&folder, Options { precision: Precision::F32, ..OURS });
        let mut worst = 0f32;
        for (prompt, theirs) in expected.prompts.iter().zip(&expected.logits) {
            let logits = ours.logits(prompt).unwrap();
            worst = logits.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
        }
        println!("{name}: largest difference of a logit {worst:.1e}");
        assert!(worst <= 2e-3, "{name}: {worst}");
        let mut scheduler =
            Scheduler::new(ours.clone(), Limits { kv_bytes: 4 << 20, ..limits(0, 64) }).unwrap();
        let submit = |prompt: &Vec<u32>| {
            let prepared = ours.prepare(greedy(prompt.clone(), 40), None).unwrap();
            scheduler.submit(ClientId(1), prepared).unwrap()
        };
        let ids: Vec<RequestId> = expected.prompts.iter().map(submit).collect();
        let answers = run(&mut scheduler);
        for (id, text) in ids.iter().zip(&expected.texts) {
            assert_eq!(answers.get(id).map_or("", |answer| answer.0.as_str()), *text, "{name}");
        }
    }
}

#[test]
fn greedy_answers_are_the_same_alone_together_in_chunks_and_behind_a_known_beginning() {
    let dir = Decoder::wide(13).write();
    let (ours, plain) = (open(dir.path(), OURS), open(dir.path(), PLAIN));
    let prompts: Vec<Vec<u32>> = [3, 20, 41].iter().map(|len| tokens(*len, *len as u32)).collect();
    let alone = |generator: &Arc<Generator>, prompt: &[u32]| {
        let mut scheduler = Scheduler::new(generator.clone(), limits(1024, 64)).unwrap();
        let prepared = generator.prepare(greedy(prompt.to_vec(), 8), None).unwrap();
        complete(&mut scheduler, ClientId(1), prepared).unwrap().remove(0).0
    };
    let right: Vec<String> = prompts.iter().map(|prompt| alone(&plain, prompt)).collect();
    for (prompt, text) in prompts.iter().zip(&right) {
        assert_eq!(alone(&ours, prompt), *text);
    }
    for chunk in [5, 64] {
        let mut scheduler = Scheduler::new(ours.clone(), limits(1024, chunk)).unwrap();
        // The second round finds what the first one left.
        for cached in [false, true] {
            let submit = |prompt: &Vec<u32>| {
                let prepared = ours.prepare(greedy(prompt.clone(), 8), None).unwrap();
                scheduler.submit(ClientId(1), prepared).unwrap()
            };
            let ids: Vec<RequestId> = prompts.iter().map(submit).collect();
            let answers = run(&mut scheduler);
            for (id, text) in ids.iter().zip(&right) {
                assert_eq!(answers[id].0, *text, "{chunk} tokens a step");
            }
            assert_eq!(answers[&ids[2]].1.cached_tokens, if cached { 32 } else { 0 });
        }
    }
}

#[test]
fn the_row_of_its_own_class_is_wanted_and_no_other() {
    let dir = Decoder::wide(14).write();
    let ours = open(dir.path(), OURS);
    let write = |answers: &engine::KnownAnswers| {
        std::fs::write(dir.path().join(KNOWN_ANSWERS), serde_json::to_string(answers).unwrap()).unwrap();
    };
    let processor = Generator::open(dir.path()).unwrap();
    write(&processor.known_answers().unwrap());
    let refused = ours.check_known_answers(dir.path()).unwrap_err().to_string();
    assert!(
        refused.contains(&format!("f32 on {}", DEVICE.class().as_str())) && refused.contains("f32 on cpu"),
        "{refused}"
    );
    write(&ours.known_answers().unwrap().beside(processor.known_answers().unwrap()));
    ours.check_known_answers(dir.path()).unwrap();
    processor.check_known_answers(dir.path()).unwrap();
}

#[test]
fn the_longest_prompt_fits() {
    let dir = Decoder::wide(15).write();
    let logits = open(dir.path(), OURS).logits(&tokens(CONTEXT - 1, 5)).unwrap();
    assert!(logits.iter().all(|logit| logit.is_finite()));
}

/// A Qwen3 with rows that are long enough for all planes of a cube to share one, and room for many blocks.
fn long(seed: u64) -> Decoder {
    let mut decoder = Decoder::sized(seed, Sizes { width: 256, inner: 512, queries: 8, keys: 2, head: 32 });
    decoder.config["max_position_embeddings"] = 1024.into();
    decoder
}

/// Submits at once, and gives text and usage of each.
fn together(
    generator: &Arc<Generator>,
    prompts: &[Vec<u32>],
    most: usize,
    chunk: usize,
) -> Vec<(String, Usage)> {
    let mut scheduler = Scheduler::new(generator.clone(), limits(4096, chunk)).unwrap();
    let submit = |prompt: &Vec<u32>| {
        let prepared = generator.prepare(greedy(prompt.clone(), most), None).unwrap();
        scheduler.submit(ClientId(1), prepared).unwrap()
    };
    let ids: Vec<RequestId> = prompts.iter().map(submit).collect();
    let mut answers = run(&mut scheduler);
    ids.iter().map(|id| answers.remove(id).unwrap()).collect()
}

#[test]
fn planes_that_share_a_row_of_weights_find_what_burns_transformer_finds() {
    let dir = long(21).write();
    let plain = open(dir.path(), PLAIN);
    for (precision, most) in [(Precision::Stored, 1e-4), (Precision::Int8, 0.1)] {
        let ours = open(dir.path(), Options { precision, ..OURS });
        for len in [1, 5, 8, 9, 40] {
            let prompt = tokens(len, 4);
            let found = apart(&ours.logits(&prompt).unwrap(), &plain.logits(&prompt).unwrap());
            assert!(found < most, "{precision:?}: {found} behind {len} tokens");
        }
    }
}

#[test]
fn a_prompt_over_many_blocks_has_the_logits_of_burns_transformer_and_is_used_again() {
    let dir = long(22).write();
    let (ours, plain) = (open(dir.path(), OURS), open(dir.path(), PLAIN));
    let prompt = tokens(900, 6);
    let most = apart(&ours.logits(&prompt).unwrap(), &plain.logits(&prompt).unwrap());
    assert!(most < 1e-3, "{most} behind {} tokens", prompt.len());
    let mut scheduler = Scheduler::new(ours.clone(), limits(4096, 64)).unwrap();
    let answers = [0, 896].map(|cached| {
        let prepared = ours.prepare(greedy(prompt.clone(), 8), None).unwrap();
        let id = scheduler.submit(ClientId(1), prepared).unwrap();
        let (text, usage) = run(&mut scheduler).remove(&id).unwrap();
        assert_eq!((usage.prompt_tokens, usage.cached_tokens), (900, cached));
        text
    });
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn more_answers_than_a_row_of_weights_meets_at_a_time_are_those_alone() {
    let dir = long(23).write();
    for precision in [Precision::Stored, Precision::Int8] {
        let ours = open(dir.path(), Options { precision, ..OURS });
        let prompts: Vec<Vec<u32>> = (0..12).map(|i| tokens(3 + 5 * i, i as u32)).collect();
        let beside = together(&ours, &prompts, 6, 64);
        for (prompt, (text, usage)) in prompts.iter().zip(&beside) {
            let alone = together(&ours, std::slice::from_ref(prompt), 6, 64).remove(0);
            assert_eq!(
                (&alone.0, alone.1.completion_tokens),
                (text, usage.completion_tokens),
                "{precision:?}"
            );
        }
    }
}

#[test]
fn a_cancelled_request_frees_its_room_and_leaves_the_others_as_they_are() {
    let dir = long(24).write();
    let ours = open(dir.path(), OURS);
    let kept = tokens(30, 1);
    let right = together(&ours, std::slice::from_ref(&kept), 24, 64).remove(0).0;
    // Room for two: the third waits until one of them is cancelled.
    let kv_bytes = 128 * ours.facts().cached_bytes;
    let room = Limits { kv_bytes, sharing: Sharing::Request, ..limits(0, 64) };
    let mut scheduler = Scheduler::new(ours.clone(), room).unwrap();
    let mut submit = |prompt: &[u32]| {
        let prepared = ours.prepare(greedy(prompt.to_vec(), 24), None).unwrap();
        scheduler.submit(ClientId(1), prepared).unwrap()
    };
    let ids = [submit(&kept), submit(&tokens(30, 2)), submit(&kept)];
    let (mut texts, mut ended) = (BTreeMap::<RequestId, String>::new(), vec![]);
    for step in 0.. {
        if step == 4 {
            scheduler.cancel(ids[1]);
        }
        for event in scheduler.step() {
            match event {
                Event::Text { id, text, .. } => *texts.entry(id).or_default() += &text,
                Event::Finished { id, .. } => ended.push(id),
                Event::Failed { error, .. } => panic!("{error}"),
                Event::Started { .. } => {}
            }
        }
        if scheduler.is_idle() {
            break;
        }
    }
    assert_eq!(ended, [ids[0], ids[2]]);
    assert_eq!((&texts[&ids[0]], &texts[&ids[2]]), (&right, &right));
}

#[test]
fn a_device_holds_weights_keys_and_values_and_little_else_however_often_they_are_made() {
    let dir = long(25).write();
    // A thread of its own has pools of its own: other tests leave nothing in them.
    let bound = |kv: u64, weights: u64| (kv + weights) as f64 * 1.15;
    let computed = std::thread::spawn(move || {
        let ours = open(dir.path(), OURS);
        let kv_bytes = 400 << 20;
        let of = |generator: &Arc<Generator>| {
            // No scheduler makes more blocks than its sequences can fill.
            let limits = Limits { kv_bytes, sequences: 512, sharing: Sharing::Request, ..Limits::default() };
            Scheduler::new(generator.clone(), limits).unwrap()
        };
        let most = bound(kv_bytes as u64, ours.weight_bytes());
        // The self-test of a worker makes and drops two, and the thread that serves has the third.
        for _ in 0..2 {
            let mut scheduler = of(&ours);
            let prepared = ours.prepare(greedy(tokens(20, 3), 2), None).unwrap();
            scheduler.submit(ClientId(0), prepared).unwrap();
            run(&mut scheduler);
        }
        let (serving, generator) = (of(&ours), ours.clone());
        let serving = std::thread::spawn(move || {
            let mut scheduler = serving;
            for seed in 0..3 {
                let prepared = generator.prepare(greedy(tokens(600, seed), 8), None).unwrap();
                scheduler.submit(ClientId(0), prepared).unwrap();
            }
            run(&mut scheduler);
            // What this thread's own stream took: nothing.
            (gpu_memory(DEVICE).unwrap(), scheduler)
        });
        let (elsewhere, scheduler) = serving.join().unwrap();
        let (held, taken) = gpu_memory(DEVICE).unwrap();
        println!(
            "{kv_bytes} of keys and values, {} of weights: {held} held, {taken} taken",
            ours.weight_bytes()
        );
        assert!(held >= kv_bytes as u64 + ours.weight_bytes(), "{held}");
        assert!((taken as f64) < most, "{taken} taken, at most {most} expected");
        assert_eq!(elsewhere.1, 0, "taken by a stream of another thread");
        drop(scheduler);
        let (_, taken) = gpu_memory(DEVICE).unwrap();
        assert!(taken < kv_bytes as u64 / 2, "{taken} taken behind a scheduler that is gone");
    });
    computed.join().unwrap();
}
