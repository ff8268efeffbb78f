//! Small random decoders of every family against transformers, computed by ci/reference/causal.py in the same run.

use engine::{
    Chat, ClientId, Event, FinishReason, Generator, Json, KvPrecision, Limits, Options, Prompt, Request,
    RequestId, Sampling, Scheduler, Sharing, Time, Usage, complete,
};
use proptest::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// What causal.py writes beside each model.
#[derive(Deserialize)]
struct Expected {
    prompts: Vec<Vec<u32>>,
    logits: Vec<Vec<f32>>,
    answers: Vec<Vec<u32>>,
    texts: Vec<String>,
    strings: Vec<String>,
    plain: Vec<Vec<u32>>,
    framed: Vec<Vec<u32>>,
    decoded: Vec<String>,
    chats: Vec<Conversation>,
    rendered: Vec<Option<String>>,
}

#[derive(Deserialize)]
struct Conversation {
    messages: Vec<Json>,
    #[serde(default)]
    tools: Vec<Json>,
    #[serde(default)]
    variables: BTreeMap<String, Json>,
}

const MODELS: [&str; 3] = ["qwen3-f32", "llama-bf16", "llama-f16"];
/// Largest difference of a logit; the logits' own spread is about 10.
const TOLERANCE: f32 = 2e-3;
/// The same with keys and values in half precision: each moves by up to a 2048th, and so do scores, which are large with
/// random weights.
const HALVED: f32 = 0.03;
const TOKENS: usize = 40;

fn folder(name: &str) -> PathBuf {
    let Some(path) = std::env::var_os("CHRYSALIS_REFERENCE_DECODERS").map(PathBuf::from) else {
        panic!(
            "CHRYSALIS_REFERENCE_DECODERS is not set: it names the folder that ci/reference/causal.py wrote; run \
             `cargo xtask test`, which computes it, or follow ci/reference/README.md"
        );
    };
    path.join(name)
}

/// With keys and values in single precision, as transformers has them here.
fn open(name: &str) -> (Arc<Generator>, Expected) {
    open_with(name, KvPrecision::F32)
}

fn open_with(name: &str, kv: KvPrecision) -> (Arc<Generator>, Expected) {
    let folder = folder(name);
    let text = std::fs::read_to_string(folder.join("expected.json")).expect("what causal.py wrote");
    let options = Options { kv_precision: Some(kv), ..Options::default() };
    let generator = Generator::open_with(&folder, options).unwrap_or_else(|error| panic!("{name}: {error}"));
    (Arc::new(generator), serde_json::from_str(&text).expect("causal.py's JSON"))
}

fn greedy(tokens: &[u32]) -> Request {
    Request {
        sampling: Sampling { temperature: Some(0.0), ..Sampling::default() },
        max_tokens: Some(TOKENS),
        ..Request::new(Prompt::Tokens(tokens.to_vec()))
    }
}

fn scheduler(generator: &Arc<Generator>, chunk: usize, sharing: Sharing) -> Scheduler {
    let limits = Limits { prefill_chunk: chunk, sharing, kv_bytes: 4 << 20, ..Limits::default() };
    Scheduler::new(generator.clone(), limits).unwrap()
}

/// Steps until nothing is left: text, reason and usage of each request's first choice.
fn run(scheduler: &mut Scheduler, ids: &[RequestId]) -> Vec<(String, Option<FinishReason>, Usage)> {
    let mut out = vec![(String::new(), None, Usage::default()); ids.len()];
    while !scheduler.is_idle() {
        for event in scheduler.step() {
            let place = |id| ids.iter().position(|known| *known == id).expect("a request of this test");
            match event {
                Event::Text { id, text, .. } => out[place(id)].0 += &text,
                Event::Finished { id, reason, usage, .. } => {
                    let answer = &mut out[place(id)];
                    (answer.1, answer.2) = (Some(reason), usage);
                }
                Event::Started { id, .. } => assert_eq!(out[place(id)].1, None),
                Event::Failed { error, .. } => panic!("{error}"),
            }
        }
    }
    out
}

#[test]
fn logits_equal_those_of_transformers() {
    for name in MODELS {
        let (generator, expected) = open(name);
        let (mut worst, mut spread) = (0.0f32, 0.0f32);
        for (prompt, theirs) in expected.prompts.iter().zip(&expected.logits) {
            let ours = generator.logits(prompt).unwrap();
            assert_eq!(ours.len(), theirs.len());
            let most = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(most <= TOLERANCE, "{name}: {most} behind {} tokens", prompt.len());
            worst = worst.max(most);
            spread = spread.max(theirs.iter().fold(0.0, |most, logit| most.max(logit.abs())));
        }
        println!("{name}: largest difference of a logit {worst:.1e}, largest logit {spread:.1}");
    }
}

#[test]
fn logits_with_keys_in_half_precision_are_near_those_of_transformers() {
    for name in MODELS {
        let (generator, expected) = open_with(name, KvPrecision::F16);
        let mut worst = 0.0f32;
        for (prompt, theirs) in expected.prompts.iter().zip(&expected.logits) {
            let ours = generator.logits(prompt).unwrap();
            let most = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(most <= HALVED, "{name}: {most} behind {} tokens", prompt.len());
            worst = worst.max(most);
        }
        println!("{name}, keys and values in half precision: largest difference of a logit {worst:.1e}");
    }
}

#[test]
fn greedy_answers_equal_those_of_transformers_alone_and_together() {
    for name in MODELS {
        let (generator, expected) = open(name);
        for (prompt, text) in expected.prompts.iter().zip(&expected.texts) {
            let mut alone = scheduler(&generator, 1000, Sharing::Request);
            let prepared = generator.prepare(greedy(prompt), None).unwrap();
            assert_eq!(complete(&mut alone, ClientId(1), prepared).unwrap()[0].0, *text, "{name}, alone");
        }
        for chunk in [1, 7, 64] {
            let mut together = scheduler(&generator, chunk, Sharing::Request);
            let submit = |(i, prompt): (usize, &Vec<u32>)| {
                let prepared = generator.prepare(greedy(prompt), None).unwrap();
                together.submit(ClientId(i as u64 % 2), prepared).unwrap()
            };
            let ids: Vec<RequestId> = expected.prompts.iter().enumerate().map(submit).collect();
            for (answer, (text, tokens)) in
                run(&mut together, &ids).into_iter().zip(expected.texts.iter().zip(&expected.answers))
            {
                assert_eq!(answer.0, *text, "{name}, {chunk} tokens a step");
                assert_eq!(answer.2.completion_tokens, tokens.len());
                assert_eq!(answer.1 == Some(FinishReason::Stop), tokens.len() < TOKENS);
            }
            assert_eq!(together.load().blocks_free, together.load().blocks_total);
        }
    }
}

#[test]
fn a_beginning_used_again_changes_no_answer_and_stays_with_its_client() {
    for name in MODELS {
        let (generator, expected) = open(name);
        let mut scheduler = scheduler(&generator, 64, Sharing::Client);
        for (index, cached) in [(7, 48), (8, 96)] {
            let mut ask = |client| {
                let prepared = generator.prepare(greedy(&expected.prompts[index]), None).unwrap();
                let id = scheduler.submit(ClientId(client), prepared).unwrap();
                run(&mut scheduler, &[id]).remove(0)
            };
            for (client, found) in [(1, 0), (1, cached), (2, 0), (1, cached)] {
                let (text, _, usage) = ask(client);
                assert_eq!((text, usage.cached_tokens), (expected.texts[index].clone(), found), "{name}");
            }
        }
    }
}

#[test]
fn logprobs_are_those_of_the_logits() {
    for name in MODELS {
        let (generator, expected) = open(name);
        let mut scheduler = scheduler(&generator, 5, Sharing::Request);
        for (prompt, logits) in expected.prompts.iter().zip(&expected.logits) {
            let request = Request { logprobs: Some(3), max_tokens: Some(1), ..greedy(prompt) };
            scheduler.submit(ClientId(0), generator.prepare(request, None).unwrap()).unwrap();
            let mut tokens = vec![];
            while !scheduler.is_idle() {
                let events = scheduler.step().into_iter();
                tokens.extend(events.filter_map(|event| match event {
                    Event::Text { tokens, .. } => Some(tokens),
                    _ => None,
                }));
            }
            let most = logits.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
            let Some([token]) = tokens.first().map(Vec::as_slice) else { continue };
            let theirs = |id: u32| f64::from(logits[id as usize] - most) - sum.ln();
            assert!((f64::from(token.logprob) - theirs(token.id)).abs() < 5e-3, "{name}");
            assert_eq!((token.top.len(), token.top[0].0), (3, token.id));
            for (id, _, logprob) in &token.top {
                assert!((f64::from(*logprob) - theirs(*id)).abs() < 5e-3, "{name}");
            }
        }
    }
}

#[test]
fn hard_strings_are_cut_as_transformers_cuts_them() {
    for name in MODELS {
        let (generator, expected) = open(name);
        for (index, text) in expected.strings.iter().enumerate() {
            assert_eq!(generator.encode(text, false).unwrap(), expected.plain[index], "{name}: {text:?}");
            let framed = generator.encode(text, true).unwrap();
            assert_eq!(framed, expected.framed[index], "{name}: {text:?}");
            assert_eq!(generator.decode(&framed), expected.decoded[index], "{name}: {text:?}");
        }
    }
}

#[test]
fn conversations_are_laid_out_as_transformers_lays_them_out() {
    for name in MODELS {
        let (generator, expected) = open(name);
        for (chat, rendered) in expected.chats.into_iter().zip(expected.rendered) {
            let variables = chat.variables.into_iter().collect();
            let chat = Chat { messages: chat.messages, tools: chat.tools, variables };
            match (generator.render(&chat, Some(Time(1_700_000_000))), rendered) {
                (Ok(ours), Some(theirs)) => assert_eq!(ours, theirs, "{name}"),
                (Err(error), None) => assert!(error.is_request_fault(), "{name}: {error}"),
                (ours, theirs) => panic!("{name}: {ours:?}, expected {theirs:?}"),
            }
        }
    }
}

#[test]
fn the_projects_own_model_answers() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../ci/toy/data/model");
    let facts = engine::inspect_generator(&folder).unwrap();
    assert!(facts.chat && facts.parameters > 100_000);
    let generator = Arc::new(Generator::open(&folder).unwrap());
    let message =
        Json::Object(vec![("role".into(), "user".into()), ("content".into(), "What is measured?".into())]);
    let prompt = Prompt::Chat(Chat { messages: vec![message], ..Chat::default() });
    let request = Request { prompt, max_tokens: Some(12), ..greedy(&[]) };
    let prepared = generator.prepare(request, None).unwrap();
    let answer = complete(&mut scheduler(&generator, 64, Sharing::Client), ClientId(1), prepared).unwrap();
    assert!(answer[0].0.chars().any(char::is_alphabetic), "{answer:?}");
}

/// The three tokenizers beside the library's own reading of the same files.
fn tokenizers() -> &'static [(Arc<Generator>, tokenizers::Tokenizer)] {
    static BOTH: OnceLock<Vec<(Arc<Generator>, tokenizers::Tokenizer)>> = OnceLock::new();
    BOTH.get_or_init(|| {
        let load = |name: &str| {
            let theirs = tokenizers::Tokenizer::from_file(folder(name).join("tokenizer.json")).unwrap();
            (open(name).0, theirs)
        };
        MODELS[..2].iter().map(|name| load(name)).collect()
    })
}

proptest! {
    #[test]
    fn any_text_is_cut_as_the_library_cuts_it(
        text in prop_oneof![
            any::<String>(),
            "[ \\t\\r\\na-cS'0-9½\u{a0}\u{3000}é\u{301}ſ中🙂!?.<|>]{0,60}",
            prop::collection::vec(prop::sample::select(&["<|end|>", "<|begin|>", "<think>", "<|en", " ", "\n", "x", "e\u{301}"][..]), 0..12)
                .prop_map(|parts| parts.concat()),
        ],
    ) {
        for (ours, theirs) in tokenizers() {
            for framed in [false, true] {
                let expected = theirs.encode(text.as_str(), framed).unwrap();
                prop_assert_eq!(ours.encode(&text, framed).unwrap(), expected.get_ids());
                let decoded = theirs.decode(expected.get_ids(), true).unwrap();
                prop_assert_eq!(ours.decode(expected.get_ids()), decoded);
            }
        }
    }
}
