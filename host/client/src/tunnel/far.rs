//! The end beside the service: lets attested connections in, and brings each of their streams to the one service.

use super::pipe::{self, Outgoing};
use super::{Event, PATH, Report, StreamError, settings};
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use ratls::Acceptor;
use ratls::session::End;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Connections from the network at one time, attested or about to be.
const CONNECTIONS: usize = 256;
/// How long the service may take to accept a connection.
const SERVICE_DEADLINE: Duration = Duration::from_secs(10);

type Answer = Response<Either<Outgoing, Full<Bytes>>>;

/// What a far end is made of.
pub struct Far {
    acceptor: Acceptor,
    end: End,
    /// `HOST:PORT`
    service: String,
    report: Report,
}

impl Far {
    /// Lets in whom `acceptor` lets in; `end` must be of the same endpoint, and able to verify those again that are attested.
    pub fn new(acceptor: Acceptor, end: End, service: &str, report: Report) -> Self {
        Far { acceptor, end: end.with(settings()), service: service.into(), report }
    }

    /// Takes connections until `stop` is true, and returns when those that are here then were drained.
    pub async fn run(self, listener: TcpListener, stop: watch::Receiver<bool>) {
        let far = Arc::new(self);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let (mut stopped, mut hosted) = (stop.clone(), JoinSet::new());
        loop {
            let next = async {
                // Only `close` makes acquiring fail, and nobody closes it.
                let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
                (place, listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                next = next => next,
                // So that those who are gone are not kept in mind.
                Some(_) = hosted.join_next() => continue,
                _ = stopped.wait_for(|stop| *stop) => break,
            };
            let Ok((tcp, from)) = accepted else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (far, stop) = (far.clone(), stop.clone());
            hosted.spawn(async move {
                far.host(tcp, from, stop).await;
                drop(place);
            });
        }
        drop(listener);
        while hosted.join_next().await.is_some() {}
    }

    async fn host(self: Arc<Self>, tcp: TcpStream, from: SocketAddr, stop: watch::Receiver<bool>) {
        let _ = tcp.set_nodelay(true);
        let accepted = match self.acceptor.accept(tcp).await {
            Ok(accepted) => accepted,
            Err(error) => return (self.report)(Event::TurnedAway(from, &error)),
        };
        (self.report)(Event::LetIn(from, accepted.peer()));
        let far = self.clone();
        let service = service_fn(move |request| {
            let far = far.clone();
            async move { Ok::<_, Infallible>(far.answer(request).await) }
        });
        let ended = ratls::session::serve(accepted, self.end.clone(), service, stop).await;
        (self.report)(Event::Ended(&ended));
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        if request.method() != Method::POST || request.uri().path() != PATH {
            let here = format!("this is a tunnel, which takes POST {PATH}");
            return refused(StatusCode::NOT_FOUND, here);
        }
        let tcp = match self.reach().await {
            Ok(tcp) => Arc::new(tcp),
            Err((status, reason)) => {
                let error = StreamError::Service { target: self.service.clone(), reason: reason.clone() };
                (self.report)(Event::Failed(&error));
                // The address is this end's affair.
                return refused(status, format!("the service behind the tunnel: {reason}"));
            }
        };
        let outgoing = Outgoing::new(tcp.clone());
        tokio::spawn(async move {
            if let Err(error) = pipe::incoming(request.into_body(), &tcp).await {
                (self.report)(Event::Failed(&error));
            }
        });
        Response::new(Either::Left(outgoing))
    }

    async fn reach(&self) -> Result<TcpStream, (StatusCode, String)> {
        match tokio::time::timeout(SERVICE_DEADLINE, TcpStream::connect(&self.service)).await {
            Ok(Ok(tcp)) => {
                let _ = tcp.set_nodelay(true);
                Ok(tcp)
            }
            Ok(Err(error)) => Err((StatusCode::BAD_GATEWAY, error.to_string())),
            Err(_) => {
                let seconds = SERVICE_DEADLINE.as_secs();
                Err((StatusCode::GATEWAY_TIMEOUT, format!("no connection within {seconds} s")))
            }
        }
    }
}

fn refused(status: StatusCode, reason: String) -> Answer {
    let mut response = Response::new(Either::Right(Full::new(reason.into())));
    *response.status_mut() = status;
    response
}
