//! The byte stream of a session, lent to one HTTP/2 connection after the other.
//!
//! ```text
//! Wire --lend--> Lease (an HTTP/2 connection reads and writes) --drop--> Wire, at rest --lend--> Lease ...
//! ```
//! A rest is agreed on while no stream is open and nothing is left to be written, so each HTTP/2 connection begins at
//! the byte after the last one's. Were it otherwise, the next connection preface (RFC 9113 section 3.4) would not be found
//! where it must be, and the connection would break.

use crate::ChannelStream;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
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
    /// Told when a stream comes or ends, and when the last byte was flushed while a rest is agreed on.
    pub(super) news: Notify,
}

impl Activity {
    /// One more stream, until the token is dropped.
    pub(super) fn hold(self: &Arc<Self>) -> Held {
        self.streams.fetch_add(1, Ordering::SeqCst);
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
        self.0.streams.fetch_sub(1, Ordering::SeqCst);
        self.0.news.notify_one();
    }
}

/// The stream, while nobody has it. In a box, since it is lent and given back, and each place it can be at would have room
/// for it.
type Place<S> = Mutex<Option<Box<ChannelStream<S>>>>;

/// Lends the stream.
#[derive(Debug)]
pub(super) struct Wire<S> {
    place: Arc<Place<S>>,
    activity: Arc<Activity>,
}

impl<S> Wire<S> {
    pub(super) fn new(stream: ChannelStream<S>, activity: Arc<Activity>) -> Self {
        Wire { place: Arc::new(Mutex::new(Some(Box::new(stream)))), activity }
    }

    /// The stream; `None` while somebody has it.
    pub(super) fn lend(&self) -> Option<Lease<S>> {
        let stream = self.place.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        self.activity.flushed.store(true, Ordering::SeqCst);
        let (place, activity) = (self.place.clone(), self.activity.clone());
        Some(Lease { stream: Some(stream), first: None, place, activity })
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

/// The stream, with whoever has it; goes back when dropped.
#[derive(Debug)]
pub(super) struct Lease<S> {
    stream: Option<Box<ChannelStream<S>>>,
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

    fn stream(&mut self) -> io::Result<Pin<&mut ChannelStream<S>>> {
        self.stream.as_deref_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn written(&self) {
        self.activity.flushed.store(false, Ordering::SeqCst);
    }
}

impl<S> Drop for Lease<S> {
    fn drop(&mut self) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = self.stream.take();
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
        this.stream()?.poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lease<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.written();
        this.stream()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.written();
        this.stream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_deref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = this.stream()?.poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) && !this.activity.flushed.swap(true, Ordering::SeqCst) {
            // Only whoever waits for a rest needs to know.
            if this.activity.resting.load(Ordering::SeqCst) {
                this.activity.news.notify_one();
            }
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_shutdown(cx)
    }
}
