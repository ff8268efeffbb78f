//! Why a request is not served: one answer in OpenAI's form, and where it is counted.

use crate::books::NotBooked;
use crate::fair::NoPlace;
use crate::metrics::Turned;
use crate::router::NoWorker;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use daemon::fault::Fault;
use payment::Refused;
use protocol::market::{MarketError, Needed, PaymentError};
use protocol::openai::ErrorObject;
use std::borrow::Cow;

/// One refusal.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    code: Cow<'static, str>,
    message: String,
    /// Seconds.
    retry: Option<u64>,
    needed: Option<Needed>,
    /// As what it is counted.
    pub turned: Turned,
}

impl Refusal {
    /// Of the request itself: asking again is no use.
    pub fn request(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, code: code.into(), message, retry: None, needed: None, turned: Turned::Request }
    }

    /// For now: asking again later may do.
    pub fn later(code: &'static str, message: impl Into<String>, turned: Turned, seconds: u64) -> Self {
        let (status, message) = (StatusCode::SERVICE_UNAVAILABLE, message.into());
        Self {
            status,
            code: code.into(),
            message,
            retry: Some(seconds.clamp(1, 3_600)),
            needed: None,
            turned,
        }
    }

    fn too_many(code: &'static str, message: impl Into<String>, seconds: u64) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self { status, ..Self::later(code, message, Turned::Busy, seconds) }
    }

    /// Something about the payment.
    pub fn payment(message: impl Into<String>, needed: Option<Needed>) -> Self {
        let (status, message) = (StatusCode::PAYMENT_REQUIRED, message.into());
        Self {
            status,
            code: "payment_required".into(),
            message,
            retry: None,
            needed,
            turned: Turned::Payment,
        }
    }

    /// Of something that was looked for by its name, where not being there is no matter of payment.
    pub fn not_found(self) -> Self {
        match self.status {
            StatusCode::PAYMENT_REQUIRED => {
                Self { status: StatusCode::NOT_FOUND, code: "no_vault".into(), ..self }
            }
            _ => self,
        }
    }

    /// A header field that can't be read.
    pub fn field(error: &MarketError) -> Self {
        Self::request(StatusCode::BAD_REQUEST, "invalid_header", error.to_string())
    }

    /// No place for another request.
    pub fn place(error: NoPlace) -> Self {
        match error {
            NoPlace::Full => {
                let message = "as many requests as this proxy takes are under way already; try again later";
                Self::later("overloaded", message, Turned::Busy, 1)
            }
            NoPlace::Share { share } => {
                let message =
                    format!("{share} of your requests are under way, which is your share now; wait for one");
                Self::too_many("rate_limit_exceeded", message, 1)
            }
        }
    }

    /// No worker. The model's name is not repeated: an error answer may be logged by whoever gets it.
    pub fn worker(why: NoWorker) -> Self {
        match why {
            NoWorker::UnknownModel => {
                let message = "no worker is here that has this model; GET /v1/models lists what can be asked, or try again later";
                Self::later("no_worker", message, Turned::NoWorker, 1)
            }
            NoWorker::NoneLeft => {
                let message = "no worker that has this model answered; try again later";
                Self::later("no_answer", message, Turned::NoWorker, 1)
            }
            NoWorker::Untested => {
                let message = "no worker that has this model has said lately that it passed its self-test; try again later";
                Self::later("no_worker", message, Turned::NoWorker, 1)
            }
            NoWorker::OtherDevice => {
                let message = "no worker that has this model computes on such a device; ask without chrysalis-device, or try again later";
                Self::later("no_device", message, Turned::NoWorker, 30)
            }
            NoWorker::TooDear => {
                let message = "the root's book has no price for this model, or one above chrysalis-max-price";
                Self::request(StatusCode::CONFLICT, "too_dear", message)
            }
            NoWorker::Busy { retry_ms } => {
                let message = "every worker that has this model is busy; try again later";
                Self::too_many("rate_limit_exceeded", message, retry_ms.div_ceil(1_000))
            }
            NoWorker::TooSlow { predicted_ms } => {
                let message = format!(
                    "no worker would be done in time, the fastest needs about {predicted_ms} ms; allow more"
                );
                Self {
                    status: StatusCode::GATEWAY_TIMEOUT,
                    ..Self::later("too_slow", message, Turned::Busy, 1)
                }
            }
        }
    }

    /// Nothing was held.
    pub fn books(error: &NotBooked) -> Self {
        let text = error.to_string();
        match error {
            NotBooked::Refused(refused) => Self::refused(refused, text),
            NotBooked::Signature(_) | NotBooked::OtherOrder { .. } => {
                Self { turned: Turned::Payment, ..Self::request(StatusCode::UNAUTHORIZED, "bad_order", text) }
            }
            NotBooked::Twice { .. } => Self::request(StatusCode::CONFLICT, "twice", text),
            NotBooked::NoLogSpace => Self::later("no_log_space", text, Turned::NoLogSpace, 5),
            NotBooked::Closed => Self::later("closing", text, Turned::NoSession, 5),
        }
    }

    fn refused(refused: &Refused, text: String) -> Self {
        let amount = |cap, deposit, valid_until| Some(Needed { cap, deposit, valid_until });
        match refused {
            Refused::CapTooLow { need, .. } => Self::payment(text, amount(Some(*need), None, None)),
            Refused::DepositTooLow { need, .. } => Self::payment(text, amount(None, Some(*need), None)),
            Refused::CapExpires { needed, .. } => Self::payment(text, amount(None, None, Some(*needed))),
            Refused::UnknownVault { .. } | Refused::VaultCloses { .. } | Refused::NotOurVault { .. } => {
                Self::payment(text, None)
            }
            Refused::NotRegistered | Refused::SessionOver { .. } | Refused::StaleView { .. } => {
                Self::later("no_session", text, Turned::NoSession, 5)
            }
            Refused::PotShort { .. } | Refused::TooManyWorkers { .. } => {
                Self::later("pot_short", text, Turned::NoSession, 30)
            }
            Refused::Voucher(_) | Refused::ForeignCap { .. } | Refused::LowerCap { .. } => {
                Self { turned: Turned::Payment, ..Self::request(StatusCode::BAD_REQUEST, "bad_cap", text) }
            }
            Refused::TwiceTheSameRequest { .. } => Self::request(StatusCode::CONFLICT, "twice", text),
            // The rest belongs to other parties of a payment; here each is a defect, not the client's doing.
            Refused::TooMuch(_)
            | Refused::NoSuchRequest { .. }
            | Refused::OverLimit { .. }
            | Refused::NotAttested { .. }
            | Refused::Overcharged { .. }
            | Refused::WrongReceipt { .. }
            | Refused::Unpaid { .. }
            | Refused::ForeignPayout { .. }
            | Refused::LowerPayout { .. }
            | Refused::ShortGrace { .. } => Self::later("no_session", text, Turned::NoSession, 30),
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let status = fault.code();
        let error = fault.body().error;
        let code = error.code.unwrap_or_default().into();
        Self { code, ..Self::request(status, "invalid_request", error.message) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let error = ErrorObject {
            message: self.message,
            kind: kind.into(),
            param: None,
            code: Some(self.code.into_owned()),
        };
        let body = PaymentError { error, needed: self.needed };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
