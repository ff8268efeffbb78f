//! The byte stream of a session, lent to one HTTP/2 connection after the other.
//!
//! ```text
//! Wire --lend--> Lease (an HTTP/2 connection reads and writes) --drop--> Wire, at rest --lend--> Lease ...
//!                  \-- what it writes is gathered, and leaves after each poll (Gathering)
//! ```
//! A rest is agreed on while no stream is open and nothing is left to be written, so each HTTP/2 connection begins at
//! the byte after the last one's. Were it otherwise, the next connection preface (RFC 9113 section 3.4) would not be found
//! where it must be, and the connection would break.

use crate::ChannelStream;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::Notify;

/// What goes on in a session, counted.
#[derive(Debug, Default)]
pub(super) struct Activity {
    streams: AtomicUsize,
    /// Whether all that was written was flushed.
    flushed: AtomicBool,
    /// Whether the ends have agreed to rest.
    pub(super) resting: AtomicBool,
    /// Told when the first stream comes and when the last one ends, and when the last byte was flushed while a rest is agreed
    /// on. Not for each stream: whoever is told looks at the whole connection.
    pub(super) news: Notify,
}

impl Activity {
    /// One more stream, until the token is dropped.
    pub(super) fn hold(self: &Arc<Self>) -> Held {
        if self.streams.fetch_add(1, Ordering::SeqCst) == 0 {
            self.news.notify_one();
        }
        Held(self.clone())
    }

    /// Streams under way.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::SeqCst)
    }

    /// Whether nothing waits to be written.
    pub(super) fn is_flushed(&self) -> bool {
        self.flushed.load(Ordering::SeqCst)
    }

    /// Everything that was written has left.
    fn wrote(&self) {
        self.flushed.store(true, Ordering::SeqCst);
        // Only whoever waits for a rest needs to know.
        if self.resting.load(Ordering::SeqCst) {
            self.news.notify_one();
        }
    }

    /// The same, and nothing is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.streams() == 0 && self.is_flushed()
    }
}

/// A stream that is under way.
#[derive(Debug)]
pub(super) struct Held(Arc<Activity>);

impl Drop for Held {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.news.notify_one();
        }
    }
}

/// Bytes that are gathered before they are written: two of the longest frames, with what goes around them. To copy one costs
/// less than a record and a system call of its own.
const GATHERED: usize = 33 * 1024;

/// The stream and what is to be written to it. In a box, so that only a pointer is lent and given back.
#[derive(Debug)]
struct Line<S> {
    stream: ChannelStream<S>,
    lent: bool,
    /// What was gathered, and how much of it is written.
    gathered: Vec<u8>,
    written: usize,
    /// Why it can't be written to any more; told to whoever reads.
    failed: Option<io::ErrorKind>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    /// Hands what was gathered to TLS, in one piece as far as it is taken.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            let rest = &self.gathered[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                more => self.written += more,
            }
        }
        // Given back: a connection without traffic keeps no room for it.
        (self.gathered, self.written) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Takes some of these bytes, at least one if it is ready.
    fn poll_take(&mut self, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if self.gathered.len() + length > GATHERED {
            ready!(self.poll_drain(cx))?;
        }
        if length > GATHERED {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        }
        self.gathered.reserve(length);
        bufs.iter().for_each(|buf| self.gathered.extend_from_slice(buf));
        Poll::Ready(Ok(length))
    }
}

type Place<S> = Mutex<Box<Line<S>>>;

fn lock<S>(place: &Place<S>) -> MutexGuard<'_, Box<Line<S>>> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lends the stream.
#[derive(Debug)]
pub(super) struct Wire<S> {
    place: Arc<Place<S>>,
    activity: Arc<Activity>,
}

impl<S> Wire<S> {
    pub(super) fn new(stream: ChannelStream<S>, activity: Arc<Activity>) -> Self {
        let line = Line { stream, lent: false, gathered: Vec::new(), written: 0, failed: None };
        Wire { place: Arc::new(Mutex::new(Box::new(line))), activity }
    }

    /// The stream; `None` while somebody has it.
    pub(super) fn lend(&self) -> Option<Lease<S>> {
        if std::mem::replace(&mut lock(&self.place).lent, true) {
            return None;
        }
        self.activity.flushed.store(true, Ordering::SeqCst);
        let (place, activity) = (self.place.clone(), self.activity.clone());
        Some(Lease { first: None, place, activity })
    }

    /// A connection over the lease of this stream, driven so that what it writes is gathered.
    pub(super) fn gathering<C>(&self, connection: Pin<Box<C>>) -> Gathering<C, S> {
        let (place, activity) = (self.place.clone(), self.activity.clone());
        Gathering { connection, place, activity, waited: false }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Says goodbye, if the stream is here.
    pub(super) async fn close(&self) {
        if let Some(mut lease) = self.lend() {
            let _ = tokio::time::timeout(std::time::Duration::from_secs(1), lease.shutdown()).await;
        }
    }
}

/// Drives an HTTP/2 connection, and writes once it has no more to say.
///
/// HTTP/2 flushes after each longer frame, which would cost a TLS record and a system call each. So its flushes count as
/// done while it is polled, and all it wrote leaves after the poll. Before it leaves, other tasks that are ready go first,
/// once: the streams that one read has woken say what they have to say, and leave together.
pub(super) struct Gathering<C, S> {
    pub(super) connection: Pin<Box<C>>,
    place: Arc<Place<S>>,
    activity: Arc<Activity>,
    /// Whether the others were let go first.
    waited: bool,
}

impl<C: Future, S: AsyncRead + AsyncWrite + Unpin> Gathering<C, S> {
    /// Polls and writes, without letting others go first.
    pub(super) fn poll_now(&mut self, cx: &mut Context<'_>) -> Poll<C::Output> {
        let polled = self.connection.as_mut().poll(cx);
        if polled.is_pending() && !self.activity.is_flushed() {
            self.waited = false;
            self.write(cx);
        }
        polled
    }

    fn write(&self, cx: &mut Context<'_>) {
        let mut line = lock(&self.place);
        match line.poll_flush(cx) {
            Poll::Ready(Ok(())) => self.activity.wrote(),
            // The connection hears of it at its next read.
            Poll::Ready(Err(error)) => {
                line.failed = Some(error.kind());
                cx.waker().wake_by_ref();
            }
            Poll::Pending => {}
        }
    }
}

impl<C: Future, S: AsyncRead + AsyncWrite + Unpin> Future for Gathering<C, S> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = self.get_mut();
        if this.waited {
            return this.poll_now(cx);
        }
        let polled = this.connection.as_mut().poll(cx);
        if polled.is_pending() && !this.activity.is_flushed() {
            this.waited = true;
            cx.waker().wake_by_ref();
        }
        polled
    }
}

/// The stream, with whoever has it; goes back when dropped.
#[derive(Debug)]
pub(super) struct Lease<S> {
    /// A byte that was read to learn that the peer is awake.
    first: Option<u8>,
    place: Arc<Place<S>>,
    activity: Arc<Activity>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lease<S> {
    /// Waits for the peer's next byte, which is read again by the next reader. `false` if the peer is gone. Cancel safe.
    pub(super) async fn hears(&mut self) -> io::Result<bool> {
        let mut byte = [0];
        let heard = self.read(&mut byte).await? == 1;
        self.first = heard.then_some(byte[0]);
        Ok(heard)
    }
}

impl<S> Drop for Lease<S> {
    fn drop(&mut self) {
        lock(&self.place).lent = false;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Lease<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(byte) = this.first.filter(|_| buf.remaining() > 0) {
            this.first = None;
            buf.put_slice(&[byte]);
            return Poll::Ready(Ok(()));
        }
        let mut line = lock(&this.place);
        if let Some(failed) = line.failed {
            return Poll::Ready(Err(failed.into()));
        }
        Pin::new(&mut line.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lease<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.activity.flushed.store(false, Ordering::SeqCst);
        lock(&self.place).poll_take(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Whoever drives the connection writes what it gathered ([`Gathering`]).
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut line = lock(&self.place);
        ready!(line.poll_flush(cx))?;
        Pin::new(&mut line.stream).poll_shutdown(cx)
    }
}
