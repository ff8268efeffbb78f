//! Bodies of answers: whole with its count as a trailer, or server-sent events as the answer grows.
//!
//! ```text
//! data: {chunk}\n\n ..  :c COMPLETION,REASONING\n     a flush: events that are ready, then the count that includes them
//! data: {usage}\n\n     data: [DONE]\n\n              trailer chrysalis-usage: the answer is complete
//! data: {"error": ..}\n\n                             no [DONE], no trailer: it broke off
//! ```
//! When nobody reads any more the body is dropped, the ticket with it, and the engine forgets the request.

use crate::api::engine_fault;
use crate::desk::Ticket;
use crate::reply::Reply;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue};
use daemon::fault::Fault;
use hyper::body::{Body, Frame};
use protocol::market::{self, Usage, header};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Most bytes of a flush, give or take an event.
const FLUSH: usize = 16 * 1024;

/// A header's value; what is shown here is ASCII.
pub fn value(text: &impl ToString) -> HeaderValue {
    HeaderValue::from_str(&text.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn trailers(usage: Usage) -> HeaderMap {
    HeaderMap::from_iter([(axum::http::HeaderName::from_static(header::USAGE), value(&usage))])
}

/// An answer that is there as a whole, and its count.
pub struct Whole {
    bytes: Option<Bytes>,
    usage: Option<Usage>,
}

impl Whole {
    /// Of these bytes and this count.
    pub fn new(bytes: Vec<u8>, usage: Usage) -> Self {
        Whole { bytes: Some(bytes.into()), usage: Some(usage) }
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.bytes.take().map(Frame::data);
        let frame = data.or_else(|| self.usage.take().map(|usage| Frame::trailers(trailers(usage))));
        Poll::Ready(frame.map(Ok))
    }
}

/// An answer as it grows.
pub struct Stream {
    ticket: Option<Ticket>,
    reply: Reply,
    usage: bool,
    trailers: Option<HeaderMap>,
}

impl Stream {
    /// Of a request that has started; `usage`: whether a chunk tells it.
    pub fn new(ticket: Ticket, reply: Reply, usage: bool) -> Self {
        Stream { ticket: Some(ticket), reply, usage, trailers: None }
    }

    /// Everything that is ready, up to a flush's size. Nothing is left to wait for when it is done.
    fn collect(&mut self, cx: &mut Context<'_>) -> String {
        let mut out = String::new();
        while out.len() < FLUSH
            && let Some(ticket) = &mut self.ticket
        {
            let event = match ticket.events.poll_recv(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(event)) => event,
                Poll::Ready(None) => {
                    self.ticket = None;
                    error(&mut out, crate::api::broke_down());
                    break;
                }
            };
            match self.reply.take(event) {
                Ok(Some(growth)) => data(&mut out, self.reply.chunk(growth)),
                Ok(None) => {}
                Err(failed) => {
                    self.ticket = None;
                    error(&mut out, engine_fault(failed));
                    break;
                }
            }
            if self.reply.is_finished() {
                self.finish(&mut out);
            }
        }
        if self.ticket.is_some() && !out.is_empty() {
            out.push_str(&self.reply.written().comment());
        }
        out
    }

    fn finish(&mut self, out: &mut String) {
        self.ticket = None;
        let written = self.reply.written();
        if self.usage {
            data(out, self.reply.last_chunk());
        }
        out.push_str(&written.comment());
        out.push_str("data: [DONE]\n\n");
        self.trailers = Some(trailers(Usage::of(self.reply.read(), written)));
    }
}

fn data(out: &mut String, json: serde_json::Result<String>) {
    // Strings and finite numbers: there is nothing that JSON can't say.
    if let Ok(json) = json {
        out.push_str("data: ");
        out.push_str(&json);
        out.push_str("\n\n");
    }
}

fn error(out: &mut String, fault: Fault) {
    data(out, serde_json::to_string(&fault.body()));
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let flush = self.collect(cx);
        if !flush.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(flush.into()))));
        }
        if self.ticket.is_some() {
            return Poll::Pending;
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

/// `chrysalis-tokens` and `chrysalis-load` for the head of an answer.
pub fn head(read: market::Read, load: market::Load) -> [(&'static str, HeaderValue); 2] {
    [(header::TOKENS, value(&read)), (header::LOAD, value(&load))]
}
