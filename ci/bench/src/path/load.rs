//! Whoever asks: some connections with some requests at one time on each, one after the other.

use super::origin::{Kind, age};
use super::paid::Payer;
use anyhow::{Context, Result, ensure};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2::SendRequest;
use hyper::{Request, Response};
use ratls::session::Requests;
use std::time::Duration;
use tokio::task::JoinSet;

/// Connections to each proxy.
pub const CONNECTIONS: usize = 8;
const BODY: &str =
    r#"{"model":"m","stream":true,"input":"a text of some length, as a person would write it, to be read"}"#;

/// One connection to whatever is measured; clones share it.
#[derive(Clone)]
pub enum Line {
    /// An attested session.
    Attested(Requests),
    /// The same, and paid for.
    Paid(Requests, Payer),
    /// HTTP/2 on plain TLS.
    Plain(SendRequest<Full<Bytes>>),
}

type Heard = Response<UnsyncBoxBody<Bytes, anyhow::Error>>;

impl Line {
    async fn ask(&mut self, kind: Kind) -> Result<Heard> {
        let request = Request::post(format!("https://proxy.invalid{}", kind.path()));
        let mut request = request.header("content-type", "application/json");
        if let Line::Paid(_, payer) = self {
            request = payer.sign(request, BODY.as_bytes());
        }
        let request = request.body(Full::from(BODY))?;
        Ok(match self {
            Line::Attested(requests) | Line::Paid(requests, _) => {
                requests.send(request).await?.map(|body| body.map_err(Into::into).boxed_unsync())
            }
            Line::Plain(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?.map(|body| body.map_err(Into::into).boxed_unsync())
            }
        })
    }

    /// One request to the end of its answer; the ages of chunks go to `ages`.
    pub async fn whole(&mut self, kind: Kind, ages: &mut Vec<Duration>) -> Result<()> {
        let (head, mut body) = self.ask(kind).await?.into_parts();
        ensure!(head.status == 200, "{} was answered with {}", kind.path(), head.status);
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                length += data.len();
                if kind == Kind::Paced {
                    ages.extend(age(&data));
                }
            }
        }
        let expected = kind.length();
        ensure!(length == expected, "{}: {length} bytes came, expected {expected}", kind.path());
        Ok(())
    }
}

/// A load.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// What is asked for.
    pub kind: Kind,
    /// Requests of one sample.
    pub requests: usize,
    /// Of them at one time, over all connections.
    pub at_once: usize,
}

/// Has all requests answered; ages of the chunks of paced streams.
pub async fn run(lines: &[Line], load: Load) -> Result<Vec<Duration>> {
    let mut tasks = JoinSet::new();
    for n in 0..load.at_once {
        let mut line = lines.get(n % lines.len().max(1)).context("no connection")?.clone();
        if let Line::Paid(_, payer) = &mut line {
            payer.vault = n as u8;
        }
        tasks.spawn(async move {
            let mut ages = Vec::new();
            for _ in 0..load.requests / load.at_once {
                line.whole(load.kind, &mut ages).await?;
            }
            anyhow::Ok(ages)
        });
    }
    let mut ages = Vec::new();
    while let Some(done) = tasks.join_next().await {
        ages.extend(done??);
    }
    Ok(ages)
}
