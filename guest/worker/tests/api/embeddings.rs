//! `/v1/embeddings`, with a model that counts letters.

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use base64::Engine as _;
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use protocol::openai::{EmbeddingResponse, EmbeddingVector, ErrorBody, ModelList};
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use worker::{Embed, EmbedError, Embedded, Entry, MAX_BODY, MAX_INPUTS, Models, router};

/// Vector of a text: its length and a half. Refuses `too long`, fails at `broken`, panics at `panic`.
pub struct Letters;

impl Embed for Letters {
    fn context(&self) -> usize {
        8
    }

    fn embed(&self, texts: &[String]) -> Result<Embedded, EmbedError> {
        for (index, text) in texts.iter().enumerate() {
            match text.as_str() {
                "too long" => return Err(EmbedError::Request(format!("input[{index}]: too many tokens"))),
                "broken" => return Err(EmbedError::Model("weights overflow".into())),
                "panic" => panic!("a text that must not be seen: {text}"),
                _ => {}
            }
        }
        let vectors = texts.iter().map(|text| vec![text.len() as f32, 0.5]).collect();
        Ok(Embedded { vectors, prompt_tokens: texts.len() * 3 })
    }
}

fn letters() -> Arc<Models> {
    Arc::new(Models::new(vec![Entry::embedder("letters", Letters)], 2))
}

async fn send(
    models: Arc<Models>,
    method: &str,
    path: &str,
    body: impl Into<Body>,
) -> Response<axum::body::Body> {
    let request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
    TowerToHyperService::new(router(models)).call(request).await.unwrap()
}

async fn body_of(response: Response<Body>) -> Vec<u8> {
    response.into_body().collect().await.unwrap().to_bytes().to_vec()
}

async fn embed(body: &str) -> Response<Body> {
    send(letters(), "POST", "/v1/embeddings", body.to_string()).await
}

/// The error answer, after checking what all of them share.
async fn refused(response: Response<Body>, status: u16, code: &str) -> ErrorBody {
    assert_eq!(response.status().as_u16(), status);
    let body: ErrorBody = serde_json::from_slice(&body_of(response).await).unwrap();
    assert_eq!(body.error.code.as_deref(), Some(code), "{}", body.error.message);
    let kind = if status >= 500 { "server_error" } else { "invalid_request_error" };
    assert_eq!(body.error.kind, kind);
    body
}

#[tokio::test]
async fn a_worker_is_healthy_and_lists_its_models() {
    let health = send(letters(), "GET", "/healthz", "").await;
    assert_eq!((health.status(), body_of(health).await), (StatusCode::OK, br#"{"status":"ok"}"#.to_vec()));

    let list = body_of(send(letters(), "GET", "/v1/models", "").await).await;
    let list: ModelList = serde_json::from_slice(&list).unwrap();
    assert_eq!((list.object.as_str(), list.data.len()), ("list", 1));
    assert_eq!((list.data[0].id.as_str(), list.data[0].object.as_str()), ("letters", "model"));
}

#[tokio::test]
async fn one_text_and_several_are_embedded_in_order() {
    let one = body_of(embed(r#"{"model":"letters","input":"abc"}"#).await).await;
    let one: EmbeddingResponse = serde_json::from_slice(&one).unwrap();
    assert_eq!(one.data[0].embedding, EmbeddingVector::Float(vec![3.0, 0.5]));
    assert_eq!((one.usage.prompt_tokens, one.usage.total_tokens), (3, 3));

    let many = body_of(embed(r#"{"model":"letters","input":["a","bb","ccc"]}"#).await).await;
    let many: EmbeddingResponse = serde_json::from_slice(&many).unwrap();
    let expected: Vec<_> = (0..3).map(|i| (i, EmbeddingVector::Float(vec![i as f32 + 1.0, 0.5]))).collect();
    let found: Vec<_> = many.data.into_iter().map(|object| (object.index, object.embedding)).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn base64_is_little_endian_single_precision() {
    let body = body_of(embed(r#"{"model":"letters","input":"abc","encoding_format":"base64"}"#).await).await;
    let answer: EmbeddingResponse = serde_json::from_slice(&body).unwrap();
    let EmbeddingVector::Base64(text) = &answer.data[0].embedding else { panic!("{answer:?}") };
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    assert_eq!(bytes, [3.0_f32.to_le_bytes(), 0.5_f32.to_le_bytes()].concat());
}

#[tokio::test]
async fn wrong_requests_are_refused_in_openais_form() {
    let many = serde_json::json!({ "model": "letters", "input": vec!["a"; MAX_INPUTS + 1] }).to_string();
    let cases = [
        ("{", 400, "invalid_json", None),
        (r#"{"input":"a"}"#, 400, "invalid_json", None),
        (r#"{"model":"letters","input":[1,2]}"#, 400, "invalid_json", None),
        (r#"{"model":"letters","input":[]}"#, 400, "invalid_input_count", Some("input")),
        (many.as_str(), 400, "invalid_input_count", Some("input")),
        (r#"{"model":"letters","input":["a",""]}"#, 400, "empty_input", Some("input")),
        (r#"{"model":"other","input":"a"}"#, 404, "model_not_found", Some("model")),
        (
            r#"{"model":"letters","input":"a","encoding_format":"int8"}"#,
            400,
            "unsupported_value",
            Some("encoding_format"),
        ),
        (
            r#"{"model":"letters","input":"a","dimensions":1}"#,
            400,
            "unsupported_parameter",
            Some("dimensions"),
        ),
        (r#"{"model":"letters","input":"too long"}"#, 400, "invalid_input", Some("input")),
        (r#"{"model":"letters","input":"broken"}"#, 500, "model_failed", None),
        (r#"{"model":"letters","input":"panic"}"#, 500, "model_failed", None),
    ];
    for (body, status, code, param) in cases {
        let error = refused(embed(body).await, status, code).await.error;
        assert_eq!(error.param.as_deref(), param, "{}", error.message);
        assert!(!error.message.contains("must not be seen"), "{}", error.message);
    }
}

#[tokio::test]
async fn a_refusal_says_what_is_served_instead() {
    let error = refused(embed(r#"{"model":"other","input":"a"}"#).await, 404, "model_not_found").await.error;
    assert_eq!(error.message, "model `other` is not served here; this worker serves: letters");
    let error = refused(send(letters(), "GET", "/v1/chat", "").await, 404, "unknown_url").await.error;
    assert!(error.message.contains("/v1/embeddings"), "{}", error.message);
    refused(send(letters(), "GET", "/v1/embeddings", "").await, 405, "method_not_allowed").await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_at_the_limit() {
    let filler = "a".repeat(MAX_BODY);
    let body = format!(r#"{{"model":"letters","input":"{filler}"}}"#);
    refused(embed(&body).await, 413, "body_too_large").await;

    let frame = r#"{"model":"letters","input":""}"#.len();
    let body = format!(r#"{{"model":"letters","input":"{}"}}"#, "a".repeat(MAX_BODY - frame));
    assert_eq!(body.len(), MAX_BODY);
    assert_eq!(embed(&body).await.status(), StatusCode::OK);
}

/// A model that waits for permission and counts how many of it run at once.
struct Gated {
    running: AtomicUsize,
    most: Arc<AtomicUsize>,
    release: Mutex<mpsc::Receiver<()>>,
}

impl Embed for Gated {
    fn context(&self) -> usize {
        8
    }

    fn embed(&self, texts: &[String]) -> Result<Embedded, EmbedError> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        let _ = self.release.lock().unwrap().recv();
        self.running.fetch_sub(1, Ordering::SeqCst);
        Letters.embed(texts)
    }
}

#[tokio::test]
async fn a_flood_of_requests_is_answered_with_503_and_the_rest_a_few_at_a_time() {
    let (permit, release) = mpsc::channel();
    let most = Arc::new(AtomicUsize::new(0));
    let gated = Gated { running: AtomicUsize::new(0), most: most.clone(), release: Mutex::new(release) };
    let models = Arc::new(Models::new(vec![Entry::embedder("letters", gated)], 2));
    let body = r#"{"model":"letters","input":"abc"}"#;
    let request = |models: &Arc<Models>| send(models.clone(), "POST", "/v1/embeddings", body);
    let waiting: Vec<_> = (0..64).map(|_| tokio::spawn(request(&models))).collect();
    while models.in_flight() < 64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    let response = request(&models).await;
    assert_eq!(response.headers()["retry-after"], "1");
    refused(response, 503, "overloaded").await;

    drop(permit);
    for response in waiting {
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_hits_the_deadline() {
    struct Never;
    impl hyper::body::Body for Never {
        type Data = hyper::body::Bytes;
        type Error = Infallible;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
            std::task::Poll::Pending
        }
    }
    let response = send(letters(), "POST", "/v1/embeddings", Body::new(Never)).await;
    refused(response, 408, "request_timeout").await;
}
