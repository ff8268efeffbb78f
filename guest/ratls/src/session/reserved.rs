//! What the HTTP server end answers itself: a challenge, a renewal, a rest. Everything else is the application's.
//!
//! | request | answer |
//! |---|---|
//! | `POST /.chrysalis/attest`, Challenge | 200 Evidence; 403 what this end can't or won't show; 429 asked a moment ago; 503 no quote at the moment |
//! | `POST /.chrysalis/renew`, empty | 200 Challenge; 404 where the client end is not attested |
//! | `POST /.chrysalis/renew`, Evidence | 204; 403 refused, and the session ends; 409 nothing was asked |
//! | `POST /.chrysalis/rest`, empty | 204 both put HTTP/2 away; 409 other streams are open |
//! | any other | 404 |

use super::body::Counted;
use super::guard::Guard;
use super::wire::Activity;
use super::{ATTEST, RENEW, RESERVED, REST};
use crate::{Peer, Step};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode};
use protocol::channel::{MAX_CHALLENGE, MAX_SHOWN};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A second challenge in less than this part of the age at which proofs are renewed is turned away.
const TOO_SOON: u32 = 32;

/// Beside each request, as an extension: what its sender was proved to be; `None` for an anonymous client.
#[derive(Debug, Clone)]
pub struct Caller(pub Option<Peer>);

/// The HTTP server end of one session.
pub(super) struct Shared {
    pub(super) guard: Guard,
    pub(super) activity: Arc<Activity>,
    /// One reserved request at a time, since each may cost a quote or an appraisal; and when a challenge was taken last.
    turn: Mutex<Option<Instant>>,
}

impl Shared {
    pub(super) fn new(guard: Guard) -> Self {
        Shared { guard, activity: Arc::default(), turn: Mutex::default() }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if head.method != Method::POST || ![ATTEST, RENEW, REST].contains(&path) {
            return status(StatusCode::NOT_FOUND);
        }
        let mut last = self.turn.lock().await;
        let limit = if path == RENEW { MAX_SHOWN } else { MAX_CHALLENGE };
        let body = tokio::time::timeout(Step::Evidence.deadline(), Limited::new(body, limit).collect()).await;
        let Ok(Ok(body)) = body else { return status(StatusCode::BAD_REQUEST) };
        let body = body.to_bytes();
        match path {
            ATTEST => {
                let soon = last.is_some_and(|last| last.elapsed() < self.guard.settings.renew / TOO_SOON);
                if soon {
                    return status(StatusCode::TOO_MANY_REQUESTS);
                }
                *last = Some(Instant::now());
                self.attest(&body).await
            }
            RENEW if body.is_empty() => self.ask(),
            RENEW => match self.guard.answered(&body) {
                None => status(StatusCode::CONFLICT),
                Some(true) => status(StatusCode::NO_CONTENT),
                Some(false) => status(StatusCode::FORBIDDEN),
            },
            _ => self.rest(),
        }
    }

    async fn attest(&self, challenge: &[u8]) -> Response<Full<Bytes>> {
        match self.guard.me.answer(&self.guard.link, challenge).await {
            Ok(evidence) => Response::new(Full::from(evidence)),
            Err(error) if error.is_peer_fault() => status(StatusCode::FORBIDDEN),
            Err(_) => status(StatusCode::SERVICE_UNAVAILABLE),
        }
    }

    fn ask(&self) -> Response<Full<Bytes>> {
        match self.guard.ask_and_keep() {
            Some(Ok(challenge)) => Response::new(Full::from(challenge)),
            Some(Err(_)) => status(StatusCode::SERVICE_UNAVAILABLE),
            None => status(StatusCode::NOT_FOUND),
        }
    }

    /// Agrees if this very request is the only one.
    fn rest(&self) -> Response<Full<Bytes>> {
        if self.activity.streams() != 1 {
            return status(StatusCode::CONFLICT);
        }
        self.activity.resting.store(true, Ordering::SeqCst);
        status(StatusCode::NO_CONTENT)
    }
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// The application behind the reserved paths.
pub(super) struct Fronted<Svc> {
    pub(super) service: Svc,
    pub(super) shared: Arc<Shared>,
}

type Answer<B, E> = Result<Response<Counted<Either<Full<Bytes>, Pin<Box<B>>>>>, E>;

impl<Svc, B> Service<Request<Incoming>> for Fronted<Svc>
where
    Svc: Service<Request<Incoming>, Response = Response<B>>,
    Svc::Future: Send + 'static,
    Svc::Error: 'static,
    B: Body<Data = Bytes>,
{
    type Response = Response<Counted<Either<Full<Bytes>, Pin<Box<B>>>>>;
    type Error = Svc::Error;
    type Future = Pin<Box<dyn Future<Output = Answer<B, Svc::Error>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let held = self.shared.activity.hold();
        if request.uri().path().starts_with(RESERVED) {
            let shared = self.shared.clone();
            return Box::pin(async move {
                let response = shared.answer(request).await;
                Ok(response.map(|body| Counted::new(Either::Left(body), held)))
            });
        }
        request.extensions_mut().insert(Caller(self.shared.guard.peer()));
        let answered = self.service.call(request);
        Box::pin(async move {
            let response = answered.await?;
            Ok(response.map(|body| Counted::new(Either::Right(Box::pin(body)), held)))
        })
    }
}
