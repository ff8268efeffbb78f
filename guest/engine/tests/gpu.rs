//! The kernels for GPUs against burn's transformer. Not in a default run: it takes the feature `wgpu` and a Vulkan driver, or the
//! feature `cuda` and a GPU. `cargo xtask gpu` runs it on Mesa's llvmpipe, which computes on the processor.
#![cfg(any(feature = "wgpu", feature = "cuda"))]

mod common;

use common::decoder::{CONTEXT, Decoder};
use engine::{
    ClientId, Device, EngineError, Event, Generator, KNOWN_ANSWERS, Limits, Options, Precision, Prompt,
    Request, RequestId, Sampling, Scheduler, Sharing, Usage, complete,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

#[cfg(not(feature = "wgpu"))]
const DEVICE: Device = Device::Gpu;
#[cfg(feature = "wgpu")]
const DEVICE: Device = Device::Vulkan;
const OURS: Options = Options { precision: Precision::Stored, threads: 0, device: DEVICE };
const PLAIN: Options = Options { precision: Precision::Stored, threads: 1, device: Device::Reference };

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

/// The same with weights in half precision.
fn halved(mut decoder: Decoder) -> Decoder {
    for (dtype, _, bytes) in decoder.tensors.values_mut() {
        let single = bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word));
        *bytes = single.flat_map(|number| half::f16::from_f32(number).to_le_bytes()).collect();
        *dtype = safetensors::Dtype::F16;
    }
    decoder
}

#[test]
fn weights_stored_in_half_precision_stay_so_or_are_refused_by_name() {
    let dir = halved(Decoder::wide(16)).write();
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
