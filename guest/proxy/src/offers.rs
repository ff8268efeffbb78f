//! What the proxy says of itself and of money: terms, vaults, quotes, vouchers, metrics.
//!
//! All of it may be known to anybody: vouchers pay whom they name, whoever sends them, and a cap is no key to its vault
//! (an order is, for one request). Nothing here names what was asked.

use crate::books::Kept;
use crate::forward::{Front, Refusal, Upstream};
use crate::metrics::Gauges;
use crate::money::{Money, account, stated};
use crate::registry::Listed;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use payment::price::Tokens;
use payment::proxy::Phase;
use payment::{Address, Signed, Voucher};
use protocol::market::{
    self, Account, Blob, ClaimEntry, Claims, Consent, Hex32, ModelTerms, PayoutEntry, Payouts, Quote,
    ReceiptEntry, Terms, VaultTerms,
};
use protocol::openai::{ModelList, ModelObject};
use serde::Deserialize;
use std::sync::Arc;

type Shared<U> = State<Arc<Front<U>>>;

/// Entries of one list of vouchers.
const ENTRIES: usize = 2048;

fn money<U: Upstream>(front: &Front<U>) -> Result<&Arc<Money>, Refusal> {
    front.money.as_ref().ok_or_else(|| {
        let message = "this proxy has no ledger in its measured configuration: it works unpaid";
        Refusal::request(StatusCode::NOT_FOUND, "unpaid", message)
    })
}

fn closed() -> Refusal {
    Refusal::books(&crate::books::NotBooked::Closed)
}

fn blob<V: Voucher>(signed: &Signed<V>) -> Blob {
    Blob::new(signed.to_bytes())
}

fn address(text: &str) -> Result<Address, Refusal> {
    let account: Account = text.parse().map_err(|error| Refusal::field(&error))?;
    Ok(Address { workchain: account.workchain, hash: account.hash })
}

fn phase(phase: Phase) -> (market::Phase, u32) {
    match phase {
        Phase::Waiting => (market::Phase::Waiting, 0),
        Phase::Active { epoch } => (market::Phase::Active, epoch),
        Phase::Over { epoch } => (market::Phase::Over, epoch),
    }
}

/// `GET /v1/models`.
pub async fn models<U: Upstream>(State(front): Shared<U>) -> Json<ModelList> {
    let object = |listed: Listed| ModelObject {
        id: listed.model.name,
        object: "model".into(),
        created: 0,
        owned_by: "chrysalis".into(),
    };
    let mut data: Vec<ModelObject> = front.workers.models().into_iter().map(object).collect();
    data.dedup();
    Json(ModelList { object: "list".into(), data })
}

fn model_terms(listed: Listed) -> ModelTerms {
    let (facts, capacity) = (listed.facts, listed.capacity);
    ModelTerms {
        name: listed.model.name,
        root: Hex32(listed.model.root),
        price: listed.price.map(stated),
        kind: facts.as_ref().map(|facts| facts.kind),
        context: facts.as_ref().map_or(0, |facts| facts.context),
        max_completion: facts.as_ref().map_or(0, |facts| facts.max_completion),
        workers: capacity.workers,
        free: capacity.free,
        predicted_ms_per_token: capacity.token_ms,
        predicted_first_ms: capacity.first_ms,
    }
}

/// `GET /chrysalis/v1/terms`.
pub async fn terms<U: Upstream>(State(front): Shared<U>) -> Result<Json<Terms>, Refusal> {
    let money = money(&front)?;
    let (phase, epoch) = phase(money.phase());
    Ok(Json(Terms {
        global_id: money.global_id(),
        pool: money.account(),
        root: money.root(),
        session_key: Hex32(money.key()),
        phase,
        epoch,
        commission: money.commission(),
        models: front.workers.models().into_iter().map(model_terms).collect(),
    }))
}

/// `GET /chrysalis/v1/vaults/ACCOUNT`.
pub async fn vault<U: Upstream>(
    State(front): Shared<U>,
    Path(vault): Path<String>,
) -> Result<Json<VaultTerms>, Refusal> {
    let money = money(&front)?;
    let vault = address(&vault)?;
    let known =
        || async { money.books().look(move |desk, _| desk.standing(&vault)).await.ok_or_else(closed) };
    let standing = match known().await? {
        Some(standing) => standing,
        None => {
            money.look(vault).await.map_err(|refusal| refusal.not_found())?;
            known().await?.ok_or_else(closed)?
        }
    };
    let floor = standing.used.saturating_add(standing.lost).saturating_add(standing.held);
    let last_use = standing.last.as_ref().map(blob);
    let (used, lost, held) = (standing.used, standing.lost, standing.held);
    Ok(Json(VaultTerms { used, lost, held, floor, last_use }))
}

/// `?model=&requests=&tokens=`; tokens are those of one request, half of them read and half written unless `prompt` says
/// how many are read.
#[derive(Debug, Deserialize)]
pub struct Wanted {
    model: String,
    #[serde(default = "one")]
    requests: u64,
    tokens: u32,
    prompt: Option<u32>,
}

fn one() -> u64 {
    1
}

/// `GET /chrysalis/v1/quote`.
pub async fn quote<U: Upstream>(
    State(front): Shared<U>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Quote>, Refusal> {
    money(&front)?;
    let (name, root) =
        wanted.model.split_once('@').map_or((wanted.model.as_str(), None), |(n, r)| (n, Some(r)));
    let root = root.map(str::parse::<Hex32>).transpose().map_err(|error| Refusal::field(&error))?;
    let unknown = || Refusal::worker(crate::router::NoWorker::UnknownModel);
    let (root, _) = front.workers.resolve(name, root.map(|root| root.0)).ok_or_else(unknown)?;
    let listed =
        front.workers.models().into_iter().find(|listed| listed.model.root == root).ok_or_else(unknown)?;
    let price = listed.price.ok_or_else(|| Refusal::worker(crate::router::NoWorker::TooDear))?;
    let prompt = wanted.prompt.unwrap_or(wanted.tokens / 2).min(wanted.tokens);
    let tokens = Tokens { prompt, completion: wanted.tokens - prompt, ..Tokens::default() };
    let too_much =
        || Refusal::request(StatusCode::BAD_REQUEST, "too_much", "so much costs more than there is");
    let charge_per_request = price.charge(&tokens).map_err(|_| too_much())?;
    let total = charge_per_request.checked_mul(wanted.requests).ok_or_else(too_much)?;
    let rate = listed.capacity.tokens_per_s;
    let all = u128::from(wanted.tokens) * u128::from(wanted.requests) * 1_000;
    let first = u128::from(listed.capacity.first_ms.unwrap_or(0));
    let needs = |rate: u64| u64::try_from(first + all / u128::from(rate.max(1))).unwrap_or(u64::MAX);
    Ok(Json(Quote {
        price: stated(price),
        charge_per_request,
        total,
        capacity_tokens_per_s: rate,
        predicted_ms: rate.map(needs),
    }))
}

/// `GET /chrysalis/v1/session`.
pub async fn session<U: Upstream>(State(front): Shared<U>) -> Result<Json<Consent>, Refusal> {
    let money = money(&front)?;
    let looked = money.books().look(|desk, now| (desk.phase(), desk.session(now))).await;
    let (stands, session) = looked.ok_or_else(closed)?;
    let (phase, epoch) = phase(stands);
    Ok(Json(Consent { phase, epoch, session: session.as_ref().map(blob) }))
}

/// `GET /chrysalis/v1/claims`.
pub async fn claims<U: Upstream>(State(front): Shared<U>) -> Result<Json<Claims>, Refusal> {
    let money = money(&front)?;
    let claims = money.books().look(|desk, _| desk.claims()).await.ok_or_else(closed)?;
    let entry = |claim: crate::books::OpenClaim| ClaimEntry {
        vault: account(claim.vault),
        cap: blob(&claim.cap),
        used: blob(&claim.used),
        due: claim.due,
        by: claim.by,
    };
    // The dearest first, where there are more than one list takes.
    let mut claims: Vec<ClaimEntry> = claims.into_iter().map(entry).collect();
    claims.sort_by_key(|claim| std::cmp::Reverse(claim.due));
    claims.truncate(ENTRIES);
    Ok(Json(Claims { claims }))
}

/// `GET /chrysalis/v1/payouts/ACCOUNT`.
pub async fn payouts<U: Upstream>(
    State(front): Shared<U>,
    Path(worker): Path<String>,
) -> Result<Json<Payouts>, Refusal> {
    let money = money(&front)?;
    let worker = address(&worker)?;
    let known = money.books().look(move |desk, _| desk.payouts(&worker)).await.ok_or_else(closed)?;
    let entry = |payout: Signed<payment::Payout>| PayoutEntry {
        epoch: payout.voucher.epoch,
        total: payout.voucher.total,
        payout: blob(&payout),
    };
    Ok(Json(Payouts { payouts: known.into_iter().map(entry).take(ENTRIES).collect() }))
}

/// `GET /chrysalis/v1/receipts/ACCOUNT/NUMBER`.
pub async fn receipt<U: Upstream>(
    State(front): Shared<U>,
    Path((vault, request)): Path<(String, String)>,
) -> Result<Json<ReceiptEntry>, Refusal> {
    let money = money(&front)?;
    let vault = address(&vault)?;
    let request: u64 = market::number("request", &request).map_err(|error| Refusal::field(&error))?;
    let kept = money.books().look(move |desk, _| desk.receipt(&vault, request)).await.ok_or_else(closed)?;
    match kept {
        Some(Kept::Charged { used, receipt }) => {
            Ok(Json(ReceiptEntry { used: blob(&used), receipt: blob(&receipt) }))
        }
        Some(Kept::Open) => {
            Err(Refusal::request(StatusCode::CONFLICT, "not_finished", "the request is under way; ask again"))
        }
        Some(Kept::Free) | None => {
            let message =
                "nothing was charged for a request of this number in this session, or it is too long ago";
            Err(Refusal::request(StatusCode::NOT_FOUND, "not_charged", message))
        }
    }
}

/// `GET /metrics`.
pub async fn metrics<U: Upstream>(State(front): Shared<U>) -> Response {
    let phase = front.money.as_ref().map(|money| money.phase());
    let gauges = Gauges {
        workers: front.workers.len() as u64,
        in_flight: front.in_flight() as u64,
        session: match phase {
            None => 0,
            Some(Phase::Waiting) => 1,
            Some(Phase::Active { .. }) => 2,
            Some(Phase::Over { .. }) => 3,
        },
        log_writes: front.money.as_ref().is_none_or(|money| money.books().standing().writes),
        chain_seen: front.money.as_ref().map_or(0, |money| money.seen()),
    };
    let mut response = front.metrics.page(&gauges).into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
