//! The routes as a client sees them, over workers that are played.

use super::*;
use axum::http;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use protocol::config::ModelPin;
use protocol::openai::ErrorBody;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Clone)]
enum Play {
    /// Answers with this status and its own name.
    Answers(u16, &'static str),
    /// Breaks off before it answers.
    Gone,
    /// Answers with a body that never ends.
    Endless,
}

#[derive(Clone)]
struct Fake {
    play: Play,
    seen: Arc<Mutex<Vec<http::request::Parts>>>,
    asked: Arc<AtomicUsize>,
}

impl Fake {
    fn new(play: Play) -> Self {
        Fake { play, seen: Arc::default(), asked: Arc::default() }
    }
}

impl Way for Fake {
    fn in_flight(&self) -> usize {
        0
    }
    fn is_draining(&self) -> bool {
        false
    }
}

impl Upstream for Fake {
    async fn send(&self, request: hyper::Request<Full<Bytes>>) -> Option<hyper::Response<Body>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (parts, body) = request.into_parts();
        self.seen.lock().unwrap().push(parts);
        let body = body.collect().await.unwrap().to_bytes();
        let response = hyper::Response::builder().header("content-type", "application/json");
        match self.play {
            Play::Answers(status, name) => {
                let text = format!("{name} got {} bytes", body.len());
                let response = response.status(status).header("x-worker", name);
                Some(response.header("retry-after", "7").body(Body::from(text)).unwrap())
            }
            Play::Gone => None,
            Play::Endless => Some(response.body(Body::new(Endless)).unwrap()),
        }
    }
}

struct Endless;

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;
    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

/// A proxy with these workers, all of which have the model `m`.
fn proxy(workers: &[Fake]) -> (Router, Vec<crate::registry::Place<Fake>>) {
    let registry = Arc::new(Registry::default());
    let pin = || vec![ModelPin { name: "m".into(), root: "a".repeat(64), data_blocks: 1 }];
    let places = workers.iter().map(|worker| registry.join(pin(), worker.clone()).unwrap()).collect();
    (router(registry), places)
}

async fn send(router: &Router, method: &str, path: &str, body: &str) -> Response {
    let request = hyper::Request::builder().method(method).uri(path).header("authorization", "Bearer secret");
    let request = request.body(Body::from(body.to_owned())).unwrap();
    TowerToHyperService::new(router.clone()).call(request).await.unwrap()
}

async fn text_of(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn code_of(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: ErrorBody = serde_json::from_str(&text_of(response).await).unwrap();
    (status, body.error.code.unwrap())
}

const ASK: &str = r#"{"input":["a secret text"],"model":"m","encoding_format":"base64"}"#;

#[tokio::test]
async fn a_request_reaches_a_worker_whole_and_without_the_clients_headers() {
    let worker = Fake::new(Play::Answers(200, "w"));
    let (router, _places) = proxy(std::slice::from_ref(&worker));
    let response = send(&router, "POST", "/v1/embeddings", ASK).await;
    assert_eq!(response.status(), 200);
    assert!(response.headers().get("x-worker").is_none(), "only what a client needs is passed on");
    assert_eq!(text_of(response).await, format!("w got {} bytes", ASK.len()));
    let seen = worker.seen.lock().unwrap();
    assert_eq!(seen[0].uri.path(), "/v1/embeddings");
    let names: Vec<&str> = seen[0].headers.keys().map(header::HeaderName::as_str).collect();
    assert_eq!(names, ["content-type"]);
}

#[tokio::test]
async fn a_worker_that_is_gone_or_overloaded_is_replaced_before_the_first_byte() {
    for bad in [Play::Gone, Play::Answers(503, "busy")] {
        let workers = [Fake::new(bad.clone()), Fake::new(bad), Fake::new(Play::Answers(200, "good"))];
        let (router, _places) = proxy(&workers);
        assert!(text_of(send(&router, "POST", "/v1/embeddings", ASK).await).await.starts_with("good"));
    }
}

#[tokio::test]
async fn a_workers_own_refusal_is_passed_on_and_no_other_is_asked() {
    let workers = [Fake::new(Play::Answers(400, "no")), Fake::new(Play::Answers(400, "no"))];
    let (router, _places) = proxy(&workers);
    let response = send(&router, "POST", "/v1/embeddings", ASK).await;
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (400, "7"));
    assert_eq!(workers.iter().map(|w| w.asked.load(Ordering::SeqCst)).sum::<usize>(), 1);
}

#[tokio::test]
async fn without_a_worker_the_answer_is_503_with_retry_after() {
    let (router, places) = proxy(&[Fake::new(Play::Answers(200, "w"))]);
    let other = ASK.replace("\"m\"", "\"other\"");
    let response = send(&router, "POST", "/v1/embeddings", &other).await;
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(code_of(response).await, (503, "no_worker".into()));
    drop(places);
    assert_eq!(code_of(send(&router, "POST", "/v1/embeddings", ASK).await).await, (503, "no_worker".into()));
    let (router, _places) = proxy(&[Fake::new(Play::Gone)]);
    assert_eq!(code_of(send(&router, "POST", "/v1/embeddings", ASK).await).await, (503, "no_answer".into()));
}

#[tokio::test]
async fn errors_never_repeat_what_was_sent() {
    let (router, _places) = proxy(&[]);
    for body in [
        "a secret text",
        r#"{"input":"a secret text"}"#,
        r#"{"model":["a secret text"]}"#,
        r#"{"model":"a secret text"}"#,
    ] {
        let text = text_of(send(&router, "POST", "/v1/embeddings", body).await).await;
        assert!(!text.contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn models_of_all_workers_are_listed_once() {
    let (router, _places) = proxy(&[Fake::new(Play::Gone), Fake::new(Play::Gone)]);
    let list: ModelList =
        serde_json::from_str(&text_of(send(&router, "GET", "/v1/models", "").await).await).unwrap();
    assert_eq!(list.data.iter().map(|model| model.id.as_str()).collect::<Vec<_>>(), ["m"]);
    assert_eq!(code_of(send(&router, "GET", "/v1/chat", "").await).await, (404, "unknown_url".into()));
    assert_eq!(code_of(send(&router, "GET", "/v1/embeddings", "").await).await.0, 405);
}

#[tokio::test]
async fn answers_under_way_are_counted_until_their_last_byte() {
    let (router, _places) = proxy(&[Fake::new(Play::Endless)]);
    let mut held = Vec::new();
    for _ in 0..IN_FLIGHT {
        held.push(send(&router, "POST", "/v1/embeddings", ASK).await);
    }
    assert_eq!(code_of(send(&router, "POST", "/v1/embeddings", ASK).await).await, (503, "overloaded".into()));
    held.pop();
    assert_eq!(send(&router, "POST", "/v1/embeddings", ASK).await.status(), 200);
}
