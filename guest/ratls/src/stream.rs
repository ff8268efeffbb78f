//! Streams that exist only behind the exchange; neither can be built outside this crate.

use rustls::NamedGroup;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The attester's end: the peer holds evidence over this connection.
#[derive(Debug)]
pub struct AttestedServerStream<S = TcpStream>(pub(crate) tokio_rustls::server::TlsStream<S>);

/// The verifier's end: the peer's evidence over this connection was appraised.
#[derive(Debug)]
pub struct AttestedClientStream<S = TcpStream>(pub(crate) tokio_rustls::client::TlsStream<S>);

impl<S> AttestedServerStream<S> {
    /// The key exchange group that was negotiated.
    pub fn key_exchange(&self) -> Option<NamedGroup> {
        self.0.get_ref().1.negotiated_key_exchange_group().map(|group| group.name())
    }
}

impl<S> AttestedClientStream<S> {
    /// The key exchange group that was negotiated.
    pub fn key_exchange(&self) -> Option<NamedGroup> {
        self.0.get_ref().1.negotiated_key_exchange_group().map(|group| group.name())
    }
}

/// Passes reads and writes through to the TLS stream inside.
macro_rules! delegate {
    ($stream:ident) => {
        impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for $stream<S> {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
            }
        }

        impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for $stream<S> {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.get_mut().0).poll_flush(cx)
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
            }
        }
    };
}

delegate!(AttestedServerStream);
delegate!(AttestedClientStream);
