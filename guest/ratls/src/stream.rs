//! The stream that exists only behind the exchange; it can't be built outside this crate.

use crate::error::{ChannelError, Step};
use protocol::channel::{Control, MAX_CONTROL};
use rustls::NamedGroup;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::TlsStream;

/// Application bytes, at either end of a channel.
#[derive(Debug)]
pub struct ChannelStream<S = TcpStream> {
    tls: TlsStream<S>,
    /// At an attested initiator, until its first read: whether the responder accepts its evidence.
    verdict: Option<Box<Verdict>>,
}

/// A frame under way that is either `Accepted` or `Refuse`.
#[derive(Debug)]
struct Verdict {
    bytes: [u8; 4 + MAX_CONTROL],
    have: usize,
    deadline: Pin<Box<Sleep>>,
}

impl<S> ChannelStream<S> {
    pub(crate) fn new(tls: TlsStream<S>) -> Self {
        ChannelStream { tls, verdict: None }
    }

    /// One whose first bytes are the responder's verdict. To wait for it before anything is sent would cost a round trip.
    pub(crate) fn awaiting_verdict(tls: TlsStream<S>) -> Self {
        let deadline = Box::pin(tokio::time::sleep(Step::Verdict.deadline()));
        let verdict = Verdict { bytes: [0; 4 + MAX_CONTROL], have: 0, deadline };
        ChannelStream { tls, verdict: Some(Box::new(verdict)) }
    }

    /// The key exchange group that was negotiated.
    pub fn key_exchange(&self) -> Option<NamedGroup> {
        self.tls.get_ref().1.negotiated_key_exchange_group().map(|group| group.name())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ChannelStream<S> {
    /// Waits until the responder has accepted this end's evidence; at once where it has, or where none was shown.
    pub async fn accepted(&mut self) -> Result<(), ChannelError> {
        poll_fn(|cx| self.poll_verdict(cx)).await
    }

    fn poll_verdict(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        let Some(verdict) = &mut self.verdict else { return Poll::Ready(Ok(())) };
        let control = ready!(verdict.poll(&mut self.tls, cx))?;
        match control {
            Control::Accepted => {
                self.verdict = None;
                Poll::Ready(Ok(()))
            }
            Control::Refuse(reason) => {
                Poll::Ready(Err(ChannelError::Refused { step: Step::Verdict, reason }))
            }
            Control::Retry { .. } => Poll::Ready(Err(ChannelError::Unexpected {
                step: Step::Verdict,
                expected: "a verdict",
                found: "a demand for work",
            })),
        }
    }
}

impl Verdict {
    fn poll<S>(&mut self, tls: &mut TlsStream<S>, cx: &mut Context<'_>) -> Poll<Result<Control, ChannelError>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let step = Step::Verdict;
        loop {
            let need = self.need()?;
            if self.have == need && need > 4 {
                let control = Control::from_bytes(&self.bytes[4..need]);
                return Poll::Ready(control.map_err(|source| ChannelError::Malformed { step, source }));
            }
            let mut buffer = ReadBuf::new(&mut self.bytes[self.have..need]);
            match Pin::new(&mut *tls).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(ChannelError::from_io(step, self.have, error)));
                }
                Poll::Pending => {
                    ready!(self.deadline.as_mut().poll(cx));
                    return Poll::Ready(Err(ChannelError::Deadline { step }));
                }
            }
            match buffer.filled().len() {
                0 => return Poll::Ready(Err(ChannelError::Closed { step, received: self.have })),
                more => self.have += more,
            }
        }
    }

    /// Bytes wanted by now: those of the length, then those of the frame.
    fn need(&self) -> Result<usize, ChannelError> {
        if self.have < 4 {
            return Ok(4);
        }
        let claimed = self.bytes[..4].iter().fold(0_usize, |len, byte| len << 8 | usize::from(*byte));
        match claimed {
            1..=MAX_CONTROL => Ok(4 + claimed),
            _ => Err(ChannelError::Oversized { step: Step::Verdict, claimed, max: MAX_CONTROL }),
        }
    }
}

/// How a verdict that is none reaches those who only read and write.
fn to_io(error: ChannelError) -> io::Error {
    let kind = match &error {
        ChannelError::Refused { .. } => io::ErrorKind::PermissionDenied,
        ChannelError::Deadline { .. } => io::ErrorKind::TimedOut,
        ChannelError::Closed { .. } => io::ErrorKind::UnexpectedEof,
        _ => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ChannelStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.verdict.is_some() {
            ready!(this.poll_verdict(cx)).map_err(to_io)?;
        }
        Pin::new(&mut this.tls).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ChannelStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_shutdown(cx)
    }
}
