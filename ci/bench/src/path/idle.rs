//! Heap that the proxy keeps of a thousand clients who ask nothing.

use super::ours::Ours;
use crate::channel::counting::Counted;
use crate::channel::memory::{CONNECTIONS, LIMIT, SETTLED, WARM, many_files};
use crate::report::{Limit, Number, Unit};
use anyhow::{Result, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use ratls::session::Requests;
use std::time::Duration;
use tokio::runtime::Builder;

/// At rest, and within the first half a minute.
pub fn measure() -> Result<Vec<Number>> {
    many_files()?;
    let rests = kept(Duration::from_millis(50), true)?;
    let awake = kept(Duration::from_secs(3_600), false)?;
    let covers =
        |how| format!("heap of the proxy by client, mean of {CONNECTIONS}, after one request each, {how}");
    Ok(vec![
        Number::new("idle client of the proxy", Unit::Kibibytes, &[rests])
            .limit(Limit::AtMost(LIMIT))
            .covers(covers("at rest: no HTTP/2 until the next request")),
        Number::new("awake client of the proxy", Unit::Kibibytes, &[awake])
            .covers(covers("within the first 30 s: with HTTP/2")),
    ])
}

/// KiB for each.
fn kept(rest: Duration, at_rest: bool) -> Result<f64> {
    let mut threads = Builder::new_multi_thread();
    let threads =
        threads.worker_threads(1).enable_all().on_thread_start(|| Counted::Server.here()).build()?;
    let clients = Builder::new_current_thread().enable_all().build()?;
    clients.block_on(async {
        let ours = Ours::start(threads.handle(), None).await?;
        let (mut kept, mut before) = (Vec::with_capacity(WARM + CONNECTIONS), 0);
        for made in 0..WARM + CONNECTIONS {
            if made == WARM {
                settled(&kept, at_rest).await;
                before = Counted::Server.bytes();
            }
            let requests = ours.dial(rest).await?;
            let answer = requests.send(Request::get("/healthz").body(Empty::<Bytes>::new())?).await?;
            ensure!(answer.status() == 200, "/healthz was answered with {}", answer.status());
            answer.into_body().collect().await?;
            kept.push(requests);
        }
        settled(&kept, at_rest).await;
        Ok((Counted::Server.bytes() - before) as f64 / CONNECTIONS as f64 / 1_024.0)
    })
}

async fn settled(kept: &[Requests], at_rest: bool) {
    while !kept.iter().all(|requests| requests.is_at_rest() == at_rest) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(SETTLED).await;
}
