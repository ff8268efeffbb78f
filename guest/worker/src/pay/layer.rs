//! The layer around the OpenAI-shaped routes: which model, who pays, and then the meter on the answer.

use super::meter::Metered;
use super::routes::{self, Facts};
use super::{Patron, Pay, Pins, http};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header::CONTENT_LENGTH};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use daemon::body;
use daemon::fault::Fault;
use daemon::ledger;
use payment::PublicKey;
use protocol::channel::Part;
use protocol::config::StaticConfig;
use protocol::market::{Account, Device, header};
use ratls::session::Caller;
use std::str::FromStr;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Bodies that are read at one time.
const READING: usize = 64;

/// What the layer knows.
struct Gate {
    pins: Pins,
    pay: Option<Arc<Pay>>,
    reading: Semaphore,
}

/// `routes` behind the layer, with the routes of the market beside them. Without `pay` all work is unpaid.
pub fn router(routes: Router, pins: Pins, pay: Option<Arc<Pay>>, facts: Facts, device: Device) -> Router {
    let gate = Arc::new(Gate { pins, pay: pay.clone(), reading: Semaphore::new(READING) });
    routes::beside(routes, pay, facts, device).layer(middleware::from_fn_with_state(gate, guard))
}

async fn guard(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let asks = request.method() == Method::POST && request.uri().path().starts_with("/v1/");
    if !asks {
        gate.meet(&request);
        return next.run(request).await;
    }
    gate.take(request, next).await.unwrap_or_else(IntoResponse::into_response)
}

impl Gate {
    /// A proxy that looks at this worker will send it work: its pool is watched from then on, not from the first job on.
    fn meet(&self, request: &Request) {
        if let (Some(pay), Ok(patron)) = (&self.pay, attested(request)) {
            pay.meet(patron);
        }
    }

    async fn take(&self, request: Request, next: Next) -> Result<Response, Fault> {
        // Before anything is read: who doesn't pay costs nothing.
        let patron = match &self.pay {
            Some(_) => Some(patron(&request)?),
            None => None,
        };
        let (mut head, body) = request.into_parts();
        let bytes = {
            let busy = |_| Fault::server(http::SERVICE_UNAVAILABLE, "overloaded", "too much is read".into());
            let _place = self.reading.try_acquire().map_err(busy)?;
            body::read(body).await?
        };
        let meant = self.pins.meant(&bytes)?;
        let job = match (&self.pay, patron) {
            (Some(pay), Some(patron)) => {
                let (price, most) =
                    (field(&head.headers, header::PRICE)?, field(&head.headers, header::MOST)?);
                Some(pay.admit(patron, &meant.root, &price, &most).await?)
            }
            _ => None,
        };
        let bytes = meant.body.map_or(bytes, Bytes::from);
        head.headers.remove(CONTENT_LENGTH);
        let response = next.run(Request::from_parts(head, Body::from(bytes))).await;
        let (head, body) = response.into_parts();
        match job.filter(|_| head.status.is_success()) {
            Some(job) => {
                Ok(Response::from_parts(head.clone(), Body::new(Metered::new(body, &head.headers, job))))
            }
            None => Ok(Response::from_parts(head, body)),
        }
    }
}

/// The proxy that asks, with the pool that it names.
fn patron(request: &Request) -> Result<Patron, Fault> {
    let patron = attested(request)?;
    let named: Account = field(request.headers(), header::POOL)?;
    if ledger::address(named) != patron.pool {
        return Err(unpaid("chrysalis-pool is not the pool of the proxy's measured configuration"));
    }
    Ok(patron)
}

/// The proxy that was attested on this connection, with the pool of its measured configuration.
fn attested(request: &Request) -> Result<Patron, Fault> {
    let caller = request.extensions().get::<Caller>().and_then(|caller| caller.0.as_ref());
    let peer =
        caller.filter(|peer| peer.part() == Part::Proxy).ok_or_else(|| unpaid("no attested proxy asks"))?;
    let config = StaticConfig::parse(peer.static_config()).ok();
    let pool = config.and_then(|config| config.pool).ok_or_else(|| unpaid("the proxy has no pool"))?.address;
    let key = peer.keys().get("sk").and_then(|key| <[u8; 32]>::try_from(key).ok());
    let key = key.and_then(|key| PublicKey::from_bytes(&key).ok());
    let key = key.ok_or_else(|| unpaid("the proxy's channel binds no session key"))?;
    Ok(Patron { pool: ledger::address(pool), key })
}

fn unpaid(why: &str) -> Fault {
    let message = format!("{why}; this worker is paid through proxies: ask one of them");
    Fault::request("payment_required", None, message).status(http::PAYMENT_REQUIRED)
}

/// A header field that a proxy must send.
fn field<T: FromStr>(headers: &HeaderMap, name: &'static str) -> Result<T, Fault> {
    let value = headers.get(name).and_then(|value| value.to_str().ok()).and_then(|value| value.parse().ok());
    value.ok_or_else(|| {
        let message = format!("{name}: missing or malformed; a proxy sends it with each job");
        Fault::request("payment_required", Some(name), message).status(http::PAYMENT_REQUIRED)
    })
}
