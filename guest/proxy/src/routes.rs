//! Paths, and who answers them.

use crate::forward::{Front, Refusal, Upstream, forward};
use crate::offers;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use protocol::market::path;
use std::sync::Arc;

/// All routes over these workers.
pub fn router<U: Upstream>(front: Arc<Front<U>>) -> Router {
    let under = |path: &str, rest: &str| format!("{path}{rest}");
    Router::new()
        .route("/healthz", get(async || axum::Json(serde_json::json!({ "status": "ok" }))))
        .route("/v1/models", get(offers::models::<U>))
        .route("/v1/embeddings", post(forward::<U>))
        .route("/v1/chat/completions", post(forward::<U>))
        .route("/v1/completions", post(forward::<U>))
        .route(path::TERMS, get(offers::terms::<U>))
        .route(&under(path::VAULTS, "{vault}"), get(offers::vault::<U>))
        .route(path::QUOTE, get(offers::quote::<U>))
        .route(path::SESSION, get(offers::session::<U>))
        .route(path::CLAIMS, get(offers::claims::<U>))
        .route(&under(path::PAYOUTS, "{worker}"), get(offers::payouts::<U>))
        .route(&under(path::RECEIPTS, "{vault}/{request}"), get(offers::receipt::<U>))
        .route(path::METRICS, get(offers::metrics::<U>))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .with_state(front)
}

async fn unknown_path() -> Refusal {
    let message =
        "no such path; docs/reference/proxy.md lists those of a proxy, GET /v1/models what can be asked";
    Refusal::request(StatusCode::NOT_FOUND, "unknown_url", message)
}

async fn unknown_method() -> Refusal {
    let message = "this path takes another method: POST for /v1/chat/completions, /v1/completions and /v1/embeddings, GET for the rest";
    Refusal::request(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
