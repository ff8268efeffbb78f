//! The routes. Bodies are those of `protocol::openai`; every error leaves in OpenAI's form.

use crate::pool::{EmbedError, Embedded, Models};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use daemon::body;
pub use daemon::body::MAX_BODY;
use daemon::fault::Fault;
use protocol::openai::{
    EmbeddingInput, EmbeddingObject, EmbeddingRequest, EmbeddingResponse, EmbeddingVector, ModelList,
    ModelObject, Usage,
};
use std::sync::Arc;

/// Most texts in one request.
pub const MAX_INPUTS: usize = 256;

/// All routes over these models.
pub fn router(models: Arc<Models>) -> Router {
    Router::new()
        .route("/healthz", get(async || Json(serde_json::json!({ "status": "ok" }))))
        .route("/v1/models", get(list))
        .route("/v1/embeddings", post(embeddings))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .with_state(models)
}

async fn unknown_path() -> Fault {
    let message = "no such path; this worker answers GET /healthz, GET /v1/models and POST /v1/embeddings";
    Fault::request("unknown_url", None, message.into()).status(StatusCode::NOT_FOUND)
}

async fn unknown_method() -> Fault {
    let message = "this path takes another method: GET for /healthz and /v1/models, POST for /v1/embeddings";
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

async fn embeddings(State(models): State<Arc<Models>>, request: Request) -> Result<Response, Fault> {
    let _place = models.enter().map_err(compute_fault)?;
    let body = body::read(request.into_body()).await?;
    let ask = Ask::parse(&body)?;
    let Some(model) = models.get(&ask.model) else {
        return Err(unknown_model(&models, &ask.model));
    };
    let embedded = models.compute(model, ask.texts).await.map_err(compute_fault)?;
    Ok(Json(answer(ask.model, ask.encoding, embedded)).into_response())
}

/// How vectors are written.
#[derive(Debug, Clone, Copy)]
enum Encoding {
    Float,
    Base64,
}

/// A request that passed every check but the model's own.
struct Ask {
    model: String,
    texts: Vec<String>,
    encoding: Encoding,
}

impl Ask {
    fn parse(body: &[u8]) -> Result<Self, Fault> {
        let request: EmbeddingRequest = serde_json::from_slice(body).map_err(|error| {
            let shape = r#"expected {"model": string, "input": string or list of strings}"#;
            Fault::request("invalid_json", None, format!("the body can't be read: {error}; {shape}"))
        })?;
        let encoding = match request.encoding_format.as_deref() {
            None | Some("float") => Encoding::Float,
            Some("base64") => Encoding::Base64,
            Some(_) => {
                let message = "encoding_format: expected `float` or `base64`, found something else";
                return Err(Fault::request("unsupported_value", Some("encoding_format"), message.into()));
            }
        };
        if request.dimensions.is_some() {
            let message =
                "dimensions: this worker's models have vectors of one length only; leave the field out";
            return Err(Fault::request("unsupported_parameter", Some("dimensions"), message.into()));
        }
        let texts = match request.input {
            EmbeddingInput::One(text) => vec![text],
            EmbeddingInput::Many(texts) => texts,
        };
        if texts.is_empty() || texts.len() > MAX_INPUTS {
            let found = texts.len();
            let message =
                format!("input: expected 1 to {MAX_INPUTS} texts, found {found}; send several requests");
            return Err(Fault::request("invalid_input_count", Some("input"), message));
        }
        if let Some(index) = texts.iter().position(String::is_empty) {
            let message = format!("input[{index}] is empty; leave it out or fill it");
            return Err(Fault::request("empty_input", Some("input"), message));
        }
        Ok(Ask { model: request.model, texts, encoding })
    }
}

fn unknown_model(models: &Models, name: &str) -> Fault {
    let served = models.names().collect::<Vec<_>>().join(", ");
    let name: String = name.chars().take(64).collect();
    let message = format!("model `{name}` is not served here; this worker serves: {served}");
    Fault::request("model_not_found", Some("model"), message).status(StatusCode::NOT_FOUND)
}

fn compute_fault(error: EmbedError) -> Fault {
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

fn answer(model: String, encoding: Encoding, embedded: Embedded) -> EmbeddingResponse {
    let object = |(index, vector)| EmbeddingObject {
        object: "embedding".into(),
        index,
        embedding: encode(encoding, vector),
    };
    let tokens = embedded.prompt_tokens;
    EmbeddingResponse {
        object: "list".into(),
        data: embedded.vectors.into_iter().enumerate().map(object).collect(),
        model,
        usage: Usage::of_input(tokens),
    }
}

fn encode(encoding: Encoding, vector: Vec<f32>) -> EmbeddingVector {
    match encoding {
        Encoding::Float => EmbeddingVector::Float(vector),
        Encoding::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            EmbeddingVector::Base64(BASE64.encode(bytes))
        }
    }
}
