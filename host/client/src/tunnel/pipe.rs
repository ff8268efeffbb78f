//! One TCP connection as two bodies: what is read from it leaves as a body, what arrives as a body is written to it.

use super::StreamError;
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame};
use rustix::net::Shutdown;
use std::error::Error;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Bytes read from TCP at one time.
const CHUNK: usize = 16 * 1024;

/// A body that is read from TCP only as fast as it is taken.
pub(super) struct Outgoing {
    tcp: Arc<TcpStream>,
    buffer: Box<[u8]>,
    ended: bool,
    /// Dropped with the body: nobody reads from here any more.
    _done: Option<oneshot::Sender<()>>,
}

impl Outgoing {
    pub(super) fn new(tcp: Arc<TcpStream>) -> Self {
        Outgoing { tcp, buffer: vec![0; CHUNK].into(), ended: false, _done: None }
    }

    /// With a receiver that errs once the body is gone.
    pub(super) fn watched(tcp: Arc<TcpStream>) -> (Self, oneshot::Receiver<()>) {
        let (done, gone) = oneshot::channel();
        (Outgoing { _done: Some(done), ..Self::new(tcp) }, gone)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        while !this.ended {
            ready!(this.tcp.poll_read_ready(cx))?;
            match this.tcp.try_read(&mut this.buffer) {
                Ok(0) => this.ended = true,
                Ok(read) => {
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&this.buffer[..read])))));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        Poll::Ready(None)
    }
}

/// Writes a body to TCP, and its end as the end of that direction. A body that is cut breaks the TCP connection off.
pub(super) async fn incoming<B>(body: B, tcp: &TcpStream) -> Result<(), StreamError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut body = pin!(body);
    let written = async {
        while let Some(frame) = body.as_mut().frame().await {
            let frame = frame.map_err(|error| StreamError::Cut(error.into()))?;
            let Ok(data) = frame.into_data() else { continue };
            write(tcp, &data).await.map_err(StreamError::Local)?;
        }
        Ok(())
    };
    let written = written.await;
    match &written {
        // A connection that its other side has closed already needs no end.
        Ok(()) => drop(rustix::net::shutdown(tcp, Shutdown::Write)),
        Err(_) => break_off(tcp),
    }
    written
}

/// From now on closing it sends a reset, which no program takes for an end.
pub(super) fn break_off(tcp: &TcpStream) {
    // Fails on a connection that is gone already.
    let _ = tcp.set_zero_linger();
}

async fn write(tcp: &TcpStream, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        tcp.writable().await?;
        match tcp.try_write(data) {
            Ok(written) => data = &data[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
