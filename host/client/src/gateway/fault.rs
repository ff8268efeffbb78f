//! What goes wrong, in OpenAI's form: a status, a code that programs can rely on, and a message that says what to do next.
//!
//! OpenAI's clients try 408, 409, 429 and 5xx again by themselves; `x-should-retry: false` tells them where that can't help.

use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use protocol::openai::{ErrorBody, ErrorObject};

/// A refusal for the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    status: StatusCode,
    error: ErrorObject,
    /// Seconds, where trying again can help.
    retry_after: Option<u64>,
    /// Whether a client should try again by itself.
    again: bool,
}

impl Fault {
    fn new(
        status: StatusCode,
        kind: &str,
        code: &str,
        param: Option<&str>,
        message: impl Into<String>,
    ) -> Self {
        let error = ErrorObject {
            message: message.into(),
            kind: kind.into(),
            param: param.map(Into::into),
            code: Some(code.into()),
        };
        Self { status, error, retry_after: None, again: false }
    }

    /// 400: the app must ask otherwise.
    pub fn request(code: &str, param: Option<&str>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, param, message)
    }

    /// 402: money or a price is in the way, which the person who runs the gateway can change.
    pub fn payment(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYMENT_REQUIRED, "payment_required", code, None, message)
    }

    /// 429 as OpenAI says that a quota is used up: trying again at once can't help.
    pub fn quota(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", code, None, message)
    }

    /// 502: a proxy is not what it must be, or answered what can't be.
    pub fn peer(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "server_error", code, None, message)
    }

    /// 503: nobody can answer at the moment.
    pub fn away(code: &str, message: impl Into<String>) -> Self {
        let fault = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", code, None, message);
        Self { retry_after: Some(1), again: true, ..fault }
    }

    /// 500: this machine failed.
    pub fn internal(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", code, None, message)
    }

    /// What a proxy said, passed on in its own words.
    pub fn passed_on(status: StatusCode, error: ErrorObject, retry_after: Option<u64>) -> Self {
        let again = matches!(status.as_u16(), 408 | 409 | 429 | 500..);
        Self { status, error, retry_after, again }
    }

    /// The same with another status.
    #[must_use]
    pub fn with(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// HTTP status.
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// The stable code.
    pub fn code(&self) -> &str {
        self.error.code.as_deref().unwrap_or_default()
    }

    /// What to do.
    pub fn message(&self) -> &str {
        &self.error.message
    }

    /// The body, JSON.
    pub fn body(&self) -> Bytes {
        // Three strings always have a JSON.
        serde_json::to_vec(&ErrorBody { error: self.error.clone() }).unwrap_or_default().into()
    }

    /// The whole response.
    pub fn response<B: From<Bytes>>(&self) -> Response<B> {
        let mut response = Response::new(B::from(self.body()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let retry = if self.again { "true" } else { "false" };
        headers.insert("x-should-retry", HeaderValue::from_static(retry));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.status.as_u16(), self.code(), self.error.message)
    }
}
