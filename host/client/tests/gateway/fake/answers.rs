//! What a fake proxy answers: whole texts and vectors, chunks of a stream, refusals.

use super::{EMBEDDER, MODEL, Reply};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HttpBody, Bytes, Frame};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use payment::price::Tokens;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
/// A whole answer and what it took.
pub fn whole(path: &str, asked: &Value) -> (Value, Tokens) {
    let usage = json!({ "prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13 });
    let written = Tokens { prompt: 9, completion: 4, ..Tokens::default() };
    let text = "Hello from a fake";
    if path.contains("chat") {
        let message = json!({ "role": "assistant", "content": text });
        let choice = json!({ "index": 0, "message": message, "finish_reason": "stop", "logprobs": null });
        let body = json!({ "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL,
            "choices": [choice], "usage": usage });
        return (body, written);
    }
    if path.contains("completions") {
        let choice = json!({ "index": 0, "text": text, "finish_reason": "stop", "logprobs": null });
        let body = json!({ "id": "cmpl-1", "object": "text_completion", "created": 1, "model": MODEL,
            "choices": [choice], "usage": usage });
        return (body, written);
    }
    let texts = asked["input"].as_array().map_or(1, Vec::len);
    let vector = [1.5f32, -0.25, 0.5];
    let base64 = asked["encoding_format"] == "base64";
    let encoded = || {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(vector.map(f32::to_le_bytes).concat())
    };
    let embedding = |index: usize| {
        let vector = if base64 { json!(encoded()) } else { json!(vector) };
        json!({ "object": "embedding", "index": index, "embedding": vector })
    };
    let data: Vec<_> = (0..texts).map(embedding).collect();
    let usage = json!({ "prompt_tokens": 7, "total_tokens": 7 });
    let body = json!({ "object": "list", "data": data, "model": EMBEDDER, "usage": usage });
    (body, Tokens { prompt: 7, ..Tokens::default() })
}

pub fn chunk(chat: bool, word: &str) -> Value {
    let choice = match chat {
        true => {
            json!({ "index": 0, "delta": { "role": "assistant", "content": word }, "finish_reason": null })
        }
        false => json!({ "index": 0, "text": word, "finish_reason": null, "logprobs": null }),
    };
    let object = if chat { "chat.completion.chunk" } else { "text_completion" };
    json!({ "id": "1", "object": object, "created": 1, "model": MODEL, "choices": [choice] })
}

pub fn usage_chunk(prompt: u32, completion: u32) -> Value {
    let usage = json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion });
    json!({ "id": "1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [], "usage": usage })
}

pub fn plain(status: u16, body: &Value) -> Reply {
    let bytes = Bytes::from(serde_json::to_vec(body).unwrap());
    let body = Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut reply = typed("application/json", body);
    *reply.status_mut() = StatusCode::from_u16(status).unwrap();
    reply
}

pub fn fault(status: u16, code: &str) -> Reply {
    let error =
        json!({ "message": "as the test wants it", "type": "server_error", "param": null, "code": code });
    let mut reply = plain(status, &json!({ "error": error }));
    if status == 503 {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("7"));
    }
    reply
}

pub fn typed(kind: &'static str, body: UnsyncBoxBody<Bytes, std::io::Error>) -> Reply {
    let mut reply = Response::new(body);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// A body of frames that are made while it is sent.
pub struct Frames(pub mpsc::Receiver<Result<Frame<Bytes>, std::io::Error>>);

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(cx)
    }
}
