//! The worker's routes of the market: facts, vouchers in, vouchers out.

use super::{Pay, http, refused};
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use daemon::fault::Fault;
use daemon::ledger;
use payment::{Payout, Signed};
use protocol::market::{Blob, Device, Earnings, Load, ModelFacts, WorkerFacts, path};
use std::sync::Arc;

/// What the models say of themselves when asked: facts, load, and how many requests are computed at one time.
pub type Facts = Arc<dyn Fn() -> (Vec<ModelFacts>, Load, u32) + Send + Sync>;

/// `routes` and these.
pub(super) fn beside(routes: Router, pay: Option<Arc<Pay>>, facts: Facts, device: Device) -> Router {
    let device = Arc::new(device);
    let worker = {
        let pay = pay.clone();
        async move || Json(worker(pay.as_deref(), &facts, &device))
    };
    routes
        .route(path::WORKER, get(worker))
        .route(path::EARNINGS, get(earnings).with_state(pay.clone()))
        .route(path::PAYOUT, post(payout).with_state(pay))
}

fn worker(pay: Option<&Pay>, facts: &Facts, device: &Device) -> WorkerFacts {
    let (models, load, slots) = facts();
    WorkerFacts {
        models,
        device: device.clone(),
        hours: pay.map_or([0, 24], |pay| pay.hours),
        wallet: pay.map(|pay| ledger::account(pay.wallet)),
        credit: pay.map_or(0, |pay| pay.credit),
        running: load.running,
        waiting: load.waiting,
        slots,
    }
}

async fn earnings(State(pay): State<Option<Arc<Pay>>>) -> Json<Earnings> {
    Json(pay.map_or_else(Earnings::default, |pay| pay.earnings()))
}

async fn payout(State(pay): State<Option<Arc<Pay>>>, body: Bytes) -> Result<Response, Fault> {
    let unpaid =
        || Fault::request("unpaid_worker", None, "this worker has no wallet; keep the voucher".into());
    let pay = pay.ok_or_else(unpaid)?;
    let malformed = || {
        let message = "expected a signed payout in base64; send the voucher's bytes with its signature";
        Fault::request("malformed_payout", None, message.into())
    };
    let blob: Blob =
        std::str::from_utf8(&body).ok().and_then(|text| text.trim().parse().ok()).ok_or_else(malformed)?;
    let payout = Signed::<Payout>::from_bytes(blob.bytes()).map_err(|_| malformed())?;
    pay.on_payout(payout).map_err(|refusal| refused(&refusal))?;
    Ok(http::NO_CONTENT.into_response())
}
