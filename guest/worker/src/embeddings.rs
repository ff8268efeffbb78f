//! `/v1/embeddings`: texts to vectors.

use crate::api::{broke_down, compute_fault, invalid_json};
use crate::pool::{Embedded, Model, Models};
use crate::stream::head;
use crate::write::{json, short};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use daemon::body;
use daemon::fault::Fault;
use protocol::market;
use protocol::openai::{
    EmbeddingInput, EmbeddingObject, EmbeddingRequest, EmbeddingResponse, EmbeddingVector, Usage,
};
use std::sync::Arc;

/// Most texts in one request.
pub const MAX_INPUTS: usize = 256;

/// `POST /v1/embeddings`.
pub async fn embeddings(State(models): State<Arc<Models>>, request: Request) -> Result<Response, Fault> {
    let _place = models.enter().map_err(compute_fault)?;
    let body = body::read(request.into_body()).await?;
    let ask = AskVectors::parse(&body)?;
    let Model::Embedder(model) = &models.find(&ask.model)?.model else {
        let message =
            format!("model `{}` writes texts; ask /v1/chat/completions for them", short(&ask.model));
        return Err(Fault::request("unsupported_model", Some("model"), message));
    };
    let embedded = models.compute(model.clone(), ask.texts).await.map_err(compute_fault)?;
    let tokens = u32::try_from(embedded.prompt_tokens).unwrap_or(u32::MAX);
    let read = market::Read { prompt: tokens, cached: 0 };
    let bytes = serde_json::to_vec(&answer(ask.model, ask.encoding, embedded)).map_err(|_| broke_down())?;
    let usage = market::Usage::of(read, market::Written::default());
    Ok((head(read, models.load()), json(bytes, usage)).into_response())
}

/// How vectors are written.
#[derive(Debug, Clone, Copy)]
enum Encoding {
    Float,
    Base64,
}

/// A request that passed every check but the model's own.
#[derive(Debug)]
pub struct AskVectors {
    /// As asked for.
    pub model: String,
    /// 1 to [`MAX_INPUTS`] texts, none of them empty.
    pub texts: Vec<String>,
    encoding: Encoding,
}

impl AskVectors {
    /// Of the body of `/v1/embeddings`.
    ///
    /// # Errors
    /// A fault of the request.
    pub fn parse(body: &[u8]) -> Result<Self, Fault> {
        let request: EmbeddingRequest = serde_json::from_slice(body).map_err(|error| {
            invalid_json(&error, r#"{"model": string, "input": string or list of strings}"#)
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
        Ok(AskVectors { model: request.model, texts, encoding })
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
