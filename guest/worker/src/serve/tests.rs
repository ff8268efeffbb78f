//! The bounds in time of one attested connection, on a clock that jumps.

#[path = "../../../ratls/tests/support/mod.rs"]
mod support;

use super::*;
use crate::{Models, router};
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use support::{connect, world};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// An attested connection without a network, the verifier's end and the task that talks on the other.
async fn attested() -> (ChannelStream<DuplexStream>, JoinHandle<()>, watch::Sender<bool>) {
    let world = world();
    let (near, far) = duplex(1 << 20);
    let (acceptor, verifier) = (world.acceptor(), world.verifier());
    let (accepted, connected) = tokio::join!(acceptor.accept(far), connect(near, &verifier));
    let (stop, mut stopping) = watch::channel(false);
    let stream = accepted.unwrap().into_parts().2;
    let models = Arc::new(Models::new(vec![], 1));
    let talking = tokio::spawn(async move { talk(stream, router(models), &mut stopping).await });
    (connected.unwrap().into_parts().2, talking, stop)
}

fn healthz() -> Request<Empty<Bytes>> {
    Request::get("/healthz").header("host", "worker").body(Empty::new()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed() {
    let (mut stream, talking, _stop) = attested().await;
    let start = Instant::now();
    // Cut off without a goodbye: nobody waits for it.
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    talking.await.unwrap();
    assert_eq!(start.elapsed().as_secs(), HEADER_DEADLINE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_header_that_trickles_is_cut_at_the_deadline_of_the_whole() {
    let (mut stream, talking, _stop) = attested().await;
    let start = Instant::now();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: worker\r\n").await.unwrap();
    while !talking.is_finished() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _ = stream.write_all(b"x: y\r\n").await;
        let _ = stream.flush().await;
    }
    assert!(start.elapsed().as_secs().abs_diff(HEADER_DEADLINE.as_secs()) <= 2, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_header_over_its_bound_is_refused() {
    let (mut stream, talking, _stop) = attested().await;
    let long = format!("GET /healthz HTTP/1.1\r\nx: {}\r\n", "y".repeat(MAX_HEADER));
    stream.write_all(long.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", answer.escape_ascii());
    talking.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_busy_connection_closes_at_its_greatest_age() {
    let (stream, talking, _stop) = attested().await;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let start = Instant::now();
    while requests.ready().await.is_ok() && requests.send_request(healthz()).await.is_ok() {
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    talking.await.unwrap();
    assert!(start.elapsed().abs_diff(MAX_AGE).as_secs() <= 30, "{:?}", start.elapsed());
}
