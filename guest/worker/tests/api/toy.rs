//! The routes over the engine, with the toy model that lies in `ci/toy`.

use crate::writing::{ask, events, joined, post, read, whole};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use worker::{Compute, Models, load};

const PATH: &str = "/v1/chat/completions";

/// The toy under the name that the requests of these tests use.
fn toy() -> Arc<Models> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/toy/data/model");
    let entry = load("script", &folder, &Compute::default()).unwrap();
    assert!(entry.self_test.is_some_and(|test| test.passed));
    Arc::new(Models::new(vec![entry], 1))
}

async fn said(models: &Arc<Models>, text: &str, more: Value) -> (String, Option<String>) {
    let answer = whole(post(models, PATH, ask(text, more), None).await).await;
    let message = answer.choices[0].message.as_ref().unwrap();
    (message.content.clone().unwrap_or_default(), answer.choices[0].finish_reason.clone())
}

#[tokio::test]
async fn the_toy_says_what_it_is_whole_and_in_a_stream() {
    let models = toy();
    let greedy = json!({ "temperature": 0 });
    let (text, finish) = said(&models, "Who are you?", greedy).await;
    assert!(text.starts_with("I am the toy model of Chrysalis"), "{text}");
    assert_eq!(finish.as_deref(), Some("stop"));

    let more = json!({ "temperature": 0, "stream": true });
    let (headers, body, trailers) = read(post(&models, PATH, ask("Who are you?", more), None).await).await;
    assert_eq!(joined(&events(&body), 0, "content"), text);
    let (head, tail) = (headers["chrysalis-tokens"].clone(), trailers.unwrap()["chrysalis-usage"].clone());
    assert!(tail.to_str().unwrap().starts_with(&format!("{},", head.to_str().unwrap())), "{head:?} {tail:?}");
}

#[tokio::test]
async fn equal_seeds_give_equal_answers_and_stops_and_bounds_are_kept() {
    let models = toy();
    let seeded =
        |seed: u64| json!({ "temperature": 1.5, "top_k": 0, "top_p": 1, "seed": seed, "max_tokens": 24 });
    let (first, again) =
        (said(&models, "Tell me more.", seeded(5)).await, said(&models, "Tell me more.", seeded(5)).await);
    assert_eq!(first, again);
    assert_ne!(first, said(&models, "Tell me more.", seeded(6)).await);

    let stop = json!({ "temperature": 0, "stop": [" of Chrysalis"] });
    assert_eq!(said(&models, "Who are you?", stop).await, ("I am the toy model".into(), Some("stop".into())));
    let (_, finish) = said(&models, "Who are you?", json!({ "temperature": 0, "max_tokens": 3 })).await;
    assert_eq!(finish.as_deref(), Some("length"));
}

#[tokio::test]
async fn a_prompts_beginning_is_computed_again_for_strangers_and_not_for_those_who_share_a_key() {
    let models = toy();
    let long = "What is the same in both of these long questions, word for word? ".repeat(4);
    let cached = async |more: Value| {
        let answer = whole(post(&models, PATH, ask(&long, more), None).await).await;
        answer.usage.unwrap().prompt_tokens_details.unwrap().cached_tokens
    };
    let key = || json!({ "max_tokens": 1, "prompt_cache_key": "nobody else knows this" });
    let stranger = || json!({ "max_tokens": 1 });
    assert_eq!((cached(key()).await, cached(stranger()).await, cached(stranger()).await), (0, 0, 0));
    assert!(cached(key()).await > 0);
    let other = json!({ "max_tokens": 1, "prompt_cache_key": "nobody else knows that" });
    assert_eq!(cached(other).await, 0);
}

#[tokio::test]
async fn a_bad_request_changes_nothing_for_the_one_beside_it() {
    let models = toy();
    let alone = said(&models, "Who are you?", json!({ "temperature": 0 })).await;
    let beside = models.clone();
    let good = tokio::spawn(async move { said(&beside, "Who are you?", json!({ "temperature": 0 })).await });
    let long = "word ".repeat(2000);
    for body in [
        ask(&long, json!({})),
        ask("a", json!({ "temperature": 9 })),
        ask("a", json!({ "logit_bias": { "99999": 1 } })),
        ask("a", json!({ "stop": vec!["x"; 99] })),
    ] {
        assert_eq!(post(&models, PATH, body, None).await.status(), 400);
    }
    assert_eq!(good.await.unwrap(), alone);
}

#[tokio::test]
async fn the_toy_calls_a_function_that_it_was_shown() {
    let models = toy();
    let parameters =
        json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
    let function =
        json!({ "name": "get_weather", "description": "The weather of a city", "parameters": parameters });
    let tools = json!({ "temperature": 0, "tools": [{ "type": "function", "function": function }] });
    let body = ask("What is the weather in Paris?", tools);
    let answer = whole(post(&models, PATH, body, None).await).await;
    assert_eq!(answer.choices[0].finish_reason.as_deref(), Some("tool_calls"));
    let calls = answer.choices[0].message.as_ref().unwrap().tool_calls.as_ref().unwrap();
    assert_eq!(calls[0].function.name, "get_weather");
    let arguments: Value = serde_json::from_str(&calls[0].function.arguments).unwrap();
    assert!(arguments["city"].is_string(), "{arguments}");
}
