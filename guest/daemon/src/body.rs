//! Request bodies: whole, bounded in length and in time.

use crate::fault::Fault;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::time::Duration;

/// Largest request body, in bytes.
pub const MAX_BODY: usize = 1024 * 1024;
/// How long a body may take to arrive as a whole.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// The whole body, or the fault of a body that is too long, too slow or broke off.
pub async fn read(body: Body) -> Result<Bytes, Fault> {
    let collected = tokio::time::timeout(BODY_DEADLINE, Limited::new(body, MAX_BODY).collect()).await;
    let Ok(collected) = collected else {
        let message = format!("the body did not arrive within {} s; send it again", BODY_DEADLINE.as_secs());
        return Err(Fault::request("request_timeout", None, message).status(StatusCode::REQUEST_TIMEOUT));
    };
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("the body is over {MAX_BODY} bytes; split the texts over several requests");
            Err(Fault::request("body_too_large", None, message).status(StatusCode::PAYLOAD_TOO_LARGE))
        }
        Err(_) => Err(Fault::request("body_incomplete", None, "the body broke off; send it again".into())),
    }
}
