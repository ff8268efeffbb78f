//! Keys and values in half precision: what changes, what does not, and what is refused.

use super::*;
use engine::{EngineError, KvPrecision};

fn kept(kv: KvPrecision) -> Options {
    Options { kv_precision: Some(kv), ..Options::default() }
}

/// Largest difference of a logit, measured by the root mean square of all.
fn apart(found: &[f32], right: &[f32]) -> f32 {
    let spread = (right.iter().map(|x| x * x).sum::<f32>() / right.len() as f32).sqrt();
    found.iter().zip(right).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / spread
}

#[test]
fn without_a_word_keys_are_held_as_weights_deserve() {
    let (single, half) = (Decoder::random(8).write(), Decoder::random(8).in_16_bits(Dtype::F16).write());
    let brain = Decoder::random(8).in_16_bits(Dtype::BF16).write();
    let int8 = Options { precision: Precision::Int8, ..Options::default() };
    let reference = Options { device: Device::Reference, ..Options::default() };
    let numbers = 2 * common::decoder::LAYERS * 2 * 4;
    for (dir, options, kv, bytes) in [
        (&single, Options::default(), "f32", 4),
        (&single, int8, "f16", 2),
        (&single, kept(KvPrecision::F16), "f16", 2),
        (&half, Options::default(), "f16", 2),
        (&half, kept(KvPrecision::F32), "f32", 4),
        (&half, reference, "f32", 4),
        (&brain, Options::default(), "f16", 2),
        (&brain, int8, "f16", 2),
    ] {
        let generator = Generator::open_with(dir.path(), options).unwrap();
        let facts = generator.facts();
        assert_eq!((facts.kv_precision.as_str(), facts.cached_bytes), (kv, numbers * bytes), "{options:?}");
    }
    let wish = Options { kv_precision: Some(KvPrecision::F16), ..reference };
    let refused = Generator::open_with(single.path(), wish).err().expect("burn holds them as it computes");
    assert!(refused.to_string().contains("kv_precision `f16`: burn on a processor"), "{refused}");
}

#[test]
fn models_in_single_precision_compute_as_they_did_and_others_near_it() {
    let single = Decoder::random(9).write();
    assert_eq!(logits(single.path(), Options::default()), logits(single.path(), kept(KvPrecision::F32)));
    for dir in [single, Decoder::random(9).in_16_bits(Dtype::BF16).write(), Decoder::wide(9).write()] {
        let right = logits(dir.path(), kept(KvPrecision::F32));
        let most = apart(&logits(dir.path(), kept(KvPrecision::F16)), &right);
        println!("keys and values in half precision: {most:.1e} of the spread apart");
        // A key moves by up to a 2048th, and so do scores, which are 10 and more with these weights: a hundredth of a share.
        assert!(most > 0.0 && most < 2e-2, "{most}");
    }
}

#[test]
fn an_answer_is_the_same_in_any_company_with_keys_in_half_precision() {
    let dir = Decoder::wide(21).write();
    let generator = Arc::new(Generator::open_with(dir.path(), kept(KvPrecision::F16)).unwrap());
    let asked = |i: usize| generator.prepare(request(tokens(2 + i * 9, i), i as u64, 16), None).unwrap();
    let limits = |chunk| Limits { prefill_chunk: chunk, kv_bytes: 1 << 20, ..Limits::default() };
    let alone: Vec<String> = (0..7)
        .map(|i| {
            let mut scheduler = Scheduler::new(generator.clone(), limits(256)).unwrap();
            complete(&mut scheduler, ClientId(1), asked(i)).unwrap().remove(0).0
        })
        .collect();
    for chunk in [1, 5, 64] {
        let mut scheduler = Scheduler::new(generator.clone(), limits(chunk)).unwrap();
        // The second round finds the first one's beginnings.
        for _ in 0..2 {
            let submit = |i: usize| scheduler.submit(ClientId(1), asked(i)).unwrap();
            let ids: Vec<RequestId> = (0..7).map(submit).collect();
            let mut answers = Answers::new();
            while !scheduler.is_idle() {
                collect(scheduler.step(), &mut answers);
            }
            for (id, alone) in ids.iter().zip(&alone) {
                assert_eq!(answers[&(*id, 0)].0, *alone, "{chunk} tokens a step");
            }
        }
    }
}

#[test]
fn the_same_memory_holds_twice_the_tokens() {
    let dir = Decoder::random(3).write();
    let room = |kv| {
        let generator = Arc::new(Generator::open_with(dir.path(), kept(kv)).unwrap());
        let limits = Limits { kv_bytes: 1 << 16, ..Limits::default() };
        Scheduler::new(generator, limits).unwrap().load().blocks_total
    };
    assert_eq!((room(KvPrecision::F32), room(KvPrecision::F16)), (32, 64));
}

/// A model whose first key is beyond half precision behind token 40, and behind no other.
fn outlier() -> Decoder {
    let mut folder = Decoder::random(7);
    let words = "model.embed_tokens.weight";
    for word in 0..VOCABULARY {
        folder.poke(words, word * common::decoder::WIDTH, if word == 40 { 1.0 } else { 0.0 });
    }
    folder.poke("model.layers.0.input_layernorm.weight", 0, 1.0);
    folder.poke("model.layers.0.self_attn.k_proj.weight", 0, 1e7);
    folder
}

#[test]
fn a_key_beyond_half_precision_ends_its_request_and_no_other() {
    let dir = outlier().write();
    let generator = Arc::new(Generator::open_with(dir.path(), kept(KvPrecision::F16)).unwrap());
    let error = generator.logits(&[5, 40, 6]).unwrap_err();
    assert!(matches!(error, EngineError::KeyRange { found } if found.abs() > 65504.0), "{error}");
    assert!(!error.is_request_fault() && error.to_string().contains("kv_precision `f32`"), "{error}");
    let single = Generator::open_with(dir.path(), kept(KvPrecision::F32)).unwrap();
    assert!(single.logits(&[5, 40, 6]).unwrap().iter().all(|logit| logit.is_finite()));

    let quiet = Sampling { logit_bias: vec![(40, -100.0)], temperature: Some(0.0), ..Sampling::default() };
    let ask = |prompt: &[u32]| {
        let prompt = Prompt::Tokens(prompt.to_vec());
        let asked = Request { sampling: quiet.clone(), max_tokens: Some(20), ..Request::new(prompt) };
        generator.prepare(asked, None).unwrap()
    };
    let mut scheduler = Scheduler::new(generator.clone(), Limits::default()).unwrap();
    let alone = complete(&mut scheduler, ClientId(1), ask(&[1, 2, 3])).unwrap();
    let good = scheduler.submit(ClientId(1), ask(&[1, 2, 3])).unwrap();
    let bad = scheduler.submit(ClientId(2), ask(&[5, 40, 6])).unwrap();
    let (mut text, mut failed) = (String::new(), vec![]);
    while !scheduler.is_idle() {
        for event in scheduler.step() {
            match event {
                Event::Text { id, text: more, .. } if id == good => text += &more,
                Event::Failed { id, error: EngineError::KeyRange { .. } } => failed.push(id),
                Event::Failed { error, .. } => panic!("{error}"),
                Event::Text { id, .. } | Event::Finished { id, .. } => assert_eq!(id, good),
                Event::Started { .. } => {}
            }
        }
    }
    assert_eq!((text, failed), (alone[0].0.clone(), vec![bad]));
    assert_eq!(scheduler.load().blocks_free, scheduler.load().blocks_total);
}

#[test]
fn known_answers_are_of_one_precision_of_keys_and_say_which() {
    let dir = Decoder::random(10).in_16_bits(Dtype::BF16).write();
    let [half, single] =
        [KvPrecision::F16, KvPrecision::F32].map(|kv| Generator::open_with(dir.path(), kept(kv)).unwrap());
    let path = dir.path().join(KNOWN_ANSWERS);
    let write = |answers: &engine::KnownAnswers| {
        std::fs::write(&path, serde_json::to_string(answers).unwrap()).unwrap();
    };
    let of_single = single.known_answers().unwrap();
    write(&of_single);
    single.check_known_answers(dir.path()).unwrap();
    let refused = half.check_known_answers(dir.path()).unwrap_err().to_string();
    for said in ["keys and values in f32", "bf16 on cpu, keys and values in f16", "cargo xtask answers"] {
        assert!(refused.contains(said), "{refused}");
    }
    let both = half.known_answers().unwrap().beside(of_single.clone());
    write(&both);
    half.check_known_answers(dir.path()).unwrap();
    single.check_known_answers(dir.path()).unwrap();
    assert_eq!(half.known_answers().unwrap().beside(both.clone()), both);
    // Files of before there was a choice are of single precision.
    let mut before = serde_json::to_value(&of_single).unwrap();
    before.as_object_mut().unwrap().remove("kv_precision").unwrap();
    std::fs::write(&path, before.to_string()).unwrap();
    single.check_known_answers(dir.path()).unwrap();
    assert!(half.check_known_answers(dir.path()).is_err());
}
