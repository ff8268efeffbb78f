//! The routes. Bodies are those of `protocol::openai`; every error leaves in OpenAI's form.

use crate::pool::{EmbedError, Models};
use crate::{embeddings, write};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
pub use daemon::body::MAX_BODY;
pub use daemon::fault::Fault;
use engine::EngineError;
use protocol::openai::{ModelList, ModelObject};
use std::sync::Arc;

/// All routes over these models.
pub fn router(models: Arc<Models>) -> Router {
    Router::new()
        .route("/healthz", get(async || Json(serde_json::json!({ "status": "ok" }))))
        .route("/v1/models", get(list))
        .route("/v1/chat/completions", post(write::chat))
        .route("/v1/completions", post(write::text))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .with_state(models)
}

async fn unknown_path() -> Fault {
    let message = "no such path; this worker answers GET /healthz, GET /v1/models and POST /v1/chat/completions, \
                   /v1/completions and /v1/embeddings";
    Fault::request("unknown_url", None, message.into()).status(StatusCode::NOT_FOUND)
}

async fn unknown_method() -> Fault {
    let message =
        "this path takes another method: GET for /healthz and /v1/models, POST for the others of /v1";
    Fault::request("method_not_allowed", None, message.into()).status(StatusCode::METHOD_NOT_ALLOWED)
}

async fn list(State(models): State<Arc<Models>>) -> Json<ModelList> {
    let object = |name: &str| ModelObject {
        id: name.into(),
        object: "model".into(),
        created: 0,
        owned_by: "chrysalis".into(),
    };
    Json(ModelList { object: "list".into(), data: models.names().map(object).collect() })
}

/// A body that is no JSON, or JSON of another shape.
pub fn invalid_json(error: &serde_json::Error, shape: &str) -> Fault {
    // The error's own words may quote the body; they go back to whoever sent it and nowhere else.
    Fault::request("invalid_json", None, format!("the body can't be read: {error}; expected {shape}"))
}

/// Why there are no vectors, as an answer.
pub fn compute_fault(error: EmbedError) -> Fault {
    match error {
        EmbedError::Request(message) => Fault::request("invalid_input", Some("input"), message),
        EmbedError::Model(message) => Fault::server(
            StatusCode::INTERNAL_SERVER_ERROR,
            "model_failed",
            format!("the model failed: {message}"),
        ),
        EmbedError::Busy => Fault::server(StatusCode::SERVICE_UNAVAILABLE, "overloaded", error.to_string()),
    }
}

/// What the engine refuses or fails at, as an answer.
pub fn engine_fault(error: EngineError) -> Fault {
    let message = error.to_string();
    match &error {
        EngineError::Busy { .. } => Fault::server(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message),
        EngineError::Context { .. } => Fault::request("context_length_exceeded", Some("messages"), message),
        error if error.is_request_fault() => Fault::request("invalid_input", None, message),
        _ => model_failed(&message),
    }
}

/// The computation ended without an answer.
pub fn broke_down() -> Fault {
    model_failed("the computation stopped without an answer")
}

fn model_failed(message: &str) -> Fault {
    let message = format!("the model failed: {message}");
    Fault::server(StatusCode::INTERNAL_SERVER_ERROR, "model_failed", message)
}
