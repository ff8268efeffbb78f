//! The routes: a request is read whole, sent to one worker, and the answer is passed on as it comes.
//!
//! ```text
//! client -- POST /v1/embeddings --> read (1 MiB) -> model -> choose -> send -> status, type, bytes as they arrive
//!                                                     ^                |
//!                                                     \-- next worker --/   refused or gone before it answered
//! ```
//! A request has to be read whole, since the model's name may stand behind the texts; nothing else of it is looked at. It goes
//! to the worker and nowhere else: no log, no cache. A worker sees no header of the client's.
//!
//! Deliberately absent, and to come with the router: prices, holds and charges, hedging, fair shares.

use crate::registry::{NoWorker, Registry, Way};
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use daemon::body;
use daemon::fault::Fault;
use http_body_util::{BodyExt, Full};
use protocol::openai::{ModelList, ModelObject};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests under way at one time; each may hold a body of [`daemon::body::MAX_BODY`].
const IN_FLIGHT: usize = 512;
/// How long a worker may take to begin its answer; a guest in software emulation is slow.
const ANSWER: Duration = Duration::from_secs(300);
/// Workers that are tried for one request.
const TRIES: usize = 3;
/// What every request to a worker is addressed to; the name means nothing, the connection is the address.
const AUTHORITY: &str = "https://worker.chrysalis";

/// A worker that can be asked.
pub trait Upstream: Way {
    /// Sends a request; `None` where the worker is gone or refuses to talk before it answered.
    fn send(
        &self,
        request: hyper::Request<Full<Bytes>>,
    ) -> impl Future<Output = Option<hyper::Response<Body>>> + Send;
}

struct Proxy<U> {
    workers: Arc<Registry<U>>,
    in_flight: Arc<Semaphore>,
}

/// All routes over these workers.
pub fn router<U: Upstream>(workers: Arc<Registry<U>>) -> Router {
    let proxy = Proxy { workers, in_flight: Arc::new(Semaphore::new(IN_FLIGHT)) };
    Router::new()
        .route("/healthz", get(async || Json(serde_json::json!({ "status": "ok" }))))
        .route("/v1/models", get(list::<U>))
        .route("/v1/embeddings", post(forward::<U>))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .with_state(Arc::new(proxy))
}

async fn unknown_path() -> Fault {
    let message = "no such path; this proxy answers GET /healthz, GET /v1/models and POST /v1/embeddings";
    Fault::request("unknown_url", None, message.into()).status(StatusCode::NOT_FOUND)
}

async fn unknown_method() -> Fault {
    let message = "this path takes another method: GET for /healthz and /v1/models, POST for /v1/embeddings";
    Fault::request("method_not_allowed", None, message.into()).status(StatusCode::METHOD_NOT_ALLOWED)
}

async fn list<U: Upstream>(State(proxy): State<Arc<Proxy<U>>>) -> Json<ModelList> {
    let object = |id| ModelObject { id, object: "model".into(), created: 0, owned_by: "chrysalis".into() };
    Json(ModelList { object: "list".into(), data: proxy.workers.models().into_iter().map(object).collect() })
}

/// The one field that routing needs.
#[derive(serde::Deserialize)]
struct Asked {
    model: String,
}

async fn forward<U: Upstream>(
    State(proxy): State<Arc<Proxy<U>>>,
    request: Request,
) -> Result<Response, Fault> {
    let Ok(place) = proxy.in_flight.clone().try_acquire_owned() else {
        let message = format!("{IN_FLIGHT} requests are under way already; try again later");
        return Err(Fault::server(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message));
    };
    let path = request.uri().path().to_owned();
    let body = body::read(request.into_body()).await?;
    let asked: Asked = serde_json::from_slice(&body).map_err(|_| {
        // The parser's words could quote the request, and nobody needs them to mend it.
        let message = "the body can't be read: expected a JSON object with the string `model`";
        Fault::request("invalid_json", None, message.into())
    })?;
    let mut tried = Vec::new();
    while tried.len() < TRIES {
        let (id, worker) = match proxy.workers.choose(&asked.model, &tried) {
            Ok(chosen) => chosen,
            Err(NoWorker::NoneLeft) if !tried.is_empty() => break,
            Err(_) => return Err(no_worker()),
        };
        tried.push(id);
        let answer = tokio::time::timeout(ANSWER, worker.send(to_worker(&path, body.clone()))).await;
        match answer {
            Ok(Some(answer)) if answer.status() != StatusCode::SERVICE_UNAVAILABLE => {
                return Ok(to_client(answer, place));
            }
            // Gone, silent or overloaded before the first byte: another one may do.
            _ => {}
        }
    }
    let message = "no worker that has this model answered; try again later".into();
    Err(Fault::server(StatusCode::SERVICE_UNAVAILABLE, "no_answer", message))
}

fn no_worker() -> Fault {
    // The name is not repeated: an error answer may be logged by whoever gets it.
    let message =
        "no worker is here that has this model; GET /v1/models lists what can be asked, or try again later";
    Fault::server(StatusCode::SERVICE_UNAVAILABLE, "no_worker", message.into())
}

fn to_worker(path: &str, body: Bytes) -> hyper::Request<Full<Bytes>> {
    let mut request = hyper::Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    // The routes have plain paths, so that this can be parsed.
    *request.uri_mut() = format!("{AUTHORITY}{path}").parse().unwrap_or_default();
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request
}

/// Status, type and bytes as they come; `place` is held until the last of them.
fn to_client(answer: hyper::Response<Body>, place: OwnedSemaphorePermit) -> Response {
    let (parts, body) = answer.into_parts();
    let body = body.map_frame(move |frame| {
        let _held = &place;
        frame
    });
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = parts.status;
    for name in [header::CONTENT_TYPE, header::RETRY_AFTER] {
        if let Some(value) = parts.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

#[cfg(test)]
mod tests;
