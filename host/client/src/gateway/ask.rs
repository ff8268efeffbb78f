//! One request of an app: which proxies can answer, in which order, and what is done when one doesn't.
//!
//! ```text
//! candidates (model, root, price of the book) -> cap, order -> sent -+-> answer
//!        ^                                                           |
//!        \--- next proxy: gone, busy, or lying before the first byte-/
//! ```
//! A request may run twice where a connection breaks before the first byte: the first one's hold then counts until it is
//! known that it was not charged.

use super::account::SignError;
use super::answer::{AppBody, Instead, pass_on, refusal};
use super::asked::Asked;
use super::fault::Fault;
use super::pending::{Pending, Sent};
use super::proxy::{Live, Proxy};
use super::{Gateway, now};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response, StatusCode};
use payment::Refused;
use payment::price::Price;
use protocol::market::{Blob, DevicePin, ModelTerms, header};
use ratls::session::Body;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a proxy may take to begin its answer; a guest in software emulation is slow.
const ANSWER: Duration = Duration::from_secs(300);
/// Tries of one request, over all proxies.
const TRIES: usize = 5;

/// What an app sent.
pub struct App {
    /// What it asks for.
    pub asked: Asked,
    /// Its body.
    pub body: Bytes,
    /// Whether it takes trailers.
    pub trailers: bool,
    /// `chrysalis-deadline-ms`, passed on.
    pub deadline_ms: Option<u64>,
    /// `chrysalis-device`, passed on.
    pub device: Option<DevicePin>,
}

/// A proxy that has what is asked for.
struct Candidate {
    proxy: Arc<Proxy>,
    live: Live,
    model: ModelTerms,
    price: Price,
}

/// What came of one try.
enum Tried {
    Answered(Response<AppBody>),
    /// Another proxy may do better.
    Next(Fault),
    /// None would.
    Final(Fault),
    /// The proxy counts more as used than this end did; it was asked, and may be tried again.
    Again(Fault),
    /// The connection broke before the first byte: another proxy, else this one once more.
    Gone,
}

impl Gateway {
    /// Answers an app.
    pub async fn ask(self: &Arc<Self>, app: App) -> Response<AppBody> {
        match self.answered(&app).await {
            Ok(response) => response,
            Err(fault) => fault.response::<Full<Bytes>>().map(|body| super::answer::whole_of(body)),
        }
    }

    async fn answered(self: &Arc<Self>, app: &App) -> Result<Response<AppBody>, Fault> {
        self.seen().await;
        let request_hash: [u8; 32] = Sha256::digest(&app.body).into();
        let mut tried: Vec<payment::Address> = Vec::new();
        let (mut last, mut gone) = (None, None);
        for _ in 0..TRIES {
            let candidate = match self.candidate(&app.asked, &tried).await {
                Ok(candidate) => candidate,
                Err(fault) => match gone.take() {
                    // Nobody else: the one whose connection broke, over a new one.
                    Some(pool) => {
                        tried.retain(|one| *one != pool);
                        continue;
                    }
                    None => return Err(last.unwrap_or(fault)),
                },
            };
            let pool = candidate.proxy.pool();
            match self.attempt(candidate, app, request_hash).await {
                Tried::Answered(response) => return Ok(response),
                Tried::Final(fault) => return Err(fault),
                Tried::Again(fault) if last.is_none() => last = Some(fault),
                Tried::Gone => {
                    gone = last.is_none().then_some(pool);
                    tried.push(pool);
                    last = Some(broken());
                }
                Tried::Next(fault) | Tried::Again(fault) => {
                    tried.push(pool);
                    last = Some(fault);
                }
            }
        }
        Err(last.unwrap_or_else(nobody))
    }

    /// The best proxy that was not tried: of those that are connected, else of those that can be.
    async fn candidate(&self, asked: &Asked, tried: &[payment::Address]) -> Result<Candidate, Fault> {
        let proxies: Vec<_> = self.proxies().into_iter().filter(|p| !tried.contains(&p.pool())).collect();
        let mut why = Vec::new();
        let mut fitting: Vec<Candidate> = Vec::new();
        for proxy in &proxies {
            if let Some(live) = proxy.connected() {
                self.fits(proxy, live, asked, &mut fitting, &mut why);
            }
        }
        if fitting.is_empty() {
            let mut dials = JoinSet::new();
            for proxy in proxies.into_iter().filter(|proxy| proxy.connected().is_none()) {
                dials.spawn(async move { (proxy.live().await, proxy) });
            }
            while let Some(dialled) = dials.join_next().await {
                match dialled {
                    Ok((Ok(live), proxy)) => self.fits(&proxy, live, asked, &mut fitting, &mut why),
                    Ok((Err(error), proxy)) => why.push(refused_by(&proxy, &error)),
                    Err(_) => {}
                }
                if !fitting.is_empty() {
                    break;
                }
            }
        }
        let busy =
            |c: &Candidate| (c.model.free == 0, c.live.requests.in_flight(), c.model.predicted_first_ms);
        fitting.sort_by_key(busy);
        fitting.into_iter().next().ok_or_else(|| self.nobody_fits(asked, why))
    }

    /// Adds a candidate for each model that fits, or says why there is none.
    fn fits(
        &self,
        proxy: &Arc<Proxy>,
        live: Live,
        asked: &Asked,
        to: &mut Vec<Candidate>,
        why: &mut Vec<Fault>,
    ) {
        let facts = self.facts();
        for model in live.models(&asked.model, asked.root) {
            let Some(price) = facts.prices.get(&model.root.0).copied() else {
                why.push(Fault::away("no_price", "the root's book has no price for this model yet"));
                continue;
            };
            if model.price != Some(price_of(&price)) {
                let message = format!(
                    "{}: its price is not that of the root's book at block {}; nothing was sent",
                    proxy.endpoint(),
                    facts.seqno
                );
                why.push(Fault::peer("price_differs", message));
                continue;
            }
            if let Some(most) = self.settings.max_price.filter(|most| price.base > *most) {
                let message = format!(
                    "the model costs {} nanoTON for a million tokens, --max-price is {most}; raise it, or ask for another model",
                    price.base
                );
                why.push(Fault::payment("price_too_high", message));
                continue;
            }
            let (proxy, live, model) = (proxy.clone(), live.clone(), model.clone());
            to.push(Candidate { proxy, live, model, price });
        }
    }

    /// The reason that tells most, where nobody has what is asked for.
    fn nobody_fits(&self, asked: &Asked, mut why: Vec<Fault>) -> Fault {
        if let Some(fault) = self.no_vault() {
            return fault;
        }
        // The first that a person can act on: a price, then proxies that were refused, then those that are away.
        why.sort_by_key(|fault| {
            (fault.code() != "price_too_high", fault.code() != "price_differs", fault.status() != 502)
        });
        let listed = self.models();
        if let Some(fault) =
            why.into_iter().next().filter(|f| listed.is_empty() || f.code().starts_with("price"))
        {
            return fault;
        }
        if listed.is_empty() {
            return nobody();
        }
        let names: Vec<_> = listed.iter().map(|model| model.id.as_str()).take(16).collect();
        let (code, what) = match asked.root {
            Some(_) => ("model_root_not_found", "no proxy has this model with these exact weights"),
            None => ("model_not_found", "no proxy has this model"),
        };
        let message = format!("{what}; there are: {}", names.join(", "));
        Fault::request(code, Some("model"), message).with(StatusCode::NOT_FOUND)
    }

    async fn attempt(self: &Arc<Self>, candidate: Candidate, app: &App, request_hash: [u8; 32]) -> Tried {
        let Candidate { proxy, live, model, price } = candidate;
        let most = app.asked.most(model.context, model.max_completion);
        let number = self.next_number();
        let tokens =
            payment::price::Tokens { prompt: most.prompt, completion: most.completion, ..Default::default() };
        let hold = price.charge(&tokens).unwrap_or(u64::MAX);
        let signed = proxy.account().sign(number, request_hash, price, &most, now()).await;
        let (cap, order) = match signed {
            Ok(signed) => signed,
            Err(error) => return unsigned(&error),
        };
        let sent = Sent {
            number,
            path: app.asked.endpoint.path(),
            model: model.name.clone(),
            root: model.root.0,
            request_hash,
            most,
            hold,
            key: live.key,
        };
        let pending = Pending::new(sent, proxy.clone(), self.book.clone());
        let mut request = Request::post(app.asked.endpoint.path())
            .header(CONTENT_TYPE, "application/json")
            .header(header::VAULT, proxy.account().address().to_string())
            .header(header::REQUEST, number)
            .header(header::CAP, Blob::new(cap.to_bytes()).to_string())
            .header(header::ORDER, Blob::new(order.to_bytes()).to_string())
            .header(header::MOST, most.to_string());
        if let Some(most) = self.settings.max_price {
            request = request.header(header::MAX_PRICE, most);
        }
        if let Some(deadline) = app.deadline_ms {
            request = request.header(header::DEADLINE_MS, deadline);
        }
        if let Some(device) = app.device {
            request = request.header(header::DEVICE, device.to_string());
        }
        let request = match request.body(Full::new(app.body.clone())) {
            Ok(request) => request,
            Err(error) => {
                pending.refused();
                return Tried::Final(Fault::internal("defect", error.to_string()));
            }
        };
        match timeout(ANSWER, live.requests.send(request)).await {
            Ok(Ok(response)) => received(response, pending, &proxy, &live, app.trailers).await,
            Ok(Err(error)) => {
                proxy.broke(&live);
                if error.is_unsent() {
                    pending.refused();
                }
                Tried::Gone
            }
            Err(_) => Tried::Next(Fault::away("no_answer", "the proxy did not begin its answer in time")),
        }
    }
}

async fn received(
    response: Response<Body>,
    pending: Pending,
    proxy: &Proxy,
    live: &Live,
    trailers: bool,
) -> Tried {
    if response.status() == StatusCode::OK {
        return match pass_on(response, pending, trailers).await {
            Ok(answer) => Tried::Answered(answer),
            Err(Instead::Unfit(fault)) => Tried::Next(fault),
            Err(Instead::Broken | Instead::Refused(..)) => Tried::Gone,
        };
    }
    let Instead::Refused(status, fault) = refusal(response).await else { return Tried::Gone };
    // A refusal on the attested connection: nothing was dispatched.
    pending.refused();
    match status.as_u16() {
        // What it counts as used may have grown by what a crash left open.
        402 => match proxy.agree(&live.requests, &live.key).await {
            Ok(()) => Tried::Again(fault),
            Err(error) => {
                if error.is_peer_fault() {
                    proxy.leave(error.to_string());
                }
                Tried::Next(fault)
            }
        },
        // 409: no price that it would take, which another one may have.
        404 | 409 | 429 | 500.. => Tried::Next(fault),
        _ => Tried::Final(fault),
    }
}

/// Why no cap was signed, for the app.
fn unsigned(error: &SignError) -> Tried {
    let refused = match error {
        SignError::Refused(refused) => refused,
        SignError::Keep(error) => return Tried::Final(Fault::internal("not_kept", error.to_string())),
    };
    let message = refused.to_string();
    match refused {
        Refused::OverLimit { what: "a day", .. } => Tried::Next(Fault::quota("day_limit", message)),
        Refused::OverLimit { .. } => Tried::Final(Fault::request(
            "request_limit",
            None,
            format!("{message}, or ask for fewer tokens (`max_tokens`)"),
        )),
        Refused::DepositTooLow { need, found, .. } => {
            let message = format!(
                "the vault is empty or nearly so: it needs {need} nanoTON in all, it has had {found}; add {} with `chrysalis vault top-up`",
                need.saturating_sub(*found)
            );
            Tried::Next(Fault::payment("vault_empty", message))
        }
        Refused::UnknownVault { .. } | Refused::VaultCloses { .. } => Tried::Next(Fault::payment(
            "vault_closed",
            format!("{message}; open another with `chrysalis vault open`"),
        )),
        Refused::TooMuch(_) => Tried::Final(Fault::request("request_limit", None, message)),
        _ => Tried::Next(Fault::away("no_session", message)),
    }
}

fn refused_by(proxy: &Proxy, error: &super::proxy::ProxyError) -> Fault {
    let message = format!("proxy {}: {error}", proxy.endpoint());
    match error.is_peer_fault() || proxy.is_left() {
        true => Fault::peer("proxy_refused", message),
        false => Fault::away("proxy_away", message),
    }
}

fn broken() -> Fault {
    Fault::away("no_answer", "the connection to the proxy broke before it answered")
}

fn nobody() -> Fault {
    Fault::away("no_proxy", "no proxy can be asked at the moment; try again soon")
}

/// A price as the market writes it.
pub fn price_of(price: &Price) -> protocol::market::Price {
    let Price { base, prompt, cached, completion, reasoning } = *price;
    protocol::market::Price { base, prompt, cached, completion, reasoning }
}
