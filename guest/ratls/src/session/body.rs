//! Bodies: of responses as they arrive, of requests as they leave, each counted as under way until its end.

use super::wire::Held;
use h2::{Reason, RecvStream, SendStream};
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::task::JoinHandle;

/// A response's body. Dropped before its end it cancels the request.
#[derive(Debug)]
pub struct Body {
    stream: RecvStream,
    _sending: Option<Aborted>,
    _held: Held,
}

impl Body {
    /// `sending` is what still sends the request's body.
    pub(super) fn new(stream: RecvStream, sending: Option<Aborted>, held: Held) -> Self {
        Body { stream, _sending: sending, _held: held }
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(super) struct Aborted(pub(super) JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let stream = &mut self.get_mut().stream;
        if let Some(data) = ready!(stream.poll_data(cx)) {
            let data = data?;
            // What was handed on is the reader's to hold; the peer may send as much again.
            stream.flow_control().release_capacity(data.len())?;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let trailers = ready!(stream.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A body that counts as under way until it is dropped.
#[derive(Debug)]
pub struct Counted<B> {
    body: B,
    _held: Held,
}

impl<B> Counted<B> {
    pub(super) fn new(body: B, held: Held) -> Self {
        Counted { body, _held: held }
    }
}

impl<B: HttpBody + Unpin> HttpBody for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Sends a request's body as fast as the peer takes it, and holds the stream until then. A body that fails resets the
/// stream; a peer that resets it ends the sending.
pub(super) async fn send<B>(body: B, mut to: SendStream<Bytes>, _held: Held)
where
    B: HttpBody<Data = Bytes>,
{
    let mut body = pin!(body);
    loop {
        let frame = tokio::select! {
            frame = poll_fn(|cx| body.as_mut().poll_frame(cx)) => frame,
            _ = poll_fn(|cx| to.poll_reset(cx)) => return,
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return to.send_reset(Reason::CANCEL),
            None => break,
        };
        // Trailers of requests are none of ours.
        let Ok(data) = frame.into_data() else { continue };
        if send_data(&mut to, data).await.is_none() {
            return;
        }
    }
    let _ = to.send_data(Bytes::new(), true);
}

/// `None` if the peer takes no more.
async fn send_data(to: &mut SendStream<Bytes>, mut data: Bytes) -> Option<()> {
    while !data.is_empty() {
        to.reserve_capacity(data.len());
        let window = poll_fn(|cx| to.poll_capacity(cx)).await?.ok()?;
        to.send_data(data.split_to(window.min(data.len())), false).ok()?;
    }
    Some(())
}
