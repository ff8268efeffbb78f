//! `/v1/chat/completions` and `/v1/completions`: from a body to an answer that grows.

use crate::api::{broke_down, engine_fault};
use crate::ask::{Ask, Form, prompt_within};
use crate::desk::{Desk, Prompted, Refused, Ticket};
use crate::pool::{Model, Models};
use crate::reply::{Head, Reply};
use crate::stream::{Stream, Whole, head};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use daemon::body;
use daemon::fault::Fault;
use engine::{ClientId, Event};
use protocol::market::{self, Most};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// Numbers that nobody outside can foretell; a name, no secret.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
static NEXT: AtomicU64 = AtomicU64::new(0);

fn unique(what: &str) -> u64 {
    KEY.hash_one((what, NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// Who may share with whom: those who know the same key, and otherwise nobody.
fn client(cache_key: Option<&str>) -> ClientId {
    ClientId(cache_key.map_or_else(|| unique("stranger"), |key| KEY.hash_one(("key", key))))
}

/// `POST /v1/chat/completions`.
pub async fn chat(State(models): State<Arc<Models>>, request: Request) -> Result<Response, Fault> {
    let most = most(request.headers())?;
    let body = body::read(request.into_body()).await?;
    answer(&models, Ask::chat(&body, unique("seed"))?, most).await
}

/// `POST /v1/completions`.
pub async fn text(State(models): State<Arc<Models>>, request: Request) -> Result<Response, Fault> {
    let most = most(request.headers())?;
    let body = body::read(request.into_body()).await?;
    answer(&models, Ask::text(&body, unique("seed"))?, most).await
}

/// What the request pays for, if it says so.
pub fn most(headers: &HeaderMap) -> Result<Option<Most>, Fault> {
    let Some(most) = headers.get(market::header::MOST) else { return Ok(None) };
    let read = most.to_str().ok().and_then(|text| text.parse().ok());
    read.map(Some).ok_or_else(|| {
        let message =
            "chrysalis-most: expected PROMPT,COMPLETION in tokens, found something else".to_string();
        Fault::request("invalid_header", None, message)
    })
}

async fn answer(models: &Arc<Models>, mut ask: Ask, most: Option<Most>) -> Result<Response, Fault> {
    let Model::Writer(desk) = &models.find(&ask.model)?.model else {
        let message = format!("model `{}` makes vectors; ask /v1/embeddings for them", short(&ask.model));
        return Err(Fault::request("unsupported_model", Some("model"), message));
    };
    if let Some(most) = &most {
        ask.keep_within(most)?;
    }
    let (choices, logprobs) = (ask.request.choices, ask.request.logprobs.is_some());
    let prompted = prepare(models, desk, ask.request).await?;
    if let Some(most) = &most {
        prompt_within(prompted.tokens, most)?;
    }
    let tokens = prompted.tokens;
    let mut ticket =
        desk.submit(client(ask.cache_key.as_deref()), prompted).await.map_err(|refused| match refused {
            Refused::Engine(error) => engine_fault(error),
            Refused::Gone => broke_down(),
        })?;
    let read = started(&mut ticket, tokens).await?;
    let kind = if ask.form == Form::Chat { "chatcmpl" } else { "cmpl" };
    let about = Head {
        id: format!("{kind}-{:016x}", unique("id")),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
        model: ask.model,
        form: ask.form,
    };
    let reply = Reply::new(about, choices, ask.tools, logprobs, read);
    let head = head(reply.read(), models.load());
    let response = match ask.stream {
        true => streamed(Stream::new(ticket, reply, ask.usage)),
        false => whole(ticket, reply).await?,
    };
    Ok((head, response).into_response())
}

/// Lays the prompt out on a blocking thread.
async fn prepare(models: &Models, desk: &Desk, request: engine::Request) -> Result<Prompted, Fault> {
    let _place = models.enter().map_err(crate::api::compute_fault)?;
    let writer = desk.writer().clone();
    let prepared = models.blocking(move || writer.prepare(request)).await;
    prepared.ok_or_else(broke_down)?.map_err(engine_fault)
}

/// Waits until the request runs: tokens of its prompt, and how many of them were cached.
async fn started(ticket: &mut Ticket, tokens: usize) -> Result<(usize, usize), Fault> {
    match ticket.events.recv().await {
        Some(Event::Started { cached_tokens, .. }) => Ok((tokens, cached_tokens)),
        Some(Event::Failed { error, .. }) => Err(engine_fault(error)),
        // A request's first event is one of these two.
        Some(_) | None => Err(broke_down()),
    }
}

fn streamed(stream: Stream) -> Response {
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    let never = HeaderValue::from_static("no-cache");
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, never)], Body::new(stream)).into_response()
}

async fn whole(mut ticket: Ticket, mut reply: Reply) -> Result<Response, Fault> {
    let mut growths = Vec::new();
    while !reply.is_finished() {
        let event = ticket.events.recv().await.ok_or_else(broke_down)?;
        growths.extend(reply.take(event).map_err(engine_fault)?);
    }
    let bytes = reply.whole(growths).map_err(|_| broke_down())?;
    Ok(json(bytes, market::Usage::of(reply.read(), reply.written())))
}

/// A body of JSON with its count.
pub fn json(bytes: Vec<u8>, usage: market::Usage) -> Response {
    let kind = HeaderValue::from_static("application/json");
    let body = Body::new(Whole::new(bytes, usage));
    (StatusCode::OK, [(header::CONTENT_TYPE, kind)], body).into_response()
}

/// The beginning of a name that a stranger wrote.
pub fn short(name: &str) -> String {
    name.chars().take(64).collect()
}
