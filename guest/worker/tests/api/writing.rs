//! `/v1/chat/completions` and `/v1/completions`.

use crate::script::{PLACES, Seen, desk};
use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use protocol::market::{CountReader, Hex32, Usage, Written};
use protocol::openai::ErrorBody;
use protocol::openai::chat::{ChatCompletion, Completion};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use worker::{Entry, Models, router};

fn scripted() -> (Arc<Models>, Arc<Seen>) {
    let (desk, seen) = desk();
    let entry = Entry { root: Some(Hex32([0xab; 32])), ..Entry::writer("script", desk) };
    (Arc::new(Models::new(vec![entry], 1)), seen)
}

pub async fn post(models: &Arc<Models>, path: &str, body: Value, most: Option<&str>) -> Response<Body> {
    let mut request = Request::builder().method("POST").uri(path);
    if let Some(most) = most {
        request = request.header("chrysalis-most", most);
    }
    let request = request.body(Body::from(body.to_string())).unwrap();
    TowerToHyperService::new(router(models.clone())).call(request).await.unwrap()
}

pub fn ask(text: &str, more: Value) -> Value {
    let mut body = json!({ "model": "script", "messages": [{ "role": "user", "content": text }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn chat(models: &Arc<Models>, text: &str, more: Value) -> Response<Body> {
    post(models, "/v1/chat/completions", ask(text, more), None).await
}

pub async fn read(response: Response<Body>) -> (HeaderMap, String, Option<HeaderMap>) {
    let headers = response.headers().clone();
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned();
    (headers, String::from_utf8(body.to_bytes().to_vec()).unwrap(), trailers)
}

pub async fn whole(response: Response<Body>) -> ChatCompletion {
    assert_eq!(response.status(), StatusCode::OK);
    serde_json::from_str(&read(response).await.1).unwrap()
}

async fn refused(response: Response<Body>, status: u16, code: &str) -> ErrorBody {
    assert_eq!(response.status().as_u16(), status);
    let body: ErrorBody = serde_json::from_str(&read(response).await.1).unwrap();
    assert_eq!(body.error.code.as_deref(), Some(code), "{}", body.error.message);
    assert!(!body.error.message.contains("must not be seen"), "{}", body.error.message);
    body
}

/// The events of a stream without the last, which must be `[DONE]`.
pub fn events(text: &str) -> Vec<Value> {
    let mut data: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data.pop(), Some("[DONE]"));
    data.into_iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// What the deltas of one choice amount to.
pub fn joined(events: &[Value], choice: u64, field: &str) -> String {
    let choices = events.iter().flat_map(|event| event["choices"].as_array().unwrap());
    let own = choices.filter(|found| found["index"] == choice);
    own.filter_map(|found| found["delta"][field].as_str()).collect()
}

#[tokio::test]
async fn an_answer_comes_as_a_whole_with_its_count_before_and_after() {
    let (models, _) = scripted();
    let (headers, body, trailers) = read(chat(&models, "one two three four", json!({})).await).await;
    let answer: ChatCompletion = serde_json::from_str(&body).unwrap();
    let message = answer.choices[0].message.as_ref().unwrap();
    assert_eq!(message.content.as_deref(), Some("one two three four"));
    assert_eq!(message.role.as_deref(), Some("assistant"));
    assert_eq!(answer.choices[0].finish_reason.as_deref(), Some("stop"));
    assert_eq!((answer.object.as_str(), answer.model.as_str()), ("chat.completion", "script"));
    let usage = answer.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (4, Some(6), 10));
    assert_eq!(usage.prompt_tokens_details.unwrap().cached_tokens, 2);
    assert_eq!(headers["chrysalis-tokens"], "2,2");
    assert!(headers.contains_key("chrysalis-load"));
    assert_eq!(trailers.unwrap()["chrysalis-usage"], "2,2,6,0");
}

#[tokio::test]
async fn a_stream_says_the_same_and_its_comments_count_what_went_before() {
    let (models, _) = scripted();
    let text = "äöü one two three";
    let more = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let (headers, body, trailers) = read(chat(&models, text, more).await).await;
    assert_eq!(headers["content-type"], "text/event-stream; charset=utf-8");
    let events = events(&body);
    assert_eq!(joined(&events, 0, "content"), text);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(events[0]["object"], "chat.completion.chunk");
    let last = &events[events.len() - 1];
    assert_eq!(
        (last["choices"].as_array().unwrap().len(), &last["usage"]["completion_tokens"]),
        (0, &json!(6))
    );
    assert_eq!(events[events.len() - 2]["choices"][0]["finish_reason"], "stop");
    let mut counts = CountReader::default();
    counts.pass(body.as_bytes());
    assert!(!counts.is_wrong());
    assert_eq!(counts.last(), Some(Written { completion: 6, reasoning: 0 }));
    assert_eq!(trailers.unwrap()["chrysalis-usage"], "2,2,6,0");

    let (_, body, _) = read(chat(&models, text, json!({ "stream": true })).await).await;
    assert!(!body.contains("usage"), "{body}");
}

const CALLING: &str = "<think>hm</think>\n\nWait <tool_call>{\"name\": \"f\", \"arguments\": {\"z\": \"ä\", \"a\": 1}}</tool_call>";

#[tokio::test]
async fn reasoning_and_calls_are_told_apart_from_text() {
    let (models, _) = scripted();
    let tools = json!({ "tools": [{ "type": "function", "function": { "name": "f" } }] });
    let (_, body, trailers) = read(chat(&models, CALLING, tools.clone()).await).await;
    let answer: ChatCompletion = serde_json::from_str(&body).unwrap();
    let message = answer.choices[0].message.as_ref().unwrap();
    assert_eq!(message.reasoning_content.as_deref(), Some("hm"));
    assert_eq!(message.content.as_deref(), Some("Wait "));
    let calls = message.tool_calls.as_ref().unwrap();
    assert_eq!((calls[0].kind.as_str(), calls[0].function.name.as_str()), ("function", "f"));
    assert_eq!(calls[0].function.arguments, r#"{"z":"ä","a":1}"#);
    assert_eq!(answer.choices[0].finish_reason.as_deref(), Some("tool_calls"));
    let usage: Usage = trailers.unwrap()["chrysalis-usage"].to_str().unwrap().parse().unwrap();
    assert_eq!(usage.reasoning, 1);

    let mut more = tools;
    more["stream"] = json!(true);
    let (_, body, _) = read(chat(&models, CALLING, more).await).await;
    let events = events(&body);
    assert_eq!(joined(&events, 0, "reasoning_content"), "hm");
    assert_eq!(joined(&events, 0, "content"), "Wait ");
    let calls: Vec<_> =
        events.iter().filter_map(|e| e["choices"][0]["delta"]["tool_calls"].as_array()).collect();
    assert_eq!(calls.len(), 1);
    assert_eq!((&calls[0][0]["index"], &calls[0][0]["function"]["name"]), (&json!(0), &json!("f")));
}

#[tokio::test]
async fn several_answers_are_told_apart_and_the_prompt_counts_once() {
    let (models, _) = scripted();
    let answer = whole(chat(&models, "one two", json!({ "n": 3 })).await).await;
    let texts: Vec<_> =
        answer.choices.iter().map(|c| c.message.as_ref().unwrap().content.as_deref()).collect();
    assert_eq!(texts, [Some("one two"); 3]);
    let usage = answer.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (2, Some(9)));
    let (_, body, _) = read(chat(&models, "one two", json!({ "n": 2, "stream": true })).await).await;
    let events = events(&body);
    assert_eq!(
        (joined(&events, 0, "content"), joined(&events, 1, "content")),
        ("one two".into(), "one two".into())
    );
}

#[tokio::test]
async fn plain_completions_have_their_own_shape() {
    let (models, _) = scripted();
    let body = json!({ "model": "script", "prompt": "one two", "logprobs": 1 });
    let response = post(&models, "/v1/completions", body, None).await;
    let answer: Completion = serde_json::from_str(&read(response).await.1).unwrap();
    assert_eq!((answer.object.as_str(), answer.choices[0].text.as_str()), ("text_completion", "one two"));
    let logprobs = answer.choices[0].logprobs.as_ref().unwrap();
    assert_eq!((logprobs.tokens.concat().as_str(), &logprobs.text_offset[..]), ("one two", &[0, 3, 6][..]));
    assert_eq!(logprobs.top_logprobs[0].values().collect::<Vec<_>>(), [&-9999.0]);

    let tokens = json!({ "model": "script", "prompt": [1, 2, 3], "stream": true });
    let (_, body, _) = read(post(&models, "/v1/completions", tokens, None).await).await;
    let text: String = events(&body).iter().filter_map(|e| e["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "3 tokens");
}

#[tokio::test]
async fn log_probabilities_are_told_for_every_token() {
    let (models, _) = scripted();
    let answer = whole(chat(&models, "one two", json!({ "logprobs": true, "top_logprobs": 2 })).await).await;
    let tokens = &answer.choices[0].logprobs.as_ref().unwrap().content;
    assert_eq!(tokens.iter().map(|t| t.token.as_str()).collect::<String>(), "one two");
    assert_eq!((tokens[0].logprob, tokens[0].bytes.as_slice()), (-0.5, b"one".as_slice()));
    assert_eq!(tokens[0].top_logprobs.as_ref().unwrap().len(), 2);
    assert!(whole(chat(&models, "one", json!({})).await).await.choices[0].logprobs.is_none());
}

#[tokio::test]
async fn wrong_requests_are_refused_in_openais_form() {
    let (models, _) = scripted();
    let cases = [
        (ask("a", json!({ "model": "other" })), 404, "model_not_found"),
        (ask("a", json!({ "messages": [] })), 400, "empty_messages"),
        (ask("a", json!({ "messages": [{ "role": "robot", "content": "a" }] })), 400, "invalid_message"),
        (ask("a", json!({ "messages": [{ "role": "user" }] })), 400, "invalid_message"),
        (ask("a", json!({ "messages": ["a"] })), 400, "invalid_message"),
        (ask("a", json!({ "messages": "a" })), 400, "invalid_json"),
        (ask("a", json!({ "n": 1_000_000 })), 400, "unsupported_value"),
        (ask("a", json!({ "n": 0 })), 400, "unsupported_value"),
        (ask("a", json!({ "logprobs": true, "top_logprobs": 10_000 })), 400, "unsupported_value"),
        (ask("a", json!({ "top_logprobs": 1 })), 400, "unsupported_value"),
        (ask("a", json!({ "max_tokens": 0 })), 400, "unsupported_value"),
        (ask("a", json!({ "logit_bias": { "x": 1 } })), 400, "unsupported_value"),
        (ask("a", json!({ "response_format": { "type": "json_object" } })), 400, "unsupported_parameter"),
        (ask("refuse", json!({})), 400, "invalid_input"),
        (ask("long", json!({})), 400, "context_length_exceeded"),
        (ask("fail", json!({})), 500, "model_failed"),
        (ask("panic early", json!({})), 500, "model_failed"),
        (ask("fail later", json!({})), 500, "model_failed"),
    ];
    for (body, status, code) in cases {
        refused(post(&models, "/v1/chat/completions", body, None).await, status, code).await;
    }
    for (body, code) in [
        (json!({ "model": "script", "prompt": ["a", "b"] }), "invalid_input_count"),
        (json!({ "model": "script", "prompt": "a", "echo": true }), "unsupported_parameter"),
        (json!({ "model": "script", "prompt": "a", "logprobs": 6 }), "unsupported_value"),
        (json!({ "model": "script", "prompt": "a", "best_of": 2 }), "unsupported_parameter"),
    ] {
        refused(post(&models, "/v1/completions", body, None).await, 400, code).await;
    }
    let body = json!({ "model": "script", "input": "a" });
    refused(post(&models, "/v1/embeddings", body, None).await, 400, "unsupported_model").await;
}

#[tokio::test]
async fn bytes_that_are_no_text_are_refused_and_never_followed() {
    let (models, seen) = scripted();
    let head = br#"{"model":"script","messages":[{"role":"user","content":"#;
    let deep = vec![b'['; 100_000];
    for tail in [&b"\"\xff\xfe\"}]}"[..], b"\"\xed\xa0\x80\"}]}", b"\"a", b"\"\\ud800\"}]}", &deep[..], b""] {
        let body = Body::from([&head[..], tail].concat());
        let request = Request::post("/v1/chat/completions").body(body).unwrap();
        let response = TowerToHyperService::new(router(models.clone())).call(request).await.unwrap();
        refused(response, 400, "invalid_json").await;
    }
    assert!(seen.clients.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_name_with_the_root_of_its_disk_is_served_and_with_another_not() {
    let (models, _) = scripted();
    let named = |root: String| ask("a", json!({ "model": format!("script@{root}") }));
    let path = "/v1/chat/completions";
    assert_eq!(post(&models, path, named("ab".repeat(32)), None).await.status(), StatusCode::OK);
    for root in ["ac".repeat(32), "AB".repeat(32), String::new(), "@".into()] {
        refused(post(&models, path, named(root), None).await, 404, "model_not_found").await;
    }
}

#[tokio::test]
async fn nothing_is_computed_beyond_what_is_paid_for() {
    let (models, seen) = scripted();
    let send = |body: Value, most: &'static str| post(&models, "/v1/chat/completions", body, Some(most));
    refused(send(ask("one two three", json!({})), "2,9").await, 400, "prompt_over_limit").await;
    refused(send(ask("one", json!({ "n": 3 })), "2,2").await, 400, "completion_over_limit").await;
    refused(send(ask("one", json!({})), "1;2").await, 400, "invalid_header").await;
    assert!(seen.clients.lock().unwrap().is_empty());

    let answer = whole(send(ask("one two three", json!({ "max_tokens": 50 })), "3,2").await).await;
    assert_eq!(answer.choices[0].message.as_ref().unwrap().content.as_deref(), Some("one tw"));
    assert_eq!(answer.choices[0].finish_reason.as_deref(), Some("length"));
}

/// Waits for something that another thread does.
async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_is_forgotten_at_once() {
    let (models, seen) = scripted();
    for (count, stream) in [(1, true), (2, false)] {
        let request = chat(&models, "forever", json!({ "stream": stream }));
        if stream {
            let mut body = request.await.into_body();
            assert!(body.frame().await.unwrap().unwrap().is_data());
            drop(body);
        } else {
            let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), request);
            assert!(waiting.await.is_err());
        }
        until(|| seen.cancelled.load(Ordering::SeqCst) == count).await;
    }
    until(|| models.load().running == 0).await;
}

#[tokio::test]
async fn a_failure_in_a_stream_is_an_event_without_an_end() {
    let (models, _) = scripted();
    let (_, body, trailers) = read(chat(&models, "fail later", json!({ "stream": true })).await).await;
    let last = body.lines().rfind(|line| line.starts_with("data: ")).unwrap();
    let error: ErrorBody = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error.error.code.as_deref(), Some("model_failed"));
    assert!(!body.contains("[DONE]"), "{body}");
    assert_eq!(trailers, None);
}

#[tokio::test]
async fn a_panic_of_the_model_ends_what_ran_and_later_requests_are_served() {
    let (models, _) = scripted();
    let error = refused(chat(&models, "panic", json!({})).await, 500, "model_failed").await;
    assert!(error.error.message.contains("without an answer"), "{}", error.error.message);
    let answer = whole(chat(&models, "after", json!({})).await).await;
    assert_eq!(answer.choices[0].message.as_ref().unwrap().content.as_deref(), Some("after"));
}

#[tokio::test]
async fn a_full_queue_is_503_and_says_when_to_come_back() {
    let (models, seen) = scripted();
    seen.held.store(true, Ordering::SeqCst);
    let others = models.clone();
    let waiting: Vec<_> = (0..PLACES)
        .map(|_| {
            let models = others.clone();
            tokio::spawn(async move { chat(&models, "one", json!({})).await.status() })
        })
        .collect();
    until(|| models.load().running as usize == PLACES).await;
    let response = chat(&models, "one", json!({})).await;
    assert_eq!(response.headers()["retry-after"], "1");
    refused(response, 503, "overloaded").await;
    seen.held.store(false, Ordering::SeqCst);
    for status in waiting {
        assert_eq!(status.await.unwrap(), StatusCode::OK);
    }
}

#[tokio::test]
async fn only_requests_that_know_the_same_key_are_one_client() {
    let (models, seen) = scripted();
    let key = json!({ "prompt_cache_key": "a key that is long enough" });
    for more in
        [json!({}), json!({}), json!({ "prompt_cache_key": "short" }), json!({ "prompt_cache_key": "short" })]
    {
        whole(chat(&models, "a", more).await).await;
    }
    whole(chat(&models, "a", key.clone()).await).await;
    whole(chat(&models, "a", key).await).await;
    let clients = seen.clients.lock().unwrap().clone();
    let different: std::collections::BTreeSet<_> = clients.iter().collect();
    assert_eq!((clients.len(), different.len()), (6, 5));
    assert_eq!(clients[4], clients[5]);
}
