//! The HTTP server end.

use super::guard::Guard;
use super::reserved::{Fronted, Shared};
use super::wire::{Gathering, Lease, Wire};
use super::{End, Ended, Established, Reason, Settings, is_gone};
use hyper::Request;
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http2::{Builder, Connection};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::error::Error;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

type Awake<S, Svc> = Gathering<Connection<TokioIo<Lease<S>>, Fronted<Svc>, TokioExecutor>, S>;

/// How one HTTP/2 connection of a session came to its end.
enum Turn {
    Rests,
    Ended(Reason),
}

/// Serves HTTP/2 on an attested connection until it ends, whichever end dialled. Each request carries a
/// [`super::Caller`]. `stop` becoming true, or losing its sender, drains it.
pub fn serve<S, Svc, B>(
    connection: impl Into<Established<S>>,
    end: End,
    service: Svc,
    stop: watch::Receiver<bool>,
) -> impl Future<Output = Ended> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Svc: Service<Request<Incoming>, Response = hyper::Response<B>> + Clone + Send + 'static,
    Svc::Future: Send + 'static,
    Svc::Error: Into<Box<dyn Error + Send + Sync>> + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let Established { stream, link, peer } = connection.into();
    let shared = Arc::new(Shared::new(Guard::new(end, link, peer)));
    let wire = Wire::new(stream, shared.activity.clone());
    async move {
        let (reason, cut) = wakes(&wire, &shared, service, stop).await;
        wire.close().await;
        Ended { reason, cut }
    }
}

/// One HTTP/2 connection after the other, until the session ends: why, and how many streams were open then.
async fn wakes<S, Svc, B>(
    wire: &Wire<S>,
    shared: &Arc<Shared>,
    service: Svc,
    stop: watch::Receiver<bool>,
) -> (Reason, usize)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Svc: Service<Request<Incoming>, Response = hyper::Response<B>> + Clone + Send + 'static,
    Svc::Future: Send + 'static,
    Svc::Error: Into<Box<dyn Error + Send + Sync>> + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut over = pin!(shared.guard.over(stop));
    loop {
        // At rest, and before the first request: nothing of HTTP/2 is kept until a byte comes.
        let Some(mut lease) = wire.lend() else { return (Reason::Closed, 0) };
        tokio::select! {
            reason = over.as_mut() => return (reason, 0),
            heard = lease.hears() => match heard {
                Ok(true) => {}
                Ok(false) => return (Reason::Closed, 0),
                Err(error) => return (Reason::Broken(error.into()), 0),
            },
        }
        // In a box, so that a session at rest has no room for what only one that is awake needs.
        if let Some(ended) = Box::pin(awake(wire, lease, shared, service.clone(), over.as_mut())).await {
            return ended;
        }
    }
}

/// One HTTP/2 connection; `None` once it rests, else why the session ends and how many streams are open still.
async fn awake<S, Svc, B>(
    wire: &Wire<S>,
    lease: Lease<S>,
    shared: &Arc<Shared>,
    service: Svc,
    mut over: Pin<&mut impl Future<Output = Reason>>,
) -> Option<(Reason, usize)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Svc: Service<Request<Incoming>, Response = hyper::Response<B>> + Send + 'static,
    Svc::Future: Send + 'static,
    Svc::Error: Into<Box<dyn Error + Send + Sync>> + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let settings = &shared.guard.settings;
    shared.activity.resting.store(false, Ordering::SeqCst);
    let fronted = Fronted { service, shared: shared.clone() };
    let serving = Box::pin(builder(settings).serve_connection(TokioIo::new(lease), fronted));
    let mut awake = wire.gathering(serving);
    let reason = tokio::select! {
        turn = turn(&mut awake, shared) => match turn {
            Turn::Rests => return None,
            Turn::Ended(reason) => return Some((reason, shared.activity.streams())),
        },
        reason = over.as_mut() => reason,
    };
    awake.connection.as_mut().graceful_shutdown();
    let finished = tokio::time::timeout(reason.grace(settings), &mut awake).await;
    Some((reason, if finished.is_ok() { 0 } else { shared.activity.streams() }))
}

fn builder(settings: &Settings) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .max_concurrent_streams(settings.streams)
        .max_header_list_size(settings.header_list)
        .initial_stream_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_send_buf_size(settings.send_buffer);
    builder
}

/// Drives one HTTP/2 connection until it closes, or until a rest that was agreed on can begin.
async fn turn<S, Svc, B>(awake: &mut Awake<S, Svc>, shared: &Shared) -> Turn
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Svc: Service<Request<Incoming>, Response = hyper::Response<B>> + Send + 'static,
    Svc::Future: Send + 'static,
    Svc::Error: Into<Box<dyn Error + Send + Sync>> + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let activity = &shared.activity;
    loop {
        tokio::select! {
            biased;
            closed = &mut *awake => return Turn::Ended(closing(closed, activity.streams())),
            () = activity.news.notified() => {}
        }
        if !activity.resting.load(Ordering::SeqCst) || activity.streams() != 0 {
            continue;
        }
        // The answer that agreed is queued by now; one more poll writes it, as far as the peer takes it.
        let polled = std::future::poll_fn(|cx| Poll::Ready(awake.poll_now(cx))).await;
        match polled {
            Poll::Ready(closed) => return Turn::Ended(closing(closed, activity.streams())),
            Poll::Pending if activity.is_quiet() => return Turn::Rests,
            Poll::Pending => {}
        }
    }
}

fn closing(closed: Result<(), hyper::Error>, streams: usize) -> Reason {
    let Err(error) = closed else { return Reason::Closed };
    let source = error.source();
    let io = source.and_then(|source| match source.downcast_ref::<h2::Error>() {
        Some(error) => error.get_io(),
        None => source.downcast_ref(),
    });
    match io {
        // A peer that had nothing open hung up before our own goodbye reached it.
        Some(io) if streams == 0 && is_gone(io) => Reason::Closed,
        _ => Reason::Broken(error.into()),
    }
}
