//! An answer on its way out: what of it was handed over is owed.
//!
//! ```text
//! data frames --> counts of `:c` comments        trailer chrysalis-usage: delivered, exactly
//! dropped before its end: cancelled, by the last count        ended without the trailer: failed, nothing is owed
//! ```

use super::Job;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use hyper::body::{Frame, SizeHint};
use protocol::market::{CountReader, Read, Usage, header};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A body that is counted.
pub(super) struct Metered {
    body: Body,
    /// Until it is settled.
    job: Option<Job>,
    read: Option<Read>,
    counts: CountReader,
}

impl Metered {
    /// The answer to `job`, with the head that goes before it.
    pub(super) fn new(body: Body, head: &HeaderMap, job: Job) -> Self {
        Metered { body, job: Some(job), read: parsed(head, header::TOKENS), counts: CountReader::default() }
    }

    fn passed(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.counts.pass(data);
        }
        let usage = frame.trailers_ref().and_then(|trailers| parsed::<Usage>(trailers, header::USAGE));
        if let Some(usage) = usage
            && let Some(job) = self.job.take()
        {
            job.delivered(usage);
        }
    }
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.passed(frame),
            // It ended, or broke, without saying what it took.
            Poll::Ready(None | Some(Err(_))) => drop(self.job.take()),
            Poll::Pending => {}
        }
        polled
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    // Never at its end before its trailers were taken, whatever the inner body says.
    fn is_end_stream(&self) -> bool {
        self.job.is_none() && self.body.is_end_stream()
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        if let (Some(job), Some(read), Some(written)) = (self.job.take(), self.read, self.counts.last()) {
            job.cancelled(Usage::of(read, written));
        }
    }
}

fn parsed<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
