//! Serving with small random decoders: neighbours, memory, fairness, cancelling, hostile folders and requests.

mod common;
#[path = "serving/company.rs"]
mod company;
#[path = "common/halved.rs"]
mod halved;
#[path = "serving/hostile.rs"]
mod hostile;
#[path = "serving/int8.rs"]
mod int8;
#[path = "serving/kv.rs"]
mod kv;
#[path = "common/spoil.rs"]
mod spoil;

use common::decoder::{CONTEXT, Decoder, VOCABULARY};
use engine::{
    Chat, ClientId, Device, Event, FinishReason, Generator, Json, KNOWN_ANSWERS, Limits, MAX_PROMPT_BYTES,
    Options, Precision, Prompt, Request, RequestId, Sampling, Scheduler, complete, inspect_generator,
};
use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

fn small() -> Arc<Generator> {
    static SMALL: OnceLock<Arc<Generator>> = OnceLock::new();
    SMALL.get_or_init(|| Arc::new(Generator::open(Decoder::random(3).write().path()).unwrap())).clone()
}

/// Limits with memory for this many tokens.
fn limits(tokens: usize) -> Limits {
    let kv_bytes = tokens * small().facts().cached_bytes;
    Limits { kv_bytes, sequences: 4, waiting: 64, prefill_chunk: 8, ..Limits::default() }
}

fn tokens(len: usize, first: usize) -> Prompt {
    Prompt::Tokens((0..len).map(|i| ((first * 31 + i * 7) % 250) as u32).collect())
}

fn request(prompt: Prompt, seed: u64, max_tokens: usize) -> Request {
    let sampling = Sampling { seed: Some(seed), temperature: Some(1.3), ..Sampling::default() };
    Request { sampling, max_tokens: Some(max_tokens), ..Request::new(prompt) }
}

type Answers = BTreeMap<(RequestId, usize), (String, Option<FinishReason>)>;

fn collect(events: Vec<Event>, answers: &mut Answers) {
    for event in events {
        match event {
            Event::Text { id, choice, text, .. } => answers.entry((id, choice)).or_default().0 += &text,
            Event::Finished { id, choice, reason, .. } => {
                answers.entry((id, choice)).or_default().1 = Some(reason)
            }
            Event::Started { .. } => {}
            Event::Failed { error, .. } => panic!("{error}"),
        }
    }
}

/// Logits of one prompt, computed as asked for.
fn logits(dir: &std::path::Path, options: Options) -> Vec<f32> {
    let ids: Vec<u32> = (0..40).map(|i| i * 11 % 250).collect();
    Generator::open_with(dir, options).unwrap().logits(&ids).unwrap()
}

#[test]
fn the_kernels_compute_what_burn_computes_with_any_number_of_threads() {
    let dir = Decoder::random(5).write();
    let right = logits(dir.path(), Options { device: Device::Reference, ..Options::default() });
    for threads in [1, 2, 3] {
        let found = logits(dir.path(), Options { threads, ..Options::default() });
        let apart = found.iter().zip(&right).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(apart < 1e-4, "{apart}");
    }
}

#[test]
fn rounded_prompts_are_near_and_asked_for_by_name() {
    let dir = Decoder::random(6).write();
    let rounded = Options { precision: Precision::Bf16Rounded, ..Options::default() };
    let refusal =
        Generator::open_with(dir.path(), rounded).err().expect("weights in single precision").to_string();
    assert!(refusal.contains("bf16") && refusal.contains("f32"), "{refusal}");
    let half = Decoder::random(6).in_16_bits(Dtype::F16).write();
    assert!(Generator::open_with(half.path(), rounded).is_err());

    let dir = Decoder::random(6).in_16_bits(Dtype::BF16).write();
    let generator = Generator::open_with(dir.path(), rounded).unwrap();
    assert_eq!(generator.facts().precision, "bf16-rounded");
    let (right, found) = (logits(dir.path(), Options::default()), logits(dir.path(), rounded));
    let square = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
    let apart: Vec<f32> = right.iter().zip(&found).map(|(a, b)| a - b).collect();
    let share = (square(&apart) / square(&right)).sqrt();
    // Each activation moves by up to a 512th. The same where the processor has no such products.
    assert!((1e-6..0.02).contains(&share), "{share}");
    let answers = serde_json::to_string(&generator.known_answers().unwrap()).unwrap();
    std::fs::write(dir.path().join(KNOWN_ANSWERS), answers).unwrap();
    generator.check_known_answers(dir.path()).unwrap();
    let stored = Generator::open(dir.path()).unwrap();
    assert!(stored.check_known_answers(dir.path()).unwrap_err().to_string().contains("bf16-rounded"));
}

#[test]
fn weights_in_bytes_are_near_and_known_by_their_own_answers() {
    let dir = Decoder::random(6).write();
    let int8 = Options { precision: Precision::Int8, ..Options::default() };
    let (right, found) = (logits(dir.path(), Options::default()), logits(dir.path(), int8));
    let square = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
    let apart: Vec<f32> = right.iter().zip(&found).map(|(a, b)| a - b).collect();
    let share = (square(&apart) / square(&right)).sqrt();
    assert!((1e-6..0.05).contains(&share), "{share}");
    let generator = Generator::open_with(dir.path(), int8).unwrap();
    assert_eq!(generator.facts().precision, "int8");
    let answers = serde_json::to_string(&generator.known_answers().unwrap()).unwrap();
    std::fs::write(dir.path().join(KNOWN_ANSWERS), answers).unwrap();
    generator.check_known_answers(dir.path()).unwrap();
    let stored = Generator::open(dir.path()).unwrap();
    assert!(stored.check_known_answers(dir.path()).unwrap_err().to_string().contains("int8"));
}

#[test]
fn an_answer_is_the_same_in_any_company() {
    let generator = small();
    let wanted: Vec<Request> = (0..10).map(|i| request(tokens(3 + i * 5, i), i as u64, 20)).collect();
    let alone: Vec<String> = wanted
        .iter()
        .map(|request| {
            let mut scheduler = Scheduler::new(generator.clone(), limits(CONTEXT)).unwrap();
            let prepared = generator.prepare(request.clone(), None).unwrap();
            complete(&mut scheduler, ClientId(1), prepared).unwrap().remove(0).0
        })
        .collect();
    let mut scheduler = Scheduler::new(generator.clone(), limits(4 * CONTEXT)).unwrap();
    let mut answers = Answers::new();
    let mut ids = vec![];
    for (index, request) in wanted.into_iter().enumerate() {
        let prepared = generator.prepare(request, None).unwrap();
        ids.push(scheduler.submit(ClientId(index as u64 % 3), prepared).unwrap());
        // In between, somebody comes and goes.
        let other = generator.prepare(self::request(tokens(30, 99), 5, 40), None).unwrap();
        let other = scheduler.submit(ClientId(9), other).unwrap();
        collect(scheduler.step(), &mut answers);
        collect(scheduler.step(), &mut answers);
        assert!(scheduler.cancel(other));
        assert!(!scheduler.cancel(other));
        answers.remove(&(other, 0));
    }
    while !scheduler.is_idle() {
        collect(scheduler.step(), &mut answers);
    }
    for (id, alone) in ids.iter().zip(&alone) {
        assert_eq!(answers[&(*id, 0)].0, *alone);
    }
    assert_eq!(answers.len(), ids.len());
    assert_eq!(scheduler.load().blocks_free, scheduler.load().blocks_total);
}

#[test]
fn choices_share_the_prompt_and_differ_in_the_answer() {
    let generator = small();
    let mut scheduler = Scheduler::new(generator.clone(), limits(4 * CONTEXT)).unwrap();
    let asked = Request { choices: 4, ..request(tokens(40, 1), 7, 12) };
    let id = scheduler.submit(ClientId(1), generator.prepare(asked, None).unwrap()).unwrap();
    let mut cached = BTreeMap::new();
    let mut texts = BTreeMap::<usize, String>::new();
    while !scheduler.is_idle() {
        for event in scheduler.step() {
            match event {
                Event::Finished { choice, usage, .. } => drop(cached.insert(choice, usage.cached_tokens)),
                Event::Text { choice, text, .. } => *texts.entry(choice).or_default() += &text,
                Event::Started { id: begun, prompt_tokens, cached_tokens } => {
                    assert_eq!((begun, prompt_tokens, cached_tokens), (id, 40, 0));
                }
                Event::Failed { error, .. } => panic!("{error}"),
            }
        }
    }
    assert_eq!(cached, BTreeMap::from([(0, 0), (1, 32), (2, 32), (3, 32)]));
    assert!(texts[&0] != texts[&1] && texts[&1] != texts[&2], "{texts:?}");
}

#[test]
fn memory_is_free_when_a_request_is_cancelled() {
    let generator = small();
    let mut scheduler = Scheduler::new(generator.clone(), limits(CONTEXT)).unwrap();
    let total = scheduler.load().blocks_total;
    let ask = |scheduler: &mut Scheduler| {
        let prepared = generator.prepare(request(tokens(60, 2), 1, 30), None).unwrap();
        scheduler.submit(ClientId(1), prepared).unwrap()
    };
    let (first, second) = (ask(&mut scheduler), ask(&mut scheduler));
    scheduler.step();
    // There is no room for both.
    assert_eq!((scheduler.load().running, scheduler.load().waiting), (1, 1));
    assert!(scheduler.cancel(first));
    assert_eq!(scheduler.load().blocks_free, total);
    scheduler.step();
    assert_eq!((scheduler.load().running, scheduler.load().waiting), (1, 0));
    assert!(scheduler.cancel(second));
    assert!(scheduler.is_idle() && scheduler.step().is_empty());
}

#[test]
fn a_stop_sequence_ends_an_answer_before_it() {
    let generator = small();
    let run = |stop: Vec<String>| {
        let mut scheduler = Scheduler::new(generator.clone(), limits(CONTEXT)).unwrap();
        let asked = Request { stop, ..request(tokens(10, 4), 11, 60) };
        let prepared = generator.prepare(asked, None).unwrap();
        complete(&mut scheduler, ClientId(1), prepared).unwrap().remove(0)
    };
    let (whole, _) = run(vec![]);
    let (start, stop) =
        whole.char_indices().nth(8).map(|(at, _)| whole.split_at(at)).expect("a longer answer");
    let stop: String = stop.chars().take(3).collect();
    let expected = whole.find(&stop).unwrap_or(start.len());
    assert_eq!(run(vec![stop]), (whole[..expected].into(), FinishReason::Stop));
}

#[test]
fn what_can_never_fit_is_refused_and_what_is_too_much_is_told_so() {
    let generator = small();
    let mut scheduler = Scheduler::new(generator.clone(), Limits { waiting: 2, ..limits(48) }).unwrap();
    let mut submit = |asked: Request| scheduler.submit(ClientId(1), generator.prepare(asked, None).unwrap());
    let error = submit(request(tokens(40, 1), 0, 40)).unwrap_err();
    assert!(error.is_request_fault() && error.to_string().contains("memory holds 48"), "{error}");
    submit(request(tokens(4, 1), 0, 4)).unwrap();
    submit(request(tokens(4, 1), 0, 4)).unwrap();
    let error = submit(request(tokens(4, 1), 0, 4)).unwrap_err();
    assert!(!error.is_request_fault() && error.to_string().contains("try again later"), "{error}");
    assert!(Scheduler::new(generator.clone(), limits(15)).is_err());
}

#[test]
fn requests_out_of_bounds_are_refused_by_field() {
    let generator = small();
    let refused = |change: &dyn Fn(&mut Request)| {
        let mut asked = request(tokens(4, 1), 0, 4);
        change(&mut asked);
        let error = generator.prepare(asked, None).expect_err("a refusal");
        assert!(error.is_request_fault(), "{error}");
        error.to_string()
    };
    let cases: [(&str, &dyn Fn(&mut Request)); 16] = [
        ("choices", &|r| r.choices = usize::MAX),
        ("choices", &|r| r.choices = 0),
        ("logprobs", &|r| r.logprobs = Some(usize::MAX)),
        ("max_tokens", &|r| r.max_tokens = Some(0)),
        ("stop", &|r| r.stop = vec!["x".into(); 17]),
        ("stop[0]", &|r| r.stop = vec![String::new()]),
        ("temperature", &|r| r.sampling.temperature = Some(f32::NAN)),
        ("temperature", &|r| r.sampling.temperature = Some(-0.1)),
        ("top_p", &|r| r.sampling.top_p = Some(0.0)),
        ("min_p", &|r| r.sampling.min_p = Some(f32::INFINITY)),
        ("frequency_penalty", &|r| r.sampling.frequency_penalty = Some(2.5)),
        ("repetition_penalty", &|r| r.sampling.repetition_penalty = Some(0.0)),
        ("logit_bias", &|r| r.sampling.logit_bias = vec![(0, 1e9)]),
        ("token id", &|r| r.sampling.logit_bias = vec![(VOCABULARY as u32, 1.0)]),
        ("token id", &|r| r.prompt = Prompt::Tokens(vec![u32::MAX])),
        ("no tokens", &|r| r.prompt = Prompt::Text(String::new())),
    ];
    for (field, change) in cases {
        let message = refused(change);
        assert!(message.contains(field), "{message:?} does not say {field:?}");
    }
    let message = refused(&|r| r.prompt = tokens(CONTEXT, 1));
    assert!(message.contains("the prompt has 96 tokens, the model takes 96"), "{message}");
    let message = refused(&|r| r.prompt = Prompt::Text("x".repeat(MAX_PROMPT_BYTES + 1)));
    assert!(message.contains("bytes"), "{message}");
}

#[test]
fn hostile_prompts_take_linear_time_and_are_cut_or_refused() {
    let generator = small();
    for piece in ["a", " ", "\n", "\t ", "é", "\u{301}", "<|end|>", "'", "1", "the", "\u{1f642}"] {
        let text = piece.repeat((1 << 17) / piece.len());
        let ids = generator.encode(&text, true).unwrap();
        assert_eq!(generator.decode(&ids), text.replace("<|end|>", ""), "{piece:?}");
    }
}

#[test]
fn conversations_that_the_template_refuses_are_the_requests_fault() {
    let mut folder = Decoder::random(3);
    folder.described["chat_template"] = json!(
        "{% if messages[0].role != 'user' %}{{ raise_exception('a user speaks first') }}{% endif %}{{ messages[0].content }}"
    );
    let generator = Generator::open(folder.write().path()).unwrap();
    let say = |role: &str, content: Json| {
        let message = Json::Object(vec![("role".into(), role.into()), ("content".into(), content)]);
        generator.render(&Chat { messages: vec![message], ..Chat::default() }, None)
    };
    assert_eq!(say("user", "{{ 7 * 7 }} <|end|>".into()).unwrap(), "{{ 7 * 7 }} <|end|>");
    let error = say("system", "x".into()).unwrap_err();
    assert!(error.is_request_fault() && error.to_string().contains("a user speaks first"), "{error}");
    let error = generator.render(&Chat::default(), None).unwrap_err();
    assert!(error.is_request_fault(), "{error}");
    folder.described["chat_template"] =
        json!("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}");
    let generator = Generator::open(folder.write().path()).unwrap();
    assert!(generator.render(&Chat::default(), None).unwrap_err().to_string().contains("fuel"));
    folder.described["chat_template"] = json!("{% for %}");
    let error = Generator::open(folder.write().path()).err().expect("a refusal");
    assert!(error.to_string().contains("chat template"), "{error}");
}

/// The refusal of a spoilt folder.
fn refused(spoil: impl FnOnce(&mut Decoder)) -> String {
    let mut folder = Decoder::random(1);
    spoil(&mut folder);
    let dir = folder.write();
    let opened = Generator::open(dir.path()).err().expect("the engine accepted a folder that it must refuse");
    assert!(!opened.is_request_fault());
    assert_eq!(inspect_generator(dir.path()).expect_err("a refusal").to_string(), opened.to_string());
    opened.to_string()
}

#[test]
fn unsupported_variants_are_refused_by_name() {
    let cases = [
        ("architectures", json!(["DeepseekV3ForCausalLM"]), "architecture `DeepseekV3ForCausalLM`"),
        ("hidden_act", json!("gelu"), "hidden_act `gelu`"),
        ("attention_bias", json!(true), "attention_bias"),
        ("use_sliding_window", json!(true), "use_sliding_window"),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), "rope_type `yarn`"),
        ("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}), "low_freq_factor"),
        ("quantization_config", json!({"quant_method": "gptq"}), "quantization_config `gptq`"),
        ("layer_types", json!(["sliding_attention"]), "layer type `sliding_attention`"),
        ("num_key_value_heads", json!(3), "num_key_value_heads"),
        ("head_dim", json!(5), "head_dim"),
        ("hidden_size", json!(1u64 << 40), "hidden_size"),
        ("num_hidden_layers", json!(0), "num_hidden_layers"),
        ("rms_norm_eps", json!(0.0), "rms_norm_eps"),
        ("eos_token_id", json!(VOCABULARY), "eos_token_id"),
    ];
    for (field, value, said) in cases {
        let message = refused(|folder| folder.config[field] = value);
        assert!(
            message.contains("config.json") && message.contains(said),
            "{message:?} does not say {said:?}"
        );
    }
    let pattern = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]});
    assert!(refused(|f| f.tokenizer["pre_tokenizer"] = pattern).contains("(a+)+$"));
    assert!(refused(|f| f.tokenizer["model"]["type"] = json!("Unigram")).contains("`Unigram`"));
    assert!(refused(|f| f.tokenizer["model"]["merges"] = json!(["t q"])).contains("merge `t q`"));
    assert!(refused(|f| f.tokenizer["model"]["vocab"]["q"] = json!(5)).contains("stands for two texts"));
    assert!(refused(|f| f.tokenizer["model"]["vocab"]["zz"] = json!(5000)).contains("5000"));
    assert!(
        refused(|f| drop(f.tokenizer["model"]["vocab"].as_object_mut().unwrap().remove("q")))
            .contains("byte 0x71")
    );
}

#[test]
fn sizes_that_the_file_does_not_have_are_refused_before_they_are_allocated() {
    let sizes = [
        json!({"num_attention_heads": 1024, "num_key_value_heads": 1024, "head_dim": 1024}),
        json!({"intermediate_size": 1 << 18}),
        json!({"hidden_size": 1 << 16, "vocab_size": 1 << 22, "head_dim": 4}),
        json!({"num_hidden_layers": 256}),
    ];
    for size in sizes {
        let message = refused(|folder| {
            let config = folder.config.as_object_mut().unwrap();
            config.extend(size.as_object().unwrap().clone());
        });
        assert!(message.contains("model.safetensors: tensor"), "{message}");
    }
}

#[test]
fn damaged_weights_are_refused_with_their_place() {
    assert!(
        refused(|f| f.poke("lm_head.weight", 5, f32::NAN)).contains("`lm_head.weight`: element 5 is NaN")
    );
    assert!(refused(|f| drop(f.tensors.remove("model.norm.weight"))).contains("no such tensor"));
    let message = refused(|f| {
        let tensor = f.tensors.remove("model.norm.weight").unwrap();
        f.tensors.insert("model.layers.0.self_attn.q_norm.weight".into(), tensor);
    });
    assert!(message.contains("q_norm"), "{message}");
    assert!(refused(|f| f.tensors.get_mut("lm_head.weight").unwrap().0 = Dtype::I32).contains("found I32"));
    // The word table is looked at as it is used; inspect looks at all of it.
    let mut folder = Decoder::random(1);
    folder.poke("model.embed_tokens.weight", 17 * common::decoder::WIDTH, f32::INFINITY);
    let dir = folder.write();
    let generator = Generator::open(dir.path()).unwrap();
    assert!(inspect_generator(dir.path()).unwrap_err().to_string().contains("element 272 is inf"));
    assert!(generator.logits(&[16]).is_ok() && generator.logits(&[17]).is_err());
}

#[test]
fn a_folder_of_several_files_must_agree_with_its_index() {
    let folder = Decoder::random(2);
    let whole = Generator::open(folder.write().path()).unwrap().logits(&[1, 2, 3]).unwrap();
    let split = |spoil: &dyn Fn(&mut BTreeMap<String, String>)| {
        let dir = folder.write();
        std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
        let mut index = BTreeMap::new();
        for (number, half) in ["a.safetensors", "b.safetensors"].into_iter().enumerate() {
            let mut part = Decoder::random(2);
            let mut place = 0;
            part.tensors.retain(|_, _| {
                place += 1;
                place % 2 == number
            });
            index.extend(part.tensors.keys().map(|name| (name.clone(), half.to_string())));
            std::fs::write(dir.path().join(half), part.weights()).unwrap();
        }
        spoil(&mut index);
        let index = json!({"metadata": {}, "weight_map": index}).to_string();
        std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        Generator::open(dir.path())
            .and_then(|generator| generator.logits(&[1, 2, 3]))
            .map_err(|e| e.to_string())
    };
    assert_eq!(split(&|_| ()).unwrap(), whole);
    let error =
        split(&|index| drop(index.insert("lm_head.weight".into(), "../b.safetensors".into()))).unwrap_err();
    assert!(error.contains("../b.safetensors"), "{error}");
    let error = split(&|index| drop(index.remove("lm_head.weight"))).unwrap_err();
    assert!(error.contains("lm_head.weight"), "{error}");
    let error = split(&|index| drop(index.insert("x".into(), "a.safetensors".into()))).unwrap_err();
    assert!(error.contains("`weight_map` is x"), "{error}");
}

#[test]
fn a_damaged_word_fails_the_request_that_holds_it_and_no_other() {
    let mut folder = Decoder::random(4);
    // Words are read as they are used.
    folder.poke("model.embed_tokens.weight", 40 * common::decoder::WIDTH + 3, f32::NAN);
    let generator = Arc::new(Generator::open(folder.write().path()).unwrap());
    let quiet = Sampling { logit_bias: vec![(40, -100.0)], temperature: Some(0.0), ..Sampling::default() };
    let ask = |prompt: &[u32]| {
        let asked = Request {
            sampling: quiet.clone(),
            max_tokens: Some(20),
            ..Request::new(Prompt::Tokens(prompt.to_vec()))
        };
        generator.prepare(asked, None).unwrap()
    };
    let mut scheduler = Scheduler::new(generator.clone(), limits(4 * CONTEXT)).unwrap();
    let alone = complete(&mut scheduler, ClientId(1), ask(&[1, 2, 3])).unwrap();
    let good = scheduler.submit(ClientId(1), ask(&[1, 2, 3])).unwrap();
    let bad = scheduler.submit(ClientId(2), ask(&[5, 40, 6])).unwrap();
    let (mut text, mut failed) = (String::new(), vec![]);
    while !scheduler.is_idle() {
        for event in scheduler.step() {
            match event {
                Event::Text { id, text: more, .. } if id == good => text += &more,
                Event::Failed { id, error } => {
                    assert!(!error.is_request_fault());
                    failed.push(id);
                }
                Event::Text { id, .. } | Event::Finished { id, .. } => assert_eq!(id, good),
                Event::Started { .. } => {}
            }
        }
    }
    assert_eq!((text, failed), (alone[0].0.clone(), vec![bad]));
}

#[test]
fn known_answers_tell_another_model_or_another_computation() {
    let folder = Decoder::random(5);
    let dir = folder.write();
    let generator = Generator::open(dir.path()).unwrap();
    let check = || generator.check_known_answers(dir.path()).map_err(|e| e.to_string());
    assert!(check().unwrap_err().contains("what the model must compute"));
    let answers = generator.known_answers().unwrap();
    let write = |answers: &engine::KnownAnswers| {
        std::fs::write(dir.path().join(KNOWN_ANSWERS), serde_json::to_string(answers).unwrap()).unwrap();
    };
    write(&answers);
    check().unwrap();
    let mut other = answers.clone();
    other.answers[2].logits[3].1 += 0.01 * other.answers[2].spread;
    write(&other);
    assert!(check().unwrap_err().contains("logit of token"));
    other = answers.clone();
    other.precision = "bf16".into();
    write(&other);
    assert!(check().unwrap_err().contains("bf16"));
    let mut changed = Decoder::random(5);
    changed.poke("model.layers.1.mlp.down_proj.weight", 3, 2.0);
    write(&Generator::open(changed.write().path()).unwrap().known_answers().unwrap());
    assert!(check().is_err());
}

const FILES: [&str; 5] =
    ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"];

/// Opens and uses a folder in which one file holds other bytes; whatever happens, it may not panic.
fn survive(name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let dir = Decoder::random(5).write();
    let path = dir.path().join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    let _ = engine::kind(dir.path());
    let Ok(generator) = Generator::open(dir.path()).map(Arc::new) else { return };
    let message = Json::Object(vec![("role".into(), "user".into()), ("content".into(), "the zebra".into())]);
    let chat = Prompt::Chat(Chat { messages: vec![message], ..Chat::default() });
    let limits = Limits { kv_bytes: 1 << 20, sequences: 2, ..Limits::default() };
    let (Ok(prepared), Ok(mut scheduler)) =
        (generator.prepare(request(chat, 1, 3), None), Scheduler::new(generator.clone(), limits))
    else {
        return;
    };
    let _ = complete(&mut scheduler, ClientId(1), prepared);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn spoilt_folders_never_panic(
        name in prop::sample::select(&FILES[..]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        survive(name, |file| spoil::spoil(file, &edits, cut));
    }

    #[test]
    fn spoilt_numbers_never_panic(
        name in prop::sample::select(&FILES[..4]),
        which in any::<prop::sample::Index>(),
        number in prop::sample::select(&["0", "-1", "3", "7", "999999999", "18446744073709551615", "1e300", "null", "\"x\"", "[]"][..]),
    ) {
        survive(name, |file| spoil::renumber(file, which, number));
    }

    #[test]
    fn every_text_comes_back(text in any::<String>()) {
        let generator = small();
        let ids = generator.encode(&text, false).unwrap();
        prop_assert_eq!(generator.decode(&ids), text.replace("<|end|>", ""));
    }
}
