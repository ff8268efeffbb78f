//! HTTP/1.1 on loopback: who is let in, what is bounded, and the routes.
//!
//! A page in a browser must not reach it: the `Host` must be a loopback name (else another name was made to point here, DNS
//! rebinding), and an `Origin`, which browsers send along, must be too. Whoever is on this machine may ask, unless a token
//! was set. Nothing of a request or an answer is logged.

use super::answer::{AppBody, whole_of};
use super::ask::App;
use super::asked::{Asked, Endpoint};
use super::fault::Fault;
use super::{Gateway, status};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, ORIGIN, TE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::market::{MarketError, header};
use protocol::openai::ModelList;
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Largest body of a request, bytes: what a proxy takes.
pub const MAX_BODY: usize = 1024 * 1024;
/// How long a body may take.
const BODY: Duration = Duration::from_secs(30);
/// How long the head of a request may take, and a connection idle.
const HEAD: Duration = Duration::from_secs(60);
/// Connections of apps at one time.
const CONNECTIONS: usize = 256;
/// Requests under way at one time.
const REQUESTS: usize = 128;
/// How long requests under way may still take once it was told to stop.
const GRACE: Duration = Duration::from_secs(20);

/// An address that isn't this machine's own.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0}: expected a loopback address (127.0.0.1 or [::1]): whoever reaches the gateway spends from the vault"
)]
pub struct NotLoopback(pub SocketAddr);

/// Checks an address to listen on.
///
/// # Errors
/// [`NotLoopback`].
pub fn loopback(address: SocketAddr) -> Result<SocketAddr, NotLoopback> {
    if address.ip().is_loopback() { Ok(address) } else { Err(NotLoopback(address)) }
}

/// Serves until `stop` becomes true, then gives what is under way its grace.
pub async fn serve(gateway: Arc<Gateway>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let in_flight = Arc::new(Semaphore::new(REQUESTS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = accept(&listener, &places) => accepted,
        };
        while connections.try_join_next().is_some() {}
        let Some((tcp, place)) = accepted else { continue };
        let (gateway, in_flight, mut stop) = (gateway.clone(), in_flight.clone(), stop.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let (gateway, in_flight) = (gateway.clone(), in_flight.clone());
                async move { Ok::<_, Infallible>(answer(gateway, in_flight, request).await) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
            let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(tcp), service));
            // An app that breaks off is no event.
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = stop.wait_for(|stop| *stop) => {}
            }
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
            drop(place);
        });
    }
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(GRACE, all).await;
}

type Place = tokio::sync::OwnedSemaphorePermit;

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<(tokio::net::TcpStream, Place)> {
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((tcp, _)) => {
            let _ = tcp.set_nodelay(true);
            Some((tcp, place))
        }
        // One connection that is gone already, or want of descriptors, which passes.
        Err(_) => {
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn answer(
    gateway: Arc<Gateway>,
    in_flight: Arc<Semaphore>,
    request: Request<Incoming>,
) -> Response<AppBody> {
    match route(&gateway, &in_flight, request).await {
        Ok(response) => response,
        Err(fault) => fault.response::<Full<Bytes>>().map(whole_of),
    }
}

async fn route(
    gateway: &Arc<Gateway>,
    in_flight: &Arc<Semaphore>,
    request: Request<Incoming>,
) -> Result<Response<AppBody>, Fault> {
    let_in(request.headers(), gateway.settings.token.as_ref())?;
    let path = request.uri().path().to_owned();
    if let Some(endpoint) = Endpoint::of(&path) {
        method(&request, &Method::POST)?;
        let Ok(place) = in_flight.clone().try_acquire_owned() else {
            let message = format!("{REQUESTS} requests are under way already; try again");
            return Err(Fault::away("overloaded", message));
        };
        let app = read(endpoint, request).await?;
        let response = gateway.ask(app).await;
        return Ok(response.map(|body| held(body, place)));
    }
    let got = match path.as_str() {
        "/v1/models" => json(&ModelList { object: "list".into(), data: gateway.listed().await }),
        "/healthz" => json(&serde_json::json!({ "status": "ok" })),
        status::PATH => json(&gateway.status()),
        status::METRICS => text(gateway.status().metrics()),
        _ => {
            let message = "no such path; there are GET /v1/models, POST /v1/chat/completions, /v1/completions and /v1/embeddings";
            return Err(Fault::request("unknown_url", None, message).with(StatusCode::NOT_FOUND));
        }
    };
    method(&request, &Method::GET)?;
    Ok(got)
}

/// The place is held until the last byte.
fn held(body: AppBody, place: Place) -> AppBody {
    body.map_frame(move |frame| {
        let _held = &place;
        frame
    })
    .boxed_unsync()
}

fn method(request: &Request<Incoming>, expected: &Method) -> Result<(), Fault> {
    if request.method() == expected {
        return Ok(());
    }
    let message = format!("this path takes {expected}");
    Err(Fault::request("method_not_allowed", None, message).with(StatusCode::METHOD_NOT_ALLOWED))
}

async fn read(endpoint: Endpoint, request: Request<Incoming>) -> Result<App, Fault> {
    let te = request.headers().get_all(TE).iter().filter_map(|value| value.to_str().ok());
    let trailers =
        te.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case("trailers"));
    let deadline =
        request.headers().get(header::DEADLINE_MS).and_then(|value| value.to_str().ok()?.parse().ok());
    let device =
        request.headers().get(header::DEVICE).map(|value| value.to_str().unwrap_or_default().parse());
    let device = device.transpose().map_err(|error: MarketError| {
        Fault::request("invalid_header", None, format!("{}: {error}", header::DEVICE))
    })?;
    let body = match timeout(BODY, Limited::new(request.into_body(), MAX_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("the body is longer than {MAX_BODY} bytes; send less at once");
            return Err(Fault::request("body_too_large", None, message).with(StatusCode::PAYLOAD_TOO_LARGE));
        }
        Ok(Err(_)) => return Err(Fault::request("body_cut", None, "the body broke off")),
        Err(_) => {
            let message = format!("the body did not come within {} s", BODY.as_secs());
            return Err(Fault::request("request_timeout", None, message).with(StatusCode::REQUEST_TIMEOUT));
        }
    };
    Ok(App { asked: Asked::read(endpoint, &body)?, body, trailers, deadline_ms: deadline, device })
}

/// Whether a request comes from a program on this machine that may ask.
fn let_in(headers: &HeaderMap, token: Option<&[u8; 32]>) -> Result<(), Fault> {
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let host = headers.get(HOST).map(text).unwrap_or_default();
    if !is_loopback_name(&host) {
        let message = "the Host of this request is no loopback name: ask http://127.0.0.1, http://localhost or http://[::1]";
        return Err(Fault::request("foreign_host", None, message).with(StatusCode::FORBIDDEN));
    }
    let origin = headers.get(ORIGIN).map(text);
    let local = |origin: &str| origin.split_once("://").is_some_and(|(_, host)| is_loopback_name(host));
    if origin.is_some_and(|origin| !local(&origin)) {
        let message = "pages of other origins are not let in";
        return Err(Fault::request("foreign_origin", None, message).with(StatusCode::FORBIDDEN));
    }
    let Some(token) = token else { return Ok(()) };
    let given = headers.get(AUTHORIZATION).map(text).unwrap_or_default();
    let given = given.strip_prefix("Bearer ").unwrap_or_default();
    // Of hashes, so that how much of it was right takes no telling time.
    if <[u8; 32]>::from(Sha256::digest(given)) == *token {
        return Ok(());
    }
    let message = "the bearer token is not the gateway's; give the one of its --token-file as the API key";
    Err(Fault::request("invalid_api_key", None, message).with(StatusCode::UNAUTHORIZED))
}

/// A host with or without a port that can only be this machine.
fn is_loopback_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn json<T: serde::Serialize>(value: &T) -> Response<AppBody> {
    // What is served here always has a JSON.
    typed(serde_json::to_vec(value).unwrap_or_default(), "application/json")
}

fn text(text: String) -> Response<AppBody> {
    typed(text.into_bytes(), "text/plain; version=0.0.4")
}

fn typed(bytes: Vec<u8>, kind: &'static str) -> Response<AppBody> {
    let mut response = Response::new(super::answer::whole(bytes.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_name_that_was_made_to_point_here_is_refused() {
        for host in ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:80", "127.8.9.1", "[::1]"] {
            assert!(let_in(&fields(&[("host", host)]), None).is_ok(), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "10.0.0.1",
            "127.0.0.1.evil",
            "0.0.0.0",
            "[::]",
        ] {
            let fault = let_in(&fields(&[("host", host)]), None).unwrap_err();
            assert_eq!((fault.status(), fault.code()), (403, "foreign_host"), "{host}");
        }
        assert!(let_in(&fields(&[]), None).is_err());
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let with = |origin| fields(&[("host", "localhost"), ("origin", origin)]);
        for origin in ["https://evil.example", "null", "http://127.0.0.1.evil.example", ""] {
            assert_eq!(let_in(&with(origin), None).unwrap_err().code(), "foreign_origin", "{origin}");
        }
        assert!(let_in(&with("http://localhost:3000"), None).is_ok());
    }

    #[test]
    fn with_a_token_only_its_holder_is_let_in() {
        let token: [u8; 32] = Sha256::digest("right").into();
        let with = |value| fields(&[("host", "localhost"), ("authorization", value)]);
        assert!(let_in(&with("Bearer right"), Some(&token)).is_ok());
        for wrong in ["Bearer wrong", "right", "Bearer ", "Basic right", "bearer"] {
            assert_eq!(let_in(&with(wrong), Some(&token)).unwrap_err().status(), 401, "{wrong}");
        }
        assert!(let_in(&fields(&[("host", "localhost")]), Some(&token)).is_err());
    }

    #[test]
    fn an_address_that_others_reach_is_refused_by_name() {
        assert!(loopback("127.0.0.1:8080".parse().unwrap()).is_ok());
        for address in ["0.0.0.0:8080", "192.168.0.1:1", "[::]:8080"] {
            let error = loopback(address.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains(address) && error.contains("loopback"), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_other_name_is_taken_for_this_machine(host in "[a-z0-9.:\\[\\]@/-]{0,30}|.{0,12}") {
            if is_loopback_name(&host) {
                let bare = host.to_ascii_lowercase();
                let local = ["localhost", "127.", "[", "::", "0"].iter().any(|start| bare.starts_with(start));
                proptest::prop_assert!(local, "{}", host);
            }
        }
    }
}
