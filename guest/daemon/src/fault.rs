//! Error answers in OpenAI's form (OpenAI API reference: Errors).

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::openai::{ErrorBody, ErrorObject};

/// One error answer.
#[derive(Debug)]
pub struct Fault {
    status: StatusCode,
    code: &'static str,
    param: Option<&'static str>,
    message: String,
}

impl Fault {
    /// The request is wrong; `param` says where.
    pub fn request(code: &'static str, param: Option<&'static str>, message: String) -> Self {
        Fault { status: StatusCode::BAD_REQUEST, code, param, message }
    }

    /// Another status than the plain one of its kind.
    pub fn status(self, status: StatusCode) -> Self {
        Fault { status, ..self }
    }

    /// HTTP status of the answer.
    pub fn code(&self) -> StatusCode {
        self.status
    }

    /// The body of the answer, where it stands inside another.
    pub fn body(self) -> ErrorBody {
        let kind = if self.status.is_server_error() { "server_error" } else { "invalid_request_error" };
        let error = ErrorObject {
            message: self.message,
            kind: kind.into(),
            param: self.param.map(Into::into),
            code: Some(self.code.into()),
        };
        ErrorBody { error }
    }

    /// This machine failed or is too busy.
    pub fn server(status: StatusCode, code: &'static str, message: String) -> Self {
        Fault { status, code, param: None, message }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let status = self.status;
        let mut response = (status, Json(self.body())).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
