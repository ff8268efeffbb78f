//! Bodies: of responses as they arrive, of requests as they leave, each counted as under way until its end.

use super::wire::Held;
use h2::{Reason, RecvStream, SendStream};
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use tokio::task::JoinHandle;

/// A body of at most so many bytes may be handed to HTTP/2 before the peer takes it.
const SHORT: u64 = 16 * 1024;

/// Bytes that were read before the peer is told that it may send as many again: less than a window, more than a frame.
const TOLD: usize = 32 * 1024;

/// A response's body. Dropped before its end it cancels the request.
#[derive(Debug)]
pub struct Body {
    stream: RecvStream,
    /// Bytes that were read since the peer was told.
    read: usize,
    _sending: Option<Aborted>,
    _held: Held,
}

impl Body {
    /// `sending` is what still sends the request's body.
    pub(super) fn new(stream: RecvStream, sending: Option<Aborted>, held: Held) -> Self {
        Body { stream, read: 0, _sending: sending, _held: held }
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
        let Body { stream, read, .. } = self.get_mut();
        if let Some(data) = ready!(stream.poll_data(cx)) {
            let data = data?;
            // What was handed on is the reader's to hold; the peer may send as much again. Of a stream that ends first HTTP/2
            // gives back what is left.
            *read += data.len();
            if *read >= TOLD {
                stream.flow_control().release_capacity(std::mem::take(read))?;
            }
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

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Most bytes of one frame that is put together of shorter ones: what HTTP/2 takes as one without being asked for more.
const FRAME: usize = 16 * 1024;

/// A response's body as it leaves: what is there already leaves in one frame, and it counts as under way until it is dropped.
#[derive(Debug)]
pub struct Counted<B> {
    body: B,
    /// What came after the frame that was put together.
    next: Option<Result<Frame<Bytes>, Failure>>,
    ended: bool,
    _held: Held,
}

impl<B> Counted<B> {
    pub(super) fn new(body: B, held: Held) -> Self {
        Counted { body, next: None, ended: false, _held: held }
    }
}

impl<B: HttpBody<Data = Bytes, Error = Failure> + Unpin> Counted<B> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if let Some(next) = self.next.take() {
            return Poll::Ready(Some(next));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.ended = polled.is_none();
        Poll::Ready(polled)
    }

    /// This and what is ready behind it, as long as it fits.
    fn joined(&mut self, first: Bytes, cx: &mut Context<'_>) -> Bytes {
        let mut whole: Option<Vec<u8>> = None;
        let mut length = first.len();
        while length < FRAME && !self.body.is_end_stream() {
            let Poll::Ready(Some(next)) = self.poll_next(cx) else { break };
            match next.map(Frame::into_data) {
                Ok(Ok(data)) if length + data.len() <= FRAME => {
                    length += data.len();
                    whole
                        .get_or_insert_with(|| {
                            let mut whole = Vec::with_capacity(FRAME);
                            whole.extend_from_slice(&first);
                            whole
                        })
                        .extend_from_slice(&data);
                }
                Ok(Ok(data)) => {
                    self.next = Some(Ok(Frame::data(data)));
                    break;
                }
                Ok(Err(other)) => {
                    self.next = Some(Ok(other));
                    break;
                }
                Err(error) => {
                    self.next = Some(Err(error));
                    break;
                }
            }
        }
        whole.map_or(first, Bytes::from)
    }
}

impl<B: HttpBody<Data = Bytes, Error = Failure> + Unpin> HttpBody for Counted<B> {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = self.get_mut();
        let frame = match ready!(this.poll_next(cx)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(data) => Frame::data(this.joined(data, cx)),
            Err(other) => other,
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none() && (self.ended || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.next {
            None => self.body.size_hint(),
            Some(_) => SizeHint::default(),
        }
    }
}

/// Sends a short body that is there already, so that it leaves with its head; what is left to be sent, if anything is.
pub(super) fn send_small<B>(body: B, to: &mut SendStream<Bytes>) -> Option<Pin<Box<B>>>
where
    B: HttpBody<Data = Bytes>,
{
    let short = body.size_hint().exact().is_some_and(|length| length <= SHORT);
    let mut body = Box::pin(body);
    if !short {
        return Some(body);
    }
    // Whoever takes the rest polls again, so nobody needs to be woken.
    match body.as_mut().poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Ok(frame))) => {
            let Ok(data) = frame.into_data() else { return Some(body) };
            let ends = body.is_end_stream();
            // It fails only where the peer has reset the stream, which the response tells as well.
            let _ = to.send_data(data, ends);
            (!ends).then_some(body)
        }
        Poll::Ready(Some(Err(_))) => {
            to.send_reset(Reason::CANCEL);
            None
        }
        Poll::Ready(None) => {
            let _ = to.send_data(Bytes::new(), true);
            None
        }
        Poll::Pending => Some(body),
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

#[cfg(test)]
mod tests {
    use super::super::wire::Activity;
    use super::*;
    use hyper::HeaderMap;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::sync::Arc;

    /// What a body gives at each poll.
    #[derive(Debug, Clone)]
    enum Part {
        Data(usize),
        Later,
        Trailers,
        Fails,
    }

    struct Tape(VecDeque<Part>);

    impl HttpBody for Tape {
        type Data = Bytes;
        type Error = Failure;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
            match self.0.pop_front() {
                Some(Part::Data(length)) => Poll::Ready(Some(Ok(Frame::data(vec![b'x'; length].into())))),
                Some(Part::Later) => Poll::Pending,
                Some(Part::Trailers) => Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::new())))),
                Some(Part::Fails) => Poll::Ready(Some(Err("broken".into()))),
                None => Poll::Ready(None),
            }
        }
    }

    /// Lengths of the frames, and whether there were trailers and an error at the end.
    fn left(parts: &[Part]) -> (Vec<usize>, bool, bool) {
        let held = Arc::<Activity>::default().hold();
        let mut body = Counted::new(Tape(parts.to_vec().into()), held);
        let (mut frames, mut trailers) = (Vec::new(), false);
        for _ in 0..2 * parts.len() + 2 {
            match Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => frames.push(data.len()),
                    Err(_) => trailers = true,
                },
                Poll::Ready(Some(Err(_))) => return (frames, trailers, true),
                Poll::Ready(None) => return (frames, trailers, false),
                Poll::Pending => {}
            }
        }
        panic!("no end after {frames:?}");
    }

    #[test]
    fn what_is_ready_leaves_in_one_frame_and_nothing_waits_for_more() {
        use Part::{Data, Fails, Later, Trailers};
        assert_eq!(left(&[Data(3), Data(4), Later, Data(5), Trailers]), (vec![7, 5], true, false));
        assert_eq!(left(&[Data(10_000), Data(6_384), Data(1)]), (vec![FRAME, 1], false, false));
        assert_eq!(left(&[Data(10_000), Data(6_385), Data(1)]), (vec![10_000, 6_386], false, false));
        assert_eq!(left(&[Data(1), Data(2), Fails, Data(9)]), (vec![3], false, true));
        assert_eq!(left(&[Data(100_000), Data(1)]), (vec![100_000, 1], false, false));
        assert_eq!(left(&[]), (vec![], false, false));
    }

    fn part() -> impl Strategy<Value = Part> {
        prop_oneof![
            4 => (0usize..20_000).prop_map(Part::Data),
            4 => (0usize..300).prop_map(Part::Data),
            2 => Just(Part::Later),
        ]
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_however_it_comes(parts in prop::collection::vec(part(), 0..60), trailers: bool) {
            let data = |part: &Part| if let Part::Data(length) = part { *length } else { 0 };
            let all: usize = parts.iter().map(data).sum();
            let ended: Vec<Part> = parts.into_iter().chain(trailers.then_some(Part::Trailers)).collect();
            let (frames, told, failed) = left(&ended);
            prop_assert_eq!((frames.iter().sum::<usize>(), told, failed), (all, trailers, false));
        }
    }
}
